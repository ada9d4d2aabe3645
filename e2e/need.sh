#!/usr/bin/env bash
# Sees that what the build and the tests run is there: installs missing Debian packages when root, else names them with the
# command that installs them. Silent when nothing is missing.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
declare -A package=([ssh]=openssh-client [ssh-keygen]=openssh-client [setpriv]=util-linux [unshare]=util-linux [flock]=util-linux [losetup]=mount [blkid]=util-linux [strace]=strace [cc]=gcc [git]=git)
# For the virtual machines: what boots them, and what runs in them, as they see the root of this machine.
package+=([qemu-system-x86_64]=qemu-system-x86 [busybox]=busybox-static [cpio]=cpio [depmod]=kmod [xz]=xz-utils [zstd]=zstd [ip]=iproute2
  [mkfs.ext4]=e2fsprogs [mkfs.xfs]=xfsprogs [mkfs.btrfs]=btrfs-progs [runc]=runc [openssl]=openssl [pgrep]=procps)
missing=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
[ -e /usr/lib/cni/loopback ] || missing+=(containernetworking-plugins)
if [ "${#missing[@]}" -gt 0 ]; then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]} .." >&2
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
  else
    echo "missing: ${missing[*]}; install with: sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi
command -v cargo >/dev/null || {
  echo "Rust is missing; install it with: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y (rust-toolchain.toml picks the version)" >&2
  exit 1
}
command -v go >/dev/null || {
  echo "Go 1.26 or newer is missing (it builds the control plane that the tests run); install it with: apt-get install golang-go, or from https://go.dev/dl" >&2
  exit 1
}
