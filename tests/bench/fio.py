"""The load: named workloads, fio with its nbd engine, and what its reports say.

fio itself takes several microseconds for each operation, so its own processor time is reported beside the server's.
"""

import collections
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import time
from dataclasses import dataclass

from processes import Failure, Process

COMMON = ["fio", "--name=bench", "--ioengine=nbd", "--norandommap", "--randrepeat=0",
          "--random_generator=tausworthe64", "--percentile_list=50:99:99.9", "--output-format=json"]
GRACE_SECONDS = 60
FIO_INTERRUPTED = 128


@dataclass(frozen=True)
class Workload:
    """What fio is asked to do, apart from how long."""

    mode: str
    block: str
    depth: int
    jobs: int = 1
    flush_every: int = 0

    @property
    def writes(self):
        """Whether it changes the disk."""
        return "write" in self.mode

    def arguments(self):
        """Its part of fio's command line."""
        arguments = [f"--rw={self.mode}", f"--bs={self.block}", f"--iodepth={self.depth}"]
        if self.jobs > 1:
            arguments += [f"--numjobs={self.jobs}", "--group_reporting=1"]
        if self.flush_every:
            arguments.append(f"--fsync={self.flush_every}")
        return arguments


WORKLOADS = {
    "write-4k-depth-1": Workload("randwrite", "4k", 1),
    "write-4k-depth-32": Workload("randwrite", "4k", 32),
    "read-4k-depth-1": Workload("randread", "4k", 1),
    "read-4k-depth-32": Workload("randread", "4k", 32),
    "write-128k-sequential": Workload("write", "128k", 8),
    "read-128k-sequential": Workload("read", "128k", 8),
    "write-flush-4k-depth-1": Workload("randwrite", "4k", 1, flush_every=1),
    "write-flush-4k-depth-32": Workload("randwrite", "4k", 32, flush_every=1),
    "write-flush32-4k-depth-32": Workload("randwrite", "4k", 32, flush_every=32),
    "write-4k-4x8": Workload("randwrite", "4k", 8, jobs=4),
    "read-4k-4x8": Workload("randread", "4k", 8, jobs=4),
    "write-4k-8x1": Workload("randwrite", "4k", 1, jobs=8),
    "write-4k-64x1": Workload("randwrite", "4k", 1, jobs=64),
}
SHORT = ["write-4k-depth-1", "write-4k-depth-32", "read-4k-depth-32", "write-flush-4k-depth-1"]


class Load:
    """fio at work against one server."""

    def __init__(self, workspace, uri, workload, *, seconds=None, extra=(), latencies=False, rates=False):
        self.workload = workload
        self.stem = workspace.path(f"fio-{time.monotonic_ns()}")
        command = COMMON + [f"--uri={uri}", f"--output={self.stem}.json", *workload.arguments(), *extra]
        if seconds:
            command += ["--time_based", f"--runtime={seconds * 1000:.0f}ms"]
        if latencies:
            command += [f"--write_lat_log={self.stem}", "--log_unix_epoch=1", "--disable_slat=1", "--disable_lat=1"]
        if rates:
            command += [f"--write_bw_log={self.stem}", "--log_avg_msec=1000"]
        self.cpu_before, self.stopped = _children_cpu(), False
        self.process = workspace.adopt(Process("fio", command, self.stem + ".log"))

    def running(self):
        """Whether it still runs."""
        return self.process.alive()

    def stop(self):
        """Ends it early; its figures are complete up to here."""
        self.process.stop(signal.SIGINT)
        self.stopped = True

    def wait(self, seconds, meanwhile=lambda: None):
        """Waits for its end and calls `meanwhile` four times a second."""
        deadline = time.monotonic() + seconds + GRACE_SECONDS
        while self.running():
            try:
                self.process.popen.wait(0.25)
            except subprocess.TimeoutExpired:
                meanwhile()
            if time.monotonic() > deadline:
                self.process.kill()
                raise Failure(f"fio did not end within {seconds + GRACE_SECONDS:g} s")

    def figures(self):
        """What it measured, as a dictionary."""
        said = self.process.log_end()
        try:
            with open(self.stem + ".json", encoding="utf-8") as report:
                text = report.read()
            job = json.loads(text[text.index("{"):])["jobs"][0]
        except (OSError, ValueError, LookupError) as error:
            raise Failure(f"fio gave no report ({self.process.popen.returncode}): {said}") from error
        if job["error"] or self.process.popen.returncode not in ([0, FIO_INTERRUPTED] if self.stopped else [0]):
            raise Failure(f"fio ended with {self.process.popen.returncode}, error {job['error']}: {said}")
        side = job["write"] if self.workload.writes else job["read"]
        figures = {
            "operations": side["total_ios"],
            "bytes": side["io_bytes"],
            "iops": side["iops"],
            "mb_per_second": side["bw_bytes"] / 1e6,
            "p50_us": _percentile(side["clat_ns"], 50),
            "p99_us": _percentile(side["clat_ns"], 99),
            "p999_us": _percentile(side["clat_ns"], 99.9),
            "fio_cpu_seconds": _children_cpu() - self.cpu_before,
        }
        if self.workload.flush_every:
            figures["flush_p50_us"] = _percentile(job["sync"]["lat_ns"], 50)
            figures["flush_p99_us"] = _percentile(job["sync"]["lat_ns"], 99)
        return figures

    def latencies(self):
        """All completion latencies in order: (Unix time of completion in seconds, microseconds)."""
        for line in self._log("clat"):
            when, nanoseconds, _ = line.split(",", 2)
            yield int(when) / 1000, int(nanoseconds) / 1000

    def rates(self):
        """MB/s of each second in order."""
        return [int(line.split(",")[1]) * 1024 / 1e6 for line in self._log("bw")]

    def _log(self, kind):
        with open(f"{self.stem}_{kind}.1.log", encoding="utf-8") as log:
            yield from log


def fill(workspace, uri):
    """Writes the whole disk once, in order, and flushes it."""
    load = Load(workspace, uri, Workload("write", "1m", 8), extra=["--end_fsync=1"])
    load.wait(3600)
    load.figures()
    os.unlink(load.stem + ".json")


def percentile(values, wanted):
    """A percentile of a list, or None of an empty one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * wanted / 100))] if ordered else None


def by_phase(latencies, phases):
    """Latencies sorted into phases: a list of (name, begin, end) in Unix time.

    A request belongs to the first phase in which any of its time lies, or to none: one that a phase has delayed may be
    answered after it.
    """
    sorted_in = collections.defaultdict(list)
    for when, value in latencies:
        since = when - value / 1e6
        for name, begin, end in phases:
            if begin <= when and since < end:
                sorted_in[name].append(value)
                break
    return sorted_in


def summary(runs, key):
    """(median, low, high) of one figure over runs, or None."""
    values = [run[key] for run in runs if run.get(key) is not None]
    return (statistics.median(values), min(values), max(values)) if values else None


def _children_cpu():
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _percentile(latency, wanted):
    return latency.get("percentile", {}).get(f"{wanted:.6f}", 0) / 1000


def missing():
    """A sentence if fio cannot be used here."""
    if not shutil.which("fio"):
        return "fio is not installed"
    if subprocess.run(["fio", "--enghelp=nbd"], capture_output=True, check=False).returncode:
        return "this fio has no nbd engine"
    return None
