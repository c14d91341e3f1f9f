"""SMTP, SMTP_SSL and LMTP: smtplib's classes, with the core in the place of regular expressions.

State stands where smtplib keeps it (`sock`, `file`, `ehlo_resp`, `esmtp_features`, …), because
programs read and change it there. `sendmail` has two ways:

- the fast one, a `transaction` of the core, where the server offers PIPELINING (RFC 2920);
- step by step through `mail`, `rcpt` and `data`, as smtplib does it, where the server does not
  offer it, where debug output was asked for, and where the program has put something of its own
  in the place of a method that the fast way would pass by.

Modules are looked up when they are needed (`replaceable`): programs and CPython's own tests put
others in the place of `smtplib.socket`.

Methods must not use `super()` where `install` lends them to smtplib's own classes.
"""

import contextlib
import datetime
import functools
import io
import operator
import smtplib
import socket as _socket
import ssl
import sys
from collections.abc import Callable, Iterable, Sequence
from email.message import Message
from typing import Any, Self

from rapidsmtp import _core, delivery, pipelined, replaceable, stepwise
from rapidsmtp.authentication import Authentication
from rapidsmtp.delivery import CLOSED, MAX_LINE, NOT_CONNECTED, Refused, accepts
from rapidsmtp.errors import (
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupportedError,
    SMTPResponseException,
    SMTPServerDisconnected,
)
from rapidsmtp.message import envelope, flatten
from rapidsmtp.replaceable import reading_file
from rapidsmtp.tls import context_of_files, default_context

_TIMEOUT: Any = _socket._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]
_MAIL_FROM, _RCPT_TO = ("from:", "to:") if delivery.LOWER_CASE else ("FROM:", "TO:")


class SMTP(Authentication):
    """A connection to an SMTP server; `smtplib.SMTP` in everything but speed.

    Args:
        host: the server's name or address; `connect` is called if it is given.
        port: its port; 25 where it is 0.
        local_hostname: the name to give in EHLO; this host's own where it is None.
        timeout: seconds that an operation on the socket may take; None for no limit.
        source_address: host and port to bind the socket to.
        pipelining: whether to write commands together where the server offers PIPELINING.

    Raises:
        SMTPConnectError: the greeting was not 220.
    """

    sock: Any = None
    file: Any = None
    helo_resp: bytes | None = None
    ehlo_resp: bytes | None = None
    pipelining = True

    # Of the running transaction, for LMTP's replies to the body (RFC 2033).
    _recipients_left = 0
    _final_replies: Sequence[tuple[int, bytes]] = ()
    _body_sent = False
    _greeted: Any = None
    # The socket on which the last mail was refused: servers count errors (see `pipelined`).
    _refused_on: Any = None

    def __init__(
        self,
        host: str = "",
        port: int = 0,
        local_hostname: str | None = None,
        timeout: float | None = _TIMEOUT,
        source_address: Any = None,
        *,
        pipelining: bool = True,
    ) -> None:
        self._host = host
        self.timeout: Any = timeout
        self.esmtp_features = {}
        self.command_encoding = "ascii"
        self.source_address = source_address
        self.pipelining = pipelining
        self._auth_challenge_count = 0
        if host:
            code, text = self.connect(host, port)
            if code != 220:
                self.close()
                raise SMTPConnectError(code, text)
        self.local_hostname = _local_hostname() if local_hostname is None else local_hostname

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

    def set_debuglevel(self, debuglevel: int) -> None:
        """Set how much is told on `sys.stderr`: 0 nothing, 1 the dialogue, 2 with the time."""
        self.debuglevel = debuglevel

    def _print_debug(self, *args: object) -> None:
        if self.debuglevel > 1:
            print(datetime.datetime.now().time(), *args, file=sys.stderr)
        else:
            print(*args, file=sys.stderr)

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
        if not port and host.count(":") == 1:
            host, _, number = host.partition(":")
            try:
                port = int(number)
            except ValueError:
                raise OSError("nonnumeric port") from None
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

    def quit(self) -> tuple[int, bytes]:
        """Say QUIT, close, and forget what the server offered."""
        reply = self.docmd("quit")
        self.ehlo_resp = self.helo_resp = None
        self.esmtp_features = {}
        self.does_esmtp = False
        self.close()
        return reply

    # Commands and replies

    def send(self, s: Any) -> None:
        """Write a text, in `command_encoding`, or bytes.

        Raises:
            SMTPServerDisconnected: there is no connection, or no longer.
        """
        if self.debuglevel > 0:
            self._print_debug("send:", _redacted(s, self._redacting))
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

    def helo(self, name: str = "") -> tuple[int, bytes]:
        """Say HELO, by the given name or this host's own."""
        name = name or self.local_hostname
        _core.check_host_name(name)
        self.putcmd("helo", name)
        reply = self.getreply()
        self.helo_resp = reply[1]
        return reply

    def ehlo(self, name: str = "") -> tuple[int, bytes]:
        """Say EHLO and take note of what the server offers (RFC 5321 4.1.1.1)."""
        self.esmtp_features = {}
        name = name or self.local_hostname
        _core.check_host_name(name)
        self.putcmd(self.ehlo_msg, name)
        code, text = self.getreply()
        if code == -1 and not text:
            self.close()
            raise SMTPServerDisconnected("Server not connected")
        self.ehlo_resp = text
        if code == 250:
            self.does_esmtp = True
            self.esmtp_features = _core.parse_ehlo(text)
            self._greeted = self.sock
        return code, text

    def has_extn(self, opt: str) -> bool:
        """Whether the server offers an extension, by its EHLO keyword."""
        return opt.lower() in self.esmtp_features

    def ehlo_or_helo_if_needed(self) -> None:
        """Say EHLO, or else HELO, if neither was said yet.

        Raises:
            SMTPHeloError: the server took neither.
        """
        if self.helo_resp is None and self.ehlo_resp is None and not accepts(self.ehlo()):
            reply = self.helo()
            if not accepts(reply):
                raise SMTPHeloError(*reply)

    def help(self, args: str = "") -> bytes:
        """Ask for help; the text of the reply."""
        self.putcmd("help", args)
        return self.getreply()[1]

    def rset(self) -> tuple[int, bytes]:
        """Abandon the transaction."""
        self.command_encoding = "ascii"
        return self.docmd("rset")

    def _rset(self) -> None:
        # The mail's own error matters more than a connection that ends here.
        with contextlib.suppress(SMTPServerDisconnected):
            self.rset()

    def noop(self) -> tuple[int, bytes]:
        """Do nothing, and hear that it was done."""
        return self.docmd("noop")

    def verify(self, address: str) -> tuple[int, bytes]:
        """Ask whether an address is known (VRFY)."""
        _core.check_command(address)
        self.putcmd("vrfy", smtplib._addr_only(address))  # type: ignore[attr-defined]
        return self.getreply()

    vrfy = verify

    def expn(self, address: str) -> tuple[int, bytes]:
        """Ask who is on a mailing list (EXPN)."""
        _core.check_command(address)
        self.putcmd("expn", smtplib._addr_only(address))  # type: ignore[attr-defined]
        return self.getreply()

    # The steps of a mail

    def mail(self, sender: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Begin a mail (MAIL).

        Raises:
            SMTPNotSupportedError: the options ask for SMTPUTF8 and the server does not offer it.
            ValueError: the address holds more than an address.
        """
        parameters = ""
        if options and self.does_esmtp:
            if delivery.wants_utf8(options, self.esmtp_features):
                self.command_encoding = "utf-8"
            parameters = " " + " ".join(options)
        self._recipients_left = 0
        self.putcmd("mail", _MAIL_FROM + delivery.path(sender) + parameters)
        return self.getreply()

    def rcpt(self, recip: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Name a recipient (RCPT).

        Raises:
            ValueError: the address holds more than an address.
        """
        parameters = ""
        if options and self.does_esmtp:
            parameters = " " + " ".join(options)
        self.putcmd("rcpt", _RCPT_TO + delivery.path(recip) + parameters)
        reply = self.getreply()
        if reply[0] == 250 or reply[0] == 251:
            self._recipients_left += 1
        return reply

    def data(self, msg: Any) -> tuple[int, bytes]:
        """Send the message (DATA): line ends repaired, dots doubled.

        Returns:
            The reply to the message; on LMTP the first that accepts it, else the first.

        Raises:
            SMTPDataError: the server did not want to hear it.
        """
        self.putcmd("data")
        reply = self.getreply()
        if self.debuglevel > 0:
            self._print_debug("data:", reply)
        if reply[0] != 354:
            raise SMTPDataError(*reply)
        self._body_sent = False
        self.send(_core.stuff(msg.encode("ascii") if isinstance(msg, str) else msg)[0])
        self._body_sent = True
        if self.ehlo_msg == "lhlo":
            self._read_final_replies()
            accepting = [reply for reply in self._final_replies if accepts(reply)]
            reply = (accepting or self._final_replies)[0]
        else:
            reply = self.getreply()
        if self.debuglevel > 0:
            self._print_debug("data:", reply)
        return reply

    def _read_final_replies(self) -> None:
        """LMTP: a reply for each recipient that is left (RFC 2033 4.2)."""
        replies: list[tuple[int, bytes]] = []
        self._final_replies = replies
        while len(replies) < max(1, self._recipients_left):
            if self.sock is None:
                raise SMTPServerDisconnected(NOT_CONNECTED)
            reply = self.getreply()
            replies.append(reply)
            if reply[0] == 421:  # the server is going: it speaks for the others too
                replies += [reply] * (self._recipients_left - len(replies))

    # Whole mails

    def sendmail(
        self,
        from_addr: str,
        to_addrs: str | Iterable[str],
        msg: Any,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> Refused:
        """Send one mail.

        Args:
            from_addr: the envelope's sender.
            to_addrs: the recipients, or a single one.
            msg: the message: bytes, an ASCII str, or an `email.message.Message`.
            mail_options: ESMTP parameters of MAIL, such as `"BODY=8BITMIME"`.
            rcpt_options: ESMTP parameters of every RCPT, such as `"NOTIFY=NEVER"`.

        Returns:
            The refused recipients with their replies: empty where all were accepted.

        Raises:
            SMTPHeloError: the server took neither EHLO nor HELO.
            SMTPSenderRefused: the server refused the sender.
            SMTPRecipientsRefused: it refused all the recipients; nothing was sent.
            SMTPDataError: it refused the message.
            SMTPNotSupportedError: SMTPUTF8 is asked for and not offered.
            SMTPServerDisconnected: the connection was lost; its attribute `body_sent` tells
                whether the server may have the mail all the same.
            ValueError: an address or option holds what it must not; nothing was sent.
        """
        self.ehlo_or_helo_if_needed()
        if isinstance(msg, Message):
            mail_options = tuple(mail_options)
            msg = flatten(msg, utf8=any(option.lower() == "smtputf8" for option in mail_options))
        recipients = [to_addrs] if isinstance(to_addrs, str) else list(to_addrs)
        send = pipelined.send if pipelined.applies(self, _OUR_METHODS) else stepwise.send
        return send(self, from_addr, recipients, msg, mail_options, rcpt_options)

    def send_message(
        self,
        msg: Message,
        from_addr: str | None = None,
        to_addrs: str | Sequence[str] | None = None,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> Refused:
        """Send an `email.message.Message`, by its own headers where no address is given.

        Bcc and Resent-Bcc are used and not sent; `msg` itself stays as it is.

        Raises:
            ValueError: it has more than one block of Resent- headers.
            SMTPNotSupportedError: an address is not ASCII and the server has no SMTPUTF8.
            SMTPException: as `sendmail`.
        """
        self.ehlo_or_helo_if_needed()
        sender, recipients = envelope(msg, from_addr, to_addrs)
        international = not "".join([sender, *recipients]).isascii()
        if international:
            if not self.has_extn("smtputf8"):
                raise SMTPNotSupportedError(
                    "One or more source or delivery addresses require internationalized email "
                    "support, but the server does not advertise the required SMTPUTF8 capability"
                )
            mail_options = (*mail_options, "SMTPUTF8", "BODY=8BITMIME")
        flat = flatten(msg, utf8=international)
        return self.sendmail(sender, recipients, flat, mail_options, rcpt_options)

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
                lambda: context_of_files(context, keyfile, certfile, stacklevel=5)
            )

    def _start_tls(self, context: Callable[[], ssl.SSLContext]) -> tuple[int, bytes]:
        self.ehlo_or_helo_if_needed()
        if not self.has_extn("starttls"):
            raise SMTPNotSupportedError("STARTTLS extension not supported by server.")
        code, text = self.docmd("STARTTLS")
        if code != 220:
            raise SMTPResponseException(code, text)
        self._refuse_clear_text()
        self.sock = context().wrap_socket(self.sock, server_hostname=self._host)
        self.file = None
        # RFC 3207 4.2: what was offered in clear text may have been forged.
        self.helo_resp = None
        self.ehlo_resp = None
        self.esmtp_features = {}
        self.does_esmtp = False
        return code, text

    def _refuse_clear_text(self) -> None:
        """Nothing may follow the 220: it would be read as if it had come through TLS."""
        if not isinstance(self.sock, _socket.socket) or type(self.file) is not io.BufferedReader:
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


class SMTP_SSL(SMTP, smtplib.SMTP_SSL):
    """A connection that is TLS from its first byte (RFC 8314), on port 465.

    Args:
        host, port, local_hostname, timeout, source_address, pipelining: as for `SMTP`.
        context: the TLS settings; without any, certificates are not verified, as in smtplib,
            unless `install(verify=True)` was called.
    """

    default_port = smtplib.SMTP_SSL_PORT

    if sys.version_info >= (3, 12):

        def __init__(
            self,
            host: str = "",
            port: int = 0,
            local_hostname: str | None = None,
            *,
            timeout: float | None = _TIMEOUT,
            source_address: Any = None,
            context: ssl.SSLContext | None = None,
            pipelining: bool = True,
        ) -> None:
            self.context = context or default_context()
            SMTP.__init__(
                self, host, port, local_hostname, timeout, source_address, pipelining=pipelining
            )

    else:

        def __init__(
            self,
            host: str = "",
            port: int = 0,
            local_hostname: str | None = None,
            keyfile: str | None = None,
            certfile: str | None = None,
            timeout: float | None = _TIMEOUT,
            source_address: Any = None,
            context: ssl.SSLContext | None = None,
            *,
            pipelining: bool = True,
        ) -> None:
            self.keyfile = keyfile
            self.certfile = certfile
            self.context = context_of_files(context, keyfile, certfile)
            SMTP.__init__(
                self, host, port, local_hostname, timeout, source_address, pipelining=pipelining
            )

    def _get_socket(self, host: str, port: int, timeout: float | None) -> Any:
        if self.debuglevel > 0:
            self._print_debug("connect:", (host, port))
        sock = super()._get_socket(host, port, timeout)
        return self.context.wrap_socket(sock, server_hostname=self._host)


class LMTP(SMTP, smtplib.LMTP):
    """A connection to an LMTP server (RFC 2033), over TCP or a Unix socket.

    Args:
        host: a name or address, or the absolute path of a Unix socket.
        port: 2003 where none is given.
        local_hostname, source_address, timeout, pipelining: as for `SMTP`.
    """

    ehlo_msg = "lhlo"

    def __init__(
        self,
        host: str = "",
        port: int = smtplib.LMTP_PORT,
        local_hostname: str | None = None,
        source_address: Any = None,
        timeout: float | None = _TIMEOUT,
        *,
        pipelining: bool = True,
    ) -> None:
        SMTP.__init__(
            self, host, port, local_hostname, timeout, source_address, pipelining=pipelining
        )

    def connect(
        self, host: str = "localhost", port: int = 0, source_address: Any = None
    ) -> tuple[int, bytes]:
        """Connect to a TCP port, or to a Unix socket where the host begins with a slash."""
        if host[0] != "/":
            return SMTP.connect(self, host, port, source_address)
        if self.timeout is not None and not self.timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        try:
            module = replaceable.socket()
            self.sock = module.socket(module.AF_UNIX, module.SOCK_STREAM)
            if self.timeout is not _TIMEOUT:
                self.sock.settimeout(self.timeout)
            self.file = None
            self.sock.connect(host)
        except OSError:
            if self.debuglevel > 0:
                self._print_debug("connect fail:", host)
            if self.sock:
                self.sock.close()
            self.sock = None
            raise
        code, text = self.getreply()
        if self.debuglevel > 0:
            self._print_debug("connect:", text)
        return code, text


def _local_hostname() -> str:
    """This host's name for EHLO (RFC 5321 4.1.4): a domain, or else an address literal.

    The look-up can stall for seconds, so it is made once; each time where a program has put
    other functions in its place.
    """
    module = replaceable.socket()
    functions = (module.getfqdn, module.gethostbyname, module.gethostname)
    if all(map(operator.is_, functions, _LOOK_UPS)):
        return _genuine_local_hostname()
    return _look_up_local_hostname(module)


_LOOK_UPS = (_socket.getfqdn, _socket.gethostbyname, _socket.gethostname)


@functools.cache
def _genuine_local_hostname() -> str:
    return _look_up_local_hostname(_socket)


def _look_up_local_hostname(module: Any) -> str:
    name: str = module.getfqdn()
    if "." in name:
        return name
    address = "127.0.0.1"
    with contextlib.suppress(module.gaierror):
        address = module.gethostbyname(module.gethostname())
    return f"[{address}]"


def _send_without_delay(sock: Any) -> None:
    """The last piece of a message must not wait until the one before it is acknowledged."""
    if isinstance(sock, _socket.socket) and sock.family != getattr(_socket, "AF_UNIX", None):
        with contextlib.suppress(OSError):
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)


def _redacted(s: Any, authenticating: bool) -> str:
    """What debug output shows of a line that is sent: never a secret."""
    if not isinstance(s, str):
        return repr(s)
    words = s.split(" ", 2)
    if words[0].upper() == "AUTH" and len(words) == 3:
        return repr(f"{words[0]} {words[1]} [redacted]\r\n")
    if authenticating and words[0].upper() != "AUTH":
        return repr("[redacted]\r\n")
    return repr(s)


_OUR_METHODS = pipelined.methods_passed_by(SMTP)
