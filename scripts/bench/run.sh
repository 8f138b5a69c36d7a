#!/usr/bin/env bash
# Measures the gateway as a whole process, beside a bare echo server in the same run, and holds it to the design's limits.
#
#   scripts/bench/run.sh [--upstream] [--check] [--quick] [--binary FILE]
#
# Measured is the static binary (scripts/build-static.sh) when there is one, else a release build. --upstream measures the
# published upstream gateway too, where it is installed below $PEERS (default .peers, which scripts/conformance.sh fills).
# --check exits non-zero when a limit is not kept. --quick shows in seconds that everything works; its figures mean little.
# The table goes to the terminal, everything to bench-results/DATE-COMMIT.json.
set -euo pipefail
cd "$(dirname "$0")/../.."

peers="${PEERS:-.peers}"
upstream=no
binary=""
options=()
while [ $# -gt 0 ]; do
  case "$1" in
    --upstream) upstream=yes; shift ;;
    --check | --quick) options+=("$1"); shift ;;
    --binary) binary="${2:?--binary needs a file}"; shift 2 ;;
    -h | --help) sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "unknown argument: $1" >&2; exit 2 ;;
  esac
done

if [ -z "$binary" ]; then
  binary="target/static/openclaw-rs"
  if [ -e "$binary" ]; then
    newer="$(find src Cargo.toml Cargo.lock -newer "$binary" -type f | head -n 1)"
    [ -z "$newer" ] || echo "note: $binary is older than $newer; scripts/build-static.sh makes a new one" >&2
  else
    cargo build --release --locked --bin openclaw-rs
    binary="target/release/openclaw-rs"
  fi
fi
cargo build --release --locked --quiet --manifest-path scripts/bench/harness/Cargo.toml --target-dir target/bench-harness

# A thousand connections have two ends, one of them in the driver.
ulimit -n "$(ulimit -H -n)"
commit="$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
out="bench-results/$(date -u +%Y%m%dT%H%M%SZ)-$commit.json"
targets=(--target openclaw-rs "$(realpath "$binary") gateway run --state-dir {state} --port {port} --token {token}")
if [ "$upstream" = yes ]; then
  peers="$(cd "$peers" 2>/dev/null && pwd)" || { echo "no upstream below ${PEERS:-.peers}" >&2; exit 2; }
  version="$("$peers/node/node_modules/node/bin/node" -p 'require(process.argv[1]).version' \
    "$peers/oc96/node_modules/openclaw/package.json")"
  targets+=(--target "upstream-$version" "$PWD/scripts/bench/start-upstream.sh $peers {port} {token} {state}")
fi
exec target/bench-harness/release/drive --label "$commit" --out "$out" ${options[@]+"${options[@]}"} "${targets[@]}"
