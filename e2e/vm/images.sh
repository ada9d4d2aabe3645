#!/usr/bin/env bash
# Prints the path of a docker archive with localhost/busybox:1 and localhost/pause:1, both one layer around this computer's static
# busybox: pods need no registry. Made once into ${RDS_CACHE:-$HOME/.cache/rds-csi}/vm.
set -euo pipefail
export LC_ALL=C
cache=${RDS_CACHE:-$HOME/.cache/rds-csi}/vm
out=$cache/images.tar
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ "$out" -nt "${BASH_SOURCE[0]}" ]; then
  echo "$out"
  exit 0
fi
busybox=$(command -v busybox)
tree=$(mktemp -d)
trap 'rm -rf -- "$tree"' EXIT
mkdir -p "$tree"/layer/{bin,dev,etc,proc,sys,tmp} "$tree/archive"
cp "$busybox" "$tree/layer/bin/busybox"
for applet in sh awk blockdev cat chmod cp cut dd df echo grep head hostname id ls mkdir mount mv od rm sed seq sha256sum sleep stat sync tail touch umount; do
  ln -s busybox "$tree/layer/bin/$applet"
done
pack() { tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$1" -C "$2" .; }
pack "$tree/archive/layer.tar" "$tree/layer"
sum() { sha256sum "$1" | cut -d' ' -f1; }
layer=$(sum "$tree/archive/layer.tar")
manifest=
image() { # NAME ENTRYPOINT
  printf '{"architecture":"amd64","os":"linux","config":{"Entrypoint":%s,"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$2" "$layer" >"$tree/config"
  config=$(sum "$tree/config").json
  mv "$tree/config" "$tree/archive/$config"
  manifest+="${manifest:+,}{\"Config\":\"$config\",\"RepoTags\":[\"localhost/$1:1\"],\"Layers\":[\"layer.tar\"]}"
}
image pause "[\"/bin/sh\",\"-c\",\"trap 'exit 0' TERM INT; while :; do sleep 3600 & wait \$!; done\"]"
image busybox '["/bin/sh"]'
printf '[%s]' "$manifest" >"$tree/archive/manifest.json"
tar --owner=0 --group=0 --mtime=@0 -cf "$out.new" -C "$tree/archive" $(ls "$tree/archive")
mv "$out.new" "$out"
echo "$out"
