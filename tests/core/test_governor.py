"""The governor: what it believes after what it heard. Time is given, so nothing here waits.

The compiled half's is tested beside its code (`src/engine/governor.rs`): Python never sees it.
"""

import pytest

from rapidsmtp._pure.governor import FILLED, Governor


def started(governor: Governor, since: float, until: float) -> int:
    """How many messages may be started, by a sender that asks all the time."""
    now, count = since, 0
    while now < until:
        wait = governor.wait(now)
        if wait <= 0:
            governor.start(now)
            count += 1
        now += max(wait, 1e-4)
    return count


@pytest.mark.parametrize("rate", [0.5, 1, 7, 10, 200])
def test_a_given_rate_is_kept(rate: float) -> None:
    count = started(Governor(rate), 100.0, 120.0)
    assert 20 * rate - 1 <= count <= 20 * rate + max(1, rate / 10)


@pytest.mark.parametrize(("rate", "burst"), [(5, 1), (10, 1), (200, 20)])
def test_little_is_saved_up(rate: float, burst: int) -> None:
    governor = Governor(rate)
    governor.wait(0.0)
    assert started(governor, 60.0, 60.0 + 0.5 / rate) == burst


def test_without_a_rate_nothing_waits() -> None:
    assert Governor().wait(5.0) == 0
    assert Governor().rate(5.0) is None


def test_a_cut_goes_below_what_was_taken() -> None:
    governor = Governor()
    for hundredth in range(200):
        governor.accept(hundredth / 100)
    governor.slower(2.0)
    assert governor.rate(2.0) == pytest.approx(80, rel=0.05)


def test_a_cut_of_what_nobody_knows_halves_the_rate() -> None:
    governor = Governor(10)
    governor.slower(0.0)
    assert governor.rate(0.0) == 5


def test_a_cut_never_raises_the_rate() -> None:
    governor = Governor(10)
    for _ in range(50):  # what was in flight when the rate was given
        governor.accept(0.5)
    governor.slower(1.0)
    assert governor.rate(1.0) == 10


def test_connections_that_complain_together_are_one_voice() -> None:
    governor = Governor(16)
    for moment in (0.0, 0.1, 0.2):
        governor.slower(moment)
    assert governor.rate(0.3) == 8
    assert governor.wait(0.3) == pytest.approx(0.7)
    governor.slower(1.5)
    assert governor.rate(1.5) == 4


def test_the_rate_has_a_floor() -> None:
    governor = Governor(1)
    for second in range(0, 100, 5):
        governor.slower(float(second))
    assert governor.rate(100.0) == pytest.approx(0.1)


def test_a_pause_doubles_while_nothing_is_taken() -> None:
    governor, now, pauses = Governor(), 0.0, []
    for _ in range(9):
        governor.slower(now)
        pauses.append(governor._paused_until - now)
        now = governor._paused_until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    governor.accept(now)
    governor.slower(now)
    assert governor._paused_until - now == 1


def test_nothing_starts_in_a_pause() -> None:
    governor = Governor()
    governor.slower(0.0)
    assert started(governor, 0.0, 0.99) == 0
    assert started(governor, 1.0, 1.5) == 1


def test_calm_brings_the_rate_back_until_it_is_forgotten() -> None:
    governor = Governor()
    for hundredth in range(100):
        governor.accept(hundredth / 100)
    governor.slower(1.0)
    cut = governor.rate(1.0)
    assert cut is not None
    assert governor.rate(11.0) == cut
    assert governor.rate(16.0) == pytest.approx(1.5 * cut)
    # Four times 100 is five times the 80 that it was cut to: forty seconds of calm.
    assert governor.rate(50.0) is not None
    assert governor.rate(52.0) is None
    assert governor.wait(52.0) == 0


def test_what_is_given_bounds_what_was_learned() -> None:
    governor = Governor(10)
    governor.slower(0.0)
    assert governor.rate(10_000.0) == 10


def test_connections_come_back_one_a_minute() -> None:
    governor = Governor(connections=8)
    governor.refuse_connection(100.0, 3)
    allowed = [governor.allowed_connections(each) for each in (100, 159, 160, 220, 100_000)]
    assert allowed == [3, 3, 4, 5, 8]
    governor.refuse_connection(300.0, 0)
    assert governor.allowed_connections(300.0) == 1


def test_messages_are_learned_by_the_second_time() -> None:
    governor = Governor()
    governor.end_connection(5)
    assert governor.messages_per_connection is None
    governor.end_connection(4)
    governor.end_connection(5)
    assert governor.messages_per_connection is None
    governor.end_connection(5)
    assert governor.messages_per_connection == 5


def test_what_is_only_believed_is_tried_again() -> None:
    governor = Governor()
    governor.end_connection(5)
    governor.end_connection(5)
    for _ in range(FILLED):
        assert governor.messages_per_connection == 5
        governor.fill_connection()
    assert governor.messages_per_connection == 6


def test_messages_are_learned_by_words() -> None:
    governor = Governor()
    governor.end_connection(7, full=True)
    governor.fill_connection()
    assert governor.messages_per_connection == 7


@pytest.mark.parametrize("full", [False, True])
def test_a_connection_that_took_nothing_teaches_nothing(full: bool) -> None:
    governor = Governor()
    governor.end_connection(0, full=full)
    governor.end_connection(0, full=full)
    assert governor.messages_per_connection is None


def test_messages_that_are_given_are_never_exceeded() -> None:
    governor = Governor(messages_per_connection=3)
    governor.end_connection(5, full=True)
    governor.fill_connection()
    assert governor.messages_per_connection == 3


def test_recipients() -> None:
    governor = Governor()
    assert governor.recipients_per_message is None
    governor.limit_recipients(20)
    assert governor.recipients_per_message == 20


def test_speed() -> None:
    governor = Governor()
    for tenth in range(100):
        governor.accept(tenth / 10)
    assert governor.per_second(10.0) == pytest.approx(10, rel=0.05)
    assert governor.per_second(100.0) == 0
