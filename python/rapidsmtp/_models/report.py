"""The results of many messages: counts by status, and the outcomes of refused or lost messages."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from rapidsmtp._models.outcome import Outcome, Status
from rapidsmtp.errors import RelayError

_status = attrgetter("status")


@dataclass(slots=True)
class Report:
    """The results of many messages.

    Attributes:
        counts: The number of messages for each status.
        not_accepted: The outcomes of all messages that were not accepted.
        error: The error that stopped sending, or None.
        seconds: The duration of sending, in seconds.
    """

    counts: Counter[Status] = field(default_factory=Counter)
    not_accepted: list[Outcome] = field(default_factory=list, repr=False)
    error: RelayError | None = None
    seconds: float = 0.0
    _new: list[Outcome] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def total(self) -> int:
        """The number of messages."""
        return self.counts.total()

    @property
    def accepted(self) -> int:
        """The number of messages that were accepted for all of their recipients."""
        return self.counts[Status.ACCEPTED]

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Add outcomes to the report."""
        # `_new` keeps the outcomes until they are counted. If an exception interrupts this call
        # (see `batching`), the next call of `add` counts them.
        self._new.extend(outcomes)
        accepted = Status.ACCEPTED
        counts = self.counts + Counter(map(_status, self._new))
        self.not_accepted += [each for each in self._new if each.status is not accepted]
        self.counts, self._new = counts, []

    def raise_for_status(self) -> None:
        """Raise an exception unless all messages were accepted.

        Raises:
            RelayError: An error of the relay stopped sending.
            smtplib.SMTPException: The exception of `Outcome.raise_for_status` for the first message
                that was not accepted.
        """
        if self.error is not None:
            raise self.error
        for outcome in self.not_accepted:
            outcome.raise_for_status()


Report.__module__ = "rapidsmtp"


@contextmanager
def collected() -> Iterator[Report]:
    """Yield a report to which the `with` block adds outcomes.

    A `RelayError` that the block raises becomes the report's `error`. For any other exception, the
    report is stored in the attribute `report` of the exception.
    """
    report = Report()
    start = time.monotonic()
    try:
        yield report
    except RelayError as error:
        report.error = error
    except BaseException as error:
        report.add(())
        error.report = report  # type: ignore[attr-defined]  # exceptions take new attributes
        raise
    finally:
        report.seconds = time.monotonic() - start


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """The limits of a relay: limits that a sender has detected and limits that the caller has set.

    Attributes:
        rate: The maximum rate, in messages per second; None for no limit.
        connections: The current maximum number of connections.
        messages_per_connection: The maximum number of messages on one connection; None if no limit
            is known.
        recipients_per_message: The maximum number of recipients of one message; None if no limit is
            known.
        pipelining: The pipelining mode in use; None before the relay's first EHLO reply.
    """

    rate: float | None = None
    connections: int = 0
    messages_per_connection: int | None = None
    recipients_per_message: int | None = None
    pipelining: str | None = None


RelayLimits.__module__ = "rapidsmtp"


@dataclass(frozen=True, slots=True)
class Stats:
    """The counters of a sender.

    Attributes:
        queued: The number of messages that wait for a connection.
        in_flight: The number of messages that are being sent.
        waiting: The number of messages that wait for a retry.
        taken: The number of messages that the sender has received from the program so far.
        accepted, refused, deferred, unknown, partial, invalid, not_attempted: The number of
            finished messages with that status.
        retried: The number of retries: all attempts except the first attempt of each message.
        per_second: The rate of accepted messages over the last 5 seconds, in messages per second.
        bytes: The number of bytes written to sockets.
        connections: The number of open connections.
        connected: The number of connections opened so far.
        refusing_for: The time for which the relay has refused every message, in seconds; 0 if it
            accepts messages.
        refusal: The last refusal of a message, or the last failure of a connection; None if the
            relay accepts messages and no message waits for a retry.
        next_attempt: The time until the next attempt, in seconds; 0 if `refusal` is None, or while
            an attempt is in progress.
        relay_limits: The limits of the relay.
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
    refusing_for: float = 0.0
    refusal: str | None = None
    next_attempt: float = 0.0
    relay_limits: RelayLimits = field(default_factory=RelayLimits)


Stats.__module__ = "rapidsmtp"


# For each relay limit: its name in the engine's counters, and its name in `RelayLimits`.
_RELAY_LIMITS = {
    "rate": "rate",
    "allowed_connections": "connections",
    "messages_per_connection": "messages_per_connection",
    "recipients_per_message": "recipients_per_message",
    "pipelining": "pipelining",
}


def stats_of(engine_stats: Mapping[str, Any], without_engine: Mapping[Status, int]) -> Stats:
    """Return the counters of a sender.

    Args:
        engine_stats: The counters of the engine.
        without_engine: For each status, the number of messages that got this status before they
            reached the engine.
    """
    values = dict(engine_stats)
    relay_limits = RelayLimits(**{own: values.pop(name) for name, own in _RELAY_LIMITS.items()})
    for status, count in without_engine.items():
        values[status.name.lower()] += count
        values["taken"] += count
    return Stats(**values, relay_limits=relay_limits)
