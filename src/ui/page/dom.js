// Building blocks for the views. Text enters the document as text only: nothing here parses HTML.

/** An element: `h("p", { class: "lead", onclick: f, "aria-label": "…" }, child, …)`. Null children are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...real(children));
  return element;
}

/** A button that calls `onclick`; `kind` is `primary` or `plain`. */
export function button(kind, label, onclick, attributes = {}) {
  return h("button", { type: "button", class: kind, onclick, ...attributes }, label);
}

/** A line of small facts. Strings are joined by dots, and what is missing is left out. */
export function facts(...pieces) {
  return h("p", { class: "facts" }, pieces.filter(Boolean).flatMap((piece, at) => (at ? [" · ", piece] : [piece])));
}

/** A word on a coloured ground. */
export function tag(text, tone = "") {
  return h("span", { class: `tag ${tone}` }, text);
}

/** Text as it is, in a box. Wide lines scroll sideways, so the box can be reached by keyboard. */
export function block(text) {
  return h("pre", { tabindex: "0", role: "region", "aria-label": "code" }, h("code", {}, text));
}

/** Replaces what `element` holds. */
export function fill(element, ...children) {
  element.replaceChildren(...real(children));
}

function real(children) {
  return children.flat().filter((child) => child !== null && child !== undefined && child !== false);
}

const FENCE = /```[^\n]*\n([\s\S]*?)(?:\n?```|$)/g;
const INLINE = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|(https?:\/\/[^\s<>"'`)\]]+[^\s<>"'`)\].,;:!?])/g;

/** A message's text: fenced and inline code, bold and web addresses; everything else exactly as written. */
export function prose(text) {
  const parts = document.createDocumentFragment();
  let from = 0;
  const plain = (piece) => { if (piece.trim()) parts.append(h("p", {}, ...inline(piece.replace(/^\n+|\n+$/g, "")))); };
  for (const match of text.matchAll(FENCE)) {
    plain(text.slice(from, match.index));
    parts.append(block(match[1]));
    from = match.index + match[0].length;
  }
  plain(text.slice(from));
  return parts;
}

function inline(text) {
  const parts = [];
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    parts.push(text.slice(from, match.index));
    if (match[1]) parts.push(h("code", {}, match[1]));
    else if (match[2]) parts.push(h("strong", {}, match[2]));
    else parts.push(h("a", { href: match[3], target: "_blank", rel: "noopener noreferrer" }, match[3]));
    from = match.index + match[0].length;
  }
  parts.push(text.slice(from));
  return parts;
}

/** A time of day, with the date when it was not today. */
export function clock(ms) {
  const date = new Date(ms);
  const sameDay = date.toDateString() === new Date().toDateString();
  return h("time", { datetime: date.toISOString(), title: date.toLocaleString() },
    sameDay ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
      : date.toLocaleDateString([], { day: "numeric", month: "short" }));
}

/** `3 d 4 h`, `12 min`, `8 s`. */
export function duration(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor(seconds % 86_400 / 3600)} h`;
}

/** `12 MB`. */
export function bytes(count) {
  const units = ["B", "KB", "MB", "GB"];
  const unit = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, count)) / 10)));
  const amount = count / 2 ** (10 * unit);
  return `${amount < 10 && unit > 0 ? amount.toFixed(1) : Math.round(amount)} ${units[unit]}`;
}

/** What a screen shows when a list is empty. */
export function empty(title, detail) {
  return h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), h("p", {}, detail));
}

/** Runs `task` once, `delayMs` after the last call. */
export function debounce(task, delayMs) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(task, delayMs);
  };
}

/** Lets the arrow keys, Home and End move the focus among the buttons or links of `list`. */
export function arrowKeys(list, selector) {
  list.addEventListener("keydown", (event) => {
    const items = [...list.querySelectorAll(selector)];
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (at < 0 || to === undefined || !items[to]) return;
    event.preventDefault();
    items[to].focus();
  });
}
