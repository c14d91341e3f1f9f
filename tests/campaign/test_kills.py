"""`kill -9` at random moments: the record of the relay and the journal agree.

`CAMPAIGN_KILLS` sets the number of kills for `make soak`, and `CAMPAIGN_SEED` repeats a run.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from campaign import judge
from campaign.judge import Forker, Totals, create, delays
from rapidsmtp import Campaign, CampaignState
from rapidsmtp.cli.bench.recording_server import recording_server, records, wait_until_quiet

ROWS = 2500
LONG = 1e6
CONNECTIONS = 2
SOAK = int(os.environ.get("CAMPAIGN_KILLS", "0"))
SEED = int(os.environ.get("CAMPAIGN_SEED", "1"))
KILLS = {"rust": SOAK or 40, "python": max(10, SOAK // 10)}

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no pidfd")


@pytest.fixture
def forker(backend: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forker]:
    monkeypatch.setenv("RAPIDSMTP_CORE", backend)
    started = Forker()
    yield started
    errors = started.close()
    assert "Traceback" not in errors, errors


def test_kills_at_random_moments(backend: str, forker: Forker, tmp_path: Path) -> None:
    totals, moments = Totals(), delays(SEED, 0.35)
    while totals.kills < KILLS[backend]:
        path = tmp_path / f"{totals.campaigns}.campaign"
        record = path.with_suffix(".record")
        with recording_server(record) as url:
            create(path, url, ROWS, connections=CONNECTIONS)
            kills = 0
            # After the last kill, the campaign is sent to its end.
            while (
                status := forker.run(
                    path,
                    signal.SIGKILL,
                    next(moments) if totals.kills + kills < KILLS[backend] else LONG,
                )
            ) != 0:
                assert status == -signal.SIGKILL
                kills += 1
            wait_until_quiet(url)
            settled = judge.judge(path, record, kills, totals)
            assert (settled.unknown, settled.state in ("done", "ready")) == (0, True)
            # The rows that were not delivered are sent now, and the others are not.
            assert forker.run(path) == 0
            wait_until_quiet(url)
        rows = [row for row, _ in records(record)]
        assert sorted(rows) == list(range(1, ROWS + 1))
        with Campaign.open(path) as campaign:
            after = campaign.status()
        assert (after.state, after.accepted, after.unknown) == (CampaignState.DONE, ROWS, 0)
        for file in tmp_path.iterdir():
            file.unlink()
    print(f"{backend}: {totals}")
    assert (totals.twice, totals.lost, totals.wrong, totals.silent) == (0, 0, 0, 0), totals
    assert totals.faults == []
    if backend == "rust":
        assert totals.unknown <= totals.kills * CONNECTIONS * 2, totals


def test_a_resend_has_the_same_bytes(forker: Forker, tmp_path: Path) -> None:
    """After kills, `settle(resend=True)` sends twice only what was UNKNOWN, with the same bytes."""
    path, record = tmp_path / "j", tmp_path / "record"
    moments = delays(SEED, 0.3)
    with recording_server(record) as url:
        create(path, url, ROWS)
        for _ in range(5):
            forker.run(path, signal.SIGKILL, next(moments))
        assert forker.run(path) == 0
        wait_until_quiet(url)
        with Campaign.open(path) as campaign:
            unknown = {
                row for row, each in judge.statuses_by_row(campaign).items() if each == "unknown"
            }
            campaign.settle(resend=True)
        assert forker.run(path) == 0
        wait_until_quiet(url)
    digests: dict[int, list[str]] = {}
    for row, digest in records(record):
        digests.setdefault(row, []).append(digest)
    assert set(digests) == set(range(1, ROWS + 1))
    assert {row for row, found in digests.items() if len(found) > 1} <= unknown
    assert all(len(set(found)) == 1 and len(found) <= 2 for found in digests.values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_at_random_moments_lose_nothing(
    forker: Forker, tmp_path: Path, number: signal.Signals
) -> None:
    """An end in order leaves no row UNKNOWN: each has an outcome, or waits."""
    path, record = tmp_path / "j", tmp_path / "record"
    moments, statuses = delays(SEED + number, 0.6), set()
    with recording_server(record) as url:
        create(path, url, ROWS)
        # The status is the negative number if the signal came before the handlers were set.
        for _ in range(5):
            statuses.add(forker.run(path, number, next(moments)))
        assert forker.run(path, number) == 0
        wait_until_quiet(url)
    assert statuses <= {0, 128 + number, -number}
    rows = [row for row, _ in records(record)]
    assert sorted(rows) == list(range(1, ROWS + 1))
    with Campaign.open(path) as campaign:
        after = campaign.status()
    assert (after.state, after.accepted, after.unknown) == (CampaignState.DONE, ROWS, 0)
