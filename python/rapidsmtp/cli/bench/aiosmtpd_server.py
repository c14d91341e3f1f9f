"""The local server of `demo` and `bench` if the compiled backend is not installed: aiosmtpd.

    python -m rapidsmtp.cli.bench.aiosmtpd_server [DIRECTORY]

The server prints its URL and runs until its standard input ends. If a directory is given, the
server writes each accepted message to a file in this directory.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP


class _Handler:
    """A handler that accepts every message, and writes it to the directory if one is given."""

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._count = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self._directory is not None:
            self._count += 1
            Path(self._directory, f"{self._count:06}.eml").write_bytes(envelope.content)
        return "250 2.0.0 accepted"

    async def handle_EHLO(
        self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        """Add PIPELINING to the reply. aiosmtpd supports PIPELINING, but does not announce it."""
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", responses[-1]]


async def _serve(directory: str | None) -> None:
    loop = asyncio.get_running_loop()
    handler = _Handler(directory)
    # `hostname` is set because aiosmtpd would otherwise look up this machine's name. The look-up
    # can take many seconds.
    server = await loop.create_server(lambda: SMTP(handler, hostname="localhost"), "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        print(f"smtp://{host}:{port}", flush=True)
        await loop.run_in_executor(None, sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1] if len(sys.argv) > 1 else None))
