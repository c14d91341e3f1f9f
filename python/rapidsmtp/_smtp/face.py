"""The members that a client class must provide to the shared generators.

The SMTP commands are implemented once, as generators (`commands`, `login`, `sendmail_many`) that
yield each call that does I/O. A face is a client class that runs these generators.
`rapidsmtp.SMTP` runs them with `commands.run` and blocks. `rapidsmtp.aio.SMTP` runs them with
`aio.connection.run_async` and awaits each call. A face for another event loop, such as trio,
provides the members of `Face` and a function like `run_async`.

Most members, including private ones, have the names of members of `smtplib.SMTP`, because programs
read, change and replace those members on a client. rapidsmtp adds the members `_protocol` and
`_begin_session`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rapidsmtp._smtp.state import ProtocolState, ReplyPair


class Face(Protocol):
    """A client for which the shared generators can run.

    A method whose return type is `Any` does I/O. In a blocking face, the method returns the result.
    In an asynchronous face, the method returns an awaitable of the result. The generators yield
    this return value and receive the result.

    Attributes:
        ehlo_msg: The command that asks for the capabilities: "ehlo", or "lhlo" for LMTP.
        local_hostname: The name of this host in EHLO and HELO.
        helo_resp: The text of the reply to HELO; None before that reply.
        ehlo_resp: The text of the reply to EHLO; None before that reply.
        does_esmtp: Whether the server accepted EHLO.
        esmtp_features: The capabilities by lower-case keyword, with their parameters.
        command_encoding: The encoding of commands: "ascii", or "utf-8" in a transaction with
            SMTPUTF8 (RFC 6531).
        debuglevel: The level of debug output; 0 for none.
        sock: The socket of the connection, or an object that represents the connection; None
            without a connection.
        user: The user of the last `login`.
        password: The password of the last `login`.
    """

    ehlo_msg: str
    local_hostname: Any
    helo_resp: bytes | None
    ehlo_resp: bytes | None
    does_esmtp: bool
    esmtp_features: dict[str, str]
    command_encoding: str
    debuglevel: int
    sock: Any
    user: str
    password: str
    _auth_challenge_count: int

    @property
    def _protocol(self) -> ProtocolState:
        """The part of the client's state for which `smtplib.SMTP` has no attributes."""

    def _begin_session(self) -> Any:
        """Prepare a login or a message: send EHLO, and STARTTLS if the face requires it.

        Raises:
            SMTPServerDisconnected: The connection was lost. The exception has the attributes that
                `results.mark_not_started` sets.
        """

    def _print_debug(self, *args: object) -> None:
        """Print a line of debug output."""

    def has_extn(self, opt: str) -> bool:
        """Return whether the server supports an extension."""

    def close(self) -> Any:
        """Close the connection without QUIT.

        An asynchronous face must start to close the connection even if its caller does not await
        the result.
        """

    def send(self, s: Any) -> Any:
        """Write bytes, or a text encoded in `command_encoding`."""

    def putcmd(self, cmd: str, args: str = "") -> Any:
        """Write a command."""

    def getreply(self) -> Any:
        """Read a reply."""

    def _reject_unexpected_reply(self, *allowed: bytes) -> Any:
        """Close the connection and raise an exception if a reply arrived before its command.

        Args:
            *allowed: The first bytes of replies that do not raise an exception.
        """

    def docmd(self, cmd: str, args: str = "") -> Any:
        """Write a command and read its reply."""

    def helo(self, name: str = "") -> Any:
        """Send HELO."""

    def ehlo(self, name: str = "") -> Any:
        """Send EHLO."""

    def ehlo_or_helo_if_needed(self) -> Any:
        """Send EHLO if no reply to EHLO or HELO is stored; send HELO if EHLO is refused."""

    def auth(
        self, mechanism: str, authobject: Callable[..., Any], *, initial_response_ok: bool = True
    ) -> Any:
        """Authenticate with one SASL mechanism."""

    def _answer(self, authobject: Callable[..., Any], challenge: bytes) -> Any:
        """Call an auth object with a decoded challenge, and return its response."""

    def sendmail(
        self,
        from_addr: str,
        to_addrs: Any,
        msg: Any,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> Any:
        """Send one message."""


class BlockingFace(Face, Protocol):
    """A blocking client, for `flights.send` and `method_calls.send`.

    Attributes:
        pipelining: Whether commands may be written together (RFC 2920).
        file: The buffered file from which replies are read; None before the first reply.
    """

    pipelining: bool
    file: Any

    def mail(self, sender: str, options: Sequence[str] = ()) -> ReplyPair:
        """Start a transaction (MAIL)."""

    def rcpt(self, recip: str, options: Sequence[str] = ()) -> ReplyPair:
        """Add a recipient (RCPT)."""

    def data(self, msg: Any) -> ReplyPair:
        """Send the message (DATA)."""

    def _rset(self) -> Any:
        """Reset the transaction (RSET). If the connection is lost, raise no exception."""
