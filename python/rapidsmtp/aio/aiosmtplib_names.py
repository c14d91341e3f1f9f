"""The names of aiosmtplib that smtplib lacks, for programs that were written for aiosmtplib."""

import asyncio
import enum
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from rapidsmtp._models.reply import Reply
from rapidsmtp.aio.connector import Connector
from rapidsmtp.aio.exceptions import disconnected
from rapidsmtp.auth import CramMD5, XOAuth2

SMTPResponse = Reply
SMTPTokenGenerator: TypeAlias = Callable[[], Awaitable[str]]


class SMTPStatus(enum.IntEnum):
    """The reply codes (RFC 5321 section 4.2.3), with aiosmtplib's names."""

    invalid_response = -1
    system_status_ok = 211
    help_message = 214
    ready = 220
    closing = 221
    auth_successful = 235
    completed = 250
    will_forward = 251
    cannot_vrfy = 252
    auth_continue = 334
    start_input = 354
    domain_unavailable = 421
    mailbox_unavailable = 450
    error_processing = 451
    insufficient_storage = 452
    tls_not_available = 454
    unrecognized_command = 500
    unrecognized_parameters = 501
    command_not_implemented = 502
    bad_command_sequence = 503
    parameter_not_implemented = 504
    domain_does_not_accept_mail = 521
    access_denied = 530
    auth_failed = 535
    mailbox_does_not_exist = 550
    user_not_local = 551
    storage_exceeded = 552
    mailbox_name_invalid = 553
    transaction_failed = 554
    syntax_error = 555


class AiosmtplibNames(Connector):
    """The attributes and methods of `aio.SMTP` with aiosmtplib's names."""

    does_esmtp: bool
    auth: Any
    sendmail: Any
    send_message: Any

    @property
    def hostname(self) -> str | None:
        """The option `hostname`."""
        return self.options.hostname

    @property
    def port(self) -> int | None:
        """The option `port`."""
        return self.options.port

    @property
    def use_tls(self) -> bool:
        """The option `use_tls`."""
        return self.options.use_tls

    @property
    def validate_certs(self) -> bool:
        """The option `validate_certs`."""
        return self.options.validate_certs

    @property
    def transport(self) -> asyncio.BaseTransport | None:
        """The transport of the connection; None if the client is not connected."""
        return None if self._writer is None else self._writer.transport

    def get_transport_info(self, key: str) -> Any:
        """Return an entry of the transport's `get_extra_info`, such as `"peername"`.

        Raises:
            SMTPServerDisconnected: The client is not connected.
        """
        if self._writer is None or not self.is_connected:
            raise disconnected("Server not connected")
        return self._writer.get_extra_info(key)

    @property
    def is_ehlo_or_helo_needed(self) -> bool:
        """Whether no reply to EHLO or HELO is stored."""
        return self.ehlo_resp is None and self.helo_resp is None

    @property
    def supports_esmtp(self) -> bool:
        """Whether the server accepted EHLO."""
        return self.does_esmtp

    @property
    def esmtp_extensions(self) -> dict[str, str]:
        """The capabilities of the server by lower-case keyword, with their parameters."""
        return self.esmtp_features

    @property
    def server_auth_methods(self) -> list[str]:
        """The lower-case names of the mechanisms that the server supports."""
        return self.esmtp_features.get("auth", "").lower().split()

    @property
    def supported_auth_methods(self) -> list[str]:
        """The mechanisms of `login` that the server supports too, in the order of `login`."""
        return [each for each in ("cram-md5", "plain", "login") if each in self.server_auth_methods]

    def supports_extension(self, extension: str, /) -> bool:
        """Return whether the server supports an extension."""
        return self.has_extn(extension)

    async def execute_command(self, *args: bytes) -> Reply:
        """Write a command and read its reply.

        Args:
            *args: The command and its arguments.
        """
        command, *arguments = (each.decode(self.command_encoding) for each in args)
        return await self.docmd(command, " ".join(arguments))

    async def auth_crammd5(self, username: str, password: str) -> Reply:
        """Authenticate with CRAM-MD5. The exceptions are those of `auth`."""
        return Reply(*await self.auth("CRAM-MD5", CramMD5(username, password)))

    async def auth_xoauth2(self, username: str, access_token: str) -> Reply:
        """Authenticate with XOAUTH2. The exceptions are those of `auth`."""
        return Reply(*await self.auth("XOAUTH2", XOAuth2(username, access_token)))

    def sendmail_sync(self, *args: Any, **keywords: Any) -> Any:
        """Connect, send one message and send QUIT, in a program without an event loop.

        The arguments are those of `sendmail`.
        """
        return asyncio.run(self._alone(self.sendmail, *args, **keywords))

    def send_message_sync(self, *args: Any, **keywords: Any) -> Any:
        """Connect, send one message and send QUIT, in a program without an event loop.

        The arguments are those of `send_message`.
        """
        return asyncio.run(self._alone(self.send_message, *args, **keywords))

    async def _alone(self, method: Any, *args: Any, **keywords: Any) -> Any:
        async with self:  # type: ignore[attr-defined]
            return await method(*args, **keywords)
