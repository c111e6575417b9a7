// Plays samples that a websocket receives; the file has no dependencies. docs/serve.md has an example.
//
// The file is loaded twice: by a page, as a module, and by its AudioWorklet, as the processor below.
//
//     import { play } from "./player.js";
//     const player = await play("ws://host/speech", { format: "s16", sampleRate: 24000 });  // after a click
//     player.stop();

const NAME = "rtspecinv-ring";
const MAX_16 = 32768;

/**
 * Ring buffer of samples for the audio graph. `node` is an AudioNode with one output, mono.
 *
 * If `hop` is 0, the caller pushes samples at its own pace; the ring plays when it has `ring` samples, at the start
 * and again after a gap. Otherwise the clock of the sound card requests hops: `onneed(k)` requests k hops, each at
 * least `ring` samples before it is due, so that no drift accumulates and the delay is constant. If samples are
 * missing, the ring plays silence and counts it.
 */
export class Ring {
  /**
   * Make a ring in an AudioContext. ring: length, samples. hop: number of samples of a request, default: 0.
   * kernel: { module, plan } of kernel.js, with which the worklet inverts frames; default: none.
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
    // played, silent: numbers of samples; gaps: number of gaps; filled: number of waiting samples;
    // trip, longest: ms from the request of a hop until its arrival, for the last hop and the longest time;
    // lag: largest number of samples that were played between a request and the arrival of its hop.
    this.stats = { played: 0, silent: 0, gaps: 0, filled: 0, trip: 0, longest: 0, lag: 0 };
    this.node.port.onmessage = ({ data }) => {
      if (data.need) this.onneed(data.need);
      if (data.stats) this.onstats((this.stats = data.stats));
    };
  }

  /** Append samples, a Float32Array, which the caller must not use afterwards. */
  push(samples) {
    this.node.port.postMessage({ samples }, [samples.buffer]);
  }

  /** Let the kernel invert frames, a Float32Array, which the caller must not use afterwards. */
  invert(frames) {
    this.node.port.postMessage({ frames }, [frames.buffer]);
  }

  /** Start: drop waiting samples and reset the counts. ring: length, samples, default: unchanged. */
  start(ring) {
    this.node.port.postMessage({ start: true, ring });
  }

  /** Play the waiting samples, then silence that is not counted, until new samples arrive or `start` is called. */
  end() {
    this.node.port.postMessage({ end: true });
  }

  /** Stop for ever. */
  close() {
    this.node.disconnect();
    this.node.port.postMessage({ close: true });
  }
}

/** Returns the samples of a binary message in the format "f32" or "s16", little-endian. */
export function samplesOf(data, format) {
  if (format === "f32") return new Float32Array(data);
  return Float32Array.from(new Int16Array(data), (sample) => sample / MAX_16);
}

/**
 * Play the mono samples that a websocket receives. Call it after a click: browsers allow no sound before.
 *
 * hello: object that is sent first, as JSON, default: nothing is sent.
 * ring: buffered duration before playback starts, and again after a gap, seconds, default: 0.2.
 * onmessage: function that is called with each text message.
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
      this.isOn = !hop; // a ring that requests hops waits for `start`
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
      this.blocks = []; // waiting blocks; `offset` samples of the first one have been played
      this.offset = this.filled = this.asked = 0;
      this.asks = []; // requests of hops that have not arrived: [ms, samples played by then]
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
        if (!this.asks.length) return; // requested before the last start
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
        if (!this.hop) this.isPlaying = false; // the ring fills again before it plays
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
