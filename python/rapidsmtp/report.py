"""What has become of many messages: counts, and those that were not accepted."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from rapidsmtp.errors import RelayError
from rapidsmtp.outcome import Outcome, Status

_status = attrgetter("status")


@dataclass(slots=True)
class Report:
    """What has become of many messages.

    Attributes:
        counts: Messages by status.
        not_accepted: The outcomes of those that were not accepted; they hold their messages.
        error: Why the sending stopped, if it did.
        seconds: How long it took.
    """

    counts: Counter[Status] = field(default_factory=Counter)
    not_accepted: list[Outcome] = field(default_factory=list, repr=False)
    error: RelayError | None = None
    seconds: float = 0.0
    _new: list[Outcome] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def total(self) -> int:
        """All the messages."""
        return self.counts.total()

    @property
    def accepted(self) -> int:
        """The messages that were accepted for all of their recipients."""
        return self.counts[Status.ACCEPTED]

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count outcomes."""
        # Here first: an interrupt behind it leaves them to the next call, as `sending` explains.
        self._new.extend(outcomes)
        accepted = Status.ACCEPTED
        counts = self.counts + Counter(map(_status, self._new))
        others = [each for each in self._new if each.status is not accepted]
        self.not_accepted += others
        self.counts, self._new = counts, []

    def raise_for_status(self) -> None:
        """Raise what says best that not all is well; nothing if all were accepted.

        Raises:
            RelayError: The sending stopped.
            smtplib.SMTPException: As `Outcome.raise_for_status` of the first that was not
                accepted.
        """
        if self.error is not None:
            raise self.error
        for outcome in self.not_accepted:
            outcome.raise_for_status()


@contextmanager
def collected() -> Iterator[Report]:
    """A report of what the block adds to it.

    A relay that will not have us is its `error`. Whatever else the block raises has the report so
    far as its attribute `report`.
    """
    report = Report()
    start = time.monotonic()
    try:
        yield report
    except RelayError as error:
        report.error = error
    except BaseException as error:
        report.add(())
        error.report = report  # type: ignore[attr-defined]  # any exception takes one more
        raise
    finally:
        report.seconds = time.monotonic() - start


@dataclass(frozen=True, slots=True)
class Governor:
    """What a sender believes that the relay takes.

    Attributes:
        rate: Messages a second that it allows now; None for no limit.
        connections: How many connections it allows now.
        messages_per_connection: How many messages the relay takes on one connection, learned or
            given; None where no limit is known.
        recipients_per_message: The same of recipients.
        pipelining: The mode in force; None before the relay's first EHLO reply.
    """

    rate: float | None = None
    connections: int = 0
    messages_per_connection: int | None = None
    recipients_per_message: int | None = None
    pipelining: str | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """What a sender has done so far, and what it is doing.

    Attributes:
        queued: Messages that wait for a connection.
        in_flight: Messages under way on one.
        waiting: Messages that wait to be tried again.
        taken: Messages that were taken so far.
        accepted, refused, deferred, unknown, partial, invalid, not_attempted: Those whose fate
            is decided, by status.
        retried: Attempts after the first.
        per_second: Messages accepted a second, over the last seconds.
        bytes: Octets written to sockets.
        connections: Connections that are open.
        connected: Connections that were ever opened.
        governor: What it believes that the relay takes.
    """

    queued: int = 0
    in_flight: int = 0
    waiting: int = 0
    taken: int = 0
    accepted: int = 0
    refused: int = 0
    deferred: int = 0
    unknown: int = 0
    partial: int = 0
    invalid: int = 0
    not_attempted: int = 0
    retried: int = 0
    per_second: float = 0.0
    bytes: int = 0
    connections: int = 0
    connected: int = 0
    governor: Governor = field(default_factory=Governor)


_BELIEFS = {
    "rate": "rate",
    "allowed_connections": "connections",
    "messages_per_connection": "messages_per_connection",
    "recipients_per_message": "recipients_per_message",
    "pipelining": "pipelining",
}


def stats_of(known: Mapping[str, Any], told: Mapping[Status, int]) -> Stats:
    """Group what an engine tells.

    Args:
        known: The engine's figures.
        told: Messages whose fate was decided before an engine saw them, by status.
    """
    values = dict(known)
    governor = Governor(**{ours: values.pop(name) for name, ours in _BELIEFS.items()})
    for status, count in told.items():
        values[status.name.lower()] += count
        values["taken"] += count
    return Stats(**values, governor=governor)
