// Devices: who asks to be let in, and who already is.

import { button, clock, debounce, empty, facts, fill, h, tag } from "./dom.js";
import { explain } from "./errors.js";

const REFRESH_MS = 300;

export function devicesView({ gateway, announce, badge }) {
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const pending = h("div", { class: "cards" });
  const paired = h("div", { class: "cards" });
  const element = h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", {}, "Devices")), problem,
    h("h2", {}, "Waiting for approval"), pending, h("h2", {}, "Approved"), paired);

  async function refresh() {
    try {
      const answer = await gateway.request("device.pair.list");
      tell(null);
      draw(answer.pending ?? [], answer.paired ?? []);
    } catch (error) {
      if (error.code !== "DISCONNECTED") tell(error);
    }
  }
  const refreshSoon = debounce(refresh, REFRESH_MS);
  const available = () => gateway.offers("device.pair.list") && gateway.holds("pairing");
  for (const name of ["device.pair.requested", "device.pair.resolved", "device.pair.changed"]) {
    gateway.on(name, () => {
      if (!available()) return;
      if (name === "device.pair.requested") announce("A device asks to be let in. See Devices.");
      refreshSoon();
    });
  }

  function tell(error) {
    problem.hidden = !error;
    problem.textContent = error ? explain(error) : "";
  }

  async function decide(method, requestId, done) {
    try {
      await gateway.request(method, { requestId });
      announce(done);
    } catch (error) {
      tell(error);
    }
    refreshSoon();
  }

  function draw(asking, known) {
    badge("devices", asking.length);
    fill(pending, asking.length ? asking.map(request)
      : empty("Nobody is waiting", "A device that needs approval appears here at once."));
    fill(paired, known.length ? known.map(device) : empty("No devices", "None has been approved yet."));
  }

  function request(one) {
    const choice = (kind, label, method, done) =>
      button(kind, label, () => decide(method, one.requestId, done), { "aria-label": `${label} ${nameOf(one)}` });
    return h("article", { class: "item attention" }, h("h3", {}, nameOf(one)), about(one),
      facts(h("span", {}, "asked ", clock(one.ts)), one.isRepair && "known before"),
      h("div", { class: "row" },
        choice("primary", "Approve", "device.pair.approve", "Device approved."),
        choice("plain", "Reject", "device.pair.reject", "Device rejected.")));
  }

  function device(one) {
    return h("article", { class: "item" },
      h("h3", {}, nameOf(one), one.deviceId === gateway.identity?.id ? tag("this browser") : null,
        one.connected ? tag("connected", "good") : null),
      about(one), facts(h("span", {}, "approved ", clock(one.approvedAtMs ?? one.createdAtMs ?? 0))));
  }

  function about(one) {
    const scopes = (one.scopes ?? []).map((scope) => scope.replace("operator.", "")).join(", ");
    return [
      facts(one.roles?.join(", ") || one.role, one.platform, one.remoteIp),
      scopes ? facts(`may: ${scopes}`) : null,
      facts(h("span", { class: "mono", title: one.deviceId }, `${one.deviceId.slice(0, 16)}…`)),
    ];
  }

  return {
    name: "devices",
    title: "Devices",
    element,
    available,
    shown: refresh,
    online() { if (available()) refresh(); },
  };
}

function nameOf(one) {
  return one.label || one.displayName || one.clientId || "device";
}
