// Frames of a microphone: magnitudes of its samples, one for each hop.

import { HOP, N_BINS, N_FFT } from "./score.js";
import { Tape } from "./tape.js";

const MOST_WAITING = 4; // largest number of waiting frames; if there are more, the oldest are dropped
const WINDOW = Float64Array.from({ length: N_FFT }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / N_FFT));

export class Microphone {
  async start(context) {
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    this.media = await navigator.mediaDevices.getUserMedia({ audio });
    this.samples = new Float32Array(N_FFT);
    this.frames = [];
    this.n = 0;
    this.tape = await Tape.of(context.createMediaStreamSource(this.media), (block) => this.hear(block));
  }

  hear(block) {
    this.samples.copyWithin(0, block.length);
    this.samples.set(block, N_FFT - block.length);
    this.n += block.length;
    if (this.n < HOP) return;
    this.n -= HOP;
    this.frames.push(magnitudesOf(this.samples.map((sample, n) => sample * WINDOW[n])));
    if (this.frames.length > MOST_WAITING) this.frames.shift();
  }

  /** Returns the next frame, or null if there is none. */
  next() {
    return this.frames?.shift() ?? null;
  }

  stop() {
    this.tape?.stop();
    this.media?.getTracks().forEach((track) => track.stop());
    this.tape = this.media = this.frames = null;
  }
}

/** Returns the magnitudes of the Fourier transform of samples, whose number is a power of two. */
export function magnitudesOf(samples) {
  const n = samples.length;
  const re = new Float64Array(n);
  const im = new Float64Array(n);
  for (let i = 0, j = 0; i < n; i++) {
    re[j] = samples[i];
    let bit = n >> 1; // j counts with reversed bits
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
  }
  for (let half = 1; half < n; half *= 2) {
    for (let k = 0; k < half; k++) {
      const c = Math.cos((Math.PI * k) / half);
      const s = -Math.sin((Math.PI * k) / half);
      for (let i = k; i < n; i += 2 * half) {
        const j = i + half;
        const x = re[j] * c - im[j] * s;
        const y = re[j] * s + im[j] * c;
        [re[j], im[j]] = [re[i] - x, im[i] - y];
        [re[i], im[i]] = [re[i] + x, im[i] + y];
      }
    }
  }
  return Float32Array.from({ length: N_BINS }, (_, k) => Math.hypot(re[k], im[k]));
}
