// Drives the page in Chromium, for test_page.py, which speaks with it by lines: node drive.mjs CHROMIUM URL OUT SECONDS
// Prints what was found in JSON, as the last line, and writes samples (float32) into the folder OUT.

import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { Kernel } from "../../rtspecinv/serve/page/kernel.js";
import { launch, placeOf, state } from "./browser.mjs";

const [, , executablePath, url, out, seconds] = process.argv;
const LIMIT = 60; // seconds beyond those of the tape
const HEIGHTS = [0.3, 0.4, 0.35]; // of the strokes of each page; the last one inverts by itself
const PUSH = new URL("../../rtspecinv/serve/page/push.wasm", import.meta.url);
const STROKES = [400, 340, 280, 220, 160]; // columns
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Ask test_page.py to do something, and wait until it has. */
async function ask(what) {
  console.log(what);
  await lines.next();
}

/** A page in a window of its own, and all that it says, asks for and gets. */
async function open(browser) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  const seen = { page, hops: [], complaints: [], requests: [] };
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) seen.complaints.push(message.text());
  });
  page.on("pageerror", (error) => seen.complaints.push(error.message));
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("websocket", (socket) => {
    seen.requests.push(socket.url());
    socket.on("framereceived", ({ payload }) => typeof payload !== "string" && seen.hops.push(payload));
  });
  await page.goto(url);
  await page.evaluate(async () => {
    const { LocalStream } = await import("/local.js");
    const { push } = LocalStream.prototype;
    globalThis.frames = []; // that were inverted in the page
    LocalStream.prototype.push = function (frames) {
      globalThis.frames.push(frames.slice());
      push.call(this, frames);
    };
    globalThis.downs = []; // when the pen went down
    document.getElementById("score").addEventListener("pointerdown", ({ timeStamp }) => downs.push(timeStamp));
  });
  return seen;
}

/** Record all that the ring plays, by a worklet behind it. */
async function startTape(page) {
  await page.click("#start");
  await state(page, "ready");
  await page.evaluate(async () => {
    const { app } = await import("/page.js");
    const { Tape } = await import("/tape.js");
    globalThis.blocks = [];
    globalThis.tape = await Tape.of(app.ring.node, (samples, frame) => blocks.push([samples, frame]));
  });
}

/** What was recorded, with the frames of the audio clock at which blocks begin, and times to compare. */
async function endTape(page, name) {
  await page.evaluate(() => tape.stop());
  await page.waitForTimeout(600); // until hops that are late, and the last counts, are there
  const { samples, ...facts } = await page.evaluate(async () => {
    const { app, delays } = await import("/page.js");
    const bytes = new Uint8Array(await new Blob(blocks.map(([each]) => each)).arrayBuffer());
    let text = "";
    for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    const { contextTime, performanceTime } = app.context.getOutputTimestamp();
    return {
      samples: btoa(text), frames: blocks.map(([, frame]) => frame), stats: app.ring.stats, delays: delays(),
      downs, contextTime, performanceTime, rate: app.context.sampleRate,
      ring: Number(document.getElementById("ring").value),
    };
  });
  writeFileSync(`${out}/tape-${name}.f32`, Buffer.from(samples, "base64"));
  return facts;
}

async function down(page, column, y) {
  await page.mouse.move(...(await placeOf(page, column, y)));
  await page.mouse.down();
}

/** What the kernel makes, here, of the frames of a page, and of the plan that the page got. */
async function invertAgain({ page }) {
  const { frames, plan } = await page.evaluate(async () => {
    const { app } = await import("/page.js");
    const plan = [...new Uint8Array(app.stream.kernel.plan)];
    return { frames: globalThis.frames.flatMap((each) => [...each]), plan };
  });
  const kernel = new Kernel(new WebAssembly.Module(readFileSync(PUSH)), Uint8Array.from(plan).buffer);
  const hops = [];
  for (let at = 0; at < frames.length; at += kernel.nFreq) {
    hops.push(Buffer.from(kernel.push(frames.slice(at, at + kernel.nFreq)).slice().buffer));
  }
  return hops;
}

/** Short strokes with silence between them; then a wave of harmonics all over the score. */
async function paint({ page }, height) {
  for (const column of STROKES) {
    await down(page, column, height);
    await page.waitForTimeout(180);
    await page.mouse.up();
    await page.waitForTimeout(200);
  }
  await page.click("input[value=harmonics]");
  await down(page, 4, 0.7);
  for (let column = 4; column < 508; column += 12) {
    await page.mouse.move(...(await placeOf(page, column, 0.7 + 0.15 * Math.sin(column / 40))));
  }
  await page.mouse.up();
}

const inPage = (page, text) => page.evaluate(`(async () => {
  const { app, midi } = await import("/page.js");
  const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const until = async (holds) => { for (let i = 0; i < 200 && !holds(); i++) await wait(25); return holds(); };
  const energy = () => app.score.ink.reduce((sum, value) => sum + value * value, 0);
  ${text}
})()`);

/** What else the page has, each once. */
async function tryTheRest({ page }) {
  const found = {};
  await page.click("#clear");
  await page.click("input[value=line]");
  await page.locator("#score").focus();
  for (let i = 0; i < 3; i++) await page.keyboard.press("Shift+ArrowRight");
  await page.keyboard.down(" ");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.up(" ");
  found.keys = await inPage(page, "const columns = new Set(); app.score.ink.forEach((v, i) => v && columns.add(Math.floor(i / 513))); return [...columns]");
  found.cursor = await page.textContent("#cursor");

  await page.click("#clear");
  const [x, y] = await placeOf(page, 100, 0.5);
  const cdp = await page.context().newCDPSession(page);
  const pen = { x, y, button: "left", clickCount: 1, pointerType: "pen" };
  await cdp.send("Input.dispatchMouseEvent", { ...pen, type: "mousePressed", force: 0.5 });
  await cdp.send("Input.dispatchMouseEvent", { ...pen, type: "mouseReleased" });
  found.pen = await inPage(page, "return app.score.ink.reduce((most, value) => Math.max(most, value)) / app.settings.amplitude");

  await page.click("#freeze");
  found.freeze = await inPage(page, "return app.freeze.on");
  await page.click("#freeze");

  await page.click("#clear");
  found.midi = await inPage(page, `
    midi([0x90, 69, 127]);
    await until(() => energy() > 0);
    midi([0xb0, 1, 127]); midi([0xe0, 0, 96]); midi([0x80, 69, 0]);
    const column = app.score.ink.findIndex((value) => value > 0);
    const start = column - column % 513;
    const ink = [...app.score.ink.slice(start, start + 513)];
    const result = { bin: ink.indexOf(Math.max(...ink)), smear: app.smear.amount, ratio: app.pitch.ratio, notes: app.notes.size };
    midi([0xb0, 1, 0]); midi([0xe0, 0, 64]);
    return result`);

  await page.click("#clear");
  await page.click("#microphone");
  found.microphone = await inPage(page, "return until(() => energy() > 1e-4)");
  await page.click("#microphone");

  await page.click("#clear");
  await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(64, 64);
    const context = canvas.getContext("2d");
    context.fillRect(0, 0, 64, 64);
    context.fillStyle = "#fff";
    context.fillRect(16, 0, 16, 64);
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([await canvas.convertToBlob()], "bar.png", { type: "image/png" }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
  });
  found.picture = await inPage(page, `
    await until(() => energy() > 0);
    const columns = new Set(); app.score.ink.forEach((v, i) => v && columns.add(Math.floor(i / 513)));
    return [Math.min(...columns), Math.max(...columns), columns.size]`);

  await page.fill("#stretch", "0"); // it stands still, on the picture
  await inPage(page, "app.playhead = 150");
  await page.click("#record");
  await page.waitForTimeout(500);
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#record")]);
  await download.saveAs(`${out}/painted.wav`);
  found.name = download.suggestedFilename();
  return found;
}

/** The one-file player, with a stream of 16 bits: frames are sent at once, hops played as they are. */
async function tryPlayer({ page }) {
  const stream = `${url.replace("http", "ws")}stream`;
  return page.evaluate(async ({ stream }) => {
    const { play } = await import("/player.js");
    const { Tape } = await import("/tape.js");
    const hello = { n_fft: 64, hop_length: 16, sample_rate: 8000, n_iter: 2, format: "s16" };
    let isReady = false;
    const onmessage = (text) => (isReady = JSON.parse(text).type === "ready");
    const player = await play(stream, { hello, sampleRate: 8000, ring: 0.05, onmessage });
    const heard = [];
    const tape = await Tape.of(player.ring.node, (samples) => heard.push(...samples));
    const sent = [];
    player.socket.addEventListener("message", ({ data }) => {
      if (typeof data !== "string") sent.push(...new Int16Array(data));
    });
    const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    for (let i = 0; i < 200 && !isReady; i++) await wait(20);
    player.socket.send(new Float32Array(100 * 33).map(() => Math.random()));
    for (let i = 0; i < 200 && sent.length < 1600; i++) await wait(20);
    await wait(500);
    tape.stop();
    await player.stop();
    return { sent, heard: heard.map((sample) => sample * 32768), stats: player.ring.stats };
  }, { stream });
}

setTimeout(() => {
  console.error(`It took more than ${LIMIT + Number(seconds)} s`);
  process.exit(1);
}, 1000 * (LIMIT + Number(seconds))).unref();

const browser = await launch(executablePath);
try {
  const pages = await Promise.all(HEIGHTS.map(() => open(browser)));
  const [first, second, local] = pages;
  await local.page.selectOption("#where", "local");
  for (const { page } of pages) await startTape(page);
  const began = Date.now();
  await Promise.all(pages.map((each, i) => paint(each, HEIGHTS[i])));
  await first.page.waitForTimeout(Math.max(0, 1000 * seconds + 1000 - (Date.now() - began)));
  const tapes = await Promise.all(pages.map(({ page }, i) => endTape(page, i)));
  local.hops = await invertAgain(local);
  pages.forEach(({ hops }, i) => writeFileSync(`${out}/hops-${i}.f32`, Buffer.concat(hops)));
  const complaints = pages.flatMap((seen) => seen.complaints);
  const nRequests = local.requests.length;

  await ask("kill");
  await state(first.page, "lost");
  const lost = await first.page.textContent("#status");
  const alone = {
    plays: await inPage(local.page, "const { played } = app.ring.stats; return until(() => app.ring.stats.played > played + 11025)"),
    status: await local.page.textContent("#status"),
    requests: local.requests.slice(nRequests).concat(local.requests.filter((each) => each.startsWith("ws"))),
  };
  await local.page.selectOption("#look-ahead", "3"); // its constants are not there yet
  await state(local.page, "lost");
  alone.lacks = await local.page.textContent("#status");
  alone.button = await local.page.textContent("#start");
  await ask("serve");
  await local.page.selectOption("#where", "server");
  await local.page.click("#start");
  await local.page.waitForFunction(() => document.getElementById("status").textContent.startsWith("Connected"));
  for (const { page } of pages) await state(page, "ready");
  const again = await inPage(first.page, "const { played } = app.ring.stats; return until(() => app.ring.stats.played !== played && app.ring.stats.played > 0)");
  await local.page.close();

  const rest = await tryTheRest(second);
  const player = await tryPlayer(second);
  const requests = [...new Set(pages.flatMap((seen) => seen.requests))];
  console.log(JSON.stringify({ heights: HEIGHTS, tapes, lost, again, alone, complaints, requests, rest, player }));
} finally {
  await browser.close();
  process.stdin.destroy(); // it would wait for more
}
