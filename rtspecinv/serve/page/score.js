// The painting: ink[column, bin] is the amplitude of a sine at that frequency and time; 1 is full scale.

export const N_FFT = 1024;
export const HOP = 256;
export const RATE = 22050; // Hz
export const N_BINS = N_FFT / 2 + 1;
export const N_COLUMNS = 512; // 5.9 s
export const MAGNITUDE = N_FFT / 4; // magnitude of a sine of amplitude 1 in an STFT with a Hann window
const LOWEST = 50; // Hz, at the lower edge
const HIGHEST = RATE / 2;

/** Frequency in Hz at a height from 0, the upper edge, to 1. */
export const frequencyAt = (y) => HIGHEST * (LOWEST / HIGHEST) ** y;
export const heightOf = (frequency) => Math.log(frequency / HIGHEST) / Math.log(LOWEST / HIGHEST);
export const binOf = (frequency) => (frequency * N_FFT) / RATE;

export class Score {
  constructor() {
    this.ink = new Float32Array(N_COLUMNS * N_BINS);
    this.isDirty = new Uint8Array(N_COLUMNS).fill(1); // columns to draw again
  }

  /** Returns a column of the ink for writing. */
  column(index) {
    this.isDirty[index] = 1;
    return this.ink.subarray(index * N_BINS, (index + 1) * N_BINS);
  }

  /** Returns the frame at a position, a mixture of two columns between them, as `transforms.Stretch`; it wraps around. */
  read(position, frame) {
    const index = Math.floor(position);
    const a = position - index;
    const first = index * N_BINS;
    const second = ((index + 1) % N_COLUMNS) * N_BINS;
    for (let k = 0; k < N_BINS; k++) frame[k] = (1 - a) * this.ink[first + k] + a * this.ink[second + k];
  }

  clear() {
    this.ink.fill(0);
    this.isDirty.fill(1);
  }
}
