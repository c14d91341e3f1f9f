"""The engine queue: messages in, outcomes out.

    caller ── submit ──► inbox ──► pool
    caller ◄── take ──── outbox, one for each consumer ◄── deliver ── pool

One lock protects the queue and the pool. Callers and connection threads wait on conditions of this
lock. The queue also holds the requests of the engine to its owner, which is the code that uses the
engine: trace lines to write, and requests for the password. The threads of the engine never call
code of the owner.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable
from itertools import repeat
from typing import Any, NamedTuple

from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure.envelope import Envelope
from rapidsmtp._pure.job import Job
from rapidsmtp._pure.outcome import (
    ACCEPTED,
    INVALID,
    NOT_ATTEMPTED,
    STATUSES,
    MessageOutcome,
    RecipientOutcome,
)
from rapidsmtp._pure.reply import Reply

CLOSED = "the sender was closed before the message was sent"

TRACE_LINES = 10_000
"""The maximum number of trace lines that wait for the owner. The oldest lines are dropped."""


class Stop(NamedTuple):
    """The reason why the engine stopped sending."""

    text: str
    reply: Reply | None
    permanent: bool  # whether a later attempt would fail, too
    restart_at: float  # the earliest time of a restart, by `time.monotonic`


class Outbox(deque[tuple[Any, MessageOutcome]]):
    """The finished messages of one consumer with their outcomes, until the consumer takes them."""

    unfinished = 0  # the number of messages without an outcome


class EngineQueue:
    """The queue between callers and the connection threads."""

    def __init__(self, settings: EngineSettings, path_of: Callable[[str], str]) -> None:
        # The lock of the queue and the pool. A signal handler or a destructor may call the engine
        # in the thread that holds the lock.
        self.lock = threading.RLock()
        # Notifies callers of capacity, outcomes, ended connections and the engine's end.
        self.callers = threading.Condition(self.lock)
        # Notifies the owner of requests, and connection threads of passwords.
        self.owner = threading.Condition(self.lock)
        self.inbox: deque[Job] = deque()  # the messages to send now, in order
        self.pending = 0  # the number of messages without an outcome
        self.taken = 0  # the number of submitted messages
        # The number of messages with an outcome, by status.
        self.counts = Counter({status.lower(): 0 for status in STATUSES})
        self.stop: Stop | None = None
        # The number of stops because of refused credentials since the last accepted message.
        self.refused_logins = 0
        self.closing = False  # whether the engine accepts no more messages
        self.ended = False  # whether `Engine.close` has returned
        self._settings = settings
        self._path_of = path_of
        self._bytes = 0  # of the messages without an outcome
        self._last_outbox = 0
        self._outboxes: dict[int, Outbox] = {}
        self._lines: deque[str] = deque(maxlen=TRACE_LINES)
        self._dropped_lines = 0
        self._unread_requests = 0  # for the password
        self._awaited: deque[list[tuple[str | None, str]]] = deque()  # the answers to the requests

    @property
    def end_reason(self) -> str:
        """The reason why messages are not attempted; empty if they are."""
        return self.stop.text if self.stop else CLOSED if self.closing else ""

    # Messages and outcomes

    def open_outbox(self) -> int:
        """Open an outbox and return its number."""
        with self.lock:
            self._last_outbox += 1
            self._outboxes[self._last_outbox] = Outbox()
            return self._last_outbox

    def submit(
        self, outbox: int, messages: list[Any], wait: float, limit: int | None = None
    ) -> int:
        """Move messages from the front of a list to the inbox, while the queue has capacity.

        Args:
            outbox: The number of the outbox for the outcomes.
            messages: Objects with the attributes of `Message`.
            wait: The maximum time to wait for capacity, in seconds. The wait also ends when the
                outbox holds an outcome, so that the caller can take the outcome first.
            limit: The maximum number of messages; None for no limit.

        Returns:
            The number of messages moved.
        """
        jobs: list[Job] = []
        finished: list[tuple[Any, MessageOutcome]] = []
        with self.lock:
            box = self._outboxes[outbox]
            self.callers.wait_for(lambda: self._capacity()[0] or box, wait)
            count, left = self._capacity()
            count = count if limit is None else min(count, limit)
            size = 0
            for message in messages[:count]:
                job = self._job(message, box)
                if isinstance(job, Job):
                    jobs.append(job)
                    size += len(message.data)
                else:
                    finished.append((message, job))
                left -= len(message.data)
                if left <= 0:
                    break
            submitted = len(jobs)
            number = submitted + len(finished)
            counts = Counter(self.counts)
            counts.update(outcome.status.lower() for _, outcome in finished)
            # CPython runs signal handlers only at calls and loops, and the following statements
            # contain neither. So an exception of a signal handler, for example KeyboardInterrupt,
            # never leaves only some of these statements executed.
            del messages[:number]
            self.inbox += jobs
            box += finished
            self.pending += submitted
            box.unfinished += submitted
            self._bytes += size
            self.taken += number
            self.counts = counts
            if finished:
                self.callers.notify_all()
            return number

    def _capacity(self) -> tuple[int, int]:
        # The number of messages that may be submitted, and the total size in bytes that all of them
        # but the last may have.
        if self.end_reason:
            return 1 << 30, 1 << 62  # a submitted message gets its outcome at once
        size = self._settings.queue_bytes - self._bytes
        return (max(0, self._settings.queue_size - self.pending) if size > 0 else 0), size

    def _job(self, message: Any, outbox: Outbox) -> Job | MessageOutcome:
        """Return the job for a message, or the outcome of a message that cannot be sent."""
        status, phase, reason = NOT_ATTEMPTED, "connect", self.end_reason
        if not reason:
            try:
                return Job(message, outbox, Envelope(message, self._path_of))
            except (ValueError, TypeError, AttributeError) as error:
                status, phase, reason = INVALID, "build", " ".join(str(error).split())
        recipients = [RecipientOutcome(status, phase, None, reason)] * len(message.recipients)
        return MessageOutcome(recipients, None, message.recipients)

    def deliver(self, job: Job, outcome: MessageOutcome) -> None:
        """Move an outcome to its outbox. The caller holds the lock."""
        self.counts[outcome.status.lower()] += 1
        if outcome.status == ACCEPTED:
            self.refused_logins = 0
        self.pending -= 1
        self._bytes -= len(job.message.data)
        job.outbox.unfinished -= 1
        job.outbox.append((job.message, outcome))
        self.callers.notify_all()

    def take(self, outbox: int, into: list[Any], limit: int, wait: float, at_least: int = 1) -> int:
        """Move up to `limit` pairs of a submitted object and its outcome from an outbox to a list.

        The call waits at most `wait` seconds for `at_least` pairs, or for those of all submitted
        messages if there are fewer.

        Returns:
            The number of pairs moved.
        """

        def is_ready() -> bool:
            box = self._outboxes.get(outbox)
            if box is None or self.ended:
                return True
            return len(box) >= max(1, min(at_least, limit, len(box) + box.unfinished))

        with self.lock:
            self.callers.wait_for(is_ready, wait)
            box = self._outboxes.get(outbox, Outbox())
            number = min(limit, len(box))
            # The next line is one call of C code. A signal handler runs only before or after this
            # call. So an exception of the handler cannot lose an outcome that is already removed
            # from the outbox.
            into.extend(map(deque.popleft, repeat(box, number)))
            return number

    def unclaimed(self, outbox: int) -> int:
        """Return the number of messages whose outcomes `take` has not returned yet."""
        with self.lock:
            box = self._outboxes.get(outbox, Outbox())
            return len(box) + box.unfinished

    def close_outbox(self, outbox: int) -> None:
        """Close an outbox. The outcomes of its messages are counted, but not returned."""
        with self.lock:
            self._outboxes.pop(outbox, None)
            self.callers.notify_all()

    # Requests to the owner

    def trace(self, line: str) -> None:
        """Add a line to the trace."""
        with self.lock:
            self._dropped_lines += len(self._lines) == TRACE_LINES
            self._lines.append(line)
            self.owner.notify_all()

    def password(self, seconds: float, is_done: Callable[[], bool]) -> tuple[str | None, str]:
        """Request the password, and wait for the answer until `is_done` is true.

        Returns:
            The password and an empty text; after a failure, None and the reason.
        """
        answer: list[tuple[str | None, str]] = []
        with self.lock:
            self._unread_requests += 1
            self._awaited.append(answer)
            self.owner.notify_all()
            self.owner.wait_for(lambda: answer or is_done(), seconds)
            if answer:
                return answer[0]
            # A token may be valid only once. So a late answer to this request is not used for the
            # next login.
            return None, CLOSED if is_done() else "no answer in time"

    def answer_password(self, value: str | None, reason: str) -> None:
        """Answer the oldest `("password", None)` request; see `password` for the arguments."""
        with self.lock:
            self._awaited.popleft().append((value, reason))
            self.owner.notify_all()

    def requests(self, wait: float) -> list[tuple[str, object]]:
        """Return the new requests: `("trace", line)` and `("password", None)`.

        The call waits at most `wait` seconds for the first request.
        """
        with self.lock:
            self.owner.wait_for(lambda: self._lines or self._unread_requests or self.ended, wait)
            dropped, self._dropped_lines = self._dropped_lines, 0
            passwords, self._unread_requests = self._unread_requests, 0
            lines = [f"{dropped} lines of the trace were dropped"] if dropped else []
            lines += self._lines
            self._lines.clear()
            return [("trace", line) for line in lines] + [("password", None)] * passwords
