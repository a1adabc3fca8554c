"""Measures Farside beside other NBD servers, in one run on one machine, and prints ratios.

    make bench                                  everything; takes more than an hour
    python3 tests/bench --quick                 a look, in some minutes
    python3 tests/bench --scenarios none        the comparison only
    python3 tests/bench --workloads none --scenarios recovery,pending

What the figures mean is in docs/performance.md.
"""

import argparse
import os
import signal
import sys
import time

sys.dont_write_bytecode = True

import catch_up
import checkpoints
import compare
import drbd
import farside
import fio
import goodput
import iscsi
import memory
import recovery
import report
import servers
import sustained

SERVERS = {each.name: each for each in [*servers.PEERS, servers.NbdkitAgain, *farside.SETTINGS]}
DEFAULT_SERVERS = [name for name in SERVERS if name != servers.NbdkitAgain.name]
SCENARIOS = {
    sustained.NAME: (sustained.run, sustained.ABOUT),
    catch_up.NAME: (catch_up.run, catch_up.ABOUT),
    goodput.NAME: (goodput.run, goodput.ABOUT),
    checkpoints.NAME: (checkpoints.run, checkpoints.ABOUT),
    iscsi.NAME: (iscsi.run, iscsi.ABOUT),
    drbd.NAME: (drbd.run, drbd.ABOUT),
    recovery.NAME: (recovery.run, recovery.ABOUT),
    memory.VOLUME_SIZE: (memory.run_volume_size, memory.ABOUT[memory.VOLUME_SIZE]),
    memory.PENDING: (memory.run_pending, memory.ABOUT[memory.PENDING]),
}
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
QUICK = {"size": 256 << 20, "journal": 256 << 20, "runs": 2, "seconds": 0.5, "workloads": fio.SHORT,
         "sustained_seconds": 4.0, "catch_up_journal": 512 << 20, "outage_seconds": 3.0, "phase_seconds": 2.0,
         "checkpoint_seconds": 5.0, "recovery_journals": [1 << 30], "recovery_seconds": 1.0,
         "pending_blocks": [100_000]}


def size(text):
    """A size such as 512M or 1.5G in bytes."""
    factor = UNITS.get(text[-1:].upper())
    value = int(float(text[:-1]) * factor) if factor else int(text)
    if value <= 0 or value % 4096:
        raise ValueError(text)
    return value


def names(known, default):
    """A parser of comma lists of known names; `all` means all, `none` none."""
    def parse(text):
        chosen = {"all": list(default), "none": []}.get(text, text.split(","))
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; --list names them")
        return chosen
    return parse


def options_of(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests/bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--list", action="store_true", help="name servers, workloads and scenarios, and end")
    add("--quick", action="store_true", help="small and short: shows that everything works, not how fast it is")
    add("--servers", type=names(SERVERS, DEFAULT_SERVERS), default=DEFAULT_SERVERS, metavar="LIST")
    add("--workloads", type=names([*fio.WORKLOADS, "short"], fio.WORKLOADS), default=list(fio.WORKLOADS),
        metavar="LIST", help="all, none, short, or a comma list")
    add("--scenarios", type=names(SCENARIOS, SCENARIOS), default=list(SCENARIOS), metavar="LIST",
        help="all, none, or a comma list")
    add("--size", type=size, default=1 << 30, help="of each disk (1G)")
    add("--journal", type=size, default=1 << 30, help="of the volume and of the replica (1G)")
    add("--runs", type=int, default=5, help="of each workload and server (5)")
    add("--seconds", type=float, default=5.0, help="of each run (5)")
    add("--directory", default=os.environ.get("TMPDIR", "/var/tmp"), help="where the temporary files go")
    add("--results", default=os.path.join(farside.ROOT, "bench-results"), help="where the results go (bench-results)")
    add("--sustained-seconds", type=float, default=300.0, metavar="SECONDS", help="(300)")
    one_job = [name for name, workload in fio.WORKLOADS.items() if workload.writes and workload.jobs == 1]
    add("--sustained-workload", choices=one_job, default="write-128k-sequential", metavar="WORKLOAD",
        help="a workload that writes through one connection (write-128k-sequential)")
    add("--catch-up-journal", type=size, default=4 << 30, metavar="SIZE", help="the backlog takes half of it (4G)")
    add("--outage-seconds", type=float, default=60.0, metavar="SECONDS", help="at most (60)")
    add("--phase-seconds", type=float, default=10.0, metavar="SECONDS", help="of load before the outage (10)")
    add("--checkpoint-seconds", type=float, default=60.0, metavar="SECONDS", help="(60)")
    add("--recovery-journals", type=lambda text: [size(each) for each in text.split(",")], metavar="SIZES",
        default=[1 << 30, 8 << 30, 64 << 30], help="(1G,8G,64G)")
    add("--recovery-seconds", type=float, default=8.0, metavar="SECONDS", help="of load before each end (8)")
    add("--pending-blocks", type=lambda text: [int(each) for each in text.split(",")], metavar="NUMBERS",
        default=[100_000, 300_000, 900_000], help="(100000,300000,900000)")
    if "--quick" in arguments:
        parser.set_defaults(**QUICK)
    options = parser.parse_args(arguments)
    if "short" in options.workloads:
        options.workloads = [name for name in fio.WORKLOADS if name in {*options.workloads, *fio.SHORT}]
    if options.runs < 1 or options.seconds <= 0:
        parser.error("--runs and --seconds are above zero")
    return options


def listing():
    """What --list prints."""
    def part(title, entries):
        return "\n".join([title, *(f"  {name:<26} {about}" for name, about in entries)])
    return "\n".join([
        part("servers", ((name, each.about + (f" (not here: {', '.join(each.missing())})" if each.missing() else ""))
                         for name, each in SERVERS.items())),
        part("workloads", ((name, " ".join(each.arguments())) for name, each in fio.WORKLOADS.items())),
        part("scenarios", ((name, about) for name, (_, about) in SCENARIOS.items())),
    ])


def installed(chosen):
    """The chosen servers that are installed; a note for each other."""
    found = []
    for name in chosen:
        missing = SERVERS[name].missing()
        if missing:
            compare.note(f"{name} is left out: {', '.join(missing)} is not installed")
        else:
            found.append(SERVERS[name])
    return found


def heading(options, classes):
    """First lines of the results."""
    versions = sorted({each.version() for each in classes})
    return (f"Farside at {report.commit()}, {time.strftime('%F %T')}; {', '.join(versions)}\n{report.machine()}; "
            f"disks of {options.size / 2**20:g} MiB, journals of {options.journal / 2**20:g} MiB")


def main():
    """Runs what was asked for; 1 if anything failed, 2 if it cannot begin."""
    options = options_of(sys.argv[1:])
    if options.list:
        print(listing())
        return 0
    missing = [farside.missing_binary()] if any(not SERVERS[name].is_peer and name != "nbdkit-again"
                                                for name in options.servers) else []
    missing += [fio.missing()]
    if any(missing):
        print("\n".join(f"bench: {each}" for each in missing if each), file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    classes = installed(options.servers)

    def make(each, workspace, **changes):
        wanted = {"size": options.size, "journal": options.journal, **changes}
        if issubclass(each, farside.Farside):
            return each(workspace, wanted["size"], wanted["journal"], options.journal)
        return each(workspace, wanted["size"])

    results, problems = report.Results(options.results, heading(options, classes)), []
    results.data["options"] = vars(options)
    results.data["load"] = {name: fio.WORKLOADS[name].arguments() for name in options.workloads}
    if options.workloads and classes:
        records, failed = compare.compare(classes, options, make)
        rows = compare.summary(records, classes, options)
        results.add("comparison", {"summary": rows, "runs": records}, compare.tables(rows, classes, options))
        problems += failed
    for name in options.scenarios:
        data, tables, failed = SCENARIOS[name][0](classes, options, make)
        results.add(name, data, tables)
        problems += failed
    for problem in problems:
        print(f"bench: FAILED: {problem}", file=sys.stderr)
    print(f"bench: written to {results.stem}.txt and .json")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        sys.exit(130)
