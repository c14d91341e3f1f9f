"""Outcomes: the results of sending a message, for each recipient and as a whole.

A session makes a `MessageOutcome` from the replies to one transaction. The engine merges the
outcomes of several attempts into the final outcome.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from rapidsmtp._pure.diagnosis import says_full
from rapidsmtp._pure.reply import MALFORMED, Reply, enhanced_status
from rapidsmtp._pure.transaction import ACCEPTED as TRANSACTION_ACCEPTED
from rapidsmtp._pure.transaction import (
    DATA_REFUSED,
    RECIPIENTS_REFUSED,
    SENDER_REFUSED,
    Transaction,
)
from rapidsmtp.errors import brief, printable_reply

ACCEPTED = "ACCEPTED"
REFUSED = "REFUSED"
DEFERRED = "DEFERRED"
UNKNOWN = "UNKNOWN"
PARTIAL = "PARTIAL"
INVALID = "INVALID"
NOT_ATTEMPTED = "NOT_ATTEMPTED"

STATUSES = (ACCEPTED, REFUSED, DEFERRED, UNKNOWN, PARTIAL, INVALID, NOT_ATTEMPTED)

STATUS_NUMBERS = {
    ACCEPTED: 1,
    REFUSED: 2,
    DEFERRED: 3,
    UNKNOWN: 4,
    INVALID: 5,
    NOT_ATTEMPTED: 6,
}
"""The number of a recipient's status in a journal. The numbers are stored, so they never change."""

OutcomeTuple: TypeAlias = tuple[Any, int, int, int | None, str | None, str, str | None, int, int]
"""The outcome of a recipient for a journal; see `Engine.take_outcomes`."""


def refusal_status(code: int, body_sent: bool) -> str:
    """Return the status of a recipient that a reply code did not accept (RFC 5321 4.2.1).

    Args:
        code: The reply's code; -1 for an invalid reply.
        body_sent: Whether the server may have received the body. The server may then have accepted
            the message, although `code` is not a valid reply.

    Returns:
        `"DEFERRED"` for 4yz, `"REFUSED"` for 5yz, else `"UNKNOWN"` or `"NOT_ATTEMPTED"`.
    """
    other = UNKNOWN if body_sent else NOT_ATTEMPTED
    return {4: DEFERRED, 5: REFUSED}.get(code // 100, other)


def message_status(recipients: Sequence[str]) -> str:
    """Return the status of a message from the statuses of its recipients.

    Args:
        recipients: The status of each recipient.

    Returns:
        `"UNKNOWN"` if the status of any recipient is unknown; otherwise the common status of all
        recipients, or `"PARTIAL"` if their statuses differ.

    Raises:
        ValueError: There is no recipient, or a name is not a status.
    """
    for status in recipients:
        if status not in STATUSES:
            raise ValueError(f"no such status: {status}")
    if not recipients:
        raise ValueError("a message without recipients has no status")
    if UNKNOWN in recipients:
        return UNKNOWN
    return recipients[0] if len(set(recipients)) == 1 else PARTIAL


class RecipientOutcome(NamedTuple):
    """The outcome of one recipient.

    Attributes:
        status: The status.
        phase: The command whose reply determined the outcome (`"mail"`, `"rcpt"`, `"data"`,
            `"body"`), or `"connect"` or `"build"` if sending failed earlier.
        reply: The reply that determined the outcome, or None.
        reason: The reason for an outcome without a reply; otherwise empty.
        not_executed: Whether the relay certainly did not execute the transaction. If true, the
            message may be sent again, and the other fields are the outcome to report if it is not.
    """

    status: str
    phase: str
    reply: Reply | None
    reason: str = ""
    not_executed: bool = False

    @classmethod
    def refused(cls, phase: str, reply: Reply) -> "RecipientOutcome":
        """Return the outcome of a recipient that `reply` refused (4yz or 5yz)."""
        return cls(refusal_status(reply[0], phase == "body"), phase, reply)

    @classmethod
    def unexecuted(cls, reply: Reply | None = None) -> "RecipientOutcome":
        """Return the outcome of a transaction whose terminator was not sent.

        Args:
            reply: The reply that ended the session, or None if the connection was lost.
        """
        if reply is not None:
            return cls.refused("connect", reply)._replace(not_executed=True)
        reason = "the connection was lost before the message was sent"
        return cls(NOT_ATTEMPTED, "connect", None, reason, not_executed=True)

    @classmethod
    def unknown(cls, reason: str) -> "RecipientOutcome":
        """Return the outcome after a terminator without a valid reply."""
        reason = f"the connection was lost before the final reply: {reason}"
        return cls(UNKNOWN, "body", None, reason)

    @property
    def text(self) -> str:
        """The text of the reply in one line; without a reply, the reason."""
        return self.reason if self.reply is None else printable_reply(self.reply[1])


class MessageOutcome:
    """The outcome of a message, in one attempt or in all attempts.

    Attributes:
        recipients: The outcome of each recipient.
        reply: The relay's reply to the body, or None.
        status: The name of the message's `Status`.
    """

    __slots__ = ("_addresses", "_attempts", "_seconds", "recipients", "reply", "status")

    def __init__(
        self,
        recipients: Sequence[RecipientOutcome],
        reply: Reply | None = None,
        addresses: Sequence[object] = (),
        attempts: int = 0,
        seconds: float = 0.0,
    ) -> None:
        """Create an outcome.

        Args:
            recipients: The outcome of each recipient.
            reply: The relay's reply to the body, or None.
            addresses: The recipients' addresses, as the caller gave them.
            attempts: The number of attempts.
            seconds: The time from the start of the first attempt to the outcome, in seconds.
        """
        self.recipients = recipients
        self.reply = reply
        self.status = message_status([each.status for each in recipients] or [INVALID])
        self._addresses = addresses
        self._attempts = attempts
        self._seconds = seconds

    @property
    def counts_for_connection(self) -> bool:
        """Whether the message counts towards the maximum number of messages of its connection.

        A message counts if the relay accepted it, or refused it for a reason other than this
        maximum.
        """
        return any(
            each.status == ACCEPTED
            or (not each.not_executed and each.reply is not None and not says_full(each.reply[1]))
            for each in self.recipients
        )

    @property
    def is_processed(self) -> bool:
        """Whether the relay processed the message to its end for at least one recipient.

        This is an acceptance or a permanent refusal.
        """
        return any(
            each.status == ACCEPTED or (each.status == REFUSED and not each.not_executed)
            for each in self.recipients
        )

    @property
    def refusal(self) -> Reply | None:
        """The reply that refused the first recipient whose status is not "accepted"."""
        refused = (each.reply for each in self.recipients if each.status != ACCEPTED)
        return next(refused, None)

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
        results = []
        for each in self.recipients:
            code, enhanced = None, None
            if each.reply is not None:
                code, enhanced = each.reply[0], enhanced_status(*each.reply)
            results.append((each.status, code, enhanced, each.text))
        failed = (index for index, each in enumerate(self.recipients) if each.status != ACCEPTED)
        first = next(failed, None)
        phase, reason = "body" if results else "build", ""
        if first is not None:
            phase, reason = self.recipients[first].phase, self._reason(first)
        return self.status, results, self.reply, phase, self._attempts, self._seconds, reason

    @property
    def times(self) -> tuple[int, int]:
        """The number of attempts, and the time since the first one, in milliseconds."""
        return self._attempts, int(self._seconds * 1000)

    def _reason(self, index: int) -> str:
        """Return the text of a failure.

        An ellipsis replaces the recipient's address in the text of a relay, so that a report can
        count equal failures together. The reason of an invalid message may name the address.
        """
        failure, address = self.recipients[index], self._addresses[index]
        text = failure.text if failure.reply is None else f"{failure.reply[0]} {failure.text}"
        if isinstance(address, str) and address and failure.status != INVALID:
            return text.replace(address, "\N{HORIZONTAL ELLIPSIS}")
        return text


def outcome_of(
    transaction: Transaction, recipients: int, terminator_sent: bool, reason: str
) -> MessageOutcome:
    """Return the outcome of a transaction that has ended.

    Args:
        transaction: The transaction.
        recipients: The number of its recipients.
        terminator_sent: Whether the terminator may have reached the relay.
        reason: The reason why the body got no valid reply.
    """
    # Before the terminator, a relay cannot accept a message (RFC 5321 4.1.1.4). After it, the relay
    # may have accepted the message even if no reply arrived.
    unanswered = (
        RecipientOutcome.unknown(reason) if terminator_sent else RecipientOutcome.unexecuted()
    )
    others = unanswered
    end, reply = transaction.end, transaction.reply
    if reply is not None and reply[0] != MALFORMED:
        if end == TRANSACTION_ACCEPTED:
            others = RecipientOutcome(ACCEPTED, "body", reply)
        elif end == SENDER_REFUSED:
            others = RecipientOutcome.refused("mail", reply)
        elif end == DATA_REFUSED:
            phase = "body" if transaction.is_data_accepted else "data"
            others = RecipientOutcome.refused(phase, reply)
    if end == RECIPIENTS_REFUSED and transaction.refused[-1][1][0] == 421:
        # RFC 5321 3.8: a 421 to one RCPT ends the session, so it also concerns the recipients
        # without a reply.
        others = RecipientOutcome.refused("rcpt", transaction.refused[-1][1])
    outcomes = [others] * recipients
    for index, refusal in transaction.refused if end != SENDER_REFUSED else ():
        # RFC 2033 4.2: LMTP also refuses single recipients after the body.
        after_body = index in transaction.refused_after_body
        if refusal[0] != MALFORMED:
            outcomes[index] = RecipientOutcome.refused("body" if after_body else "rcpt", refusal)
        elif after_body:
            outcomes[index] = unanswered
    for index, lmtp_reply in transaction.lmtp_replies.items():
        if index in transaction.accepted:
            outcomes[index] = RecipientOutcome(ACCEPTED, "body", lmtp_reply)
    return MessageOutcome(outcomes, reply if terminator_sent else None)


def outcome_tuples(message: Any, outcome: MessageOutcome) -> Iterator[OutcomeTuple]:
    """Yield the outcome of each recipient of a message, as `Engine.take_outcomes` returns it.

    Args:
        message: An object with the attributes of `Message`. With an attribute `parts` that is not
            None, its recipients are these parts of its row.
        outcome: The outcome of the message.
    """
    parts = getattr(message, "parts", None)
    is_single = len(outcome.recipients) <= 1 and parts is None
    for index, each in enumerate(outcome.recipients):
        code, enhanced = None, None
        if each.reply is not None:
            code, enhanced = each.reply[0], enhanced_status(*each.reply)
        is_omitted = is_single and each.status == ACCEPTED
        address = None if is_omitted else str(message.recipients[index]) or None
        yield (
            message.tag,
            index if parts is None else parts[index],
            STATUS_NUMBERS[each.status],
            code,
            enhanced,
            brief(each.text),
            address,
            *outcome.times,
        )
