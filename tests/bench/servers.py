"""A server under measurement, and the peers that Farside is measured beside.

All listen on unix sockets in their own directory, keep their data in plain files there, and use the page cache as they
do by default.
"""

import json
import os
import shutil
import socket
import subprocess

import nbd
from processes import Daemon, Failure, wait_until

START_SECONDS = 60
SETTLE_SECONDS = 300


class Server:
    """One way to serve a disk over NBD: its processes, its files, and when it has nothing left to do."""

    name = ""
    programs = ()
    is_peer = True
    about = ""
    export = ""
    most_connections = None
    version_flag = "--version"

    def __init__(self, workspace, size):
        self.workspace, self.size = workspace, size
        self.directory = workspace.make(self.name)
        self.socket = os.path.join(self.directory, "nbd.sock")
        self.processes = []
        self.problem = None

    @classmethod
    def missing(cls):
        """Programs it needs that are not installed."""
        return [program for program in cls.programs if not shutil.which(program)]

    @classmethod
    def version(cls):
        """What its program says about its version."""
        said = subprocess.run([cls.programs[0], cls.version_flag], capture_output=True, text=True, check=False)
        return (said.stdout + said.stderr).split("\n", 1)[0]

    @property
    def uri(self):
        """Where fio finds it."""
        return f"nbd+unix:///{self.export}?socket={self.socket}"

    @property
    def pids(self):
        """Its processes."""
        return [process.pid for process in self.processes]

    @property
    def second_pids(self):
        """Those of them that keep the second copy: the remote unit, the target of a mirror."""
        return [process.pid for process in self.processes if process.name != self.name]

    def path(self, name):
        """A path in its directory."""
        return os.path.join(self.directory, name)

    def run(self, command, suffix=""):
        """Starts one of its processes."""
        process = self.workspace.start(self.name + suffix, command, self.directory)
        self.processes.append(process)
        return process

    def image(self, name="disk.img"):
        """A new sparse image file of its size."""
        with open(self.path(name), "wb") as image:
            image.truncate(self.size)
        return self.path(name)

    def start(self):
        """Starts it; it may be asked at once."""
        raise NotImplementedError

    def images(self):
        """The files that hold the disk, the one that reads come from first."""
        return [self.path("disk.img")]

    def ready(self):
        """Called when the disk has been written once."""

    def wait_for_answer(self):
        """Waits until the export can be read."""
        wait_until(f"{self.name} to answer", lambda: nbd.answers(self.socket, self.export), START_SECONDS,
                   self.processes)

    def check(self):
        """Fails if one of its processes is gone."""
        for process in self.processes:
            process.check_alive()

    def settle(self):
        """Returns when it has nothing left to do and its files are on the disk."""
        for path in self.images():
            sync(path)

    def warm(self):
        """Brings the image into the page cache, as far as it fits."""
        with open(self.images()[0], "rb", buffering=0) as image:
            buffer = bytearray(1 << 20)
            while image.readinto(buffer):
                pass


def sync(path):
    """Puts a file's dirty pages on the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Nbdkit(Server):
    """nbdkit with its file plugin: one copy of the data, multi-threaded."""

    name = "nbdkit"
    programs = ("nbdkit",)
    about = "nbdkit file: one plain copy"

    def start(self):
        self.run(["nbdkit", "-f", "-U", self.socket, "file", self.image()])
        self.wait_for_answer()


class NbdkitAgain(Nbdkit):
    """The same once more, measured like Farside: what differs from 1.00 is the noise of the machine."""

    name = "nbdkit-again"
    is_peer = False
    about = "a second nbdkit, to see the noise of the machine; not among the default servers"


class QemuNbd(Server):
    """qemu-nbd on a raw image."""

    name = "qemu-nbd"
    programs = ("qemu-nbd",)
    about = "qemu-nbd, raw image, cache=writeback, any number of clients: one plain copy"

    def start(self):
        self.run(["qemu-nbd", "--persistent", "--shared=0", "--format=raw", "--cache=writeback",
                  f"--socket={self.socket}", self.image()])
        self.wait_for_answer()


class NbdServer(Server):
    """nbd-server, which forks for every client."""

    name = "nbd-server"
    programs = ("nbd-server",)
    version_flag = "-V"
    export = "disk"
    about = "nbd-server with flush, at most 8 connections: one plain copy"
    # Its backlog holds 10, and a unix socket refuses what is beyond.
    most_connections = 8

    def start(self):
        lines = ["[generic]", f"unixsock = {self.socket}", "listenaddr = 127.0.0.1", f"port = {free_port()}",
                 "[disk]", f"exportname = {self.image()}", "flush = true", "fua = true"]
        with open(self.path("config"), "w", encoding="utf-8") as config:
            config.write("\n".join(lines) + "\n")
        # Without forking into the background it would serve one client only.
        front = self.run(["nbd-server", "-C", self.path("config"), "-p", self.path("pid")])
        self.processes.remove(front)
        wait_until(f"{self.name} to start", lambda: not front.alive() and _has_text(self.path("pid")), START_SECONDS)
        self.processes.append(self.workspace.adopt(Daemon(self.name, self.path("pid"), front.log)))
        self.wait_for_answer()


class QemuMirror(Server):
    """A qemu-storage-daemon that copies every write to a second one before it answers."""

    name = "qsd-mirror"
    programs = ("qemu-storage-daemon",)
    about = "qemu-storage-daemon with blockdev-mirror, copy-mode write-blocking, to a second one over NBD: two copies"
    export = "disk"

    def start(self):
        self._daemon("-target", "target.sock", "target.img")
        control = f"socket,id=qmp,path={self.path('qmp.sock')},server=on,wait=off"
        self._daemon("", "nbd.sock", "disk.img", ["--chardev", control, "--monitor", "chardev=qmp"])
        wait_until(f"{self.name} to answer", lambda: nbd.answers(self.path("target.sock"), self.export),
                   START_SECONDS, self.processes)
        self.wait_for_answer()

    def _daemon(self, suffix, socket_name, image, extra=()):
        self.run(["qemu-storage-daemon", "--blockdev",
                  f"driver=file,node-name=disk,filename={self.image(image)}",
                  "--nbd-server", f"addr.type=unix,addr.path={self.path(socket_name)},max-connections=0",
                  "--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=on", *extra], suffix)

    def images(self):
        return [self.path("disk.img"), self.path("target.img")]

    def ready(self):
        with Qmp(self.path("qmp.sock")) as qmp:
            qmp.call("blockdev-add", {"driver": "nbd", "node-name": "target", "export": "disk",
                                      "server": {"type": "unix", "path": self.path("target.sock")}})
            qmp.call("blockdev-mirror", {"job-id": "mirror", "device": "disk", "target": "target", "sync": "full",
                                         "copy-mode": "write-blocking"})

            def in_step():
                jobs = qmp.call("query-block-jobs")
                if not jobs:
                    raise Failure(f"{self.name}: the mirror job ended; the end of its log:\n"
                                  + self.processes[-1].log_end())
                return jobs[0]["ready"]

            wait_until(f"{self.name} to copy its disk", in_step, SETTLE_SECONDS, self.processes, 0.1)


class Qmp:
    """A connection to QEMU's control socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r", encoding="utf-8")
        self.lines.readline()
        self.call("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lines.close()
        self.socket.close()

    def call(self, command, arguments=None):
        """Runs a command; events that come meanwhile are dropped."""
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n")
        for line in self.lines:
            answer = json.loads(line)
            if "error" in answer:
                raise Failure(f"QEMU refused {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise Failure(f"QEMU hung up during {command}")


def _has_text(path):
    return os.path.exists(path) and os.path.getsize(path) > 0


def free_port():
    """A TCP port on loopback that nobody uses at this moment."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


PEERS = [Nbdkit, QemuNbd, NbdServer, QemuMirror]
