#!/usr/bin/env bash
# Builds the tools that the end-to-end harness runs (control plane, CSI sidecars, csi-sanity) from their Go modules.
#
#   build.sh [NAME..]      builds all tools that tests use, or only those named
#
# Output and Go caches live under ${RDS_CACHE:-$HOME/.cache/rds-csi}; a binary is rebuilt only when go.mod, go.sum, this script
# or the Go version changed. Prints the folder of the binaries on the last line of stdout; progress goes to stderr.
set -euo pipefail
cd "$(dirname "$0")"
command -v go >/dev/null || { echo "Go 1.26 or newer is missing: install it with 'apt-get install golang-go' or from https://go.dev/dl" >&2; exit 1; }
cache=${RDS_CACHE:-$HOME/.cache/rds-csi}
export GOCACHE=$cache/go-build GOMODCACHE=$cache/go-mod GOFLAGS="-mod=readonly -modcacherw" CGO_ENABLED=0 GOTOOLCHAIN=local
stamp=$(cat go.mod go.sum build.sh <(go version) | sha256sum | cut -c1-16)
bin=$cache/tools/$stamp
mkdir -p "$bin"
exec 9>"$cache/tools/lock"
flock 9 # two test runs at once build each tool only once
# Without these linker flags the binaries report version v0.0.0, and kubectl warns of version skew.
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.}; minor=${minor%%.*}
ld="-s -w -X k8s.io/client-go/pkg/version.gitVersion=$version"
for field in gitVersion=$version gitMajor=1 gitMinor=$minor; do ld+=" -X k8s.io/component-base/version.$field"; done
default="etcd kube-apiserver kube-controller-manager kubectl csi-provisioner csi-resizer csi-attacher csi-sanity"
for package in $(go list -f '{{.ImportPath}}' tool); do
  name=${package##*/}
  [ "$package" = go.etcd.io/etcd/server/v3 ] && name=etcd
  [[ " ${*:-$default} " == *" $name "* ]] || continue
  [ -x "$bin/$name" ] && continue
  start=$SECONDS
  echo "building $name .." >&2
  go build -trimpath -ldflags "$ld" -o "$bin/$name.new" "$package"
  mv "$bin/$name.new" "$bin/$name"
  printf 'built %-26s %4d s\n' "$name" $((SECONDS - start)) >&2
done
echo "$bin"
