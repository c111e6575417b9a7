// The page: connects the painting, the playback and the display.

import { Pen, SIZES } from "./brushes.js";
import { Microphone } from "./microphone.js";
import { frequencyOfNote, listen, obey } from "./midi.js";
import { LocalStream } from "./local.js";
import { paintPicture } from "./picture.js";
import { Ring } from "./player.js";
import { frequencyAt, HOP, MAGNITUDE, N_BINS, N_COLUMNS, N_FFT, RATE, Score } from "./score.js";
import { Stream } from "./socket.js";
import { Tape, wavOf } from "./tape.js";
import { Freeze, Pitch, Smear } from "./transforms.js";
import { Meters, ScoreView } from "./view.js";

const element = (id) => document.getElementById(id);
const ms = (samples) => (1000 * samples) / RATE;
const HELLO = { n_fft: N_FFT, hop_length: HOP, sample_rate: RATE, n_iter: 8, format: "f32" };

/** State of the page; tests read it. */
export const app = {
  score: new Score(),
  settings: { brush: "line", size: 12, amplitude: 0.25 },
  playhead: 0, // columns
  rate: 1, // columns a hop
  freeze: new Freeze(),
  pitch: new Pitch(),
  smear: new Smear(),
  pens: new Map(), // pens by pointer, or "keyboard"; the playhead follows the last one
  notes: new Map(), // pens of MIDI notes, which are at the playhead
  microphone: new Microphone(),
  stream: null,
  context: null,
  ring: null,
};

// Frames, which the clock of the sound card requests.

const frame = new Float64Array(N_BINS);

function nextFrame() {
  const { score, pens, notes, freeze, pitch, smear } = app;
  const leader = [...pens.values()].at(-1);
  if (leader) app.playhead = leader.column;
  for (const pen of pens.values()) pen.stamp();
  const now = Math.floor(app.playhead);
  for (const pen of notes.values()) pen.stamp(now);
  const heard = app.microphone.next();
  if (heard) score.column(now).set(heard.map((magnitude) => magnitude / MAGNITUDE));
  score.read(app.playhead, frame);
  if (!leader) app.playhead = (app.playhead + app.rate + N_COLUMNS) % N_COLUMNS;
  return smear.apply(pitch.apply(freeze.apply(frame)));
}

function send(k) {
  const frames = new Float32Array(k * N_BINS);
  for (let i = 0; i < k; i++) frames.set(nextFrame().map((value) => value * MAGNITUDE), i * N_BINS);
  app.stream.push(frames);
}

// Starting and stopping: browsers allow sound only after a click or a key press.

let starting = null;

/** Start playback if it has not started; resolves when there is an audio graph. */
function start() {
  if (!app.stream) starting = begin();
  return starting;
}

async function begin() {
  const isLocal = element("where").value === "local";
  const hello = { ...HELLO, look_ahead: Number(element("look-ahead").value) };
  const stream = (app.stream = new (isLocal ? LocalStream : Stream)(hello, {
    onready: () => app.ring.start(Number(element("ring").value)),
    onhop: (samples) => app.ring.push(samples),
    onframes: (frames) => app.ring.invert(frames),
    onstate: showState,
  }));
  showStart(true);
  try {
    app.context ??= await prepare();
    app.context.resume();
    const kernel = isLocal ? await stream.load() : null;
    const ring = await Ring.in(app.context, { ring: Number(element("ring").value), hop: HOP, kernel });
    if (app.stream !== stream) return ring.close();
    app.ring?.close();
    app.ring = ring;
    ring.node.connect(app.volume);
    ring.onneed = send;
    stream.open(kernel);
  } catch (error) {
    if (app.stream !== stream) return;
    app.stream = null;
    showStart(false);
    showState("lost", `There is no sound: ${error.message}`);
  }
}

async function prepare() {
  const context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
  await context.audioWorklet.addModule(new URL("kernel.js", import.meta.url));
  app.volume = new GainNode(context, { gain: volume() });
  const analyser = new AnalyserNode(context);
  app.volume.connect(context.destination);
  app.volume.connect(analyser);
  app.meters = new Meters(element("spectrum"), analyser);
  return context;
}

async function stop() {
  await starting;
  app.stream?.close();
  app.stream = null;
  app.ring?.end();
  showStart(false);
  await app.context?.suspend();
}

function showStart(isOn) {
  element("start").textContent = isOn ? "Stop" : "Start";
  element("start").setAttribute("aria-pressed", isOn);
}

function restart() {
  if (!app.stream) return;
  stop().then(start);
}

function showState(state, sentence) {
  if (state === "lost") app.ring?.end();
  element("status").dataset.state = state;
  element("status").textContent = sentence;
}

// Painting with pointers, and with keys.

const canvas = element("score");
const view = new ScoreView(canvas, app.score);

function pressureOf(event) {
  return event.pointerType === "pen" ? event.pressure : 1;
}

function move(pen, event) {
  const { column, y } = view.placeOf(event);
  pen.moveTo(column, y, pressureOf(event));
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button > 0) return;
  start();
  canvas.setPointerCapture(event.pointerId);
  const pen = new Pen(app.score, app.settings);
  app.pens.set(event.pointerId, pen);
  move(pen, event);
});

canvas.addEventListener("pointermove", (event) => {
  const pen = app.pens.get(event.pointerId);
  if (!pen) return;
  const all = event.getCoalescedEvents?.() ?? [];
  for (const each of all.length ? all : [event]) move(pen, each);
});

for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
  canvas.addEventListener(name, (event) => app.pens.delete(event.pointerId));
}
canvas.addEventListener("pointerup", () => app.stream && app.context?.resume()); // after a touch, browsers allow sound

const cursor = { column: 64, y: 0.5 };
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const SEMITONE = Math.log(2 ** (1 / 12)) / Math.log(frequencyAt(0) / frequencyAt(1));

canvas.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (!step && event.key !== " ") return;
  event.preventDefault();
  if (step) {
    const far = event.shiftKey ? [16, 12] : [2, 1];
    cursor.column = (cursor.column + step[0] * far[0] + N_COLUMNS) % N_COLUMNS;
    cursor.y = Math.max(0, Math.min(1, cursor.y + step[1] * far[1] * SEMITONE));
    element("cursor").textContent =
      `Cursor: ${Math.round(frequencyAt(cursor.y))} Hz at ${(ms(cursor.column * HOP) / 1000).toFixed(2)} s`;
  } else if (!event.repeat) {
    start();
    app.pens.set("keyboard", new Pen(app.score, app.settings));
  }
  app.pens.get("keyboard")?.moveTo(cursor.column, cursor.y, 1);
});

canvas.addEventListener("keyup", ({ key }) => key === " " && app.pens.delete("keyboard"));
canvas.addEventListener("blur", () => app.pens.delete("keyboard"));

// Controls.

const volume = () => 10 ** (Number(element("volume").value) / 20);

/** Call `set` with the value of a slider, now and when it moves, and show the text that it returns. */
function slide(id, set) {
  const input = element(id);
  const update = () => (element(`${id}-value`).textContent = set(Number(input.value)));
  input.addEventListener("input", update);
  update();
  return (value) => {
    input.value = value;
    update();
  };
}

const signed = (value, digits = 0) => `${value > 0 ? "+" : ""}${value.toFixed(digits)}`;

slide("size", (size) => {
  app.settings.size = size;
  const unit = SIZES[app.settings.brush];
  return unit ? `${size} ${unit}` : "–";
});
slide("amplitude", (db) => {
  app.settings.amplitude = 10 ** (db / 20);
  return `${db} dB`;
});
slide("stretch", (rate) => {
  app.rate = rate;
  return rate === 0 ? "stands still" : `${signed(rate, 2)} ×`;
});
const setPitch = slide("pitch", (semitones) => {
  app.pitch.ratio = 2 ** (semitones / 12);
  return `${signed(semitones, 1)} st`;
});
const setSmear = slide("smear", (amount) => {
  app.smear.amount = amount;
  return amount.toFixed(2);
});
slide("volume", (db) => {
  if (app.volume) app.volume.gain.value = volume();
  return `${db} dB`;
});

for (const radio of document.querySelectorAll("input[name=brush]")) {
  radio.addEventListener("change", () => {
    app.settings.brush = radio.value;
    element("size").disabled = !SIZES[radio.value];
    element("size").dispatchEvent(new Event("input"));
  });
}

/** Make a button switch between on and off; `set` may be asynchronous, and throws if it fails. */
function toggle(id, set) {
  const button = element(id);
  button.addEventListener("click", async () => {
    const isOn = button.getAttribute("aria-pressed") !== "true";
    try {
      await set(isOn);
      button.setAttribute("aria-pressed", isOn);
    } catch (error) {
      say(error.message);
    }
  });
}

const say = (sentence) => (element("said").textContent = sentence);

element("start").addEventListener("click", () => (app.stream ? stop() : start()));
element("clear").addEventListener("click", () => app.score.clear());
element("ring").addEventListener("change", restart);
element("look-ahead").addEventListener("change", restart);
element("where").addEventListener("change", restart);
toggle("freeze", (isOn) => (app.freeze.on = isOn));

toggle("microphone", async (isOn) => {
  if (!isOn) return app.microphone.stop();
  await start();
  try {
    await app.microphone.start(app.context);
    say("The microphone paints at the playhead. Wear headphones.");
  } catch (error) {
    app.microphone.stop();
    throw new Error(`No microphone: ${error.message}`);
  }
});

const handlers = {
  onnote(number, velocity) {
    app.notes.delete(number);
    if (!velocity) return;
    const pen = new Pen(app.score, app.settings);
    Object.assign(pen, { frequency: frequencyOfNote(number), pressure: velocity });
    app.notes.set(number, pen);
  },
  onsmear: setSmear,
  onpitch: setPitch,
};

/** Carry out a MIDI message as if a keyboard had sent it. */
export const midi = (bytes) => obey(bytes, handlers);

element("midi").addEventListener("click", async () => {
  try {
    start();
    const n = await listen(handlers);
    element("midi").setAttribute("aria-pressed", "true");
    say(`MIDI inputs: ${n}. Notes paint at the playhead, the modulation wheel smears.`);
  } catch (error) {
    say(`No MIDI: ${error.message}`);
  }
});

// Recording.

let tape = null;
let blocks = [];

toggle("record", async (isOn) => {
  if (isOn) {
    await start();
    blocks = [];
    tape = await Tape.of(app.volume, (samples) => blocks.push(samples));
    return say("Recording");
  }
  tape.stop();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(wavOf(blocks, RATE));
  link.download = "painted.wav";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say(`Recorded ${(ms(blocks.length * 128) / 1000).toFixed(1)} s: painted.wav`);
});

// Pictures.

async function paint(file) {
  try {
    await paintPicture(app.score, file);
    say(`Painted ${file.name}`);
  } catch {
    say(`${file.name} is not a picture that this browser reads`);
  }
}

element("picture").addEventListener("change", ({ target }) => {
  if (target.files.length) paint(target.files[0]);
  target.value = "";
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) paint(file);
});

// Display.

/** Delay from the brush to the output, ms: half a hop until the frame is requested, ring, inverter, output. */
export function delays() {
  const { context, stream } = app;
  const output = 1000 * ((context?.baseLatency ?? 0) + (context?.outputLatency ?? 0));
  const inverter = ms(stream?.ready?.latency ?? 0);
  const ring = ms(Number(element("ring").value) + HOP / 2);
  return { ring, inverter, output, all: ring + inverter + output };
}

function show() {
  const { all, ring, inverter, output } = delays();
  element("latency").textContent = app.stream?.ready
    ? `${all.toFixed(0)} ms = ring ${ring.toFixed(0)} + inverter ${inverter.toFixed(0)} + output ${output.toFixed(0)}`
    : "–";
  if (!app.ring) return;
  const { gaps, silent, trip, longest } = app.ring.stats;
  element("underflows").textContent = `${gaps} (${ms(silent).toFixed(0)} ms)`;
  element("trip").textContent = `${trip.toFixed(0)} ms, longest ${longest.toFixed(0)} ms`;
}

let drawn = 0; // ms

function draw(now) {
  requestAnimationFrame(draw);
  if (now - drawn < 30) return; // drawing more often would delay the sound
  drawn = now;
  const cursorShown = document.activeElement === canvas && canvas.matches(":focus-visible") ? cursor : null;
  view.draw({ playhead: app.playhead, pens: app.pens.values(), cursor: cursorShown });
  if (app.meters) {
    const peak = app.meters.draw();
    element("level").value = Math.max(-60, peak);
    element("level-value").textContent = peak > -60 ? `${peak.toFixed(0)} dB` : "silence";
  }
}

requestAnimationFrame(draw);
setInterval(show, 250);
