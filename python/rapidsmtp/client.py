"""SMTP, SMTP_SSL and LMTP: smtplib's classes, with the core in the place of regular expressions.

State stands where smtplib keeps it (`sock`, `file`, `ehlo_resp`, `esmtp_features`, …), because
programs read and change it there. `sendmail` has two ways:

- the fast one, a `transaction` of the core, where the server offers PIPELINING (RFC 2920);
- step by step through `mail`, `rcpt` and `data`, as smtplib does it, where the server does not
  offer it, where debug output was asked for, and where the program has put something of its own
  in the place of a method that the fast way would pass by.

Methods must not use `super()` where `install` lends them to smtplib's own classes.
"""

import contextlib
import smtplib
import socket as _socket
import ssl
import sys
from collections.abc import Callable, Iterable, Sequence
from email.message import Message
from typing import Any

from rapidsmtp import (
    authentication,
    delivery,
    dialogue,
    many,
    pipelined,
    replaceable,
    stepwise,
)
from rapidsmtp.authentication import AuthObjects
from rapidsmtp.connection import Connection, name_of_this_host
from rapidsmtp.delivery import Refused
from rapidsmtp.dialogue import run
from rapidsmtp.errors import SMTPConnectError, SMTPServerDisconnected
from rapidsmtp.message import flatten
from rapidsmtp.outcome import Outcome
from rapidsmtp.tls import context_of_files, default_context

_TIMEOUT: Any = _socket._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]


class SMTP(AuthObjects, Connection):
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
    ) -> None:
        self._host = host
        self.timeout: Any = timeout
        self.esmtp_features: dict[str, str] = {}
        self.command_encoding: str = "ascii"
        self.source_address = source_address
        self.pipelining = pipelining
        self._auth_challenge_count = 0
        if host:
            code, text = self.connect(host, port)
            if code != 220:
                self.close()
                raise SMTPConnectError(code, text)
        self.local_hostname: str = name_of_this_host() if local_hostname is None else local_hostname

    def helo(self, name: str = "") -> tuple[int, bytes]:
        """Say HELO, by the given name or this host's own."""
        return run(dialogue.helo(self, name))

    def ehlo(self, name: str = "") -> tuple[int, bytes]:
        """Say EHLO and take note of what the server offers (RFC 5321 4.1.1.1)."""
        return run(dialogue.ehlo(self, name))

    def ehlo_or_helo_if_needed(self) -> None:
        """Say EHLO, or else HELO, if neither was said yet.

        Raises:
            SMTPHeloError: the server took neither.
        """
        if self.helo_resp is None and self.ehlo_resp is None:
            run(dialogue.greet(self))

    def help(self, args: str = "") -> bytes:
        """Ask for help; the text of the reply."""
        self.putcmd("help", args)
        return self.getreply()[1]

    def rset(self) -> tuple[int, bytes]:
        """Abandon the transaction."""
        self.command_encoding = "ascii"
        self._recipients_left = 0
        return self.docmd("rset")

    def _rset(self) -> None:
        # The mail's own error matters more than a connection that ends here.
        with contextlib.suppress(SMTPServerDisconnected):
            self.rset()

    def quit(self) -> tuple[int, bytes]:
        """Say QUIT, close, and forget what the server offered."""
        return run(dialogue.quit(self))

    def noop(self) -> tuple[int, bytes]:
        """Do nothing, and hear that it was done."""
        return self.docmd("noop")

    def verify(self, address: str) -> tuple[int, bytes]:
        """Ask whether an address is known (VRFY)."""
        return run(dialogue.ask(self, "vrfy", address))

    vrfy = verify

    def expn(self, address: str) -> tuple[int, bytes]:
        """Ask who is on a mailing list (EXPN)."""
        return run(dialogue.ask(self, "expn", address))

    # Log in

    def auth(
        self,
        mechanism: str,
        authobject: Callable[..., Any],
        *,
        initial_response_ok: bool = True,
    ) -> tuple[int, bytes]:
        """Authenticate by a SASL mechanism (RFC 4954).

        Args:
            mechanism: its name, such as `"PLAIN"`.
            authobject: called with each challenge (bytes), gives the response (str); called
                without one for the initial response, gives None if there is none. The classes
                of `rapidsmtp.auth` are ready-made.
            initial_response_ok: whether the response may travel with the command.

        Raises:
            SMTPAuthenticationError: the server said no, or what it said cannot be trusted.
            SMTPException: the server keeps asking.
        """
        return run(authentication.auth(self, mechanism, authobject, initial_response_ok))

    def login(
        self, user: str, password: str, *, initial_response_ok: bool = True
    ) -> tuple[int, bytes]:
        """Authenticate by CRAM-MD5, PLAIN or LOGIN: the first that works, in this order.

        Raises:
            SMTPHeloError: the server took neither EHLO nor HELO.
            SMTPNotSupportedError: it offers no AUTH.
            SMTPAuthenticationError: it took none of them.
            SMTPException: it offers none of them.
        """
        return run(authentication.login(self, user, password, initial_response_ok))

    # The steps of a mail

    def mail(self, sender: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Begin a mail (MAIL).

        Raises:
            SMTPNotSupportedError: the options ask for SMTPUTF8 and the server does not offer it.
            ValueError: the address holds more than an address.
        """
        return run(dialogue.mail(self, sender, options))

    def rcpt(self, recip: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Name a recipient (RCPT).

        Raises:
            ValueError: the address holds more than an address.
        """
        return run(dialogue.rcpt(self, recip, options))

    def data(self, msg: Any) -> tuple[int, bytes]:
        """Send the message (DATA): line ends repaired, dots doubled.

        Returns:
            The reply to the message; on LMTP the first that accepts it, else the first.

        Raises:
            SMTPDataError: the server did not want to hear it.
        """
        return run(dialogue.data(self, msg))

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
        self._greet()
        mail_options, rcpt_options = tuple(mail_options or ()), tuple(rcpt_options or ())
        if isinstance(msg, Message):
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
        steps = dialogue.send_message(self, msg, from_addr, to_addrs, mail_options, rcpt_options)
        return run(steps)

    def sendmail_many(self, messages: Iterable[Any]) -> list[Outcome]:
        """Send many mails over this connection, going on after a refusal.

        Args:
            messages: `rapidsmtp.Message` objects, tuples of `sendmail`'s arguments, or
                email.message objects.

        Returns:
            One outcome for each, in their order. When the connection is lost, the mail whose body
            was handed over is UNKNOWN and those after it are NOT_ATTEMPTED.
        """
        return run(many.send(self, messages))

    def _greet(self) -> None:
        try:
            self.ehlo_or_helo_if_needed()
        except SMTPServerDisconnected as error:
            delivery.not_begun(error)
            raise


class SMTP_SSL(SMTP, smtplib.SMTP_SSL):
    """A connection that is TLS from its first byte (RFC 8314), on port 465.

    Args:
        host: the server's name or address; `connect` is called if it is given.
        port: its port; 465 where it is 0.
        local_hostname: as for `SMTP`.
        timeout: as for `SMTP`.
        source_address: as for `SMTP`.
        pipelining: as for `SMTP`.
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
            self.context: ssl.SSLContext = context or default_context()
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
            self.keyfile: str | None = keyfile
            self.certfile: str | None = certfile
            self.context: ssl.SSLContext = context_of_files(context, keyfile, certfile)
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
        local_hostname: as for `SMTP`.
        source_address: as for `SMTP`.
        timeout: as for `SMTP`.
        pipelining: as for `SMTP`.
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
            self.sock: Any = module.socket(module.AF_UNIX, module.SOCK_STREAM)
            if self.timeout is not _TIMEOUT:
                self.sock.settimeout(self.timeout)
            self.file: Any = None
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


_OUR_METHODS = pipelined.methods_passed_by(SMTP)
