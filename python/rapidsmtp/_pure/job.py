"""A job: one submitted message, the outcomes of its recipients and its recipient groups.

A message is submitted once and has one outcome, but it can need several transactions. One reason is
that the number of recipients in a transaction is limited. Another reason is the retry of deferred
recipients. Each transaction sends to one `RecipientGroup`. An accepted recipient is in no later
group, so it does not receive the message twice.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard

from rapidsmtp._pure.address import plain_path
from rapidsmtp._pure.command import mail, rcpt
from rapidsmtp._pure.outcome import ACCEPTED, INVALID, message_status
from rapidsmtp._pure.reply import Reply, enhanced_status
from rapidsmtp.errors import printable_reply

MAX_PATH = 256
"""The maximum length of a path, in bytes (RFC 5321 4.5.3.1.3)."""


class RecipientOutcome(NamedTuple):
    """The final result of one recipient, and the phase of the transaction that determined it."""

    status: str
    phase: str
    code: int | None
    enhanced_status: str | None
    text: str


def outcome_of_reply(status: str, phase: str, reply: Reply) -> RecipientOutcome:
    """Return a recipient's outcome that is based on a reply."""
    code, text = reply
    known = code if code > 0 else None
    return RecipientOutcome(
        status, phase, known, enhanced_status(code, text), printable_reply(text)
    )


def reply_line(reply: Reply) -> str:
    """Return a reply with its code as one printable line."""
    code, text = reply
    return f"{code} {printable_reply(text)}".rstrip()


class MessageOutcome:
    """The outcome of a message.

    Attributes:
        status: The name of a `Status`.
    """

    __slots__ = ("_details", "status")

    def __init__(
        self,
        addresses: Sequence[object],
        recipients: Sequence[RecipientOutcome],
        reply: Reply | None,
        attempts: int,
        seconds: float,
    ) -> None:
        self.status = message_status([each.status for each in recipients] or [INVALID])
        first = next((each for each in recipients if each.status != ACCEPTED), None)
        self._details = (
            self.status,
            [(each.status, each.code, each.enhanced_status, each.text) for each in recipients],
            reply,
            first.phase if first else "body" if recipients else "build",
            attempts,
            seconds,
            _reason(addresses, recipients),
        )

    def details(
        self,
    ) -> tuple[
        str,
        list[tuple[str, int | None, str | None, str]],
        Reply | None,
        str,
        int,
        float,
        str,
    ]:
        """Return all details of the outcome.

        Returns:
            The status; the status, code, enhanced status code and text of each recipient; the
            reply to the message; the phase; the number of attempts; the time since the first
            attempt, in seconds; the reason.
        """
        return self._details


def _reason(addresses: Sequence[object], recipients: Sequence[RecipientOutcome]) -> str:
    """Return the reason for the first recipient that was not accepted; empty if all were accepted.

    The recipient's address in the text of a relay is replaced by an ellipsis, so that reports can
    group equal reasons. The reason of an invalid message may name the invalid address.
    """
    for address, outcome in zip(addresses, recipients, strict=True):
        if outcome.status != ACCEPTED:
            code = "" if outcome.code is None else f"{outcome.code} "
            line = f"{code}{outcome.text}"
            if _is_address(address) and outcome.status != INVALID:
                return line.replace(address, "\N{HORIZONTAL ELLIPSIS}")
            return line
    return ""


def _is_address(address: object) -> TypeGuard[str]:
    return isinstance(address, str) and address != ""


class Job:
    """One submitted message.

    Attributes:
        message: The object that the caller submitted.
        outbox: The outbox for the message's outcome.
        size: The size of the message's data, in bytes. It counts against the limit `queue_bytes`.
        sender: The sender's path.
        recipients: The recipients' paths.
        utf8: Whether the message needs SMTPUTF8.
        attempts: The number of attempts. If the recipient groups have different numbers of
            attempts, this is the highest number.
        first_attempt: The time when the first attempt started, or None.
        reply: The relay's last reply to the message (after the terminator), or None.
        deferred: The outcomes to report if no retry happens, by the index of the recipient.
    """

    __slots__ = (
        "_outcomes",
        "_undecided",
        "attempts",
        "deferred",
        "first_attempt",
        "message",
        "outbox",
        "recipients",
        "reply",
        "sender",
        "size",
        "utf8",
    )

    def __init__(self, message: Any, outbox: Any) -> None:
        self.message = message
        self.outbox = outbox
        self.size = len(message.data)
        self.sender = ""
        self.recipients: list[str] = []
        self.utf8 = False
        self.attempts = 0
        self.first_attempt: float | None = None
        self.reply: Reply | None = None
        self.deferred: dict[int, RecipientOutcome] = {}
        self._undecided = len(message.recipients)
        self._outcomes: list[RecipientOutcome | None] = [None] * self._undecided

    def render_envelope(self, path_of: Callable[[str], str]) -> None:
        """Render and check the envelope, so that no later step fails because of the envelope.

        Args:
            path_of: The function that returns the path for an address that is not plain.

        Raises:
            ValueError: The message has no recipient, or an address or an option contains a
                forbidden character.
            TypeError: The data of the message is not bytes.
        """
        message = self.message
        if not isinstance(message.data, bytes):
            raise TypeError(f"data must be bytes, not {type(message.data).__name__}")
        if not message.recipients:
            raise ValueError("a message needs at least one recipient")
        self.sender = _path(message.sender, path_of)
        self.recipients = [_path(each, path_of) for each in message.recipients]
        if "<>" in self.recipients:
            raise ValueError("a recipient is empty")
        self.utf8 = _asks_utf8(message) or not all(
            path.isascii() for path in (self.sender, *self.recipients)
        )
        mail(self.sender, message.mail_options, utf8=self.utf8, lower_case=False)
        for place, path in enumerate(self.recipients):
            if place == 0 or not path.isascii() or not plain_path(path[1:-1]):
                rcpt(path, message.rcpt_options, utf8=self.utf8, lower_case=False)

    def decide(self, index: int, outcome: RecipientOutcome) -> None:
        """Set the outcome of a recipient, unless it is set already."""
        if self._outcomes[index] is None:
            self._outcomes[index] = outcome
            self._undecided -= 1

    def decide_all(self, outcome: RecipientOutcome) -> None:
        """Set the outcome of every recipient whose outcome is not set."""
        for index in range(len(self._outcomes)):
            self.decide(index, outcome)

    @property
    def is_decided(self) -> bool:
        return self._undecided == 0

    def outcome(self, now: float) -> MessageOutcome:
        """Return the outcome of the message. Every recipient must have an outcome."""
        recipients = [outcome for outcome in self._outcomes if outcome is not None]
        seconds = 0.0 if self.first_attempt is None else now - self.first_attempt
        return MessageOutcome(
            self.message.recipients, recipients, self.reply, self.attempts, seconds
        )


def _path(address: str, path_of: Callable[[str], str]) -> str:
    plain = plain_path(address)
    return plain if plain is not None and len(plain) <= MAX_PATH else path_of(address)


def _asks_utf8(message: Any) -> bool:
    return any(option.upper() == "SMTPUTF8" for option in message.mail_options)


class RecipientGroup:
    """The recipients of one transaction: all or some recipients of a message.

    Attributes:
        job: The message.
        indices: The indices of the recipients in the message.
        attempts: The number of attempts that count against the maximum number of attempts.
        returns: The number of times that the group returned to the queue because its connection
            failed.
        throttled: The number of times that the group returned to the queue because the relay asked
            for a lower rate.
        in_doubt: Whether an earlier attempt may have delivered the message.
    """

    __slots__ = ("attempts", "in_doubt", "indices", "job", "returns", "throttled")

    def __init__(self, job: Job, indices: Sequence[int]) -> None:
        self.job = job
        self.indices = list(indices)
        self.attempts = 0
        self.returns = 0
        self.throttled = 0
        self.in_doubt = False

    def part(self, indices: Sequence[int]) -> "RecipientGroup":
        """Return a new group with some of the recipients and the same counts of past attempts."""
        other = RecipientGroup(self.job, indices)
        other.attempts = self.attempts
        other.returns = self.returns
        other.throttled = self.throttled
        other.in_doubt = self.in_doubt
        return other

    def split(self, limit: int, domain_limit: int | None) -> "RecipientGroup | None":
        """Keep the recipients that fit into one transaction, and return the others.

        Args:
            limit: The maximum number of recipients.
            domain_limit: The maximum number of different domains (RFC 9422 section 4.3), or None.

        Returns:
            A group of the other recipients; None if all recipients fit.
        """
        kept: list[int] = []
        domains: set[str] = set()
        for index in self.indices:
            domain = self.job.recipients[index].rpartition("@")[2].lower()
            if len(kept) == limit:
                break
            if domain_limit is None or domain in domains or len(domains) < domain_limit:
                domains.add(domain)
                kept.append(index)
        if len(kept) == len(self.indices):
            return None
        chosen = set(kept)
        rest = self.part([index for index in self.indices if index not in chosen])
        self.indices = kept
        return rest
