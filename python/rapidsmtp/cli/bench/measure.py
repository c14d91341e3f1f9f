"""Messages per second of several competitors, measured in turns.

The load of the machine changes during a measurement. So the competitors take short turns, in
several rounds, and each change of the load affects all of them. The result of a competitor is the
median of its rounds.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate

from rapidsmtp._models.message import Message
from rapidsmtp.cli.bench.competitors import Competitor

ROUNDS = 3
# The number of distinct messages. With a single message, the measured speed would be too high,
# because the message would stay in the processor's cache.
_DISTINCT = 64
# The minimum duration of a trial, as a fraction of a turn. A shorter trial is repeated with more
# messages, because it is not precise enough.
_LONG_ENOUGH = 0.6
# The minimum number of messages in a trial, for each connection. With fewer messages, some
# connections might send none.
_LEAST_PER_CONNECTION = 4
_LINE = b"The quick brown fox jumps over the lazy dog, and it does so line by line.\r\n"


@dataclass(frozen=True, slots=True)
class Workload:
    """The properties of the messages of a measurement.

    Attributes:
        size: The size of each message, in bytes.
        recipients: The number of recipients of each message.
        latency: The simulated delay in each direction, in seconds.
    """

    size: int
    recipients: int = 1
    latency: float = 0.0

    def __str__(self) -> str:
        size = f"{self.size} B" if self.size < 1000 else f"{self.size / 1000:g} KB"
        to = "1 recipient" if self.recipients == 1 else f"{self.recipients} recipients"
        delay = f", {2000 * self.latency:g} ms round trip" if self.latency else ""
        return f"{size}, {to}{delay}"


@dataclass(slots=True)
class Measurement:
    """The speed of one competitor.

    Attributes:
        workload: The size, the recipients and the latency of the measured messages.
        name: The competitor's name.
        connections: The maximum number of connections.
        messages: The number of messages sent in all rounds. The messages of the trial are not
            included.
        refused: The number of these messages that were not accepted.
        rounds: The number of messages accepted per second, for each round.
        ratio: The speed divided by the speed of smtplib over the same number of connections.
    """

    workload: Workload
    name: str
    connections: int
    messages: int = 0
    refused: int = 0
    rounds: list[float] = field(default_factory=list)
    ratio: float = 0.0

    @property
    def per_second(self) -> float:
        """The number of messages accepted per second: the median of `rounds`."""
        return statistics.median(self.rounds) if self.rounds else 0.0


class MessageSource:
    """An endless source of messages of one size.

    Args:
        sender: The sender's address.
        recipients: The recipients' addresses.
        size: The size of each message, in bytes. If the header is larger, the body is only a line
            end.
        distinct: The number of distinct messages. After them, the source returns the same messages
            again. None means that no message is returned twice.
    """

    def __init__(
        self, sender: str, recipients: Sequence[str], size: int, distinct: int | None = _DISTINCT
    ) -> None:
        self._sender, self._recipients, self._size = sender, tuple(recipients), size
        # The domain of the Message-IDs. This host's name is not used, because its look-up could
        # take seconds.
        self._domain = sender.rpartition("@")[2] or "localhost"
        self._run = formatdate().translate(str.maketrans(" :,+", "...."))
        messages: Iterator[Message] = map(self._message, itertools.count())
        if distinct is not None:
            messages = itertools.cycle(list(itertools.islice(messages, distinct)))
        self._messages = messages

    def take(self, count: int) -> list[Message]:
        """Return the next `count` messages."""
        return list(itertools.islice(self._messages, count))

    def _message(self, number: int) -> Message:
        header = (
            f"From: <{self._sender}>\r\nTo: <{self._recipients[0]}>\r\n"
            f"Subject: rapidsmtp bench\r\nDate: {formatdate()}\r\n"
            f"Message-ID: <{self._run}.{self._size}.{id(self)}.{number}@{self._domain}>\r\n\r\n"
        ).encode("utf-8", "surrogateescape")
        missing = max(0, self._size - len(header) - 2)
        body = (_LINE * (missing // len(_LINE) + 1))[:missing]
        # The slice above may end between CR and LF. RFC 5321 section 2.3.8 forbids a bare CR, so
        # the CR is removed.
        body = body.removesuffix(b"\r")
        end = b"." * (missing - len(body)) + b"\r\n"
        return Message(self._sender, self._recipients, header + body + end)


def measure_by_time(
    workload: Workload,
    competitors: Sequence[Competitor],
    source: MessageSource,
    seconds: float,
    done: Callable[[], object],
) -> list[Measurement]:
    """Measure competitors in turns of equal duration.

    Args:
        workload: The properties of the messages, to store in each measurement.
        competitors: The competitors. For each number of connections, smtplib is the first.
        source: The source of the messages. Their size and number of recipients must be those of
            `workload`.
        seconds: The duration of a turn, in seconds.
        done: A function that is called after each turn, and after each competitor's trial.
    """
    counts = []
    for competitor in competitors:
        counts.append(_trial(competitor, source, seconds))
        done()
    return _measure_in_turns(workload, competitors, source, [counts] * ROUNDS, done)


def measure_by_count(
    workload: Workload,
    competitors: Sequence[Competitor],
    source: MessageSource,
    messages: int,
    done: Callable[[], object],
) -> list[Measurement]:
    """Measure competitors that send the same fixed number of messages.

    The first message opens the connection and is not timed.

    Args:
        workload: The properties of the messages, to store in each measurement.
        competitors: The competitors. For each number of connections, smtplib is the first.
        source: The source of the messages. Their size and number of recipients must be those of
            `workload`.
        messages: The number of messages that each competitor sends. The minimum is 2.
        done: A function that is called after each turn, and after each competitor's first message.
    """
    for competitor in competitors:
        competitor.send(source.take(1))
        done()
    rounds = min(ROUNDS, messages - 1)
    share, more = divmod(messages - 1, rounds)
    counts = [[share + (number < more)] * len(competitors) for number in range(rounds)]
    return _measure_in_turns(workload, competitors, source, counts, done)


def _trial(competitor: Competitor, source: MessageSource, seconds: float) -> int:
    """Open the connections, and find how many messages the competitor sends in `seconds`."""
    connections = competitor.connections
    least = 1 if connections == 1 else _LEAST_PER_CONNECTION * connections
    competitor.send(source.take(least))
    count = least
    while True:
        competitor.reset()
        competitor.send(source.take(count))
        took = max(competitor.seconds, 1e-6)
        if took >= seconds * _LONG_ENOUGH:
            return max(least, round(count * seconds / took))
        count = max(2 * count, min(10 * count, round(count * seconds / took)))


def _measure_in_turns(
    workload: Workload,
    competitors: Sequence[Competitor],
    source: MessageSource,
    counts: Sequence[Sequence[int]],
    done: Callable[[], object],
) -> list[Measurement]:
    """Measure competitors in turns.

    `counts[round][competitor]` is the number of messages to send.
    """
    found = [Measurement(workload, each.name, each.connections) for each in competitors]
    for number, round_counts in enumerate(counts):
        turns = list(zip(competitors, round_counts, found, strict=True))
        first = number % len(turns)
        for competitor, count, measurement in turns[first:] + turns[:first]:
            messages = source.take(count)
            competitor.reset()
            competitor.send(messages)
            measurement.messages += count
            measurement.refused += competitor.refused
            measurement.rounds.append(competitor.per_second)
            done()
    for measurement in found:
        same = (each for each in found if each.connections == measurement.connections)
        base = next(same).per_second  # the first of them is smtplib
        measurement.ratio = measurement.per_second / base if base else 0.0
    return found
