"""Farside under measurement: its units as separate processes, with configurations written here.

`farside` is one unit with journal and mirror. `farside-remote` is that and a second unit beside it, which keeps a
replica over TCP on loopback; figures of both processes are summed.
"""

import http.client
import json
import os
import shutil
import socket
import subprocess

from processes import Failure, wait_until
from servers import SETTLE_SECONDS, Server, free_port

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("FARSIDE_BIN") or os.path.join(ROOT, "target", "release", "farside")
VOLUME = "disk0"


class Farside(Server):
    """Journal and mirror in one unit."""

    name = "farside"
    programs = (BINARY,)
    is_peer = False
    export = VOLUME
    about = "Farside with journal and mirror, no remote: two copies"
    remote_name = None

    def __init__(self, workspace, size, journal, remote_journal=None):
        super().__init__(workspace, size)
        self.journal, self.remote_journal = journal, remote_journal or journal
        self.link = f"127.0.0.1:{free_port()}"
        self.unit = self.remote = None

    def start(self):
        self.configure()
        if self.remote_name:
            self.start_remote()
        self.start_unit()
        self.wait_for_answer()

    def configure(self):
        """Writes the configurations and lets Farside judge them."""
        far = ["[[volume.remote]]", f'name = "{self.remote_name}"', f'address = "{self.link}"']
        here = ["[unit]", 'name = "here"', 'data_dir = "here"', "[nbd]", f'socket = "{self.socket}"',
                "[[volume]]", f'name = "{VOLUME}"', f"size = {self.size}", f"journal_size = {self.journal}"]
        self._configuration("here.toml", here + (far if self.remote_name else []))
        if self.remote_name:
            self._configuration("far.toml", ["[unit]", 'name = "far"', 'data_dir = "far"', "[link]",
                                             f'listen = ["{self.link}"]', f"journal_size = {self.remote_journal}"])

    def _configuration(self, name, lines):
        with open(self.path(name), "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
        judged = subprocess.run([BINARY, "config", "check", self.path(name)], capture_output=True, text=True,
                                check=False)
        if judged.returncode:
            raise Failure(f"{self.name}: the configuration is refused: {judged.stdout}{judged.stderr}")

    def start_unit(self):
        """Starts the local unit, which need not answer yet."""
        self.unit = self._replace(self.unit, self.run([BINARY, "unit", "--config", self.path("here.toml")]))

    def start_remote(self):
        """Starts the remote unit."""
        self.remote = self._replace(self.remote,
                                    self.run([BINARY, "unit", "--config", self.path("far.toml")], "-far"))

    def _replace(self, old, new):
        if old in self.processes:
            self.processes.remove(old)
        return new

    def stop_remote(self):
        """Ends the remote unit cleanly, as for an outage."""
        self.processes.remove(self.remote)
        self.remote.stop()

    def kill_unit(self):
        """kill -9 of the local unit."""
        self.processes.remove(self.unit)
        self.unit.kill()

    def stop_unit(self):
        """Ends the local unit cleanly."""
        self.processes.remove(self.unit)
        self.unit.stop()

    def images(self):
        mirror = self.path(f"here/volumes/{VOLUME}/mirror.img")
        replica = self.path(f"far/replicas/{VOLUME}/replica.img")
        return [mirror, replica] if self.remote_name else [mirror]

    def journal_file(self):
        """The journal of the volume."""
        return self.path(f"here/volumes/{VOLUME}/journal")

    def image_thread(self):
        """The id of the thread that applies to the mirror and makes checkpoints."""
        tasks = f"/proc/{self.unit.pid}/task"
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/comm", encoding="utf-8") as name:
                if name.read().startswith("image "):
                    return task
        raise Failure(f"{self.name}: the unit has no image thread")

    def volume(self):
        """The volume's part of the status, or None while nobody answers."""
        try:
            return status(self.path("here/control.sock"))["volumes"][0]
        except (OSError, http.client.HTTPException, LookupError):
            return None

    def pending_records(self):
        """Records in the journal that are not in the mirror yet."""
        volume = self.volume()
        return volume["positions"]["journaled"] - volume["positions"]["mirrored"]

    def applied_everywhere(self):
        """Whether mirror and replica hold everything that was journaled."""
        volume = self.volume()
        if not volume or volume["state"] != "healthy":
            self.check()
            return False
        goal = volume["positions"]["journaled"]
        far = all(each["state"] == "streaming" and each["consistent"] and each["applied"] == goal
                  for each in volume["remotes"])
        return far and volume["positions"]["mirrored"] == goal

    def settle(self):
        wait_until(f"{self.name} to apply everything", self.applied_everywhere, SETTLE_SECONDS, self.processes, 0.02)
        super().settle()


class FarsideRemote(Farside):
    """Journal, mirror and a live remote unit."""

    name = "farside-remote"
    about = "Farside with journal, mirror and a live remote unit: four copies"
    remote_name = "far"


class _ControlConnection(http.client.HTTPConnection):
    """HTTP over the control socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def status(path):
    """The status of the unit behind a control socket."""
    connection = _ControlConnection(path, timeout=10)
    try:
        connection.request("GET", "/api/v1/status", headers={"Host": "localhost"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def missing_binary():
    """A sentence if there is no binary to measure."""
    if shutil.which(BINARY):
        return None
    return f"{BINARY} is not there: run `make build`, or name another with FARSIDE_BIN"


SETTINGS = [Farside, FarsideRemote]
