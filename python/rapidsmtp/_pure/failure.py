"""Failures of connections, and their effect on further connections."""

from enum import Enum

from rapidsmtp._pure import diagnosis
from rapidsmtp._pure.reply import MALFORMED, Reply, enhanced_status, reply_line
from rapidsmtp.errors import printable_reply


class FailureKind(Enum):
    """The effect of a failure on further connections."""

    PERMANENT = "no connection will succeed until the settings or the relay are changed"
    CREDENTIALS = "the relay refused the credentials, and the same ones may lock the account"
    REFUSED = "the relay rejected the session, but may accept a later session"
    UNREACHABLE = "no network connection to the relay could be made"
    LOGIN_REFUSED = "the login was refused temporarily, and several failures may lock the account"
    TEMPORARY = "the next connection may succeed"


class ConnectionFailure(Exception):
    """The reason why a connection did not become ready, or why it ended.

    Attributes:
        text: The reason, in one line.
        kind: The effect on further connections.
        reply: The reply that caused the failure, or None.
    """

    def __init__(self, text: str, kind: FailureKind, reply: Reply | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.kind = kind
        self.reply = reply

    @classmethod
    def rejected(cls, relay: str, phase: str, reply: Reply) -> "ConnectionFailure":
        """Return the failure of a session that the relay rejected with `reply`."""
        fact = _fact(_blame(phase, reply))
        return cls(f"relay {relay} {fact}: {reply_line(reply)}", FailureKind.REFUSED, reply)

    @classmethod
    def stalled(cls, relay: str, reply: Reply) -> "ConnectionFailure":
        """Return the failure of a relay whose last reply to a message was the refusal `reply`."""
        text = f"relay {relay} accepts no messages at present: {reply_line(reply)}"
        return cls(text, FailureKind.TEMPORARY, reply)

    @property
    def states_limit(self) -> bool:
        """Whether the relay stated a limit or an overload."""
        limits = (diagnosis.SLOWER, diagnosis.CONCURRENCY)
        return self.reply is not None and _blame("connect", self.reply) in limits

    @property
    def states_rate(self) -> bool:
        """Whether the relay stated a rate or an overload, and no number of connections."""
        return self.reply is not None and _blame("mail", self.reply) == diagnosis.SLOWER


class ConnectionLost(Exception):
    """The connection can no longer be used. The text of the exception is the reason.

    Attributes:
        reply: The reply that is the reason, or None.
    """

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = reply


def refusal(relay: str, phase: str, reply: Reply) -> ConnectionFailure | ConnectionLost:
    """Return the exception for a reply that ends the session.

    Args:
        relay: The name of the relay.
        phase: The command to which the reply belongs, as for `diagnose`.
        reply: The reply.
    """
    if reply[0] == MALFORMED:
        text = f"the relay sent an invalid reply: {printable_reply(reply[1])}"
        return ConnectionLost(text, reply)
    blame = _blame(phase, reply)
    kind = FailureKind.LOGIN_REFUSED if phase == "auth" else FailureKind.TEMPORARY
    if blame == diagnosis.RELAY and phase == "auth":
        kind = FailureKind.CREDENTIALS  # RFC 4954 6: the credentials are wrong
    elif blame in (diagnosis.RELAY, diagnosis.QUOTA):
        kind = FailureKind.REFUSED
    is_login = phase == "auth" and blame != diagnosis.QUOTA
    fact = "refused the login" if is_login else _fact(blame)
    return ConnectionFailure(f"relay {relay} {fact}: {reply_line(reply)}", kind, reply)


def _fact(blame: str) -> str:
    """Return the fact that the refusal of a session shows about the relay."""
    return "accepts no more mail for now" if blame == diagnosis.QUOTA else "rejected the session"


def _blame(phase: str, reply: Reply) -> str:
    return diagnosis.diagnose(phase, *reply, enhanced_status(*reply))
