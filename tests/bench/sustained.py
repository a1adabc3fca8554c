"""Scenario: one workload for minutes, so that the journal wraps many times and nothing can be put off."""

import statistics

import fio
import report
from compare import attempt, measure, note, prepare
from processes import Workspace

NAME = "sustained"
ABOUT = "one workload for minutes, the journal wrapping: rate second by second, bytes to disk, memory"
SETTINGS = ("nbdkit", "farside", "farside-remote")


def run(classes, options, make):
    """Data, tables and problems."""
    data, rows, problems = [], [], []
    for each in (each for each in classes if each.name in SETTINGS):
        with Workspace(options.directory) as workspace:
            note(f"sustained: {options.sustained_seconds:g} s on {each.name}")
            server = make(each, workspace)
            found = attempt(server, lambda server=server: _one(server, options))
            if found is None:
                problems.append(f"sustained, {each.name}: {server.problem}")
                continue
        data.append({"server": each.name, **found})
        rates = found["mb_per_second_each_second"]
        edge = max(1, len(rates) // 10)
        laps = found["bytes"] / options.journal if not each.is_peer else None
        rows.append([each.name, found["mb_per_second"], statistics.median(rates), fio.percentile(rates, 1),
                     statistics.mean(rates[:edge]), statistics.mean(rates[-edge:]), found["p99_us"],
                     found["written_per_byte"], found["cpu_per_gib"], found["peak_mib"], laps])
    columns = ["server", "MB/s", "median second", "slowest 1 %", "first tenth", "last tenth", "p99us", "disk/B",
               "cpu/GiB", "MiB", "laps"]
    title = f"Sustained: {options.sustained_workload} for {options.sustained_seconds:g} s, one run each"
    return data, [report.text_table(title, columns, rows)], problems


def _one(server, options):
    prepare(server)
    workload = fio.WORKLOADS[options.sustained_workload]
    figures, load = measure(server, workload, options.sustained_seconds, rates=True)
    # The last second is rarely a whole one.
    rates = load.rates()
    return {**figures, "mb_per_second_each_second": rates[:-1] or rates}
