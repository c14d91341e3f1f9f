"""The connection to the server: directly, through a proxy, or over a given socket.

The errors of a failed connection are converted to the exceptions of aiosmtplib.
"""

import asyncio
import dataclasses
import os
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

from rapidsmtp import _backend
from rapidsmtp._bulk.replaced_sockets import check_event_loop
from rapidsmtp._models.genuine_socket import genuine_socket_class
from rapidsmtp._models.reply import Reply
from rapidsmtp._models.settings import Proxy
from rapidsmtp.aio.connection import StreamConnection
from rapidsmtp.aio.connection_options import ConnectionOptions
from rapidsmtp.aio.exceptions import SMTPConnectError, SMTPConnectTimeoutError, network_error
from rapidsmtp.aio.tunnel import negotiate
from rapidsmtp.errors import PeerError, SMTPException


class Connector(StreamConnection):
    """The methods of `aio.SMTP` that connect.

    Attributes:
        options: The server and the TLS settings.
        default_port: The port if the options name none.
    """

    options: ConnectionOptions
    default_port: int
    _host: str

    async def _greeting(self, context: ssl.SSLContext | None) -> Reply:
        """Open the connection and read the greeting.

        Args:
            context: The TLS settings for TLS from the first byte, or None.

        Raises:
            SMTPConnectError: The connection failed, or no greeting arrived.
        """
        options = self.options
        tunnel = options.proxy_to(options.port_or(self.default_port))
        if tunnel is not None:
            await self._open_through(*tunnel)
        elif options.proxy is None and options.sock is None and options.socket_path is None:
            loop = asyncio.get_running_loop()
            kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
            check_event_loop(kind, isinstance(loop, asyncio.BaseEventLoop))
        try:
            async with asyncio.timeout(self.timeout):
                if tunnel is None:
                    await self._open(lambda factory: self._transport(factory, context))
                elif context is not None:
                    await self._begin_tls(context, self._host)
            return await self.getreply()
        except TimeoutError as error:
            reason = f"cannot connect to {self._place}: timed out after {self.timeout:g} s"
            # If the greeting did not arrive, the exception already has smtplib's text.
            text = () if isinstance(error, SMTPException) else (reason,)
            raise network_error(error, SMTPConnectTimeoutError, *text) from error
        except OSError as error:
            raise network_error(error, SMTPConnectError) from error

    async def _open_through(self, proxy: Proxy, host: str) -> None:
        """Connect to the server through a proxy, without TLS.

        Args:
            proxy: The proxy.
            host: The name or address of the server for the proxy.

        Raises:
            SMTPConnectError: The proxy cannot be reached, or made no connection.
        """
        port = self.options.port_or(self.default_port)
        peer, cure = f"the proxy {proxy.name}", "; check the host and the port in proxy="
        try:
            async with asyncio.timeout(self.timeout):
                await self._open(lambda make: self._dial(make, proxy.host, proxy.port))
                peer = f"{self._place} through the proxy {proxy.name}"
                cure = "; check the proxy, and the relay's host and port"
                assert self._reader is not None and self._writer is not None
                dialogue = _backend.ProxyDialogue(proxy, host, port)
                await negotiate(self._reader, self._writer, dialogue)
        except PeerError as error:
            raise SMTPConnectError(f"cannot connect to {peer}: {error}") from None
        except TimeoutError as error:
            reason = f"cannot connect to {peer}: timed out after {self.timeout:g} s{cure}"
            raise network_error(error, SMTPConnectTimeoutError, reason) from error
        except OSError as error:
            cause = os.strerror(error.errno) if error.errno else str(error)
            cause = f"{cause} ({proxy.name})"
            if isinstance(error, socket.gaierror):
                cause = f'"{proxy.host}" does not resolve: {error.strerror}'
            reason = f"cannot connect to {peer}: {cause}{cure}"
            raise network_error(error, SMTPConnectError, reason) from error

    @property
    def _place(self) -> str:
        """The server for error texts."""
        if self.options.socket_path is not None:
            return os.fsdecode(self.options.socket_path)
        return f"{self._host}:{self.options.port_or(self.default_port)}"

    async def _transport(self, factory: Callable[[], Any], context: Any) -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        options = self.options
        name = self._host if context else None
        if options.sock is not None:
            # The socket is removed from the options, because the socket can be used for only one
            # connection.
            self.options = dataclasses.replace(options, sock=None)
            return await loop.create_connection(
                factory, sock=options.sock, ssl=context, server_hostname=name
            )
        if options.socket_path is not None:
            path = os.fsdecode(options.socket_path)
            return await loop.create_unix_connection(
                factory, path, ssl=context, server_hostname=name
            )
        return await self._dial(
            factory,
            self._host,
            options.port_or(self.default_port),
            ssl=context,
            server_hostname=name,
        )

    async def _dial(
        self, factory: Callable[[], Any], host: str, port: int, **tls: Any
    ) -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        # RFC 8305 section 5 recommends a delay of 250 ms between connection attempts to different
        # addresses. uvloop's `create_connection` has no argument for this delay, so the delay is
        # set only for asyncio's own event loops.
        eyeballs: dict[str, Any] = {}
        if isinstance(loop, asyncio.BaseEventLoop):
            eyeballs["happy_eyeballs_delay"] = 0.25
        # smtplib's ("", 0) means any address and any port. It is not passed to asyncio, because
        # asyncio would look up the name "".
        source = self.options.source_address
        local = None if source is None or not any(source) else source
        sys.audit("smtplib.connect", self, host, port)
        if self.options.proxy is not None and genuine_socket_class() is not socket.socket:
            sock = await _genuine_socket(loop, host, port, local)
            return await loop.create_connection(factory, sock=sock, **tls)
        return await loop.create_connection(
            factory, host, port, local_addr=local, **tls, **eyeballs
        )


async def _genuine_socket(
    loop: asyncio.AbstractEventLoop, host: str, port: int, source: tuple[str, int] | None
) -> socket.socket:
    """Return a connected socket of the standard library's class.

    The event loop would use the class with which the program has replaced it.

    Raises:
        OSError: No connection could be made.
    """
    kind = genuine_socket_class()
    failure: OSError | None = None
    for family, type_, protocol, _, address in await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        sock = kind(family, type_, protocol)
        try:
            sock.setblocking(False)
            if source is not None:
                sock.bind(source)
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError(f"{host} has no address")
