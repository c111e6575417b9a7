// Records the output of an AudioNode in blocks. The file is loaded twice, as player.js is.

const NAME = "rtspecinv-tape";

/** Calls `onblock(samples, frame)` with every block of an AudioNode, mono, and the frame of the audio clock. */
export class Tape {
  static async of(source, onblock) {
    await source.context.audioWorklet.addModule(import.meta.url);
    return new Tape(source, onblock);
  }

  constructor(source, onblock) {
    this.node = new AudioWorkletNode(source.context, NAME, {
      numberOfOutputs: 1, channelCount: 1, channelCountMode: "explicit",
    });
    this.source = source;
    this.node.port.onmessage = ({ data }) => onblock(data.samples, data.frame);
    source.connect(this.node);
    this.node.connect(source.context.destination); // its output is silent; browsers may not run a node without a destination
  }

  stop() {
    this.source.disconnect(this.node);
    this.node.disconnect();
    this.node.port.onmessage = null;
  }
}

/** A WAV file of blocks of samples, mono, 16 bits. */
export function wavOf(blocks, sampleRate) {
  const n = blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * n));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  const header = [[16, 16, 32], [20, 1, 16], [22, 1, 16], [24, sampleRate, 32], [28, 2 * sampleRate, 32],
    [32, 2, 16], [34, 16, 16], [4, 36 + 2 * n, 32], [40, 2 * n, 32]];
  [[0, "RIFF"], [8, "WAVEfmt "], [36, "data"]].forEach(([at, letters]) => text(at, letters));
  for (const [at, value, bits] of header) view[`setUint${bits}`](at, value, true);
  let at = 44;
  for (const block of blocks) {
    for (const sample of block) {
      view.setInt16(at, Math.max(-32768, Math.min(32767, Math.round(32768 * sample))), true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}

if (globalThis.AudioWorkletProcessor) {
  registerProcessor(NAME, class extends AudioWorkletProcessor {
    process([[samples]]) {
      if (samples) this.port.postMessage({ samples, frame: currentFrame });
      return true;
    }
  });
}
