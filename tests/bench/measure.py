#!/usr/bin/env python3
"""Runs fio workloads against several NBD servers in turn and prints medians and ratios to the first server.

usage: measure.py [options] NAME=URI@PID ...     (bench/run.sh starts the servers and calls this)

Only ratios mean something: the servers are measured alternately in one run, on a machine that others use too. A row
says: operations and MB per second (medians), the ratio to the first server (median of the ratios within each round),
completion latency, and the server's own CPU time per operation from /proc. For workloads with a flush after each
write the latency of the flush is shown beside. fio itself takes several microseconds an operation: when its CPU is
near 100 % the client is the limit, and the CPU column decides.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

WORKLOADS = {
    "write-4k-depth-1": ["--rw=randwrite", "--bs=4k", "--iodepth=1"],
    "write-4k-depth-32": ["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    "read-4k-depth-1": ["--rw=randread", "--bs=4k", "--iodepth=1"],
    "read-4k-depth-32": ["--rw=randread", "--bs=4k", "--iodepth=32"],
    "write-128k-sequential": ["--rw=write", "--bs=128k", "--iodepth=8"],
    "read-128k-sequential": ["--rw=read", "--bs=128k", "--iodepth=8"],
    "write-flush-4k-depth-1": ["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"],
    "write-flush-4k-depth-32": ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--fsync=1"],
}
SHORT = ["write-4k-depth-1", "write-4k-depth-32", "read-4k-depth-32", "write-flush-4k-depth-1"]
TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A server to measure: name, address, process."""

    def __init__(self, text):
        self.name, rest = text.split("=", 1)
        self.uri, pid = rest.rsplit("@", 1)
        self.pid = int(pid)

    def cpu_seconds(self):
        """User and system time of all its threads so far."""
        with open(f"/proc/{self.pid}/stat", encoding="utf-8") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def peak_memory_mib(self):
        """Highest resident memory so far."""
        with open(f"/proc/{self.pid}/status", encoding="utf-8") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        return 0.0


def sync(paths):
    """Puts the peer's dirty pages on the disk, so that they are not written during the next run."""
    for path in paths:
        handle = os.open(path, os.O_RDWR)
        os.fsync(handle)
        os.close(handle)


def percentile(latency, wanted):
    """A percentile of one of fio's latency records, in microseconds."""
    return latency.get("percentile", {}).get(f"{wanted:.6f}", 0) / 1000


def run_fio(server, workload, seconds):
    """One run; the figures of it, or a dictionary with an error."""
    command = ["timeout", "-k", "1", str(int(seconds * 3 + 30)), "fio", "--name=bench", "--ioengine=nbd",
               f"--uri={server.uri}", "--time_based", f"--runtime={seconds}", "--norandommap", "--randrepeat=0",
               "--random_generator=tausworthe64", "--percentile_list=50:99", "--output-format=json"]
    cpu = server.cpu_seconds()
    done = subprocess.run(command + WORKLOADS[workload], capture_output=True, text=True, check=False)
    cpu = server.cpu_seconds() - cpu
    begin = done.stdout.find("{")
    if done.returncode != 0 or begin < 0:
        return {"error": (done.stdout[-300:] + done.stderr[-300:]).strip() or f"fio ended with {done.returncode}"}
    job = json.loads(done.stdout[begin:])["jobs"][0]
    if job["error"]:
        return {"error": f"fio error {job['error']}"}
    side = job["write"] if "write" in workload else job["read"]
    operations = side["total_ios"] or 1
    return {
        "error": None,
        "iops": side["iops"],
        "mb_per_second": side["bw_bytes"] / 1e6,
        "p50_us": percentile(side["clat_ns"], 50),
        "p99_us": percentile(side["clat_ns"], 99),
        "flush_p50_us": percentile(job["sync"]["lat_ns"], 50),
        "flush_p99_us": percentile(job["sync"]["lat_ns"], 99),
        "server_cpu_us_per_op": cpu / operations * 1e6,
        "fio_cpu_percent": job["usr_cpu"] + job["sys_cpu"],
        "peak_memory_mib": server.peak_memory_mib(),
    }


def measure(servers, workloads, options):
    """All runs, the order of the servers changing from round to round."""
    records = []
    for workload in workloads:
        for round_number in range(options.runs):
            turn = round_number % len(servers)
            for server in servers[turn:] + servers[:turn]:
                sync(options.sync)
                if options.before:
                    subprocess.run(options.before, shell=True, check=True, stdout=subprocess.DEVNULL)
                record = run_fio(server, workload, options.seconds)
                record.update(server=server.name, workload=workload, round=round_number)
                records.append(record)
        print(f"bench: {workload} done", file=sys.stderr, flush=True)
    return records


def summary(records, servers, workloads):
    """One row for each workload and server."""
    rows = []
    for workload in workloads:
        of = {s.name: {r["round"]: r for r in records if (r["workload"], r["server"]) == (workload, s.name)}
              for s in servers}
        first = {n: r for n, r in of[servers[0].name].items() if not r["error"]}
        for server in servers:
            good = {n: r for n, r in of[server.name].items() if not r["error"]}
            errors = [r["error"] for r in of[server.name].values() if r["error"]]
            row = {"workload": workload, "server": server.name, "runs": len(good), "errors": errors}
            if good:
                keys = [k for k, v in next(iter(good.values())).items() if isinstance(v, float)]
                row.update({key: statistics.median(r[key] for r in good.values()) for key in keys})
                ratios = [r["iops"] / first[n]["iops"] for n, r in good.items() if n in first and first[n]["iops"]]
                if ratios:
                    row.update(ratio=statistics.median(ratios), ratio_low=min(ratios), ratio_high=max(ratios))
            rows.append(row)
    return rows


def table(rows, servers, options):
    """The rows as text."""
    peer = servers[0].name
    text = [f"{options.note}; {options.seconds:g} s a run, medians of {options.runs}, ratio to {peer}; "
            + time.strftime("%F %T"), ""]
    text.append(f"{'workload':<24} {'server':<13} {'IOPS':>8} {'MB/s':>8} {'ratio':>6} {'(low-high)':>11} {'p50us':>8} "
                f"{'p99us':>8} {'flush50':>8} {'flush99':>8} {'cpu/op':>7} {'fio%':>5} {'MiB':>6}")
    for row in rows:
        if not row["runs"]:
            text.append(f"{row['workload']:<24} {row['server']:<13} FAILED: {row['errors'][0][-160:]}")
            continue
        span = f"{row['ratio_low']:.2f}-{row['ratio_high']:.2f}" if "ratio" in row else "-"
        flush = "flush" in row["workload"]
        text.append(
            f"{row['workload']:<24} {row['server']:<13} {row['iops']:>8.0f} {row['mb_per_second']:>8.1f} "
            f"{row.get('ratio', float('nan')):>6.2f} {span:>11} {row['p50_us']:>8.1f} {row['p99_us']:>8.1f} "
            f"{row['flush_p50_us'] if flush else 0:>8.1f} {row['flush_p99_us'] if flush else 0:>8.1f} "
            f"{row['server_cpu_us_per_op']:>7.1f} {row['fio_cpu_percent']:>5.0f} {row['peak_memory_mib']:>6.0f}"
            + (f"  {len(row['errors'])} runs failed" if row["errors"] else ""))
    return "\n".join(text) + "\n"


def main():
    """Measures, prints the table, writes both forms; exit code 1 when any run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--workloads", default="all", help="comma list, or all, or short")
    parser.add_argument("--output", default="bench-results")
    parser.add_argument("--note", default="")
    parser.add_argument("--sync", action="append", default=[], metavar="FILE", help="file to fsync before every run")
    parser.add_argument("--before", default="", metavar="COMMAND", help="command to run before every run")
    parser.add_argument("--list", action="store_true", help="name the workloads")
    parser.add_argument("servers", nargs="*", metavar="NAME=URI@PID")
    options = parser.parse_args()
    if options.list:
        print("\n".join(WORKLOADS))
        return 0
    named = {"all": list(WORKLOADS), "short": SHORT}
    workloads = named.get(options.workloads) or options.workloads.split(",")
    unknown = [workload for workload in workloads if workload not in WORKLOADS]
    if unknown or not options.servers:
        parser.error(f"unknown workloads {unknown}" if unknown else "no servers")
    servers = [Server(text) for text in options.servers]
    records = measure(servers, workloads, options)
    rows = summary(records, servers, workloads)
    text = table(rows, servers, options)
    print(text)
    os.makedirs(options.output, exist_ok=True)
    stem = os.path.join(options.output, time.strftime("%Y%m%d-%H%M%S"))
    with open(stem + ".json", "w", encoding="utf-8") as out:
        json.dump({"note": options.note, "summary": rows, "runs": records}, out, indent=1)
    with open(stem + ".txt", "w", encoding="utf-8") as out:
        out.write(text)
    print(f"bench: written to {stem}.json and .txt")
    return 1 if any(record["error"] for record in records) else 0


if __name__ == "__main__":
    sys.exit(main())
