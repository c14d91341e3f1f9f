"""The outcome of a message, and the result for each of its recipients.

An SMTP server sends one reply for the sender (MAIL), one for each recipient (RCPT) and one for the
content (RFC 5321 section 3.3). The connection can be lost between any two of these replies. An
`Outcome` contains the result for each recipient. So a program can resend a message to the
recipients that need it, without a second copy for the other recipients.

An engine may return hundreds of thousands of outcomes, and most callers read only the status. So an
`Outcome` keeps the engine's `MessageOutcome` and fills its other fields when the caller first reads
one of them.
"""

import smtplib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from rapidsmtp._models.message import Message
from rapidsmtp._models.reply import Reply
from rapidsmtp.errors import brief


class Status(StrEnum):
    """The status of a message, or of one of its recipients."""

    ACCEPTED = "accepted"
    """The relay accepted responsibility for the delivery (2yz)."""
    REFUSED = "refused"
    """The relay refused permanently (5yz)."""
    DEFERRED = "deferred"
    """The relay refused temporarily (4yz), also on the last attempt."""
    UNKNOWN = "unknown"
    """The body was sent and no valid reply arrived. The message may have been delivered."""
    INVALID = "invalid"
    """The message could not be built or encoded, or needs a capability that the relay lacks."""
    NOT_ATTEMPTED = "not attempted"
    """The relay could not be reached, rejected the session, or accepts no more mail for now, or
    sending stopped too early."""
    PARTIAL = "partial"
    """The recipients have different statuses, and none of them is UNKNOWN."""
    SUPPRESSED = "suppressed"
    """Only in campaigns: the recipient is excluded, or is the recipient of an earlier row."""


Status.__module__ = "rapidsmtp"
SENDER_STATUSES = tuple(each for each in Status if each is not Status.SUPPRESSED)
"""The statuses that a sender reports."""


class RecipientResult(NamedTuple):
    """The relay's reply for one recipient.

    Attributes:
        status: The recipient's status; never PARTIAL.
        code: The three-digit code of the reply; None if there was no reply.
        enhanced_status: The enhanced status code of the reply (RFC 3463), such as "5.1.1"; None if
            the reply has none.
        text: The text of the reply, or the reason why there was no reply. An ellipsis replaces the
            middle of a text that is longer than 500 characters.
    """

    status: Status
    code: int | None
    enhanced_status: str | None
    text: str


# Users import the class from `rapidsmtp`, so its `__module__` names this package. As for the other
# public classes, the name is assigned after the class body.
RecipientResult.__module__ = "rapidsmtp"

_Recipient: TypeAlias = tuple[str, int | None, str | None, str]
_Details: TypeAlias = tuple[str, list[_Recipient], tuple[int, bytes] | None, str, int, float, str]


class MessageOutcome(Protocol):
    """The outcome of a message as an engine returns it."""

    @property
    def status(self) -> str:
        """The name of the message's `Status`."""

    def details(self) -> _Details:
        """Return status, recipients (in order), reply, phase, attempts, seconds and reason."""


class PendingMessage(Protocol):
    """A row that is not rendered yet, with its template. An engine may render it more than once."""

    @property
    def tag(self) -> Any:
        """The message's tag."""

    def render(self) -> tuple[str, list[str], bytes, list[str]]:
        """Return the sender, the recipients, the data and the MAIL options."""


class _FilledOnAccess:
    """The slots that hold the engine's result. An outcome fills its fields from them.

    An outcome that no engine returned has no values in these slots.
    """

    __slots__ = ("_engine_outcome", "_pending")

    _engine_outcome: MessageOutcome
    _pending: PendingMessage

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Fill the missing fields.

            Python calls this method only for an attribute without a value.
            """
            if name == "message":
                object.__setattr__(self, name, _rendered(self._pending))
                return self.message
            if name not in _FROM_ENGINE:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            _, recipients, *values = self._engine_outcome.details()
            results = [
                RecipientResult(_STATUS[status], code, enhanced, brief(text))
                for status, code, enhanced, text in recipients
            ]
            # A row whose text cannot be rendered may have recipients, but makes no message.
            message = self.message
            pairs = zip(message.recipients, results, strict=True) if message else ()
            values.insert(0, dict(pairs))
            values[1] = None if values[1] is None else Reply(*values[1])
            values[-1] = brief(values[-1])
            for field_name, value in zip(_FROM_ENGINE, values, strict=True):
                object.__setattr__(self, field_name, value)
            return object.__getattribute__(self, name)


@dataclass(frozen=True, slots=True)
class Outcome(_FilledOnAccess):
    """The outcome of one message.

    Attributes:
        tag: The message's tag.
        message: The message, or None if it could not be built.
        status: The status of the whole message, combined from the statuses of its recipients.
        recipients: One result for each recipient, by address.
        reply: The final reply to the message, or None. Its text usually contains the queue id.
        phase: The step in which the last attempt ended: "build", "connect", "mail", "rcpt", "data",
            "body".
        attempts: The number of attempts.
        seconds: The time from the first attempt to the outcome, in seconds.
        reason: The reason why the message was not accepted, in one line; "" if it was accepted. An
            ellipsis replaces the middle of a reason that is longer than 500 characters.
    """

    tag: Any
    message: Message | None
    status: Status
    recipients: Mapping[str, RecipientResult] = field(default_factory=dict)
    reply: Reply | None = None
    phase: str = "body"
    attempts: int = 0
    seconds: float = 0.0
    reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", brief(self.reason))

    def raise_for_status(self) -> None:
        """Raise the exception that `sendmail` would raise, unless the message was accepted.

        Raises:
            smtplib.SMTPRecipientsRefused: Some or all recipients were refused.
            smtplib.SMTPSenderRefused: The sender was refused.
            smtplib.SMTPDataError: The message was refused.
            smtplib.SMTPServerDisconnected: No final reply arrived.
            smtplib.SMTPException: The message is invalid or was not attempted.
        """
        if self.status is Status.ACCEPTED:
            return
        if self.status is Status.UNKNOWN:
            raise smtplib.SMTPServerDisconnected(self.reason)
        refused = {
            address: (result.code, result.text.encode())
            for address, result in self.recipients.items()
            if result.status is not Status.ACCEPTED and result.code is not None
        }
        if not refused:
            raise smtplib.SMTPException(self.reason)
        if self.phase == "rcpt" or self.status is Status.PARTIAL:
            raise smtplib.SMTPRecipientsRefused(refused)
        code, text = next(iter(refused.values()))
        if self.phase == "mail":
            sender = self.message.sender if self.message else ""
            raise smtplib.SMTPSenderRefused(code, text, sender)
        raise smtplib.SMTPDataError(code, text)


Outcome.__module__ = "rapidsmtp"


_STATUS = dict(Status.__members__)
_FROM_ENGINE = ("recipients", "reply", "phase", "attempts", "seconds", "reason")


def message_of(pending: PendingMessage) -> Message:
    """Render a pending message.

    Raises:
        ValueError: A field is missing in the row, or its value is not allowed at its place in the
            template.
    """
    sender, recipients, data, options = pending.render()
    return Message(sender, recipients, data, tag=pending.tag, mail_options=options)


def _rendered(pending: PendingMessage) -> Message | None:
    try:
        return message_of(pending)
    except ValueError:
        return None


def outcomes_of(
    finished: Iterable[tuple[Message | PendingMessage, MessageOutcome]],
) -> list[Outcome]:
    """Convert the results of an engine to `Outcome` objects.

    Args:
        finished: Messages and pending messages, each with the engine's outcome.
    """
    outcomes = []
    # Set the fields with the slots' own setters, because the `__init__` of a frozen class takes
    # four times as long.
    for message, engine_outcome in finished:
        outcome = _new(Outcome)
        _set_engine_outcome(outcome, engine_outcome)
        if isinstance(message, Message):
            _set_message(outcome, message)
        else:
            _set_pending(outcome, message)
        _set_tag(outcome, message.tag)
        _set_status(outcome, _STATUS[engine_outcome.status])
        outcomes.append(outcome)
    return outcomes


def outcome_without_reply(
    message: Message | PendingMessage, status: Status, phase: str, reason: str
) -> Outcome:
    """Return the outcome of a message that got no reply.

    Args:
        message: The message, rendered or pending.
        status: The status of the message and of all its recipients.
        phase: The step in which the message failed.
        reason: The reason, in one line.
    """
    if not isinstance(message, Message):
        try:
            message = message_of(message)
        except ValueError as error:
            return Outcome(message.tag, None, Status.INVALID, phase="build", reason=str(error))
    result = RecipientResult(status, None, None, brief(reason))
    recipients = dict.fromkeys(message.recipients, result)
    return Outcome(message.tag, message, status, recipients, phase=phase, reason=reason)


_new = object.__new__
_set_engine_outcome = _FilledOnAccess.__dict__["_engine_outcome"].__set__
_set_pending = _FilledOnAccess.__dict__["_pending"].__set__
_set_message, _set_tag, _set_status = (
    Outcome.__dict__[name].__set__ for name in ("message", "tag", "status")
)
