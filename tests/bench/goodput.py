"""Scenario: how much of a slow or long line a link uses, beside a plain TCP stream over the same line.

The units stand in two network namespaces with a cable between them, which tbf shapes; a program at one end delays every
byte. The remote is held while a backlog is written, and released; time runs until it has everything on stable storage.
The units are paired, so the stream is encrypted. Needs root and `ip` and `tc`.
"""

import json
import os
import shutil
import subprocess
import sys
import time

import farside
import report
from compare import attempt, chosen, note
from processes import Failure, Workspace, wait_until

NAME = "goodput"
ABOUT = "slow and long lines between two network namespaces: bytes a second beside a plain TCP stream"
HERE, THERE = "10.214.7.1", "10.214.7.2"
LINK, PLAIN, DELAYED = 10900, 10901, 10902
LINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "line.py")
# Name; rate and burst for tbf; seconds of delay each way; MiB to be sent.
LINES = [
    ("T1, 100 ms", "1544kbit", "4kb", 0.05, 8),
    ("10 Mbit/s, 40 ms", "10mbit", "16kb", 0.02, 48),
    ("1 Gbit/s, 50 ms", "1gbit", "1mb", 0.025, 1024),
]
LONGEST_SECONDS = 900


class Namespaces:
    """Two machines and a cable, until left."""

    def __init__(self):
        self.here, self.there = (f"fsbench{os.getpid() % 100000}{end}" for end in "ab")

    def __enter__(self):
        here, there = self.here, self.there
        for command in (f"netns add {here}", f"netns add {there}",
                        f"link add {here}x netns {here} type veth peer name {there}x netns {there}",
                        f"-n {here} addr add {HERE}/24 dev {here}x", f"-n {there} addr add {THERE}/24 dev {there}x",
                        f"-n {here} link set lo up", f"-n {there} link set lo up",
                        f"-n {here} link set {here}x up", f"-n {there} link set {there}x up"):
            _run(["ip", *command.split()])
        return self

    def __exit__(self, *_):
        for end in (self.here, self.there):
            subprocess.run(["ip", "netns", "del", end], capture_output=True, check=False)

    def shape(self, rate, burst):
        """From now on the cable carries this much, each way."""
        for end in (self.here, self.there):
            _run(["ip", "netns", "exec", end, "tc", "qdisc", "replace", "dev", f"{end}x", "root", "tbf", "rate", rate,
                  "burst", burst, "latency", "100ms"])


def _run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def missing():
    """What keeps this from running here."""
    if os.geteuid():
        return "it needs root"
    absent = [program for program in ("ip", "tc", "fio") if not shutil.which(program)]
    return f"{', '.join(absent)} is not installed" if absent else None


class OverLine(farside.FarsideRemote):
    """Both units, each in its namespace."""

    def __init__(self, workspace, size, journal, namespaces, more=()):
        super().__init__(workspace, size, journal)
        self.namespaces, self.more, self.link = namespaces, list(more), f"127.0.0.1:{DELAYED}"

    def run(self, command, suffix=""):
        end = self.namespaces.there if suffix else self.namespaces.here
        return super().run(["ip", "netns", "exec", end, *command], suffix)

    def _configuration(self, name, lines):
        if name == "far.toml":
            lines = [line.replace(self.link, f"{THERE}:{LINK}") for line in lines]
        super()._configuration(name, lines + (self.more if name == "here.toml" else []))

    def command(self, unit, *arguments):
        """A command to one of the units."""
        return _run([farside.BINARY, "--socket", self.path(f"{unit}/control.sock"), *arguments])

    def start(self):
        super().start()
        token = json.loads(self.command("far", "pair", "invite", "--json"))["token"]
        self.command("here", "pair", "with", self.link, token)

    def backlog(self, count):
        """Holds the link and writes so many bytes that no two blocks share."""
        self.command("here", "journal", "stop-send")
        _run(["fio", "--name=load", "--ioengine=nbd", f"--uri={self.uri}", "--rw=write", "--bs=256k", "--iodepth=4",
              f"--size={count}", "--refill_buffers", "--end_fsync=1"])

    def released(self):
        """Seconds from the release until the remote has everything."""
        began = time.monotonic()
        self.command("here", "journal", "start-send")
        wait_until("the remote to have everything", self.received_all, LONGEST_SECONDS, self.processes, 0.02)
        return time.monotonic() - began

    def received_all(self):
        """Whether everything is on stable storage at the remote."""
        volume = self.volume()
        return bool(volume) and volume["remotes"][0]["received"] == volume["positions"]["journaled"]


def run(classes, options, make):
    """Data, tables and problems."""
    del make
    if chosen(classes, "farside-remote", NAME) is None:
        return [], [], []
    if missing():
        note(f"{NAME}: left out, {missing()}")
        return [], [], []
    data, rows, problems = [], [], []
    with Namespaces() as namespaces:
        for line in LINES[:2] if "--quick" in sys.argv else LINES:
            note(f"{NAME}: {line[0]}")
            namespaces.shape(line[1], line[2])
            with Workspace(options.directory) as workspace:
                found = _line(workspace, namespaces, line, problems)
            data.append(found)
            plain, ours = found["plain_seconds"], found["farside_seconds"]
            bits = line[4] * 8 * 2**20 / 1e6
            rows.append([line[0], line[4], plain and bits / plain, ours and bits / ours,
                         plain and ours and plain / ours])
    columns = ["line", "MiB", "TCP Mbit/s", "Farside Mbit/s", "ratio"]
    return data, [report.text_table("Goodput of a backlog, encrypted, beside a plain TCP stream", columns, rows, [])], problems


def _line(workspace, namespaces, line, problems):
    name, _, _, delay, mib = line
    count = mib << 20
    for port, target in ((DELAYED, LINK), (DELAYED + 1, PLAIN)):
        workspace.start(f"delay-{port}", ["ip", "netns", "exec", namespaces.here, "python3", LINE, "delay", str(port),
                                          f"{THERE}:{target}", str(delay)])
    workspace.start("receive", ["ip", "netns", "exec", namespaces.there, "python3", LINE, "receive", THERE, str(PLAIN),
                                str(count)])
    time.sleep(1)
    plain = float(_run(["ip", "netns", "exec", namespaces.here, "python3", LINE, "send", str(DELAYED + 1), str(count)]))
    server = OverLine(workspace, max(count, 64 << 20), 2 * max(count, 64 << 20), namespaces)

    def measured():
        # A disk that was never written: the first copy is short on any line.
        server.start()
        wait_until("the link", lambda: server.volume()["remotes"][0]["state"] == "streaming", 120, server.processes)
        server.backlog(count)
        return server.released()

    ours = attempt(server, measured)
    if ours is None:
        problems.append(f"{NAME}, {name}: {server.problem}")
    return {"line": name, "mib": mib, "plain_seconds": plain, "farside_seconds": ours}
