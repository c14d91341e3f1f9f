"""The pure-Python bulk engine. It runs worker threads and has the compiled engine's interface.

One lock protects the connection pool, its queue and the outboxes. Callers wait on conditions of
that lock. While a caller waits, other Python threads can run. The import of this module creates no
thread. The first thread starts when the first message is submitted. After a `fork`, the child
process creates its own engine. Of the parent's engine, the child calls only `descriptors`.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import repeat
from typing import Any

from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure.job import Job, MessageOutcome, RecipientGroup, RecipientOutcome
from rapidsmtp._pure.outcome import INVALID
from rapidsmtp._pure.pool import ConnectionPool
from rapidsmtp._pure.request_queue import RequestQueue
from rapidsmtp._pure.session import ConnectionFailure
from rapidsmtp._pure.worker import WorkerContext, WorkerThread

LAST_REPLIES = 0.2
"""The minimum time for which `close` waits for the replies to messages in flight, in seconds. It
applies even if the time limit of `close` is shorter."""

MIN_STOP = 1.0
"""The minimum time between a stop and the next restart, in seconds. Each restart causes a
connection attempt, so this time limits the rate of connection attempts."""


class _Outbox:
    """The finished messages of one caller, with their outcomes.

    Attributes:
        outcomes: The finished messages with their outcomes, until the caller fetches them.
        pending: The number of messages without an outcome.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self.changed = threading.Condition(lock)
        self.outcomes: deque[tuple[object, MessageOutcome]] = deque()
        self.pending = 0
        self.closed = False


class Engine:
    """The engine: a connection pool for one relay, and the messages that callers have submitted.

    Args:
        settings: The settings.
        path_of: The function that returns the path for an address. It is called only for addresses
            that are not plain, and raises ValueError for an invalid address.

    Raises:
        ValueError: The certificates or the key cannot be read.
    """

    def __init__(self, settings: EngineSettings, path_of: Callable[[str], str]) -> None:
        self._settings = settings
        self._path_of = path_of
        self._lock = threading.Lock()
        self._requests = RequestQueue()
        trace = self._requests.add_trace if self._settings.trace else None
        self._context = WorkerContext(self._settings, trace, self._ask_password)
        self._pool = ConnectionPool(self._settings, self._lock, self._make_worker, self._finish)
        self._outboxes: dict[int, _Outbox] = {}
        self._last_outbox = 0
        self._jobs = 0
        self._bytes = 0
        self._taken = 0
        self._closed = 0
        self._counts = Counter(dict.fromkeys(_COUNTED, 0))
        self._no_jobs = threading.Condition(self._lock)

    def _make_worker(self) -> WorkerThread:
        return WorkerThread(self._pool, self._context)

    # Messages and outcomes

    def open_outbox(self) -> int:
        """Open an outbox and return its number."""
        with self._lock:
            self._last_outbox += 1
            self._outboxes[self._last_outbox] = _Outbox(self._lock)
            return self._last_outbox

    def submit(self, outbox: int, messages: list[Any], wait: float) -> int:
        """Move messages from the front of a list to the queue, as long as the queue has capacity.

        Args:
            outbox: The number of the outbox for the outcomes.
            messages: Objects with the attributes of `Message`. Queued messages are removed from
                the list.
            wait: The maximum time to wait for capacity, in seconds. The wait also ends when this
                outbox holds an outcome, so that the caller can fetch the outcome.

        Returns:
            The number of messages moved to the queue.
        """
        deadline = time.monotonic() + wait
        with self._lock:
            box = self._outboxes[outbox]
            while messages and not self._has_capacity(messages[0], 0, 0):
                left = deadline - time.monotonic()
                if left <= 0 or box.outcomes:
                    return 0
                box.changed.wait(left)
            jobs: list[Job] = []
            size = 0
            for message in messages:
                if not self._has_capacity(message, len(jobs), size):
                    break
                jobs.append(self._job(message, box))
                size += jobs[-1].size
            self._enqueue(jobs, box, messages)
            return len(jobs)

    def _has_capacity(self, message: Any, number: int, size: int) -> bool:
        """Return whether the queue has capacity for one more message.

        Args:
            message: The message.
            number: The number of messages that `submit` will add before this message.
            size: The total size of those messages, in bytes.
        """
        number += self._jobs
        if self._pool.stopped or self._pool.closing:
            return True  # not queued: the message gets its outcome at once
        if not number:
            return True  # the only message in the queue may have any size
        settings = self._settings
        size += self._bytes + len(message.data)
        return number < settings.queue_size and size <= settings.queue_bytes

    def _job(self, message: Any, box: _Outbox) -> Job:
        """Create a job for a message.

        If the message cannot be sent, the new job already contains its outcome.
        """
        job = Job(message, box)
        if self._pool.stopped or self._pool.closing:
            job.decide_all(self._pool.unsent())
            return job
        try:
            job.render_envelope(self._path_of)
        except (ValueError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            job.decide_all(RecipientOutcome(INVALID, "build", None, None, reason))
        return job

    def _enqueue(self, jobs: list[Job], box: _Outbox, messages: list[Any]) -> None:
        now = self._pool.clock.now()
        number = len(jobs)
        decided = [(job.message, job.outcome(now)) for job in jobs if job.is_decided]
        counts = Counter(self._counts)
        counts.update(outcome.status.lower() for _, outcome in decided)
        accepted = [job for job in jobs if not job.is_decided]
        groups = [RecipientGroup(job, range(len(job.recipients))) for job in accepted]
        total = self._jobs + len(accepted)
        size = self._bytes + sum(job.size for job in accepted)
        pending = box.pending + len(accepted)
        ready, outcomes = self._pool.queue.ready, box.outcomes
        # CPython runs signal handlers only at calls and loops, and the following statements contain
        # neither. So an exception of a signal handler, for example `KeyboardInterrupt`, never
        # leaves only some of these statements executed.
        del messages[:number]
        ready += groups
        outcomes += decided
        self._jobs, self._bytes, box.pending = total, size, pending
        self._counts, self._taken = counts, self._taken + number
        if decided:
            box.changed.notify_all()
        if groups:
            self._pool.wake(len(groups))

    def _finish(self, job: Job, now: float) -> None:
        """Move the outcome of a finished message to its outbox."""
        outcome = job.outcome(now)
        self._counts[outcome.status.lower()] += 1
        self._jobs -= 1
        self._bytes -= job.size
        box: _Outbox = job.outbox
        box.pending -= 1
        if not box.closed:
            box.outcomes.append((job.message, outcome))
        for each in self._outboxes.values():
            each.changed.notify_all()
        if not self._jobs:
            self._no_jobs.notify_all()
            self._pool.wake_all()

    def take(self, outbox: int, into: list[Any], limit: int, wait: float) -> int:
        """Move finished messages with their outcomes from an outbox to a list.

        Args:
            outbox: The number of the outbox.
            into: The list that receives pairs of a submitted object and its outcome.
            limit: The maximum number of pairs.
            wait: The maximum time to wait for the first pair, in seconds.

        Returns:
            The number of pairs moved.
        """
        deadline = time.monotonic() + wait
        if (worker := self._pool.take_unstarted()) is not None:
            worker.run()
        with self._lock:
            box = self._outboxes.get(outbox)
            if box is None:
                return 0
            closed = self._closed
            while not box.outcomes and not box.closed and closed == self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return 0
                box.changed.wait(left)
            number = min(limit, len(box.outcomes))
            # The next line is one call of C code. A signal handler runs only before or after this
            # call. So an exception of the handler cannot lose an outcome that is already removed
            # from the outbox.
            into.extend(map(deque.popleft, repeat(box.outcomes, number)))
            return number

    def pending(self, outbox: int) -> int:
        """Return the number of submitted messages whose outcome was not fetched with `take`."""
        with self._lock:
            box = self._outboxes.get(outbox)
            return 0 if box is None else box.pending + len(box.outcomes)

    def close_outbox(self, outbox: int) -> None:
        """Close an outbox.

        If a message of this outbox finishes later, its outcome is counted in `stats` but not
        stored.
        """
        with self._lock:
            box = self._outboxes.pop(outbox, None)
            if box is not None:
                box.closed = True
                box.outcomes.clear()
                box.changed.notify_all()

    # Requests to the owner of the engine

    def requests(self, wait: float) -> list[tuple[str, object]]:
        """Return the new requests of the engine.

        The owner of the engine, which is the code that uses it, must process each request.

        `("trace", line)` asks the owner to write a trace line. `("password", None)` asks the owner
        for the password.

        Args:
            wait: The maximum time to wait for the first request, in seconds.
        """
        return self._requests.take(wait)

    def answer_password(self, value: str | None, reason: str) -> None:
        """Answer a `("password", None)` request.

        Args:
            value: The password or token; None if reading the password failed.
            reason: The reason why reading the password failed; not used if `value` is given.
        """
        self._requests.answer_password(value, reason)

    def _ask_password(self) -> str:
        if not self._settings.ask_password:
            return self._settings.password or ""
        value, reason = self._requests.ask_password(self._settings.timeouts.command)
        if value is None:
            line = f"relay {self._settings.relay}: reading the password failed: {reason}"
            raise ConnectionFailure(line, stops=True)
        return value

    # State

    def stats(self) -> dict[str, object]:
        """Return the counters, and the limits of the rate controller."""
        with self._lock:
            pool = self._pool
            now = pool.clock.now()
            pool.queue.move_due(now)
            rate_controller = pool.rate_controller
            return {
                "queued": len(pool.queue.ready),
                "in_flight": len(pool.in_flight),
                "waiting": pool.queue.waiting,
                "taken": self._taken,
                **self._counts,
                "retried": pool.retried,
                "per_second": rate_controller.per_second(now),
                "bytes": self._context.written,
                "connections": pool.open,
                "connected": pool.connected_ever,
                "rate": rate_controller.rate(now),
                "allowed_connections": rate_controller.allowed_connections(now),
                "messages_per_connection": rate_controller.messages_per_connection,
                "recipients_per_message": rate_controller.recipients_per_message,
                "pipelining": self._context.pipelining,
            }

    def error(self) -> tuple[str, int | None, bytes, float | None] | None:
        """Return the reason why the engine has stopped; None if it has not stopped.

        Returns:
            The reason, in one line; the code of the relay's reply; the text of this reply; the
            seconds after which the relay may accept mail again. If no reply caused the stop, the
            code is None and the text is empty. If the reply states no time, the time is None.
        """
        with self._lock:
            stopped = self._pool.stopped
            if stopped is None:
                return None
            code, text = stopped.reply or (None, b"")
            return stopped.line, code, text, stopped.retry_after

    def restart(self) -> None:
        """Restart a stopped engine.

        Do nothing if the reason of the stop is permanent, or if the stop has lasted for less than
        `MIN_STOP` seconds.
        """
        with self._lock:
            stopped = self._pool.stopped
            if stopped is None or stopped.permanent:
                return
            if time.monotonic() - stopped.at >= MIN_STOP:
                self._pool.resume()

    def descriptors(self) -> list[int]:
        """Return the descriptors of the open sockets, for the child after a fork.

        The method acquires no lock. If another thread of the parent held the lock at the fork, the
        lock would never be released in the child.
        """
        return list(self._context.descriptors)

    # The end

    def close(self, wait: float | None, drained: bool = True) -> None:
        """Accept no more messages, and wait for the outcomes of the submitted messages.

        Args:
            wait: The time limit, in seconds; None for no limit. After the time limit, messages
                whose sending has not started get the outcome "not attempted". Messages in flight
                without a final reply get the outcome "unknown".
            drained: Whether to send the queued messages within the time limit. If false, they get
                the outcome "not attempted".
        """
        deadline = None if wait is None else time.monotonic() + wait
        with self._lock:
            self._pool.closing = True
            self._pool.drop_unstarted()
            self._pool.wake()  # an interrupt may have ended `submit` before it called `wake`
            self._pool.wake_all()
            if not drained:
                self._pool.aborted = True
                self._pool.give_up()
            if not self._wait_for_jobs(deadline):
                self._give_up()
            self._pool.aborted = self._pool.aborted or deadline is not None
            self._end_connections(deadline)
            self._closed += 1
            for box in self._outboxes.values():
                box.changed.notify_all()
        self._requests.close()

    def _wait_for_jobs(self, deadline: float | None) -> bool:
        while self._jobs:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._no_jobs.wait(left)
        return True

    def _give_up(self) -> None:
        """Give up the queued messages, and wait a short time for messages in flight.

        The maximum time to wait for their replies is `LAST_REPLIES`. Then abort the connections.
        """
        self._pool.aborted = True
        self._pool.give_up()
        if not self._wait_for_jobs(time.monotonic() + LAST_REPLIES):
            for transport in list(self._context.transports):
                transport.abort()
            self._wait_for_jobs(time.monotonic() + 1.0)

    def _end_connections(self, deadline: float | None) -> None:
        """Let the worker threads send QUIT, and abort connections that exceed the time limit."""
        limit = time.monotonic() + self._settings.timeouts.quit
        if deadline is not None:
            limit = min(limit, max(deadline, time.monotonic() + LAST_REPLIES))
        self._pool.wake_all()
        while self._context.transports and (left := limit - time.monotonic()) > 0:
            self._pool.left.wait(left)
        for transport in list(self._context.transports):
            transport.abort()


_COUNTED = (
    "accepted",
    "refused",
    "deferred",
    "unknown",
    "partial",
    "invalid",
    "not_attempted",
)
