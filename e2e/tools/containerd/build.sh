#!/usr/bin/env bash
# Builds containerd, its shim for runc and ctr, for the nodes in virtual machines, from their Go module: apart from the other tools,
# as the modules do not agree on versions. Caches and prints its folder as ../build.sh does, beside that one's.
set -euo pipefail
cd "$(dirname "$0")"
cache=${RDS_CACHE:-$HOME/.cache/rds-csi}
export GOCACHE=$cache/go-build GOMODCACHE=$cache/go-mod GOFLAGS="-mod=readonly -modcacherw" CGO_ENABLED=0 GOTOOLCHAIN=local
stamp=$(cat go.mod go.sum build.sh <(go version) | sha256sum | cut -c1-16)
bin=$cache/tools/containerd-$stamp
mkdir -p "$bin"
exec 9>"$cache/tools/lock"
flock 9
version=$(go list -m -f '{{.Version}}' github.com/containerd/containerd/v2)
for package in $(go list -f '{{.ImportPath}}' tool); do
  name=${package##*/}
  [ -x "$bin/$name" ] && continue
  start=$SECONDS
  echo "building $name .." >&2
  go build -trimpath -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$version" -o "$bin/$name.new" "$package"
  mv "$bin/$name.new" "$bin/$name"
  printf 'built %-26s %4d s\n' "$name" $((SECONDS - start)) >&2
done
echo "$bin"
