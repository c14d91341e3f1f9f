"""The crew: which thread does what next, and what becomes of what it brought back.

Theory of operation
-------------------
One worker is one thread and at most one connection. All of them share one lock and one condition,
and come here between any two things they do:

    wants        without a connection: until one is wanted      False: the thread ends
    connected,   it has one, or none is to be had               retry, fewer connections, or stop
    unavailable
    next         with a connection: until there is an errand    None: goodbye
    settle       what became of the errand
    disconnected the connection has ended

While none is open, only one worker tries: a wrong password is then tried once, and a dead relay
is not stormed. Workers begin as there is work for them; one stays while anything waits for its
next attempt, since somebody has to watch the clock.

An errand is with one worker, in the backlog, or done. What the relay refused is judged elsewhere
(`judgement`); here it is counted, and sent back or decided.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from rapidsmtp._pure import judgement
from rapidsmtp._pure.backlog import Backlog, backoff
from rapidsmtp._pure.dialogue import Unavailable
from rapidsmtp._pure.governor import Governor
from rapidsmtp._pure.job import Errand, Fate, Job, line_of
from rapidsmtp._pure.judgement import Judgement
from rapidsmtp._pure.outcome import ACCEPTED, INVALID, NOT_ATTEMPTED, UNKNOWN
from rapidsmtp._pure.reply import Reply
from rapidsmtp._pure.settings import Settings

if TYPE_CHECKING:
    from rapidsmtp._pure.worker import Worker

FREE_RETURNS = 3
"""How often a message comes back through a connection's fault before that costs an attempt."""

FREE_SLOWDOWNS = 10
"""How often it comes back because the relay wants less before that costs an attempt."""

FRUITLESS = 10
"""Connections in a row that brought nothing, after which there will be no more."""

DOUBTFUL = 2
"""And after which PIPELINING is not believed in, if it never worked: servers that throw away what
came with a command offer it all the same."""

CLOSED = "the sender was closed"
LOST = "the connection was lost again and again before the message was sent"


class Stop(NamedTuple):
    """Why nothing more is sent.

    Attributes:
        line: in one line for people.
        reply: the relay's word, or None.
        for_good: whether it is never tried again.
        at: when it was.
    """

    line: str
    reply: Reply | None
    for_good: bool
    at: float


class Crew:
    """The workers of one engine, and their work. The lock is held by whoever calls.

    Except for the methods that a worker calls: those take it themselves.
    """

    def __init__(
        self,
        settings: Settings,
        lock: threading.Lock,
        hire: Callable[[], "Worker"],
        tell: Callable[[Job, float], None],
    ) -> None:
        """Begin without anybody.

        Args:
            settings: the engine's.
            lock: over everything here.
            hire: makes a worker; it is started here.
            tell: called with each message that is decided, and the time.
        """
        self.backlog = Backlog()
        self.governor = Governor(
            settings.rate, settings.connections, settings.max_messages_per_connection
        )
        self.stopped: Stop | None = None
        self.closing = False
        self.cut = False
        self.workers: set[Worker] = set()
        self.in_flight: dict[Worker, Errand] = {}
        self.open = 0
        self.connected_ever = 0
        self.retried = 0
        self.left = threading.Condition(lock)
        self._settings = settings
        self._lock = lock
        self._work = threading.Condition(lock)
        self._hire = hire
        self._tell = tell
        self._watching = 0
        self._connecting = 0
        self._threadless: Worker | None = None  # until somebody runs it
        self._no_thread = ""
        self._guest: Worker | None = None  # in a thread that has other things to do
        self._failures = 0
        self._fruitless = 0
        self._pipelined = False
        self.sequential = False  # whether PIPELINING, though offered, is not used
        self._connect_due = 0.0

    # Work comes in, and stops

    def call(self, errands: int = 0) -> None:
        """Let somebody see to what is in the backlog, and to so many new errands."""
        self._call(errands, time.monotonic())

    def stop(self, line: str, reply: Reply | None, *, for_good: bool = False) -> None:
        """Send nothing more; what was not begun is not attempted."""
        if self.stopped is None or for_good:
            self.stopped = Stop(line, reply, for_good, time.monotonic())
        self.give_up()

    def give_up(self) -> None:
        """Decide that all in the backlog is not attempted."""
        for errand in self.backlog.drain():
            self._abandon(errand)
        self.wake_all()

    def resume(self) -> None:
        """Forget a stop that may pass."""
        self.stopped = None
        self._failures = 0
        self._fruitless = 0
        self.sequential = False
        self._connect_due = 0.0

    def wake_all(self) -> None:
        """Let every worker look again."""
        self._work.notify_all()

    def unsent(self) -> Fate:
        """The fate of what is not even begun any more."""
        if self.stopped is None:
            return Fate(NOT_ATTEMPTED, "connect", None, None, CLOSED)
        code = self.stopped.reply[0] if self.stopped.reply else None
        return Fate(NOT_ATTEMPTED, "connect", code, None, self.stopped.line)

    def _call(self, errands: int, now: float) -> None:
        """Let somebody see to new errands."""
        self._work.notify(errands)
        self._staff(now)

    def _staff(self, now: float) -> None:
        """Hire whom the work needs and the relay allows."""
        if self.stopped or self.cut or self.backlog.is_empty:
            return
        # Somebody has to watch the clock even while nothing may begin.
        needed = 1 if self.governor.wait(now) > 0 else max(1, len(self.backlog.ready))
        while (
            self._free() < needed
            and len(self.workers) < self.governor.allowed_connections(now)
            and (self.open or not self.workers)
        ):
            worker = self._hire()
            # One step, as in `Engine.offer`; it is connecting until it has come to `wants`.
            self.workers |= {worker}
            self._connecting += 1
            try:
                worker.start()
            except RuntimeError as error:
                # There are no more threads to be had; in 3.12, when the interpreter ends, none at
                # all. Those that there are do the work, or whoever waits for outcomes does.
                self._no_thread = f"no thread to send with: {error}"
                if len(self.workers) > 1 or self.closing:
                    self._discharge(worker)
                else:
                    self._threadless = self._guest = worker
                    self.wake_all()
                return
            except BaseException:
                # An interrupt: should the thread have begun all the same, it is sent away.
                self.workers -= {worker}
                self._connecting -= 1
                raise

    def threadless(self) -> "Worker | None":
        """A worker that found no thread, once: it is to be run by the caller."""
        with self._lock:
            worker, self._threadless = self._threadless, None
            return worker

    def forgo(self) -> None:
        """Do without the worker that found no thread, if nobody has run it."""
        worker, self._threadless = self._threadless, None
        if worker is not None:
            self._discharge(worker)

    def _discharge(self, worker: "Worker") -> None:
        self.workers.discard(worker)
        self._connecting -= 1
        if not self.workers:
            self.stop(self._no_thread, None)

    def _free(self) -> int:
        """How many will see to an errand soon: also who has just settled one and comes back."""
        return self._connecting + max(self._watching, self.open - len(self.in_flight))

    # What a worker asks

    def wants(self, worker: "Worker", *, first: bool) -> bool:
        """Wait until a connection is wanted; False where the worker is not."""
        with self._lock:
            if worker not in self.workers:
                return False
            self._connecting -= first
            while True:
                now = time.monotonic()
                self.backlog.wake(now)
                surplus = len(self.workers) > self.governor.allowed_connections(now)
                if self.stopped or self.cut or surplus or self.backlog.is_empty:
                    break
                wait = max(self.governor.wait(now), self._connect_due - now)
                alone = self.open > 0 or self._connecting == 0
                if self.backlog.ready and wait <= 0 and alone:
                    self._connecting += 1
                    return True
                if self._watching:
                    break
                self._watch(self._until(now, wait, None) if alone else None)
            self._dismiss(worker)
            return False

    def connected(self) -> None:
        """A worker has a connection that is ready to send."""
        with self._lock:
            self._connecting -= 1
            self._failures = 0
            self.open += 1
            self.connected_ever += 1
            self.wake_all()
            self._staff(time.monotonic())

    def is_done(self) -> bool:
        """Whether no further connection is of any use."""
        with self._lock:
            return bool(self.stopped) or self.cut or (self.closing and self.backlog.is_empty)

    def unneeded(self) -> None:
        """A worker's connection was made for nothing."""
        with self._lock:
            self._connecting -= 1
            self.left.notify_all()
            self.wake_all()

    def unavailable(self, fault: Unavailable) -> None:
        """A worker could get no connection."""
        with self._lock:
            self._connecting -= 1
            now = time.monotonic()
            passing = not fault.stops and not (fault.unreachable and not self.connected_ever)
            one_too_many = fault.at_greeting and self.open
            if fault.for_good or (fault.stops and not self.stopped and not one_too_many):
                self.stop(fault.line, fault.reply, for_good=fault.for_good)
            elif self.open:
                self.governor.refuse_connection(now, self.open)
            elif not self.stopped:
                self._failures += 1
                if not passing or self._failures >= self._settings.max_attempts:
                    self.stop(fault.line, fault.reply)
                else:
                    self._connect_due = now + backoff(self._settings.backoff, self._failures)
            self.left.notify_all()
            self.wake_all()

    def next(self, worker: "Worker", rests_until: float) -> Errand | None:
        """Wait for an errand.

        Args:
            worker: whose connection is ready.
            rests_until: when its connection has been idle, or open, for too long.

        Returns:
            The errand; None where the connection is to be ended.
        """
        with self._lock:
            while True:
                now = time.monotonic()
                self.backlog.wake(now)
                surplus = self.open > self.governor.allowed_connections(now)
                done = self.backlog.is_empty and (self.closing or worker is self._guest)
                if self.stopped or self.cut or surplus or done:
                    return None
                wait = self.governor.wait(now)
                if self.backlog.ready and wait <= 0:
                    return self._begin(worker, now)
                if now >= rests_until:
                    return None
                self._watch(self._until(now, wait, rests_until))

    def _begin(self, worker: "Worker", now: float) -> Errand:
        errand = self.backlog.ready.popleft()
        errand.attempts += 1
        self.governor.start(now)
        self.in_flight[worker] = errand
        if errand.job.first_attempt is None:
            errand.job.first_attempt = now
        self._staff(now)
        return errand

    def _until(self, now: float, wait: float, rests_until: float | None) -> float | None:
        """Seconds after which to look again; None where others bring the news."""
        times = [] if rests_until is None else [rests_until - now]
        if self.backlog.ready:
            times.append(wait)
        if self.backlog.next_due is not None:
            times.append(self.backlog.next_due - now)
        return max(0.001, min(times)) if times else None

    def _watch(self, seconds: float | None) -> None:
        self._watching += 1
        try:
            self._work.wait(seconds)
        finally:
            self._watching -= 1

    def disconnected(
        self,
        messages: int,
        reason: str,
        *,
        by_relay: bool,
        full: bool,
        stalled: bool,
        pipelined: bool,
    ) -> None:
        """A worker's connection has ended.

        Args:
            messages: how many were carried out on it.
            reason: why, in words.
            by_relay: whether the relay ended it, and not for being idle.
            full: whether it said that there were too many on it.
            stalled: whether it was ended for want of a reply.
            pipelined: whether it did not wait for each reply.
        """
        with self._lock:
            self.open -= 1
            now = time.monotonic()
            if by_relay or full:
                self.governor.end_connection(messages, full=full)
            if (by_relay or full or stalled) and messages == 0:
                self._be_fruitless(reason, now)
            elif messages:
                self._fruitless = 0
                self._pipelined = self._pipelined or pipelined
            self.left.notify_all()
            self.wake_all()

    def _be_fruitless(self, reason: str, now: float) -> None:
        """The relay lets us in and throws us out: not faster and faster, and not for ever."""
        self._fruitless += 1
        if self._fruitless >= DOUBTFUL and not self._pipelined:
            self.sequential = True
        if self.open:
            self.governor.refuse_connection(now, self.open)
        elif self._fruitless >= FRUITLESS:
            self.stop(f"{self._settings.relay}: {reason}", None)
        elif self._fruitless > 1:
            pause = backoff(self._settings.backoff, self._fruitless - 1)
            self._connect_due = now + pause

    def filled(self) -> None:
        """A connection carried as many messages as the relay is believed to take."""
        with self._lock:
            self.governor.fill_connection()

    def fail(self, worker: "Worker", error: Exception) -> None:
        """A worker has met a fault of our own: what it had in hand may have been sent."""
        with self._lock:
            errand = self.in_flight.pop(worker, None)
            line = f"internal fault: {type(error).__name__}: {error}"
            if errand is not None:
                self._decide_all(errand, Fate(UNKNOWN, "body", None, None, line))
            self.stop(line, None)

    def dismiss(self, worker: "Worker") -> None:
        """A worker's thread is about to end out of turn."""
        with self._lock:
            self._dismiss(worker)

    def _dismiss(self, worker: "Worker") -> None:
        self.workers.discard(worker)
        # A call may have reached this one instead of one that stays.
        self._work.notify()

    # What became of an errand

    def leave(self, rest: Errand) -> None:
        """Recipients that do not fit into a transaction are for another."""
        with self._lock:
            rest.attempts -= 1
            self._queue(rest)

    def refuse(self, worker: "Worker", reason: str) -> None:
        """The relay offers not what the message needs."""
        with self._lock:
            errand = self.in_flight.pop(worker)
            errand.attempts -= 1
            self._decide_all(errand, Fate(INVALID, "mail", None, None, reason))

    def put_back(self, worker: "Worker", reason: str, *, used: bool) -> None:
        """The connection was found lost before anything of the errand was written.

        Args:
            worker: who had it.
            reason: how it was lost.
            used: whether the connection had been of use, or idle: then there is nothing that the
                errand could have had to do with it.
        """
        fate = Fate(NOT_ATTEMPTED, "connect", None, None, reason)
        with self._lock:
            errand = self.in_flight.pop(worker)
            if used:
                errand.attempts -= 1
                self._queue(errand)
            else:
                self._go_back(errand, Judgement(judgement.BACK, fate, None))

    def settle(self, worker: "Worker", judgements: list[Judgement], reply: Reply | None) -> None:
        """Act on what became of each recipient.

        Args:
            worker: who had the errand.
            judgements: one for each of its recipients.
            reply: the reply to the message, if it came so far.
        """
        with self._lock:
            errand = self.in_flight.pop(worker)
            job = errand.job
            if reply is not None and (job.reply is None or job.reply[0] // 100 != 2):
                job.reply = reply
            now = time.monotonic()
            if any(each.fate.status == ACCEPTED for each in judgements):
                self.governor.accept(now)
            limit = judgement.learned_limit(judgements)
            if limit is not None:
                self.governor.limit_recipients(limit)
            last = errand.attempts >= self._settings.max_attempts
            for part, verdict in _parts(errand, judgements, last):
                self._act(part, verdict, now)

    def _act(self, errand: Errand, verdict: Judgement, now: float) -> None:
        """Do with some recipients, to whom the same happened, what is to be done."""
        action = verdict.action
        if action == judgement.REMAINDER:
            errand.attempts -= 1
            self._queue(errand)
        elif action == judgement.DEFER:
            self._try_again(errand, verdict.fate)
        elif action == judgement.SLOWER:
            self.governor.slower(now)
            self._slow_down(errand, verdict.fate)
        elif action == judgement.BACK:
            self._go_back(errand, verdict)
        elif action == judgement.IN_DOUBT and self._settings.resend_unknown:
            errand.in_doubt = True
            self._try_again(errand, verdict.fate)
        else:
            self._decide_all(errand, verdict.fate)
        if action == judgement.STOP and verdict.reply is not None:
            relay = self._settings.relay
            self.stop(f"{relay} would not have us: {line_of(verdict.reply)}", verdict.reply)

    def _slow_down(self, errand: Errand, fate: Fate) -> None:
        errand.slowdowns += 1
        if errand.slowdowns <= FREE_SLOWDOWNS:
            errand.attempts -= 1
            self._queue(errand)
        else:
            self._try_again(errand, fate)

    def _go_back(self, errand: Errand, verdict: Judgement) -> None:
        """The connection was at fault: for some times that costs nothing."""
        errand.returns += 1
        if verdict.reply is not None and verdict.fate.status != NOT_ATTEMPTED:
            errand.refusal = verdict.fate
        if errand.returns <= FREE_RETURNS:
            errand.attempts -= 1
            self._queue(errand)
        else:
            lost = verdict.fate if verdict.reply else verdict.fate._replace(text=LOST)
            self._try_again(errand, errand.refusal or lost)

    def _try_again(self, errand: Errand, fate: Fate) -> None:
        """Another attempt after a while; where there were enough, this is its fate."""
        if errand.attempts >= self._settings.max_attempts:
            self._decide_all(errand, fate)
            return
        self.retried += 1
        self._queue(errand, backoff(self._settings.backoff, errand.attempts))

    def _queue(self, errand: Errand, seconds: float = 0.0) -> None:
        if self.stopped or self.cut:
            self._abandon(errand)
            return
        now = time.monotonic()
        if seconds:
            self.backlog.wait_until(now + seconds, errand)
        else:
            self.backlog.ready.appendleft(errand)
        self._call(1, now)

    def _abandon(self, errand: Errand) -> None:
        self._decide_all(errand, self.unsent())

    def _decide_all(self, errand: Errand, fate: Fate) -> None:
        if errand.in_doubt and fate.status != ACCEPTED:
            fate = fate._replace(status=UNKNOWN)
        job = errand.job
        job.attempts = max(job.attempts, errand.attempts)
        for index in errand.indices:
            job.decide(index, fate)
        if job.is_decided:
            self._tell(job, time.monotonic())


def _parts(
    errand: Errand, judgements: list[Judgement], last: bool
) -> list[tuple[Errand, Judgement]]:
    """Recipients to whom the same happened go on together.

    Args:
        errand: whose they are.
        judgements: one for each of them.
        last: whether it has no further attempt, so that each has a fate of its own.
    """
    if len(set(judgements)) == 1:
        return [(errand, judgements[0])]
    groups: dict[Judgement | str, list[int]] = {}
    verdicts: dict[Judgement | str, Judgement] = {}
    for index, verdict in zip(errand.indices, judgements, strict=True):
        action = verdict.action
        alike = action == judgement.REMAINDER or (not last and action in _SENT_AGAIN)
        key = action if alike else verdict
        groups.setdefault(key, []).append(index)
        verdicts.setdefault(key, verdict)
    # What is decided goes first: a stop among them would decide the others otherwise.
    order = sorted(groups, key=lambda key: verdicts[key].action != judgement.DECIDED)
    return [(errand.part(groups[key]), verdicts[key]) for key in order]


_SENT_AGAIN = (judgement.DEFER, judgement.SLOWER, judgement.BACK)
