#!/usr/bin/env bash
# Sees that what the build and the tests run is there: installs missing Debian packages when root, else names them with the
# command that installs them. Silent when nothing is missing.
set -euo pipefail
declare -A package=([ssh]=openssh-client [ssh-keygen]=openssh-client [setpriv]=util-linux [unshare]=util-linux [flock]=util-linux [cc]=gcc [git]=git)
missing=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
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
