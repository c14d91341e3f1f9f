"""`Campaign`: schedules, and several relays."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from journals import START, FakeFeed, FakeRelay, Machine, journal_of, outcome, person
from rapidsmtp import RelayError, Template
from rapidsmtp.campaign.breaker import Breaker
from rapidsmtp.campaign.model import CampaignSettings
from rapidsmtp.campaign.outcome_group import OutcomeGroup
from rapidsmtp.campaign.pacing import opens_at, window_of
from rapidsmtp.campaign.relays import RelayLine
from rapidsmtp.campaign.results import Schedule

pytestmark = pytest.mark.usefixtures("backend")
HOUR = 3_600_000
DAY = 24 * HOUR


# Schedules


def test_the_rate_is_kept(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=600, rate=10)
    machine.run()
    seconds = (machine.clock.now() - START) / 1000
    assert 58 <= seconds <= 62


@pytest.mark.usefixtures("seldom")
def test_a_clock_that_is_set_back_does_not_stop_the_rate(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=60, rate=10)
    for number, _ in enumerate(machine.campaign.run()):
        if number == 30:
            machine.clock.time -= 30 * DAY
    assert machine.campaign.status().accepted == 60
    assert machine.clock.passed < 120


@pytest.mark.parametrize("jump", [-DAY, DAY, 400 * DAY])
def test_a_clock_that_jumps_sends_nothing_twice(
    tmp_path: Path, relay: FakeRelay, jump: int
) -> None:
    machine = Machine(tmp_path, rows=500)
    relay.replies = lambda row, _: ("DEFERRED", 450, "x") if row == 400 else ("ACCEPTED",)
    for number, _ in enumerate(machine.campaign.run(wait=False)):
        if number == 200:
            machine.clock.time += jump
    assert machine.campaign.status().accepted == 499
    assert max(relay.counts().values()) == 1
    assert machine.campaign.status().unknown == 0


@pytest.mark.usefixtures("seldom")
def test_messages_per_day(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=100, per_day=[5, 20], zone="Europe/Berlin")
    days: Counter[str] = Counter()
    relay.after_submit = lambda: days.update(
        [f"{datetime.fromtimestamp(machine.clock.now() / 1000 + 3600):%j}"]
    )
    machine.run()
    assert list(days.values()) == [5, 20, 20, 20, 20, 15]


@pytest.mark.usefixtures("seldom")
def test_the_times_of_the_day(tmp_path: Path, relay: FakeRelay) -> None:
    # START is 22:13 UTC, which is 23:13 in Berlin.
    machine = Machine(tmp_path, between="08:00-20:00", zone="Europe/Berlin")
    machine.run()
    first = datetime.fromtimestamp(machine.clock.now() / 1000)
    assert 0 <= machine.clock.now() - (START + (8 * 60 + 47) * 60_000 - 20_000) < 61_000, first


@pytest.mark.usefixtures("seldom")
def test_messages_that_are_not_sent_do_not_count_for_the_day(
    tmp_path: Path, relay: FakeRelay
) -> None:
    machine = Machine(tmp_path, rows=150, per_day=[100])
    relay.error = RelayError("relay x cannot be reached")
    for _ in range(5):
        assert machine.run(wait=False)["ACCEPTED"] == 0
        machine.clock.advance(700.0)
    relay.error = None
    assert machine.run(wait=False) == {"ACCEPTED": 100}


@pytest.mark.usefixtures("seldom")
def test_the_first_day_is_the_first_one_with_a_message(tmp_path: Path, relay: FakeRelay) -> None:
    start = datetime.fromtimestamp(START / 1000 + 3 * 86400).astimezone()
    machine = Machine(tmp_path, rows=100, per_day=[5, 20], start_at=start)
    assert not machine.run(wait=False)
    assert machine.campaign.status().next_at == start.timestamp()
    machine.clock.advance(4 * 86400)
    relay.error = RelayError("relay x cannot be reached")
    assert machine.run(wait=False)["ACCEPTED"] == 0
    machine.clock.advance(86400)
    relay.error = None
    assert machine.campaign.status().next_at is None
    assert machine.run(wait=False)["ACCEPTED"] == 5
    next_at = machine.campaign.status().next_at
    assert next_at is not None and next_at % 86400 == 0  # midnight
    assert next_at > machine.clock.now() / 1000
    machine.clock.advance(86400)
    assert machine.run(wait=False)["ACCEPTED"] == 20


@pytest.mark.parametrize(
    ("between", "hours"),
    [
        ("08:00-20:00", range(8, 20)),
        ("24:00-08:00", range(8)),
        ("00:00-24:00", range(24)),
        ("20:00-06:00", [*range(20, 24), *range(6)]),
    ],
)
def test_the_hours_of_a_window(between: str, hours: Sequence[int]) -> None:
    window = window_of(between, "Europe/Berlin", None)
    settings = CampaignSettings(between=window.between, zone=window.zone)
    for hour in range(24):
        now = int(datetime(2026, 11, 30, hour, 30, tzinfo=ZoneInfo(window.zone)).timestamp() * 1000)
        opening = opens_at(settings, now)
        assert (opening == now) is (hour in hours)
        assert opens_at(settings, opening) == opening < now + DAY


@pytest.mark.usefixtures("seldom")
def test_a_start_in_the_future(tmp_path: Path, relay: FakeRelay) -> None:
    start = datetime.fromtimestamp(START / 1000 + 7200)
    machine = Machine(tmp_path, start_at=start.astimezone())
    assert not machine.run(wait=False)
    assert machine.run() == {"ACCEPTED": 10}
    assert machine.clock.now() - START >= 7_200_000


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"between": "8-20"}, "between is '8-20': write two times such as 08:00-20:00"),
        ({"zone": "Mars/Olympus"}, "zone 'Mars/Olympus' is unknown"),
        ({"per_day": [0]}, "per_day must be whole numbers above 0"),
        ({"per_day": [2.5]}, "per_day must be whole numbers above 0"),
        ({"idempotency_header": "X: y\r\nBcc"}, "idempotency_header is 'X: y"),
        ({"on_unknown": "guess"}, "on_unknown is 'guess'"),
        ({"relays": []}, "relays is empty"),
        ({"relays": ["smtp://a;weight=x"]}, "weight=x is no number"),
        ({"retry_delays": []}, "retry_delays must be"),
        ({"retry_delays": [float("inf")]}, "retry_delays must be"),
        ({"retry_for": float("inf")}, "retry_for is inf: it must be from 0 to"),
        ({"connections": 0}, "connections"),
        ({"sender": {"window": 0}}, "window"),
        ({"relays": "smtp://a:465"}, "port 465"),
        ({"rows": []}, "the list has no rows"),
        ({"idempotency_header": "Subject"}, "more than one Subject"),
        ({"dkim": "x", "template": Template.from_eml(Machine.TEMPLATE)}, "dkim is given, but"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "",
)
def test_wrong_settings(tmp_path: Path, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Machine(tmp_path, **settings)
    assert not list(tmp_path.glob("j*"))


# Relays


class Relays:
    """Several relays in memory, by their URL."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.urls = [f"smtp://{name}" for name in names]
        self.by_url = {url: FakeRelay() for url in self.urls}
        monkeypatch.setattr(RelayLine, "feed", lambda line: FakeFeed(self.by_url[line.url]))

    def __getitem__(self, name: str) -> FakeRelay:
        return self.by_url[f"smtp://{name}"]


def test_relays_share_the_rows_by_weight(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    relays = Relays(monkeypatch, "a", "b")
    machine = Machine(
        tmp_path,
        rows=[person(number) for number in range(3000)],
        relays={"smtp://a": 2, "smtp://b": 1},
    )
    machine.run()
    assert (len(relays["a"].taken), len(relays["b"].taken)) == (2000, 1000)


def test_a_slow_relay_does_not_hold_up_another_one(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    relays = Relays(monkeypatch, "a", "b")

    class Slow(FakeFeed):
        def take(self, wait: float) -> None:
            if len(relays["b"].taken) == 1200:
                super().take(wait)

    monkeypatch.setattr(
        RelayLine,
        "feed",
        lambda line: (Slow if line.url == "smtp://a" else FakeFeed)(relays.by_url[line.url]),
    )
    machine = Machine(tmp_path, rows=2200, relays=relays.urls)
    assert machine.run() == {"ACCEPTED": 2200}
    assert len(relays["a"].taken) == 1000


def test_another_relay_takes_over(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    relays = Relays(monkeypatch, "a", "b")
    relays["a"].error = RelayError("relay a cannot be reached")
    machine = Machine(tmp_path, rows=3000, relays=relays.urls)
    states = []
    for number, _ in enumerate(machine.campaign.run()):
        if number == 2900:
            states = [each.is_up for each in machine.campaign.status().relays]
    assert states == [False, True]
    assert len(relays["b"].taken) == 3000
    assert machine.campaign.status().state == "done"


def test_a_relay_that_is_away_is_tried_again(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path)
    relay.error = RelayError("relay x cannot be reached")
    assert machine.run(wait=False) == {"NOT_ATTEMPTED": 10}
    status = machine.campaign.status()
    assert (status.state, status.waiting) == ("ready", 10)
    assert status.relays[0].reason == "relay x cannot be reached"
    assert status.relays[0].retry_at == (START + 10_000) / 1000
    relay.error = None
    machine.run()
    assert machine.campaign.status().accepted == 10
    assert machine.campaign.status().relays[0].is_up
    assert machine.clock.now() - START >= 10_000


def test_a_stated_time_is_kept(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path)
    relay.error = RelayError("daily limit", (550, b"5.4.5 Daily limit"), 86400)
    machine.run(wait=False)
    assert machine.campaign.status().relays[0].retry_at == (START + DAY) / 1000
    assert machine.campaign.status().refused == 0


@pytest.mark.parametrize(
    "error",
    [
        RelayError("relay x refused the login", (535, b"5.7.8 no")),
        RelayError("relay x rejected the session", (530, b"5.7.0 Authentication required")),
        RelayError("relay x is not trusted", is_permanent=True),
    ],
    ids=["login", "no login", "certificate"],
)
def test_a_permanent_error_pauses(tmp_path: Path, relay: FakeRelay, error: RelayError) -> None:
    machine = Machine(tmp_path)
    relay.error = error
    machine.run()
    status = machine.campaign.status()
    assert (status.state, status.reason) == ("paused", str(error))
    assert status.waiting == 10


@pytest.mark.parametrize(
    "error",
    [
        RelayError("relay login.example: the certificate of the proxy … STARTTLS timed out"),
        RelayError("relay x rejected the session", (554, b"5.7.1 no login from here")),
        RelayError("relay x accepts no more mail for now", (550, b"5.4.5 Daily limit exceeded")),
        RelayError("relay x refused the login", (454, b"4.7.0 Temporary failure")),
    ],
    ids=["words", "greeting", "quota", "login"],
)
def test_another_error_of_the_relay_is_tried_again(
    tmp_path: Path, relay: FakeRelay, error: RelayError
) -> None:
    machine = Machine(tmp_path)
    relay.error = error
    machine.run(wait=False)
    status = machine.campaign.status()
    assert (status.state, status.relays[0].reason) == ("ready", str(error))
    relay.error = None
    machine.clock.advance(20.0)
    assert machine.run() == {"ACCEPTED": 10}


def test_a_relay_that_refuses_everybody_pauses(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=3000)
    relay.replies = lambda row, address: (
        ("REFUSED", 550, f"5.7.1 <{address}> sender blocked, id {row}x")
        if row > 1000
        else ("ACCEPTED",)
    )
    machine.run()
    status = machine.campaign.status()
    assert status.state == "paused"
    assert status.reason.startswith("the relay refuses everybody: 550 5.7.1 <user")
    assert status.refused == 0
    assert status.accepted + status.waiting == 3000
    relay.replies = lambda *_: ("ACCEPTED",)
    machine.campaign.resume()
    machine.run()
    assert machine.campaign.status().accepted == 3000
    assert max(relay.counts().values()) == 1


def test_outcomes_are_watched_in_their_order(tmp_path: Path) -> None:
    """A third of the outcomes of one exchange are refusals, and they are between the others."""
    group = OutcomeGroup()
    outcomes = [
        outcome(row, 0, "REFUSED", 550, "5.7.1 no", f"a@d{row}.example")
        if row % 3 == 0
        else outcome(row, 0, "ACCEPTED", 250, "ok", None)
        for row in range(1, 601)
    ]
    schedule = Schedule(CampaignSettings(), START)
    assert group.add_outcomes(outcomes, {}, 1, START, schedule, stopped=False) == 600
    assert (len(group.accepted), len(group.records), group.rows) == (400, 200, 600)
    journal = journal_of(tmp_path / "j", [600])
    assert Breaker(journal, START).add(group) is None
    only_refused = OutcomeGroup()
    only_refused.add_records(group.records)
    assert Breaker(journal, START).add(only_refused) is not None


def test_many_wrong_addresses_do_not_pause(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=1000)
    relay.replies = lambda row, _: ("REFUSED", 550, "no user") if row % 3 == 0 else ("ACCEPTED",)
    machine.run()
    assert machine.campaign.status().state == "done"
