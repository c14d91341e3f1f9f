"""The connection of the drop-in: socket and file, lines out and replies in, TLS (RFC 3207).

State stands where smtplib keeps it, and modules are looked up when they are needed
(`replaceable`), because programs and CPython's own tests put others there. Methods must not use
`super()`: `install` lends them to smtplib's own class.
"""

import contextlib
import operator
import smtplib
import socket as _socket
import ssl
import sys
from collections.abc import Callable
from io import BufferedReader
from typing import Any, Self

from rapidsmtp import _core, dialogue, replaceable
from rapidsmtp.delivery import CLOSED, MAX_LINE, NOT_CONNECTED
from rapidsmtp.dialogue import State, run
from rapidsmtp.errors import (
    SMTPException,
    SMTPResponseException,
    SMTPServerDisconnected,
)
from rapidsmtp.replaceable import reading_file
from rapidsmtp.tls import context_of_files, default_context


class Connection(State, smtplib.SMTP):
    """The methods of `SMTP` that open, close, write and read."""

    sock: Any = None
    file: Any = None
    _host: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
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
        return replaceable.socket().create_connection((host, port), timeout, self.source_address)

    def connect(
        self, host: str = "localhost", port: int = 0, source_address: Any = None
    ) -> tuple[int, bytes]:
        """Connect and read the greeting.

        Args:
            host: a name or address; `name:port` is taken apart where no port is given.
            port: the port; the class's default where it is 0.
            source_address: host and port to bind the socket to.

        Returns:
            The code and the text of the greeting.

        Raises:
            OSError: the connection failed, or the port is not a number.
        """
        if source_address:
            self.source_address = source_address
        host, port = taken_apart(host, port)
        port = port or self.default_port
        sys.audit("smtplib.connect", self, host, port)
        self.sock = self._get_socket(host, port, self.timeout)
        self.file = None
        _send_without_delay(self.sock)
        code, text = self.getreply()
        if self.debuglevel > 0:
            self._print_debug("connect:", repr(text))
        return code, text

    def close(self) -> None:
        """Close the connection, without a word to the server."""
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
        """Write a text, in `command_encoding`, or bytes.

        Raises:
            SMTPServerDisconnected: there is no connection, or no longer.
        """
        if self.debuglevel > 0:
            self._print_sent(s)
        if not self.sock:
            raise SMTPServerDisconnected(NOT_CONNECTED)
        if isinstance(s, str):
            s = s.encode(self.command_encoding)
        sys.audit("smtplib.send", self, s)
        try:
            self.sock.sendall(s)
        except OSError:
            self.close()
            raise SMTPServerDisconnected("Server not connected") from None

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Write a command.

        Raises:
            ValueError: it holds a line end or another control character; nothing was sent.
        """
        line = cmd if args == "" else f"{cmd} {args}"
        _core.check_command(line)
        self.send(line + "\r\n")

    def getreply(self) -> tuple[int, bytes]:
        """Read a reply.

        Returns:
            The code, -1 where it could not be read, after which the connection is closed; and
            the text, its lines joined by LF.

        Raises:
            SMTPServerDisconnected: the connection has ended.
            SMTPResponseException: the reply is longer than any that is taken.
        """
        line = self._read_line()
        reply = _core.parse_line(line) or self._read_lines(line)
        if reply[0] == -1:
            self.close()
        if self.debuglevel > 0:
            self._print_debug(f"reply: retcode ({reply[0]}); Msg: {reply[1]!a}")
        return reply

    def _read_line(self) -> bytes:
        file = self.file
        if file is None:
            file = self.file = reading_file(self.sock)
        try:
            line: bytes = file.readline(MAX_LINE + 1)
        except OSError as error:
            self.close()
            raise SMTPServerDisconnected(f"{CLOSED}: {error}") from None
        if not line:
            self.close()
            raise SMTPServerDisconnected(CLOSED)
        if self.debuglevel > 0:
            self._print_debug("reply:", repr(line))
        if len(line) > MAX_LINE:
            self.close()
            raise SMTPResponseException(500, "Line too long.")
        return line

    def _read_lines(self, line: bytes) -> tuple[int, bytes]:
        """The rest of a reply whose first line says that others follow."""
        lines, continued, room = [line], line[:4], _core.MAX_REPLY - len(line)
        while line[:4] == continued:
            line = self._read_line()
            lines.append(line)
            room -= len(line)
            if room < 0 or len(lines) > _core.MAX_LINES:
                self.close()
                raise SMTPResponseException(500, "Reply too long.")
        return _core.parse_lines(lines)

    def docmd(self, cmd: str, args: str = "") -> tuple[int, bytes]:
        """Write a command and read its reply."""
        self.putcmd(cmd, args)
        return self.getreply()

    # TLS

    if sys.version_info >= (3, 12):

        def starttls(self, *, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
            """Turn to TLS (RFC 3207).

            Args:
                context: the TLS settings; without any, certificates are not verified, as in
                    smtplib, unless `install(verify=True)` was called.

            Raises:
                SMTPNotSupportedError: the server does not offer it.
                SMTPResponseException: the server did not agree.
                SMTPException: the server, or somebody between, sent more than its reply.
            """
            return self._start_tls(lambda: context or default_context())

    else:

        def starttls(
            self,
            keyfile: Any = None,
            certfile: Any = None,
            context: ssl.SSLContext | None = None,
        ) -> tuple[int, bytes]:
            """Turn to TLS (RFC 3207).

            Args:
                keyfile: the client's key, as PEM; deprecated.
                certfile: the client's certificate, as PEM; deprecated.
                context: the TLS settings; without any, certificates are not verified, as in
                    smtplib, unless `install(verify=True)` was called.

            Raises:
                SMTPNotSupportedError: the server does not offer it.
                SMTPResponseException: the server did not agree.
                SMTPException: the server, or somebody between, sent more than its reply.
            """
            return self._start_tls(
                lambda: context_of_files(context, keyfile, certfile, stacklevel=8)
            )

    def _start_tls(self, context: Callable[[], ssl.SSLContext]) -> tuple[int, bytes]:
        def secure() -> None:
            self._refuse_clear_text()
            self.sock = context().wrap_socket(self.sock, server_hostname=self._host)
            self.file = None

        return run(dialogue.start_tls(self, secure))

    def _refuse_clear_text(self) -> None:
        """Nothing may follow the 220: it would be read as if it had come through TLS."""
        if not isinstance(self.sock, _socket.socket) or type(self.file) is not BufferedReader:
            return
        limit = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            injected = self.file.peek(1)
        except OSError:
            injected = b""  # the handshake meets the same error
        finally:
            self.sock.settimeout(limit)
        if injected:
            self.close()
            raise SMTPException("the server sent clear text behind its reply to STARTTLS")


def taken_apart(host: str, port: int) -> tuple[str, int]:
    """The host and the port; `name:port` is both, where no port is given.

    Raises:
        OSError: the port is not a number.
    """
    if not port and host.count(":") == 1:
        host, _, number = host.partition(":")
        try:
            port = int(number)
        except ValueError:
            raise OSError("nonnumeric port") from None
    return host, port


def name_of_this_host() -> str:
    """This host's name for EHLO (RFC 5321 4.1.4): a domain, or else an address literal.

    The look-up can stall for seconds, so it is made once; each time where a program has put
    other functions in its place.
    """
    module = replaceable.socket()
    functions = (module.getfqdn, module.gethostbyname, module.gethostname)
    if all(map(operator.is_, functions, _LOOK_UPS)):
        if not _names:
            name = _look_up_name(_socket)
            if name == _NAMELESS:  # a resolver that is not up yet may be later
                return name
            _names.append(name)
        return _names[0]
    return _look_up_name(module)


_LOOK_UPS = (_socket.getfqdn, _socket.gethostbyname, _socket.gethostname)
_NAMELESS = "[127.0.0.1]"
_names: list[str] = []


def _look_up_name(module: Any) -> str:
    name: str = module.getfqdn()
    if "." in name and _fits(name):
        return name
    try:
        name = f"[{module.gethostbyname(module.gethostname())}]"
    except module.gaierror:
        return _NAMELESS
    return name if _fits(name) else _NAMELESS


def _fits(name: str) -> bool:
    """Whether EHLO takes the name: what was looked up is nobody's mistake, and must not raise."""
    try:
        _core.check_host_name(name)
    except ValueError:
        return False
    return True


def _send_without_delay(sock: Any) -> None:
    """The last piece of a message must not wait until the one before it is acknowledged."""
    if isinstance(sock, _socket.socket) and sock.family != getattr(_socket, "AF_UNIX", None):
        with contextlib.suppress(OSError):
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
