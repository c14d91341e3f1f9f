"""Compare the record of a relay with a journal, after runs that were killed at random moments."""

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import processes
from rapidsmtp import Campaign, CampaignState, CampaignStatus, Status, Template
from rapidsmtp.cli.bench.recording_server import records

HERE = Path(__file__).parent
TEMPLATE = b"From: n@example.com\r\nTo: {{ email }}\r\nSubject: Hi {{ email }}\r\n\r\nHello\r\n"


class Forker:
    """A process that runs campaigns, and ends them by a signal."""

    def __init__(self) -> None:
        self._process = processes.start(
            [sys.executable, str(HERE / "forker.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, path: Path, number: int = signal.SIGKILL, seconds: float = 1e6) -> int:
        """Run a campaign, and return its exit status, or the negative number of the signal."""
        self._process.stdin.write(f"{path} {int(number)} {seconds}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self._process.stderr.read()
        return int(answer)

    def close(self) -> str:
        """End the process, and return what its runs wrote to stderr."""
        return str(self._process.communicate(timeout=60)[1])


@dataclass
class Totals:
    """The counts of all calls of `judge`.

    Attributes:
        kills: Runs that were killed.
        campaigns: Campaigns that were sent to their end.
        rows: The rows of these campaigns.
        twice: Rows that the relay has accepted twice.
        lost: Rows that are neither at the relay nor reported.
        wrong: Rows that are ACCEPTED although the relay does not have them.
        silent: Rows that the relay has accepted, but that are neither ACCEPTED nor UNKNOWN.
        unknown: Rows that became UNKNOWN.
        delivered: UNKNOWN rows that the relay has accepted.
        most: The largest quotient of UNKNOWN rows and kills of one campaign.
    """

    kills: int = 0
    campaigns: int = 0
    rows: int = 0
    twice: int = 0
    lost: int = 0
    wrong: int = 0
    silent: int = 0
    unknown: int = 0
    delivered: int = 0
    most: float = 0.0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.campaigns} campaigns, {self.rows} rows: sent twice "
            f"{self.twice}, lost {self.lost}, accepted and not at the relay {self.wrong}, at the "
            f"relay and not reported {self.silent}, unknown {self.unknown} (delivered "
            f"{self.delivered}; at most {self.most:.1f} a kill)"
        )


def judge(path: Path, record: Path, kills: int, totals: Totals) -> CampaignStatus:
    """Compare a journal with the record, and settle the UNKNOWN rows from the record.

    Args:
        path: The journal. Its campaign was sent to its end.
        record: The record of the relay, which receives no more messages.
        kills: The number of kills of this campaign.
        totals: The totals to add to.

    Returns:
        The status after the settlement.
    """
    sent = Counter(row for row, _ in records(record))
    with Campaign.open(path) as campaign:
        status = campaign.status()
        by_row = statuses_by_row(campaign)
        accepted = {row for row, each in by_row.items() if each is Status.ACCEPTED}
        unknown = {row for row, each in by_row.items() if each is Status.UNKNOWN}
        totals.kills += kills
        totals.campaigns += 1
        totals.rows += status.rows
        totals.twice += sum(1 for count in sent.values() if count > 1)
        totals.wrong += len(accepted - set(sent))
        totals.silent += len(set(sent) - accepted - unknown)
        totals.lost += status.rows - len(accepted | unknown)
        totals.unknown += len(unknown)
        totals.delivered += len(unknown & set(sent))
        totals.most = max(totals.most, len(unknown) / max(1, kills))
        if status.state is not CampaignState.DONE:
            totals.faults.append(f"the campaign is {status.state}")
        if (status.accepted, status.unknown) != (len(accepted), len(unknown)):
            totals.faults.append(f"the counts of {status} differ from the outcomes")
        delivered = [f"<{campaign.id}.{row}@example.com>" for row in sent]
        campaign.settle(accepted=delivered, rest_not_sent=True)
        return campaign.status()


def statuses_by_row(campaign: Campaign) -> dict[int, Status | None]:
    """Return the status of each row, None if it waits."""
    found: dict[int, Status | None] = {}
    for number, (_, result) in enumerate(campaign.rows(), 1):
        assert result is None or result.row == number
        found[number] = None if result is None else result.status
    return found


def create(path: Path, url: str, rows: int, **settings: Any) -> None:
    """Create a campaign with rows of one recipient."""
    mappings = ({"email": f"r{row}@d{row % 50}.example"} for row in range(rows))
    settings = {"connections": 2, **settings}
    Campaign.create(path, Template.from_eml(TEMPLATE), mappings, relays=url, **settings).close()


def delays(seed: int, longest: float) -> Iterator[float]:
    """Yield random times: many short ones, which hit the begin of a run, and some long ones."""
    source = random.Random(seed)
    while True:
        yield longest * source.random() ** source.choice((1, 3))
