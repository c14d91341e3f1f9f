"""Outcomes held against the server's record: whatever is not the truth, in words.

What can be said for sure of a recipient:

- executed, and the whole final 2yz was written on a connection that nothing befell: ACCEPTED;
- the same on a connection that was lost later: ACCEPTED or UNKNOWN, since what was written last
  may not have been read;
- executed, and no valid final reply was written: UNKNOWN, nothing else;
- not executed: never ACCEPTED, and UNKNOWN only if a terminator may have been under way.

Each reply of the server carries its number, so that a result's text leads to the reply that
decided it, and that must have been about this message and this recipient.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from rapidsmtp import Message, Outcome, Status
from truth.record import Delivery, Record, Reply

UNTOUCHED = (Status.REFUSED, Status.DEFERRED, Status.NOT_ATTEMPTED, Status.INVALID)


def repaired(data: bytes) -> bytes:
    """What must arrive: every line ends in CRLF, the last one too."""
    data = re.sub(rb"\r\n|\r|\n", b"\r\n", data)
    return data if data.endswith(b"\r\n") else data + b"\r\n"


def cited(text: str, record: Record) -> Reply | None:
    """The reply that a result's text comes from."""
    numbers = re.findall(r"#(\d+)#", text)
    return record.replies[int(numbers[-1]) - 1] if numbers else None


class Judge:
    """Compares what was said of each message with what the server did.

    Args:
        record: the server's.
        messages: all that was offered and taken.
        outcomes: all that was said.
        resend: whether unknown ones are sent again.
        window: messages that one lost connection may leave unknown.
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
        self._nothing_strange_was_delivered()
        for outcome in self.outcomes:
            self._judge(outcome)
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
        strangers = set(counts) - {id(message) for message in self.messages}
        if strangers:
            self._wrong(f"{len(strangers)} outcomes of messages that nobody sent")

    def _nothing_strange_was_delivered(self) -> None:
        by_sender = {message.sender: message for message in self.messages}
        for sender in {sender for sender, _ in self.record.mails} - set(by_sender):
            self._wrong(f"MAIL from {sender}: nobody sent that, a body was read as commands")
        for delivery in self.record.deliveries:
            message = by_sender.get(delivery.sender)
            if message is None or delivery.recipient not in message.recipients:
                self._wrong(f"delivered from {delivery.sender} to {delivery.recipient}: mixed up")
                continue
            wanted, got = repaired(message.data), delivery.content
            if got != wanted and got + b"\r\n" != wanted:
                self._wrong(
                    f"{delivery.sender}: content {got[:80]!r} ({len(got)}) for"
                    f" {wanted[:80]!r} ({len(wanted)})"
                )
        for (sender, recipient), copies in self.delivered.items():
            again = copies[:-1]
            if again and not self.resend:
                self._wrong(f"{sender} to {recipient}: delivered {len(copies)} times")
            elif any(copy.reply.connection.lost is None for copy in again):
                self._wrong(f"{sender} to {recipient}: sent again though it was accepted")

    def _judge(self, outcome: Outcome) -> None:
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
            self._judge_recipient(message.sender, recipient, result)

    def _judge_recipient(self, sender: str, recipient: str, result: Any) -> None:
        about = f"{sender} to {recipient}: {result.status} ({result.code}, {result.text!r})"
        copies = self.delivered[sender, recipient]
        answered = [c for c in copies if c.reply.sent and c.reply.valid and c.reply.code < 300]
        sure = [copy for copy in answered if copy.reply.connection.lost is None]
        reply = cited(result.text, self.record)
        match result.status:
            case Status.ACCEPTED:
                if not answered:
                    self._wrong(f"{about}, but there was no 2yz to an executed transaction")
                elif reply not in [copy.reply for copy in answered]:
                    self._wrong(f"{about}, by a reply that is not its own: {reply}")
            case Status.UNKNOWN:
                if sure and not self.resend:
                    self._wrong(f"{about}, though the reply was written: {sure[0].reply}")
                self._judge_unknown(about, sender, recipient)
            case _ if copies:
                self._wrong(f"{about}, but it was executed: {copies[0].reply}")
        if result.status in (Status.REFUSED, Status.DEFERRED):
            self._judge_citation(about, sender, recipient, result, reply)

    def _judge_unknown(self, about: str, sender: str, recipient: str) -> None:
        """UNKNOWN needs a body that may have gone out whole, and a connection lost with it."""
        lost = [each for each in self.record.connections if each.lost]
        if not any(
            connection.chunked or self.window > 1 or sender in connection.awaited
            for connection in lost
        ):
            self._wrong(f"{about}, but no body of it can have been under way")

    def _judge_citation(
        self, about: str, sender: str, recipient: str, result: Any, reply: Reply | None
    ) -> None:
        wanted = 5 if result.status is Status.REFUSED else 4
        if result.code is None or result.code // 100 != wanted:
            self._wrong(f"{about}: that is no such reply")
        elif reply is None:
            self._wrong(f"{about}: where is this reply from?")
        elif reply.code != result.code or reply.consequence:
            self._wrong(f"{about}: {reply} decided nothing")
        elif reply.sender not in (sender, None) or reply.recipient not in (recipient, None):
            self._wrong(f"{about}: {reply} was about something else")

    def _few_are_unknown(self) -> None:
        unknown = sum(outcome.status is Status.UNKNOWN for outcome in self.outcomes)
        bound = len(list(self.record.lost()))
        if self.window > 1:  # a whole window may have been lost in the network, unseen
            bound = self.window * sum(bool(each.lost) for each in self.record.connections)
        if unknown > bound:
            self._wrong(f"{unknown} are UNKNOWN; no more than {bound} can have been under way")
