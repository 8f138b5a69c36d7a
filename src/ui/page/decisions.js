// The defender's decisions as they are made, newest first, each with its reasons.

import { clock, empty, facts, fill, h, tag } from "./dom.js";

/** Decisions kept on the page; the gateway keeps its own record. */
const KEPT_MAX = 200;
const ACTIONS = ["block", "review", "allow"];
const LEAD = "What the defender decided about messages, commands, addresses and files since this page connected.";

export function decisionsView({ gateway, announce, badge }) {
  let kept = [];
  let filter = "all";
  let unseen = 0;
  const counts = new Map();
  const list = h("ol", { class: "decisions", "aria-label": "Decisions, newest first" });
  const choices = h("div", { class: "segments", role: "group", "aria-label": "Show" });
  for (const name of ["all", ...ACTIONS]) {
    const count = h("span", { class: "count" });
    counts.set(name, count);
    choices.append(h("button", { type: "button", "data-filter": name, onclick: () => choose(name) },
      name.charAt(0).toUpperCase() + name.slice(1), count));
  }
  const element = h("div", { class: "page" },
    h("div", { class: "page-head" }, h("h1", {}, "Decisions"), choices),
    h("p", { class: "lead" }, LEAD),
    list);

  // The event's name can be configured, so its shape is what counts.
  gateway.on("*", (payload, frame) => {
    const decision = payload?.decision;
    if (!ACTIONS.includes(decision?.action)) return;
    kept.unshift({ ...payload, decision, event: frame.event, at: Date.now() });
    kept = kept.slice(0, KEPT_MAX);
    if (!element.isConnected && decision.action !== "allow") badge("decisions", ++unseen);
    if (decision.action === "block") announce(`The defender blocked an action. ${(decision.reasons ?? [])[0] ?? ""}`);
    draw();
  });

  function choose(name) {
    filter = name;
    for (const choice of choices.children) choice.setAttribute("aria-pressed", String(choice.dataset.filter === name));
    draw();
  }

  function draw() {
    for (const [name, count] of counts) {
      const number = name === "all" ? kept.length : kept.filter((row) => row.decision.action === name).length;
      count.textContent = number ? ` ${number}` : "";
    }
    const rows = kept.filter((row) => filter === "all" || row.decision.action === filter);
    fill(list, rows.length ? rows.map(entry) : h("li", { class: "bare" }, filter === "all"
      ? empty("Nothing judged yet", "Decisions appear here the moment they are made.")
      : empty(`No ${filter} decisions`, "Other decisions are under All.")));
  }

  function entry(row) {
    row.element ??= build(row);
    return row.element;
  }

  function build({ decision, at, sessionId, channel, source }) {
    const score = decision.risk_score ?? decision.score;
    const bar = h("span", { class: "bar-fill" });
    bar.style.width = `${Math.min(100, Math.max(0, score ?? 0))}%`;
    return h("li", { class: "decision", "data-action": decision.action },
      h("div", { class: "decision-top" },
        h("span", { class: "action" }, decision.action),
        score === undefined ? null
          : h("span", { class: "score" }, h("span", { class: "bar", "aria-hidden": "true" }, bar), `score ${score}`),
        h("span", { class: "gap" }), clock(at)),
      decision.reasons?.length ? h("ul", { class: "reasons" }, decision.reasons.map((reason) => h("li", {}, reason)))
        : h("p", { class: "quiet" }, "No findings."),
      facts(source, channel && `channel ${channel}`, sessionId && `session ${sessionId}`),
      decision.tags?.length ? h("p", { class: "tags" }, decision.tags.map((name) => [tag(name), " "]).flat()) : null);
  }

  choose(filter);
  return {
    name: "decisions",
    title: "Decisions",
    element,
    available: () => gateway.holds("read"),
    shown() { unseen = 0; badge("decisions", 0); },
  };
}
