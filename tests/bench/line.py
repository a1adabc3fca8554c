"""Runs inside a network namespace: a piece of a long line, or one end of a plain TCP stream over it.

    line.py delay PORT HOST:PORT SECONDS     passes connections on, each byte later by that much, both ways
    line.py receive HOST PORT BYTES          takes so many bytes and answers with one
    line.py send PORT BYTES                  sends them to this machine's PORT; prints how long the answer took

The kernel has no netem everywhere; a queue in a program delays as well, and shaping is left to tbf.
"""

import asyncio
import os
import socket
import sys
import time

PIECE = 64 << 10
# Pieces under way, each way: more than the longest line holds.
PIECES = 4096


async def pump(reader, writer, delay):
    """Passes on what comes, later."""
    queue = asyncio.Queue(PIECES)

    async def out():
        while True:
            due, piece = await queue.get()
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if not piece:
                writer.close()
                return
            writer.write(piece)
            await writer.drain()

    passing = asyncio.create_task(out())
    while True:
        try:
            piece = await reader.read(PIECE)
        except OSError:
            piece = b""
        await queue.put((time.monotonic() + delay, piece))
        if not piece:
            break
    try:
        await passing
    except OSError:
        pass


async def pass_on(port, target, delay):
    """The line."""
    host, target_port = target.rsplit(":", 1)

    async def serve(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(target_port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, far_writer, delay), pump(far_reader, writer, delay))

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


def receive(host, port, count):
    """One end of a plain stream."""
    with socket.create_server((host, port)) as listener:
        taken, _ = listener.accept()
        with taken:
            buffer = bytearray(1 << 20)
            while count > 0:
                came = taken.recv_into(buffer)
                if not came:
                    return
                count -= came
            taken.sendall(b".")


def send(port, count):
    """The other."""
    data = os.urandom(min(count, 16 << 20))
    began, left = time.monotonic(), count
    with socket.create_connection(("127.0.0.1", port)) as sender:
        while left > 0:
            sender.sendall(data[:left])
            left -= len(data[:left])
        sender.recv(1)
    print(time.monotonic() - began)


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    if kind == "delay":
        asyncio.run(pass_on(int(arguments[0]), arguments[1], float(arguments[2])))
    elif kind == "receive":
        receive(arguments[0], int(arguments[1]), int(arguments[2]))
    else:
        send(int(arguments[0]), int(arguments[1]))
