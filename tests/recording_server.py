"""An independent SMTP and LMTP server for tests: aiosmtpd on a thread.

The server records the messages and all received bytes. With TLS, it records the decrypted bytes.
"""

import asyncio
import ssl
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from server import TIMEOUT


class Handler:
    """A handler that refuses marked addresses and messages, and stores the others.

    An address that begins with `refused` gets 550, and one that begins with `later` gets 450. A
    message that contains `X-Refuse` gets 554.
    """

    def __init__(self, extensions: Sequence[str], lmtp: bool) -> None:
        self.envelopes: list[tuple[str | None, list[str], bytes]] = []
        self._extensions = extensions
        self._lmtp = lmtp

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, name: str, replies: list[str]
    ) -> list[str]:
        session.host_name = name
        return [*replies[:-1], *(f"250-{line}" for line in self._extensions), replies[-1]]

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("refused"):
            return "550 5.7.1 sender refused"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("refused"):
            return f"550 5.1.1 {address}: no such user"
        if address.startswith("later"):
            return f"450 4.2.0 {address}: try again"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        if b"X-Refuse" in content:
            return "554 5.6.0 message refused"
        self.envelopes.append((envelope.mail_from, envelope.rcpt_tos, content))
        return "\r\n".join(["250 OK"] * (len(envelope.rcpt_tos) if self._lmtp else 1))


def authenticate(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
) -> AuthResult:
    assert isinstance(data, LoginPassword)
    return AuthResult(success=data == LoginPassword(b"user", b"pass word"), handled=False)


class RecordingServer:
    """The server. It runs during a `with` block.

    Args:
        extensions: The capabilities in the EHLO reply, in addition to those of aiosmtpd.
        lmtp: Whether the server uses LMTP.
        tls: The settings for TLS from the first byte.
        starttls: The TLS settings for STARTTLS.
        path: The path of a Unix socket, which replaces the TCP port.
    """

    def __init__(
        self,
        extensions: Sequence[str] = (),
        *,
        lmtp: bool = False,
        tls: ssl.SSLContext | None = None,
        starttls: ssl.SSLContext | None = None,
        path: str | None = None,
    ) -> None:
        self.handler = Handler(extensions, lmtp)
        self.wires: list[bytearray] = []
        self.host, self.port = path or "127.0.0.1", 0
        self._lmtp, self._tls, self._starttls, self._path = lmtp, tls, starttls, path
        self._open = threading.Semaphore(0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "RecordingServer":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(TIMEOUT)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()

    def next_wire(self) -> bytes:
        """Wait until a connection ends, and return every byte received on the newest connection."""
        assert self._open.acquire(timeout=TIMEOUT), "the connection is still open"
        return bytes(self.wires[-1])

    async def _listen(self) -> None:
        if self._path is not None:
            self._server = await self._loop.create_unix_server(self._make, self._path)
            return
        self._server = await self._loop.create_server(self._make, self.host, 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _make(self) -> SMTP:
        server = self
        wire = bytearray()
        self.wires.append(wire)

        class Recording(LMTP if self._lmtp else SMTP):  # type: ignore[misc]
            def data_received(self, data: bytes) -> None:
                wire.extend(data)
                super().data_received(data)

            def connection_lost(self, error: Exception | None) -> None:
                super().connection_lost(error)
                server._open.release()

        return Recording(
            self.handler,
            hostname="server.example",
            enable_SMTPUTF8=True,
            tls_context=self._starttls,
            authenticator=authenticate,
            auth_require_tls=False,
            loop=self._loop,
        )
