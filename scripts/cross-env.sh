# shellcheck shell=bash
# Sourced by the build scripts: what both need to build for a C library other than this machine's.
#
# The C parts (SQLite, ring) and the link step go through zig, because one pinned download then serves musl, an old glibc and
# another processor alike, and none of it touches the system's compiler. It lives in target/, so removing target/ removes it.

ZIG_VERSION="${ZIG_VERSION:-0.17.0}"
CARGO_ZIGBUILD_VERSION="${CARGO_ZIGBUILD_VERSION:-0.24.0}"

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
tools="$repo/target/cross-tools"

say() { printf '== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# apt_install PACKAGE...: installs what is missing, or says which command would.
apt_install() {
  local missing=()
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null || die "missing packages: ${missing[*]} (named as on Debian)"
  [ "$(id -u)" -eq 0 ] || die "missing packages; run: sudo apt-get install --no-install-recommends ${missing[*]}"
  say "installing ${missing[*]}"
  # The lists are refreshed only when the packages are not known, so that a second run needs no network.
  apt-cache show "${missing[@]}" >/dev/null 2>&1 || apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# need COMMAND PACKAGE: a command, installed from its package when it is not there.
need() { command -v "$1" >/dev/null || apt_install "$2"; }

# Puts cargo-zigbuild on PATH and tells it which zig to use.
ensure_zig() {
  local wanted="ziglang==$ZIG_VERSION cargo-zigbuild==$CARGO_ZIGBUILD_VERSION"
  if [ "$(cat "$tools/installed" 2>/dev/null)" != "$wanted" ]; then
    need python3 python3
    rm -rf "$tools"
    mkdir -p "$tools"
    python3 -m venv "$tools" 2>/dev/null || { apt_install python3-venv && python3 -m venv "$tools"; }
    say "installing $wanted below ${tools#"$repo"/}"
    # shellcheck disable=SC2086
    "$tools/bin/pip" install --quiet --disable-pip-version-check $wanted
    printf '%s\n' "$wanted" >"$tools/installed"
  fi
  # Named outright: left alone, cargo-zigbuild asks the first python3 on PATH, which knows nothing of this folder.
  CARGO_ZIGBUILD_ZIG_PATH="$(echo "$tools"/lib/python3*/site-packages/ziglang/zig)"
  export CARGO_ZIGBUILD_ZIG_PATH
  [ -x "$CARGO_ZIGBUILD_ZIG_PATH" ] || die "no zig below $tools"
  PATH="$PATH:$tools/bin"
  command -v cargo-zigbuild >/dev/null || die "no cargo-zigbuild below $tools"
}
