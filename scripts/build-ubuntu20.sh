#!/usr/bin/env bash
# Builds against glibc 2.31 (Ubuntu 20.04, Debian 11) for those who want the system's C library: its resolver modules,
# its allocator. The static build (build-static.sh) runs on the same machines and is the one to copy around.
#
#   scripts/build-ubuntu20.sh [--try]
#
# The result is target/ubuntu20/openclaw-rs. With --try (root only) it also runs, as does the static build when there is one,
# inside a minimal Debian 11, which has the same glibc as Ubuntu 20.04; debootstrap makes it below target/ once.
set -euo pipefail
# shellcheck source=scripts/cross-env.sh
source "$(dirname "${BASH_SOURCE[0]}")/cross-env.sh"
cd "$repo"

GLIBC_MAX="2.31"
target="x86_64-unknown-linux-gnu"
try=no
while [ $# -gt 0 ]; do
  case "$1" in
    --try) try=yes; shift ;;
    -h | --help) sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) die "unknown argument: $1" ;;
  esac
done

ensure_zig
say "building for glibc $GLIBC_MAX"
CARGO_TARGET_DIR="target/ubuntu20-build" RUSTFLAGS="-C target-cpu=x86-64" \
  cargo-zigbuild zigbuild --locked --release --bin openclaw-rs --target "$target.$GLIBC_MAX"
binary="target/ubuntu20/openclaw-rs"
mkdir -p target/ubuntu20
cp "target/ubuntu20-build/$target/release/openclaw-rs" "$binary.new"
mv "$binary.new" "$binary"

say "checking $binary"
need objdump binutils
versions="$(objdump -T "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -uV)"
# An empty list would pass any limit: it means that objdump read nothing, not that nothing is needed.
[ -n "$versions" ] || die "objdump lists no glibc symbols in $binary"
highest="$(tail -n 1 <<<"$versions")"
echo "needs:   $highest at most, GLIBC_$GLIBC_MAX allowed"
[ "$(printf '%s\n' "$highest" "GLIBC_$GLIBC_MAX" | sort -V | tail -n 1)" = "GLIBC_$GLIBC_MAX" ] ||
  die "needs a newer glibc: $highest"
echo "size:    $(stat -c %s "$binary") bytes"
version="$("$binary" --version)"
case "$version" in
  "openclaw-rs "[0-9]*) echo "runs:    $version (here)" ;;
  *) die "--version said: $version" ;;
esac

[ "$try" = yes ] || exit 0
[ "$(id -u)" -eq 0 ] || die "--try needs root"
old="target/debian11"
if [ ! -e "$old/.made" ]; then
  need debootstrap debootstrap
  say "making a minimal Debian 11 in $old"
  rm -rf "$old"
  debootstrap --variant=minbase bullseye "$old" >/dev/null
  touch "$old/.made"
fi
for candidate in "$binary" target/static/openclaw-rs; do
  [ -e "$candidate" ] || continue
  cp "$candidate" "$old/usr/local/bin/openclaw-rs"
  version="$(chroot "$old" /usr/local/bin/openclaw-rs --version)" || die "$candidate does not run in Debian 11"
  echo "runs:    $version ($candidate in $(chroot "$old" ldd --version | head -n 1))"
done
