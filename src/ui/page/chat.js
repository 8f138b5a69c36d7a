// The chat: one session's transcript, live, and the field to write in.

import { block, button, clock, empty, h, prose } from "./dom.js";
import { explain } from "./errors.js";
import { sessionList } from "./sessions.js";
import { Transcript, textOf } from "./transcript.js";

const HISTORY_MESSAGES_MAX = 80;
const HISTORY_BYTES_MAX = 256 * 1024;
/** Spoken text of one reply; a screen reader cannot skip in an announcement. */
const ANNOUNCED_CHARS_MAX = 400;
const OPEN_SESSION = "openclaw-rs.session";
const PHASES = {
  preparing_workspace: "Preparing the workspace",
  naming_worktree: "Naming the worktree",
  creating_worktree: "Creating the worktree",
  running_setup: "Running the setup",
  provisioning_environment: "Starting the environment",
  preparing_context: "Reading the context",
  memory_flushing: "Saving memories",
  starting_model: "Asking the model",
};
const WHO = { user: "You", assistant: "Assistant", toolResult: "Tool result", system: "Conversation" };
const STATES = { sending: "sending", failed: "not sent", streaming: "writing", aborted: "stopped", error: "failed" };

export function chatView({ gateway, announce }) {
  let key = "";
  let sessionId = "";
  let mainKey = "agent:main:main";
  let loads = 0;
  let lastSent = "";
  const drafts = new Map();
  const transcript = new Transcript();

  const sessions = sessionList({ gateway, select, create });
  const heading = h("h1", { class: "chat-title" });
  const log = h("div", { class: "log", role: "log", "aria-label": "Messages", "aria-live": "off", tabindex: "0" });
  const progress = h("p", { class: "progress", role: "status" });
  const field = h("textarea", {
    id: "message", rows: "1", "aria-label": "Message", placeholder: "Message", "aria-keyshortcuts": "Enter",
    enterkeyhint: "send", onkeydown: keydown, oninput: grow,
  });
  const sendButton = h("button", { type: "submit", class: "primary" }, "Send");
  const stopButton = button("plain", "Stop", stop, { hidden: true });
  const latest = button("plain latest", "Latest ↓", () => toEnd(true), { hidden: true });
  const asideButton = button("plain aside-open", "Sessions", () => {
    const open = element.classList.toggle("aside-shown");
    asideButton.setAttribute("aria-expanded", String(open));
    if (open) sessions.element.querySelector("[aria-current], button")?.focus();
  }, { "aria-expanded": "false" });
  const element = h("div", { class: "chat" }, sessions.element,
    h("section", { class: "talk", "aria-label": "Conversation" },
      h("div", { class: "talk-head" }, asideButton, heading),
      h("div", { class: "log-frame" }, log, latest),
      progress,
      h("form", { class: "composer", onsubmit: submit }, field, stopButton, sendButton)));

  log.addEventListener("scroll", () => { latest.hidden = nearEnd(); });
  element.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && element.classList.contains("aside-shown")) { closeAside(); asideButton.focus(); }
  });
  gateway.on("chat", (payload) => { if (payload.sessionKey === key) chatEvent(payload); });
  gateway.on("session.message", (payload) => {
    if (payload.sessionKey !== key) return;
    transcript.arrived(payload);
    draw();
  });
  gateway.on("sessions.changed", () => sessions.refreshSoon());
  gateway.on("gap", () => { load(); sessions.refreshSoon(); });
  gateway.on("*", (payload) => {
    if (payload?.decision?.action && [key, sessionId || key].includes(payload.sessionId)) judged(payload.decision);
  });

  function closeAside() {
    element.classList.remove("aside-shown");
    asideButton.setAttribute("aria-expanded", "false");
  }

  function select(chosen) {
    openSession(chosen);
    closeAside();
    field.focus();
  }

  function submit(event) {
    event.preventDefault();
    send();
  }

  function create() {
    const agent = /^agent:([^:]+):/.exec(mainKey)?.[1] ?? "main";
    select(`agent:${agent}:chat-${crypto.randomUUID().slice(0, 8)}`);
  }

  function openSession(chosen) {
    if (chosen === key) return;
    drafts.set(key, field.value);
    key = chosen;
    sessionId = "";
    sessionStorage.setItem(OPEN_SESSION, key);
    transcript.clear();
    field.value = drafts.get(key) ?? "";
    grow();
    sessions.mark(key);
    load();
  }

  async function load() {
    const mine = ++loads;
    heading.textContent = sessions.name(key);
    draw();
    const method = gateway.offers("chat.startup") ? "chat.startup" : "chat.history";
    const params = { sessionKey: key, limit: HISTORY_MESSAGES_MAX, maxBytes: HISTORY_BYTES_MAX };
    try {
      const answer = await gateway.request(method, params);
      if (mine !== loads) return;
      sessionId = answer.sessionId ?? "";
      transcript.replace(answer.messages ?? [], answer.hasMore === true);
    } catch (error) {
      if (mine !== loads || error.code === "DISCONNECTED") return;
      transcript.notice("error", explain(error));
    }
    draw();
    toEnd(true);
  }

  async function send(retried) {
    const text = retried ? retried.text : field.value.trim();
    if (!text || sendButton.disabled) return;
    // The key makes a repeat harmless: the gateway runs one key once, however often it arrives.
    const item = retried ?? transcript.sending(text, crypto.randomUUID());
    item.state = "sending";
    if (!retried) {
      lastSent = text;
      field.value = "";
      grow();
    }
    draw();
    toEnd(true);
    const params = { sessionKey: key, message: text, deliver: false, idempotencyKey: item.runId };
    try {
      const answer = await gateway.request("chat.send", params);
      item.state = "sent";
      if (answer?.status === "started" || answer?.status === "in_flight") transcript.runs.add(item.runId);
    } catch (error) {
      item.state = "failed";
      item.problem = explain(error);
      announce(`Not sent. ${item.problem}`, true);
    }
    sessions.refreshSoon();
    draw();
  }

  async function stop() {
    progress.textContent = "Stopping";
    try {
      await gateway.request("chat.abort", { sessionKey: key });
    } catch (error) {
      transcript.notice("error", explain(error));
    }
    draw();
  }

  function chatEvent(event) {
    if (event.state === "status") {
      transcript.runs.add(event.runId);
      progress.textContent = event.retry
        ? `The model's provider asked to wait; attempt ${event.retry.attempt} of ${event.retry.maxAttempts}`
        : PHASES[event.phase] ?? "Working";
      draw();
      return;
    }
    progress.textContent = "";
    const reload = transcript.chat(event);
    draw();
    if (event.state === "delta") return;
    if (event.state === "final") announce(`Reply: ${textOf(event.message).slice(0, ANNOUNCED_CHARS_MAX)}`);
    if (event.state === "error") announce(`The reply failed. ${event.errorMessage ?? ""}`, true);
    if (reload) load();
    sessions.refreshSoon();
  }

  function judged(decision) {
    if (decision.action === "allow") return;
    const score = decision.risk_score ?? decision.score;
    const verdict = score === undefined ? decision.action : `${decision.action}, score ${score}`;
    transcript.notice(decision.action, `Defender: ${verdict}. ${(decision.reasons ?? []).join("; ")}`);
    draw();
  }

  const nearEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  function toEnd(always) {
    if (always) log.scrollTop = log.scrollHeight;
    latest.hidden = nearEnd();
  }

  // Only what changed is rebuilt: a bubble keeps its element, and with it the reader's selection, while others move on.
  const bubbles = new Map();
  function draw() {
    const follow = nearEnd();
    const wanted = transcript.items.map((item) => {
      const known = bubbles.get(item);
      const stamp = JSON.stringify([item.state, item.text, item.problem, item.parts?.length]);
      if (known?.stamp === stamp) return known.element;
      const built = bubble(item);
      bubbles.set(item, { element: built, stamp });
      return built;
    });
    for (const item of bubbles.keys()) if (!transcript.items.includes(item)) bubbles.delete(item);
    if (transcript.hasMore) wanted.unshift(earlier);
    if (!wanted.length) wanted.push(nothing);
    // Moving an element that is already in place would drop its selection and focus.
    for (const [at, child] of wanted.entries()) {
      if (log.childNodes[at] !== child) log.insertBefore(child, log.childNodes[at] ?? null);
    }
    while (log.childNodes.length > wanted.length) log.lastChild.remove();
    const running = transcript.runs.size > 0;
    stopButton.hidden = !running || !gateway.offers("chat.abort");
    if (!running) progress.textContent = "";
    toEnd(follow);
  }
  const earlier = h("p", { class: "note" }, "Earlier messages are kept by the gateway and not shown here.");
  const nothing = empty("Nothing here yet", "Write below to start.");

  function bubble(item) {
    if (item.role === "notice") return h("p", { class: "notice", "data-kind": item.state }, item.text);
    const state = STATES[item.state];
    const folded = (title, text) => h("details", { class: "tool" }, h("summary", {}, title), block(text));
    return h("article", { class: "bubble", "data-role": item.role, "data-state": item.state },
      h("header", {}, h("span", { class: "who" }, WHO[item.role] ?? item.role),
        item.at ? clock(item.at) : null, state ? h("span", { class: "state" }, state) : null),
      item.role === "toolResult" ? folded(item.toolName || "result", item.text) : prose(item.text),
      item.parts?.map((part) => folded(`uses ${part.name}`, JSON.stringify(part.arguments ?? {}, null, 2))),
      item.problem ? h("p", { class: "problem" }, item.problem) : null,
      item.state === "failed" ? button("plain", "Send again", () => send(item)) : null);
  }

  function grow() {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 2, 220)}px`;
  }

  function keydown(event) {
    // Enter during composition picks a candidate in the input method; it is not a send.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape" && !stopButton.hidden) {
      stop();
    } else if (event.key === "ArrowUp" && !field.value && lastSent) {
      event.preventDefault();
      field.value = lastSent;
      grow();
    }
  }

  return {
    name: "chat",
    title: "Chat",
    element,
    shown: () => { toEnd(true); },
    online(hello) {
      mainKey = hello.snapshot?.sessionDefaults?.mainSessionKey ?? mainKey;
      transcript.disconnected();
      if (gateway.offers("sessions.subscribe")) {
        gateway.request("sessions.subscribe").catch((error) => transcript.notice("error", explain(error)));
      }
      sendButton.disabled = !gateway.holds("write");
      field.disabled = sendButton.disabled;
      field.placeholder = sendButton.disabled ? "This browser may read but not write" : "Message";
      sessions.refresh().then(() => { heading.textContent = sessions.name(key); });
      if (key) load();
      else openSession(sessionStorage.getItem(OPEN_SESSION) || mainKey);
    },
  };
}
