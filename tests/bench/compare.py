"""Servers side by side: every workload on one after the other, in an order that turns from round to round.

A run begins when the server has nothing left to do and its files are on the disk. What a server spends is counted
until it is in that state again, so that work it puts off is counted too.
"""

import statistics
import sys
import time

import fio
import report
from processes import (Failure, Workspace, cpu_seconds, device_written_bytes, forget_peaks, machine_cpu_seconds,
                       memory_mib, with_children, written_bytes)


def note(text):
    """Says how far it is."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def measure(server, workload, seconds, **options):
    """One run on one server; the figures as a dictionary."""
    server.settle()
    if not workload.writes:
        server.warm()
    forget_peaks(with_children(server.pids))
    machine, own, begin = machine_cpu_seconds(), time.process_time(), time.monotonic()
    cpu, second = cpu_seconds(server.pids), cpu_seconds(server.second_pids)
    dirtied = written_bytes(server.pids)
    written = device_written_bytes(server.directory)
    load = fio.Load(server.workspace, server.uri, workload, seconds=seconds, **options)
    peaks = [0.0]
    load.wait(seconds, lambda: peaks.append(memory_mib(with_children(server.pids), "VmHWM")))
    server.check()
    figures = load.figures()
    server.settle()
    cpu, second = cpu_seconds(server.pids) - cpu, cpu_seconds(server.second_pids) - second
    dirtied = written_bytes(server.pids) - dirtied
    written = None if written is None else device_written_bytes(server.directory) - written
    elapsed = time.monotonic() - begin
    others = machine_cpu_seconds() - machine - cpu - figures["fio_cpu_seconds"] - (time.process_time() - own)
    figures.update({
        "server_cpu_seconds": cpu,
        "cpu_per_million": cpu / figures["operations"] * 1e6,
        "second_cpu_per_million": second / figures["operations"] * 1e6 if server.second_pids else None,
        "cpu_per_gib": cpu / (figures["bytes"] / 2**30),
        "fio_percent": figures["fio_cpu_seconds"] / seconds * 100,
        "others_percent": max(0.0, others / elapsed * 100),
        "peak_mib": max([*peaks, memory_mib(server.pids, "VmHWM")]),
        "written_per_byte": written / figures["bytes"] if workload.writes and written is not None else None,
        "dirtied_per_byte": dirtied / figures["bytes"] if workload.writes else None,
    })
    return figures, load


def compare(classes, options, make):
    """All runs of the comparison: a list of records."""
    records = []
    with Workspace(options.directory) as workspace:
        servers = [make(each, workspace) for each in classes]
        for server in servers:
            note(f"starting {server.name} and filling its disk")
            attempt(server, lambda server=server: prepare(server))
        for name in options.workloads:
            for number in range(options.runs):
                turn = number % len(servers)
                for server in servers[turn:] + servers[:turn]:
                    if left_out(server, name):
                        continue
                    figures = attempt(server, lambda server=server, name=name: measure(
                        server, fio.WORKLOADS[name], options.seconds)[0])
                    records.append({"workload": name, "round": number, "server": server.name,
                                    "error": server.problem if figures is None else None, **(figures or {})})
            note(f"{name} done")
        for server in servers:
            attempt(server, lambda server=server: same_images(server))
        problems = [f"{server.name}: {server.problem}" for server in servers if server.problem]
    return records, problems


def left_out(server, name):
    """Whether the workload has more connections than the server takes."""
    return server.most_connections is not None and fio.WORKLOADS[name].jobs > server.most_connections


def chosen(classes, name, scenario):
    """The server of this name, if it is among those to be measured; else the scenario is left out, and says so."""
    for each in classes:
        if each.name == name:
            return each
    note(f"{scenario}: left out, {name} is not among the servers")
    return None


def attempt(server, work):
    """Does something with a server; what fails is noted, and the server is not asked again."""
    if server.problem:
        return None
    try:
        return work()
    except (Failure, OSError) as error:
        logs = "".join(f"\nthe end of the log of {each.name}:\n{each.log_end()}" for each in server.processes)
        server.problem = str(error) + ("" if "the end of" in str(error) else logs)
        note(f"{server.name} FAILED: {server.problem}")
        return None


def prepare(server):
    """Starts a server and writes its disk once."""
    server.start()
    fio.fill(server.workspace, server.uri)
    server.ready()
    server.settle()


def same_images(server):
    """Fails if the copies that a server keeps differ."""
    server.settle()
    first, *others = server.images()
    for other in others:
        with open(first, "rb") as one, open(other, "rb") as two:
            while True:
                here, there = one.read(1 << 20), two.read(1 << 20)
                if here != there:
                    raise Failure(f"{first} and {other} differ")
                if not here:
                    break


def good(records, workload, server):
    """The successful runs of one row, by round."""
    return {record["round"]: record for record in records
            if (record["workload"], record["server"]) == (workload, server) and not record["error"]}


def ratios(records, workload, server, peer, key):
    """(median, low, high) of the ratios within each round, or None."""
    own, other = good(records, workload, server), good(records, workload, peer)
    found = [own[n][key] / other[n][key] for n in own if n in other and other[n][key]]
    return (statistics.median(found), min(found), max(found)) if found else None


COMPARED = {
    "iops": "Operations per second, ratio to each peer: median (low-high); above 1 is faster",
    "cpu_per_million": "Processor time per operation, ratio to each peer: below 1 is less",
    "p99_us": "p99 latency, ratio to each peer: below 1 is shorter",
}
COLUMNS = {
    "iops": "IOPS", "span": "(low-high)", "mb_per_second": "MB/s", "p50_us": "p50us", "p99_us": "p99us",
    "flush_p50_us": "flush50", "flush_p99_us": "flush99", "cpu_per_million": "cpu/M", "second_cpu_per_million": "2nd/M",
    "cpu_per_gib": "cpu/GiB", "written_per_byte": "disk/B", "peak_mib": "MiB", "fio_percent": "fio%",
    "others_percent": "others%",
}


def summary(records, classes, options):
    """One dictionary for each workload and server: medians, and for Farside the ratios to each peer."""
    peers = [each.name for each in classes if each.is_peer]
    result = []
    for workload in options.workloads:
        for each in classes:
            runs = list(good(records, workload, each.name).values())
            row = {"workload": workload, "server": each.name, "runs": len(runs), "left_out": left_out(each, workload)}
            row.update((key, (fio.summary(runs, key) or [None])[0]) for key in COLUMNS if key != "span")
            if runs:
                _, low, high = fio.summary(runs, "iops")
                row["span"] = f"{low:.0f}-{high:.0f}"
            if not each.is_peer:
                row["ratios"] = {key: {peer: ratios(records, workload, each.name, peer, key) for peer in peers}
                                 for key in COMPARED}
            result.append(row)
    return result


def tables(rows, classes, options):
    """The comparison as text, from its summary."""
    lines = []
    for row in rows:
        figures = [row.get(key) for key in COLUMNS]
        if not row["runs"]:
            figures[0] = "left out" if row["left_out"] else "FAILED"
        lines.append([row["workload"], row["server"], *figures])
    title = f"Side by side: medians of {options.runs} runs of {options.seconds:g} s"
    result = [report.text_table(title, ["workload", "server", *COLUMNS.values()], lines)]
    peers = [each.name for each in classes if each.is_peer]
    measured = [row for row in rows if "ratios" in row]
    if peers and measured:
        for key, title in COMPARED.items():
            lines = [[row["workload"], row["server"], *(report.span(row["ratios"][key][peer]) for peer in peers)]
                     for row in measured]
            result.append(report.text_table(title, ["workload", "server", *peers], lines))
    return result
