#!/bin/sh
# load NAME: puts a kernel module and what it depends on into the kernel; what is there already stays.
while read -r file; do
    [ -e "/tmp/loaded-$file" ] && continue
    insmod "/modules/$file" && : >"/tmp/loaded-$file"
done <"/modules/order/$1"
true
