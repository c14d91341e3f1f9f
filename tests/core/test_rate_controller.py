"""Tests of the rate controller: the limits that it sets after replies.

The time is an argument, so no test waits. The tests of the compiled rate controller are in
`src/engine/rate_controller.rs`, because Python cannot call it.
"""

import pytest

from rapidsmtp._pure.rate_controller import CONNECTIONS_PER_PROBE, RateController


def started(rate_controller: RateController, since: float, until: float) -> int:
    """Return the number of messages that the rate controller lets start between two times."""
    now, count = since, 0
    while now < until:
        wait = rate_controller.wait(now)
        if wait <= 0:
            rate_controller.start(now)
            count += 1
        now += max(wait, 1e-4)
    return count


@pytest.mark.parametrize("rate", [0.5, 1, 7, 10, 200])
def test_a_configured_rate_is_not_exceeded(rate: float) -> None:
    count = started(RateController(rate), 100.0, 120.0)
    assert 20 * rate - 1 <= count <= 20 * rate + max(1, rate / 10)


@pytest.mark.parametrize(("rate", "burst"), [(5, 1), (10, 1), (200, 20)])
def test_the_burst_after_a_pause_is_small(rate: float, burst: int) -> None:
    rate_controller = RateController(rate)
    rate_controller.wait(0.0)
    assert started(rate_controller, 60.0, 60.0 + 0.5 / rate) == burst


def test_without_a_rate_no_message_waits() -> None:
    assert RateController().wait(5.0) == 0
    assert RateController().rate(5.0) is None


def test_a_decrease_goes_below_the_accepted_rate() -> None:
    rate_controller = RateController()
    for hundredth in range(200):
        rate_controller.accepted(hundredth / 100)
    rate_controller.decrease(2.0)
    assert rate_controller.rate(2.0) == pytest.approx(80, rel=0.05)


def test_a_decrease_without_accepted_messages_halves_the_rate() -> None:
    rate_controller = RateController(10)
    rate_controller.decrease(0.0)
    assert rate_controller.rate(0.0) == 5


def test_a_decrease_never_raises_the_rate() -> None:
    rate_controller = RateController(10)
    # The 50 messages exceed the rate of 10, because they were in flight before this rate applied.
    for _ in range(50):
        rate_controller.accepted(0.5)
    rate_controller.decrease(1.0)
    assert rate_controller.rate(1.0) == 10


def test_replies_of_several_connections_are_one_decrease() -> None:
    rate_controller = RateController(16)
    for moment in (0.0, 0.1, 0.2):
        rate_controller.decrease(moment)
    assert rate_controller.rate(0.3) == 8
    assert rate_controller.wait(0.3) == pytest.approx(0.7)
    rate_controller.decrease(1.5)
    assert rate_controller.rate(1.5) == 4


def test_the_rate_has_a_floor() -> None:
    rate_controller = RateController(1)
    for second in range(0, 100, 5):
        rate_controller.decrease(float(second))
    assert rate_controller.rate(100.0) == pytest.approx(0.1)


def test_the_hold_off_doubles_while_nothing_is_accepted() -> None:
    rate_controller, now, pauses = RateController(), 0.0, []
    for _ in range(9):
        rate_controller.decrease(now)
        pauses.append(rate_controller._held_off_until - now)
        now = rate_controller._held_off_until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    rate_controller.accepted(now)
    rate_controller.decrease(now)
    assert rate_controller._held_off_until - now == 1


def test_nothing_starts_during_a_hold_off() -> None:
    rate_controller = RateController()
    rate_controller.decrease(0.0)
    assert started(rate_controller, 0.0, 0.99) == 0
    assert started(rate_controller, 1.0, 1.5) == 1


def test_the_rate_increases_until_the_limit_is_removed() -> None:
    rate_controller = RateController()
    for hundredth in range(100):
        rate_controller.accepted(hundredth / 100)
    rate_controller.decrease(1.0)
    decreased = rate_controller.rate(1.0)
    assert decreased is not None
    assert rate_controller.rate(11.0) == decreased
    assert rate_controller.rate(16.0) == pytest.approx(1.5 * decreased)
    # The limit is removed when the rate reaches 400. This limit is 4 times the rate before the
    # decrease and 5 times the decreased rate of 80. The increase from 80 to 400 starts at 11
    # seconds and takes 40 seconds, so it ends at 51 seconds.
    assert rate_controller.rate(50.0) is not None
    assert rate_controller.rate(52.0) is None
    assert rate_controller.wait(52.0) == 0


def test_the_learned_rate_does_not_exceed_the_configured_rate() -> None:
    rate_controller = RateController(10)
    rate_controller.decrease(0.0)
    assert rate_controller.rate(10_000.0) == 10


def test_one_more_connection_is_allowed_each_minute() -> None:
    rate_controller = RateController(connections=8)
    rate_controller.connection_refused(100.0, 3)
    allowed = [rate_controller.allowed_connections(each) for each in (100, 159, 160, 220, 100_000)]
    assert allowed == [3, 3, 4, 5, 8]
    rate_controller.connection_refused(300.0, 0)
    assert rate_controller.allowed_connections(300.0) == 1


def test_a_limit_of_messages_per_connection_is_learned_when_it_recurs() -> None:
    rate_controller = RateController()
    rate_controller.connection_ended(5)
    assert rate_controller.messages_per_connection is None
    rate_controller.connection_ended(4)
    rate_controller.connection_ended(5)
    assert rate_controller.messages_per_connection is None
    rate_controller.connection_ended(5)
    assert rate_controller.messages_per_connection == 5


def test_a_learned_limit_is_probed_later() -> None:
    rate_controller = RateController()
    rate_controller.connection_ended(5)
    rate_controller.connection_ended(5)
    for _ in range(CONNECTIONS_PER_PROBE):
        assert rate_controller.messages_per_connection == 5
        rate_controller.connection_filled()
    assert rate_controller.messages_per_connection == 6


def test_a_limit_of_messages_per_connection_is_learned_from_the_text() -> None:
    rate_controller = RateController()
    rate_controller.connection_ended(7, full=True)
    rate_controller.connection_filled()
    assert rate_controller.messages_per_connection == 7


@pytest.mark.parametrize("full", [False, True])
def test_a_connection_without_messages_sets_no_limit(full: bool) -> None:
    rate_controller = RateController()
    rate_controller.connection_ended(0, full=full)
    rate_controller.connection_ended(0, full=full)
    assert rate_controller.messages_per_connection is None


def test_configured_messages_per_connection_are_never_exceeded() -> None:
    rate_controller = RateController(messages_per_connection=3)
    rate_controller.connection_ended(5, full=True)
    rate_controller.connection_filled()
    assert rate_controller.messages_per_connection == 3


def test_a_limit_of_recipients_is_stored() -> None:
    rate_controller = RateController()
    assert rate_controller.recipients_per_message is None
    rate_controller.limit_recipients(20)
    assert rate_controller.recipients_per_message == 20


def test_the_speed_is_that_of_recent_messages() -> None:
    rate_controller = RateController()
    for tenth in range(100):
        rate_controller.accepted(tenth / 10)
    assert rate_controller.per_second(10.0) == pytest.approx(10, rel=0.05)
    assert rate_controller.per_second(100.0) == 0
