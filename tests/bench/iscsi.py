"""Scenario `iscsi`: the same disk over iSCSI, beside tgt, with `qemu-img bench` as the initiator.

fio has no initiator of its own in most builds. `qemu-img bench` has no clock either: each run is as many operations as
the server did in a short look, times the seconds wanted. Its places go round the disk in steps that are no part of its
size, which no read-ahead follows.
"""

import os
import re
import shutil
import statistics
import subprocess

import compare
import farside
import report
from processes import Failure, Workspace, cpu_seconds, wait_until
from servers import START_SECONDS, Server, free_port

NAME = "iscsi"
ABOUT = "Farside's iSCSI target beside tgt's, with qemu-img bench"
TARGET = "iqn.2026-11.dev.farside:disk0"
PROGRAMS = ("qemu-img", "iscsi-inq")
LOOK_OPERATIONS = 2000
# Steps in blocks: prime, so that they come by every block before any comes again.
RANDOM = 4096 * 7919
LOADS = {
    "write-4k-depth-1": ["-w", "-s", "4096", "-S", str(RANDOM), "-d", "1"],
    "write-4k-depth-32": ["-w", "-s", "4096", "-S", str(RANDOM), "-d", "32"],
    "read-4k-depth-1": ["-s", "4096", "-S", str(RANDOM), "-d", "1"],
    "read-4k-depth-32": ["-s", "4096", "-S", str(RANDOM), "-d", "32"],
    "write-flush-4k-depth-1": ["-w", "-s", "4096", "-S", str(RANDOM), "-d", "1", "--flush-interval=1"],
    "write-flush32-4k-depth-32": ["-w", "-s", "4096", "-S", str(RANDOM), "-d", "32", "--flush-interval=32"],
    "write-128k-sequential": ["-w", "-s", "131072", "-d", "8"],
    "read-128k-sequential": ["-s", "131072", "-d", "8"],
}


class Tgt(Server):
    """tgtd with a file through the page cache, as it does by default."""

    name = "tgt"
    programs = ("tgtd", "tgtadm")
    version_flag = "-V"
    about = "tgt with one plain copy"

    def start(self):
        control, self.portal = str(free_port() % 30000 + 1), f"127.0.0.1:{free_port()}"
        self.run(["tgtd", "-f", "-C", control, "--iscsi", f"portal={self.portal}"])

        def ask(*arguments):
            return subprocess.run(["tgtadm", "-C", control, *arguments], capture_output=True, text=True, check=False)

        wait_until("tgtd to answer", lambda: ask("--mode", "sys", "--op", "show").returncode == 0, START_SECONDS,
                   self.processes)
        logical_unit = ["--lld", "iscsi", "--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1"]
        for arguments in [["--lld", "iscsi", "--mode", "target", "--op", "new", "--tid", "1", "-T", TARGET],
                          [*logical_unit, "-b", self.image()],
                          ["--lld", "iscsi", "--mode", "target", "--op", "bind", "--tid", "1", "-I", "127.0.0.1"]]:
            said = ask(*arguments)
            if said.returncode:
                raise Failure(f"tgtadm {' '.join(arguments)}: {said.stdout}{said.stderr}")


class OverIscsi:
    """A unit with a portal."""

    def _configuration(self, name, lines):
        if name == "here.toml":
            self.portal = f"127.0.0.1:{free_port()}"
            lines = lines[:3] + ["[iscsi]", f'listen = ["{self.portal}"]'] + lines[3:]
        super()._configuration(name, lines)


class Alone(OverIscsi, farside.Farside):
    """Journal and mirror."""


class WithRemote(OverIscsi, farside.FarsideRemote):
    """Journal, mirror and a live remote."""


def url(server):
    """Where initiators find it."""
    return f"iscsi://{server.portal}/{TARGET}/1"


def work(server, load, operations):
    """So many operations; the seconds that they took."""
    command = ["qemu-img", "bench", "-f", "raw", "-t", "none", *load, "-c", str(operations), url(server)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    found = re.search(r"Run completed in ([0-9.]+) seconds", said.stdout)
    if said.returncode or not found:
        raise Failure(f"{' '.join(command)} ended with {said.returncode}: {said.stdout}{said.stderr}")
    return float(found.group(1))


def prepare(server):
    """Starts it and writes its disk once."""
    server.start()
    wait_until(f"{server.name} to be found", lambda: subprocess.run(
        ["iscsi-inq", url(server)], capture_output=True, check=False).returncode == 0, START_SECONDS, server.processes)
    work(server, ["-w", "-s", str(1 << 20), "-d", "4"], server.size >> 20)
    server.settle()


def measure(server, load, seconds):
    """One run; operations, seconds and processor seconds."""
    server.settle()
    if "-w" not in load:
        server.warm()
    look = work(server, load, LOOK_OPERATIONS)
    operations = max(LOOK_OPERATIONS, int(LOOK_OPERATIONS * seconds / max(look, 1e-3)))
    server.settle()
    cpu = cpu_seconds(server.pids)
    took = work(server, load, operations)
    server.check()
    server.settle()
    return {"iops": operations / took, "cpu_us": (cpu_seconds(server.pids) - cpu) / operations * 1e6}


def run(classes, options, make):
    """Data, tables and problems of the scenario."""
    own = [each for each, name in ((Alone, "farside"), (WithRemote, "farside-remote"))
           if any(known.name == name for known in classes)]
    missing = [program for program in PROGRAMS if not shutil.which(program)] + Tgt.missing()
    if missing or not own:
        compare.note(f"{NAME}: left out, {', '.join(missing) or 'no setting of Farside'} is missing")
        return {}, [], []
    records, problems = [], []
    with Workspace(options.directory) as workspace:
        servers = [make(each, workspace) for each in [Tgt, *own]]
        for server in servers:
            compare.note(f"starting {server.name} and filling its disk over iSCSI")
            compare.attempt(server, lambda server=server: prepare(server))
        for name, load in LOADS.items():
            for number in range(options.runs):
                turn = number % len(servers)
                for server in servers[turn:] + servers[:turn]:
                    figures = compare.attempt(server, lambda server=server, load=load: measure(
                        server, load, options.seconds))
                    records.append({"workload": name, "round": number, "server": server.name,
                                    "error": server.problem if figures is None else None, **(figures or {})})
            compare.note(f"{name} over iSCSI done")
        problems = [f"{server.name}: {server.problem}" for server in servers if server.problem]
    rows = []
    for name in LOADS:
        for server in [Tgt, *own]:
            good = compare.good(records, name, server.name).values()
            median = {key: statistics.median(record[key] for record in good) if good else None
                      for key in ("iops", "cpu_us")}
            beside = [report.span(compare.ratios(records, name, server.name, Tgt.name, key)) if server is not Tgt
                      else "-" for key in ("iops", "cpu_us")]
            rows.append([name, server.name, median["iops"], beside[0], median["cpu_us"], beside[1]])
    columns = ["workload", "server", "IOPS", "to tgt's", "CPU us/op", "to tgt's"]
    notes = [f"{Tgt.version()}; {os.path.basename(PROGRAMS[0])} bench; medians of {options.runs} runs of about "
             f"{options.seconds:g} s; processor time of all units"]
    return {"runs": records}, [report.text_table("Over iSCSI, beside tgt", columns, rows, notes)], problems
