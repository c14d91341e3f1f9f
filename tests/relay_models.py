"""Models of relays, and a simulation of the engine's pool with the policy modules of the core.

The simulation has no I/O. Its clock jumps from event to event, so an hour passes in a moment. It
uses the policy modules (`rate_controller` and `retry`) of one backend. The pool of the simulation
makes the same calls as the pools of both engines.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rapidsmtp._models.settings import Backoff
from rapidsmtp._pure.rate_controller import Evidence
from rapidsmtp._pure.retry import RetryPolicy


class Policy(NamedTuple):
    """The policy modules of one backend."""

    controller: Callable[..., Any]
    attempts: Callable[[], Any]
    decide: Callable[..., tuple[str, int]]
    diagnose: Callable[..., str]


class Answer(NamedTuple):
    """A relay's reply to one message or connection; no reply (`code` 0) means a lost connection."""

    phase: str
    code: int
    text: str
    closes: bool = False


ACCEPT = Answer("body", 250, "2.0.0 ok")


@dataclass(eq=False)
class SimulatedMessage:
    """A message with one recipient."""

    attempts: Any
    outcome: str = ""
    throttles: int = 0
    greylisted_at: float | None = None


@dataclass(eq=False)
class SimulatedConnection:
    """A connection of the simulated pool."""

    opened: float
    ready: bool = False
    carried: int = 0
    proven: bool = False
    clean: bool = True
    busy: bool = False


class Relay:
    """A relay without limits. Subclasses have one limit each.

    Args:
        seconds: The time for one message.
    """

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds

    def connect(self, now: float, connection: SimulatedConnection) -> Answer | None:
        """Return the refusal of a new connection; None if the relay accepts it."""
        return None

    def closed(self, connection: SimulatedConnection) -> None:
        """Record the end of a connection."""

    def answer(
        self, now: float, connection: SimulatedConnection, message: SimulatedMessage
    ) -> Answer:
        """Return the reply that decides on a message."""
        return ACCEPT


class Greylisting(Relay):
    """A share of the messages is refused until `period` seconds after the first attempt."""

    def __init__(self, share: float, answer: Answer, period: float = 3.0) -> None:
        super().__init__()
        self.refusal = answer
        self._share, self._period = share, period
        self._random = random.Random(4)
        self._first: dict[SimulatedMessage, float] = {}

    def answer(
        self, now: float, connection: SimulatedConnection, message: SimulatedMessage
    ) -> Answer:
        if message not in self._first:
            listed = self._random.random() < self._share
            self._first[message] = now if listed else now - self._period
        return self.refusal if now - self._first[message] < self._period else ACCEPT


class ConcurrencyLimit(Relay):
    """The relay serves `limit` connections, and refuses others at the phase of the answer."""

    def __init__(self, limit: int, answer: Answer) -> None:
        super().__init__()
        self._limit, self._refusal = limit, answer
        self._admitted: set[SimulatedConnection] = set()

    def _admits(self, connection: SimulatedConnection) -> bool:
        if len(self._admitted) < self._limit:
            self._admitted.add(connection)
        return connection in self._admitted

    def connect(self, now: float, connection: SimulatedConnection) -> Answer | None:
        at_once = self._refusal.phase == "connect"
        return self._refusal if at_once and not self._admits(connection) else None

    def closed(self, connection: SimulatedConnection) -> None:
        self._admitted.discard(connection)

    def answer(
        self, now: float, connection: SimulatedConnection, message: SimulatedMessage
    ) -> Answer:
        return ACCEPT if self._admits(connection) else self._refusal


class RateLimit(Relay):
    """A token bucket of `burst` messages that is filled with `rate` messages per second.

    Args:
        rate: The rate, in messages per second.
        answer: The refusal.
        seconds: The time for one message.
        burst: The size of the bucket; None for the messages of one second. It is at least 1.
        change: The time at which the rate changes, and the factor; None for a constant rate.
    """

    def __init__(
        self,
        rate: float,
        answer: Answer,
        seconds: float = 0.02,
        *,
        burst: float | None = None,
        change: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(seconds)
        self._rate, self._refusal = rate, answer
        self._burst = self._tokens = max(1.0, rate if burst is None else burst)
        self._filled_at = 0.0
        self._change = change

    def answer(
        self, now: float, connection: SimulatedConnection, message: SimulatedMessage
    ) -> Answer:
        if self._change is not None and now >= self._change[0]:
            self._fill(self._change[0])
            self._rate *= self._change[1]
            self._change = None
        self._fill(now)
        # Rounding must not refuse a message that arrives exactly in time.
        if self._tokens < 1 - 1e-9:
            return self._refusal
        self._tokens -= 1
        return ACCEPT

    def _fill(self, now: float) -> None:
        filled = self._tokens + (now - self._filled_at) * self._rate
        self._tokens, self._filled_at = min(self._burst, filled), now


class SlidingWindow(Relay):
    """At most `number` messages in any period of `period` seconds."""

    def __init__(self, number: int, period: float, answer: Answer, seconds: float = 0.004) -> None:
        super().__init__(seconds)
        self._number, self._period, self._refusal = number, period, answer
        self._accepted: deque[float] = deque()

    def answer(
        self, now: float, connection: SimulatedConnection, message: SimulatedMessage
    ) -> Answer:
        while self._accepted and self._accepted[0] <= now - self._period:
            self._accepted.popleft()
        if len(self._accepted) >= self._number:
            return self._refusal
        self._accepted.append(now)
        return ACCEPT


class WindowLimit(Relay):
    """`number` messages in each period of `period` seconds."""

    def __init__(self, number: int, period: float, answer: Answer) -> None:
        super().__init__()
        self._number, self._period, self._refusal = number, period, answer
        self._window = self._count = 0

    def answer(
        self, now: float, connection: SimulatedConnection, message: SimulatedMessage
    ) -> Answer:
        window = int(now // self._period)
        if window != self._window:
            self._window, self._count = window, 0
        if self._count >= self._number:
            return self._refusal
        self._count += 1
        return ACCEPT


class MessagesPerConnection(Relay):
    """`number` messages on each connection."""

    def __init__(self, number: int, answer: Answer) -> None:
        super().__init__()
        self._number, self._refusal = number, answer

    def answer(
        self, now: float, connection: SimulatedConnection, message: SimulatedMessage
    ) -> Answer:
        return ACCEPT if connection.carried < self._number else self._refusal


class Outage(Relay):
    """A relay that cannot be reached while `is_down` is true."""

    def __init__(self, is_down: Callable[[float], bool]) -> None:
        super().__init__()
        self._is_down = is_down

    def connect(self, now: float, connection: SimulatedConnection) -> Answer | None:
        return Answer("connect", 0, "", closes=True) if self._is_down(now) else None

    def answer(
        self, now: float, connection: SimulatedConnection, message: SimulatedMessage
    ) -> Answer:
        return Answer("mail", 0, "", closes=True) if self._is_down(now) else ACCEPT


class Always(Relay):
    """A relay that gives the same answer to every message, after `accepted` accepted messages."""

    def __init__(self, answer: Answer, accepted: int = 0) -> None:
        super().__init__()
        self._refusal, self._left = answer, accepted

    def answer(
        self, now: float, connection: SimulatedConnection, message: SimulatedMessage
    ) -> Answer:
        self._left -= 1
        return ACCEPT if self._left >= 0 else self._refusal


@dataclass
class Result:
    """The result of a simulation.

    Attributes:
        seconds: The time of the last acceptance.
        outcomes: The number of messages by outcome.
        refusals: The number of refused messages.
        refused_connections: The number of refused connections.
        refused_at: The time of the first refusal; None without one.
        stopped_at: The time at which the sender stopped with an error; None if it did not stop.
        connections: The largest number of connections that were open together.
        trace: Every event, to compare two backends.
    """

    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    refusals: int = 0
    refused_connections: int = 0
    refused_at: float | None = None
    stopped_at: float | None = None
    connections: int = 0
    trace: list[tuple[float, str]] = field(default_factory=list)


class Simulation:
    """A pool that sends messages to a relay.

    Args:
        policy: The policy modules.
        relay: The relay.
        number: The number of messages.
        connections: The maximum number of connections.
        max_attempts: The maximum number of attempts for a message.
    """

    CONNECT_SECONDS = 0.06

    def __init__(
        self,
        policy: Policy,
        relay: Relay,
        number: int,
        *,
        connections: int = 4,
        max_attempts: int = 5,
    ) -> None:
        self.now = 0.0
        self.result = Result()
        self._policy, self._relay = policy, relay
        self._retry = RetryPolicy(max_attempts, Backoff(5.0, 2.0, 300.0), resend_unknown=False)
        self._controller = policy.controller(None, connections, patient=max_attempts > 1)
        self._random = random.Random(7)
        self._ready = [SimulatedMessage(policy.attempts()) for _ in range(number)][::-1]
        self._last: list[SimulatedMessage] = []  # the end of the queue, in order
        self._unfinished = number
        self._open: list[SimulatedConnection] = []
        self._opening = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._timer = float("inf")

    def run(self) -> Result:
        """Run until every message is finished or the sender stops."""
        self._dispatch()
        while self._events and self._unfinished and self.result.stopped_at is None:
            self.now, _, event = heapq.heappop(self._events)
            event()
            self._dispatch()
        return self.result

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), event))

    def _wake_in(self, seconds: float) -> None:
        when = self.now + seconds + 1e-6
        # Rounding changes the time of one and the same event a little.
        if self.now < self._timer <= when + 1e-3:
            return
        self._timer = when
        self._at(when, lambda: None)

    def _count(self) -> int:
        return len(self._ready) + len(self._last)

    def _take(self) -> SimulatedMessage:
        if not self._ready:
            self._ready, self._last = self._last[::-1], []
        return self._ready.pop()

    def _proven(self) -> int:
        return sum(connection.proven for connection in self._open)

    def _dispatch(self) -> None:
        if self.result.stopped_at is not None:
            return
        limit = self._controller.messages_per_connection
        for connection in list(self._open):
            if not connection.busy and limit is not None and connection.carried >= limit:
                self._close(connection)
                self._controller.connection_filled()
        while self._count():
            idle = [each for each in self._open if not each.busy]
            idle.sort(key=lambda each: not each.proven)
            if not idle:
                break
            wait = self._controller.wait(self.now)
            if wait > 0:
                self._wake_in(wait)
                return
            self._controller.start(self.now)
            self._start(idle[0], self._take())
        self._open_connections()

    def _start(self, connection: SimulatedConnection, message: SimulatedMessage) -> None:
        started, connection.busy = self.now, True
        end = self.now + self._relay.seconds
        self._at(end, lambda: self._settle(connection, message, started))

    def _open_connections(self) -> None:
        idle = sum(not each.busy for each in self._open)
        while self._count() > self._opening + idle:
            if self._opening and not self._open:
                return
            proven = self._proven()
            unproven = len(self._open) - proven + self._opening
            if not self._controller.may_connect(self.now, proven, unproven):
                self._wake_in(self._controller.connect_wait(self.now) or 1.0)
                return
            self._controller.connection_opened(self.now)
            self._opening += 1
            connection = SimulatedConnection(self.now)
            self._at(self.now + self.CONNECT_SECONDS, lambda c=connection: self._connected(c))

    def _connected(self, connection: SimulatedConnection) -> None:
        self._opening -= 1
        answer = self._relay.connect(self.now, connection)
        if answer is None:
            connection.ready = True
            self._open.append(connection)
            self.result.connections = max(self.result.connections, len(self._open))
            return
        self.result.refused_connections += 1
        self._refused(f"connection refused {answer.code}")
        self._fail(answer)

    def _fail(self, answer: Answer) -> None:
        if self._open:
            is_rate = answer.phase != "connect" and answer.code > 0
            by_rate = is_rate and self._diagnose(answer) == "slower"
            self._controller.connection_refused(self.now, len(self._open), by_rate=by_rate)
        else:
            blame = answer.code and self._diagnose(answer)
            by_limit = blame in ("slower", "concurrency")
            chance = self._random.random()
            self._controller.connection_failed(self.now, 0.0, chance, by_limit=by_limit)
        self._stop_if_stalled()

    def _diagnose(self, answer: Answer) -> str:
        enhanced = answer.text.split(" ")[0] if answer.text[1:2] == "." else None
        text = answer.text.encode()
        return self._policy.diagnose(answer.phase, answer.code, text, enhanced)

    def _settle(
        self, connection: SimulatedConnection, message: SimulatedMessage, started: float
    ) -> None:
        connection.busy = False
        answer = self._relay.answer(self.now, connection, message)
        reply = (answer.code, answer.text.encode()) if answer.code else None
        others = self._proven() - connection.proven
        used = connection.carried > 0
        step, evidence = self._policy.decide(
            answer.phase,
            reply,
            not_executed=not answer.code,
            after_accepted=False,
            used=used,
            others=others > 0,
            resend_unknown=False,
        )
        attempts = message.attempts
        concerns_relay = self._controller.settled(
            self.now,
            started,
            Evidence(evidence),
            attempts.throttled,
            attempts.accepted_before,
            attempts.refusals_before,
        )
        if evidence == Evidence.ACCEPTED:
            self.result.seconds = self.now
            connection.carried += 1
            if not connection.proven:
                connection.proven = True
                self._controller.connection_proven(self._proven())
            self._finish("accepted")
        else:
            self._refused(f"{step} {answer.code} {concerns_relay}")
            self.result.refusals += 1
            connection.clean &= step != "defer"
            self._retry_message(message, step, concerns_relay, used, answer)
        closes = answer.closes or answer.code == 421 or step.startswith("close")
        if closes and connection in self._open:
            self._end(connection, step, answer, others)
        self._stop_if_stalled()

    def _retry_message(
        self, message: SimulatedMessage, step: str, concerns: bool, used: bool, answer: Answer
    ) -> None:
        attempts = message.attempts
        if concerns:
            attempts.count_throttled(self._controller.accepted, self._controller.refusals)
            self._last.append(message)
        elif step == "close surplus":
            self._ready.append(message)
        elif step in ("return", "close connection"):
            if attempts.count_return(self._retry, used=used):
                self._ready.append(message)
            else:
                self._finish("not attempted")
        elif step == "stop":
            self.result.stopped_at = self.now
        elif step == "defer":
            attempts.count += 1
            delay = attempts.delay(self._retry, self._random.random())
            if delay is None:
                self._finish("deferred")
            else:
                self._at(self.now + delay, lambda: self._last.append(message))
        else:
            self._finish("refused")

    def _end(self, connection: SimulatedConnection, step: str, answer: Answer, others: int) -> None:
        self._close(connection)
        if step == "close surplus":
            self._controller.connection_refused(self.now, others, by_rate=False)
        elif not connection.carried:
            self._fail(answer)
        elif "too many messages" in answer.text.lower() or connection.clean:
            stated = "too many messages" in answer.text.lower()
            carried, opened = connection.carried, connection.opened
            self._controller.connection_ended(self.now, opened, carried, stated=stated)

    def _close(self, connection: SimulatedConnection) -> None:
        self._open.remove(connection)
        self._relay.closed(connection)

    def _stop_if_stalled(self) -> None:
        in_flight = any(each.busy for each in self._open)
        if not in_flight and self._controller.is_stalled(self.now):
            self.result.stopped_at = self.now

    def _finish(self, outcome: str) -> None:
        self._unfinished -= 1
        outcomes = self.result.outcomes
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        self.result.trace.append((self.now, outcome))

    def _refused(self, what: str) -> None:
        if self.result.refused_at is None:
            self.result.refused_at = self.now
        self.result.trace.append((self.now, what))
