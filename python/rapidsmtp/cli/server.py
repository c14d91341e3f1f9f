"""The server of `demo` and `bench` where the compiled half is missing: aiosmtpd, by itself.

    python -m rapidsmtp.cli.server [FOLDER]

prints its URL and serves until its standard input ends. With a folder it keeps there what it takes.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP


class _Taker:
    """Accepts everything, and keeps it where it was told to."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._taken = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self._folder is not None:
            self._taken += 1
            Path(self._folder, f"{self._taken:06}.eml").write_bytes(envelope.content)
        return "250 2.0.0 taken"

    async def handle_EHLO(
        self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offer PIPELINING: aiosmtpd answers piped commands in order, but does not say so."""
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", responses[-1]]


async def _serve(folder: str | None) -> None:
    loop = asyncio.get_running_loop()
    # The name is given, because asking for the machine's own can take many seconds.
    taker = _Taker(folder)
    server = await loop.create_server(lambda: SMTP(taker, hostname="localhost"), "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        print(f"smtp://{host}:{port}", flush=True)
        await loop.run_in_executor(None, sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1] if len(sys.argv) > 1 else None))
