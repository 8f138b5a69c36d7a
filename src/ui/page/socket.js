// The connection: protocol 4 over one WebSocket to the address this page came from, and nowhere else.

import { GatewayError } from "./errors.js";
import { loadIdentity } from "./identity.js";

const CLIENT_ID = "openclaw-control-ui";
const CLIENT_MODE = "webchat";
const ROLE = "operator";
const SCOPES = ["admin", "read", "write", "approvals", "questions", "pairing"].map((scope) => `operator.${scope}`);

const BACKOFF_MS_MIN = 1000;
const BACKOFF_MS_MAX = 30_000;
/** The first frame must come within this time of opening the socket, and the answer to `connect` within it again. */
const HANDSHAKE_MS_MAX = 15_000;
const REQUEST_MS_MAX = 30_000;
/** How often a browser that waits for approval asks again. */
const PAIRING_RETRY_MS = 4000;
/** Silence for this many tick intervals means that the connection is dead. */
const TICKS_MISSED_MAX = 2;

/** The socket's address, from this page's own. Query and fragment play no part in it. */
export function socketUrl() {
  const url = new URL("./", `${location.origin}${location.pathname}`);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/**
 * States, as `onState` hears them: `connecting`; `online` {hello}; `waiting` {retryAt, error?};
 * `pairing` {error, retryAt}; `refused` {error}: nothing happens until `open` is called again; `idle`.
 */
export class Gateway {
  constructor({ version, onState, onCredential }) {
    this.version = version;
    this.onState = onState;
    this.onCredential = onCredential;
    this.instanceId = crypto.randomUUID();
    this.listeners = new Map();
    this.pending = new Map();
    this.state = { name: "idle" };
    this.hello = null;
    this.attempt = 0;
    this.nextId = 0;
    this.lastSeq = 0;
    this.wanted = false;
  }

  /** Connects with `credential` ({kind: "secret" | "device" | "none", value}) and stays connected until `close`. */
  open(credential) {
    this.credential = credential;
    this.wanted = true;
    this.attempt = 0;
    this.start();
  }

  /** Ends the connection and does not come back. */
  close() {
    this.wanted = false;
    this.drop(1000, "signed out");
    this.enter({ name: "idle" });
  }

  /** Tries again now instead of when the wait is over. */
  retryNow() {
    if (this.state.name === "waiting" || this.state.name === "pairing") this.start();
  }

  /** Calls `listener(payload, frame)` for each event `name`; `*` hears all. */
  on(name, listener) {
    if (!this.listeners.has(name)) this.listeners.set(name, new Set());
    this.listeners.get(name).add(listener);
  }

  /** Whether the gateway offers `method`. */
  offers(method) {
    return this.hello?.features?.methods?.includes(method) ?? false;
  }

  /** Whether this connection holds `scope` (without its `operator.` prefix). */
  holds(scope) {
    const scopes = this.hello?.auth?.scopes ?? [];
    return scopes.includes("operator.admin") || scopes.includes(`operator.${scope}`);
  }

  /** Sends a request; resolves with the payload or rejects with a `GatewayError`. */
  request(method, params = {}) {
    return new Promise((resolve, reject) => {
      if (this.state.name !== "online") {
        reject(new GatewayError({ code: "DISCONNECTED", message: "not connected to the gateway" }));
        return;
      }
      this.send(method, params, resolve, reject);
    });
  }

  send(method, params, resolve, reject) {
    const id = String(++this.nextId);
    const timer = setTimeout(() => {
      this.pending.delete(id);
      reject(new GatewayError({ code: "TIMEOUT", message: `the gateway did not answer ${method} in time` }));
    }, REQUEST_MS_MAX);
    this.pending.set(id, { resolve, reject, timer });
    this.socket.send(JSON.stringify({ type: "req", id, method, params }));
  }

  start() {
    clearTimeout(this.retryTimer);
    this.drop(1000, "");
    this.enter({ name: "connecting", error: this.state.error });
    const socket = new WebSocket(socketUrl());
    this.socket = socket;
    this.lastSeq = 0;
    this.deadline(HANDSHAKE_MS_MAX, "handshake timeout");
    // Handlers of a socket that has been given up must not touch the state of its successor.
    const current = (handler) => (event) => { if (this.socket === socket) handler(event); };
    socket.onmessage = current((event) => this.receive(event.data));
    socket.onclose = current((event) => this.closed(event));
  }

  receive(text) {
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return;
    }
    if (this.state.name === "online") this.deadline(this.tickMs * TICKS_MISSED_MAX, "tick timeout");
    if (frame.type === "res") this.settle(frame);
    else if (frame.event === "connect.challenge") this.answer(frame.payload);
    else if (frame.type === "event") this.deliver(frame);
  }

  settle(frame) {
    const waiting = this.pending.get(frame.id);
    if (!waiting) return;
    this.pending.delete(frame.id);
    clearTimeout(waiting.timer);
    if (frame.ok) waiting.resolve(frame.payload);
    else waiting.reject(new GatewayError(frame.error));
  }

  deliver(frame) {
    if (Number.isInteger(frame.seq)) {
      // Numbers are per connection and have no holes: a hole is an event this page did not get.
      if (frame.seq > this.lastSeq + 1) this.emit("gap", frame);
      this.lastSeq = frame.seq;
    }
    this.emit(frame.event, frame);
    this.emit("*", frame);
  }

  emit(name, frame) {
    for (const listener of this.listeners.get(name) ?? []) listener(frame.payload, frame);
  }

  async answer(challenge) {
    const socket = this.socket;
    let params;
    try {
      params = await this.connectParams(challenge);
    } catch (error) {
      this.refuse(error);
      return;
    }
    if (this.socket !== socket) return;
    this.deadline(HANDSHAKE_MS_MAX, "handshake timeout");
    this.send("connect", params, (hello) => this.welcome(hello), (error) => this.rejected(error));
  }

  async connectParams(challenge) {
    this.identity ??= await loadIdentity();
    const { kind, value } = this.credential;
    // The same secret in both fields: the gateway's mode decides which one it reads.
    const auth = { secret: { token: value, password: value }, device: { deviceToken: value } }[kind];
    const platform = navigator.userAgentData?.platform || navigator.platform || "web";
    const signedAt = challenge.ts;
    const signed = ["v3", this.identity.id, CLIENT_ID, CLIENT_MODE, ROLE, SCOPES.join(","), signedAt,
      kind === "none" ? "" : value, challenge.nonce, platform.trim().toLowerCase(), ""].join("|");
    return {
      minProtocol: 4,
      maxProtocol: 4,
      client: {
        id: CLIENT_ID, mode: CLIENT_MODE, version: this.version, platform, instanceId: this.instanceId,
        timeZone: Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC",
      },
      role: ROLE,
      scopes: SCOPES,
      caps: [],
      locale: navigator.language,
      userAgent: navigator.userAgent,
      ...(auth && { auth }),
      device: {
        id: this.identity.id, publicKey: this.identity.publicKey, signature: await this.identity.sign(signed),
        signedAt, nonce: challenge.nonce,
      },
    };
  }

  welcome(hello) {
    this.hello = hello;
    this.attempt = 0;
    this.tickMs = hello.policy?.tickIntervalMs ?? 30_000;
    this.deadline(this.tickMs * TICKS_MISSED_MAX, "tick timeout");
    const issued = hello.auth?.deviceToken;
    if (issued) {
      // From here on this browser's own token will do: it is useless without the device key, and revocable by itself.
      this.credential = { kind: "device", value: issued };
    }
    this.onCredential(this.credential);
    this.enter({ name: "online", hello });
  }

  rejected(error) {
    if (error.code === "TIMEOUT" || error.code === "DISCONNECTED") return;
    if (error.detailCode === "PAIRING_REQUIRED") this.again("pairing", PAIRING_RETRY_MS, error);
    else if (!error.retryable || error.detailCode === "AUTH_RATE_LIMITED") this.refuse(error);
    else this.again("waiting", Math.max(error.retryAfterMs, this.backoff()), error);
  }

  refuse(error) {
    this.wanted = false;
    this.drop(1000, "");
    this.enter({ name: "refused", error });
  }

  closed(event) {
    this.socket = null;
    this.forget();
    if (!this.wanted || this.state.name === "waiting" || this.state.name === "pairing") return;
    const error = event.reason ? new GatewayError({ code: "CLOSED", message: event.reason }) : undefined;
    this.again("waiting", this.backoff(), error);
  }

  again(name, delayMs, error) {
    this.drop(1000, "");
    this.enter({ name, error, retryAt: Date.now() + delayMs });
    this.retryTimer = setTimeout(() => this.start(), delayMs);
  }

  backoff() {
    const ceiling = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** this.attempt++);
    // Half fixed, half random: pages that lost the same gateway do not come back in one instant.
    return ceiling / 2 + Math.random() * ceiling / 2;
  }

  deadline(delayMs, reason) {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => {
      this.drop(4000, reason);
      this.closed({ reason });
    }, delayMs);
  }

  drop(code, reason) {
    clearTimeout(this.silence);
    clearTimeout(this.retryTimer);
    const socket = this.socket;
    this.socket = null;
    socket?.close(code, reason);
    this.forget();
  }

  forget() {
    clearTimeout(this.silence);
    const error = new GatewayError({ code: "DISCONNECTED", message: "the connection to the gateway was lost" });
    for (const { reject, timer } of this.pending.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.pending.clear();
  }

  enter(state) {
    this.state = state;
    this.onState(state);
  }
}
