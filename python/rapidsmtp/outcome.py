"""What became of a message, and of each of its recipients.

SMTP answers for the sender, for each recipient and for the message as a whole (RFC 5321 section
3.3), and a connection can be lost between any two of these. An `Outcome` keeps them apart, so
that nothing is sent twice and nothing is lost without a word.

The engine's outcomes come by the hundred thousand, and of most of them nobody asks more than the
status. So they carry the engine's result, and take the rest out of it when it is first asked for.
"""

import smtplib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from rapidsmtp.message import Message


class Status(StrEnum):
    """The fate of a message or of a recipient."""

    ACCEPTED = "accepted"
    """The relay took responsibility for it (2yz)."""
    REFUSED = "refused"
    """Refused for good (5yz)."""
    DEFERRED = "deferred"
    """Refused for now (4yz), still so after the attempts."""
    UNKNOWN = "unknown"
    """The body went out and no valid reply came: it may have been delivered."""
    INVALID = "invalid"
    """It could not be built, encoded or offered to this relay."""
    NOT_ATTEMPTED = "not attempted"
    """The relay could not be reached or would not have us, or the sending was stopped before."""
    PARTIAL = "partial"
    """The recipients differ. A message with any UNKNOWN recipient is UNKNOWN instead."""


class RecipientResult(NamedTuple):
    """What the relay said about one recipient.

    Attributes:
        status: Its fate; never PARTIAL.
        code: The reply's three digits, None where there was no reply.
        enhanced_status: The reply's enhanced status code (RFC 3463) such as "5.1.1", or None.
        text: The reply's text, or the reason where there was no reply.
    """

    status: Status
    code: int | None
    enhanced_status: str | None
    text: str


_Recipient: TypeAlias = tuple[str, int | None, str | None, str]
_Details: TypeAlias = tuple[str, list[_Recipient], tuple[int, bytes] | None, str, int, float, str]


class Result(Protocol):
    """What an engine knows of a message whose fate is decided."""

    @property
    def status(self) -> str:
        """The name of a `Status`."""

    def details(self) -> _Details:
        """Status, recipients in the message's order, reply, phase, attempts, seconds, reason."""


class Draft(Protocol):
    """A message that an engine has written out of a row, and that can be written again."""

    @property
    def tag(self) -> Any:
        """The message's tag."""

    def compose(self) -> tuple[str, list[str], bytes, list[str]]:
        """Sender, recipients, data, options of MAIL."""


class _Folded:
    """The places of an engine's result and of its draft; empty in every other outcome."""

    __slots__ = ("_draft", "_result")

    _draft: Draft
    _result: Result

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Called for a field that has no value yet: take all of them out of the result."""
            if name == "message":
                object.__setattr__(self, name, _written(self._draft))
                return self.message
            if name not in _IN_RESULT:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            _, recipients, *values = self._result.details()
            results = [RecipientResult(_STATUS[each[0]], *each[1:]) for each in recipients]
            addresses = self.message.recipients if self.message else ()
            values.insert(0, dict(zip(addresses, results, strict=True)))
            for field_name, value in zip(_IN_RESULT, values, strict=True):
                object.__setattr__(self, field_name, value)
            return object.__getattribute__(self, name)


@dataclass(frozen=True, slots=True)
class Outcome(_Folded):
    """The fate of one message.

    Attributes:
        tag: The message's tag.
        message: The message, or None where it could not be built.
        status: What became of it as a whole.
        recipients: One result for each recipient, by address.
        reply: The reply to the final dot (code, text), or None; the queue id is in its text.
        phase: Where it was decided: "build", "connect", "mail", "rcpt", "data", "body".
        attempts: How often it was tried.
        seconds: From the first attempt to the verdict.
        reason: Why it was not accepted, in one line; "" when it was.
    """

    tag: Any
    message: Message | None
    status: Status
    recipients: Mapping[str, RecipientResult] = field(default_factory=dict)
    reply: tuple[int, bytes] | None = None
    phase: str = "body"
    attempts: int = 0
    seconds: float = 0.0
    reason: str = ""

    def raise_for_status(self) -> None:
        """Raise what `smtplib.SMTP.sendmail` would have raised; nothing if it was accepted.

        Raises:
            smtplib.SMTPRecipientsRefused: Some or all recipients were refused.
            smtplib.SMTPSenderRefused: The sender was refused.
            smtplib.SMTPDataError: The message was refused.
            smtplib.SMTPServerDisconnected: No verdict came.
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


_STATUS = dict(Status.__members__)
_IN_RESULT = ("recipients", "reply", "phase", "attempts", "seconds", "reason")


def message_of(draft: Draft) -> Message:
    """Write a draft's message.

    Raises:
        ValueError: The row lacks a field, or has one that cannot stand where it is used.
    """
    sender, recipients, data, options = draft.compose()
    return Message(sender, recipients, data, tag=draft.tag, mail_options=options)


def _written(draft: Draft) -> Message | None:
    try:
        return message_of(draft)
    except ValueError:
        return None


def outcomes_of(decided: Iterable[tuple[Message | Draft, Result]]) -> list[Outcome]:
    """Make the outcomes of what an engine has decided.

    Args:
        decided: Messages and drafts, each with its result.
    """
    told = []
    # Past the frozen class's own __setattr__ and __init__, which take four times as long.
    for message, result in decided:
        outcome = _new(Outcome)
        _set_result(outcome, result)
        if isinstance(message, Message):
            _set_message(outcome, message)
        else:
            _set_draft(outcome, message)
        _set_tag(outcome, message.tag)
        _set_status(outcome, _STATUS[result.status])
        told.append(outcome)
    return told


def without_reply(message: Message | Draft, status: Status, phase: str, reason: str) -> Outcome:
    """The outcome of a message on which no relay has said a word.

    Args:
        message: The message, or its draft.
        status: Its fate, and that of all of its recipients.
        phase: Where it was decided.
        reason: Why, in one line.
    """
    if not isinstance(message, Message):
        try:
            message = message_of(message)
        except ValueError as error:
            return Outcome(message.tag, None, Status.INVALID, phase="build", reason=str(error))
    result = RecipientResult(status, None, None, reason)
    recipients = dict.fromkeys(message.recipients, result)
    return Outcome(message.tag, message, status, recipients, phase=phase, reason=reason)


_new = object.__new__
_set_result = _Folded.__dict__["_result"].__set__
_set_draft = _Folded.__dict__["_draft"].__set__
_set_message, _set_tag, _set_status = (
    Outcome.__dict__[name].__set__ for name in ("message", "tag", "status")
)
