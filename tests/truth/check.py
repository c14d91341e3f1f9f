"""The outcome checker: compare outcomes with the server's record, and report every difference.

The correct outcome of a recipient:

- The server executed the message and wrote the whole final 2yz, and the connection had no fault:
  ACCEPTED.
- The server executed the message and wrote the final 2yz, and then the connection was lost:
  ACCEPTED or UNKNOWN, because the client may not have read the last reply.
- The server executed the message and wrote no valid final reply: UNKNOWN.
- The server did not execute the message: never ACCEPTED, and UNKNOWN only if the client may have
  sent a terminator.

The text of each reply contains the number of the reply. The text of a result cites the reply that
determined the result, so the checker finds this reply in the record. The reply must concern the
message and the recipient of the result.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from rapidsmtp import Message, Outcome, Status
from truth.record import Delivery, Record, Reply


def repaired(data: bytes) -> bytes:
    """Return the content that must arrive: every line ends in CRLF, including the last line."""
    data = re.sub(rb"\r\n|\r|\n", b"\r\n", data)
    return data if data.endswith(b"\r\n") else data + b"\r\n"


def cited(text: str, record: Record) -> Reply | None:
    """Return the reply that the text of a result cites; None if it cites no reply."""
    numbers = re.findall(r"#(\d+)#", text)
    return record.replies[int(numbers[-1]) - 1] if numbers else None


class OutcomeChecker:
    """A comparison of the outcome of each message with the server's record.

    Args:
        record: The server's record.
        messages: All messages that the sender accepted.
        outcomes: All outcomes that the sender reported.
        resend: Whether the sender resends messages with an unknown outcome.
        window: The maximum number of messages that have an unknown outcome after one lost
            connection.
    """

    def __init__(
        self,
        record: Record,
        messages: Sequence[Message],
        outcomes: Sequence[Outcome],
        *,
        resend: bool = False,
        window: int = 1,
    ) -> None:
        self.record, self.messages, self.outcomes = record, messages, outcomes
        self.resend, self.window = resend, window
        self.problems: list[str] = []
        self.delivered: dict[tuple[str, str], list[Delivery]] = defaultdict(list)
        for delivery in record.deliveries:
            self.delivered[delivery.sender, delivery.recipient].append(delivery)

    def problems_found(self) -> list[str]:
        self._each_message_once()
        self._only_these_were_delivered()
        for outcome in self.outcomes:
            self._check_message(outcome)
        self._few_are_unknown()
        self.problems += self.record.violations
        return self.problems

    def _wrong(self, text: str) -> None:
        self.problems.append(text)

    def _each_message_once(self) -> None:
        counts = Counter(id(outcome.message) for outcome in self.outcomes)
        for message in self.messages:
            if counts[id(message)] != 1:
                self._wrong(f"{message.sender}: {counts[id(message)]} outcomes")
        others = set(counts) - {id(message) for message in self.messages}
        if others:
            self._wrong(f"{len(others)} outcomes of messages that were not sent")

    def _only_these_were_delivered(self) -> None:
        by_sender = {message.sender: message for message in self.messages}
        for sender in {sender for sender, _ in self.record.mails} - set(by_sender):
            self._wrong(f"MAIL from {sender}: not sent, a body was read as commands")
        for delivery in self.record.deliveries:
            message = by_sender.get(delivery.sender)
            if message is None or delivery.recipient not in message.recipients:
                self._wrong(f"delivered from {delivery.sender} to {delivery.recipient}: mismatch")
                continue
            expected, got = repaired(message.data), delivery.content
            if got != expected and got + b"\r\n" != expected:
                self._wrong(
                    f"{delivery.sender}: content {got[:80]!r} ({len(got)}) for"
                    f" {expected[:80]!r} ({len(expected)})"
                )
        for (sender, recipient), copies in self.delivered.items():
            earlier = copies[:-1]
            if earlier and not self.resend:
                self._wrong(f"{sender} to {recipient}: delivered {len(copies)} times")
            elif any(copy.reply.connection.lost is None for copy in earlier):
                self._wrong(f"{sender} to {recipient}: sent again although it was accepted")

    def _check_message(self, outcome: Outcome) -> None:
        message = outcome.message
        assert message is not None
        if outcome.tag is not message.tag:
            self._wrong(f"{message.sender}: tag {outcome.tag!r}")
        if list(outcome.recipients) != list(message.recipients):
            self._wrong(f"{message.sender}: results for {list(outcome.recipients)}")
        statuses = {result.status for result in outcome.recipients.values()}
        whole = (
            Status.UNKNOWN
            if Status.UNKNOWN in statuses
            else statuses.pop()
            if len(statuses) == 1
            else Status.PARTIAL
        )
        if outcome.status is not whole:
            self._wrong(f"{message.sender}: {outcome.status} as a whole, by recipients {whole}")
        for recipient, result in outcome.recipients.items():
            self._check_recipient(message.sender, recipient, result)

    def _check_recipient(self, sender: str, recipient: str, result: Any) -> None:
        about = f"{sender} to {recipient}: {result.status} ({result.code}, {result.text!r})"
        copies = self.delivered[sender, recipient]
        replied = [c for c in copies if c.reply.sent and c.reply.valid and c.reply.code < 300]
        sure = [copy for copy in replied if copy.reply.connection.lost is None]
        reply = cited(result.text, self.record)
        match result.status:
            case Status.ACCEPTED:
                if not replied:
                    self._wrong(f"{about}, but there was no 2yz to an executed transaction")
                elif reply not in [copy.reply for copy in replied]:
                    self._wrong(f"{about}, by the reply to another message: {reply}")
            case Status.UNKNOWN:
                if sure and not self.resend:
                    self._wrong(f"{about}, although the reply was written: {sure[0].reply}")
                self._check_unknown(about, sender, recipient)
            case _ if copies:
                self._wrong(f"{about}, but it was executed: {copies[0].reply}")
        if result.status in (Status.REFUSED, Status.DEFERRED):
            self._check_citation(about, sender, recipient, result, reply)

    def _check_unknown(self, about: str, sender: str, recipient: str) -> None:
        """Report UNKNOWN as wrong, unless a lost connection may have carried the whole body."""
        lost = [each for each in self.record.connections if each.lost]
        if not any(
            connection.chunked or self.window > 1 or sender in connection.awaited
            for connection in lost
        ):
            self._wrong(f"{about}, but its body cannot have been sent")

    def _check_citation(
        self, about: str, sender: str, recipient: str, result: Any, reply: Reply | None
    ) -> None:
        digit = 5 if result.status is Status.REFUSED else 4
        if result.code is None or result.code // 100 != digit:
            self._wrong(f"{about}: the code does not match the status")
        elif reply is None:
            self._wrong(f"{about}: the server sent no such reply")
        elif reply.code != result.code or reply.consequence:
            self._wrong(f"{about}: {reply} did not decide it")
        elif reply.sender not in (sender, None) or reply.recipient not in (recipient, None):
            self._wrong(f"{about}: {reply} concerned something else")

    def _few_are_unknown(self) -> None:
        unknown = sum(outcome.status is Status.UNKNOWN for outcome in self.outcomes)
        bound = len(list(self.record.lost()))
        # With a window, each lost connection can cause `window` unknown outcomes, even if the
        # server has read no MAIL on this connection. So the bound includes all lost connections,
        # not only those that `record.lost()` yields.
        if self.window > 1:
            bound = self.window * sum(bool(each.lost) for each in self.record.connections)
        if unknown > bound:
            self._wrong(f"{unknown} are UNKNOWN; at most {bound} can have been in flight")
