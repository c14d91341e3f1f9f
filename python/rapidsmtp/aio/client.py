"""SMTP, SMTP_SSL and LMTP for asyncio: smtplib's methods as coroutines, aiosmtplib's keywords.

State stands where the blocking classes have it, and what is said to the server is the same code
(`dialogue`, `authentication`, `pipelined`, `many`). The connection is opened by `connect` or
`async with`, since a constructor cannot wait. What is new here is secure by default: certificates
are verified and nobody logs in over clear text.
"""

import asyncio
import contextlib
import dataclasses
import os
import smtplib
import sys
from collections.abc import Callable, Iterable, Sequence
from email.message import Message
from typing import Any, Self, Unpack

from rapidsmtp import _core, authentication, delivery, dialogue, many, pipelined
from rapidsmtp.aio.connection import READ, Connection, Turn, walk
from rapidsmtp.aio.options import SUBMISSION_PORT, Keywords, Options, place_of
from rapidsmtp.auth import XOAuth2, _Octets
from rapidsmtp.authentication import AuthObjects
from rapidsmtp.connection import name_of_this_host
from rapidsmtp.delivery import NOT_CONNECTED, Refused
from rapidsmtp.errors import (
    SMTPConnectError,
    SMTPNotSupportedError,
    SMTPResponseException,
    SMTPServerDisconnected,
)
from rapidsmtp.message import envelope, flatten
from rapidsmtp.outcome import Outcome

DEFAULT_TIMEOUT = 60.0


class SMTP(AuthObjects, Connection):
    """A connection to an SMTP server, for asyncio.

    `async with` connects, where a place to connect to was given, and says QUIT at the end. Tasks
    may share it: each mail and each command has its turn. For many mails `aio.Sender` is faster.

    Args:
        host: The server's name or address, or the path of a Unix socket.
        port: Its port.
        local_hostname: The name to give in EHLO; this host's own where it is None.
        timeout: Seconds that connecting, each write and each whole reply may take; None for no
            limit.
        source_address: Host and port to bind the socket to.
        **keywords: `hostname` (the same as `host`), `username`, `password`,
            `oauth_token_generator`, `use_tls`, `start_tls`, `validate_certs`, `client_cert`,
            `client_key`, `tls_context`, `cert_bundle`, `socket_path`, `sock`,
            `allow_plaintext_auth`, `pipelining`: see `rapidsmtp.aio.Options`.

    Raises:
        ValueError: Two settings exclude each other, or a name holds what it must not.
        TypeError: There is no such keyword.
    """

    default_port = smtplib.SMTP_PORT
    ehlo_msg = "ehlo"
    does_esmtp = False

    def __init__(
        self,
        host: str = "",
        port: int | None = 0,
        local_hostname: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        source_address: tuple[str, int] | None = None,
        **keywords: Unpack[Keywords],
    ) -> None:
        if timeout is not None and not timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        if local_hostname is not None:
            _core.check_host_name(local_hostname)
        self.options: Options = Options(
            **{**place_of(host, port), **keywords}, source_address=source_address
        )
        self.local_hostname: Any = local_hostname
        self.timeout = timeout
        self.command_encoding: str = "ascii"
        self.esmtp_features: dict[str, str] = {}
        self._turn = Turn()
        # The tasks inside of `async with`, each as often as it has entered.
        self._inside: list[asyncio.Task[Any] | None] = []

    async def __aenter__(self) -> Self:
        async with self._turn:  # another task may be connecting
            if self.options.names_a_place and not self.is_connected:
                await self.connect()
        self._inside.append(asyncio.current_task())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *args: object) -> None:
        task = asyncio.current_task()
        if self._inside:  # an exit stack may leave what it has not entered
            self._inside.remove(task if task in self._inside else self._inside[0])
        if any(each is not task for each in self._inside):
            return  # they are not done with the connection
        try:
            # Whoever is cancelled shall not wait for a server.
            if self.is_connected and (kind is None or issubclass(kind, Exception)):
                code, text = await self.docmd("QUIT")
                if code != 221:
                    raise SMTPResponseException(code, text)
        except SMTPServerDisconnected:
            pass
        except SMTPResponseException:
            if kind is None:  # else there is something that matters more
                raise
        finally:
            await self.close()

    async def connect(
        self,
        host: str = "",
        port: int | None = 0,
        source_address: tuple[str, int] | None = None,
        *,
        local_hostname: str | None = None,
        timeout: float | None = 0,
        **keywords: Unpack[Keywords],
    ) -> tuple[int, bytes]:
        """Connect, and turn to TLS and log in where the settings demand it.

        Args:
            host: As for the class, and so are the others; what is given here is kept for the
                next time.
            port: Its port; None takes back one that was given before.
            source_address: Host and port to bind the socket to.
            local_hostname: The name to give in EHLO.
            timeout: Seconds, until this method is done; 0 for those of the class.
            **keywords: Those of the class.

        Returns:
            The code and the text of the greeting.

        Raises:
            OSError: The connection failed; `TimeoutError` and `ssl.SSLError` are among it.
            SMTPConnectError: The greeting was not 220.
            SMTPException: What `starttls` and `login` raise.
        """
        given: dict[str, Any] = {**place_of(host, port), **keywords}
        if source_address is not None:
            given["source_address"] = source_address
        async with self._turn:
            self.options = dataclasses.replace(self.options, **given)
            await self.close()
            dialogue.forget(self)
            if local_hostname is not None:
                _core.check_host_name(local_hostname)
                self.local_hostname = local_hostname
            await self._own_name()  # while no server waits
            kept = self.timeout
            if timeout != 0:
                self.timeout = timeout
            try:
                return await self._connect()
            except BaseException:
                self.close()
                raise
            finally:
                self.timeout = kept

    async def _connect(self) -> tuple[int, bytes]:
        options = self.options
        self._host = options.hostname or "localhost"
        context = await asyncio.to_thread(options.make_context) if options.use_tls else None
        async with asyncio.timeout(self.timeout):
            await self._open(lambda factory: self._transport(factory, context))
        code, text = await self.getreply()
        if code != 220:
            raise SMTPConnectError(code, text)
        if options.start_tls:
            await self.starttls()
        if options.username is not None:
            await self._log_in(options.username)
        return code, text

    async def _transport(self, factory: Callable[[], Any], context: Any) -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        options = self.options
        name = self._host if context else None
        if options.sock is not None:
            # It belongs to one connection only.
            self.options = dataclasses.replace(options, sock=None)
            return await loop.create_connection(
                factory, sock=options.sock, ssl=context, server_hostname=name
            )
        if options.socket_path is not None:
            path = os.fsdecode(options.socket_path)
            return await loop.create_unix_connection(
                factory, path, ssl=context, server_hostname=name
            )
        # RFC 8305 section 5; uvloop has its own way.
        eyeballs: dict[str, Any] = {}
        if isinstance(loop, asyncio.BaseEventLoop):
            eyeballs["happy_eyeballs_delay"] = 0.25
        port = options.port_or(self.default_port)
        # Any address and any port is what there is without one; asyncio would look up the name "".
        source = options.source_address
        sys.audit("smtplib.connect", self, self._host, port)
        return await loop.create_connection(
            factory,
            self._host,
            port,
            ssl=context,
            server_hostname=name,
            local_addr=None if source is None or not any(source) else source,
            **eyeballs,
        )

    async def _log_in(self, user: str | bytes) -> None:
        username = os.fsdecode(user)
        token = self.options.oauth_token_generator
        if token is None:
            await self.login(username, os.fsdecode(self.options.password or ""))
            return
        given = token()
        secret = given if isinstance(given, str) else await given
        await self._greet()
        if "XOAUTH2" not in self.esmtp_features.get("auth", "").split():
            raise SMTPNotSupportedError("the server does not offer AUTH XOAUTH2")
        await self.auth("XOAUTH2", XOAuth2(username, secret))

    async def starttls(self, *, context: Any = None) -> tuple[int, bytes]:
        """Turn to TLS (RFC 3207).

        Args:
            context: The TLS settings (`ssl.SSLContext`); without any, those of the class's
                keywords, which verify certificates unless told otherwise.

        Raises:
            SMTPNotSupportedError: The server does not offer it.
            SMTPResponseException: The server did not agree.
            SMTPException: The server, or somebody between, sent more than its reply.
            ssl.SSLError: The handshake failed; the connection is closed.
        """
        settings = context or await asyncio.to_thread(self.options.make_context)
        async with self._turn:
            return await walk(
                dialogue.start_tls(self, lambda: self._start_tls(settings, self._host))
            )

    # Greetings and single commands

    async def helo(self, name: str = "") -> tuple[int, bytes]:
        """Say HELO, by the given name or this host's own."""
        return await self._take(dialogue.helo(self, name or await self._own_name()))

    async def ehlo(self, name: str = "") -> tuple[int, bytes]:
        """Say EHLO and take note of what the server offers (RFC 5321 4.1.1.1)."""
        return await self._take(dialogue.ehlo(self, name or await self._own_name()))

    async def ehlo_or_helo_if_needed(self) -> None:
        """Say EHLO, or else HELO, if neither was said yet.

        Raises:
            SMTPHeloError: The server took neither.
        """
        if self.helo_resp is None and self.ehlo_resp is None:
            await self._take(dialogue.greet(self))

    async def help(self, args: str = "") -> bytes:
        """Ask for help; the text of the reply."""
        return (await self.docmd("help", args))[1]

    async def rset(self) -> tuple[int, bytes]:
        """Abandon the transaction."""
        self.command_encoding = "ascii"
        self._recipients_left = 0
        return await self.docmd("rset")

    async def noop(self) -> tuple[int, bytes]:
        """Do nothing, and hear that it was done."""
        return await self.docmd("noop")

    async def quit(self) -> tuple[int, bytes]:
        """Say QUIT, close, and forget what the server offered."""
        return await self._take(dialogue.quit(self))

    async def verify(self, address: str) -> tuple[int, bytes]:
        """Ask whether an address is known (VRFY)."""
        return await self._take(dialogue.ask(self, "vrfy", address))

    vrfy = verify

    async def expn(self, address: str) -> tuple[int, bytes]:
        """Ask who is on a mailing list (EXPN)."""
        return await self._take(dialogue.ask(self, "expn", address))

    # Log in

    async def auth(
        self,
        mechanism: str,
        authobject: Callable[..., Any],
        *,
        initial_response_ok: bool = True,
    ) -> tuple[int, bytes]:
        """Authenticate by a SASL mechanism (RFC 4954), after EHLO, and TLS where it is offered.

        Args:
            mechanism: Its name, such as `"PLAIN"`.
            authobject: As for `rapidsmtp.SMTP.auth`; it may be a coroutine function.
            initial_response_ok: Whether the response may travel with the command.

        Raises:
            SMTPNotSupportedError: The connection is not encrypted, and `allow_plaintext_auth`
                was not set.
            SMTPAuthenticationError: The server said no, or what it said cannot be trusted.
            SMTPException: The server keeps asking.
        """
        async with self._turn:
            await self._greet()
            if not self._may_authenticate:
                raise SMTPNotSupportedError("no login in clear text: allow_plaintext_auth, or TLS")
            steps = authentication.auth(self, mechanism, authobject, initial_response_ok)
            return await walk(steps)

    async def login(
        self, user: str, password: str, *, initial_response_ok: bool = True
    ) -> tuple[int, bytes]:
        """Authenticate by CRAM-MD5, PLAIN or LOGIN: the first that is offered, in this order.

        A server that says that the password is wrong (535) is not told it in a weaker way. What
        is not ASCII is sent in UTF-8 (RFC 4616 section 2).

        Raises:
            SMTPHeloError: The server took neither EHLO nor HELO.
            SMTPNotSupportedError: It offers no AUTH, or the connection is not encrypted and
                `allow_plaintext_auth` was not set.
            SMTPAuthenticationError: It took none of them.
            SMTPException: It offers none of them.
        """
        secrets = _Octets(user), _Octets(password)
        return await self._take(
            authentication.login(self, *secrets, initial_response_ok, persistent=False)
        )

    def auth_cram_md5(self, challenge: Any = None) -> Any:
        """The authobject of CRAM-MD5 (RFC 2195), for `user` and `password` of this object."""
        response = super().auth_cram_md5(challenge)
        return None if response is None else _Octets(response)

    def auth_plain(self, challenge: Any = None) -> str:
        """The authobject of PLAIN (RFC 4616), for `user` and `password` of this object."""
        return _Octets(super().auth_plain(challenge))

    @property
    def _may_authenticate(self) -> bool:
        return (
            self._is_secure
            or self.options.allow_plaintext_auth
            or self.options.socket_path is not None
        )

    # The steps of a mail

    async def mail(self, sender: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Begin a mail (MAIL).

        Raises:
            SMTPNotSupportedError: The options ask for SMTPUTF8 and the server does not offer it.
            ValueError: The address holds more than an address.
        """
        return await self._take(dialogue.mail(self, sender, options))

    async def rcpt(self, recip: str, options: Sequence[str] = ()) -> tuple[int, bytes]:
        """Name a recipient (RCPT).

        Raises:
            ValueError: The address holds more than an address.
        """
        return await self._take(dialogue.rcpt(self, recip, options))

    async def data(self, msg: Any) -> tuple[int, bytes]:
        """Send the message (DATA): line ends repaired, dots doubled.

        Returns:
            The reply to the message; on LMTP the first that accepts it, else the first.

        Raises:
            SMTPDataError: The server did not want to hear it.
        """
        return await self._take(dialogue.data(self, msg))

    # Whole mails

    async def sendmail(
        self,
        from_addr: str,
        to_addrs: str | Iterable[str],
        msg: Any,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> Refused:
        """Send one mail; whoever is cancelled in it loses the connection, not the truth.

        Args:
            from_addr: The envelope's sender.
            to_addrs: The recipients, or a single one.
            msg: The message: bytes, an ASCII str, or an `email.message.Message`.
            mail_options: ESMTP parameters of MAIL, such as `"BODY=8BITMIME"`.
            rcpt_options: ESMTP parameters of every RCPT, such as `"NOTIFY=NEVER"`.

        Returns:
            The refused recipients with their replies: empty where all were accepted.

        Raises:
            SMTPHeloError: The server took neither EHLO nor HELO.
            SMTPSenderRefused: The server refused the sender.
            SMTPRecipientsRefused: It refused all the recipients; nothing was sent.
            SMTPDataError: It refused the message.
            SMTPNotSupportedError: SMTPUTF8 is asked for and not offered.
            SMTPServerDisconnected: The connection was lost; its attribute `body_sent` tells
                whether the server may have the mail all the same.
            ValueError: An address or option holds what it must not; nothing was sent.
        """
        mail_options, rcpt_options = tuple(mail_options or ()), tuple(rcpt_options or ())
        if isinstance(msg, Message):
            msg = flatten(msg, utf8=any(option.lower() == "smtputf8" for option in mail_options))
        recipients = [to_addrs] if isinstance(to_addrs, str) else list(to_addrs)
        async with self._turn:
            if self._received or (self._reader is not None and self._reader.waiting):
                await self._refuse_surprises()
            await self._greet()
            if self._writer is None:
                raise delivery.not_begun(SMTPServerDisconnected(NOT_CONNECTED))
            if not self.does_esmtp:
                mail_options = rcpt_options = ()
            pipelining = self.options.pipelining and "pipelining" in self.esmtp_features
            transaction, large = pipelined.transaction_of(
                self,
                from_addr,
                recipients,
                msg,
                mail_options,
                rcpt_options,
                sequential=not pipelining,
            )
            try:
                lost = await self._carrier.carry_out(transaction, large, self.timeout)
            except BaseException:
                # The replies on their way belong to nobody, and the server may be waiting for a
                # body, which the next command would become.
                self.close()
                raise
            if pipelined.leaves_refusal(self, transaction):
                await self._rset()
            return delivery.outcome_of(transaction, from_addr, recipients, lost)

    async def send_message(
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
            ValueError: It has more than one block of Resent- headers.
            SMTPNotSupportedError: An address is not ASCII and the server has no SMTPUTF8.
            SMTPException: As `sendmail`.
        """
        return await self._take(
            dialogue.send_message(self, msg, from_addr, to_addrs, mail_options, rcpt_options)
        )

    async def sendmail_many(self, messages: Iterable[Any]) -> list[Outcome]:
        """Send many mails over this connection, going on after a refusal.

        Args:
            messages: `rapidsmtp.Message` objects, tuples of `sendmail`'s arguments, or
                email.message objects.

        Returns:
            One outcome for each, in their order. When the connection is lost, the mail whose body
            was handed over is UNKNOWN and those after it are NOT_ATTEMPTED.
        """
        return await self._take(many.send(self, messages))

    async def _own_name(self) -> str:
        """What EHLO gives; asking for this host's own name can take a while."""
        if self.local_hostname is None:
            self.local_hostname = await asyncio.to_thread(name_of_this_host)
        name: str = self.local_hostname
        return name

    async def _take(self, steps: dialogue.Steps[dialogue.T]) -> dialogue.T:
        async with self._turn:
            return await walk(steps)

    async def _greet(self) -> None:
        """Before a login or a mail: EHLO, and TLS where the server offers it."""
        try:
            await self.ehlo_or_helo_if_needed()
        except SMTPServerDisconnected as error:
            delivery.not_begun(error)
            raise
        options = self.options
        # Some servers offer STARTTLS inside of TLS too, which RFC 3207 section 4.2 forbids to both.
        if options.start_tls is not None or options.socket_path is not None or self._is_secure:
            return
        if self.has_extn("starttls"):
            await self.starttls()
            await self.ehlo_or_helo_if_needed()
        elif options.port == SUBMISSION_PORT:
            raise SMTPNotSupportedError(
                "the server offers no STARTTLS, which port 587 demands unless start_tls=False"
            )

    async def _rset(self) -> None:
        # The mail's own error matters more than a connection that ends here.
        encoding = self.command_encoding
        with contextlib.suppress(SMTPServerDisconnected):
            await self.rset()
        self.command_encoding = encoding

    async def _refuse_surprises(self) -> None:
        """What came between two mails, unasked, would be taken for a reply to the next one."""
        assert self._reader is not None
        said = self._received or await self._reader.read(READ)
        self.close()
        line = said.split(b"\n", 1)[0].decode("ascii", "backslashreplace").strip()
        error = SMTPServerDisconnected(f"the server said, unasked: {line[:200]}")
        raise delivery.not_begun(error)

    def __repr__(self) -> str:
        place = self.options.socket_path or self.options.hostname or ""
        return f"<aio.{type(self).__name__} {os.fsdecode(place)}>"


class SMTP_SSL(SMTP):
    """A connection that is TLS from its first byte (RFC 8314), on port 465.

    Args:
        host: The server's name or address, or the path of a Unix socket.
        port: Its port; 465 where none is given.
        local_hostname: As for `SMTP`.
        timeout: As for `SMTP`.
        source_address: As for `SMTP`.
        context: The TLS settings (`ssl.SSLContext`), smtplib's name for `tls_context`.
        **keywords: As for `SMTP`.
    """

    default_port = smtplib.SMTP_SSL_PORT

    def __init__(
        self,
        host: str = "",
        port: int | None = 0,
        local_hostname: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        source_address: tuple[str, int] | None = None,
        context: Any = None,
        **keywords: Unpack[Keywords],
    ) -> None:
        if context is not None:
            keywords["tls_context"] = context
        keywords["use_tls"] = True
        super().__init__(host, port, local_hostname, timeout, source_address, **keywords)


class LMTP(SMTP):
    """A connection to an LMTP server (RFC 2033), over TCP or a Unix socket.

    Args:
        host: A name or address, or the absolute path of a Unix socket.
        port: 2003 where none is given.
        local_hostname: As for `SMTP`.
        source_address: As for `SMTP`.
        timeout: As for `SMTP`.
        **keywords: As for `SMTP`.
    """

    default_port = smtplib.LMTP_PORT
    ehlo_msg = "lhlo"

    def __init__(
        self,
        host: str = "",
        port: int | None = 0,
        local_hostname: str | None = None,
        source_address: tuple[str, int] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        **keywords: Unpack[Keywords],
    ) -> None:
        super().__init__(host, port, local_hostname, timeout, source_address, **keywords)


async def send(
    message: Message | str | bytes,
    /,
    *,
    sender: str | None = None,
    recipients: str | Sequence[str] | None = None,
    mail_options: Sequence[str] = (),
    rcpt_options: Sequence[str] = (),
    port: int | None = None,
    local_hostname: str | None = None,
    source_address: tuple[str, int] | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    **keywords: Unpack[Keywords],
) -> Refused:
    """Connect, send one mail, and say QUIT.

    Args:
        message: An email.message object, or bytes or an ASCII str.
        sender: The envelope's sender; the message's own where it is None.
        recipients: The envelope's recipients, likewise.
        mail_options: ESMTP parameters of MAIL.
        rcpt_options: ESMTP parameters of every RCPT.
        port: The server's port; where it is None, 465 with `use_tls`, 587 with `start_tls=True`,
            else 25.
        local_hostname: As for `SMTP`.
        source_address: As for `SMTP`.
        timeout: As for `SMTP`.
        **keywords: As for `SMTP`; `hostname` is "localhost" where it is not given.

    Returns:
        The refused recipients, as `SMTP.sendmail`.

    Raises:
        ValueError: There is no sender or no recipient, or two settings exclude each other.
        OSError: The server could not be reached.
        SMTPException: As `SMTP.connect` and `SMTP.sendmail`.
    """
    if isinstance(message, Message):
        _check_envelope(message, sender, recipients)
    elif sender is None or not recipients:
        raise ValueError("a message that is no email.message object needs sender and recipients")
    client = SMTP("", port, local_hostname, timeout, source_address, **keywords)
    options = tuple(mail_options or ()), tuple(rcpt_options or ())
    await client.connect()
    refused: Refused | None = None
    try:
        async with client:
            if isinstance(message, Message):
                refused = await client.send_message(message, sender, recipients, *options)
            else:
                refused = await client.sendmail(sender or "", recipients or (), message, *options)
    except SMTPResponseException:
        if refused is None:
            raise
        # The mail was accepted: what QUIT met would make the caller send it twice.
    return refused


def _check_envelope(
    message: Message, sender: str | None, recipients: str | Sequence[str] | None
) -> None:
    """smtplib sends a message without a sender all the same, as one of "None"."""
    found_sender, found = envelope(message, sender, recipients)
    if found_sender == "None" and sender is None:
        raise ValueError("the message has no From, and there is no sender")
    if not found:
        raise ValueError("the message has no To, Cc or Bcc, and there are no recipients")
