"""Tests of the rate controller: the limits that it learns. Both backends get the same tests.

The time is an argument, so no test waits. `tests/test_relay_models.py` simulates whole relays.
"""

import itertools
from types import ModuleType
from typing import Any

import pytest

from rapidsmtp._pure.rate_controller import Evidence
from rapidsmtp._pure.rate_controller.evidence import RUN
from rapidsmtp._pure.rate_controller.hold_off import HOLD_OFF_GROWTH, MAX_HOLD_OFF
from rapidsmtp._pure.rate_controller.learned_rate import (
    DECREASE,
    MIN_RATE,
    PLATEAU,
    RETRY,
    SHORT_PLATEAU,
)
from rapidsmtp._pure.rate_controller.message_limit import CONNECTIONS_PER_PROBE
from rapidsmtp._pure.rate_controller.stall import FORGET, STALLED, STALLED_BY_LIMIT


def started(controller: Any, since: float, until: float) -> int:
    """Return the number of messages that the controller lets start between two times."""
    now, count = since, 0
    while now < until:
        wait = controller.wait(now)
        if wait <= 0:
            controller.start(now)
            count += 1
        now += max(wait, 1e-4)
    return count


def settle(controller: Any, now: float, evidence: Evidence, number: int = 1) -> bool:
    """Start and settle messages at one time. Return whether the last one concerns the relay."""
    concerns_relay = False
    for _ in range(number):
        controller.start(now)
        concerns_relay = controller.settled(now, now, evidence)
    return concerns_relay


def throttled(core: ModuleType, rate: float = 100.0) -> Any:
    """Return a controller after 3 s of acceptances and two refusals because of the rate."""
    controller = core.RateController(None, 4)
    for step in range(int(3 * rate)):
        settle(controller, step / rate, Evidence.ACCEPTED)
    assert settle(controller, 3.0, Evidence.THROTTLED, 2)
    return controller


@pytest.mark.parametrize("rate", [0.5, 1, 7, 10, 200])
def test_a_configured_rate_is_not_exceeded(core: ModuleType, rate: float) -> None:
    count = started(core.RateController(rate), 100.0, 120.0)
    assert 20 * rate - 1 <= count <= 20 * rate + max(1, rate / 10) + 1


@pytest.mark.parametrize(("rate", "burst"), [(5, 1), (10, 1), (200, 20)])
def test_the_burst_after_a_pause_is_small(core: ModuleType, rate: float, burst: int) -> None:
    controller = core.RateController(rate)
    controller.wait(0.0)
    assert started(controller, 60.0, 60.0 + 0.5 / rate) == burst


def test_without_a_rate_no_message_waits(core: ModuleType) -> None:
    controller = core.RateController()
    assert controller.wait(5.0) == 0
    assert controller.rate(5.0) is None


def bucket(controller: Any, now: float, rate: float, burst: float, events: int) -> list[float]:
    """Send to a token bucket until it has refused `events` messages. Return their times."""
    tokens, filled_at = 0.0, now
    refused: list[float] = []
    while len(refused) < events:
        now += max(controller.wait(now), 1e-3)
        controller.start(now)
        tokens, filled_at = min(burst, tokens + (now - filled_at) * rate), now
        accepts = tokens >= 1
        tokens -= accepts
        controller.settled(now, now, Evidence.ACCEPTED if accepts else Evidence.THROTTLED)
        refused += [] if accepts else [now]
    return refused


def test_the_rate_decreases_below_the_accepted_rate_and_returns_to_it(core: ModuleType) -> None:
    controller = throttled(core)
    assert controller.rate(3.0) == pytest.approx(DECREASE * 100, rel=0.05)
    settle(controller, 3.5, Evidence.ACCEPTED)
    assert controller.rate(3.5 + SHORT_PLATEAU) == pytest.approx(100, rel=0.05)
    assert controller.rate(3.5 + 2 * SHORT_PLATEAU) > 105
    assert controller.rate(3600.0) is None


@pytest.mark.parametrize("burst", [1, 5, 50, 500])
@pytest.mark.parametrize("rate", [10, 50])
def test_a_few_refusals_show_the_rate_whatever_the_burst_is(
    core: ModuleType, rate: float, burst: float
) -> None:
    controller = throttled(core, 200.0)
    now = bucket(controller, 3.0, rate, burst, 8)[-1]
    settle(controller, now, Evidence.ACCEPTED)
    assert controller.rate(now + PLATEAU) == pytest.approx(rate, rel=0.2)


def test_a_known_rate_is_exceeded_more_and_more_rarely(core: ModuleType) -> None:
    refused = bucket(throttled(core, 200.0), 3.0, 50, 5, 9)[3:]
    waits = [later - earlier for earlier, later in itertools.pairwise(refused)]
    assert waits == sorted(waits) and waits[-1] > 4 * PLATEAU


def test_a_refusal_soon_after_a_decrease_leaves_the_lower_bound(core: ModuleType) -> None:
    controller = throttled(core, 200.0)
    settle(controller, 4.0, Evidence.ACCEPTED, 11)
    settle(controller, 4.0, Evidence.THROTTLED)
    assert controller.rate(4.0) / DECREASE == pytest.approx(1.5 * 11)
    settle(controller, 4.1, Evidence.ACCEPTED)
    settle(controller, 4.1, Evidence.THROTTLED)
    # The relay accepted 10 messages in the first second, and refused a rate of 14.
    assert 10 < controller.rate(4.1) / DECREASE < 14.1


def test_a_refusal_below_the_lower_bound_shows_a_lower_rate(core: ModuleType) -> None:
    controller = throttled(core, 200.0)
    now = bucket(controller, 3.0, 50, 5, 8)[-1]
    assert controller.rate(now) > 40
    now = bucket(controller, now, 5, 5, 8)[-1]
    settle(controller, now, Evidence.ACCEPTED)
    assert controller.rate(now + PLATEAU) == pytest.approx(5, rel=0.3)


def test_one_refusal_decreases_no_rate(core: ModuleType) -> None:
    controller = core.RateController()
    settle(controller, 0.0, Evidence.ACCEPTED, 100)
    assert settle(controller, 1.0, Evidence.THROTTLED)
    assert controller.rate(1.0) is None


def test_a_message_that_is_refused_alone_concerns_only_itself(core: ModuleType) -> None:
    controller = core.RateController()
    settle(controller, 0.0, Evidence.THROTTLED)
    before = (controller.accepted, controller.refusals)
    settle(controller, 1.0, Evidence.ACCEPTED, 100)
    controller.start(2.0)
    assert not controller.settled(2.0, 2.0, Evidence.THROTTLED, 1, *before)
    assert controller.rate(2.0) is None


def test_replies_to_messages_in_flight_are_one_event(core: ModuleType) -> None:
    controller = throttled(core)
    rate = controller.rate(3.0)
    for _ in range(20):
        assert controller.settled(3.1, 2.9, Evidence.THROTTLED)
    assert controller.rate(3.0) == rate and controller.wait(3.1) < 0.1


def test_the_hold_off_grows_while_nothing_is_accepted(core: ModuleType) -> None:
    controller, now = core.RateController(), 0.0
    settle(controller, now, Evidence.ACCEPTED, 50)
    settle(controller, now, Evidence.THROTTLED, 2)
    waits = []
    for _ in range(4):
        now += controller.wait(now)
        settle(controller, now, Evidence.THROTTLED)
        waits.append(controller.wait(now))
    # No time has passed, so the known rate is the default: one message per second.
    # The wait is at least the time for one message at the decreased rate.
    lengths = [max(1 / DECREASE, RETRY * HOLD_OFF_GROWTH**each) for each in range(4)]
    assert waits == pytest.approx(lengths, rel=0.01)
    for _ in range(5):
        now += controller.wait(now)
        settle(controller, now, Evidence.THROTTLED)
        # The last hold-off ends when the relay counts as dead.
        assert controller.wait(now) <= MAX_HOLD_OFF
    settle(controller, now, Evidence.ACCEPTED)
    assert controller.wait(now + 1) < 1


def test_other_messages_wait_for_the_result_of_a_probe(core: ModuleType) -> None:
    controller = core.RateController()
    settle(controller, 0.0, Evidence.THROTTLED, 4)
    now = controller.wait(0.0) + 0.1
    controller.start(now)
    assert controller.is_probing and controller.wait(now + 0.5) > 0
    assert not controller.settled(now + 0.5, now, Evidence.ACCEPTED)
    assert not controller.is_probing


def test_the_rate_has_a_floor(core: ModuleType) -> None:
    controller = core.RateController(1)
    for second in range(0, 100, 5):
        settle(controller, float(second), Evidence.THROTTLED)
        settle(controller, second + 2.5, Evidence.REFUSED)
    assert controller.rate(100.0) >= MIN_RATE


def test_the_learned_rate_does_not_exceed_the_configured_rate(core: ModuleType) -> None:
    controller = core.RateController(10)
    settle(controller, 0.0, Evidence.THROTTLED, 3)
    assert controller.rate(10_000.0) == 10


def test_a_run_of_refusals_without_a_reason_concerns_the_relay(core: ModuleType) -> None:
    controller = core.RateController()
    settle(controller, 0.0, Evidence.ACCEPTED, 100)
    assert not settle(controller, 1.0, Evidence.LATER, 10)
    settle(controller, 1.0, Evidence.ACCEPTED)
    assert not settle(controller, 2.0, Evidence.LATER, 10)
    assert settle(controller, 2.0, Evidence.LATER, RUN - 10)


def test_greylisting_leaves_no_limit(core: ModuleType) -> None:
    """Every second message is refused, whatever the rate is."""
    controller, now = core.RateController(), 0.0
    for number in range(2000):
        now += max(controller.wait(now), 0.01)
        settle(controller, now, Evidence.LATER if number % 2 else Evidence.ACCEPTED)
    assert controller.rate(now) is None


def test_without_patience_no_message_waits(core: ModuleType) -> None:
    controller = core.RateController(None, 4, patient=False)
    assert not settle(controller, 0.0, Evidence.THROTTLED, 50)
    assert not settle(controller, 0.0, Evidence.LATER, 50)
    controller.connection_failed(0.0, 0.0, 0.5, by_limit=True)
    assert controller.wait(0.0) == 0 and controller.connect_wait(0.0) == 0
    assert not controller.is_stalled(1000.0)


def test_unproven_connections_are_limited(core: ModuleType) -> None:
    controller = core.RateController(None, 8)
    assert controller.may_connect(0.0, 0, 0)
    controller.connection_opened(0.0)
    assert not controller.may_connect(0.1, 0, 1)
    # A relay may need much time for a message.
    assert controller.may_connect(1.0, 0, 1)
    controller.connection_proven(1)
    assert controller.may_connect(0.1, 1, 0)
    controller.connection_proven(2)
    assert controller.may_connect(0.1, 2, 1) and not controller.may_connect(0.1, 2, 2)


def test_refused_connections_are_tried_again_more_and_more_rarely(core: ModuleType) -> None:
    controller = core.RateController(None, 8)
    settle(controller, 0.0, Evidence.ACCEPTED)
    controller.connection_refused(100.0, 3, by_rate=False)
    assert [controller.allowed_connections(each) for each in (100, 159, 160)] == [3, 3, 4]
    settle(controller, 161.0, Evidence.ACCEPTED)
    controller.connection_refused(161.0, 3, by_rate=False)
    assert [controller.allowed_connections(each) for each in (161, 280, 281)] == [3, 3, 4]
    controller.connection_proven(4)
    assert [controller.allowed_connections(each) for each in (300, 341)] == [4, 5]


def test_a_stated_rate_is_not_a_limit_of_connections(core: ModuleType) -> None:
    """Two connections that the relay refuses in a row are evidence for such a limit."""
    controller = core.RateController(None, 4)
    for proven in (1, 2, 3):
        controller.connection_proven(proven)
    controller.connection_refused(1.0, 3, by_rate=True)
    assert controller.allowed_connections(1.0) == 4
    controller.connection_proven(3)
    controller.connection_refused(2.0, 3, by_rate=True)
    assert controller.allowed_connections(2.0) == 4
    controller.connection_refused(3.0, 3, by_rate=True)
    assert controller.allowed_connections(3.0) == 3


def test_an_outage_is_not_a_limit_of_connections(core: ModuleType) -> None:
    controller = core.RateController(None, 4)
    settle(controller, 0.0, Evidence.ACCEPTED, 10)
    for others in (3, 2, 1):
        controller.connection_refused(1.0, others, by_rate=False)
    controller.connection_failed(1.0, 0.0, 0.5, by_limit=False)
    assert controller.allowed_connections(1.0) == 4


def test_the_wait_for_a_connection_grows_with_the_outage(core: ModuleType) -> None:
    controller, now, attempts = core.RateController(), 0.0, 0
    while now < 30:
        controller.connection_failed(now, 0.0, 0.5, by_limit=False)
        assert controller.connect_wait(now) <= max(0.2, 0.25 * now)
        now += controller.connect_wait(now)
        attempts += 1
    assert attempts < 40


def test_a_limit_of_messages_per_connection_is_learned_when_it_recurs(core: ModuleType) -> None:
    controller = core.RateController()
    for now, messages, expected in ((1, 5, None), (2, 4, None), (3, 5, None), (4, 5, 5)):
        controller.connection_ended(float(now), now - 0.5, messages, stated=False)
        assert controller.messages_per_connection == expected


def test_connections_that_end_together_show_no_limit(core: ModuleType) -> None:
    controller = core.RateController()
    for _ in range(4):
        controller.connection_ended(10.0, 1.0, 5, stated=False)
    assert controller.messages_per_connection is None


def test_a_learned_limit_is_probed_more_and_more_rarely(core: ModuleType) -> None:
    controller = core.RateController()
    controller.connection_ended(1.0, 0.5, 5, stated=False)
    controller.connection_ended(2.0, 1.5, 5, stated=False)
    for factor in (1, 2, 4):
        for _ in range(factor * CONNECTIONS_PER_PROBE):
            assert controller.messages_per_connection == 5
            controller.connection_filled()
        assert controller.messages_per_connection == 6
        controller.connection_ended(3.0 * factor, 3.0 * factor - 0.5, 5, stated=False)


def test_a_stated_limit_of_messages_per_connection_is_kept(core: ModuleType) -> None:
    controller = core.RateController()
    controller.connection_ended(1.0, 0.5, 7, stated=True)
    for _ in range(3 * CONNECTIONS_PER_PROBE):
        controller.connection_filled()
    assert controller.messages_per_connection == 7


@pytest.mark.parametrize("stated", [False, True])
def test_a_connection_without_messages_sets_no_limit(core: ModuleType, stated: bool) -> None:
    controller = core.RateController()
    controller.connection_ended(1.0, 0.5, 0, stated=stated)
    controller.connection_ended(2.0, 1.5, 0, stated=stated)
    assert controller.messages_per_connection is None


def test_configured_messages_per_connection_are_never_exceeded(core: ModuleType) -> None:
    controller = core.RateController(None, 1, 3)
    controller.connection_ended(1.0, 0.5, 5, stated=True)
    assert controller.messages_per_connection == 3


def test_a_relay_that_accepts_nothing_is_stalled(core: ModuleType) -> None:
    controller = core.RateController()
    settle(controller, 0.0, Evidence.THROTTLED)
    assert not controller.is_stalled(STALLED - 1)
    assert controller.is_stalled(STALLED)
    assert controller.refusing_for(10.0) == 10
    # A relay with a limit for each minute accepts messages again.
    settle(controller, 1.0, Evidence.ACCEPTED)
    settle(controller, 10.0, Evidence.THROTTLED)
    assert not controller.is_stalled(10 + STALLED_BY_LIMIT - 1)
    assert controller.is_stalled(10 + STALLED_BY_LIMIT)
    controller.resume()
    assert not controller.is_stalled(1000.0)


def test_refusals_long_ago_do_not_count(core: ModuleType) -> None:
    controller = core.RateController()
    controller.connection_failed(0.0, 0.0, 0.5, by_limit=False)
    controller.connection_failed(FORGET + 1, 0.0, 0.5, by_limit=False)
    assert not controller.is_stalled(FORGET + 1)


def test_the_speed_is_that_of_recent_messages(core: ModuleType) -> None:
    controller = core.RateController()
    for tenth in range(100):
        settle(controller, tenth / 10, Evidence.ACCEPTED)
    assert controller.per_second(10.0) == pytest.approx(10, rel=0.2)
    assert controller.per_second(1000.0) < 0.1
