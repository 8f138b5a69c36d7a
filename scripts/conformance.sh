#!/usr/bin/env bash
# Runs the published clients of both released gateways, and their recorded answers, against our binary.
#
# usage: scripts/conformance.sh [--short] [--only cli,client,openai,tui,replay,schema,ui] [--against 2026.9.6|2026.2.21] [--raise]
#
#   (a) cli     the real command lines of 2026.9.6 and 2026.2.21, each in a home of its own
#   (b) client  @openclaw/gateway-client: connect, request, event, reconnect, refusal
#   (c) schema  every answer seen in the run, against the JSON schema of its protocol
#   (d) replay  the recordings of fixtures/recordings, all families, both protocols
#   (e) ui      both released Control UI builds served by our binary, signed in to in a real browser; screenshots in target/conformance
#   (f) tui     the terminal pages of both released command lines, on a terminal that `script` (util-linux) makes
#   (g) openai  the published `openai` package: models, completions, tools, responses, whole and streamed
#
# --short leaves out (d), which `cargo test` holds for the families that are built, (e) and (f).
# --against calibrates the judges on a released gateway instead of ours (and holds no floor).
# --raise writes what was reached into scripts/conformance/floor.json; its numbers only rise.
#
# PEERS: where the packages are installed (default .peers, which git ignores). OPENCLAW_RS_BIN: the binary (default: built here).
# Exit status 1: something is below the floor.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
export PEERS=${PEERS:-$root/.peers}

"$root/scripts/conformance/install.sh" "$@"

if [[ " $* " != *" --against "* ]] && [[ -z "${OPENCLAW_RS_BIN:-}" ]]; then
  cargo build --quiet --locked --bin openclaw-rs
  export OPENCLAW_RS_BIN="${CARGO_TARGET_DIR:-$root/target}/debug/openclaw-rs"
fi
exec "$PEERS/node/node_modules/node/bin/node" "$root/scripts/conformance/main.mjs" "$@"
