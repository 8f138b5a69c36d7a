// One session's messages as the page knows them: what the history said, what has been sent, what is being written.

/** Messages kept; older ones stay with the gateway. */
const ITEMS_MAX = 400;

/**
 * Items: {role, state, text, at?, id?, runId?, parts?, toolName?, problem?}. States: `sending`, `sent`, `failed` of
 * what was written here; `streaming`, `done`, `aborted`, `error` of replies; a notice's state is its kind.
 */
export class Transcript {
  constructor() {
    this.clear();
  }

  clear() {
    this.items = [];
    this.runs = new Set();
    this.hasMore = false;
  }

  /** Takes over a history; what was written here and is not in it yet stays at the end. */
  replace(messages, hasMore) {
    const unsent = this.items.filter((item) => item.state === "sending" || item.state === "failed");
    this.items = messages.map((message) => itemOf(message)).filter((item) => item !== null);
    const known = new Set(this.items.map((item) => item.runId));
    this.items.push(...unsent.filter((item) => !known.has(item.runId)));
    this.hasMore = hasMore;
  }

  /** A message leaves this page. */
  sending(text, runId) {
    return this.add({ role: "user", state: "sending", text, runId, at: Date.now() });
  }

  /** A line that is no message. */
  notice(kind, text) {
    this.add({ role: "notice", state: kind, text });
  }

  /** A `session.message` event: the message is in the gateway's transcript now. */
  arrived({ message, messageId }) {
    const item = itemOf(message, messageId);
    if (!item || this.items.some((known) => known.id && known.id === item.id)) return;
    const mine = item.runId
      && this.items.find((known) => known.runId === item.runId && known.role === item.role && !known.id);
    if (mine) Object.assign(mine, item, { state: mine.role === "user" ? "sent" : mine.state });
    else this.add(item);
  }

  /** A `chat` event other than `status`. Answers whether the history should be read again. */
  chat(event) {
    let item = this.items.findLast((known) => known.runId === event.runId && known.role === "assistant");
    const text = event.message ? textOf(event.message) : null;
    if (event.state === "delta") {
      this.runs.add(event.runId);
      // A reply goes on after a tool call as a new message; what the transcript already has is finished.
      if (!item || item.parts?.length) item = this.reply(event.runId, "");
      item.text = text ?? (event.replace ? event.deltaText : item.text + event.deltaText);
      item.state = "streaming";
      return false;
    }
    this.runs.delete(event.runId);
    const state = { final: "done", aborted: "aborted", error: "error" }[event.state] ?? "done";
    if (event.state === "error") {
      item ??= this.reply(event.runId, "");
      item.problem = event.errorMessage || "The gateway gave no reason.";
    } else if (!item && text) {
      item = this.reply(event.runId, text);
    }
    if (item) {
      item.state = state;
      if (text) item.text = text;
    }
    this.items = this.items.filter((known) => known !== item || known.text || known.problem || known.parts?.length);
    // Tool calls make several messages of one run; the history has them in order and complete.
    return this.items.some((known) => known.runId === event.runId && known.parts?.length);
  }

  /** The connection was lost: what was under way is unknown until the history has been read. */
  disconnected() {
    this.runs.clear();
    for (const item of this.items) if (item.state === "streaming") item.state = "aborted";
  }

  reply(runId, text) {
    return this.add({ role: "assistant", state: "streaming", text, runId, at: Date.now() });
  }

  add(item) {
    this.items.push(item);
    if (this.items.length > ITEMS_MAX) {
      this.items.shift();
      this.hasMore = true;
    }
    return item;
  }
}

/** The text parts of a message. */
export function textOf(message) {
  const content = message?.content;
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return typeof message?.text === "string" ? message.text : "";
  const texts = content.filter((part) => part?.type === "text" && typeof part.text === "string");
  return texts.map((part) => part.text).join("\n\n");
}

function itemOf(message, messageId) {
  if (!message || typeof message.role !== "string") return null;
  const meta = message.__openclaw ?? {};
  const parts = Array.isArray(message.content) ? message.content.filter((part) => part?.type === "toolCall") : [];
  const text = textOf(message);
  const problem = message.errorMessage;
  if (!text && !parts.length && !problem) return null;
  const sent = message.idempotencyKey ?? meta.idempotencyKey;
  return {
    role: message.role,
    state: problem ? "error" : message.stopReason === "aborted" ? "aborted" : "done",
    text,
    at: message.timestamp,
    id: messageId ?? meta.id,
    runId: meta.runId ?? (typeof sent === "string" ? sent.replace(/:user$/, "") : undefined),
    parts: parts.length ? parts : undefined,
    toolName: message.toolName,
    problem,
  };
}
