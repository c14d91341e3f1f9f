"""The connection pool: it determines the next step of each worker thread.

Theory of operation
-------------------
A worker thread has one connection or none. All worker threads share one lock and one condition.
A worker thread calls the pool between any two steps:

    wait_until_needed   waits until a connection is needed; if it returns False, the thread ends
    connected, failed   reports that connecting succeeded or failed; the pool may then retry, allow
                        fewer connections, or stop
    next_group          waits for the next recipient group; if it returns None, the thread sends
                        QUIT
    settle              reports the decisions on the recipients of the group
    disconnected        reports the end of the connection

While no connection is open, only one worker connects. So a wrong password is tried once, and an
unreachable relay gets only one connection attempt at a time. Worker threads start when messages
arrive. While a group waits for its retry, one worker thread does not end, but waits until the retry
is due.

At any time a recipient group is held by one worker, in the queue, or finished. The module `retry`
makes the decision on each recipient. The pool counts the attempts. It puts the group back into the
queue or sets the outcome of the group.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure import retry
from rapidsmtp._pure.clock import Clock
from rapidsmtp._pure.diagnosis import retry_after
from rapidsmtp._pure.job import Job, RecipientGroup, RecipientOutcome
from rapidsmtp._pure.outcome import ACCEPTED, INVALID, NOT_ATTEMPTED, UNKNOWN
from rapidsmtp._pure.queue import MessageQueue, backoff
from rapidsmtp._pure.rate_controller import RateController
from rapidsmtp._pure.reply import Reply
from rapidsmtp._pure.retry import RetryDecision
from rapidsmtp._pure.session import SHUTDOWN, ConnectionFailure, rejection

if TYPE_CHECKING:
    from rapidsmtp._pure.worker import WorkerThread

FREE_RETURNS = 3
"""The number of times that a group may return to the queue because its connection failed. Each
further return counts as an attempt."""

FREE_THROTTLED = 10
"""The number of times that a group may return to the queue because of a throttling reply. Each
further return counts as an attempt."""

MAX_FRUITLESS = 10
"""A connection is fruitless if it became ready and carried no message. After this number of
consecutive fruitless connections, the engine stops."""

FRUITLESS_BEFORE_SEQUENTIAL = 2
"""After this number of consecutive fruitless connections, the engine disables PIPELINING, if it has
never worked. Some servers announce PIPELINING, but discard a command that arrives together with
another command."""

CLOSED = "the sender was closed before the message was sent"


class StopReason(NamedTuple):
    """The reason why the engine has stopped.

    Attributes:
        line: The reason, in one line.
        reply: The relay's reply, or None.
        permanent: Whether the engine must never send again.
        retry_after: The seconds after which the relay may accept mail again, if the reply states
            them.
        at: The time of the stop, by `time.monotonic`.
    """

    line: str
    reply: Reply | None
    permanent: bool
    retry_after: float | None
    at: float


class ConnectionPool:
    """The worker threads of one engine, and the recipient groups to send.

    The methods for worker threads and `take_unstarted` acquire the lock. The caller of any other
    method must hold the lock.
    """

    def __init__(
        self,
        settings: EngineSettings,
        lock: threading.Lock,
        make_worker: Callable[[], "WorkerThread"],
        report: Callable[[Job, float], None],
    ) -> None:
        """Create a pool without threads.

        Args:
            settings: The engine's settings.
            lock: The lock that protects the attributes of the pool.
            make_worker: The function that creates a worker. The pool starts the worker's thread.
            report: The function that is called with each finished message and the time.
        """
        self.clock = Clock(settings.clock_speed)
        self.queue = MessageQueue()
        self.rate_controller = RateController(
            settings.rate, settings.connections, settings.max_messages_per_connection
        )
        self.stopped: StopReason | None = None
        self.closing = False
        self.aborted = False
        self.workers: set[WorkerThread] = set()
        self.in_flight: dict[WorkerThread, RecipientGroup] = {}
        self.open = 0
        self.connected_ever = 0
        self.retried = 0
        self.left = threading.Condition(lock)
        self._settings = settings
        self._lock = lock
        self._work = threading.Condition(lock)
        self._make_worker = make_worker
        self._report = report
        self._idle = 0
        self._connecting = 0
        self._unstarted: WorkerThread | None = None  # has no thread; a caller will run it
        self._no_thread = ""
        self._inline: WorkerThread | None = None  # runs in the thread of a caller
        self._failures = 0
        self._fruitless = 0
        self._pipelining_worked = False
        self.sequential = False  # whether PIPELINING is disabled although the relay advertises it
        self._connect_due = float("-inf")

    # Starting and stopping

    def wake(self, groups: int = 0) -> None:
        """Wake or start worker threads for the groups in the queue.

        Args:
            groups: The number of groups that were added to the queue.
        """
        self._wake(groups, self.clock.now())

    def stop(self, line: str, reply: Reply | None, *, permanent: bool = False) -> None:
        """Stop the engine. The messages in the queue are not attempted.

        Args:
            line: The reason, in one line.
            reply: The relay's reply, or None.
            permanent: Whether the engine must never send again.
        """
        if self.stopped is None or permanent:
            seconds = None if reply is None else retry_after(*reply)
            self.stopped = StopReason(line, reply, permanent, seconds, time.monotonic())
        self.give_up()

    def give_up(self) -> None:
        """Set the outcome of all recipients in the queue to "not attempted"."""
        for group in self.queue.drain():
            self._abandon(group)
        self.wake_all()

    def resume(self) -> None:
        """Allow sending again after a stop that is not permanent."""
        self.stopped = None
        self._failures = 0
        self._fruitless = 0
        self.sequential = False
        self._connect_due = float("-inf")

    def wake_all(self) -> None:
        """Wake every waiting worker thread."""
        self._work.notify_all()

    def unsent(self) -> RecipientOutcome:
        """Return the outcome for recipients that are still in the queue after a stop or `close`."""
        if self.stopped is None:
            return RecipientOutcome(NOT_ATTEMPTED, "connect", None, None, CLOSED)
        return RecipientOutcome(NOT_ATTEMPTED, "connect", None, None, self.stopped.line)

    def _wake(self, groups: int, now: float) -> None:
        self._work.notify(groups)
        self._start_workers(now)

    def _start_workers(self, now: float) -> None:
        """Start worker threads for the groups in the queue, as far as the relay's limits allow."""
        if self.stopped or self.aborted or self.queue.is_empty:
            return
        # While the rate allows no group to start, one waiting thread is enough.
        needed = 1 if self.rate_controller.wait(now) > 0 else max(1, len(self.queue.ready))
        while (
            self._available() < needed
            and len(self.workers) < self.rate_controller.allowed_connections(now)
            and (self.open or not self.workers)
        ):
            worker = self._make_worker()
            # These assignments contain no call, so that no signal handler can raise an exception
            # between them (see `Engine._enqueue`). The worker counts as connecting until it calls
            # `wait_until_needed`.
            self.workers |= {worker}
            self._connecting += 1
            try:
                worker.start()
            except RuntimeError as error:
                # The system cannot start more threads. From Python 3.12 on, `start` also fails
                # while the interpreter exits. In both cases the existing threads send the messages.
                # If no thread exists, the caller that waits for outcomes sends the messages.
                self._no_thread = f"starting a thread failed: {error}"
                if len(self.workers) > 1 or self.closing:
                    self._drop(worker)
                else:
                    self._unstarted = self._inline = worker
                    self.wake_all()
                return
            except BaseException:
                # The start was interrupted, for example by Ctrl-C. If the thread has started, it
                # ends at its next call of `wait_until_needed`, because its worker is no longer in
                # `workers`.
                self.workers -= {worker}
                self._connecting -= 1
                raise

    def take_unstarted(self) -> "WorkerThread | None":
        """Return the worker whose thread could not be started, if any.

        The worker is returned only once. The caller must run it.
        """
        with self._lock:
            worker, self._unstarted = self._unstarted, None
            return worker

    def drop_unstarted(self) -> None:
        """Drop the worker whose thread could not be started, if no caller has run this worker."""
        worker, self._unstarted = self._unstarted, None
        if worker is not None:
            self._drop(worker)

    def _drop(self, worker: "WorkerThread") -> None:
        self.workers.discard(worker)
        self._connecting -= 1
        if not self.workers:
            self.stop(self._no_thread, None)

    def _available(self) -> int:
        """Return the number of workers that will soon ask for a group.

        Workers that have just settled a group are included.
        """
        return self._connecting + max(self._idle, self.open - len(self.in_flight))

    # Methods for worker threads

    def wait_until_needed(self, worker: "WorkerThread", *, first: bool) -> bool:
        """Wait until another connection is needed.

        Args:
            worker: The caller; it has no connection.
            first: Whether this is the worker's first call.

        Returns:
            True if the worker must connect; False if it must end.
        """
        with self._lock:
            if worker not in self.workers:
                return False
            self._connecting -= first
            while True:
                now = self.clock.now()
                self.queue.move_due(now)
                surplus = len(self.workers) > self.rate_controller.allowed_connections(now)
                if self.stopped or self.aborted or surplus or self.queue.is_empty:
                    break
                wait = max(self.rate_controller.wait(now), self._connect_due - now)
                may_connect = self.open > 0 or self._connecting == 0
                if self.queue.ready and wait <= 0 and may_connect:
                    self._connecting += 1
                    return True
                if self._idle:
                    break
                self._wait(self._seconds_to_wait(now, wait, None) if may_connect else None)
            self._remove(worker)
            return False

    def connected(self) -> None:
        """Count a connection that is ready to send."""
        with self._lock:
            self._connecting -= 1
            self._failures = 0
            self.open += 1
            self.connected_ever += 1
            self.wake_all()
            self._start_workers(self.clock.now())

    def is_done(self) -> bool:
        """Return whether no connection is needed, because no further message will be sent."""
        with self._lock:
            return bool(self.stopped) or self.aborted or (self.closing and self.queue.is_empty)

    def not_needed(self) -> None:
        """Count a connection that was closed after connecting because it is no longer needed."""
        with self._lock:
            self._connecting -= 1
            self.left.notify_all()
            self.wake_all()

    def failed(self, failure: ConnectionFailure) -> None:
        """React to a connection that could not be opened."""
        with self._lock:
            self._connecting -= 1
            now = self.clock.now()
            may_pass = not failure.stops and not (failure.unreachable and not self.connected_ever)
            one_too_many = failure.at_greeting and self.open
            if failure.permanent or (failure.stops and not self.stopped and not one_too_many):
                self.stop(failure.line, failure.reply, permanent=failure.permanent)
            elif self.open:
                self.rate_controller.connection_refused(now, self.open)
            elif not self.stopped:
                self._failures += 1
                if not may_pass or self._failures >= self._settings.max_attempts:
                    self.stop(failure.line, failure.reply)
                else:
                    self._connect_due = now + backoff(self._settings.backoff, self._failures)
            self.left.notify_all()
            self.wake_all()

    def next_group(self, worker: "WorkerThread", idle_until: float) -> RecipientGroup | None:
        """Wait for a recipient group to send.

        Args:
            worker: The caller; its connection is ready.
            idle_until: The time of `time.monotonic` at which the connection must end. At this time,
                the connection has been idle or open for the maximum time.

        Returns:
            The group; None if the connection must end.
        """
        with self._lock:
            while True:
                now = self.clock.now()
                self.queue.move_due(now)
                surplus = self.open > self.rate_controller.allowed_connections(now)
                done = self.queue.is_empty and (self.closing or worker is self._inline)
                if self.stopped or self.aborted or surplus or done:
                    return None
                wait = self.rate_controller.wait(now)
                if self.queue.ready and wait <= 0:
                    return self._start(worker, now)
                if time.monotonic() >= idle_until:
                    return None
                self._wait(self._seconds_to_wait(now, wait, idle_until))

    def _start(self, worker: "WorkerThread", now: float) -> RecipientGroup:
        group = self.queue.ready.popleft()
        group.attempts += 1
        self.rate_controller.start(now)
        self.in_flight[worker] = group
        if group.job.first_attempt is None:
            group.job.first_attempt = now
        self._start_workers(now)
        return group

    def _seconds_to_wait(self, now: float, wait: float, idle_until: float | None) -> float | None:
        """Return the time after which the thread must check the queue again, in seconds.

        None means that the thread waits until it is woken.
        """
        times = [] if idle_until is None else [idle_until - time.monotonic()]
        if self.queue.ready:
            times.append(self.clock.real(wait))
        if self.queue.next_due is not None:
            times.append(self.clock.real(self.queue.next_due - now))
        return max(0.001, min(times)) if times else None

    def _wait(self, seconds: float | None) -> None:
        self._idle += 1
        try:
            self._work.wait(seconds)
        finally:
            self._idle -= 1

    def disconnected(
        self,
        messages: int,
        reason: str,
        reply: Reply | None,
        *,
        by_relay: bool,
        full: bool,
        stalled: bool,
        pipelined: bool,
    ) -> None:
        """React to the end of a connection.

        Args:
            messages: The number of messages that the connection carried.
            reason: The reason, in one line.
            reply: The reply that ended the connection, or None.
            by_relay: Whether the relay ended the connection for a reason other than idle time.
            full: Whether the relay stated that the connection had carried its maximum number of
                messages.
            stalled: Whether the connection ended because a reply did not arrive in time.
            pipelined: Whether the connection used PIPELINING.
        """
        with self._lock:
            self.open -= 1
            now = self.clock.now()
            if by_relay or full:
                self.rate_controller.connection_ended(messages, full=full)
            if (by_relay or full or stalled) and messages == 0:
                self._count_fruitless(reason, reply, now)
            elif messages:
                self._fruitless = 0
                self._pipelining_worked = self._pipelining_worked or pipelined
            self.left.notify_all()
            self.wake_all()

    def _count_fruitless(self, reason: str, reply: Reply | None, now: float) -> None:
        """React to a connection that ended before it carried a message.

        Either the relay ended the connection, or a reply did not arrive in time.
        """
        self._fruitless += 1
        if self._fruitless >= FRUITLESS_BEFORE_SEQUENTIAL and not self._pipelining_worked:
            self.sequential = True
        if self.open:
            self.rate_controller.connection_refused(now, self.open)
        elif self._fruitless >= MAX_FRUITLESS:
            relay = f"relay {self._settings.relay}"
            if reply is not None and reply[0] == SHUTDOWN:
                self.stop(f"{relay} {rejection(reply)}", reply)
            else:
                self.stop(f"{relay}: {reason}", reply)
        elif self._fruitless > 1:
            seconds = backoff(self._settings.backoff, self._fruitless - 1)
            self._connect_due = now + seconds

    def filled(self) -> None:
        """Count a connection that carried the learned maximum number of messages."""
        with self._lock:
            self.rate_controller.connection_filled()

    def internal_error(self, worker: "WorkerThread", error: Exception) -> None:
        """Stop after an error in a worker thread.

        The outcome of the worker's group is unknown, because the message may have been sent.
        """
        with self._lock:
            group = self.in_flight.pop(worker, None)
            line = f"internal error: {type(error).__name__}: {error}"
            if group is not None:
                self._decide_all(group, RecipientOutcome(UNKNOWN, "body", None, None, line))
            self.stop(line, None)

    def remove(self, worker: "WorkerThread") -> None:
        """Remove a worker whose thread ends after an error."""
        with self._lock:
            self._remove(worker)

    def _remove(self, worker: "WorkerThread") -> None:
        self.workers.discard(worker)
        # A notification for new work may have woken this worker. So another worker is woken to do
        # this work.
        self._work.notify()

    # Results of a recipient group

    def requeue_rest(self, rest: RecipientGroup) -> None:
        """Put recipients that do not fit into the transaction back into the queue."""
        with self._lock:
            rest.attempts -= 1
            self._requeue(rest)

    def refuse(self, worker: "WorkerThread", reason: str) -> None:
        """Set the outcome of a group that needs a capability which the relay does not support."""
        with self._lock:
            group = self.in_flight.pop(worker)
            self._decide_all(group, RecipientOutcome(INVALID, "mail", None, None, reason))

    def put_back(self, worker: "WorkerThread") -> None:
        """Put the worker's group back into the queue.

        No byte of the message was sent, so this attempt does not count.
        """
        with self._lock:
            group = self.in_flight.pop(worker)
            group.attempts -= 1
            self._requeue(group)

    def settle(
        self, worker: "WorkerThread", decisions: list[RetryDecision], reply: Reply | None
    ) -> None:
        """Apply the decisions on the recipients of a group.

        Args:
            worker: The caller.
            decisions: The decision on each recipient of the group.
            reply: The reply to the message, or None.
        """
        with self._lock:
            group = self.in_flight.pop(worker)
            job = group.job
            if reply is not None:
                job.reply = reply
            now = self.clock.now()
            if any(each.outcome.status == ACCEPTED for each in decisions):
                self.rate_controller.accepted(now)
            limit = retry.learned_limit(decisions)
            if limit is not None:
                self.rate_controller.limit_recipients(limit)
            for index, decision in zip(group.indices, decisions, strict=True):
                if decision.action in (retry.DEFER, retry.IN_DOUBT):
                    job.deferred[index] = decision.outcome
            last = group.attempts >= self._settings.max_attempts
            for part, decision in _parts(group, decisions, last):
                self._carry_out(part, decision, now)

    def _carry_out(self, group: RecipientGroup, decision: RetryDecision, now: float) -> None:
        action = decision.action
        if action == retry.REMAINDER:
            group.attempts -= 1
            self._requeue(group)
        elif action == retry.DEFER:
            self._retry_later(group, decision.outcome)
        elif action == retry.THROTTLE:
            self.rate_controller.decrease(now)
            self._throttle(group, decision.outcome)
        elif action == retry.RETURN:
            self._return(group, decision)
        elif action == retry.IN_DOUBT and self._settings.resend_unknown:
            group.in_doubt = True
            self._retry_later(group, decision.outcome)
        else:
            self._decide_all(group, decision.outcome)
        if action in (retry.STOP, retry.QUOTA) and decision.reply is not None:
            fact = rejection(decision.reply, quota=action == retry.QUOTA)
            self.stop(f"relay {self._settings.relay} {fact}", decision.reply)

    def _throttle(self, group: RecipientGroup, outcome: RecipientOutcome) -> None:
        group.throttled += 1
        if group.throttled <= FREE_THROTTLED:
            group.attempts -= 1
            self._requeue(group)
        else:
            self._retry_later(group, outcome)

    def _return(self, group: RecipientGroup, decision: RetryDecision) -> None:
        """Put a group whose connection failed back into the queue.

        The first `FREE_RETURNS` returns do not count as attempts.
        """
        group.returns += 1
        if group.returns <= FREE_RETURNS:
            group.attempts -= 1
            self._requeue(group)
        else:
            self._retry_later(group, decision.outcome)

    def _retry_later(self, group: RecipientGroup, outcome: RecipientOutcome) -> None:
        """Schedule a retry. After the maximum number of attempts, set the outcome instead."""
        if group.attempts >= self._settings.max_attempts:
            self._decide_all(group, outcome)
            return
        self.retried += 1
        self._requeue(group, backoff(self._settings.backoff, group.attempts))

    def _requeue(self, group: RecipientGroup, seconds: float = 0.0) -> None:
        if self.stopped or self.aborted:
            self._abandon(group)
            return
        now = self.clock.now()
        if seconds:
            self.queue.wait_until(now + seconds, group)
        else:
            self.queue.ready.appendleft(group)
        self._wake(1, now)

    def _abandon(self, group: RecipientGroup) -> None:
        unsent = self.unsent()
        for index in group.indices:
            self._decide_all(group.part([index]), group.job.deferred.get(index, unsent))

    def _decide_all(self, group: RecipientGroup, outcome: RecipientOutcome) -> None:
        if group.in_doubt and outcome.status != ACCEPTED:
            outcome = outcome._replace(status=UNKNOWN)
        job = group.job
        job.attempts = max(job.attempts, group.attempts)
        for index in group.indices:
            job.decide(index, outcome)
        if job.is_decided:
            self._report(job, self.clock.now())


def _parts(
    group: RecipientGroup, decisions: list[RetryDecision], last: bool
) -> list[tuple[RecipientGroup, RetryDecision]]:
    """Split a group so that recipients with the same decision stay together.

    Args:
        group: The group.
        decisions: The decision on each recipient of the group.
        last: Whether the attempt was the last one. After the last attempt, each part gets one
            outcome, so recipients with different outcomes must be in different parts.
    """
    if len(set(decisions)) == 1:
        return [(group, decisions[0])]
    indices: dict[RetryDecision | str, list[int]] = {}
    first: dict[RetryDecision | str, RetryDecision] = {}
    for index, decision in zip(group.indices, decisions, strict=True):
        action = decision.action
        together = action == retry.REMAINDER or (not last and action in _SENT_AGAIN)
        key = action if together else decision
        indices.setdefault(key, []).append(index)
        first.setdefault(key, decision)
    # Finished recipients come first, so they get their own outcomes even if a later part stops the
    # engine.
    order = sorted(indices, key=lambda key: first[key].action != retry.FINISHED)
    return [(group.part(indices[key]), first[key]) for key in order]


_SENT_AGAIN = (retry.DEFER, retry.THROTTLE, retry.RETURN)
