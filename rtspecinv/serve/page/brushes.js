// Each brush changes one column of ink: brush(column, frequency in Hz, amplitude, size).

import { binOf, frequencyAt, heightOf, N_BINS, N_COLUMNS } from "./score.js";

const REACH = 2; // bins on either side: the main lobe of a Hann window

/** Main lobe of the spectrum of a Hann window, at a distance in bins; 1 in the middle. */
function lobe(distance) {
  const d = Math.abs(distance);
  if (d < 1e-6) return 1;
  if (Math.abs(d - 1) < 1e-6) return 0.5;
  return Math.abs(Math.sin(Math.PI * d) / (Math.PI * d * (1 - d * d)));
}

function partial(column, frequency, amplitude) {
  const bin = binOf(frequency);
  for (let k = Math.max(0, Math.ceil(bin - REACH)); k <= Math.min(N_BINS - 1, bin + REACH); k++) {
    column[k] = Math.max(column[k], amplitude * lobe(k - bin));
  }
}

/** Bins within `semitones` on either side, at least one. */
function band(frequency, semitones) {
  const ratio = 2 ** (semitones / 12);
  const low = Math.max(0, Math.round(binOf(frequency / ratio)));
  const high = Math.min(N_BINS - 1, Math.max(low, Math.round(binOf(frequency * ratio))));
  return [low, high];
}

export const brushes = {
  line: partial,
  harmonics(column, frequency, amplitude, size) {
    for (let n = 1; n <= size && binOf(n * frequency) < N_BINS; n++) partial(column, n * frequency, amplitude / n);
  },
  noise(column, frequency, amplitude, size) {
    const [low, high] = band(frequency, size / 2);
    const each = amplitude / Math.sqrt(high - low + 1);
    for (let k = low; k <= high; k++) column[k] = each * Math.sqrt(-2 * Math.log(1 - Math.random())); // Rayleigh
  },
  erase(column, frequency, amplitude, size, pressure = 1) {
    const [low, high] = band(frequency, size / 2);
    for (let k = low; k <= high; k++) column[k] *= 1 - pressure;
  },
};

/** Meaning of `size` for a brush; "" if the brush has no size. */
export const SIZES = { line: "", harmonics: "partials", noise: "semitones", erase: "semitones" };

/** A pen that is down: its position and its pressure. */
export class Pen {
  constructor(score, settings) {
    Object.assign(this, { score, settings }); // settings: brush, size, amplitude; read at each stamp
    this.column = null;
  }

  /** Move to a column and a height, 0 to 1 from above, and paint all columns between. */
  moveTo(column, y, pressure) {
    const from = this.column ?? column;
    const steps = Math.max(1, Math.abs(column - from));
    const [y0, p0] = this.column === null ? [y, pressure] : [heightOf(this.frequency), this.pressure];
    for (let i = 1; i <= steps; i++) {
      const a = i / steps;
      this.column = Math.max(0, Math.min(N_COLUMNS - 1, Math.round(from + a * (column - from))));
      this.frequency = frequencyAt(y0 + a * (y - y0));
      this.pressure = p0 + a * (pressure - p0);
      this.stamp();
    }
  }

  /** Paint at the present position; a pen that does not move paints once per frame. */
  stamp(column = this.column) {
    const { brush, size, amplitude } = this.settings;
    const { frequency, pressure } = this;
    brushes[brush](this.score.column(column), frequency, pressure * amplitude, size, pressure);
  }
}
