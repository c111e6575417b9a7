// A picture as ink: its width is the time, its height the pitch, its brightness the level.

import { heightOf, N_BINS, N_COLUMNS, N_FFT, RATE } from "./score.js";

const N_ROWS = 384;
const RANGE_DB = 50; // from black to white; black itself is silence
const LOUDEST = 0.3; // root mean square of the loudest column

/** Paint a picture, a Blob, over the whole score. */
export async function paintPicture(score, blob) {
  const picture = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(N_COLUMNS, N_ROWS);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, N_COLUMNS, N_ROWS);
  const { data } = context.getImageData(0, 0, N_COLUMNS, N_ROWS);
  const rows = Array.from({ length: N_BINS }, (_, k) => rowsOf(k));
  let loudest = 0;
  for (let column = 0; column < N_COLUMNS; column++) {
    const ink = score.column(column);
    let power = 0;
    for (let k = 0; k < N_BINS; k++) {
      let sum = 0;
      const [from, to] = rows[k];
      for (let row = from; row < to; row++) sum += brightness(data, 4 * (row * N_COLUMNS + column));
      const mean = to > from ? sum / (to - from) : 0;
      ink[k] = mean > 0.02 ? 10 ** ((RANGE_DB * (mean - 1)) / 20) : 0;
      power += ink[k] ** 2 / 3; // a sine of amplitude 1 has the power 1/2; its lobe of three bins has the sum of squares 3/2
    }
    loudest = Math.max(loudest, power);
  }
  if (loudest) score.ink.forEach((value, i) => (score.ink[i] = (value * LOUDEST) / Math.sqrt(loudest)));
}

/** Returns the first and the last row of the picture within a bin. */
function rowsOf(k) {
  const edge = (bin) => Math.round(N_ROWS * heightOf((Math.max(bin, 0.1) * RATE) / N_FFT));
  const from = Math.max(0, edge(k + 0.5));
  return [from, Math.min(N_ROWS, Math.max(from + 1, edge(k - 0.5)))];
}

const brightness = (data, at) => ((0.3 * data[at] + 0.59 * data[at + 1] + 0.11 * data[at + 2]) * data[at + 3]) / 65025;
