"""SMTP, SMTP_SSL and LMTP: replacements for smtplib's classes that use the protocol core.

The attributes have smtplib's names (`sock`, `file`, `ehlo_resp`, `esmtp_features`, …), because
programs read and change them. `sendmail` sends a message in one of two ways:

- `flights` runs a transaction of the protocol core.
- `method_calls` calls `mail`, `rcpt` and `data` as smtplib does. It is used if debug output is on,
  or if the program has replaced a method that `flights` does not call.

`install` copies methods to smtplib's own classes. A copied method must not use `super()`, because
the objects of those classes are not instances of the classes in this module.
"""

import contextlib
import os
import smtplib
import socket as _socket
import ssl
import sys
from collections.abc import Callable, Iterable, Sequence
from email.message import Message
from typing import TYPE_CHECKING, Any

import rapidsmtp
from rapidsmtp import _backend
from rapidsmtp._smtp import (
    commands,
    flights,
    login,
    method_calls,
    overrides,
    results,
)
from rapidsmtp._smtp.commands import run
from rapidsmtp._smtp.connection import SocketConnection, name_of_this_host
from rapidsmtp._smtp.contexts import context_of_files, default_context
from rapidsmtp._smtp.login import AuthObjects
from rapidsmtp._smtp.results import Refused
from rapidsmtp._smtp.state import reuse_seconds
from rapidsmtp.errors import SMTPConnectError, SMTPServerDisconnected

if TYPE_CHECKING:
    from smtplib import LMTP as _LMTP
    from smtplib import SMTP_SSL as _SMTP_SSL

    from rapidsmtp._models.sendable import Sendable
else:
    _LMTP = overrides.base_class(overrides.OWN_LMTP)
    _SMTP_SSL = overrides.base_class(overrides.OWN_SMTP_SSL)

_TIMEOUT: Any = _socket._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]

_RSET = overrides.Methods("rset")


class SMTP(AuthObjects, SocketConnection):
    """A connection to an SMTP server, with the interface of `smtplib.SMTP`.

    Args:
        host: The name or address of the server. If it is given, the constructor connects.
        port: The port; 0 means 25.
        local_hostname: The name to send in EHLO; None for this host's name.
        timeout: The time limit of an operation on the socket, in seconds; None for no limit.
        source_address: The host and port to which the socket is bound.
        pipelining: Whether to write commands together if the server supports PIPELINING.
        reuse: The number of seconds for which `quit` keeps the connection for a later client with
            the same steps; True for 30 seconds; 0 for none. False for the setting of the process
            (`install(reuse=…)` or `RAPIDSMTP_REUSE`), which is off by default.

    Raises:
        SMTPConnectError: The greeting was not 220.
    """

    pipelining: bool = True

    def __init__(
        self,
        host: str = "",
        port: int = 0,
        local_hostname: str | None = None,
        timeout: float | None = _TIMEOUT,
        source_address: Any = None,
        *,
        pipelining: bool = True,
        reuse: float = False,
    ) -> None:
        self._host = host
        self.timeout: Any = timeout
        self.esmtp_features: dict[str, str] = {}
        self.command_encoding: str = "ascii"
        self.source_address = source_address
        self.pipelining = pipelining
        self._auth_challenge_count = 0
        if reuse is not False:
            self._reuse = reuse_seconds(reuse)
        if host:
            code, text = self.connect(host, port)
            if code != 220:
                self.close()
                error = SMTPConnectError(code, text)
                results.mark_not_started(error)
                raise error
        self.local_hostname: str = name_of_this_host() if local_hostname is None else local_hostname

    def helo(self, name: str = "") -> tuple[int, bytes]:
        """Send HELO with `name`, or with the name of this host if `name` is empty."""
        link = self._protocol.link
        if link is not None:
            reply: tuple[int, bytes] = link.greet(self, "helo", name, commands.helo)
            return reply
        return run(commands.helo(self, name))

    def ehlo(self, name: str = "") -> tuple[int, bytes]:
        """Send EHLO and store the server's capabilities (RFC 5321 section 4.1.1.1)."""
        link = self._protocol.link
        if link is not None:
            reply: tuple[int, bytes] = link.greet(self, self.ehlo_msg, name, commands.ehlo)
            return reply
        return run(commands.ehlo(self, name))

    def ehlo_or_helo_if_needed(self) -> None:
        """Send EHLO if no reply to EHLO or HELO is stored; send HELO if EHLO is refused.

        Raises:
            SMTPHeloError: The server refused both commands.
        """
        if self.helo_resp is None and self.ehlo_resp is None:
            run(commands.greet(self))

    def help(self, args: str = "") -> bytes:
        """Send HELP and return the text of the reply."""
        self.putcmd("help", args)
        return self.getreply()[1]

    def rset(self) -> tuple[int, bytes]:
        """Reset the transaction (RSET)."""
        self.command_encoding = "ascii"
        self._protocol.recipients_left = 0
        return self.docmd("rset")

    def _rset(self) -> None:
        # RSET follows a refused message. If the connection is lost at RSET, this loss is ignored,
        # so that the caller gets the error for the message.
        with contextlib.suppress(SMTPServerDisconnected):
            self._reject_unexpected_reply(results.SHUTDOWN)
            reply = self.rset()
            original = _RSET.are_original(self)
            if original and not _backend.succeeds("rset", reply[0]):
                # The transaction may still be open, so the server could refuse the next MAIL.
                self.close()

    def quit(self) -> tuple[int, bytes]:
        """Send QUIT, close the connection and discard the stored capabilities.

        If connections are reused, a healthy connection is kept open, and the reply is 221.
        """
        link = self._protocol.link
        if link is not None and link.keep(self, b"quit\r\n"):
            commands.forget_greeting(self)
            return 221, b"2.0.0 connection kept for reuse"
        return run(commands.quit(self))

    def noop(self) -> tuple[int, bytes]:
        """Send NOOP, a command without effect, and return the reply."""
        return self.docmd("noop")

    def verify(self, address: str) -> tuple[int, bytes]:
        """Ask whether a mailbox exists (VRFY)."""
        return run(commands.ask_about(self, "vrfy", address))

    vrfy = verify

    def expn(self, address: str) -> tuple[int, bytes]:
        """Ask for the members of a mailing list (EXPN)."""
        return run(commands.ask_about(self, "expn", address))

    # Log in

    def auth(
        self,
        mechanism: str,
        authobject: Callable[..., Any],
        *,
        initial_response_ok: bool = True,
    ) -> tuple[int, bytes]:
        """Authenticate with one SASL mechanism (RFC 4954).

        Args:
            mechanism: The name of the mechanism, such as `"PLAIN"`.
            authobject: A callable that returns the response (str) to a challenge (bytes). A call
                without an argument returns the initial response, or None if the mechanism has no
                initial response. Objects of the classes in `rapidsmtp.auth` are such callables.
            initial_response_ok: Whether the initial response may be part of the AUTH command.

        Raises:
            SMTPAuthenticationError: The server refused the login or, with SCRAM, did not prove that
                it knows the password.
            SMTPException: The server sent too many challenges.
        """
        link = self._protocol.link
        if link is not None:
            reply: tuple[int, bytes] = link.authenticate(
                self, mechanism, authobject, initial_response_ok
            )
            return reply
        return run(login.auth(self, mechanism, authobject, initial_response_ok))

    def login(
        self, user: str, password: str, *, initial_response_ok: bool = True
    ) -> tuple[int, bytes]:
        """Authenticate: try CRAM-MD5, PLAIN and LOGIN in this order until one succeeds.

        Raises:
            SMTPHeloError: The server refused EHLO and HELO.
            SMTPNotSupportedError: The server does not support AUTH.
            SMTPAuthenticationError: The server refused each mechanism that was tried.
            SMTPException: The server supports none of the three mechanisms.
        """
        return run(login.login(self, user, password, initial_response_ok))

    # The commands of a transaction

    def mail(self, sender: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Start a transaction (MAIL).

        Raises:
            SMTPNotSupportedError: The options contain SMTPUTF8, which the server does not support.
            ValueError: `sender` contains text that is not part of an address.
        """
        return run(commands.mail(self, sender, options))

    def rcpt(self, recip: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Add a recipient (RCPT).

        Raises:
            ValueError: `recip` contains text that is not part of an address.
        """
        return run(commands.rcpt(self, recip, options))

    def data(self, msg: Any) -> tuple[int, bytes]:
        """Send DATA and the message, with CRLF line ends and dot-stuffing.

        Returns:
            The reply to the message. An LMTP server sends one reply for each recipient. With LMTP,
            the result is the first positive reply, or the first reply if none is positive.

        Raises:
            SMTPDataError: The server refused DATA.
        """
        return run(commands.data(self, msg))

    # Whole messages

    def sendmail(
        self,
        from_addr: str,
        to_addrs: str | Iterable[str],
        msg: Any,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> Refused:
        """Send one message.

        Args:
            from_addr: The sender of the envelope.
            to_addrs: The recipients: one address (str), or several.
            msg: The message: bytes, an ASCII str, or an `email.message.Message`.
            mail_options: ESMTP parameters of MAIL, such as `"BODY=8BITMIME"`.
            rcpt_options: ESMTP parameters of every RCPT, such as `"NOTIFY=NEVER"`.

        Returns:
            The refused recipients with their replies; empty if the server accepted all recipients.

        Raises:
            SMTPHeloError: The server refused EHLO and HELO.
            SMTPSenderRefused: The server refused the sender.
            SMTPRecipientsRefused: The server refused all recipients. The message was not sent.
            SMTPDataError: The server refused the message.
            SMTPNotSupportedError: The options contain SMTPUTF8, which the server does not support.
            SMTPServerDisconnected: The connection was lost. The exception's attribute `body_sent`
                is true if the server may have accepted the message.
            ValueError: An address or an option is invalid. Nothing was sent.
        """
        link = self._protocol.link
        # If this is true, EHLO was accepted, so `_begin_session` would do nothing.
        in_flights = (
            link is None
            and self._protocol.greeted_on is self.sock
            and flights.applies(self, flights.BYPASSED_WITH_EHLO)
        )
        if not in_flights:
            self._begin_session()
            link = self._protocol.link
        if link is None or not link.begin_message(self):
            # smtplib reports a 421 that arrived before MAIL as the reply to MAIL.
            self._reject_unexpected_reply(results.SHUTDOWN)
        mail_options, rcpt_options = tuple(mail_options or ()), tuple(rcpt_options or ())
        if isinstance(msg, Message):
            # Imported here and not at the top, because a client that sends only bytes never needs
            # this module.
            from rapidsmtp._compose.envelope import flatten

            msg = flatten(msg, utf8=any(option.lower() == "smtputf8" for option in mail_options))
        recipients = [to_addrs] if isinstance(to_addrs, str) else list(to_addrs)
        message = from_addr, recipients, msg, mail_options, rcpt_options
        if in_flights:
            return flights.send(self, *message)
        if link is None:
            return self._send(*message)
        refused: Refused = link.send(self, lambda: self._send(*message))
        return refused

    def _send(
        self,
        from_addr: str,
        recipients: list[str],
        msg: Any,
        mail_options: Sequence[str],
        rcpt_options: Sequence[str],
    ) -> Refused:
        send = flights.send if flights.applies(self) else method_calls.send
        return send(self, from_addr, recipients, msg, mail_options, rcpt_options)

    def send_message(
        self,
        msg: Message,
        from_addr: str | None = None,
        to_addrs: str | Sequence[str] | None = None,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> Refused:
        """Send an `email.message.Message`.

        The recipients in Bcc and Resent-Bcc receive the message, but these fields are not sent.
        `msg` is not changed.

        Args:
            msg: The message.
            from_addr: The sender of the envelope; None for the sender in the header.
            to_addrs: The recipients: one address (str), or several; None for those in the header.
            mail_options: As for `sendmail`.
            rcpt_options: As for `sendmail`.

        Returns:
            The refused recipients, as for `sendmail`.

        Raises:
            ValueError: The message has more than one block of Resent- header fields.
            SMTPNotSupportedError: An address is not ASCII, and the server does not support
                SMTPUTF8.
            SMTPException: As for `sendmail`.
        """
        steps = commands.send_message(self, msg, from_addr, to_addrs, mail_options, rcpt_options)
        return run(steps)

    def sendmail_many(self, messages: "Iterable[Sendable]") -> "list[rapidsmtp.Outcome]":
        """Send many messages over this connection. A refused message does not stop the others.

        Args:
            messages: `rapidsmtp.Message` objects, tuples of `sendmail`'s arguments, or
                email.message objects.

        Returns:
            One outcome for each message, in the same order. If the connection is lost while a
            message waits for its final reply, this message is UNKNOWN. The messages after this
            message are NOT_ATTEMPTED.
        """
        # Imported here and not at the top, because most programs never need the bulk interface.
        from rapidsmtp._smtp import sendmail_many

        return run(sendmail_many.send(self, messages))

    def _begin_session(self) -> None:
        if self.helo_resp is None and self.ehlo_resp is None:
            self._reject_unexpected_reply(results.SHUTDOWN)
        try:
            self.ehlo_or_helo_if_needed()
        except OSError as error:
            results.mark_not_started(error)
            raise


class SMTP_SSL(SMTP, _SMTP_SSL):
    """A connection with TLS from the first byte (RFC 8314).

    Args:
        host: The name or address of the server. If it is given, the constructor connects.
        port: The port; 0 means 465.
        local_hostname: As for `SMTP`.
        timeout: As for `SMTP`.
        source_address: As for `SMTP`.
        pipelining: As for `SMTP`.
        reuse: As for `SMTP`.
        context: The TLS settings. Without this argument certificates are not verified, as in
            smtplib, unless `install(verify=True)` was called.
    """

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
            reuse: float = False,
        ) -> None:
            self.context: ssl.SSLContext = context or default_context()
            if host and not context:
                self._protocol.default_context = self.context
            if reuse is not False:
                self._reuse = reuse_seconds(reuse)
            SMTP.__init__(self, host, port, local_hostname, timeout, source_address)
            self._protocol.default_context = None  # the program may change it from now on
            self.pipelining = pipelining

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
            reuse: float = False,
        ) -> None:
            self.keyfile: str | None = keyfile
            self.certfile: str | None = certfile
            self.context: ssl.SSLContext = context_of_files(
                context, keyfile, certfile, stacklevel=4
            )
            if host and not context and certfile is None:
                self._protocol.default_context = self.context
            if reuse is not False:
                self._reuse = reuse_seconds(reuse)
            SMTP.__init__(self, host, port, local_hostname, timeout, source_address)
            self._protocol.default_context = None  # the program may change it from now on
            self.pipelining = pipelining

    def _get_socket(self, host: str, port: int, timeout: float | None) -> Any:
        if self.debuglevel > 0:
            self._print_debug("connect:", (host, port))
        sock = super()._get_socket(host, port, timeout)
        return self.context.wrap_socket(sock, server_hostname=self._host)


class LMTP(SMTP, _LMTP):
    """A connection to an LMTP server (RFC 2033), over TCP or a Unix socket.

    Args:
        host: The name or address of the server, or the absolute path of a Unix socket.
        port: The port; 2003 by default.
        local_hostname: As for `SMTP`.
        source_address: As for `SMTP`.
        timeout: As for `SMTP`.
        pipelining: As for `SMTP`.
        reuse: As for `SMTP`.
    """

    def __init__(
        self,
        host: str = "",
        port: int = smtplib.LMTP_PORT,
        local_hostname: str | None = None,
        source_address: Any = None,
        timeout: float | None = _TIMEOUT,
        *,
        pipelining: bool = True,
        reuse: float = False,
    ) -> None:
        if reuse is not False:
            self._reuse = reuse_seconds(reuse)
        SMTP.__init__(self, host, port, local_hostname, timeout, source_address)
        self.pipelining = pipelining

    def connect(
        self, host: str = "localhost", port: int = 0, source_address: Any = None
    ) -> tuple[int, bytes]:
        """Connect to a TCP port, or to a Unix socket if the host begins with a slash."""
        if host[0] != "/":
            return SMTP.connect(self, host, port, source_address)
        code, text = self._begin_connection(host, self._open_path)
        if self.debuglevel > 0:
            self._print_debug("connect:", text)
        return code, text

    def _open_path(self, path: str) -> tuple[int, bytes]:
        if self.timeout is not None and not self.timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        try:
            module = overrides.socket()
            self.sock: Any = module.socket(module.AF_UNIX, module.SOCK_STREAM)
            if self.timeout is not _TIMEOUT:
                self.sock.settimeout(self.timeout)
            self.file: Any = None
            self.sock.connect(path)
        except OSError:
            if self.debuglevel > 0:
                self._print_debug("connect fail:", path)
            if self.sock:
                self.sock.close()
            self.sock = None
            raise
        return self.getreply()


if os.environ.get("RAPIDSMTP_REUSE"):
    # The program may create TLS settings before its first connection.
    from rapidsmtp._smtp.tls_identity import observe

    observe()

# `__module__` is set after the class bodies, because Python 3.13 then removes `__firstlineno__`
# from the classes. With this attribute, `inspect` would look for their source in
# `rapidsmtp/__init__.py`, at the line numbers that the classes have in this file.
SMTP.__module__ = SMTP_SSL.__module__ = LMTP.__module__ = "rapidsmtp"

overrides.follow(SMTP, overrides.OWN_SMTP)
overrides.follow(SMTP_SSL, overrides.OWN_SMTP_SSL)
overrides.follow(LMTP, overrides.OWN_LMTP)
