#!/usr/bin/env bash
# initrd.sh KERNEL: makes KERNEL/initrd.gz from busybox, `init`, `stage2` and the modules that the root of the guest and NVMe/TCP
# need, unless it is there and newer than what it is made of. KERNEL is what kernel.sh printed.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
kernel=$(cd "$1" && pwd)
cd "$(dirname "$0")"
exec 9>"$kernel/lock"
flock 9
fresh=yes
for file in init stage2 initrd.sh; do
  [ "$kernel/initrd.gz" -nt "$file" ] || fresh=
done
[ -z "$fresh" ] || exit 0

busybox=$(command -v busybox)
! ldd "$busybox" >/dev/null 2>&1 || { echo "$busybox is not static: install busybox-static" >&2; exit 1; }
tree=$(mktemp -d)
trap 'rm -rf -- "$tree"' EXIT
mkdir -p "$tree"/{bin,dev,proc,sys,lower,rw,newroot,modules}
cp "$busybox" "$tree/bin/busybox"
for applet in sh mount mkdir cp cat insmod ip hostname poweroff switch_root; do ln -s busybox "$tree/bin/$applet"; done
install -m 755 init stage2 "$tree/"

# What they depend on goes first; the guest loads them line by line. All others come by modprobe, from the shared folder.
for module in virtio_pci 9p 9pnet_virtio overlay virtio_net virtio-rng loop veth nvme-tcp nvmet-tcp; do
  modprobe -d "$kernel" -S "$(<"$kernel/version")" --show-depends "$module"
done | sed -n 's/^insmod \(.*\.ko[.a-z0-9]*\).*/\1/p' | awk '!seen[$0]++' |
  while read -r file; do
    name=${file##*/}
    name=${name%%.ko*}.ko
    case $file in # from 6.12 on they are compressed
      *.xz) xz -dc "$file" ;;
      *.zst) zstd -dcq "$file" ;;
      *.gz) gzip -dc "$file" ;;
      *) cat "$file" ;;
    esac >"$tree/modules/$name"
    echo "/modules/$name" >>"$tree/modules/list"
  done
(cd "$tree" && find . -print0 | cpio --null --quiet -o -H newc -R 0:0) | gzip -1 >"$kernel/initrd.gz.new"
mv "$kernel/initrd.gz.new" "$kernel/initrd.gz"
