#!/bin/sh
# Packs what a virtual machine of the tests starts with: busybox, programs, kernel modules, the scripts beside this one. Nothing is compressed: an emulated processor unpacks slowly, and memory is there.
# usage: tests/vm/initramfs.sh KERNEL-DIRECTORY OUTPUT 'MODULE...' PROGRAM...
set -eu
PATH="$PATH:/usr/sbin:/sbin"
kernel=$1
output=$2
modules=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)

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
for program; do
    name=$(basename "$program")
    # One that busybox has, too, takes its place.
    rm -f "$root/bin/$name"
    add_program "$program" "$name"
    # Names of functions are for debuggers; without them the archive is a third.
    strip "$root/bin/$name" 2>/dev/null || true
done

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
