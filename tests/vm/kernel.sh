#!/bin/sh
# Fetches a kernel for the virtual machines of the tests, once: unpacks Debian's small cloud kernel, installs nothing.
# usage: tests/vm/kernel.sh DIRECTORY    makes DIRECTORY/vmlinuz and DIRECTORY/lib/modules (about 110 MB)
# The last line on standard error says why, when it cannot.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
directory=$1
[ ! -e "$directory/vmlinuz" ] || exit 0

for program in apt-get apt-cache dpkg-deb depmod flock; do
    command -v "$program" >/dev/null 2>&1 || { echo "$program is not here to fetch a kernel with" >&2; exit 1; }
done
mkdir -p "$(dirname "$directory")"
# Test programs may run side by side; the second finds what the first has fetched.
exec 9>"$directory.lock"
flock 9
[ ! -e "$directory/vmlinuz" ] || exit 0
work=$(mktemp -d "$directory.XXXXXX")
trap 'rm -rf "$work"' EXIT

fetch() {
    name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
    [ -n "$name" ] && (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$name" >&2)
}
# Package lists grow old; only root can renew them.
fetch || { [ "$(id -u)" = 0 ] && apt-get update -qq >&2 && fetch; } || {
    echo "no kernel package: the archive is not reachable, or has no linux-image-cloud-amd64" >&2
    exit 1
}
dpkg-deb -x "$work"/linux-image-*.deb "$work/root"
version=$(ls "$work/root/lib/modules")
depmod -b "$work/root" "$version"
# The kernel's name comes last: with it, the directory is complete.
mkdir -p "$directory"
rm -rf "$directory/lib"
mv "$work/root/lib" "$directory/lib"
mv "$work/root/boot/vmlinuz-$version" "$directory/vmlinuz"
