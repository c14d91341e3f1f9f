"""The connection of the drop-in: socket and file, commands and replies, STARTTLS (RFC 3207).

The attributes have smtplib's names. The modules `socket` and `ssl` are looked up at each use
(`overrides`), because programs and CPython's own tests replace them. `install` copies the methods
to smtplib's own class. The methods must not use `super()`, because objects of smtplib's class are
not instances of the class in this module.
"""

import contextlib
import operator
import socket as _socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, cast

from rapidsmtp import _backend
from rapidsmtp._smtp import commands, overrides, results
from rapidsmtp._smtp.commands import run
from rapidsmtp._smtp.contexts import context_of_files, default_context
from rapidsmtp._smtp.face import Face
from rapidsmtp._smtp.results import CLOSED, MAX_LINE, NOT_CONNECTED
from rapidsmtp._smtp.sockets import can_peek, is_socket, reading_file
from rapidsmtp._smtp.state import ClientState, reuse_of_process
from rapidsmtp.errors import (
    SMTPException,
    SMTPResponseException,
    SMTPServerDisconnected,
)

if TYPE_CHECKING:
    from smtplib import SMTP as _SMTP
else:
    _SMTP = overrides.base_class(overrides.OWN_SMTP)


class SocketConnection(ClientState, _SMTP):
    """The methods of `SMTP` that open, close, write to and read from the connection."""

    sock: Any
    file: Any
    _host: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        link = self._protocol.link
        if link is not None and link.keep(self, b"QUIT\r\n", args[:1] != (None,)):
            return
        try:
            code, text = self.docmd("QUIT")
            if code != 221:
                raise SMTPResponseException(code, text)
        except SMTPServerDisconnected:
            pass
        finally:
            self.close()

    # Connection

    def _get_socket(self, host: str, port: int, timeout: float | None) -> Any:
        if timeout is not None and not timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        if self.debuglevel > 0:
            self._print_debug("connect: to", (host, port), self.source_address)
        return overrides.socket().create_connection((host, port), timeout, self.source_address)

    def connect(
        self, host: str = "localhost", port: int = 0, source_address: Any = None
    ) -> tuple[int, bytes]:
        """Connect and read the greeting.

        Args:
            host: The name or address of the server, or `name:port` if `port` is 0.
            port: The port; 0 for the default of the class.
            source_address: The host and port to which the socket is bound.

        Returns:
            The code and the text of the greeting.

        Raises:
            OSError: The connection failed, or the port is not a number.
        """
        if source_address:
            self.source_address = source_address
        host, port = split_host_port(host, port)
        port = port or self.default_port
        sys.audit("smtplib.connect", self, host, port)
        code, text = self._begin_connection((host, port), self._open)
        if self.debuglevel > 0:
            self._print_debug("connect:", repr(text))
        return code, text

    def _open(self, address: tuple[str, int]) -> tuple[int, bytes]:
        self.sock = self._get_socket(*address, self.timeout)
        self.file = None
        _send_without_delay(self.sock)
        return self.getreply()

    def _begin_connection(
        self, address: Any, opening: Callable[[Any], tuple[int, bytes]]
    ) -> tuple[int, bytes]:
        """Take over a kept connection, or open one. Return the greeting.

        Args:
            address: The host and the port, or the path of a Unix socket.
            opening: The function that opens a connection to an address and reads the greeting.
        """
        seconds = reuse_of_process() if self._reuse is None else self._reuse
        if not seconds:
            self._protocol.link = None
            return opening(address)
        # Imported here and not at the top, because most programs do not reuse connections.
        from rapidsmtp._smtp import reuse

        return reuse.connect(self, address, opening, seconds)

    def close(self) -> None:
        """Close the connection without QUIT."""
        link = self._protocol.link
        if link is not None:
            link.drop(self)
        try:
            file, self.file = self.file, None
            if file:
                file.close()
        finally:
            sock, self.sock = self.sock, None
            if sock:
                sock.close()

    # Commands and replies

    def send(self, s: Any) -> None:
        """Write bytes, or a text encoded in `command_encoding`.

        Raises:
            SMTPServerDisconnected: The client is not connected, or the connection was lost.
        """
        if self.debuglevel > 0:
            self._print_sent(s)
        if not self.sock:
            raise results.disconnected(NOT_CONNECTED)
        if isinstance(s, str):
            s = s.encode(self.command_encoding)
        link = self._protocol.link
        if link is None:
            sys.audit("smtplib.send", self, s)
        elif not link.begin_write(self, s):
            return
        try:
            self.sock.sendall(s)
        except OSError as error:
            if link is not None:
                link.failure = error
            self.close()
            raise results.disconnected(results.NOT_WRITTEN) from None

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Write a command.

        Raises:
            ValueError: The command contains a line end or another control character. Nothing was
                sent.
        """
        line = cmd if args == "" else f"{cmd} {args}"
        _backend.check_command(line)
        self.send(line + "\r\n")

    def getreply(self) -> tuple[int, bytes]:
        """Read a reply.

        Returns:
            The code, and the text with its lines joined by LF. If the reply has no valid code,
            the code is -1 and the connection is closed.

        Raises:
            SMTPServerDisconnected: The connection was closed or lost.
            SMTPResponseException: The reply is too long.
        """
        link = self._protocol.link
        if link is not None:
            recorded: tuple[int, bytes] | None = link.begin_read(self)
            if recorded is not None:
                return recorded
        line = self._read_line()
        reply = _backend.parse_line(line) or self._read_lines(line)
        if link is not None:
            link.record_reply(reply)
        if reply[0] == -1:
            self.close()
        if self.debuglevel > 0:
            self._print_debug(f"reply: retcode ({reply[0]}); Msg: {reply[1]!a}")
        return reply

    def _read_line(self) -> bytes:
        file = self.file
        if file is None:
            file = self.file = reading_file(self.sock)
        self._protocol.emptied = None
        try:
            line: bytes = file.readline(MAX_LINE + 1)
        except OSError as error:
            if self._protocol.link is not None:
                self._protocol.link.failure = error
            self.close()
            raise results.disconnected(f"{CLOSED}: {error}") from None
        if not line:
            self.close()
            raise results.disconnected(CLOSED)
        if self.debuglevel > 0:
            self._print_debug("reply:", repr(line))
        if len(line) > MAX_LINE:
            self.close()
            raise SMTPResponseException(500, "Line too long.")
        return line

    def _read_lines(self, line: bytes) -> tuple[int, bytes]:
        """Read the remaining lines of a multiline reply, and parse it (RFC 5321 section 4.2.1)."""
        lines, continued, bytes_left = [line], line[:4], _backend.MAX_REPLY - len(line)
        while line[:4] == continued:
            line = self._read_line()
            lines.append(line)
            bytes_left -= len(line)
            if bytes_left < 0 or len(lines) > _backend.MAX_LINES:
                self.close()
                raise SMTPResponseException(500, "Reply too long.")
        return _backend.parse_lines(lines)

    def docmd(self, cmd: str, args: str = "") -> tuple[int, bytes]:
        """Write a command and read its reply."""
        self.putcmd(cmd, args)
        return self.getreply()

    def _unread(self) -> bytes:
        """Return received bytes that belong to no command, without waiting.

        The result is empty if there are none, and for a socket or a file of the program's own.
        """
        if not can_peek(self.sock, self.file):
            return b""
        link = self._protocol.link
        if link is not None and link.answers:
            # The client must not read from this connection before it has asked for all its steps.
            return b""
        self._protocol.emptied = None
        limit = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            unread: bytes = self.file.peek(1)
            return unread
        except OSError:
            # No bytes have arrived, or the connection is lost. The next operation on the socket
            # reports a lost connection.
            return b""
        finally:
            self.sock.settimeout(limit)

    def _reject_unexpected_reply(self, *allowed: bytes) -> None:
        """Close the connection and raise an exception if a reply arrived before its command.

        On an open connection, the client would read this reply as the reply to the next command.

        Args:
            *allowed: The first bytes of replies that do not raise an exception.

        Raises:
            SMTPServerDisconnected: An unexpected reply arrived.
        """
        emptied = self._protocol.emptied
        if (
            emptied is not None
            and emptied.file is self.file
            and emptied.sock is self.sock
            and not emptied.may_have_received()
        ):
            return
        unread = self._unread()
        if unread and not unread.startswith(allowed):
            self.close()
            raise results.disconnected(results.unexpected_reply(unread))

    # TLS

    if sys.version_info >= (3, 12):

        def starttls(self, *, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
            """Encrypt the connection with STARTTLS (RFC 3207).

            Args:
                context: The TLS settings. Without this argument certificates are not verified,
                    as in smtplib, unless `install(verify=True)` was called.

            Raises:
                SMTPNotSupportedError: The server does not support STARTTLS.
                SMTPResponseException: The server refused STARTTLS.
                SMTPException: Bytes in clear text followed the reply. An attacker may have
                    injected them.
            """
            return self._start_tls(lambda: context or default_context(), context)

    else:

        def starttls(
            self,
            keyfile: Any = None,
            certfile: Any = None,
            context: ssl.SSLContext | None = None,
        ) -> tuple[int, bytes]:
            """Encrypt the connection with STARTTLS (RFC 3207).

            Args:
                keyfile: A PEM file with the client's key; deprecated.
                certfile: A PEM file with the client's certificate; deprecated.
                context: The TLS settings. Without this argument certificates are not verified,
                    as in smtplib, unless `install(verify=True)` was called.

            Raises:
                SMTPNotSupportedError: The server does not support STARTTLS.
                SMTPResponseException: The server refused STARTTLS.
                SMTPException: Bytes in clear text followed the reply. An attacker may have
                    injected them.
            """
            link = self._protocol.link
            if link is not None and (keyfile is not None or certfile is not None):
                link.abandon(self, "TLS settings that cannot be compared")
            return self._start_tls(
                lambda: context_of_files(context, keyfile, certfile, stacklevel=10), context
            )

    def _start_tls(
        self, context: Callable[[], ssl.SSLContext], given: ssl.SSLContext | None
    ) -> tuple[int, bytes]:
        """Send STARTTLS and do the handshake.

        Args:
            context: The function that returns the TLS settings. It is called after the reply 220.
            given: The argument `context` of `starttls`.
        """
        link = self._protocol.link
        if link is not None and not link.spoiled:
            reply: tuple[int, bytes] = link.start_tls(self, given, context)
            return reply
        return self._encrypt(context)

    def _encrypt(self, context: Callable[[], ssl.SSLContext]) -> tuple[int, bytes]:
        def handshake() -> None:
            self._check_no_clear_text()
            self.sock = context().wrap_socket(self.sock, server_hostname=self._host)
            self.file = None

        # The cast is valid, because `self` is an instance of the subclass `SMTP`, which has all
        # members of `Face`.
        return run(commands.start_tls(cast(Face, self), handshake))

    def _check_no_clear_text(self) -> None:
        """Raise SMTPException if bytes follow the reply 220 to STARTTLS.

        RFC 3207 section 6: bytes that follow the reply may come from an attacker. After the
        handshake, the client would read them as if they had arrived through TLS.
        """
        if self._unread():
            self.close()
            raise SMTPException("the server sent clear text after its reply to STARTTLS")


def split_host_port(host: str, port: int) -> tuple[str, int]:
    """Split `name:port` into the host and the port, if `port` is 0.

    Args:
        host: A name or address, or `name:port` if `port` is 0.
        port: The port; 0 if it is not given.

    Raises:
        OSError: The port in `host` is not a number.
    """
    if not port and host.count(":") == 1:
        host, _, number = host.partition(":")
        try:
            port = int(number)
        except ValueError:
            raise OSError("nonnumeric port") from None
    return host, port


def name_of_this_host() -> str:
    """Return this host's name for EHLO (RFC 5321 section 4.1.4): a domain or an address literal.

    The look-up can take seconds, so its result is cached. If a program has replaced a look-up
    function of `socket`, the replacement is called each time, and the result is not cached.
    """
    global _default_until
    module = overrides.socket()
    functions = (module.getfqdn, module.gethostbyname, module.gethostname)
    if all(map(operator.is_, functions, _LOOKUP_FUNCTIONS)):
        if not _names:
            now = time.monotonic()
            if now < _default_until:
                return _DEFAULT_NAME
            name = _look_up_name(_socket)
            # The default name is cached for a second only, because a later look-up may find another
            # name.
            if name == _DEFAULT_NAME:
                _default_until = now + 1
                return name
            _names.append(name)
        return _names[0]
    return _look_up_name(module)


_LOOKUP_FUNCTIONS = (_socket.getfqdn, _socket.gethostbyname, _socket.gethostname)
_DEFAULT_NAME = "[127.0.0.1]"
_names: list[str] = []
_default_until = 0.0


def _look_up_name(module: Any) -> str:
    try:
        name: str = module.getfqdn()
    except UnicodeError:  # the name of this host cannot be encoded or decoded
        name = ""
    if "." in name and _is_valid(name):
        return name
    try:
        name = f"[{module.gethostbyname(module.gethostname())}]"
    except (module.gaierror, UnicodeError):
        return _DEFAULT_NAME
    return name if _is_valid(name) else _DEFAULT_NAME


def _is_valid(name: str) -> bool:
    """Return whether a name is valid in EHLO."""
    if not name.isascii():
        return False
    try:
        _backend.check_host_name(name)
    except ValueError:
        return False
    return True


def _send_without_delay(sock: Any) -> None:
    """Disable Nagle's algorithm.

    With this algorithm, the system would send the last bytes of a message only after the server has
    acknowledged the preceding bytes.
    """
    if is_socket(sock) and sock.family != getattr(_socket, "AF_UNIX", None):
        with contextlib.suppress(OSError):
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
