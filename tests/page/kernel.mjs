// node kernel.mjs FOLDER_OF_THE_PAGE PLAN FRAMES HOPS: pushes float32 frames, then flushes; prints facts in JSON.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [, , folder, plan, frames, hops] = process.argv;
const { Kernel } = await import(new URL("kernel.js", pathToFileURL(`${folder}/`)));

const bytesOf = (file) => Uint8Array.from(readFileSync(file)).buffer;
const module = new WebAssembly.Module(readFileSync(`${folder}/push.wasm`));
const kernel = new Kernel(module, bytesOf(plan));
const values = new Float32Array(bytesOf(frames));
const made = [];
for (let at = 0; at < values.length; at += kernel.nFreq) {
  made.push(kernel.push(values.subarray(at, at + kernel.nFreq)).slice());
}
for (let owed = kernel.nFlush; owed > 0; owed -= kernel.hop) made.push(kernel.push(null).slice(0, owed));
writeFileSync(hops, Buffer.concat(made.map((hop) => Buffer.from(hop.buffer))));

const complaint = (act) => {
  try {
    act();
    return "";
  } catch (error) {
    return error.message;
  }
};
kernel.reset();
const again = kernel.push(values.subarray(0, kernel.nFreq)).every((sample, i) => sample === made[0][i]);
console.log(JSON.stringify({
  imports: WebAssembly.Module.imports(module).length,
  again,
  negative: complaint(() => kernel.push(values.map((value) => -1 - value).subarray(0, kernel.nFreq))),
  cut: complaint(() => new Kernel(module, bytesOf(plan).slice(0, 200))),
  sizes: [kernel.hop, kernel.nFreq, kernel.latency, kernel.nFlush, kernel.nIter],
}));
