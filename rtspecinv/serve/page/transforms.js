// Transforms of outgoing frames: the equations of rtspecinv.transforms, for arrays of magnitudes.

export class Freeze {
  on = false;
  #held = null;

  apply(frame) {
    if (!this.on) {
      this.#held = null;
      return frame;
    }
    this.#held ??= frame.slice();
    return this.#held.slice();
  }
}

/** Y[t] = (1 - amount) X[t] + amount Y[t - 1]. */
export class Smear {
  amount = 0;
  #last = null;

  apply(frame) {
    const a = this.amount;
    if (this.#last && a) this.#last = this.#last.map((y, k) => (1 - a) * frame[k] + a * y);
    else this.#last = Float64Array.from(frame);
    return Float64Array.from(this.#last);
  }
}

/** Moves each peak and the lobe around it to `ratio` times its frequency; see `transforms.Pitch`. */
export class Pitch {
  ratio = 1;

  apply(frame) {
    const { ratio } = this;
    if (ratio === 1) return frame;
    const last = frame.length - 1;
    const peaks = peaksOf(frame);
    if (!peaks.length) return frame;
    const nearest = nearestOf(peaks, frame.length);
    const tops = new Map(peaks.map((peak) => [peak, topOf(frame, peak)]));
    const roots = Float64Array.from(frame, Math.sqrt); // a cubic fits the square root of a lobe better than the lobe
    return Float64Array.from(frame, (_, k) => {
      if (k / ratio > last) return 0;
      const i = nearest[roundToEven(k / ratio)];
      const first = i > 0 ? (peaks[i] + peaks[i - 1]) / 2 : 0;
      const end = i < peaks.length - 1 ? (peaks[i] + peaks[i + 1]) / 2 : last;
      const place = Math.min(Math.max(k - (ratio - 1) * tops.get(peaks[i]), first), end);
      return Math.max(0, cubic(roots, place)) ** 2;
    });
  }
}

/** Rounds halves to the even neighbour, as torch does. */
function roundToEven(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
}

function peaksOf(frame) {
  const at = (k) => (k < 0 || k >= frame.length ? -1 : frame[k]);
  return [...frame.keys()].filter((k) => at(k) >= at(k - 1) && at(k) > at(k + 1));
}

/** Returns, for every bin, the index of the nearest peak; half way between two, that of the lower one. */
function nearestOf(peaks, n) {
  const nearest = new Int32Array(n);
  for (let k = 0, i = 0; k < n; k++) {
    while (i < peaks.length - 1 && peaks[i + 1] - k < k - peaks[i]) i++;
    nearest[k] = i;
  }
  return nearest;
}

/** Frequency of a peak, in bins: the top of a parabola through three logarithms. */
function topOf(frame, k) {
  if (k === 0 || k === frame.length - 1) return k;
  const log = (j) => Math.log(Math.max(frame[j], TINY));
  const [left, middle, right] = [log(k - 1), log(k), log(k + 1)];
  const curvature = Math.max(2 * middle - left - right, TINY);
  return k + Math.max(-0.5, Math.min(0.5, (0.5 * (right - left)) / curvature));
}

const TINY = 2 ** -126;

/** Value on the cubic through four bins. */
function cubic(values, place) {
  const low = Math.floor(place);
  const a = place - low;
  const at = (i) => values[Math.max(0, Math.min(values.length - 1, low + i))];
  const [below, above] = [a + 1, a - 1];
  const outer = (a * above * (below * at(2) - (a - 2) * at(-1))) / 6; // Lagrange's polynomials
  return outer + (below * (a - 2) * (above * at(0) - a * at(1))) / 2;
}
