// One stream of `rtspecinv serve`: it sends frames, receives hops, and reconnects after a loss.

import { samplesOf } from "./player.js";

const WAITS = [0.5, 1, 2, 4]; // seconds before each attempt to reconnect

export class Stream {
  /**
   * hello: first message, see docs/serve.md.
   * onready(answer): a stream has begun. onhop(samples): the next hop.
   * onstate(state, sentence): state is "connecting", "ready", "lost" or "closed".
   */
  constructor(hello, { onready, onhop, onstate }) {
    Object.assign(this, { hello, onready, onhop, onstate });
    this.tries = 0;
    this.ready = null;
  }

  open() {
    this.isWanted = true;
    this.onstate("connecting", "Connecting to the server");
    const socket = (this.socket = new WebSocket(addressOf("stream", "ws")));
    let sentence = "";
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify(this.hello));
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      if (typeof data !== "string") return this.onhop(samplesOf(data, "f32"));
      const said = JSON.parse(data);
      if (said.type === "error") {
        sentence = said.message;
        if (this.ready) this.onhop(new Float32Array(this.ready.hop_length)); // silence for a rejected frame
      } else if (said.type === "ready") {
        this.ready = said;
        this.tries = 0;
        this.onstate("ready", `Connected, slot ${said.slot}`);
        this.onready(said);
      }
    };
    socket.onclose = () => socket === this.socket && this.lose(sentence);
  }

  async lose(sentence) {
    const wait = WAITS[Math.min(this.tries++, WAITS.length - 1)];
    const had = this.ready !== null;
    this.ready = null;
    if (!this.isWanted) return;
    this.timer = setTimeout(() => this.open(), 1000 * wait);
    const why = sentence || (had ? "The connection was lost" : await whyNot());
    if (this.isWanted && !this.ready) this.onstate("lost", `${why[0].toUpperCase()}${why.slice(1)}. The page tries again in ${wait} s`);
  }

  /** Send frames `(k, n_freq)`; none are sent before the stream is ready. */
  push(frames) {
    if (this.ready && this.socket.readyState === WebSocket.OPEN) this.socket.send(frames);
  }

  close() {
    this.isWanted = false;
    clearTimeout(this.timer);
    const { socket } = this;
    this.socket = this.ready = null;
    socket?.close();
    this.onstate("closed", "Stopped");
  }
}

/** Address on this server, with the token that the page was opened with. */
export function addressOf(path, scheme = "http") {
  const url = new URL(path, location.href);
  url.protocol = location.protocol.replace("http", scheme);
  const token = new URLSearchParams(location.search).get("token");
  if (token !== null) url.searchParams.set("token", token);
  return url;
}

/** Returns the reason why there is no connection; browsers do not report why a websocket was rejected. */
async function whyNot() {
  try {
    const answer = await fetch(addressOf("metrics"));
    if (answer.status === 401) return "The server wants a token: open this page as /?token=TOKEN";
    return "The server refused the connection";
  } catch {
    return "The server does not answer";
  }
}
