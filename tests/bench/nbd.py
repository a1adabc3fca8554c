"""A small NBD client: enough to see that a server answers, and to time single requests.

Newstyle negotiation with NBD_OPT_GO, simple replies, one request at a time. The load itself comes from fio.
"""

import socket
import struct

MAGIC, OPTION, REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
REQUEST_MAGIC, ANSWER_MAGIC = 0x25609513, 0x67446698
OPTION_GO, REPLY_ACK, REPLY_INFO, INFO_EXPORT = 7, 1, 3, 0
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3


class NbdError(OSError):
    """The server refused or answered something unexpected."""


class Client:
    """One connection to an export on a unix socket."""

    def __init__(self, path, export="", timeout=10):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.cookie = 0
        try:
            self.socket.connect(path)
            self.size = self._negotiate(export.encode())
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.socket.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, DISCONNECT, 0, 0, 0))
        except OSError:
            pass
        self.socket.close()

    def _receive(self, count):
        data = bytearray()
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise NbdError("the server hung up")
            data += part
        return bytes(data)

    def _negotiate(self, name):
        magic, option, flags = struct.unpack(">QQH", self._receive(18))
        if (magic, option) != (MAGIC, OPTION):
            raise NbdError("not a newstyle NBD server")
        # Fixed newstyle, and no zeroes after the old way of naming an export.
        self.socket.sendall(struct.pack(">I", flags & 3))
        body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self.socket.sendall(struct.pack(">QII", OPTION, OPTION_GO, len(body)) + body)
        size = None
        while True:
            _, _, kind, length = struct.unpack(">QIII", self._receive(20))
            data = self._receive(length)
            if kind == REPLY_INFO and struct.unpack(">H", data[:2])[0] == INFO_EXPORT:
                size = struct.unpack(">Q", data[2:10])[0]
            elif kind == REPLY_ACK and size is not None:
                return size
            elif kind != REPLY_INFO:
                raise NbdError(f"the server refused the export: {data[:200]!r}")

    def _request(self, command, offset, length, payload=b""):
        self.cookie += 1
        self.socket.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, command, self.cookie, offset, length) + payload)
        magic, error, cookie = struct.unpack(">IIQ", self._receive(16))
        if (magic, cookie) != (ANSWER_MAGIC, self.cookie) or error:
            raise NbdError(f"error {error} in the answer")

    def read(self, offset, length):
        """Reads."""
        self._request(READ, offset, length)
        return self._receive(length)

    def write(self, offset, data):
        """Writes."""
        self._request(WRITE, offset, len(data), data)

    def flush(self):
        """Flushes."""
        self._request(FLUSH, 0, 0)


def answers(path, export=""):
    """Whether the export can be opened and read right now."""
    try:
        with Client(path, export) as client:
            client.read(0, 4096)
            return True
    except OSError:
        return False
