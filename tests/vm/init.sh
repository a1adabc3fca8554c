#!/bin/busybox sh
# The first process of a virtual machine: devices, modules, network, and the agent through which the test does the rest.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
# Errors of the kernel only; everything below goes to the serial line, which the test keeps.
echo 4 >/proc/sys/kernel/printk
load virtio_pci
load virtio_net
[ ! -e /modules/order/virtio_blk ] || load virtio_blk
ip link set lo up
ip link set eth0 up
# qemu's user network: this machine is 10.0.2.15, the host's loopback 10.0.2.2.
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
echo "up after $(cut -d' ' -f1 /proc/uptime) s, kernel $(uname -r)"
exec nc -ll -p 7000 -e /bin/agent
