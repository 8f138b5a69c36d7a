#!/usr/bin/env bash
# Starts the published upstream gateway the way it is measured: loopback, token, no channel, no model unless the measure has
# put a configuration with one into STATE_DIR.
#   start-upstream.sh PEERS PORT TOKEN STATE_DIR
# PEERS is the folder below which the package and a Node that runs it are installed.
set -euo pipefail
peers="$1" port="$2" token="$3" state="$4"
mkdir -p "$state/workspace"
# Without a model the port is not known before.
grep -qs '"models"' "$state/openclaw.json" || cat >"$state/openclaw.json" <<JSON
{
  "gateway": { "mode": "local", "port": $port, "bind": "loopback", "auth": { "mode": "token", "token": "$token" } },
  "update": { "checkOnStart": false },
  "agents": { "defaults": { "workspace": "$state/workspace", "skipBootstrap": true }, "entries": { "main": {} } }
}
JSON
export OPENCLAW_STATE_DIR="$state" OPENCLAW_CONFIG_PATH="$state/openclaw.json" OPENCLAW_SKIP_CHANNELS=1
# exec: the process that was started is the one that is measured and stopped.
exec "$peers/node/node_modules/node/bin/node" "$peers/oc96/node_modules/openclaw/openclaw.mjs" gateway run --port "$port"
