"""Messages a second, by one way of sending and by another, in turns.

A machine is quicker at one time than at another. So all ways send the same number of seconds
long, one after the other, and again; of the rounds the median counts.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate

from rapidsmtp.cli.contenders import Contender
from rapidsmtp.message import Message

ROUNDS = 3
# Messages that differ are repeated after so many: a real list is no single message in a cache.
_DIFFERENT = 64
# A turn shorter than this part of what it should take says too little about the pace.
_LONG_ENOUGH = 0.6
_LINE = b"The quick brown fox jumps over the lazy dog, and it does so line by line.\r\n"


@dataclass(frozen=True, slots=True)
class Work:
    """What is sent.

    Attributes:
        size: The octets of a message.
        recipients: How many recipients it has.
        latency: Seconds that every byte takes, each way.
    """

    size: int
    recipients: int = 1
    latency: float = 0.0

    def __str__(self) -> str:
        size = f"{self.size} B" if self.size < 1000 else f"{self.size / 1000:g} KB"
        to = "1 recipient" if self.recipients == 1 else f"{self.recipients} recipients"
        away = f", {2000 * self.latency:g} ms round trip" if self.latency else ""
        return f"{size}, {to}{away}"


@dataclass(slots=True)
class Measurement:
    """How fast one contender was.

    Attributes:
        work: What it sent.
        name: Its name.
        connections: How many connections it had at most.
        messages: How many messages it sent in all turns that count.
        refused: How many of them were not accepted.
        rounds: Messages accepted a second, in each turn.
        ratio: How many times as fast as smtplib.
    """

    work: Work
    name: str
    connections: int
    messages: int = 0
    refused: int = 0
    rounds: list[float] = field(default_factory=list)
    ratio: float = 0.0

    @property
    def per_second(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds) if self.rounds else 0.0


class Mailing:
    """Messages of a size, one unlike the other.

    Args:
        sender: From whom.
        recipients: To whom.
        size: The octets of each; more where the header alone is larger.
        different: How many there are before they begin anew; None where none is alike.
    """

    def __init__(
        self, sender: str, recipients: Sequence[str], size: int, different: int | None = _DIFFERENT
    ) -> None:
        self._sender, self._recipients, self._size = sender, tuple(recipients), size
        # The host's name could take seconds to find out, and time in a Message-ID would not differ.
        self._domain = sender.rpartition("@")[2] or "localhost"
        self._run = formatdate().translate(str.maketrans(" :,+", "...."))
        made: Iterator[Message] = map(self._message, itertools.count())
        if different is not None:
            made = itertools.cycle(list(itertools.islice(made, different)))
        self._messages = made

    def take(self, count: int) -> list[Message]:
        """The next messages."""
        return list(itertools.islice(self._messages, count))

    def _message(self, number: int) -> Message:
        header = (
            f"From: <{self._sender}>\r\nTo: <{self._recipients[0]}>\r\n"
            f"Subject: rapidsmtp bench\r\nDate: {formatdate()}\r\n"
            f"Message-ID: <{self._run}.{self._size}.{id(self)}.{number}@{self._domain}>\r\n\r\n"
        ).encode("utf-8", "surrogateescape")
        missing = max(0, self._size - len(header) - 2)
        body = (_LINE * (missing // len(_LINE) + 1))[:missing]
        # What the cut has left of a line end would be a bare CR.
        body = body.removesuffix(b"\r")
        end = b"." * (missing - len(body)) + b"\r\n"
        return Message(self._sender, self._recipients, header + body + end)


def timed(
    work: Work,
    contenders: Sequence[Contender],
    mailing: Mailing,
    seconds: float,
    done: Callable[[], object],
) -> list[Measurement]:
    """Measure by time: each contender sends as many messages as it can in a turn.

    Args:
        work: What is sent.
        contenders: Who sends it; smtplib first.
        mailing: The messages.
        seconds: How long a turn should take.
        done: Called after each turn, and after the trial turns of each.
    """
    counts = []
    for contender in contenders:
        counts.append(_trial(contender, mailing, seconds))
        done()
    return _in_turns(work, contenders, mailing, [counts] * ROUNDS, done)


def counted(
    work: Work,
    contenders: Sequence[Contender],
    mailing: Mailing,
    messages: int,
    done: Callable[[], object],
) -> list[Measurement]:
    """Measure by number: each contender sends so many messages, and no more.

    The first of them opens the connection, and is not timed.

    Args:
        work: What is sent.
        contenders: Who sends it; smtplib first.
        mailing: The messages.
        messages: How many each sends in all; at least 2.
        done: Called after each turn, and after the first message of each.
    """
    for contender in contenders:
        contender.send(mailing.take(1))
        done()
    rounds = min(ROUNDS, messages - 1)
    share, more = divmod(messages - 1, rounds)
    counts = [[share + (number < more)] * len(contenders) for number in range(rounds)]
    return _in_turns(work, contenders, mailing, counts, done)


def _trial(contender: Contender, mailing: Mailing, seconds: float) -> int:
    """Open the connections, and find out how many messages a turn takes."""
    contender.send(mailing.take(1))
    count = 1
    while True:
        contender.forget()
        contender.send(mailing.take(count))
        took = max(contender.seconds, 1e-6)
        if took >= seconds * _LONG_ENOUGH:
            return max(1, round(count * seconds / took))
        count = max(2 * count, min(10 * count, round(count * seconds / took)))


def _in_turns(
    work: Work,
    contenders: Sequence[Contender],
    mailing: Mailing,
    counts: Sequence[Sequence[int]],
    done: Callable[[], object],
) -> list[Measurement]:
    found = [Measurement(work, each.name, each.connections) for each in contenders]
    for number, round_counts in enumerate(counts):
        turns = list(zip(contenders, round_counts, found, strict=True))
        first = number % len(turns)
        for contender, count, measurement in turns[first:] + turns[:first]:
            messages = mailing.take(count)
            contender.forget()
            contender.send(messages)
            measurement.messages += count
            measurement.refused += contender.refused
            measurement.rounds.append(contender.per_second)
            done()
    for measurement in found:
        slowest = found[0].per_second
        measurement.ratio = measurement.per_second / slowest if slowest else 0.0
    return found
