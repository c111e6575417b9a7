// Runs the processor of player.js without a browser: node ring.mjs player.js RING HOP. Prints what it did.
import { pathToFileURL } from "node:url";

const [, , file, ring, hop] = process.argv;
const [ringSamples, hopSamples] = [Number(ring), Number(hop)];
const QUANTUM = 128;

let Processor;
globalThis.AudioWorkletProcessor = class {
  port = { postMessage: (message) => posted(message) };
};
globalThis.registerProcessor = (name, processor) => (Processor = processor);
await import(pathToFileURL(file));

let state = 1;
const random = () => (state = (state * 48271) % 2147483647) / 2147483647;

const inbox = []; // hops on their way: [quantum at which they arrive, samples]
const asked = []; // for each hop: sample at which it was asked for
const arrived = []; // and came
let sent = 0;
let now = 0;
let last = 0;
let stats = null;

function posted({ need = 0, stats: told }) {
  stats = told ?? stats;
  for (; need > 0; need--) {
    const samples = Float32Array.from({ length: hopSamples }, () => ++sent); // 1, 2, 3 ...
    const late = random() < 0.02 ? 40 * random() : 6 * random(); // in quanta
    last = Math.max(last, now + 1 + Math.floor(late)); // in order
    inbox.push([last, samples]);
    asked.push(now * QUANTUM);
  }
}

const node = new Processor({ processorOptions: { ring: ringSamples, hop: hopSamples } });
const hear = (data) => node.port.onmessage({ data });
hear({ start: true });
const tape = [];
for (; now < 4000; now++) {
  while (inbox.length && inbox[0][0] <= now) {
    arrived.push(now * QUANTUM);
    hear({ samples: inbox.shift()[1] });
  }
  const out = new Float32Array(QUANTUM);
  node.process([], [[out]]);
  tape.push(...out);
}
const final = { ...node.stats };
hear({ end: true });
const rest = [];
for (let i = 0; i < 100; i++) {
  const out = new Float32Array(QUANTUM);
  node.process([], [[out]]);
  rest.push(...out.filter((sample) => sample));
}
console.log(JSON.stringify({ tape, rest, asked, arrived, stats: final, told: stats, after: node.stats }));
