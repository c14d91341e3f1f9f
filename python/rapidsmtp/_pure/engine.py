"""The bulk engine on threads: the door that both halves have.

One lock holds it together: over the crew, its backlog, and the channels that outcomes go out by.
Whoever waits does so on a condition of that lock, with the interpreter's lock free. Nothing is
made when this module is imported, and no thread lives before there is work: a child after `fork`
makes an engine of its own, and of this one only `descriptors` is asked.
"""

import threading
import time
from collections import Counter, deque
from itertools import repeat
from typing import Any

from rapidsmtp._pure.attention import Attention
from rapidsmtp._pure.crew import Crew
from rapidsmtp._pure.dialogue import Unavailable
from rapidsmtp._pure.job import Errand, Fate, Job, Result
from rapidsmtp._pure.outcome import INVALID
from rapidsmtp._pure.settings import Settings
from rapidsmtp._pure.worker import Board, Worker

LAST_REPLIES = 0.2
"""Seconds that what is in flight has for its replies, even where the time is over."""

CALM_AFTER_STOP = 1.0
"""Seconds after a stop in which it cannot be forgotten: no storm of attempts."""


class _Channel:
    """A consumer of outcomes.

    Attributes:
        decided: messages and their results, not yet taken.
        pending: how many have no result yet.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self.changed = threading.Condition(lock)
        self.decided: deque[tuple[object, Result]] = deque()
        self.pending = 0
        self.forgotten = False


class Engine:
    """A pool of connections to one relay, and the messages on their way through it.

    Args:
        settings: those of `Settings`, by keyword.

    Raises:
        ValueError: the certificates or the key cannot be read.
        TypeError: a setting is missing, or unknown.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = Settings(**settings)
        self._lock = threading.Lock()
        self._attention = Attention()
        tell = self._attention.tell if self._settings.trace else None
        self._board = Board(self._settings, tell, self._ask_password)
        self._crew = Crew(self._settings, self._lock, self._hire, self._finish)
        self._channels: dict[int, _Channel] = {}
        self._last_channel = 0
        self._jobs = 0
        self._octets = 0
        self._taken = 0
        self._closed = 0
        self._counts = Counter(dict.fromkeys(_COUNTED, 0))
        self._over = threading.Condition(self._lock)

    def _hire(self) -> Worker:
        return Worker(self._crew, self._board)

    # Outcomes and messages

    def channel(self) -> int:
        """Make a consumer of outcomes."""
        with self._lock:
            self._last_channel += 1
            self._channels[self._last_channel] = _Channel(self._lock)
            return self._last_channel

    def offer(self, channel: int, messages: list[Any], wait: float) -> int:
        """Take messages from the front of a list while there is room.

        Args:
            channel: who wants their outcomes.
            messages: what has the attributes of `Message`; those that are taken are removed.
            wait: seconds to wait for room, where there is none; no longer than until an outcome
                of this channel is ready.

        Returns:
            How many were taken.
        """
        deadline = time.monotonic() + wait
        with self._lock:
            consumer = self._channels[channel]
            while messages and not self._has_room(messages[0], 0, 0):
                left = deadline - time.monotonic()
                if left <= 0 or consumer.decided:
                    return 0
                consumer.changed.wait(left)
            jobs: list[Job] = []
            octets = 0
            for message in messages:
                if not self._has_room(message, len(jobs), octets):
                    break
                jobs.append(self._job(message, consumer))
                octets += jobs[-1].size
            self._take_in(jobs, consumer, messages)
            return len(jobs)

    def _has_room(self, message: Any, number: int, octets: int) -> bool:
        """Whether there is room for a message beside those that are about to be taken."""
        number += self._jobs
        if self._crew.stopped or self._crew.closing or not number:
            return True  # decided at once, or alone, however large
        settings = self._settings
        octets += self._octets + len(message.data)
        return number < settings.queue_size and octets <= settings.queue_bytes

    def _job(self, message: Any, consumer: _Channel) -> Job:
        """Make a job of a message; it may be decided at once."""
        job = Job(message, consumer)
        if self._crew.stopped or self._crew.closing:
            job.decide_all(self._crew.unsent())
            return job
        try:
            job.address(self._settings.path_of)
        except (ValueError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            job.decide_all(Fate(INVALID, "build", None, None, reason))
        return job

    def _take_in(self, jobs: list[Job], consumer: _Channel, messages: list[Any]) -> None:
        now = time.monotonic()
        number = len(jobs)
        told = [(job.message, job.result(now)) for job in jobs if job.is_decided]
        counts = Counter(self._counts)
        counts.update(result.status.lower() for _, result in told)
        sent = [job for job in jobs if not job.is_decided]
        errands = [Errand(job, range(len(job.recipients))) for job in sent]
        waiting = self._jobs + len(sent)
        octets = self._octets + sum(job.size for job in sent)
        pending = consumer.pending + len(sent)
        ready, decided = self._crew.backlog.ready, consumer.decided
        # What a signal's handler raises here comes before all of it or behind it: CPython looks for
        # signals at calls and loops alone.
        del messages[:number]
        ready += errands
        decided += told
        self._jobs, self._octets, consumer.pending = waiting, octets, pending
        self._counts, self._taken = counts, self._taken + number
        if told:
            consumer.changed.notify_all()
        if errands:
            self._crew.call(len(errands))

    def _finish(self, job: Job, now: float) -> None:
        """A message is decided."""
        result = job.result(now)
        self._counts[result.status.lower()] += 1
        self._jobs -= 1
        self._octets -= job.size
        consumer: _Channel = job.channel
        consumer.pending -= 1
        if not consumer.forgotten:
            consumer.decided.append((job.message, result))
        for each in self._channels.values():
            each.changed.notify_all()
        if not self._jobs:
            self._over.notify_all()
            self._crew.wake_all()

    def take(self, channel: int, into: list[Any], limit: int, wait: float) -> int:
        """Take messages that are decided: the very objects that were offered, and their results.

        Args:
            channel: whose.
            into: the pairs are appended to it.
            limit: the most at once.
            wait: seconds to wait for the first.

        Returns:
            How many there were.
        """
        deadline = time.monotonic() + wait
        if (worker := self._crew.threadless()) is not None:
            worker.run()
        with self._lock:
            consumer = self._channels.get(channel)
            if consumer is None:
                return 0
            closed = self._closed
            while not consumer.decided and not consumer.forgotten and closed == self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return 0
                consumer.changed.wait(left)
            number = min(limit, len(consumer.decided))
            # One call into C: an interrupt comes before it or behind it.
            into.extend(map(deque.popleft, repeat(consumer.decided, number)))
            return number

    def undecided(self, channel: int) -> int:
        """How many messages were taken from a channel and not yet given out to it."""
        with self._lock:
            consumer = self._channels.get(channel)
            return 0 if consumer is None else consumer.pending + len(consumer.decided)

    def forget(self, channel: int) -> None:
        """Nobody will take from a channel: its results are only counted from now on."""
        with self._lock:
            consumer = self._channels.pop(channel, None)
            if consumer is not None:
                consumer.forgotten = True
                consumer.decided.clear()
                consumer.changed.notify_all()

    # What the face is asked

    def attend(self, wait: float) -> list[tuple[str, object]]:
        """What the face has to do: `("trace", line)`, `("password", None)`.

        Args:
            wait: seconds to wait for the first.
        """
        return self._attention.attend(wait)

    def password(self, value: str | None, reason: str) -> None:
        """Answer to `("password", None)`.

        Args:
            value: the password or token; None where it could not be had.
            reason: why not.
        """
        self._attention.answer(value, reason)

    def _ask_password(self) -> str:
        if not self._settings.ask_password:
            return self._settings.password or ""
        value, reason = self._attention.ask(self._settings.timeouts["command"])
        if value is None:
            raise Unavailable(f"no password for {self._settings.relay}: {reason}", stops=True)
        return value

    # State

    def stats(self) -> dict[str, object]:
        """What was done, what is under way, and what the governor believes."""
        with self._lock:
            crew, now = self._crew, time.monotonic()
            crew.backlog.wake(now)
            governor = crew.governor
            return {
                "queued": len(crew.backlog.ready),
                "in_flight": len(crew.in_flight),
                "waiting": crew.backlog.waiting,
                "taken": self._taken,
                **self._counts,
                "retried": crew.retried,
                "per_second": governor.per_second(now),
                "bytes": self._board.written,
                "connections": crew.open,
                "connected": crew.connected_ever,
                "rate": governor.rate(now),
                "allowed_connections": governor.allowed_connections(now),
                "messages_per_connection": governor.messages_per_connection,
                "recipients_per_message": governor.recipients_per_message,
                "pipelining": self._board.pipelining,
            }

    def error(self) -> tuple[str, int | None, bytes] | None:
        """Why the engine has stopped: a line, the reply's code and its text."""
        with self._lock:
            stopped = self._crew.stopped
            if stopped is None:
                return None
            code, text = stopped.reply or (None, b"")
            return stopped.line, code, text

    def restart(self) -> None:
        """Forget a stop that may pass, if it is not too fresh."""
        with self._lock:
            stopped = self._crew.stopped
            if stopped is None or stopped.for_good:
                return
            if time.monotonic() - stopped.at >= CALM_AFTER_STOP:
                self._crew.resume()

    def descriptors(self) -> list[int]:
        """The open sockets, for the child after a fork; asks for no lock."""
        return list(self._board.descriptors)

    # The end

    def close(self, wait: float | None, drained: bool = True) -> None:
        """Take no more, and wait for what was taken.

        Args:
            wait: seconds, or None for as long as it takes. After them what was not begun is not
                attempted, and what waits for its final reply is unknown.
            drained: whether what waits is sent until then, or given up at once.
        """
        deadline = None if wait is None else time.monotonic() + wait
        with self._lock:
            self._crew.closing = True
            self._crew.forgo()
            self._crew.call()  # an interrupt may have come before it
            self._crew.wake_all()
            if not drained:
                self._crew.cut = True
                self._crew.give_up()
            if not self._wait_for_all(deadline):
                self._give_up(deadline)
            self._crew.cut = self._crew.cut or deadline is not None
            self._part(deadline)
            self._closed += 1
            for consumer in self._channels.values():
                consumer.changed.notify_all()
        self._attention.close()

    def _wait_for_all(self, deadline: float | None) -> bool:
        while self._jobs:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._over.wait(left)
        return True

    def _give_up(self, deadline: float | None) -> None:
        """What is queued is not attempted; what is in flight has a moment for its replies."""
        self._crew.cut = True
        self._crew.give_up()
        if not self._wait_for_all(time.monotonic() + LAST_REPLIES):
            for wire in list(self._board.wires):
                wire.cut()
            self._wait_for_all(time.monotonic() + 1.0)

    def _part(self, deadline: float | None) -> None:
        """Let the workers say goodbye; whoever takes too long is cut off."""
        limit = time.monotonic() + self._settings.timeouts["quit"]
        if deadline is not None:
            limit = min(limit, max(deadline, time.monotonic() + LAST_REPLIES))
        self._crew.wake_all()
        while self._board.wires and (left := limit - time.monotonic()) > 0:
            self._crew.left.wait(left)
        for wire in list(self._board.wires):
            wire.cut()


_COUNTED = (
    "accepted",
    "refused",
    "deferred",
    "unknown",
    "partial",
    "invalid",
    "not_attempted",
)
