"""SMTP, SMTP_SSL and LMTP for asyncio: smtplib's methods as coroutines, aiosmtplib's keywords.

These classes have the attributes of the blocking classes. Both kinds of classes share the code of
the commands (`commands`, `login`, `flights`, `sendmail_many`). A constructor cannot await, so
`connect` or `async with` opens the connection. Unlike smtplib, these classes are secure by default:
they verify certificates and do not log in without TLS.
"""

import asyncio
import contextlib
import dataclasses
import os
import smtplib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from email.message import Message
from typing import TYPE_CHECKING, Any, Self, Unpack

from rapidsmtp import _backend
from rapidsmtp._compose.envelope import flatten
from rapidsmtp._models.outcome import Outcome
from rapidsmtp._models.reply import Reply
from rapidsmtp._smtp import commands, flights, login, overrides, results, sendmail_many
from rapidsmtp._smtp.connection import name_of_this_host
from rapidsmtp._smtp.login import AuthObjects
from rapidsmtp._smtp.results import NOT_CONNECTED, Refused
from rapidsmtp._smtp.state import ReplyPair
from rapidsmtp.aio.aiosmtplib_names import AiosmtplibNames
from rapidsmtp.aio.connection import StreamConnection, TaskLock, run_async
from rapidsmtp.aio.connection_options import (
    SUBMISSION_PORT,
    ConnectionKeywords,
    ConnectionOptions,
    TLSKeywords,
    server_options,
)
from rapidsmtp.aio.connector import Connector
from rapidsmtp.auth import Utf8Response, XOAuth2
from rapidsmtp.errors import (
    SMTPConnectError,
    SMTPNotSupportedError,
    SMTPResponseException,
    SMTPServerDisconnected,
)

if TYPE_CHECKING:
    from rapidsmtp._models.sendable import Sendable

DEFAULT_TIMEOUT = 60
"""The default time limit of `aio.SMTP`, in seconds."""


class SMTP(AuthObjects, AiosmtplibNames):
    """A connection to an SMTP server, for asyncio.

    `async with` connects if the arguments name a server, and sends QUIT at the end. Tasks may share
    the connection: the client sends their messages and commands one after the other. For many
    messages, `aio.Sender` is faster.

    Args:
        host: The name or address of the server, or the path of a Unix socket.
        port: The port; 0 means 465 with `use_tls`, 587 with `start_tls=True`, else 25.
        local_hostname: The name to send in EHLO; None for this host's name.
        timeout: The time limit of connecting, of each write and of each complete reply, in seconds;
            None for no limit.
        source_address: The host and port to bind the socket to.
        **keywords: `hostname` (the same as `host`), `username`, `password`,
            `oauth_token_generator`, `use_tls`, `start_tls`, `validate_certs`, `client_cert`,
            `client_key`, `tls_context`, `cert_bundle`, `socket_path`, `sock`, `proxy`,
            `allow_plaintext_auth`, `pipelining`: see `rapidsmtp.aio.ConnectionOptions`.

    Raises:
        ValueError: Two keywords exclude each other, or a name is invalid.
        TypeError: A keyword is unknown.
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
        **keywords: Unpack[ConnectionKeywords],
    ) -> None:
        _check_timeout(timeout)
        if local_hostname is not None:
            _backend.check_host_name(local_hostname)
        self.options: ConnectionOptions = ConnectionOptions(
            **{**server_options(host, port), **keywords}, source_address=source_address
        )
        self.local_hostname: Any = local_hostname
        self.timeout = timeout
        self.command_encoding: str = "ascii"
        self.esmtp_features: dict[str, str] = {}
        self._lock = TaskLock(self._leave_loop)
        # The tasks that are inside `async with` with this client. A task that has entered such a
        # block twice is listed twice.
        self._inside: list[asyncio.Task[Any] | None] = []

    async def __aenter__(self) -> Self:
        # The lock is necessary, because another task may be connecting.
        async with self._lock:
            if self.options.has_server and not self.is_connected:
                await self.connect()
        self._inside.append(asyncio.current_task())
        return self

    def _leave_loop(self) -> None:
        super()._leave_loop()
        self._inside.clear()

    async def __aexit__(self, kind: type[BaseException] | None, *args: object) -> None:
        task = asyncio.current_task()
        # `AsyncExitStack.push_async_exit` calls `__aexit__` without `__aenter__`, so the list may
        # be empty.
        if self._inside:
            self._inside.remove(task if task in self._inside else self._inside[0])
        # The connection stays open while other tasks use it.
        if any(each is not task for each in self._inside):
            return
        try:
            # A cancelled task sends no QUIT, because it must not wait for the server's reply.
            if self.is_connected and (kind is None or issubclass(kind, Exception)):
                code, text = await self.docmd("QUIT")
                if code != 221:
                    raise SMTPResponseException(code, text)
        except SMTPServerDisconnected:
            pass
        except SMTPResponseException:
            # An exception of the block is more important than a refused QUIT.
            if kind is None:
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
        **keywords: Unpack[ConnectionKeywords],
    ) -> Reply:
        """Connect, start TLS if the options require it, and log in if the options name a user.

        All arguments except `timeout` are also kept for the next call.

        Args:
            host: The name or address of the server, or the path of a Unix socket.
            port: The port; None removes the port of an earlier call or of the constructor.
            source_address: The host and port to bind the socket to.
            local_hostname: The name to send in EHLO.
            timeout: The time limit that replaces the constructor's `timeout` during this call, in
                seconds; 0 for the constructor's `timeout`.
            **keywords: The keywords of the class.

        Returns:
            The code and the text of the greeting.

        Raises:
            SMTPConnectError: The connection failed. The exception is also an instance of the
                original class, such as `ConnectionRefusedError` or `ssl.SSLError`.
            SMTPConnectTimeoutError: The time limit passed. It is also a `TimeoutError`.
            SMTPConnectResponseError: The greeting was not 220.
            SMTPException: As for `starttls` and `login`.
        """
        given: dict[str, Any] = {**server_options(host, port), **keywords}
        if source_address is not None:
            given["source_address"] = source_address
        async with self._limited(timeout):
            self.options = dataclasses.replace(self.options, **given)
            await self.close()
            commands.forget_greeting(self)
            if local_hostname is not None:
                _backend.check_host_name(local_hostname)
                self.local_hostname = local_hostname
            # The name is looked up before connecting, because a server may close an open connection
            # on which it waits for EHLO.
            await self._own_name()
            try:
                return await self._connect()
            except BaseException as error:
                self.close()
                if isinstance(error, OSError):
                    results.mark_not_started(error)
                raise

    async def _connect(self) -> Reply:
        options = self.options
        self._host = options.hostname or "localhost"
        context = await asyncio.to_thread(options.make_context) if options.use_tls else None
        code, text = await self._greeting(context)
        if code != 220:
            raise SMTPConnectError(code, text)
        if options.start_tls:
            await self.starttls()
        if options.username is not None:
            await self._log_in(options.username)
        return Reply(code, text)

    async def _log_in(self, user: str | bytes) -> None:
        username = os.fsdecode(user)
        token = self.options.oauth_token_generator
        if token is None:
            await self.login(username, self.options.password or "")
            return
        result = token()
        secret = result if isinstance(result, str) else await result
        await self._begin_session()
        if "XOAUTH2" not in self.esmtp_features.get("auth", "").upper().split():
            raise SMTPNotSupportedError("the server does not support AUTH XOAUTH2")
        await self.auth("XOAUTH2", XOAuth2(username, secret))

    async def starttls(
        self,
        *,
        context: Any = None,
        server_hostname: str | None = None,
        timeout: float | None = 0,
        **keywords: Unpack[TLSKeywords],
    ) -> Reply:
        """Encrypt the connection with STARTTLS (RFC 3207).

        Args:
            context: The TLS settings (`ssl.SSLContext`). None for the TLS settings of `options`.
                These settings verify certificates, unless `validate_certs` or `tls_context`
                disables the verification.
            server_hostname: The name in the server's certificate; None for the name to which the
                client connected.
            timeout: As for `login`.
            **keywords: Options that replace those of the class: `validate_certs`, `client_cert`,
                `client_key`, `cert_bundle`, `tls_context`.

        Raises:
            SMTPNotSupportedError: The server does not support STARTTLS.
            SMTPResponseException: The server refused STARTTLS.
            SMTPException: Bytes in clear text followed the reply to STARTTLS. An attacker may have
                injected these bytes.
            SMTPServerDisconnected: The handshake failed, and the connection is closed. The
                exception is also an instance of the original class, such as `ssl.SSLError`.
        """
        self.options = dataclasses.replace(self.options, **keywords)
        settings = context or await asyncio.to_thread(self.options.make_context)
        steps = commands.start_tls(
            self, lambda: self._start_tls(settings, server_hostname or self._host)
        )
        return await self._ask(steps, timeout)

    # Greetings and single commands

    async def helo(self, name: str = "", *, hostname: str = "", timeout: float | None = 0) -> Reply:
        """Send HELO.

        Args:
            name: The name to send; "" for the name of this host.
            hostname: The same as `name`.
            timeout: As for `login`.
        """
        own = name or hostname or await self._own_name()
        return await self._ask(commands.helo(self, own), timeout)

    async def ehlo(self, name: str = "", *, hostname: str = "", timeout: float | None = 0) -> Reply:
        """Send EHLO and store the server's capabilities (RFC 5321 section 4.1.1.1).

        Args:
            name: The name to send; "" for the name of this host.
            hostname: The same as `name`.
            timeout: As for `login`.
        """
        own = name or hostname or await self._own_name()
        return await self._ask(commands.ehlo(self, own), timeout)

    async def ehlo_or_helo_if_needed(self) -> None:
        """Send EHLO if no reply to EHLO or HELO is stored; send HELO if EHLO is refused.

        Raises:
            SMTPHeloError: The server refused both commands.
        """
        if self.helo_resp is None and self.ehlo_resp is None:
            await self._run(commands.greet(self))

    async def help(self, args: str = "") -> bytes:
        """Send HELP and return the text of the reply."""
        return (await self.docmd("help", args))[1]

    async def rset(self, *, timeout: float | None = 0) -> Reply:
        """Cancel the current transaction (RSET). `timeout` is as for `login`."""
        self.command_encoding = "ascii"
        self._protocol.recipients_left = 0
        async with self._limited(timeout):
            return await self.docmd("rset")

    async def noop(self, *, timeout: float | None = 0) -> Reply:
        """Send NOOP, a command without effect. `timeout` is as for `login`."""
        async with self._limited(timeout):
            return await self.docmd("noop")

    async def quit(self, *, timeout: float | None = 0) -> Reply:
        """Send QUIT, close the connection and discard the stored capabilities.

        `timeout` is as for `login`.
        """
        return await self._ask(commands.quit(self), timeout)

    async def verify(self, address: str) -> Reply:
        """Ask whether a mailbox exists (VRFY)."""
        return await self._ask(commands.ask_about(self, "vrfy", address))

    vrfy = verify

    async def expn(self, address: str) -> Reply:
        """Ask for the members of a mailing list (EXPN)."""
        return await self._ask(commands.ask_about(self, "expn", address))

    # Log in

    async def auth(
        self,
        mechanism: str,
        authobject: Callable[..., Any],
        *,
        initial_response_ok: bool = True,
    ) -> Reply:
        """Authenticate with one SASL mechanism (RFC 4954).

        If necessary, the client sends EHLO first. With `start_tls=None`, the client then starts TLS
        if the server supports STARTTLS.

        Args:
            mechanism: The name of the mechanism, such as `"PLAIN"`.
            authobject: As for `rapidsmtp.SMTP.auth`, or a coroutine function.
            initial_response_ok: Whether the initial response may be part of the AUTH command.

        Raises:
            SMTPNotSupportedError: The connection is not encrypted, and `allow_plaintext_auth`
                is not set.
            SMTPAuthenticationError: The server refused the login. With SCRAM, this exception is
                also raised if the server did not prove that it knows the password.
            SMTPException: The server sent too many challenges.
        """
        async with self._lock:
            await self._begin_session()
            if not self._may_authenticate:
                raise SMTPNotSupportedError(
                    "login in clear text is disabled: use TLS or allow_plaintext_auth"
                )
            steps = login.auth(self, mechanism, authobject, initial_response_ok)
            return Reply(*await run_async(steps))

    async def login(
        self,
        user: str | bytes,
        password: str | bytes,
        *,
        initial_response_ok: bool = True,
        timeout: float | None = 0,
    ) -> Reply:
        """Authenticate: try CRAM-MD5, PLAIN and LOGIN in this order until one succeeds.

        After the reply 535 (wrong credentials), the client tries no further mechanism. Text that is
        not ASCII is sent as UTF-8 (RFC 4616 section 2).

        Args:
            user: The user name.
            password: The password.
            initial_response_ok: Whether the initial response may be part of the AUTH command.
            timeout: The time limit of each write and of each reply that replaces the constructor's
                `timeout` during this call, in seconds; 0 for the constructor's `timeout`.

        Raises:
            SMTPHeloError: The server refused EHLO and HELO.
            SMTPNotSupportedError: The server does not support AUTH, or the connection is not
                encrypted and `allow_plaintext_auth` is not set.
            SMTPAuthenticationError: The server refused each mechanism that was tried.
            SMTPException: The server supports none of the three mechanisms.
        """
        secrets = Utf8Response(os.fsdecode(user)), Utf8Response(os.fsdecode(password))
        steps = login.login(self, *secrets, initial_response_ok, as_smtplib=False)
        return await self._ask(steps, timeout)

    def auth_cram_md5(self, challenge: Any = None) -> Any:
        """Return the response of CRAM-MD5 (RFC 2195) for `self.user` and `self.password`."""
        response = super().auth_cram_md5(challenge)
        return None if response is None else Utf8Response(response)

    def auth_plain(self, challenge: Any = None) -> str:
        """Return the response of PLAIN (RFC 4616) for `self.user` and `self.password`."""
        return Utf8Response(super().auth_plain(challenge))

    def _answer(self, authobject: Callable[..., Any], challenge: bytes) -> Any:
        if getattr(authobject, "takes_long", False):
            return asyncio.to_thread(authobject, challenge)
        return authobject(challenge)

    @property
    def _may_authenticate(self) -> bool:
        return (
            self._is_secure
            or self.options.allow_plaintext_auth
            or self.options.socket_path is not None
        )

    # The commands of a transaction

    async def mail(self, sender: str, options: Sequence[str] = ()) -> Reply:
        """Start a transaction (MAIL).

        Raises:
            SMTPNotSupportedError: The options contain SMTPUTF8, but the server does not support
                SMTPUTF8.
            ValueError: `sender` contains text that is not part of an address.
        """
        return await self._ask(commands.mail(self, sender, options))

    async def rcpt(self, recip: str, options: Sequence[str] = ()) -> Reply:
        """Add a recipient (RCPT).

        Raises:
            ValueError: `recip` contains text that is not part of an address.
        """
        return await self._ask(commands.rcpt(self, recip, options))

    async def data(self, msg: Any) -> Reply:
        """Send the message (DATA) with CRLF line ends and dot-stuffing.

        Returns:
            The reply to the message. An LMTP server sends one reply for each recipient. With LMTP,
            this method returns the first positive reply, or the first reply if no reply is
            positive.

        Raises:
            SMTPDataError: The server refused DATA.
        """
        return await self._ask(commands.data(self, msg))

    # Whole messages

    async def sendmail(
        self,
        from_addr: str,
        to_addrs: str | Iterable[str],
        msg: Any,
        mail_options: Sequence[str] | None = (),
        rcpt_options: Sequence[str] | None = (),
        *,
        timeout: float | None = 0,
    ) -> Refused:
        """Send one message. If the task is cancelled during the call, the connection is closed.

        Args:
            from_addr: The sender of the envelope.
            to_addrs: The recipients: one address (str), or several.
            msg: The message: bytes, an ASCII str, or an `email.message.Message`.
            mail_options: ESMTP parameters of MAIL, such as `"BODY=8BITMIME"`.
            rcpt_options: ESMTP parameters of every RCPT, such as `"NOTIFY=NEVER"`.
            timeout: As for `login`.

        Returns:
            The refused recipients with their replies; empty if the server accepted all recipients.

        Raises:
            SMTPHeloError: The server refused EHLO and HELO.
            SMTPSenderRefused: The server refused the sender.
            SMTPRecipientsRefused: The server refused all recipients. The message was not sent.
            SMTPDataError: The server refused the message.
            SMTPNotSupportedError: The options contain SMTPUTF8, but the server does not support
                SMTPUTF8.
            SMTPServerDisconnected: The connection was lost. If the exception's attribute
                `body_sent` is true, the server may nevertheless have accepted the message.
            ValueError: An address or an option is invalid. Nothing was sent.
        """
        mail_options, rcpt_options = tuple(mail_options or ()), tuple(rcpt_options or ())
        if isinstance(msg, Message):
            msg = flatten(msg, utf8=any(option.lower() == "smtputf8" for option in mail_options))
        recipients = [to_addrs] if isinstance(to_addrs, str) else list(to_addrs)
        async with self._limited(timeout):
            await self._begin_session()
            if self._has_unread:
                await self._reject_unexpected_reply(results.SHUTDOWN)
            if self._writer is None:
                raise results.disconnected(NOT_CONNECTED)
            pipelining = self.options.pipelining and "pipelining" in self.esmtp_features
            transaction, large = flights.transaction_of(
                self,
                from_addr,
                recipients,
                msg,
                mail_options,
                rcpt_options,
                sequential=not pipelining,
            )
            # The only possible early reply is a 421, because of the check above.
            early, self._received = self._received, b""
            try:
                lost = await self._runner.run(transaction, large, self.timeout, early)
            except BaseException:
                # Close the connection, because the transaction is incomplete. On an open
                # connection, the client would read late replies to this message as replies to a
                # later command, and the server would read a later command as text of an incomplete
                # message.
                self.close()
                raise
            if flights.needs_reset(self, transaction):
                await self._rset()
            return results.sendmail_result(transaction, from_addr, recipients, lost)

    async def send_message(
        self,
        msg: Message,
        from_addr: str | None = None,
        to_addrs: str | Sequence[str] | None = None,
        mail_options: Sequence[str] | None = (),
        rcpt_options: Sequence[str] | None = (),
        *,
        sender: str | None = None,
        recipients: str | Sequence[str] | None = None,
        timeout: float | None = 0,
    ) -> Refused:
        """Send an `email.message.Message`.

        The recipients in Bcc and Resent-Bcc receive the message, but these fields are not sent.
        `msg` is not changed.

        Args:
            msg: The message.
            from_addr: The sender of the envelope; None for the sender in the message header.
            to_addrs: The recipients: one address (str), or several; None for the recipients in the
                message header.
            mail_options: As for `sendmail`.
            rcpt_options: As for `sendmail`.
            sender: The same as `from_addr`.
            recipients: The same as `to_addrs`.
            timeout: As for `login`.

        Returns:
            The refused recipients, as for `sendmail`.

        Raises:
            ValueError: The message has more than one block of Resent- header fields.
            SMTPNotSupportedError: An address is not ASCII, and the server does not support
                SMTPUTF8.
            SMTPException: As for `sendmail`.
        """
        sender = sender if from_addr is None else from_addr
        recipients = recipients if to_addrs is None else to_addrs
        options = tuple(mail_options or ()), tuple(rcpt_options or ())
        async with self._limited(timeout):
            return await run_async(commands.send_message(self, msg, sender, recipients, *options))

    async def sendmail_many(self, messages: "Iterable[Sendable]") -> list[Outcome]:
        """Send many messages over this connection.

        After a refused message, the next message is sent.

        Args:
            messages: `rapidsmtp.Message` objects, tuples of `sendmail`'s arguments, or
                email.message objects.

        Returns:
            One outcome for each message, in the same order. If the connection is lost while a
            message waits for its final reply, this message is UNKNOWN. The messages after this
            message are NOT_ATTEMPTED.
        """
        return await self._run(sendmail_many.send(self, messages))

    async def _own_name(self) -> str:
        """Return the name to send in EHLO.

        The look-up of this host's name can take seconds, so it runs in a thread.
        """
        if self.local_hostname is None:
            self.local_hostname = await asyncio.to_thread(name_of_this_host)
        name: str = self.local_hostname
        return name

    async def _run(self, steps: commands.Steps[commands.T]) -> commands.T:
        async with self._lock:
            return await run_async(steps)

    async def _ask(self, steps: commands.Steps[ReplyPair], timeout: float | None = 0) -> Reply:
        async with self._limited(timeout):
            return Reply(*await run_async(steps))

    @contextlib.asynccontextmanager
    async def _limited(self, timeout: float | None) -> AsyncIterator[None]:
        """Hold the lock, with another time limit than the constructor's; 0 for this limit."""
        if timeout != 0:
            _check_timeout(timeout)
        async with self._lock:
            kept = self.timeout
            self.timeout = kept if timeout == 0 else timeout
            try:
                yield
            finally:
                self.timeout = kept

    async def _begin_session(self) -> None:
        """Prepare a login or a message: send EHLO, and start TLS if the options allow it.

        With `start_tls=None`, TLS is started if the server supports STARTTLS.
        """
        try:
            await self._greet()
        except OSError as error:
            results.mark_not_started(error)
            raise

    async def _greet(self) -> None:
        if self._has_unread:
            await self._reject_unexpected_reply(results.SHUTDOWN)
        await self.ehlo_or_helo_if_needed()
        options = self.options
        # RFC 3207 section 4.2: the client must not send STARTTLS inside TLS, even if the server
        # announces STARTTLS there.
        if options.start_tls is not None or options.socket_path is not None or self._is_secure:
            return
        if self.has_extn("starttls"):
            await self.starttls()
            await self.ehlo_or_helo_if_needed()
        elif options.port == SUBMISSION_PORT:
            raise SMTPNotSupportedError(
                "the server does not support STARTTLS, which is required on port 587; "
                "start_tls=False allows clear text"
            )

    async def _rset(self) -> None:
        # If the connection is lost during RSET, this error is ignored, because the caller must get
        # the error for the message instead.
        encoding = self.command_encoding
        with contextlib.suppress(SMTPServerDisconnected):
            await self._reject_unexpected_reply(results.SHUTDOWN)
            code, _ = await self.rset()
            if not _backend.succeeds("rset", code):
                # The transaction may still be open, so the server could refuse the next MAIL.
                self.close()
        self.command_encoding = encoding

    def __repr__(self) -> str:
        server = self.options.socket_path or self.options.hostname or ""
        return f"<aio.{type(self).__name__} {os.fsdecode(server)}>"


class SMTP_SSL(SMTP):
    """A connection with TLS from the first byte (RFC 8314).

    Args:
        host: The name or address of the server, or the path of a Unix socket.
        port: The port; 465 by default.
        local_hostname: As for `SMTP`.
        timeout: As for `SMTP`.
        source_address: As for `SMTP`.
        context: The TLS settings (`ssl.SSLContext`). This is smtplib's name for `tls_context`.
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
        **keywords: Unpack[ConnectionKeywords],
    ) -> None:
        if context is not None:
            keywords["tls_context"] = context
        keywords["use_tls"] = True
        super().__init__(host, port, local_hostname, timeout, source_address, **keywords)


class LMTP(SMTP):
    """A connection to an LMTP server (RFC 2033), over TCP or a Unix socket.

    Args:
        host: The name or address of the server, or the absolute path of a Unix socket.
        port: The port; 2003 by default.
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
        **keywords: Unpack[ConnectionKeywords],
    ) -> None:
        super().__init__(host, port, local_hostname, timeout, source_address, **keywords)


overrides.register(StreamConnection, Connector, AiosmtplibNames, SMTP, SMTP_SSL, LMTP)


def _check_timeout(timeout: float | None) -> None:
    """Check a time limit, as sockets do.

    Raises:
        ValueError: The time limit is not above 0.
    """
    if timeout is None:
        return
    if not timeout:
        raise ValueError("Non-blocking socket (timeout=0) is not supported")
    if not timeout > 0:  # true for NaN
        raise ValueError(f"timeout is {timeout:g}: it must be above 0")
