"""Child processes, their temporary directory, and what the kernel counts about them.

Everything started here is ended here, by its process id: at the end, at a failure, at Ctrl-C and at SIGTERM. If this
program itself is killed, the kernel ends its children (`setpriv --pdeathsig`, where util-linux has it).
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time

TICKS = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 20
LOG_LINES = 15


class Failure(Exception):
    """Something that ends a measurement, with a message for whoever started it."""


class Process:
    """One child process and its log."""

    def __init__(self, name, command, log, directory=None):
        self.name, self.log = name, log
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        with open(log, "ab") as out:
            # A session of its own: Ctrl-C reaches this program only, which then ends its children in order.
            self.popen = subprocess.Popen(guard + command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                          cwd=directory, start_new_session=True)
        self.pid = self.popen.pid

    def alive(self):
        """Whether it still runs."""
        return self.popen.poll() is None

    def log_end(self):
        """The last lines it printed."""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-LOG_LINES:]).rstrip()

    def check_alive(self):
        """Fails with the end of the log if it is gone."""
        if not self.alive():
            raise Failure(f"{self.name} ended with {self.popen.returncode}; the end of its log:\n{self.log_end()}")

    def terminate(self):
        """Asks it to end."""
        self.popen.terminate()

    def stop(self, signal_number=signal.SIGTERM):
        """Asks it to end, and ends it if it does not."""
        if self.alive():
            self.popen.send_signal(signal_number)
            try:
                self.popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self):
        """Ends it at once."""
        if self.alive():
            self.popen.kill()
        self.popen.wait()


class Daemon:
    """A process that went into the background by itself, known by its pid file."""

    def __init__(self, name, pid_file, log):
        self.name, self.log = name, log
        with open(pid_file, encoding="utf-8") as pid:
            self.pid = int(pid.read())
        # A process id may be given to another process later; with its time of start it is unique.
        self.began = self._field(19)

    def _field(self, number):
        fields = _stat(self.pid)
        return fields[number] if fields and fields[0] != "Z" else None

    def alive(self):
        """Whether it still runs."""
        return self.began is not None and self._field(19) == self.began

    def log_end(self):
        """Where its messages go."""
        return f"({self.name} logs to syslog)"

    def check_alive(self):
        """Fails if it is gone."""
        if not self.alive():
            raise Failure(f"{self.name} ended; it logs to syslog")

    def terminate(self):
        """Asks it to end."""
        os.kill(self.pid, signal.SIGTERM)

    def stop(self):
        """Asks it to end, and ends it if it does not."""
        deadline = time.monotonic() + STOP_SECONDS
        if self.alive():
            self.terminate()
        while self.alive():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.05)


class Workspace:
    """A temporary directory and the processes that work in it; both are gone when it is left."""

    def __init__(self, parent):
        os.makedirs(parent, exist_ok=True)
        self.directory = tempfile.mkdtemp(prefix="farside-bench.", dir=parent)
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # An impatient second Ctrl-C must not leave anything behind: it counts when this is done.
        waiting = []
        numbers = (signal.SIGINT, signal.SIGTERM)
        handlers = {number: signal.signal(number, lambda number, _: waiting.append(number)) for number in numbers}
        self._clean_up()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in waiting:
            signal.raise_signal(number)

    def _clean_up(self):
        for process in self.processes:
            if process.alive():
                process.terminate()
        for process in reversed(self.processes):
            process.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def path(self, *names):
        """A path in the directory."""
        return os.path.join(self.directory, *names)

    def make(self, name):
        """A new directory in it."""
        os.makedirs(self.path(name))
        return self.path(name)

    def start(self, name, command, directory=None):
        """Starts a process; its log is NAME.log."""
        process = Process(name, command, self.path(name + ".log"), directory)
        return self.adopt(process)

    def adopt(self, process):
        """Takes on a process that is to be ended with the others."""
        self.processes.append(process)
        return process


def wait_until(what, condition, seconds, processes=(), pause=0.01):
    """Polls until `condition` gives something true, which is returned; fails at a dead process or when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        for process in processes:
            process.check_alive()
        if time.monotonic() > deadline:
            logs = "".join(f"\nthe end of the log of {each.name}:\n{each.log_end()}" for each in processes)
            raise Failure(f"{what}: not within {seconds:g} s{logs}")
        time.sleep(pause)


def _stat(pid):
    """Fields of /proc/PID/stat from the state on, or None."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()
    except OSError:
        return None


def with_children(pids):
    """These processes and all that they forked and that still live (nbd-server forks for every client)."""
    parents = {}
    for name in os.listdir("/proc"):
        fields = _stat(name) if name.isdigit() else None
        if fields:
            parents.setdefault(int(fields[1]), []).append(int(name))
    found, ahead = [], list(pids)
    while ahead:
        pid = ahead.pop()
        found.append(pid)
        ahead.extend(parents.get(pid, []))
    return found


def cpu_seconds(pids):
    """User and system time so far: all threads, and children that have ended."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS


def io_counts(pid):
    """/proc/PID/io as a dictionary: rchar, wchar, syscr, syscw, read_bytes, write_bytes."""
    try:
        with open(f"/proc/{pid}/io", encoding="utf-8") as counts:
            return {key: int(value) for key, value in (line.split(": ") for line in counts)}
    except OSError:
        return {}


def written_bytes(pids):
    """Bytes of the pages that these processes have made dirty, as the kernel counts them."""
    return sum(io_counts(pid).get("write_bytes", 0) for pid in pids)


def device_written_bytes(directory):
    """Bytes written so far to the block device under a directory, by everybody; None if it is not on one."""
    device = os.stat(directory).st_dev
    try:
        with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat", encoding="utf-8") as counts:
            return int(counts.read().split()[6]) * 512
    except OSError:
        return None


def memory_mib(pids, key="VmRSS"):
    """Resident memory now, or its highest value with VmHWM, summed."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8") as status:
                total += sum(int(line.split()[1]) for line in status if line.startswith(key + ":"))
        except OSError:
            pass
    return total / 1024


def forget_peaks(pids):
    """Starts VmHWM anew at what is resident now."""
    for pid in pids:
        try:
            with open(f"/proc/{pid}/clear_refs", "w", encoding="utf-8") as refs:
                refs.write("5")
        except OSError:
            pass


def machine_cpu_seconds():
    """Processor time spent on this machine so far, by everything: what is neither idle nor waiting."""
    with open("/proc/stat", encoding="utf-8") as stat:
        ticks = [int(field) for field in stat.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / TICKS
