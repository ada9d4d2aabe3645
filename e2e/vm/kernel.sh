#!/usr/bin/env bash
# Prints the folder of Debian's generic amd64 kernel, unpacked and not installed:
#
#   kernel.sh [SUITE]      the kernel of the suite that apt uses, or of another one (bookworm-backports: 6.12)
#
#   vmlinux                        uncompressed ELF: under emulation unpacking a bzImage costs 7 s of every boot
#   lib/modules/<version>/         all modules, with modules.dep
#   version
#
# It is fetched once into ${RDS_CACHE:-$HOME/.cache/rds-csi}/vm with the mirror that apt is configured with; for another suite
# with package lists of its own, so that the configuration of this machine does not change. Remove the folder to fetch again.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
suite=${1:-}
# shellcheck source=e2e/vm/apt.sh
source "$(dirname "$0")/apt.sh"
cache=${RDS_CACHE:-$HOME/.cache/rds-csi}/vm
out=$cache/kernel${suite:+-$suite}
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # two test runs at once fetch it only once
if [ -s "$out/version" ]; then
  echo "$out"
  exit 0
fi
[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || {
  echo "the virtual machines of the tests need Debian's generic amd64 kernel, fetched with apt: this is not Debian on amd64" >&2
  exit 1
}
new=$out.new
rm -rf "$new"
mkdir -p "$new/root"
cd "$new"

[ -z "$suite" ] || from_suite "$suite" "$new/apt"

# linux-image-amd64 is empty: what it depends on is the kernel.
package() {
  apt-cache "${private[@]}" show --no-all-versions linux-image-amd64 2>/dev/null |
    sed -n 's/^Depends:.*\(linux-image-[0-9][^ ,]*\).*/\1/p' | awk '!n++'
}
name=$(package)
if [ -z "$name" ] && [ -z "$suite" ] && [ "$(id -u)" = 0 ]; then
  apt-get -qq update >&2
  name=$(package)
fi
[ -n "$name" ] || { echo "apt knows no linux-image-amd64: run apt-get update" >&2; exit 1; }
download "$name"
dpkg-deb -x ./*.deb root

modules=root/lib/modules
[ -d "$modules" ] || modules=root/usr/lib/modules # where newer packages have them
version=$(ls "$modules")
mkdir -p lib
mv "$modules" lib/modules
depmod -b "$new" "$version"

# A bzImage holds the compressed vmlinux somewhere behind the boot code: every known magic number is tried.
extract() { # IMAGE OUT
  local magic unpack offset
  while read -r magic unpack; do
    for offset in $(grep -aboP -- "$magic" "$1" | cut -d: -f1); do
      # Bytes follow the payload, so the decompressor may end in an error; the magic number of ELF decides.
      # shellcheck disable=SC2086
      tail -c "+$((offset + 1))" "$1" | $unpack >"$2" 2>/dev/null || true
      [ "$(head -c 4 "$2" | od -An -tx1 | tr -d ' ')" = 7f454c46 ] && return 0
    done
  done <<'MAGIC'
\xfd7zXZ\x00 xz -dc --single-stream
\x28\xb5\x2f\xfd zstd -dc
\x1f\x8b\x08 gzip -dc
MAGIC
  echo "no compressed ELF kernel in ${1##*/}" >&2
  return 1
}
extract "root/boot/vmlinuz-$version" vmlinux
rm -rf root apt ./*.deb
echo "$version" >version
rm -rf "$out"
mv "$new" "$out"
echo "$out"
