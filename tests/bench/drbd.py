"""Scenario: Farside beside DRBD in the same two virtual machines, with fio in the first one.

DRBD is in the kernel, so it is measured where a kernel can be had: two machines (`tests/vm/`), each with disks of its own and a
network between them. The processors are emulated and slow; ratios count. Both copy asynchronously: DRBD with protocol A,
Farside with a journal and a mirror on devices and the host attached by the kernel's NBD client. The bare disk is
another one of the same kind.
"""

import glob
import json
import os
import shutil
import socket
import statistics
import subprocess

import report
from compare import note, ratios
from farside import BINARY, ROOT
from processes import Failure, Workspace, wait_until
from servers import free_port

NAME = "drbd"
ABOUT = "Farside beside DRBD (protocol A) in two virtual machines"
DISK_BYTES = 768 << 20
VOLUME_BYTES = 256 << 20
MEMORY_MIB = 768
BOOT_SECONDS = 120
COMMAND_SECONDS = 300
KERNEL_OPTIONS = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check lsm= audit=0 nokaslr"
MODULES = "virtio_pci virtio_net virtio_blk ext4 nbd drbd crc32c_generic"
PROGRAMS = ("qemu-system-x86_64", "busybox", "cpio", "modprobe", "nbd-client", "fio", "mkfs.ext4")
# drbd-utils has one for each version of the module; that of Linux is 8.4.
SETUP = "/lib/drbd/drbdsetup-84"
WORKLOADS = {"write-4k-depth-1": ["--iodepth=1"], "write-4k-depth-16": ["--iodepth=16"],
             "write-flush-4k-depth-1": ["--iodepth=1", "--fsync=1"]}
FARSIDE = "/dev/nbd0"
DEVICES = {"bare": "/dev/vdd", "drbd": "/dev/drbd0", "farside": FARSIDE}


class Machine:
    """A virtual machine and the agent in it."""

    def __init__(self, workspace, name, kernel, archive, link):
        self.name, self.agent = name, free_port()
        command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", str(MEMORY_MIB),
                   "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-append", KERNEL_OPTIONS,
                   "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.agent}-:7000",
                   "-device", "virtio-net-pci,netdev=net,romfile=",
                   "-netdev", f"socket,id=link,{link}",
                   "-device", f"virtio-net-pci,netdev=link,romfile=,mac=52:54:00:00:00:{len(workspace.processes) + 1:02x}",
                   "-kernel", kernel, "-initrd", archive]
        for number in range(4):
            disk = workspace.path(f"{name}-{number}.img")
            with open(disk, "wb") as image:
                image.truncate(DISK_BYTES)
            command += ["-drive", f"file={disk},if=virtio,format=raw"]
        self.process = workspace.start(name, command)

    def wait_booted(self):
        """Returns when its agent answers."""
        def up():
            with open(self.process.log, encoding="utf-8", errors="replace") as log:
                return "up after " in log.read()
        wait_until(f"{self.name} to boot", up, BOOT_SECONDS, [self.process], 0.1)

    def run(self, line):
        """What a line of shell prints there."""
        with socket.create_connection(("127.0.0.1", self.agent), timeout=COMMAND_SECONDS) as stream:
            stream.sendall(f"( {line} ); printf '\\nexit %s' $?\n".encode())
            said = b"".join(iter(lambda: stream.recv(65536), b"")).decode(errors="replace")
        text, _, code = said.rpartition("\nexit ")
        if code != "0":
            raise Failure(f"{self.name}: `{line}` ended with {code or 'no code'}: {text}")
        return text


def missing():
    """What is not installed."""
    programs = [program for program in PROGRAMS if not shutil.which(program) and not shutil.which(f"/sbin/{program}")]
    return programs + [path for path in (SETUP, BINARY) if not os.path.exists(path)] + \
        ([] if shutil.which("drbdmeta") or os.path.exists("/sbin/drbdmeta") else ["drbdmeta"])


def boot(workspace):
    """Both machines, up and joined."""
    kernel = os.path.join(ROOT, "target", "vm", "kernel")
    scripts = os.path.join(ROOT, "tests", "vm")
    archive = workspace.path("machine.cpio")

    def there(program):
        return shutil.which(program) or glob.glob(f"/*bin/{program}")[0]

    # Under the name that it has there, whatever FARSIDE_BIN says.
    os.symlink(os.path.abspath(BINARY), workspace.path("farside"))
    programs = [workspace.path("farside"), SETUP, *(there(each) for each in ("drbdmeta", "nbd-client", "fio", "mkfs.ext4"))]
    for command in (["sh", f"{scripts}/kernel.sh", kernel],
                    ["sh", f"{scripts}/initramfs.sh", kernel, archive, MODULES, *programs]):
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode:
            raise Failure(f"{' '.join(command[:2])}: {said.stderr.strip()}")
    link = f"127.0.0.1:{free_port()}"
    image = os.path.join(kernel, "vmlinuz")
    here = Machine(workspace, "here", image, archive, f"listen={link}")
    here.wait_booted()
    there = Machine(workspace, "there", image, archive, f"connect={link}")
    there.wait_booted()
    for number, machine in enumerate((here, there), 1):
        modules = "; ".join(f"load {module}" for module in MODULES.split()[3:])
        machine.run(f"{modules}; ip addr add 10.9.0.{number}/24 dev eth1; ip link set eth1 up; mkdir -p /var/lib/drbd "
                    "/var/run /var/lock /run/lock /data")
    return here, there


def start_drbd(here, there):
    """DRBD on the first disk of both, in step without a first copy: both are empty."""
    for number, machine in enumerate((here, there), 1):
        setup = "drbdsetup-84"
        machine.run("drbdmeta --force 0 v08 /dev/vda internal create-md")
        machine.run(f"{setup} new-resource r0 && {setup} new-minor r0 0 0 && {setup} attach 0 /dev/vda /dev/vda internal")
        machine.run(f"{setup} connect r0 ipv4:10.9.0.{number}:7789 ipv4:10.9.0.{3 - number}:7789 --protocol=A")
    wait_until("DRBD to connect", lambda: "cs:Connected" in here.run("cat /proc/drbd"), 60, pause=0.5)
    here.run("drbdsetup-84 new-current-uuid --clear-bitmap 0")
    here.run("drbdsetup-84 primary 0")
    if "ds:UpToDate/UpToDate" not in here.run("cat /proc/drbd"):
        raise Failure(f"DRBD is not in step: {here.run('cat /proc/drbd')}")


def start_farside(here, there):
    """A unit in each, the mirror and the journal of the first on devices, and the kernel's client in front of it."""
    there.run("mkfs.ext4 -q /dev/vdb && mount -t ext4 /dev/vdb /data")
    far = ('[unit]\\nname = "far"\\ndata_dir = "/data/far"\\n[link]\\nlisten = ["10.9.0.2:10900"]\\ntrust_network = true\\n'
           f'journal_size = {VOLUME_BYTES}\\n')
    near = ('[unit]\\nname = "near"\\ndata_dir = "/data/near"\\n[nbd]\\nsocket = "/run/nbd.sock"\\n[link]\\n'
            'trust_network = true\\n[[volume]]\\nname = "disk0"\\n'
            f'size = {VOLUME_BYTES}\\njournal_size = {VOLUME_BYTES}\\nmirror = "/dev/vdb"\\njournal = "/dev/vdc"\\n'
            '[[volume.remote]]\\nname = "far"\\naddress = "10.9.0.2:10900"\\n')
    for machine, text in ((there, far), (here, near)):
        machine.run(f"printf '{text}' >/data/unit.toml && farside config check /data/unit.toml")
        machine.run("farside unit --config /data/unit.toml >/tmp/unit.log 2>&1 </dev/null & sleep 3; cat /tmp/unit.log")
    wait_applied(here)
    here.run("nbd-client -unix /run/nbd.sock -N disk0 /dev/nbd0")


def wait_applied(here):
    """Until the remote has everything."""
    here.run("farside wait --socket /data/near/control.sock --volume disk0 --applied --timeout 200s")


def measure(here, device, extra, seconds):
    """Writes a second."""
    if device == FARSIDE:
        wait_applied(here)
    said = here.run(f"sync; fio --name=x --thread --filename={device} --direct=1 --ioengine=libaio --rw=randwrite --bs=4k "
                    f"--norandommap --randrepeat=0 {' '.join(extra)} --time_based --runtime={seconds:g} "
                    f"--size={VOLUME_BYTES} --output-format=json 2>/dev/null")
    return json.loads(said[said.index("{"):])["jobs"][0]["write"]["iops"]


def run(classes, options, _make):
    """Data, tables and problems."""
    if not any(each.name.startswith("farside") for each in classes):
        return {}, [], []
    if missing():
        note(f"{NAME}: left out, {', '.join(missing())} is missing")
        return {}, [], []
    records = []
    try:
        with Workspace(options.directory) as workspace:
            note("two machines for DRBD and Farside")
            here, there = boot(workspace)
            start_drbd(here, there)
            start_farside(here, there)
            version = here.run("head -n 1 /proc/drbd; uname -r").split("\n")
            for name, extra in WORKLOADS.items():
                for number in range(options.runs):
                    order = list(DEVICES)
                    for server in order[number % 3:] + order[:number % 3]:
                        iops = measure(here, DEVICES[server], extra, options.seconds)
                        records.append({"workload": name, "round": number, "server": server, "iops": iops, "error": None})
                note(f"{name} in the machines done")
    except (Failure, OSError, ValueError) as error:
        return {"runs": records}, [], [f"{NAME}: {error}"]
    rows = []
    for name in WORKLOADS:
        for server in DEVICES:
            middle = statistics.median(each["iops"] for each in records
                                       if (each["workload"], each["server"]) == (name, server))
            beside = [report.span(ratios(records, name, server, other, "iops")) if other != server else "-"
                      for other in ("bare", "drbd")]
            rows.append([name, server, middle, *beside])
    notes = [f"{version[0]}; Linux {version[1]} in both machines; medians of {options.runs} runs of {options.seconds:g} s"]
    return {"runs": records}, [report.text_table("In two virtual machines, beside DRBD",
                                                 ["workload", "device", "IOPS", "to the bare disk", "to DRBD"], rows,
                                                 notes)], []
