// The list of sessions beside the chat.

import { arrowKeys, button, clock, debounce, empty, fill, h } from "./dom.js";
import { explain } from "./errors.js";

/** Most rows asked for and shown. */
const ROWS_MAX = 100;
const WANTED = { limit: ROWS_MAX, includeDerivedTitles: true, includeLastMessage: true };
const REFRESH_MS = 400;

/** A list that calls `select(key)`; `refresh` asks the gateway again, `mark(key)` says which one is open. */
export function sessionList({ gateway, select, create }) {
  let rows = [];
  let open = "";
  let problem = null;
  const list = h("ul", { class: "sessions" });
  arrowKeys(list, "button");
  const element = h("section", { class: "aside", "aria-label": "Sessions" },
    h("div", { class: "aside-head" }, h("h2", {}, "Sessions"),
      button("plain", "New", create, { "aria-label": "New session" })),
    list);

  function draw() {
    if (problem) {
      fill(list, h("li", {}, h("p", { class: "problem" }, problem)));
      return;
    }
    const shown = rows.some((row) => row.key === open) || !open ? rows : [{ key: open }, ...rows];
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    fill(list, shown.length ? shown.map(entry) : h("li", {}, empty("No sessions yet", "Send a message to start one.")));
    if (focused) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  function entry(row) {
    return h("li", {}, h("button", {
      type: "button", class: "session", "data-key": row.key, title: row.key,
      "aria-current": row.key === open ? "true" : null, onclick: () => select(row.key),
    },
      h("span", { class: "session-top" },
        h("span", { class: "session-name" }, title(row)),
        row.hasActiveRun ? h("span", { class: "running" }, "running") : row.updatedAt ? clock(row.updatedAt) : null),
      row.lastMessagePreview ? h("span", { class: "preview" }, row.lastMessagePreview) : null));
  }

  async function refresh() {
    if (!gateway.offers("sessions.list")) return;
    try {
      const answer = await gateway.request("sessions.list", WANTED);
      rows = answer.sessions ?? [];
      problem = null;
    } catch (error) {
      if (error.code === "DISCONNECTED") return;
      problem = explain(error);
    }
    draw();
  }

  return {
    element,
    refresh,
    refreshSoon: debounce(refresh, REFRESH_MS),
    mark(key) { open = key; draw(); },
    name(key) { return title(rows.find((row) => row.key === key) ?? { key }); },
  };
}

/** What to call a session: its own name, else the readable part of its key. */
function title(row) {
  return row.label || row.displayName || row.derivedTitle || row.key.replace(/^agent:[^:]+:/, "");
}
