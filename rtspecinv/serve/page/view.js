// Draws the painting, the spectrum beside it, and the lines, pens and playhead over both.

import { binOf, frequencyAt, heightOf, N_BINS, N_COLUMNS, N_FFT, RATE } from "./score.js";

const N_ROWS = 384;
const RANGE_DB = 66; // from black to the brightest colour
const LINES = [100, 200, 500, 1000, 2000, 5000]; // Hz
const COLOURS = [[8, 10, 20], [52, 24, 96], [150, 40, 110], [235, 90, 60], [252, 190, 80], [255, 250, 215]];

/** Colours of 256 levels, as 32 bits. */
const PALETTE = Uint32Array.from({ length: 256 }, (_, i) => {
  const place = (i / 255) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  const [r, g, b] = COLOURS[low].map((c, j) => Math.round(c + (place - low) * (COLOURS[low + 1][j] - c)));
  return (255 << 24) | (b << 16) | (g << 8) | r;
});

/** Bins of each row: a narrow row lies between two bins, a wide row shows the loudest of several. */
const ROWS = Array.from({ length: N_ROWS }, (_, row) => {
  const [low, high] = [binOf(frequencyAt((row + 1) / N_ROWS)), binOf(frequencyAt(row / N_ROWS))];
  return { middle: (low + high) / 2, from: Math.ceil(low), to: Math.min(N_BINS - 1, Math.floor(high)) };
});

function amplitudeOf(ink, { middle, from, to }) {
  if (to <= from) {
    const k = Math.min(Math.floor(middle), N_BINS - 2);
    return ink[k] + (middle - k) * (ink[k + 1] - ink[k]);
  }
  let loudest = 0;
  for (let k = from; k <= to; k++) loudest = Math.max(loudest, ink[k]);
  return loudest;
}

/** Returns 0 to 1 for an amplitude from the smallest visible one to full scale. */
const brightnessOf = (amplitude) => Math.max(0, Math.min(1, 1 + (20 * Math.log10(amplitude + 1e-9)) / RANGE_DB));

/** Set the resolution of a canvas to that of the screen; returns its context, in CSS pixels. */
function fitted(canvas) {
  const scale = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return { context, width, height };
}

export class ScoreView {
  constructor(canvas, score) {
    Object.assign(this, { canvas, score });
    this.picture = new OffscreenCanvas(N_COLUMNS, N_ROWS);
    this.pixels = new ImageData(N_COLUMNS, N_ROWS);
    this.words = new Uint32Array(this.pixels.data.buffer);
  }

  /** Column and height, 0 to 1 from above, under a pointer. */
  placeOf({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const within = (x, most) => Math.max(0, Math.min(most, x));
    const column = Math.floor(((clientX - left) / width) * N_COLUMNS);
    return { column: within(column, N_COLUMNS - 1), y: within((clientY - top) / height, 1) };
  }

  /** playhead: position in columns. pens: those that are down. cursor: of the keyboard, or null. */
  draw({ playhead, pens, cursor }) {
    this.update();
    const { context, width, height } = fitted(this.canvas);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.picture, 0, 0, width, height);
    this.drawLines(context, width, height);
    context.fillStyle = "#7df9c6";
    context.fillRect((playhead / N_COLUMNS) * width - 1, 0, 2, height);
    context.strokeStyle = "#ffffff";
    context.lineWidth = 2;
    for (const pen of pens) this.ring(context, pen.column, heightOf(pen.frequency), width, height, 9);
    if (cursor) this.ring(context, cursor.column, cursor.y, width, height, 6);
  }

  ring(context, column, y, width, height, radius) {
    context.beginPath();
    context.arc(((column + 0.5) / N_COLUMNS) * width, y * height, radius, 0, 2 * Math.PI);
    context.stroke();
  }

  drawLines(context, width, height) {
    context.font = "13px system-ui, sans-serif";
    context.textBaseline = "bottom";
    context.strokeStyle = "#080a14";
    context.lineWidth = 3;
    for (const frequency of LINES) {
      const y = Math.round(heightOf(frequency) * height);
      context.fillStyle = "#ffffff30";
      context.fillRect(0, y, width, 1);
      const text = frequency < 1000 ? `${frequency} Hz` : `${frequency / 1000} kHz`;
      context.strokeText(text, 6, y - 1); // a dark outline of the letters
      context.fillStyle = "#ffffff";
      context.fillText(text, 6, y - 1);
    }
  }

  /** Redraw the columns that have changed. */
  update() {
    const { isDirty, ink } = this.score;
    const first = isDirty.indexOf(1);
    if (first < 0) return;
    const last = isDirty.lastIndexOf(1);
    for (let column = first; column <= last; column++) {
      if (!isDirty[column]) continue;
      const values = ink.subarray(column * N_BINS, (column + 1) * N_BINS);
      for (let row = 0; row < N_ROWS; row++) {
        const level = brightnessOf(amplitudeOf(values, ROWS[row]));
        this.words[row * N_COLUMNS + column] = PALETTE[Math.round(255 * level)];
      }
    }
    isDirty.fill(0, first, last + 1);
    this.picture.getContext("2d").putImageData(this.pixels, 0, 0, first, 0, last - first + 1, N_ROWS);
  }
}

/** Level and spectrum of the output. */
export class Meters {
  constructor(canvas, analyser) {
    Object.assign(this, { canvas, analyser });
    analyser.fftSize = N_FFT;
    analyser.smoothingTimeConstant = 0.6;
    this.samples = new Float32Array(N_FFT);
    this.decibels = new Float32Array(N_FFT / 2);
  }

  /** Draw the spectrum; returns the peak in dB of full scale. */
  draw() {
    this.analyser.getFloatTimeDomainData(this.samples);
    this.analyser.getFloatFrequencyData(this.decibels);
    const { context, width, height } = fitted(this.canvas);
    context.clearRect(0, 0, width, height);
    context.beginPath();
    context.moveTo(0, height);
    for (let y = height; y >= 0; y -= 2) {
      const bin = Math.min(this.decibels.length - 1, Math.round((frequencyAt(y / height) * N_FFT) / RATE));
      context.lineTo(Math.max(0, Math.min(1, 1 + this.decibels[bin] / 100)) * width, y);
    }
    context.lineTo(0, 0);
    context.fillStyle = "#7df9c6";
    context.fill();
    return 20 * Math.log10(this.samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 1e-6));
  }
}
