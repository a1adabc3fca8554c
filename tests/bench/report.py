"""Tables as text, and everything as JSON."""

import json
import os
import platform
import subprocess
import time

from farside import ROOT


def text_table(title, columns, rows, notes=()):
    """A table with columns as wide as they need to be; the first ones are words, the others are numbers."""
    cells = [[_cell(value) for value in row] for row in [columns, *rows]]
    widths = [max(len(row[n]) for row in cells) for n in range(len(columns))]
    words = [all(isinstance(row[n], str) and not row[n][:1].isdigit() for row in rows) for n in range(len(columns))]
    lines = [title, ""]
    for row in cells:
        line = "  ".join(cell.ljust(width) if word else cell.rjust(width)
                         for cell, width, word in zip(row, widths, words))
        lines.append(line.rstrip())
    lines.extend(["", *notes] if notes else [])
    return "\n".join(lines) + "\n"


def _cell(value):
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value)


def span(figure):
    """A (median, low, high) as text."""
    if figure is None:
        return "-"
    middle, low, high = figure
    return f"{_cell(float(middle))} ({_cell(float(low))}-{_cell(float(high))})"


def commit():
    """The commit that is checked out, with a mark if files differ from it."""
    def git(*arguments):
        said = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
        return said.stdout.strip() if said.returncode == 0 else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if git("status", "--porcelain") else "")


def machine():
    """What the figures were taken on."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo", encoding="utf-8") as info:
        memory = int(info.readline().split()[1]) / (1 << 20)
    return f"{os.cpu_count()} processors ({model}), {memory:.0f} GiB, Linux {platform.release()}"


class Results:
    """Collects tables and data, prints tables as they come, and writes both after each of them."""

    def __init__(self, directory, heading):
        os.makedirs(directory, exist_ok=True)
        self.stem = os.path.join(directory, time.strftime("%Y%m%d-%H%M%S"))
        self.text, self.data = [], {"heading": heading}
        self._add(heading + "\n")

    def add(self, name, data, tables):
        """Takes the data and the tables of one part."""
        self.data[name] = data
        for table in tables:
            self._add(table)

    def _add(self, text):
        self.text.append(text)
        print(text, flush=True)
        with open(self.stem + ".txt", "w", encoding="utf-8") as out:
            out.write("\n".join(self.text))
        with open(self.stem + ".json", "w", encoding="utf-8") as out:
            json.dump(self.data, out, indent=1)
