#!/usr/bin/env bash
# Kills the gateway with SIGKILL at random points of its turns and looks at what is left: nothing that was acknowledged
# may be lost, no reply said twice, no session stuck. Prints the seed and the counts.
#
# usage: scripts/chaos.sh [KILLS [SEED]]     (default: 2000 kills, a seed of the moment)
set -euo pipefail
cd "$(dirname "$0")/.."
export CHAOS_KILLS=${1:-2000} CHAOS_SEED=${2:-$(date +%s)}
exec cargo test --quiet --locked --test it chaos:: -- --nocapture
