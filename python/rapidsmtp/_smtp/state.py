"""The state of a client: smtplib's public attributes, and the state of its transaction."""

import datetime
import os
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeAlias

ReplyPair: TypeAlias = tuple[int, bytes]
"""A reply as smtplib returns it: the code, and the lines of text joined by LF, without codes."""


REUSE_SECONDS = 30.0
"""The idle time of kept connections if `True` or `--reuse` states no number."""

reuse_by_default: float | None = None
"""The idle time that `install(reuse=…)` has set for all clients; None if it was not set."""


def reuse_seconds(value: float) -> float:
    """Return the idle time of kept connections, in seconds; 0 if connections are not kept.

    Args:
        value: The argument `reuse`: a number of seconds, True for 30 seconds, or False.

    Raises:
        TypeError: The value is not a number.
        ValueError: The value is negative, above 1,000,000 or not finite.
    """
    if isinstance(value, bool):
        return REUSE_SECONDS if value else 0.0
    if not isinstance(value, (int, float)):
        raise TypeError(f"reuse is {value!r}: it must be True, False or a number of seconds")
    if not 0 <= value <= 1_000_000:
        raise ValueError(f"reuse is {value!r}: it must be between 0 and 1,000,000 seconds")
    return float(value)


def reuse_of_process() -> float:
    """Return the idle time that `install` or the environment variable has set; 0 by default.

    Raises:
        ValueError: The value of the environment variable is invalid.
    """
    if reuse_by_default is not None:
        return reuse_by_default
    text = os.environ.get("RAPIDSMTP_REUSE")
    if not text:
        return 0.0
    try:
        return reuse_seconds(float(text))
    except ValueError:
        raise ValueError(
            f"RAPIDSMTP_REUSE is {text!r}: it must be a number of seconds, such as 30"
        ) from None


class ProtocolState:
    """The part of a client's state for which `smtplib.SMTP` has no attributes.

    `greeted_on` and `refused_on` are sockets of earlier or current connections. Each of them is
    valid only if it is the client's current socket.

    Attributes:
        greeted_on: The socket on which EHLO was accepted.
        refused_on: The socket on which the server refused MAIL or all recipients, until the server
            accepts a message. On this socket, MAIL and DATA are not pipelined. With pipelining,
            each refusal would cause further errors, and servers may close a connection after too
            many errors.
        hides_input: Whether `auth` is running. If true, debug output hides the sent lines.
        recipients_left: The number of accepted recipients in the transaction. With LMTP, each of
            them has one final reply (RFC 2033 section 4.2).
        has_unclear_recipient: Whether a reply to RCPT in the transaction was neither a success nor
            a refusal, such as 252.
        final_replies: The final replies to the message (LMTP), in the order of the recipients.
        body_sent: Whether the whole message was written to the network.
        emptied: The file, if the client has read all received bytes from it; None if unknown. Its
            class is `sockets.EmptiedFile`.
        default_context: The TLS settings that `SMTP_SSL` has created because the caller gave none.
            None after the constructor, because the program may then change them.
        link: The link between the client and a connection that may be kept; None if connections are
            not reused. Its class is `reuse.Link`.
    """

    # This class is not a dataclass, because the import of `dataclasses` would take 20 % of the time
    # of `import rapidsmtp`.
    __slots__ = (
        "body_sent",
        "default_context",
        "emptied",
        "final_replies",
        "greeted_on",
        "has_unclear_recipient",
        "hides_input",
        "link",
        "recipients_left",
        "refused_on",
    )

    def __init__(self) -> None:
        self.greeted_on: Any = None
        self.refused_on: Any = None
        self.hides_input: bool = False
        self.recipients_left: int = 0
        self.has_unclear_recipient: bool = False
        self.final_replies: Sequence[ReplyPair] = ()
        self.body_sent: bool = False
        self.emptied: Any = None
        self.default_context: Any = None
        self.link: Any = None


class ClientState:
    """smtplib's public attributes, and smtplib's methods that do no I/O."""

    # The attributes have no values here, because a program may set them on smtplib's own class.
    helo_resp: bytes | None
    ehlo_resp: bytes | None
    debuglevel: int
    _reuse: float | None = None
    esmtp_features: dict[str, str]

    @cached_property
    def _protocol(self) -> ProtocolState:
        # Create the `ProtocolState` at its first use, not in a constructor of this class. `install`
        # copies this class's methods to smtplib's own class. Clients of smtplib's class may exist
        # already, and their constructor created no `ProtocolState`.
        return ProtocolState()

    def __repr__(self) -> str:
        text = object.__repr__(self)
        link = self._protocol.link
        return text if link is None else link.describe(text)

    def set_debuglevel(self, debuglevel: int) -> None:
        """Set the level of the debug output to `sys.stderr`.

        Args:
            debuglevel: 0 for no output, 1 for commands and replies, 2 for both with the time.
        """
        self.debuglevel = debuglevel

    def has_extn(self, opt: str) -> bool:
        """Return whether the server supports an extension.

        Args:
            opt: The EHLO keyword of the extension, in any case.
        """
        return opt.lower() in self.esmtp_features

    def _print_debug(self, *args: object) -> None:
        if self.debuglevel > 1:
            print(datetime.datetime.now().time(), *args, file=sys.stderr)
        else:
            print(*args, file=sys.stderr)

    def _print_sent(self, s: Any) -> None:
        self._print_debug("send:", _without_secret(s, self._protocol.hides_input))


def _without_secret(s: Any, authenticating: bool) -> str:
    """Return the debug output for a sent line. It never contains a password."""
    if not isinstance(s, str):
        return repr(s)
    words = s.split(" ", 2)
    if words[0].upper() == "AUTH" and len(words) == 3:
        return repr(f"{words[0]} {words[1]} [redacted]\r\n")
    if authenticating and words[0].upper() != "AUTH":
        return repr("[redacted]\r\n")
    return repr(s)
