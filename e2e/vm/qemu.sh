#!/usr/bin/env bash
# Prints the QEMU that boots the virtual machines: the installed one from version 10 on, else Debian's own backport of it,
# unpacked and not installed. An emulated machine takes a quarter less of the processor with it than with the 7.2 of Debian 12.
#
# It is fetched once into ${RDS_CACHE:-$HOME/.cache/rds-csi}/vm/qemu; its libraries are those of the installed one. Where none can
# be had, or it does not run, the installed one does the same more slowly. Remove the folder to try again.
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/vm/apt.sh
source "$here/apt.sh"
installed=$(command -v qemu-system-x86_64) || { echo "QEMU is missing; e2e/need.sh installs it" >&2; exit 1; }
cache=${RDS_CACHE:-$HOME/.cache/rds-csi}/vm
out=$cache/qemu
mkdir -p "$cache"
exec 9>"$cache/qemu.lock"
flock 9 # two test runs at once fetch it only once
if [ -s "$out/program" ]; then
  cat "$out/program"
  exit 0
fi
rm -rf "$out"
mkdir -p "$out"
cd "$out"

newer() { # each step by &&: in a condition a failure ends nothing
  from_suite "$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)-backports" "$out/apt" &&
    apt-cache "${private[@]}" show --no-all-versions qemu-system-x86 2>/dev/null | grep -q '^Version: 1:[1-9][0-9]' &&
    download qemu-system-x86 qemu-system-data seabios &&
    for package in ./*.deb; do dpkg-deb -x "$package" . || return 1; done &&
    usr/bin/qemu-system-x86_64 --version >/dev/null
}
program=$installed
version=$("$installed" --version | sed -n 's/.*version \([0-9]*\)\..*/\1/p')
if [ "${version:-0}" -lt 10 ]; then
  if newer; then
    program=$out/usr/bin/qemu-system-x86_64
  else
    echo "no newer QEMU for this Debian: the installed one boots the virtual machines, and they are slower" >&2
  fi
fi
rm -rf apt usr/share/doc ./*.deb
echo "$program" | tee program
