"""The rate controller and the retry policy against models of relays, on both backends.

Each model has bars: the share of the throughput of a sender that knows the limits, the number of
refusals that are necessary to learn the limits, and the time until an error is reported.
"""

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

import rapidsmtp._pure as pure
from rapidsmtp._pure.rate_controller import evidence
from relay_models import (
    Always,
    Answer,
    ConcurrencyLimit,
    Greylisting,
    MessagesPerConnection,
    Outage,
    Policy,
    RateLimit,
    Relay,
    Result,
    Simulation,
    SlidingWindow,
    WindowLimit,
)

THROUGHPUT = 0.85
"""The minimum throughput, as a fraction of that of a sender that knows the limits."""

REFUSALS = 1.2
"""The maximum number of refusals, as a multiple of the number that is necessary."""

MINUTE = 60.0

CONFIRMATION = 30.0
"""The time after which a sender confirms the learned rate by exceeding it, in seconds. Each later
confirmation may come after twice the time, so their number grows with the logarithm of the time."""


PYTHON = Policy(pure.RateController, pure.Attempts, pure.decide_reply, pure.diagnose)


def native() -> Policy:
    module = importlib.import_module("rapidsmtp._native")
    return Policy(module.RateController, module.Attempts, module.decide_reply, module.diagnose)


@pytest.fixture
def policy(backend: str) -> Policy:
    return native() if backend == "rust" else PYTHON


class Model(NamedTuple):
    """A model of a relay, and what a sender can reach with it.

    Attributes:
        relay: The function that creates the relay.
        number: The number of messages.
        seconds: The time of a sender that knows the limits, for a number of connections.
        necessary: The number of refusals that are necessary to learn the limits, for a number of
            connections.
        throughput: The minimum throughput, as a fraction of that of a sender that knows the limits.
    """

    relay: Callable[[], Relay]
    number: int
    seconds: Callable[[int], float]
    necessary: Callable[[int], float]
    throughput: float = THROUGHPUT


def answer(phase: str, line: str) -> Answer:
    code, _, text = line.partition(" ")
    return Answer(phase, int(code), text)


def sending(number: float) -> Callable[[int], float]:
    """Return the time for `number` messages over all connections."""
    return lambda connections: number * 0.02 / connections


LATER = ("451 4.7.1 Try again later", "450 4.3.0 Please try again", "451 Temporary failure")
GREYLISTED = ("451 4.7.1 Greylisting in action, please come back later", "450 4.2.0 Greylisted")
CROWDED = "4.3.2 Too many concurrent SMTP connections"
SLOW_DOWN = {
    421: "421 4.7.28 Rate limit exceeded",
    450: "450 4.7.1 Error: too much mail from 127.0.0.1",
    454: "454 Throttling failure: Maximum sending rate exceeded.",
}
SHARES = (0.01, 0.1, 0.25, 0.5)


def rate_model(rate: float, number: int, line: str, burst: float | None = None) -> Model:
    # A message takes 4 ms, so the connections can send faster than each of the limits.
    seconds = (number - max(1, rate if burst is None else burst)) / rate
    # The first event is reported by each connection. Each later event confirms the rate.
    events = 2 + math.log2(1 + seconds / CONFIRMATION)
    return Model(
        lambda: RateLimit(rate, answer("mail", line), seconds=0.004, burst=burst),
        number,
        lambda connections: seconds,
        lambda connections: connections + 2 * events,
    )


def soft_rate_model(rate: float, number: int, burst: float | None = None) -> Model:
    # A trial starts when a fifth of the results are refusals, that is after some 16 refusals in a
    # row. It takes two steps of 32 results if the relay accepted a burst, and most results of the
    # first step are refusals.
    model = rate_model(rate, number, LATER[0], burst)
    necessary = 16 + evidence.TRIAL_RESULTS
    return model._replace(necessary=lambda connections: necessary + model.necessary(connections))


def burst_model(
    rate: float, burst: float, seconds: float, line: str, throughput: float = THROUGHPUT
) -> Model:
    number = int(rate * seconds + burst)
    soft = line == LATER[0]
    model = soft_rate_model(rate, number, burst) if soft else rate_model(rate, number, line, burst)

    def necessary(connections: int) -> float:
        # The first event shows the speed of the sender. Each step from this speed to the rate of
        # the relay halves the speed.
        return model.necessary(connections) + math.log2(connections / 0.004 / rate)

    return model._replace(necessary=necessary, throughput=throughput)


def changed_rate_model(
    rate: float, factor: float, line: str, throughput: float = THROUGHPUT
) -> Model:
    """Return a model of a relay whose rate changes by a factor in the middle of 600 seconds."""
    model = burst_model(rate, rate, 600.0, line, throughput)

    def necessary(connections: int) -> float:
        # The second rate is learned too, from the first rate.
        return 2 * model.necessary(connections)

    return model._replace(
        relay=lambda: RateLimit(rate, answer("mail", line), 0.004, change=(300.0, factor)),
        number=int(rate * (300 + 300 * factor) + rate),
        seconds=lambda connections: 600.0,
        necessary=necessary,
    )


def greylisting(share: float, phase: str, line: str) -> Model:
    # The retries of the last messages wait for their backoff. A longer list hides this wait.
    number = {0.01: 20_000, 0.1: 12_000}.get(share, 6_000)
    return Model(
        lambda: Greylisting(share, answer(phase, line)),
        number,
        lambda connections: sending(number * (1 + share))(connections) + 5.0,
        # Each message on the list is refused once. A retry may come too early.
        lambda connections: 1.05 * share * number + 20,
    )


def concurrency(limit: int, phase: str, code: int) -> Model:
    return Model(
        lambda: ConcurrencyLimit(limit, answer(phase, f"{code} {CROWDED}")),
        3000,
        lambda connections: 3000 * 0.02 / min(limit, connections),
        lambda connections: max(0, connections - limit),
    )


def per_connection(number: int, line: str | None) -> Model:
    end = Answer("mail", 0, "", closes=True) if line is None else answer("mail", line)
    stated = line is not None and "too many" in line
    # If the relay does not state the limit, two generations of connections show it. Later, one
    # message more is tried on connections from time to time.
    probes = 0 if stated else 2 + math.log2(1 + 3000 / number / 10)
    return Model(
        lambda: MessagesPerConnection(number, end._replace(closes=True)),
        3000,
        lambda connections: 3000 / number * (number * 0.02 + 0.06) / connections,
        lambda connections: connections * (1 + 2 * probes),
    )


MODELS: dict[str, Model] = {
    "no limit": Model(Relay, 3000, sending(3000), lambda connections: 0),
    "slow": Model(
        lambda: Relay(seconds=5.0), 200, lambda connections: 200 * 5.0 / connections, lambda _: 0
    ),
    **{
        f"greylisting of {share:.0%}, {phase}: {line}": greylisting(share, phase, line)
        for share in SHARES
        for phase in ("rcpt", "body")
        for line in (*LATER, *GREYLISTED)
    },
    **{
        f"{limit} connections, {phase}, {code}": concurrency(limit, phase, code)
        for limit in range(1, 8)
        for phase, code in (
            ("connect", 421),
            ("mail", 421),
            ("mail", 432),
            ("rcpt", 450),
            ("rcpt", 452),
            ("data", 451),
            ("body", 454),
        )
    },
    **{
        f"{rate} per second, {code}": rate_model(rate, number, line)
        for rate, number in ((1, 300), (14, 3000), (500, 20000))
        for code, line in SLOW_DOWN.items()
    },
    **{
        f"{rate} per second, not stated": soft_rate_model(rate, number)
        for rate, number in ((1, 900), (14, 3000), (500, 20000))
    },
    # The burst of a relay is often smaller than the messages of one second.
    **{
        f"{rate} per second, bursts of {burst}, {seconds} s, {line[:3]}": burst_model(
            rate, burst, seconds, line
        )
        for rate, burst, seconds in (
            (1, 1, 600),
            (2, 20, 600),
            (5, 1, 600),
            (14, 1, 600),
            (14, 5, 600),
            (14, 140, 300),
            (50, 1, 200),
            (50, 5, 100),
            (100, 10, 60),
            (300, 30, 60),
        )
        for line in (SLOW_DOWN[450], LATER[0])
    },
    **{
        f"{rate} per second, bursts of {burst}, {seconds} s, 421": burst_model(
            rate, burst, seconds, SLOW_DOWN[421]
        )
        for rate, burst, seconds in ((0.5, 1, 600), (1, 1, 600), (14, 5, 600), (50, 5, 100))
    },
    # A relay that closes the connection at each refusal does not reduce the connections.
    **{
        f"500 per second, bursts of 1, {code}": burst_model(500, 1, 60, SLOW_DOWN[code])
        for code in SLOW_DOWN
    },
    "500 per second, bursts of 5000, not stated": burst_model(500, 5000, 30, LATER[0]),
    # An hour at one rate: the sender exceeds the rate more and more rarely.
    "1 per second, an hour": burst_model(1, 1, 3600, SLOW_DOWN[450]),
    # Short lists and slow relays: the messages from which the rate is learned are a large part.
    **{
        f"{rate} per second, {number} messages": burst_model(rate, 1, number / rate, SLOW_DOWN[450])
        for rate, number in ((0.2, 13), (0.2, 120), (1, 61))
    },
    # A rise is found after about the time for which the rate has been the same before.
    **{
        f"{rate} per second, then 4 times as many": changed_rate_model(
            rate, 4.0, SLOW_DOWN[450], 0.83
        )
        for rate in (1, 5)
    },
    **{
        f"{rate} per second, then a quarter": changed_rate_model(rate, 0.25, SLOW_DOWN[450])
        for rate in (2, 14)
    },
    **{
        f"{number} in any {period} s": Model(
            lambda number=number, period=period: SlidingWindow(
                number, period, answer("mail", SLOW_DOWN[450])
            ),
            600 * number // period,
            lambda connections: 600.0,
            # A used window is found in eight steps.
            lambda connections: connections + 8 * 5,
        )
        for number, period in ((60, 60), (10, 1), (300, 60))
    },
    "60 per minute": Model(
        lambda: WindowLimit(60, 60.0, answer("mail", SLOW_DOWN[450])),
        600,
        # At 60 per minute, the last message leaves in the tenth minute.
        lambda connections: 570.0,
        # A used window is found in eight steps. The limit is found after two windows, and each
        # attempt to exceed it uses one more. Measured: 50 refusals with 4 connections, 70 with 8.
        # An interval between two refusals may contain the messages of two windows. Its average is
        # above the rate, and the next windows are used too early.
        lambda connections: connections + 8 * 7,
    ),
    **{
        f"{number} messages per connection, {line}": per_connection(number, line)
        for number in (1, 5, 20, 100)
        for line in ("421 4.7.0 Too many messages in this connection", "421 4.3.0 bye", None)
    },
    "down for 30 s": Model(
        lambda: Outage(lambda now: 5 <= now < 35),
        20_000,
        lambda connections: 20_000 * 0.02 / connections + 30,
        lambda connections: connections + 30,
    ),
    "flapping": Model(
        lambda: Outage(lambda now: now % 15 >= 10),
        20_000,
        lambda connections: 20_000 * 0.02 / connections * 1.5,
        # Each outage ends the open connections, and is tried some times until it is over.
        lambda connections: (connections + 14) * (1 + 20_000 * 0.02 / connections / 10),
    ),
}


CASES = [
    (name, connections)
    for name in MODELS
    for connections in (4, 8)
    if connections == 4 or not name.startswith("greylisting")
]


@pytest.mark.parametrize(("name", "connections"), CASES)
def test_the_limits_of_a_relay_are_learned(policy: Policy, name: str, connections: int) -> None:
    model = MODELS[name]
    result = Simulation(policy, model.relay(), model.number, connections=connections).run()
    assert result.outcomes == {"accepted": model.number} and result.stopped_at is None
    assert model.seconds(connections) / result.seconds >= model.throughput
    refusals = result.refusals + result.refused_connections
    assert refusals <= REFUSALS * model.necessary(connections)


QUOTAS = (
    "550 5.4.5 Daily user sending limit exceeded",
    "454 4.7.0 Throttling failure: Daily message quota exceeded",
    "452 4.7.1 Hourly sending limit exceeded",
)


@pytest.mark.parametrize("line", QUOTAS)
@pytest.mark.parametrize("phase", ["mail", "rcpt", "body"])
def test_a_quota_is_reported_at_once(policy: Policy, phase: str, line: str) -> None:
    relay = Always(answer(phase, line), accepted=100)
    result = Simulation(policy, relay, 1000).run()
    assert result.outcomes["accepted"] == 100
    assert result.stopped_at == result.refused_at


DEAD = {
    "421 to MAIL": lambda: Always(answer("mail", "421 4.3.2 System not accepting messages")),
    "bare 421 to MAIL": lambda: Always(answer("mail", "421 bye")),
    "450 to RCPT": lambda: Always(answer("rcpt", "450 4.3.2 try again later")),
    "451 to the body": lambda: Always(answer("body", "451 4.7.1 Try again later")),
    "454 to the body": lambda: Always(answer("body", "454 4.7.0 Throttling failure")),
    "down for an hour": lambda: Outage(lambda now: 5 <= now < 3605),
    "down from the start": lambda: Outage(lambda now: True),
}


@pytest.mark.parametrize("name", DEAD)
def test_a_relay_that_accepts_nothing_is_reported_within_a_minute(
    policy: Policy, name: str
) -> None:
    result = Simulation(policy, DEAD[name](), 20_000).run()
    assert result.refused_at is not None and result.stopped_at is not None
    assert 30 <= result.stopped_at - result.refused_at <= MINUTE
    assert result.refusals + result.refused_connections <= 60


@pytest.mark.parametrize("line", [*LATER, *SLOW_DOWN.values(), f"451 {CROWDED}"])
def test_with_one_attempt_the_first_refusal_is_reported_at_once(policy: Policy, line: str) -> None:
    relay = Always(answer("mail", line))
    result = Simulation(policy, relay, 10, connections=1, max_attempts=1).run()
    assert result.outcomes.get("deferred", 0) + result.outcomes.get("not attempted", 0) == 10
    assert result.seconds == 0.0 and result.refusals == 10


@pytest.mark.parametrize("line", [*LATER, *GREYLISTED, *SLOW_DOWN.values()])
def test_the_deferral_of_one_message_delays_no_other_message(policy: Policy, line: str) -> None:
    """One message of 3,000 is always refused."""

    class OneRefused(Relay):
        refused: Any = None

        def answer(self, now: float, connection: Any, message: Any) -> Answer:
            self.refused = self.refused or message
            return answer("body", line) if message is self.refused else Answer("body", 250, "ok")

    simulation = Simulation(policy, OneRefused(), 3000, max_attempts=3)
    result = simulation.run()
    assert result.outcomes == {"accepted": 2999, "deferred": 1}
    accepted = [now for now, what in result.trace if what == "accepted"]
    assert 3000 * 0.02 / 4 / accepted[-1] >= THROUGHPUT


@pytest.mark.rust
@pytest.mark.parametrize("name", [*MODELS, *DEAD])
def test_both_backends_make_the_same_decisions(name: str) -> None:
    """Each event of the simulation has the same time and the same result."""

    def run(policy: Policy) -> Result:
        model = MODELS.get(name)
        relay = DEAD[name]() if model is None else model.relay()
        return Simulation(policy, relay, min(1500, model.number if model else 1500)).run()

    assert run(native()) == run(PYTHON)
