#!/bin/sh
# Packs what a virtual machine of the tests starts with: busybox, the farside binary, kernel modules, the scripts
# beside this one. Nothing is compressed: an emulated processor unpacks slowly, and memory is there.
# usage: tests/vm/initramfs.sh KERNEL-DIRECTORY FARSIDE OUTPUT
set -eu
PATH="$PATH:/usr/sbin:/sbin"
kernel=$1
farside=$2
output=$3
here=$(cd "$(dirname "$0")" && pwd)
modules="virtio_pci virtio_net virtio_blk ext4 xfs"

root=$(mktemp -d "$output.XXXXXX")
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/modules" "$root/data"
for directory in dev proc sys run tmp; do mkdir "$root/$directory"; done

# A program and the libraries it is linked with.
add_program() {
    cp -L "$1" "$root/bin/$2"
    ldd "$1" 2>/dev/null | grep -o '/[^ )]*' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
}
add_program "$(command -v busybox)" busybox
for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
add_program "$farside" farside
# Names of functions are for debuggers; without them the archive is a third.
strip "$root/bin/farside" 2>/dev/null || true

version=$(ls "$kernel/lib/modules")
mkdir "$root/modules/order"
for module in $modules; do
    modprobe -d "$kernel" -S "$version" --show-depends "$module" | awk '$1 == "insmod" { print $2 }' |
        while read -r file; do
            name=$(basename "$file")
            # Without its signature, whose check takes an emulated processor longer than everything else in the module.
            case $name in
                *.ko) objcopy --strip-debug "$file" "$root/modules/$name" 2>/dev/null || cp "$file" "$root/modules/$name" ;;
                *) cp "$file" "$root/modules/$name" ;;
            esac
            echo "$name"
        done >"$root/modules/order/$module"
done

cp "$here/init.sh" "$root/init"
cp "$here/agent.sh" "$root/bin/agent"
cp "$here/load.sh" "$root/bin/load"
chmod 755 "$root/init" "$root/bin/agent" "$root/bin/load"
(cd "$root" && find . | cpio --quiet -o -H newc) >"$output.new"
mv "$output.new" "$output"
