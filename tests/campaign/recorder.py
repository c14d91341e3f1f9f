"""A relay in its own process that records each message before it sends the reply 250.

It prints its port. A line of the record is the row number and the digest of a message, without the
header fields that a relay adds. A connection that begins with `QUIET` gets a reply when all other
connections are closed, so that everything that was written to them is in the record.

Usage: recorder.py FILE [CODE]    With a code, every message gets this code instead of 250.
"""

import asyncio
import hashlib
import os
import re
import sys
from pathlib import Path

_ID = re.compile(rb"\r\nMessage-ID:\s*<[0-9a-f]{16}\.(\d+)@", re.IGNORECASE)


class Recorder:
    def __init__(self, path: str, reply: bytes) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        self._reply = reply
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
                if self._reply[:1] == b"2":
                    self._record(data)
                writer.write(self._reply + b"\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                return
            else:
                writer.write(b"250 ok\r\n")

    def _record(self, data: bytes) -> None:
        match = _ID.search(b"\r\n" + data)
        row = int(match[1]) if match else 0
        os.write(self._file, b"%d %s\n" % (row, hashlib.sha256(data).hexdigest().encode()))


async def main(path: str, reply: str = "250 recorded") -> None:
    recorder = Recorder(path, reply.encode())
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0, limit=1 << 24)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        # The recorder ends with the process that has started it.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))


def records(path: Path) -> list[tuple[int, str]]:
    """Return the row number and the digest of each message in a record."""
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [(int(row), digest) for row, digest in map(str.split, lines)]
