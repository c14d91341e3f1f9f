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
from collections.abc import Iterable, Sequence
from email.message import Message
from typing import Any

from rapidsmtp import _core, delivery, many, pipelined, replaceable, stepwise
from rapidsmtp.authentication import Authentication
from rapidsmtp.connection import name_of_this_host
from rapidsmtp.delivery import NOT_CONNECTED, Refused, accepts
from rapidsmtp.errors import (
    SMTPConnectError,
    SMTPDataError,
    SMTPHeloError,
    SMTPNotSupportedError,
    SMTPServerDisconnected,
)
from rapidsmtp.message import envelope, flatten
from rapidsmtp.outcome import Outcome
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
        self.local_hostname = name_of_this_host() if local_hostname is None else local_hostname

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
        self._recipients_left = 0
        return self.docmd("rset")

    def _rset(self) -> None:
        # The mail's own error matters more than a connection that ends here.
        with contextlib.suppress(SMTPServerDisconnected):
            self.rset()

    def quit(self) -> tuple[int, bytes]:
        """Say QUIT, close, and forget what the server offered."""
        reply = self.docmd("quit")
        self.ehlo_resp = self.helo_resp = None
        self.esmtp_features = {}
        self.does_esmtp = False
        self.close()
        return reply

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
            if delivery.wants_utf8(options, self):
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
        if isinstance(msg, str):
            msg = msg.encode("ascii")
        # A `send` of the program's own is called once, with the whole, as smtplib calls it.
        ours = getattr(self.send, "__module__", None) == "rapidsmtp.connection"
        by_pieces = delivery.is_large(msg) and ours and not self.debuglevel
        body = msg if by_pieces else _core.stuff(msg)[0]
        self.putcmd("data")
        reply = self.getreply()
        if self.debuglevel > 0:
            self._print_debug("data:", reply)
        if reply[0] != 354:
            raise SMTPDataError(*reply)
        try:
            reply = self._send_body(body, by_pieces)
        except BaseException:
            # Half a body, or a reply that nobody has read: the next command would become part of
            # the one or read the other.
            self.close()
            raise
        finally:
            self._recipients_left = 0
        if self.debuglevel > 0:
            self._print_debug("data:", reply)
        return reply

    def _send_body(self, body: bytes, by_pieces: bool) -> tuple[int, bytes]:
        self._body_sent = self.sock is not None
        try:
            if by_pieces:
                for piece, _ in delivery.stuffed_pieces(body):
                    self.send(piece)
            else:
                self.send(body)
        except SMTPServerDisconnected as error:
            # These say for sure that something was not written; others come from anywhere.
            self._body_sent &= not isinstance(error.__context__, ConnectionError)
            raise
        if self.ehlo_msg != "lhlo":
            return self.getreply()
        self._read_final_replies()
        accepting = [reply for reply in self._final_replies if accepts(reply)]
        return (accepting or self._final_replies)[0]

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
        self._greet()
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

    def sendmail_many(self, messages: Iterable[Any]) -> list[Outcome]:
        """Send many mails over this connection, going on after a refusal.

        Args:
            messages: `rapidsmtp.Message` objects, tuples of `sendmail`'s arguments, or
                email.message objects.

        Returns:
            One outcome for each, in their order. When the connection is lost, the mail whose body
            was handed over is UNKNOWN and those after it are NOT_ATTEMPTED.
        """
        return many.send(self, messages)

    def _greet(self) -> None:
        try:
            self.ehlo_or_helo_if_needed()
        except SMTPServerDisconnected as error:
            delivery.tell_fates(error, False, (), {})
            raise


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


_OUR_METHODS = pipelined.methods_passed_by(SMTP)
