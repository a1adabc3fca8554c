"""Scenario: how long a start takes after kill -9 and after a clean end, for journals of several sizes.

Journals are reserved, not written: a large one takes its size of free disk space, and is left out where that is
missing. Before each start journal and mirror are put on the disk and out of the page cache.
"""

import os
import shutil
import statistics
import time

import fio
import nbd
import report
from compare import attempt, chosen, note, prepare
from processes import Workspace, io_counts, memory_mib, wait_until
from servers import SETTLE_SECONDS, START_SECONDS, sync

NAME = "recovery"
ABOUT = "start after kill -9 under load, and after a clean end, against the size of the journal"
WORKLOAD = "write-4k-depth-32"
SPARE_BYTES = 4 << 30
MOST_RUNS = 3


def run(classes, options, make):
    """Data, tables and problems."""
    setting = chosen(classes, "farside", NAME)
    if setting is None:
        return [], [], []
    data, rows, problems, notes = [], [], [], []
    for journal in options.recovery_journals:
        label = f"{journal / 2**30:g} GiB"
        if shutil.disk_usage(options.directory).free < journal + options.size + SPARE_BYTES:
            notes.append(f"A journal of {label} is left out: not enough free space to reserve it.")
            note(f"recovery: {notes[-1]}")
            continue
        with Workspace(options.directory) as workspace:
            note(f"recovery: journal of {label}")
            server = make(setting, workspace, journal=journal)
            found = attempt(server, lambda server=server: _journal(server, options))
            if found is None:
                problems.append(f"recovery, {label}: {server.problem}")
                continue
        data.append({"journal_bytes": journal, **found})
        for kind in ("killed", "clean"):
            middle = lambda key, runs=found[kind]: statistics.median(run[key] for run in runs)
            rows.append([label, kind, len(found[kind]), int(middle("records")), middle("open_seconds"),
                         max(run["open_seconds"] for run in found[kind]), middle("mirrored_seconds"),
                         int(middle("read_calls")), middle("read_mib"), middle("memory_mib")])
    columns = ["journal", "end", "runs", "records to apply", "answers s", "longest", "applied s", "reads", "read MiB",
               "MiB"]
    title = f"Recovery: {WORKLOAD} for {options.recovery_seconds:g} s, then kill -9 or a clean end"
    return data, [report.text_table(title, columns, rows, notes)], problems


def _journal(server, options):
    prepare(server)
    found = {"killed": [], "clean": []}
    for kind in ("killed", "clean") * min(MOST_RUNS, options.runs):
        load = fio.Load(server.workspace, server.uri, fio.WORKLOADS[WORKLOAD], seconds=options.recovery_seconds + 60)
        time.sleep(options.recovery_seconds)
        if not load.running():
            load.figures()
        if kind == "killed":
            server.kill_unit()
            load.process.kill()
        else:
            load.stop()
            server.stop_unit()
        found[kind].append(_start(server))
    return found


def _start(server):
    for path in (server.journal_file(), *server.images()):
        leave_cache(path)
    began = time.monotonic()
    server.start_unit()
    wait_until("the volume to open", lambda: nbd.answers(server.socket, server.export), START_SECONDS,
               server.processes, 0.002)
    opened, counts = time.monotonic() - began, io_counts(server.unit.pid)
    memory, records = memory_mib([server.unit.pid]), server.pending_records()
    wait_until("everything to be applied", lambda: server.pending_records() == 0, SETTLE_SECONDS, server.processes)
    return {"open_seconds": opened, "mirrored_seconds": time.monotonic() - began, "records": records,
            "read_calls": counts["syscr"], "read_mib": counts["rchar"] / 2**20, "memory_mib": memory}


def leave_cache(path):
    """Puts a file on the disk and asks the kernel to drop it from the page cache."""
    sync(path)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
