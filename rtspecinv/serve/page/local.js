// A stream without a server: frames are inverted in the AudioWorklet, by kernel.js. `Stream` in socket.js is its like.

import { addressOf } from "./socket.js";

let module = null;
const plans = new Map(); // by what was said to the server

export class LocalStream {
  /** hello, onstate: as of `Stream`. onframes(frames): frames to invert. */
  constructor(hello, { onready, onframes, onstate }) {
    Object.assign(this, { hello, onready, onframes, onstate, ready: null });
  }

  /** What the worklet needs, { module, plan }; the network is used only where it was not before. */
  async load() {
    this.onstate("connecting", "Loading the kernel");
    const hello = JSON.stringify(this.hello);
    module ??= await WebAssembly.compile(await bytesOf(new URL("push.wasm", import.meta.url)));
    if (!plans.has(hello)) {
      const address = addressOf("plan");
      address.searchParams.set("hello", hello);
      plans.set(hello, await bytesOf(address));
    }
    return { module, plan: plans.get(hello) };
  }

  /** kernel: what `load` returned; the worklet has it by now. */
  open(kernel) {
    this.kernel = kernel;
    const [hop_length, latency] = new Int32Array(kernel.plan, 16, 2); // see push.h
    this.ready = { hop_length, latency };
    this.onstate("ready", "This page inverts, without the server");
    this.onready(this.ready);
  }

  push(frames) {
    if (this.ready) this.onframes(frames);
  }

  close() {
    this.ready = null;
    this.onstate("closed", "Stopped");
  }
}

async function bytesOf(address) {
  const answer = await fetch(address).catch(() => {
    throw new Error("the server does not answer, and the page has not loaded this kernel from it yet");
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.arrayBuffer();
}
