"""Scenarios: memory and time to open against the size of the volume, and memory against what waits for the mirror.

To make blocks wait, strace holds the thread that serves the image at its first write; the rest of the unit runs on.
"""

import shutil
import statistics
import time

import fio
import nbd
import report
from compare import attempt, chosen, note
from processes import Failure, Workspace, memory_mib, wait_until
from servers import START_SECONDS

VOLUME_SIZE, PENDING = "volume-size", "pending"
ABOUT = {VOLUME_SIZE: "memory and time to open, sparse volumes of 1 GiB to 16 TiB",
         PENDING: "memory against the number of blocks that wait for the mirror"}
# The largest file of ext4 is one block short of 16 TiB.
LARGEST = (16 << 40) - (64 << 10)
SIZES = (1 << 30, 64 << 30, 1 << 40, LARGEST)
PENDING_VOLUME = 64 << 30
PENDING_JOURNAL = 5 << 30
HOLD_SECONDS = 3600
# Few, because every block at a random place of a sparse file is an extent that has to be freed again, which takes
# minutes for some hundred thousand where the file system is mounted with discard.
SCATTERED_WRITES = 2000
WARMING_WRITES = 20_000
OPENINGS = 3


def run_volume_size(classes, options, make):
    """Data, tables and problems."""
    setting = chosen(classes, "farside", VOLUME_SIZE)
    if setting is None:
        return [], [], []
    data, rows, problems = [], [], []
    for size in SIZES:
        label = f"{size / 2**30:.0f} GiB"
        with Workspace(options.directory) as workspace:
            note(f"{VOLUME_SIZE}: {label}")
            server = make(setting, workspace, size=size)
            found = attempt(server, lambda server=server: _size(server))
            if found is None:
                problems.append(f"{VOLUME_SIZE}, {label}: {server.problem}")
                continue
        data.append({"size_bytes": size, **found})
        rows.append([label, found["create_seconds"], statistics.median(found["open_seconds"]),
                     max(found["open_seconds"]), found["idle_mib"], found["after_writes_mib"], found["peak_mib"]])
    columns = ["volume", "first start s", "open s", "longest", "MiB open", "after writes", "peak"]
    title = f"Volume size: {OPENINGS} clean restarts, then {SCATTERED_WRITES} random writes of 4 KiB all over it"
    return data, [report.text_table(title, columns, rows)], problems


def _size(server):
    begin = time.monotonic()
    server.start()
    found = {"create_seconds": time.monotonic() - begin, "open_seconds": []}
    for _ in range(OPENINGS):
        server.stop_unit()
        begin = time.monotonic()
        server.start_unit()
        wait_until("the volume to open", lambda: nbd.answers(server.socket, server.export), START_SECONDS,
                   server.processes, 0.002)
        found["open_seconds"].append(time.monotonic() - begin)
    found["idle_mib"] = memory_mib(server.pids)
    _write(server, SCATTERED_WRITES)
    found["after_writes_mib"], found["peak_mib"] = memory_mib(server.pids), memory_mib(server.pids, "VmHWM")
    server.settle()
    return found


def run_pending(classes, options, make):
    """Data, tables and problems."""
    setting = next((each for each in classes if each.name == "farside"), None)
    reason = ("farside is not among the servers" if setting is None else
              "strace is not installed" if not shutil.which("strace") else
              "not enough free space for its journal"
              if shutil.disk_usage(options.directory).free < 2 * PENDING_JOURNAL else None)
    if reason:
        note(f"{PENDING}: left out, {reason}")
        return [], [], []
    with Workspace(options.directory) as workspace:
        note(PENDING)
        server = make(setting, workspace, size=PENDING_VOLUME, journal=PENDING_JOURNAL)
        found = attempt(server, lambda: _pending(server, options.pending_blocks))
        if found is None:
            return [], [], [f"{PENDING}: {server.problem}"]
    rows = [[each["records"], each["mib"], each["bytes_per_block"]] for each in found]
    return found, [report.text_table("Pending blocks: memory while the mirror is held, 4 KiB random writes",
                                     ["blocks waiting", "MiB", "bytes per block"], rows)], []


def _pending(server, steps):
    server.start()
    # Memory that comes with the first writes, whatever waits, is not counted for what waits.
    _write(server, WARMING_WRITES, "write")
    server.settle()
    found = []
    hold = _hold(server)
    for blocks in (0, *steps):
        waiting = server.pending_records()
        if blocks > waiting:
            _write(server, blocks - waiting)
        records, mib = server.pending_records(), memory_mib([server.unit.pid])
        if blocks and records < blocks * 0.9:
            raise Failure(f"the mirror was not held: {records} of {blocks} blocks wait")
        base = found[0] if found else {"mib": mib, "records": 0}
        per_block = (mib - base["mib"]) * 2**20 / (records - base["records"]) if records > base["records"] else None
        found.append({"records": records, "mib": mib, "bytes_per_block": per_block})
    # The unit dies first, so that the mirror is never written, but it is gone only when strace lets go of its thread.
    server.unit.popen.kill()
    hold.kill()
    server.kill_unit()
    return found


def _write(server, blocks, mode="randwrite"):
    load = fio.Load(server.workspace, server.uri, fio.Workload(mode, "4k", 32), extra=[f"--number_ios={blocks}"])
    load.wait(300)
    load.figures()


def _hold(server):
    thread = server.image_thread()
    calls = "pwrite64,pwritev,pwritev2"
    hold = server.workspace.start("strace", ["strace", "-p", str(thread), "-e", f"trace={calls}", "-e",
                                             f"inject={calls}:delay_enter={HOLD_SECONDS}s", "-o", "/dev/null"])
    wait_until("strace to attach", lambda: "attached" in hold.log_end(), START_SECONDS, [hold])
    return hold
