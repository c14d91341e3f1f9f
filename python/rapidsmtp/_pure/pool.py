"""The connection pool: the waiting messages, the learned limits, and the connection threads.

    inbox ──► a connection ──► delivered
      ▲            ├── retry now, put back (front of the inbox)
      │            ├── retry last (end of the inbox)
      └─ waiting ◄─┴── retry later (until its backoff is over)

Each connection has one thread. A thread without a connection waits until a message needs one, and
ends if another thread waits too. The first connection has to carry a message before a second one is
opened. So a wrong password is tried only once (providers lock accounts after several failures), and
an unreachable relay is contacted only once.

The effect of a failed connection depends on whether other connections work:

    failure                                            effect
    untrusted certificate, no TLS                      permanent stop
    wrong password                                     stop; permanent, unless the caller is asked
                                                       for the password at each login
    any other, while another connection is open        fewer connections
    5yz before any message; no password from caller    stop
    relay unreachable, and no earlier connection       stop
    login refused temporarily                          backoff; a stop after `max_attempts`
    any other, and only one attempt is allowed         stop
    any other                                          a later connection; a stop when the relay has
                                                       accepted no message for some time

The lock of the queue protects the pool. The methods for connections acquire it; the caller of any
other method must hold it. A job is held by one connection, in the queue, or delivered.
"""

import heapq
import math
import random
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure.clock import Clock
from rapidsmtp._pure.diagnosis import says_full
from rapidsmtp._pure.failure import ConnectionFailure, FailureKind
from rapidsmtp._pure.job import Job, NextStep, Settlement
from rapidsmtp._pure.outcome import MessageOutcome
from rapidsmtp._pure.queue import EngineQueue, Stop
from rapidsmtp._pure.rate_controller import Evidence, RateController
from rapidsmtp._pure.reply import Reply, reply_line
from rapidsmtp._pure.retry import RetryPolicy
from rapidsmtp._pure.tls import tls_context
from rapidsmtp._pure.transport import Transport

MAX_FRUITLESS = 10
"""A connection is fruitless if it became ready and carried no message. After this number of
consecutive fruitless connections, the engine stops, because each of them may leave a message with
an unknown outcome."""

FRUITLESS_BEFORE_SEQUENTIAL = 2
"""After this number of consecutive fruitless connections, the engine disables PIPELINING, if it has
never worked. Some servers announce PIPELINING, but discard a command that arrives together with
another command."""

RESTART_DELAY = 1.0
"""The time after a stop during which `Engine.restart` does nothing, in seconds. So an unreachable
relay is not contacted again too soon."""

MAX_LOGIN_DELAY = 300.0
"""The maximum of this time after refused logins, in seconds. The time doubles with each refused
login, because a provider may lock the account."""

TICK = 1.0
"""The time between two checks whether another connection is allowed, in seconds."""


@dataclass(eq=False)
class ConnectionUse:
    """The use of one connection. The connection's thread and the pool share this object."""

    number: int
    opened: float  # the time at which it was opened
    job: Job | None = None  # the message in flight
    ready: bool = False
    started: bool = False  # whether a transaction was started
    messages: int = 0  # those that count for the relay's limit
    proven: bool = False  # whether the relay has processed a message on it
    clean: bool = True  # whether the relay refused no message on it
    full: bool = False  # whether the relay accepts no further message on it
    surplus: bool = False  # whether the relay allows fewer connections
    exhausted: bool = False  # whether it carried the known maximum number of messages


class Pool:
    """The data that all connections of an engine share."""

    def __init__(
        self, settings: EngineSettings, queue: EngineQueue, run: Callable[["Pool"], None]
    ) -> None:
        """Create a pool without threads, which will call `run`."""
        self.settings = settings
        self.queue = queue
        self.clock = Clock(settings.clock_speed)
        self.policy = RetryPolicy(settings.max_attempts, settings.backoff, settings.resend_unknown)
        self.rate_controller = RateController(
            settings.rate,
            settings.connections,
            settings.max_messages_per_connection,
            patient=self.policy.is_patient,
        )
        self.max_recipients: int | None = None  # of one transaction, learned from 452 replies
        self.tls = tls_context(settings)
        self.tls_session: ssl.SSLSession | None = None  # the next handshake resumes it
        self.transports: set[Transport] = set()  # the open sockets
        self.pipelining_disabled = False
        self.waiting: list[tuple[float, int, Job]] = []  # a heap
        self.in_flight = 0  # the number of messages that connections hold
        self.open = 0  # the number of connections that are ready
        self.connected = 0  # the number of connections that became ready
        self.retried = 0
        self.bytes = 0  # sent on connections that have ended
        self.mode: str | None = None  # the pipelining mode of the newest connection
        self._run = run
        self._work = threading.Condition(queue.lock)
        self._threads: set[threading.Thread] = set()
        self._idle_threads = 0
        self._thread_error = ""  # the reason why no thread could be started
        self._is_borrowed = False  # whether the thread of a caller sends messages
        self._gave_up = False
        self._last_number = 0  # of a connection, or of an entry in `waiting`
        self._opening = 0  # the number of connections that are not ready yet
        self._proven = 0  # the number of open connections that are proven
        self._idle_proven = 0  # the number of proven connections that wait for a message
        self._failed_logins = 0  # the number of consecutive logins that were refused temporarily
        self._fruitless = 0
        self._pipelining_worked = False
        self._refusal: Reply | None = None  # the last refusal of a message
        self.last_refusal: str | None = None  # or the last failure of a connection

    # Threads

    def open_connections(self) -> None:
        """Start a thread if a message needs a further connection, and no thread waits to open one.

        The thread starts the next one when it opens its connection.
        """
        self._work.notify_all()
        connections, threads = self.open + self._opening, len(self._threads)
        # Each connection without a message will soon ask for one.
        if len(self.queue.inbox) <= connections - self.in_flight or threads > connections:
            return
        if threads >= self.rate_controller.allowed_connections(self.clock.now()):
            return
        thread = threading.Thread(target=self._run, args=(self,), name="rapidsmtp", daemon=True)
        self._threads |= {thread}
        try:
            thread.start()
        except BaseException as error:
            # If the start was interrupted by Ctrl-C, the thread may run. It then ends at its first
            # call of `wait_for_connection`.
            self._threads -= {thread}
            if not isinstance(error, RuntimeError):
                raise
            # The system cannot start more threads. From Python 3.12 on, this also happens while the
            # interpreter exits. Existing threads or a caller of `take` send the messages.
            self._thread_error = f"starting a thread failed: {error}"
            if self.queue.closing and not self._threads:
                self.stop(ConnectionFailure(self._thread_error, FailureKind.REFUSED))

    def borrow_thread(self) -> None:
        """Send messages in the thread of the caller, if no thread could be started."""
        with self.queue.lock:
            if not self._thread_error or self._threads or not self._has_work():
                return
            self._is_borrowed = True
            self._threads |= {threading.current_thread()}
        try:
            self._run(self)
        finally:
            self._is_borrowed = False

    def wait_for_connection(self) -> ConnectionUse | None:
        """Wait until another connection is needed. Return None if the thread must end."""
        controller, thread = self.rate_controller, threading.current_thread()
        with self.queue.lock:
            while thread in self._threads and not self.is_done:
                now = self._move_due()
                connect_wait = controller.connect_wait(now)
                wait = max(controller.wait(now), connect_wait)
                # The first connection shows whether the relay accepts the session.
                is_known = self.open > 0 or not self._opening
                unproven = self.open + self._opening - self._proven
                if not is_known or not controller.may_connect(now, self._proven, unproven):
                    wait = max(wait, connect_wait or TICK)
                if self.queue.inbox and wait <= 0:
                    controller.connection_opened(now)
                    self._opening += 1
                    self._last_number += 1
                    self.open_connections()
                    return ConnectionUse(self._last_number, now)
                if self._idle_threads or not self._has_work():
                    break
                self._wait(now, wait)
            # The lock is still held, so no caller relies on a thread that ends.
            self._threads -= {thread}
            return None

    def internal_error(self, error: BaseException) -> None:
        """Stop because of a defect. The calling thread ends, and has not returned its message."""
        with self.queue.lock:
            self._threads -= {threading.current_thread()}
            text = f"internal error: {type(error).__name__}: {error}"
            self.stop(ConnectionFailure(text, FailureKind.REFUSED))

    def _wait(
        self, now: float, wait: float, idle_until: float = math.inf, *, proven: bool = False
    ) -> None:
        """Wait for a notification, for a retry, or until the next message may start after `wait`.

        An idle connection ends at the time `idle_until` of `time.monotonic`.
        """
        seconds = idle_until - time.monotonic()
        if self.queue.inbox:
            seconds = min(seconds, self.clock.real(wait))
        if self.waiting:
            seconds = min(seconds, self.clock.real(self.waiting[0][0] - now))
        self._idle_threads += 1
        self._idle_proven += proven
        try:
            self._work.wait(min(max(0.001, seconds), threading.TIMEOUT_MAX))
        finally:
            self._idle_threads -= 1
            self._idle_proven -= proven

    # The end

    @property
    def is_ending(self) -> bool:
        """Whether the pool starts no more messages."""
        return self._gave_up or self.queue.stop is not None

    @property
    def is_done(self) -> bool:
        """Whether no connection is needed, because no further message will be sent."""
        return self.is_ending or (self.queue.closing and not self._has_work())

    def stop(self, failure: ConnectionFailure) -> None:
        """Stop sending messages until the caller restarts the engine."""
        if self.queue.stop is None:
            permanent, delay = failure.kind is FailureKind.PERMANENT, RESTART_DELAY
            if failure.kind is FailureKind.CREDENTIALS:
                # If the engine asks for the password at each login, the next one may be accepted.
                permanent = not self.settings.ask_password
                delay = min(MAX_LOGIN_DELAY, delay * 2 ** min(self.queue.refused_logins, 16))
                self.queue.refused_logins += 1
            restart_at = time.monotonic() + delay
            self.queue.stop = Stop(failure.text, failure.reply, permanent, restart_at)
        self._finish_waiting()

    def give_up(self) -> None:
        """Start no more messages, because the engine is closing."""
        self._gave_up = True
        self._finish_waiting()

    def _finish_waiting(self) -> None:
        jobs = [*self.queue.inbox, *(job for _, _, job in self.waiting)]
        self.queue.inbox.clear()
        self.waiting.clear()
        for job in jobs:
            self.queue.deliver(job, job.give_up(self.queue.end_reason, self.clock.now()))
        self.wake_all()

    def resume(self) -> None:
        """Allow sending again after a stop. The failures before the stop no longer count."""
        self.queue.stop = None
        self._failed_logins = self._fruitless = 0
        self.pipelining_disabled = False
        self.rate_controller.resume()

    def wake_all(self) -> None:
        """Make every waiting thread check again whether it is needed."""
        self._work.notify_all()
        self.queue.owner.notify_all()

    # Messages, for connections

    def next_message(self, use: ConnectionUse, idle_until: float) -> Job | None:
        """Wait for a message to send. Return None if the connection must end.

        A connection that is not proven leaves the messages to idle connections that are, because
        the relay may allow fewer connections.
        """
        inbox = self.queue.inbox
        with self.queue.lock:
            while not self.is_done and (self._has_work() or not self._is_borrowed):
                now = self._move_due()
                wait = self.rate_controller.wait(now)
                if inbox and wait <= 0 and (use.proven or len(inbox) > self._idle_proven):
                    self.rate_controller.start(now)
                    self.in_flight += 1
                    use.job = inbox.popleft()
                    self.open_connections()
                    return use.job
                if time.monotonic() >= idle_until:
                    break
                self._wait(now, wait or TICK, idle_until, proven=use.proven)
            return None

    def settle(self, use: ConnectionUse, job: Job, outcome: MessageOutcome) -> None:
        """Take back a message with the outcome of its transaction."""
        with self.queue.lock:
            now = self.clock.now()
            if outcome.is_processed and not use.proven:
                use.proven = True
                self._proven += 1
                self.rate_controller.connection_proven(self._proven)
            was_probing = self.rate_controller.is_probing
            step = job.settle(outcome, self._settlement(now, use))
            use.surplus = step.close_surplus
            use.full = step.close_connection or step.close_surplus
            if outcome.counts_for_connection and not use.full:
                use.messages += 1
                use.clean = use.clean and outcome.refusal is None
            if outcome.refusal is not None:
                self._refusal, self.last_refusal = outcome.refusal, reply_line(outcome.refusal)
            if step.close_surplus:
                others = self._proven - use.proven
                self.rate_controller.connection_refused(now, others, by_rate=False)
            if step.limit_recipients is not None:
                self.max_recipients = step.limit_recipients
            if step.stop is not None:
                self.stop(ConnectionFailure.rejected(self.settings.relay, *step.stop))
            self.retried += step.outcome is None
            self._apply(use, job, step)
            if was_probing:
                self.wake_all()  # the other connections wait for the result of the probe
            self._stop_if_stalled(now, None)

    def reject(self, use: ConnectionUse, job: Job, reason: str) -> None:
        """Take back a message that needs a capability which the relay lacks."""
        with self.queue.lock:
            self._apply(use, job, job.reject(reason, self._settlement(self.clock.now(), use)))

    def put_back(self, use: ConnectionUse, job: Job) -> None:
        """Take back a message of which no byte was written."""
        with self.queue.lock:
            now = self.clock.now()
            self.rate_controller.settled(now, now, Evidence.NOTHING)
            self._apply(use, job, NextStep(None))

    def _settlement(self, now: float, use: ConnectionUse) -> Settlement:
        others, controller = self._proven > use.proven, self.rate_controller
        return Settlement(now, self.policy, use.messages > 0, others, controller, random.random())

    def _apply(self, use: ConnectionUse, job: Job, step: NextStep) -> None:
        use.job = None
        self.in_flight -= 1
        now = self.clock.now()
        if step.outcome is not None:
            self.queue.deliver(job, step.outcome)
        elif self.is_ending:
            self.queue.deliver(job, job.give_up(self.queue.end_reason, now))
        elif step.delay:
            self._last_number += 1
            heapq.heappush(self.waiting, (now + step.delay, self._last_number, job))
        elif step.last:
            # The relay throttles messages. Another message shows whether it accepts messages again.
            self.queue.inbox.append(job)
        else:
            # The job is placed before newer messages, because its recipients have waited longer.
            self.queue.inbox.appendleft(job)
        self.open_connections()

    def _has_work(self) -> bool:
        return bool(self.queue.inbox or self.waiting)

    def _move_due(self) -> float:
        """Move messages whose backoff is over to the inbox, and return the time."""
        now = self.clock.now()
        while self.waiting and self.waiting[0][0] <= now:
            self.queue.inbox.append(heapq.heappop(self.waiting)[2])
            self._work.notify_all()  # the calling thread may leave the message to another one
        return now

    # The life of a connection

    def connection_ready(self, use: ConnectionUse, mode: str) -> None:
        """Record that a connection became ready for mail."""
        with self.queue.lock:
            use.ready = True
            self._opening -= 1
            self.open += 1
            self.connected += 1
            self.mode = mode
            self._failed_logins = 0
            self.wake_all()
            self.open_connections()

    def connection_closed(self, use: ConnectionUse, failure: ConnectionFailure | None) -> None:
        """Record the end of a connection.

        The failure is None after QUIT, if the relay closed the connection as idle, and if the
        connection was no longer needed.
        """
        with self.queue.lock:
            now = self.clock.now()
            if use.ready:
                self.open -= 1
                self._proven -= use.proven
                self._count_use(use, failure, now)
                self._stop_if_stalled(now, failure)
            else:
                self._opening -= 1
                if failure is not None:
                    self._count_refused(failure, now)
                    self._stop_if_stalled(now, failure)
            self.wake_all()

    def _count_refused(self, failure: ConnectionFailure, now: float) -> None:
        self._failed_logins += failure.kind is FailureKind.LOGIN_REFUSED and not self.open
        is_permanent = failure.kind in (FailureKind.PERMANENT, FailureKind.CREDENTIALS)
        if is_permanent or (not self.open and self._is_final(failure)):
            self.stop(failure)
        else:
            self._count_failure(failure, now, by_rate=False)

    def _is_final(self, failure: ConnectionFailure) -> bool:
        if failure.kind is FailureKind.LOGIN_REFUSED:
            return self._failed_logins >= self.policy.max_attempts
        if failure.kind is FailureKind.UNREACHABLE and not self.connected:
            return True  # the settings are probably wrong
        return failure.kind is FailureKind.REFUSED or not self.policy.is_patient

    def _count_use(self, use: ConnectionUse, failure: ConnectionFailure | None, now: float) -> None:
        # A 421 without a limit in its text may mean a restart of the relay.
        reply = None if failure is None else failure.reply
        full = use.full if reply is None else says_full(reply[1])
        if use.messages:
            self._fruitless = 0
            self._pipelining_worked = self._pipelining_worked or self.mode != "off"
        if use.surplus:
            pass
        elif failure is not None and not use.messages:
            self._fruitless += 1
            # A server that discards pipelined commands sends no reply to them.
            no_reply = reply is None and not self._pipelining_worked
            if no_reply and self._fruitless >= FRUITLESS_BEFORE_SEQUENTIAL:
                self.pipelining_disabled = True
            self._count_failure(failure, now, by_rate=failure.states_rate)
        elif use.messages and (full or (failure is not None and use.clean)):
            self.rate_controller.connection_ended(now, use.opened, use.messages, stated=full)
        elif failure is None and use.exhausted:
            self.rate_controller.connection_filled()
        # A caller that allows only one attempt needs the first refusal at once. If a transaction
        # was started, its message reports the refusal.
        is_first = not (use.started or self.policy.is_patient) and bool(self.queue.inbox)
        is_last = is_first or self._fruitless >= MAX_FRUITLESS
        if failure is not None and not self.open and is_last:
            self.stop(failure)

    def _count_failure(self, failure: ConnectionFailure, now: float, *, by_rate: bool) -> None:
        self.last_refusal = str(failure)
        if self.open:
            self.rate_controller.connection_refused(now, self.open, by_rate=by_rate)
            return
        number, pause = random.random(), 0.0
        if failure.kind is FailureKind.LOGIN_REFUSED:
            pause = self.policy.delay(self._failed_logins, number)
        self.rate_controller.connection_failed(now, pause, number, by_limit=failure.states_limit)

    def _stop_if_stalled(self, now: float, failure: ConnectionFailure | None) -> None:
        """Stop if the relay has accepted no message for some time.

        If no connection failed, the last refusal of a message is the reason.
        """
        if self.in_flight or not self.rate_controller.is_stalled(now):
            return
        if failure is None and self._refusal is not None:
            failure = ConnectionFailure.stalled(self.settings.relay, self._refusal)
        if failure is not None:
            self.stop(failure)

    def next_attempt(self, now: float) -> float:
        """Return the time until the next attempt, in seconds; 0 if an attempt is in progress."""
        if self.in_flight or self._opening:
            return 0.0
        waits = [self.waiting[0][0] - now] if self.waiting else []
        if self.queue.inbox:
            connect = 0.0 if self.open else self.rate_controller.connect_wait(now)
            waits.append(max(self.rate_controller.wait(now), connect))
        return self.clock.real(max(0.0, min(waits, default=0.0)))

    def detach(self, transport: Transport) -> None:
        """Record a socket that will be closed now."""
        with self.queue.lock:
            self.transports.discard(transport)
            self.bytes += transport.sent
            self.queue.callers.notify_all()
