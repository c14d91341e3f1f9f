"""A server in its own process that records each message before it sends the reply 250.

It prints its port. A line of the record is the row number of a message, and the digest of
the message. The command `QUIET` gets a reply when all other connections are closed, so that
everything that was written to them is in the record.

Usage: python -m rapidsmtp.cli.bench.recording_server FILE [PORT]
"""

import asyncio
import hashlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ID = re.compile(rb"\r\nMessage-ID:\s*<[0-9a-f]{16}\.(\d+)@", re.IGNORECASE)


class _Recorder:
    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        self._open = 0
        self._changed = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            writer.write(b"220 recorder ESMTP\r\n")
            await self._session(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open -= 1
            writer.close()
            async with self._changed:
                self._changed.notify_all()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"QUIE":
                async with self._changed:
                    await self._changed.wait_for(lambda: self._open == 1)
                writer.write(b"250 quiet\r\n")
            elif verb == b"EHLO":
                writer.write(b"250-recorder\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                data = await reader.readuntil(b"\r\n.\r\n")
                self._record(data)
                writer.write(b"250 recorded\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                return
            else:
                writer.write(b"250 ok\r\n")

    def _record(self, data: bytes) -> None:
        match = _ID.search(b"\r\n" + data)
        row = int(match[1]) if match else 0
        os.write(self._file, b"%d %s\n" % (row, hashlib.sha256(data).hexdigest().encode()))


async def main(path: str, port: str = "0") -> None:
    """Serve until the standard input ends."""
    recorder = _Recorder(path)
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", int(port), limit=1 << 24)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        # The server ends with the process that has started it.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        os._exit(0)


@contextmanager
def recording_server(record: Path, port: int = 0) -> Iterator[str]:
    """Run the server in its own process, and yield its URL.

    Args:
        record: The file of the record. An existing record is continued.
        port: The port; 0 for a free one.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(record), str(port)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield f"smtp://127.0.0.1:{int(process.stdout.readline())}?starttls=off"
    finally:
        process.kill()
        process.communicate()


def wait_until_quiet(url: str) -> None:
    """Wait until the server has read everything that ended processes have sent."""
    host, port = url.removeprefix("smtp://").partition("?")[0].split(":")
    with socket.create_connection((host, int(port)), 60) as connection:
        connection.sendall(b"QUIET\r\n")
        file = connection.makefile("rb")
        file.readline()
        file.readline()


def records(path: Path) -> list[tuple[int, str]]:
    """Return the row number and the digest of each message in a record."""
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [(int(row), digest) for row, digest in map(str.split, lines)]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
