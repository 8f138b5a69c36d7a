#!/usr/bin/env bash
# Builds the one-file release: a fully static binary that needs nothing on the machine it is copied to.
#
#   scripts/build-static.sh [--target TRIPLE] [--route rustup|debian]
#
# TRIPLE is x86_64-unknown-linux-musl (default on x86-64) or aarch64-unknown-linux-musl.
# The result is target/static/openclaw-rs; one for another processor gets its name appended (openclaw-rs-aarch64).
#
# The standard library is built with the program, for size and without what symbolises backtraces, which a stripped file
# has no names for: half a megabyte less. Two routes lead to its sources. `rustup` fetches those of the pinned toolchain and
# is tried first. `debian` is for machines that cannot reach it: Debian's own compiler and sources.
# Nothing is left outside target/ but the packages that apt installs. The script may be run again at any time.
set -euo pipefail
# shellcheck source=scripts/cross-env.sh
source "$(dirname "${BASH_SOURCE[0]}")/cross-env.sh"
cd "$repo"

# Largest release that is accepted, in bytes: the budget in ARCHITECTURE.md.
BINARY_BYTES_MAX=8000000

target="$(uname -m)-unknown-linux-musl"
route=""
while [ $# -gt 0 ]; do
  case "$1" in
    --target) target="${2:?--target needs a triple}"; shift 2 ;;
    --route) route="${2:?--route needs rustup or debian}"; shift 2 ;;
    -h | --help) sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) die "unknown argument: $1" ;;
  esac
done

# The lowest common processor of each architecture, whatever a user's own cargo configuration says: the binary is copied
# to machines we do not know.
case "$target" in
  x86_64-unknown-linux-musl) cpu="x86-64" ;;
  aarch64-unknown-linux-musl) cpu="generic" ;;
  *) die "unsupported target: $target" ;;
esac

rustup_route_works() { command -v rustup >/dev/null && rustup component add rust-src >/dev/null 2>&1; }

case "$route" in
  "") if rustup_route_works; then route=rustup; else route=debian; fi ;;
  rustup) rustup_route_works || die "rustup cannot add rust-src to this toolchain" ;;
  debian) ;;
  *) die "unknown route: $route" ;;
esac

ensure_zig
# The C parts for size: SQLite is half a megabyte smaller and waits for the disk anyway. They carry no tables for unwinding:
# no panic goes through C (what SQLite calls back catches its own).
declare -x "CFLAGS_${target//-/_}=-Os -fno-asynchronous-unwind-tables -fno-unwind-tables"
# What of SQLite no statement of ours uses. Whoever comes to need one of them takes it off these lists.
unused=(ENABLE_FTS3 ENABLE_FTS3_PARENTHESIS ENABLE_FTS5 ENABLE_RTREE ENABLE_DBSTAT_VTAB ENABLE_STAT4 ENABLE_API_ARMOR
  ENABLE_LOAD_EXTENSION ENABLE_COLUMN_METADATA SOUNDEX)
left_out=(AUTHORIZATION COMPILEOPTION_DIAGS COMPLETE DATETIME_FUNCS DECLTYPE DEPRECATED DESERIALIZE GET_TABLE
  INTROSPECTION_PRAGMAS LOAD_EXTENSION PROGRESS_CALLBACK SHARED_CACHE TCL_VARIABLE TRACE UTF16)
export LIBSQLITE3_FLAGS="${unused[*]/#/-USQLITE_} ${left_out[*]/#/-DSQLITE_OMIT_} -DSQLITE_UNTESTABLE"
# Frame pointers make the tables for unwinding smaller by more than they cost in code.
# link-self-contained=no: zig has the start files, which Debian does not ship.
flags="-C target-feature=+crt-static -C relocation-model=static -C target-cpu=$cpu -C force-frame-pointers=yes"
# fmt-debug=shallow: what is derived for logs says which kind of thing it is and leaves out its fields.
flags="$flags -C link-self-contained=no -Z fmt-debug=shallow"
# use-sync-unwind: the tables for unwinding are right where a call may unwind, and not between all other instructions.
# panic-in-drop=abort: what cleans up after a destructor that panics is left out. None of ours does; one that did would end
# the process, as it does everywhere while another panic unwinds. All other panics are caught as ever.
flags="$flags -Z use-sync-unwind=yes -Z panic-in-drop=abort"
# location-detail=line: a panic says its thread, its message and the line, and not the file: their names, columns and
# repetitions are a hundred kilobytes.
flags="$flags -Z location-detail=line"
build=(cargo-zigbuild zigbuild --locked --release --bin openclaw-rs --target "$target"
  -Z build-std=std,panic_unwind -Z build-std-features=panic-unwind,optimize_for_size)
# The switch lets a stable compiler build its own standard library.
export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="target/static-$route" RUSTFLAGS="$flags"
say "building for $target by the $route route"
case "$route" in
  rustup) "${build[@]}" ;;
  debian)
    apt_install rustc-web cargo-web rust-web-src
    # /usr/bin first: rustup's proxies of the same names must not be found.
    PATH="/usr/bin:/bin:$PATH" RUSTC=/usr/bin/rustc "${build[@]}"
    ;;
esac

case "$target" in
  "$(uname -m)"-*) binary="target/static/openclaw-rs" ;;
  *) binary="target/static/openclaw-rs-${target%%-*}" ;;
esac
mkdir -p target/static
# Replaced by renaming, so that a copy that is running just now keeps its file.
cp "target/static-$route/$target/release/openclaw-rs" "$binary.new"
mv "$binary.new" "$binary"

say "checking $binary"
need file file
described="$(file -b "$binary")"
case "$described" in
  *"statically linked"* | *"static-pie linked"*) echo "linked:  $described" ;;
  *) die "not static: $described" ;;
esac

size_bytes="$(stat -c %s "$binary")"
echo "size:    $size_bytes bytes, $BINARY_BYTES_MAX allowed"

# A root folder that holds the binary and nothing else.
empty_root="$(mktemp -d)"
gateway=""
clean_up() {
  [ -z "$gateway" ] || kill -KILL "$gateway" 2>/dev/null || true
  rm -rf "$empty_root"
}
trap clean_up EXIT
cp "$binary" "$empty_root/openclaw-rs"
if [ "$(id -u)" -eq 0 ]; then in_empty_root=(chroot "$empty_root"); else
  in_empty_root=(unshare --map-root-user chroot "$empty_root")
fi

# serves_in_empty_root: a gateway starts there, makes its state, and answers a client that finds it by that state.
serves_in_empty_root() {
  local said
  said="$(mktemp)"
  "${in_empty_root[@]}" /openclaw-rs gateway run --state-dir /state --port 0 >"$said" 2>&1 &
  gateway=$!
  for _ in $(seq 100); do
    grep -q '^listening on' "$said" && break
    sleep 0.1
  done
  "${in_empty_root[@]}" /openclaw-rs health --state-dir /state >/dev/null || die "no health in an empty root: $(cat "$said")"
  kill -TERM "$gateway"
  wait "$gateway" || die "the gateway did not end well: $(cat "$said")"
  gateway=""
  rm -f "$said"
}

case "$target" in
  "$(uname -m)"-*)
    version="$("${in_empty_root[@]}" /openclaw-rs --version)" || die "the binary does not run in an empty root"
    serves_in_empty_root
    where="in an empty root, and serves a client there"
    ;;
  *)
    emulator="qemu-${target%%-*}-static"
    need "$emulator" qemu-user-static
    version="$("$emulator" "$binary" --version)" || die "the binary does not run under $emulator"
    where="under $emulator"
    ;;
esac
case "$version" in
  "openclaw-rs "[0-9]*) echo "runs:    $version $where" ;;
  *) die "--version said: $version" ;;
esac
# Last: a binary that is too large works all the same, and lies where it is said to.
[ "$size_bytes" -lt "$BINARY_BYTES_MAX" ] || die "the binary is over its budget"
