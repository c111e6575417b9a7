// Times pushes of the kernel as WebAssembly, for wasm.py: node wasm.mjs BATCHES PUSHES PLAN [CHROMIUM URL]
// Prints the milliseconds of a push, one for each batch, in JSON; in Chromium, if an address of the page is given.

import { readFileSync } from "node:fs";

const [, , batches, pushes, plan, chromium, url] = process.argv;
const folder = new URL("../rtspecinv/serve/page/", import.meta.url);
const bytesOf = (file) => Uint8Array.from(readFileSync(file));

/** Runs in Node and in the page. */
async function measure({ address, wasm, plan, batches, pushes }) {
  const { Kernel } = await import(address);
  const kernel = new Kernel(await WebAssembly.compile(Uint8Array.from(wasm)), Uint8Array.from(plan).buffer);
  const frames = Array.from({ length: 16 }, () => Float32Array.from({ length: kernel.nFreq }, () => 20 * Math.random()));
  const times = [];
  for (let batch = -50; batch < batches; batch++) {
    const begin = performance.now();
    for (let i = 0; i < pushes; i++) kernel.push(frames[i % frames.length]);
    if (batch >= 0) times.push((performance.now() - begin) / pushes);
  }
  return times;
}

const given = {
  wasm: [...bytesOf(new URL("push.wasm", folder))], plan: [...bytesOf(plan)],
  batches: Number(batches), pushes: Number(pushes),
};
if (url) {
  const { launch } = await import("../tests/page/browser.mjs");
  const browser = await launch(chromium);
  try {
    const page = await browser.newPage();
    await page.goto(url);
    console.log(JSON.stringify(await page.evaluate(measure, { ...given, address: "/kernel.js" })));
  } finally {
    await browser.close();
  }
} else {
  console.log(JSON.stringify(await measure({ ...given, address: new URL("kernel.js", folder).href })));
}
