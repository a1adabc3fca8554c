"""Scenario: the remote is away while a host writes, and comes back while it goes on writing.

The load is 4 KiB random writes at depth 1, as fast as they are answered, before, during and after the outage. The
remote unit is ended cleanly, and started again when the backlog has reached its size. A second pass without the load
during the catch-up shows how fast it is when nothing else goes on.
"""

import socket
import threading
import time

import fio
import report
from compare import attempt, chosen, note, prepare
from processes import Failure, Workspace

NAME = "catch-up"
ABOUT = "the remote away under load: rate of catching up, the host's speed and p99 meanwhile"
WORKLOAD = "write-4k-depth-1"
LOOK_SECONDS = 0.05
BLOCK_BYTES = 4096
# Share of the journal that the backlog may take: at 90 % the remote would be let go.
BACKLOG_SHARE = 0.5
LONGEST_SECONDS = 900
FOLLOW_SECONDS = 400
STREAM_SECONDS = 2
# A remote counts as caught up when what it lacks is what the host writes in this time.
NEAR_SECONDS = 0.25


def run(classes, options, make):
    """Data, tables and problems."""
    setting = chosen(classes, "farside-remote", NAME)
    if setting is None:
        return [], [], []
    data, problems, rows = [], [], []
    for loaded in (False, True):
        with Workspace(options.directory) as workspace:
            note(f"catch-up: {'under load' if loaded else 'quiet'}")
            server = make(setting, workspace, journal=options.catch_up_journal)
            found = attempt(server, lambda server=server, loaded=loaded: _one(server, options, loaded))
            if found is None:
                problems.append(f"catch-up: {server.problem}")
                continue
        data.append(found)
        rows.append(["under load" if loaded else "quiet", found["backlog_mib"], found["ending"], found["seconds"],
                     found["mb_per_second"], found["iops"].get("before"), found["iops"].get("outage"),
                     found["iops"].get("catch-up"), found.get("host_ratio"), found["p99_us"].get("before"),
                     found["p99_us"].get("catch-up"), found.get("p99_ratio")])
    columns = ["catch-up", "backlog MiB", "end", "seconds", "MB/s", "IOPS before", "outage", "catch-up", "ratio",
               "p99us before", "catch-up", "ratio"]
    stream = stream_mb_per_second()
    notes = [f"For comparison, one TCP stream over loopback without anything behind it: {stream:.0f} MB/s."]
    data.append({"loopback_stream_mb_per_second": stream})
    return data, [report.text_table(f"Catch-up after an outage: {WORKLOAD} as load", columns, rows, notes)], problems


def _one(server, options, loaded):
    prepare(server)
    load = fio.Load(server.workspace, server.uri, fio.WORKLOADS[WORKLOAD], seconds=LONGEST_SECONDS, latencies=True)
    time.sleep(1)
    before = time.time()
    time.sleep(options.phase_seconds)
    outage = time.time()
    server.stop_remote()
    full = options.catch_up_journal * BACKLOG_SHARE
    while _volume(server)["journal"]["used_bytes"] < full and time.time() < outage + options.outage_seconds:
        time.sleep(LOOK_SECONDS)
    if not loaded:
        load.stop()
    backlog = _volume(server)["remotes"][0]["lag"]["bytes"]
    back = time.time()
    server.start_remote()
    began, ended, received, ending = _follow(server)
    if loaded:
        load.stop()
    server.settle()
    load.figures()
    phases = [("before", before, outage), ("outage", outage, back)]
    if loaded:
        phases.append(("catch-up", began, ended))
    latencies = fio.by_phase(load.latencies(), phases)
    iops = {name: len(latencies[name]) / (end - begin) for name, begin, end in phases}
    found = {
        "under_load": loaded, "ending": ending, "backlog_mib": backlog / 2**20, "seconds": ended - began,
        "reconnect_seconds": began - back, "mb_per_second": received / (ended - began) / 1e6, "iops": iops,
        "p99_us": {name: fio.percentile(latencies[name], 99) for name, _, _ in phases},
        "worst_us": {name: max(latencies[name], default=None) for name, _, _ in phases},
    }
    if loaded and latencies["catch-up"] and latencies["before"]:
        found["host_ratio"] = iops["catch-up"] / iops["before"]
        found["p99_ratio"] = found["p99_us"]["catch-up"] / found["p99_us"]["before"]
    return found


def _volume(server):
    server.check()
    volume = server.volume()
    if volume is None:
        raise Failure(f"{server.name} does not answer on its control socket")
    return volume


def _follow(server):
    """Follows the remote until it has caught up: when it began and ended, bytes received in between, how it ended.

    A host that writes faster than the remote follows keeps it from ever catching up: that ends when the remote is let
    go, or when time is up, and is a result like any other.
    """
    began, first, rate = None, 0, 0
    deadline = time.time() + FOLLOW_SECONDS
    while time.time() < deadline:
        volume, now = _volume(server), time.time()
        remote, counters = volume["remotes"][0], volume["counters"]["since_start"]
        if remote["state"] in ("copying", "needs_copy"):
            break
        if remote["state"] == "streaming" and began is None:
            began, first, journaled = now, counters["blocks_received"], counters["blocks_journaled"]
        elif began is not None:
            rate = (counters["blocks_journaled"] - journaled) / (now - began)
            if remote["lag"]["blocks"] <= max(1, rate * NEAR_SECONDS):
                return began, now, (counters["blocks_received"] - first) * BLOCK_BYTES, "caught up"
        time.sleep(LOOK_SECONDS)
    if began is None:
        raise Failure(f"the remote was not followed: {remote}")
    ending = "time up" if remote["state"] == "streaming" else "let go"
    return began, now, (counters["blocks_received"] - first) * BLOCK_BYTES, ending


def stream_mb_per_second():
    """What one TCP connection over loopback carries here, from one thread of this program to another."""
    moved = [0]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def receive():
            buffer = bytearray(1 << 20)
            taken, _ = listener.accept()
            with taken:
                while count := taken.recv_into(buffer):
                    moved[0] += count

        receiver = threading.Thread(target=receive)
        receiver.start()
        begin = time.monotonic()
        with socket.create_connection(listener.getsockname()) as sender:
            data = bytes(1 << 20)
            while time.monotonic() < begin + STREAM_SECONDS:
                sender.sendall(data)
        receiver.join()
        return moved[0] / (time.monotonic() - begin) / 1e6
