"""Scenario: latency at depth 1, apart for the times at which Farside makes its mirror durable and all others.

A checkpoint is under way while the thread that serves the image is in a sync, or brings parts of the image to its disk; that
is looked at a hundred times a second in /proc. One pass writes without flushes (fio, every completion logged), a second one flushes after each write
(a small client here, because fio does not log flushes).
"""

import os
import platform
import threading
import time

import fio
import nbd
import report
from compare import attempt, note, prepare
from processes import Workspace

NAME = "checkpoints"
ABOUT = "latency at depth 1 during checkpoints of the mirror, against the same run's quiet times"
WORKLOAD = "write-4k-depth-1"
LOOK_SECONDS = 0.01
# fsync, fdatasync, sync_file_range
SYNC_CALLS = {"x86_64": ("74", "75", "277"), "aarch64": ("82", "83", "84")}
# Between two parts the thread is somewhere else for a moment.
PAUSE_SECONDS = 0.03


class ImageThread:
    """Looks at what the image thread of a unit does, from a thread of its own."""

    def __init__(self, server):
        self.path = f"/proc/{server.unit.pid}/task/{server.image_thread()}/syscall"
        self.phases, self.over = [], threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def _look(self):
        calls, since = SYNC_CALLS[platform.machine()], None
        while not self.over.wait(LOOK_SECONDS):
            try:
                with open(self.path, encoding="utf-8") as call:
                    syncing = call.read().split()[0] in calls
            except OSError:
                return
            now = time.time()
            if syncing and since is None:
                since = now
            elif not syncing and since is not None:
                self._ended(since, now)
                since = None
        if since is not None:
            self._ended(since, time.time())

    def _ended(self, since, now):
        if self.phases and since - self.phases[-1][1] < PAUSE_SECONDS:
            since = self.phases.pop()[0]
        self.phases.append((since, now))


def run(classes, options, make):
    """Data, tables and problems."""
    if platform.machine() not in SYNC_CALLS or not os.access("/proc/self/syscall", os.R_OK):
        note("checkpoints: left out, this kernel does not show what a thread waits for")
        return [], [], []
    data, rows, problems = [], [], []
    for each in (each for each in classes if each.name in ("farside", "farside-remote")):
        for flushes in (False, True):
            with Workspace(options.directory) as workspace:
                note(f"checkpoints: {each.name}, {'flush after each write' if flushes else 'no flushes'}")
                server = make(each, workspace)
                found = attempt(server, lambda server=server, flushes=flushes: _one(server, options, flushes))
                if found is None:
                    problems.append(f"checkpoints, {each.name}: {server.problem}")
                    continue
            data.append({"server": each.name, "flushes": flushes, **found})
            rows.append([each.name, "flush" if flushes else "write", found["checkpoints"], found["share_percent"],
                         found["quiet"]["p50_us"], found["quiet"]["p99_us"], found["quiet"]["worst_us"],
                         found["during"]["requests"], found["during"]["p50_us"], found["during"]["p99_us"],
                         found["during"]["worst_us"], found["p99_ratio"]])
    columns = ["server", "latency of", "checkpoints", "time %", "quiet p50us", "p99us", "worst", "during: requests",
               "p50us", "p99us", "worst", "p99 ratio"]
    title = f"Checkpoints: 4 KiB random writes at depth 1 for {options.checkpoint_seconds:g} s"
    return data, [report.text_table(title, columns, rows)], problems


def _one(server, options, flushes):
    prepare(server)
    with ImageThread(server) as image:
        began = time.time()
        if flushes:
            latencies = flush_latencies(server, options.checkpoint_seconds)
        else:
            load = fio.Load(server.workspace, server.uri, fio.WORKLOADS[WORKLOAD],
                            seconds=options.checkpoint_seconds, latencies=True)
            load.wait(options.checkpoint_seconds)
            load.figures()
            latencies = list(load.latencies())
    server.check()
    # Syncs of a few milliseconds are of an image that is clean: nothing to tell apart.
    phases = [("during", begin, end) for begin, end in image.phases if end - begin > 2 * LOOK_SECONDS]
    found = fio.by_phase(latencies, phases + [("quiet", began, time.time())])
    figures = {name: {"requests": len(values), "p50_us": fio.percentile(values, 50),
                      "p99_us": fio.percentile(values, 99), "worst_us": max(values, default=None)}
               for name, values in (("quiet", found["quiet"]), ("during", found["during"]))}
    ratio = figures["during"]["p99_us"] / figures["quiet"]["p99_us"] if found["during"] and found["quiet"] else None
    spent = sum(end - begin for _, begin, end in phases)
    return {"checkpoints": len(phases), "share_percent": spent / options.checkpoint_seconds * 100,
            "phases": [(begin - began, end - began) for _, begin, end in phases], "p99_ratio": ratio, **figures}


def flush_latencies(server, seconds):
    """Writes 4 KiB at random places, a flush after each: (Unix time, microseconds of the flush)."""
    latencies, block = [], os.urandom(4096)
    blocks = server.size // 4096
    with nbd.Client(server.socket, server.export, timeout=60) as client:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            place = int.from_bytes(os.urandom(4), "big") % blocks
            client.write(place * 4096, block)
            begin = time.perf_counter()
            client.flush()
            latencies.append((time.time(), (time.perf_counter() - begin) * 1e6))
    return latencies
