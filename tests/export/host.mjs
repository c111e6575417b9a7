// Runs a push in onnxruntime-web: node host.mjs STEP.onnx FRAMES WIDTH; frames and hops are files of float32.
import { readFile, writeFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";

const [path, frames, hops, width] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(await readFile(path), { executionProviders: ["wasm"] });
const [input, ...states] = session.inputNames;
const shapes = Object.fromEntries(session.inputMetadata.map(({ name, shape }) => [name, [1, ...shape.slice(1)]]));
const zeros = (shape) => new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b)), shape);
let state = Object.fromEntries(states.map((name) => [name, zeros(shapes[name])]));
const bytes = await readFile(frames);
const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
const heard = [], times = [];
for (let at = 0; at < values.length; at += Number(width)) {
  const frame = new ort.Tensor("float32", values.slice(at, at + Number(width)), [1, Number(width)]);
  const begin = performance.now();
  const results = await session.run({ [input]: frame, ...state });
  times.push(performance.now() - begin);
  heard.push(...results.hop.data);
  state = Object.fromEntries(states.map((name) => [name, results[name.replace("state_", "next_")]]));
}
await writeFile(hops, new Float32Array(heard));
console.log(JSON.stringify({ least_ms: Math.min(...times), median_ms: times.sort((a, b) => a - b)[times.length >> 1] }));
