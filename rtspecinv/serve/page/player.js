// Plays samples that come by websocket, in one file without dependencies; docs/serve.md shows its use.
//
// The file is loaded twice: by a page, as a module, and by its AudioWorklet, as the processor below.
//
//     import { play } from "./player.js";
//     const player = await play("ws://host/speech", { format: "s16", sampleRate: 24000 });  // after a click
//     player.stop();

const NAME = "rtspecinv-ring";
const MAX_16 = 32768;

/**
 * Samples on their way to the audio graph. `node` is an AudioNode with one output, mono.
 *
 * Where `hop` is 0, others send samples at their own pace: it plays as soon as `ring` samples are there, and again
 * after a gap. Where `hop` is not 0, the clock of the sound card asks for hops: `onneed(k)` is called so that each
 * hop is asked for at least `ring` samples before it is due. Then nothing drifts, and the delay stays as it is.
 * Where samples are missing, there is silence, which is counted.
 */
export class Ring {
  /**
   * Ring of `ring` samples in a context; `hop`: samples that are asked for at once, default: 0.
   * kernel: { module, plan }, with which the worklet inverts frames itself, see kernel.js; default: none.
   */
  static async in(context, { ring, hop = 0, kernel = null }) {
    await context.audioWorklet.addModule(import.meta.url);
    return new Ring(context, { ring, hop, kernel });
  }

  constructor(context, processorOptions) {
    this.node = new AudioWorkletNode(context, NAME, {
      numberOfInputs: 0, outputChannelCount: [1], processorOptions,
    });
    this.onneed = () => {};
    this.onstats = () => {};
    // played, silent: samples; gaps: how often samples were missing; filled: samples that wait;
    // trip, longest: ms from asking for a hop until it came, of the last and the longest;
    // lag: the longest of these, in samples that were played meanwhile.
    this.stats = { played: 0, silent: 0, gaps: 0, filled: 0, trip: 0, longest: 0, lag: 0 };
    this.node.port.onmessage = ({ data }) => {
      if (data.need) this.onneed(data.need);
      if (data.stats) this.onstats((this.stats = data.stats));
    };
  }

  /** Hand over samples, a Float32Array; the caller may not use it any more. */
  push(samples) {
    this.node.port.postMessage({ samples }, [samples.buffer]);
  }

  /** Hand over frames, a Float32Array, which the kernel inverts; the caller may not use it any more. */
  invert(frames) {
    this.node.port.postMessage({ frames }, [frames.buffer]);
  }

  /** Begin anew: forget what waits and what was counted. `ring`: samples, default: as it is. */
  start(ring) {
    this.node.port.postMessage({ start: true, ring });
  }

  /** Play what is there, and then silence that is not counted, until more comes or `start`. */
  end() {
    this.node.port.postMessage({ end: true });
  }

  /** Never play again. */
  close() {
    this.node.disconnect();
    this.node.port.postMessage({ close: true });
  }
}

/** Samples of a binary message: "f32", or "s16", both little-endian. */
export function samplesOf(data, format) {
  if (format === "f32") return new Float32Array(data);
  return Float32Array.from(new Int16Array(data), (sample) => sample / MAX_16);
}

/**
 * Play what a websocket sends, mono. Call it from a click: browsers are silent before.
 *
 * hello: what is sent first, an object for JSON, default: nothing.
 * ring: seconds that are gathered before it plays, default: 0.2.
 * onmessage: called with each message that is text.
 * Returns { context, ring, socket, stop }.
 */
export async function play(url, options = {}) {
  const { format = "s16", sampleRate = 24000, hello, ring: seconds = 0.2, onmessage = () => {} } = options;
  const context = new AudioContext({ sampleRate });
  const ring = await Ring.in(context, { ring: Math.round(seconds * sampleRate) });
  ring.node.connect(context.destination);
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => hello && socket.send(JSON.stringify(hello));
  socket.onclose = () => ring.end();
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") onmessage(data);
    else ring.push(samplesOf(data, format));
  };
  const stop = () => {
    socket.close();
    return context.close();
  };
  return { context, ring, socket, stop };
}

if (globalThis.AudioWorkletProcessor) {
  const STATS_EVERY = 2048; // samples

  class RingProcessor extends AudioWorkletProcessor {
    constructor({ processorOptions: { ring, hop, kernel } }) {
      super();
      this.ring = ring;
      this.hop = hop;
      this.kernel = kernel && new globalThis.Kernel(kernel.module, kernel.plan);
      this.isClosed = false;
      this.begin();
      this.isOn = !hop; // a ring that asks waits for `start`
      this.port.onmessage = ({ data }) => {
        if (data.start) {
          this.ring = data.ring ?? this.ring;
          this.begin();
        } else if (data.end) {
          this.isPlaying = this.isEnding = true;
        } else if (data.close) {
          this.isClosed = true;
        } else if (data.frames) this.invert(data.frames);
        else this.take(data.samples);
      };
    }

    begin() {
      this.blocks = []; // what waits; of the first, `offset` samples have been played
      this.offset = this.filled = this.asked = 0;
      this.asks = []; // when hops were asked for that have not come: [ms, samples played]
      this.isOn = true;
      this.isPlaying = this.isHeard = this.isEnding = this.isGap = false;
      this.clock = this.told = 0; // samples since the beginning
      this.kernel?.reset();
      this.stats = { played: 0, silent: 0, gaps: 0, filled: 0, trip: 0, longest: 0, lag: 0 };
    }

    take(samples) {
      if (!this.isOn) return;
      const { stats } = this;
      if (this.hop) {
        if (!this.asks.length) return; // of before the beginning
        const [ms, clock] = this.asks.shift();
        stats.trip = Date.now() - ms;
        stats.longest = Math.max(stats.longest, stats.trip);
        stats.lag = Math.max(stats.lag, this.clock - clock);
      }
      this.blocks.push(samples);
      this.filled += samples.length;
    }

    invert(frames) {
      const { nFreq } = this.kernel;
      for (let at = 0; at < frames.length && this.isOn && this.asks.length; at += nFreq) {
        this.take(this.kernel.push(frames.subarray(at, at + nFreq)).slice());
      }
    }

    ask(quantum) {
      let need = 0;
      for (; this.asked - this.stats.played <= this.ring + quantum; need++) {
        this.asked += this.hop;
        this.asks.push([Date.now(), this.clock]);
      }
      if (need) this.port.postMessage({ need });
    }

    miss(n) {
      if (this.isEnding) {
        this.isPlaying = this.isHeard = this.isEnding = false;
        if (this.hop) this.isOn = false;
      } else if (this.isHeard) {
        this.stats.silent += n;
        if (!this.isGap) this.stats.gaps++;
        if (!this.hop) this.isPlaying = false; // it gathers samples again
      }
    }

    process(inputs, [[out]]) {
      if (!this.isOn) return !this.isClosed;
      const { stats } = this;
      if (this.hop && !this.isEnding) this.ask(out.length);
      if (this.filled >= this.ring) this.isPlaying = true;
      let n = 0;
      while (this.isPlaying && n < out.length && this.blocks.length) {
        const piece = this.blocks[0].subarray(this.offset, this.offset + out.length - n);
        out.set(piece, n);
        n += piece.length;
        this.offset += piece.length;
        if (this.offset === this.blocks[0].length) {
          this.blocks.shift();
          this.offset = 0;
        }
      }
      this.filled -= n;
      stats.played += n;
      this.isHeard ||= n > 0;
      if (n < out.length) this.miss(out.length - n);
      this.isGap = n < out.length;
      this.clock += out.length;
      if (this.clock - this.told >= STATS_EVERY) {
        this.told = this.clock;
        this.port.postMessage({ stats: { ...stats, filled: this.filled } });
      }
      return !this.isClosed;
    }
  }

  registerProcessor(NAME, RingProcessor);
}
