// Health: what the gateway says of itself, and who is connected to it.

import { button, bytes, clock, debounce, duration, empty, facts, fill, h, tag } from "./dom.js";
import { explain } from "./errors.js";

const UPTIME_REDRAW_MS = 5000;
const REFRESH_MS = 400;

export function healthView({ gateway }) {
  let health = null;
  let status = null;
  let presence = [];
  let hello = null;
  let startedAt = 0;
  let roundTripMs = null;
  let heardAt = 0;
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const tiles = h("dl", { class: "tiles" });
  const channels = h("div", { class: "cards" });
  const people = h("div", { class: "cards" });
  const element = h("div", { class: "page" },
    h("div", { class: "page-head" }, h("h1", {}, "Health"), button("plain", "Refresh", () => refresh())),
    problem, tiles, h("h2", {}, "Channels"), channels, h("h2", {}, "Connected"), people);

  gateway.on("health", (payload) => { health = payload; draw(); });
  gateway.on("presence", (payload) => { presence = payload.presence ?? []; draw(); });
  gateway.on("tick", () => { heardAt = Date.now(); draw(); });
  gateway.on("shutdown", (payload) => {
    problem.hidden = false;
    problem.textContent = `The gateway is stopping: ${payload.reason ?? "no reason given"}.`;
  });
  gateway.on("sessions.changed", debounce(() => { if (element.isConnected) refresh(); }, REFRESH_MS * 10));
  setInterval(() => { if (element.isConnected) draw(); }, UPTIME_REDRAW_MS);

  async function refresh() {
    const asked = performance.now();
    try {
      health = await gateway.request("health");
      roundTripMs = performance.now() - asked;
      heardAt = Date.now();
      if (gateway.offers("status") && gateway.holds("read")) status = await gateway.request("status");
      problem.hidden = true;
    } catch (error) {
      if (error.code === "DISCONNECTED") return;
      problem.hidden = false;
      problem.textContent = explain(error);
    }
    draw();
  }

  function draw() {
    if (!hello) return;
    const connected = presence.filter((entry) => entry.mode !== "gateway" && entry.reason !== "disconnect");
    const memory = status?.processMemory?.rssBytes ?? status?.memory?.rssBytes;
    const silence = Date.now() - heardAt;
    const state = !health ? ["Unknown"] : health.ok === false ? ["Degraded", "bad"] : ["Healthy", "good"];
    const rows = [
      ["State", ...state],
      // The page is compiled in, so its version is the program's; the gateway names the release it speaks as.
      ["Version", gateway.version],
      ["Speaks as", hello.server?.version],
      ["Up for", startedAt ? duration(Date.now() - startedAt) : null],
      ["Round trip", roundTripMs === null ? null : `${roundTripMs.toFixed(roundTripMs < 10 ? 1 : 0)} ms`],
      ["Last heard", silence < 2000 ? "just now" : `${duration(silence)} ago`],
      ["Sessions", status?.sessions?.count ?? health?.sessions?.count],
      ["Memory", memory ? bytes(memory) : null],
    ];
    fill(tiles, rows.filter(([, value]) => value !== null && value !== undefined).map(([name, value, mood]) =>
      h("div", { class: "tile", "data-mood": mood }, h("dt", {}, name), h("dd", {}, String(value)))));
    const order = health?.channelOrder?.length ? health.channelOrder : Object.keys(health?.channels ?? {});
    fill(channels, order.length ? order.map((id) => channel(id, health.channels?.[id] ?? {}))
      : empty("No channels", "Chat services appear here once one is configured."));
    fill(people, connected.length ? connected.map(person)
      : empty("Nobody else", "Apps, nodes and other pages appear here while they are connected."));
  }

  function channel(id, state) {
    return h("article", { class: "item" }, h("h3", {}, health.channelLabels?.[id] ?? id),
      facts(state.configured === false ? "not configured" : "configured", state.running && "running",
        state.connected && "connected", state.linked === false && "not linked"),
      state.lastError ? h("p", { class: "problem" }, String(state.lastError)) : null);
  }

  function person(entry) {
    return h("article", { class: "item" },
      h("h3", {}, entry.host || entry.clientId || entry.mode || "client",
        entry.instanceId === gateway.instanceId ? tag("this page") : null),
      facts(entry.mode, entry.platform, entry.version && `version ${entry.version}`, entry.ip),
      facts(h("span", {}, "since ", clock(entry.onlineSince ?? entry.ts ?? Date.now()))));
  }

  return {
    name: "health",
    title: "Health",
    element,
    shown: refresh,
    online(greeting) {
      hello = greeting;
      presence = greeting.snapshot?.presence ?? [];
      if (Object.keys(greeting.snapshot?.health ?? {}).length) health = greeting.snapshot.health;
      startedAt = greeting.snapshot?.uptimeMs === undefined ? 0 : Date.now() - greeting.snapshot.uptimeMs;
      heardAt = Date.now();
      problem.hidden = true;
      draw();
      if (element.isConnected) refresh();
    },
  };
}
