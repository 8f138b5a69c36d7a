// The page's frame: sign-in, connection state, and one view at a time by the address's fragment.

import { chatView } from "./chat.js";
import { decisionsView } from "./decisions.js";
import { devicesView } from "./devices.js";
import { block, button, fill, h } from "./dom.js";
import { explain } from "./errors.js";
import { healthView } from "./health.js";
import { obstacle } from "./identity.js";
import { Gateway, socketUrl } from "./socket.js";

const CREDENTIAL = "openclaw-rs.credential";
const version = document.querySelector("meta[name=openclaw-rs-version]").content;
const root = document.getElementById("app");

const gateway = new Gateway({ version, onState: show, onCredential: keep });

/** Says `text` to screen readers, at once when it is `urgent`. */
function announce(text, urgent = false) {
  document.getElementById(urgent ? "alarm" : "announcer").textContent = text;
}

// The credential lives in this tab's session storage only, and is the browser's own revocable token once there is one.
function keep(credential) {
  sessionStorage.setItem(CREDENTIAL, JSON.stringify(credential));
}

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(CREDENTIAL));
  } catch {
    return null;
  }
}

// `#token=…` signs in and leaves the address at once, so that it is neither bookmarked nor shared. Only the fragment
// counts: a query goes to servers and their logs.
function tokenFromFragment() {
  const match = /^#(?:.*&)?token=([^&]+)/.exec(location.hash);
  if (!match) return null;
  history.replaceState(null, "", location.pathname);
  try {
    return decodeURIComponent(match[1]);
  } catch {
    return match[1];
  }
}

let shell = null;

function show(state) {
  if (state.name === "online") {
    shell ??= buildShell();
    if (!shell.element.isConnected) {
      fill(root, shell.element);
      shell.stage.focus();
    }
    shell.online(state.hello);
  }
  if (state.name === "refused") {
    sessionStorage.removeItem(CREDENTIAL);
    signIn(explain(state.error));
  } else if (shell?.element.isConnected) {
    shell.connection(state);
  } else if (state.name === "pairing") {
    waitForApproval(state);
  } else if (state.name === "waiting" || state.name === "connecting") {
    connecting(state);
  }
}

function brand() {
  return h("div", { class: "brand" },
    h("img", { src: "./page/icon.svg", alt: "", width: "28", height: "28" }), "openclaw-rs");
}

function card(...children) {
  fill(root, h("main", { class: "door" }, h("div", { class: "card" }, brand(), ...children)));
}

function signIn(problem) {
  document.title = "Sign in · openclaw-rs";
  const blocked = obstacle();
  if (blocked) {
    card(h("h1", {}, "Sign in"), h("p", { class: "problem", role: "alert" }, blocked));
    return;
  }
  const input = h("input", {
    id: "secret", name: "secret", type: "password", autocomplete: "current-password", spellcheck: "false",
    autocapitalize: "none", "aria-describedby": problem ? "problem help" : "help",
    "aria-invalid": problem ? "true" : null,
  });
  const reveal = button("plain", "Show", () => {
    const hidden = input.type === "password";
    input.type = hidden ? "text" : "password";
    reveal.setAttribute("aria-pressed", String(hidden));
    input.focus();
  }, { "aria-pressed": "false", "aria-controls": "secret" });
  const submit = (event) => {
    event.preventDefault();
    const value = input.value.trim();
    gateway.open(value ? { kind: "secret", value } : { kind: "none", value: "" });
  };
  card(
    h("h1", {}, "Sign in"),
    h("p", { class: "where" }, socketUrl()),
    problem ? h("p", { class: "problem", id: "problem", role: "alert" }, problem) : null,
    h("form", { onsubmit: submit },
      h("label", { for: "secret" }, "Token or password"),
      h("div", { class: "secret" }, input, reveal),
      h("button", { type: "submit", class: "primary" }, "Connect")),
    h("p", { class: "help", id: "help" },
      "The gateway prints an address with its token when it starts for the first time; later it is gateway.auth.token ",
      "in its configuration. Leave the field empty if the gateway asks for neither."),
  );
  input.focus();
}

function connecting(state) {
  document.title = "Connecting · openclaw-rs";
  const waiting = state.name === "waiting";
  const why = state.error ? explain(state.error) : "The gateway does not answer.";
  card(
    h("h1", {}, "Connecting"),
    h("p", { class: "where" }, socketUrl()),
    h("p", { role: "status" }, waiting ? `${why} Trying again shortly.` : "Waiting for the gateway."),
    h("div", { class: "row" },
      waiting ? button("primary", "Try now", () => gateway.retryNow()) : null,
      button("plain", "Use another token", signOut)),
  );
}

function waitForApproval({ error }) {
  document.title = "Approval needed · openclaw-rs";
  const request = error.details.requestId;
  card(
    h("h1", {}, "Approve this browser"),
    h("p", {}, "The token is right, but this browser is new to the gateway. Approve it under Devices on a page ",
      "that is signed in, or on the gateway's machine:"),
    request ? block(`openclaw-rs devices approve ${request}`) : null,
    h("p", { role: "status" }, "This page goes on by itself once that is done."),
    h("div", { class: "row" }, button("plain", "Cancel", signOut)),
  );
}

function signOut() {
  gateway.close();
  sessionStorage.clear();
  // What was shown goes with the page: the next person at this screen starts with nothing.
  location.reload();
}

function buildShell() {
  const badge = (name, count) => {
    const mark = links.get(name).querySelector(".badge");
    mark.textContent = count ? String(count) : "";
    mark.hidden = !count;
  };
  const context = { gateway, announce, badge };
  const views = [chatView(context), decisionsView(context), devicesView(context), healthView(context)];
  const links = new Map(views.map((view) => [view.name, h("a", { href: `#${view.name}` },
    h("span", {}, view.title), h("span", { class: "badge", hidden: true }))]));
  const stage = h("main", { id: "stage", tabindex: "0" });
  const pill = h("span", { class: "pill", role: "status" });
  const banner = h("div", { class: "banner", role: "status", hidden: true });
  const keys = helpDialog();
  const element = h("div", { class: "shell" },
    button("skip", "Skip to content", () => stage.focus()),
    h("header", {}, brand(), pill, h("span", { class: "gap" }),
      button("plain keys", "Keys", () => keys.showModal()), button("plain", "Sign out", signOut)),
    h("nav", { "aria-label": "Views" }, ...links.values()),
    banner, stage, keys);

  let shown = null;
  const route = () => {
    if (!element.isConnected) return;
    const wanted = views.find((view) => location.hash === `#${view.name}` && !links.get(view.name).hidden) ?? views[0];
    for (const [name, link] of links) {
      if (name === wanted.name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.title = `${wanted.title} · openclaw-rs`;
    if (shown === wanted) return;
    shown = wanted;
    fill(stage, wanted.element);
    wanted.shown?.();
  };
  addEventListener("hashchange", route);
  addEventListener("keydown", (event) => {
    // By place on the keyboard: with Shift held the digit row types other characters.
    const held = event.ctrlKey && event.shiftKey && !event.altKey;
    const view = held ? views[Number(event.code.replace("Digit", "")) - 1] : undefined;
    if (!view || !element.isConnected || links.get(view.name).hidden) return;
    event.preventDefault();
    location.hash = view.name;
  });
  addEventListener("online", () => gateway.retryNow());
  document.addEventListener("visibilitychange", () => { if (!document.hidden) gateway.retryNow(); });

  let countdown;
  return {
    element,
    stage,
    online(hello) {
      // A view whose method the gateway does not offer, or this browser may not call, is not shown at all.
      for (const view of views) links.get(view.name).hidden = view.available ? !view.available() : false;
      route();
      for (const view of views) view.online?.(hello);
      announce("Connected to the gateway.");
    },
    connection(state) {
      clearInterval(countdown);
      const name = state.name === "online" ? "live" : state.name === "connecting" ? "connecting" : "offline";
      pill.dataset.state = name;
      pill.textContent = { live: "Live", connecting: "Connecting", offline: "Offline" }[name];
      element.dataset.connection = name;
      banner.hidden = name === "live";
      if (name === "live") return;
      const wait = h("span", { "aria-hidden": "true" });
      const tick = () => {
        const seconds = Math.max(0, Math.ceil(((state.retryAt ?? Date.now()) - Date.now()) / 1000));
        wait.textContent = seconds ? ` Trying again in ${seconds} s.` : " Trying again.";
      };
      tick();
      countdown = setInterval(tick, 1000);
      fill(banner, h("span", {}, state.error ? explain(state.error) : "The connection to the gateway is gone."), wait,
        state.name === "connecting" ? null : button("plain", "Try now", () => gateway.retryNow()));
    },
  };
}

function helpDialog() {
  const rows = [
    [["Enter"], "send the message"],
    [["Shift", "Enter"], "new line"],
    [["Esc"], "stop the running reply (in the message field)"],
    [["↑"], "bring back your last message (in an empty field)"],
    [["↑", "↓"], "move in the list of sessions"],
    [["Ctrl", "Shift", "1–4"], "Chat, Decisions, Devices, Health"],
  ];
  const row = ([keys, does]) => h("div", {}, h("dt", {}, keys.map((key) => h("kbd", {}, key))), h("dd", {}, does));
  const dialog = h("dialog", { "aria-labelledby": "keys-title" },
    h("h2", { id: "keys-title" }, "Keyboard"),
    h("dl", { class: "keylist" }, rows.map(row)),
    button("primary", "Close", () => dialog.close()));
  return dialog;
}

const token = tokenFromFragment();
const credential = token ? { kind: "secret", value: token } : kept();
if (credential && !obstacle()) gateway.open(credential);
else signIn();
addEventListener("hashchange", () => {
  const value = tokenFromFragment();
  if (value && !obstacle()) gateway.open({ kind: "secret", value });
});
