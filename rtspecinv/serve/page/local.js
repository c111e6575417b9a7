// A stream without a server: kernel.js inverts frames in the AudioWorklet. It has the methods of `Stream`, socket.js.

import { addressOf } from "./socket.js";

let module = null;
const plans = new Map(); // plans by the text of the first message

export class LocalStream {
  /** hello, onstate: as in `Stream`. onframes(frames): frames to invert. */
  constructor(hello, { onready, onframes, onstate }) {
    Object.assign(this, { hello, onready, onframes, onstate, ready: null });
  }

  /** Returns the constants of the worklet, { module, plan }; it loads each of them only once. */
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

  /** kernel: result of `load`, which the worklet has received. */
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
