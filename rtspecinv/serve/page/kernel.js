// One stream of the C kernel, rtspecinv/kernel/push.c, compiled to push.wasm. It runs wherever WebAssembly does: in a
// page, in an AudioWorklet, in Node. player.js finds it in the global scope of the AudioWorklet.

const ERRORS = [
  "", "The plan is not whole", "The plan is of another version", "n_fft is not a power of two from 32 to 32768",
  "A size in the plan is out of range", "The rule is not supported", "The start is not supported",
  "A magnitude is negative, not a number or too large", "n_iter is negative",
];
const WORD = 4; // bytes
const PAGE = 65536; // bytes
const [N_FFT, HOP, LATENCY, N_FLUSH, N_ITER] = [3, 4, 5, 6, 7]; // places in a plan, see push.h

export class Kernel {
  /** module: WebAssembly.Module of push.wasm. plan: ArrayBuffer with the bytes of `rtspecinv.kernel_plan`. */
  constructor(module, plan) {
    const { exports } = new WebAssembly.Instance(module);
    this.exports = exports;
    const begin = Math.ceil(exports.__heap_base / 16) * 16;
    const bytes = Math.ceil(plan.byteLength / 16) * 16;
    reach(exports.memory, begin + bytes);
    new Uint8Array(exports.memory.buffer, begin).set(new Uint8Array(plan));
    fail(exports.rtspecinv_check(begin, plan.byteLength));
    const header = new Int32Array(plan, 0, N_ITER + 1);
    Object.assign(this, {
      hop: header[HOP], nFreq: header[N_FFT] / 2 + 1, latency: header[LATENCY], nFlush: header[N_FLUSH],
      nIter: header[N_ITER], plan: begin, state: begin + bytes,
    });
    this.work = this.state + WORD * exports.rtspecinv_state_floats(begin);
    const frame = this.work + WORD * exports.rtspecinv_work_floats(begin);
    const samples = frame + WORD * this.nFreq;
    reach(exports.memory, samples + WORD * this.hop);
    this.frame = new Float32Array(exports.memory.buffer, frame, this.nFreq);
    this.samples = new Float32Array(exports.memory.buffer, samples, this.hop);
    this.reset();
  }

  /** Returns the hop of a frame of magnitudes, or of null after the last one. The next push overwrites the hop. */
  push(frame) {
    if (frame) this.frame.set(frame);
    const { plan, state, work, nIter, samples } = this;
    const at = frame ? this.frame.byteOffset : 0;
    fail(this.exports.rtspecinv_push(plan, state, work, at, nIter, samples.byteOffset));
    return samples;
  }

  /** Begin a new stream. */
  reset() {
    this.exports.rtspecinv_reset(this.plan, this.state);
  }
}

function fail(error) {
  if (error) throw new Error(ERRORS[error]);
}

function reach(memory, bytes) {
  const missing = bytes - memory.buffer.byteLength;
  if (missing > 0) memory.grow(Math.ceil(missing / PAGE));
}

if (globalThis.AudioWorkletProcessor) globalThis.Kernel = Kernel;
