"""`rapidsmtp demo --campaign`: a campaign that is killed five times, and a relay that goes away.

The server is another process. It records each message before it replies. At the end, its record is
compared with the journal.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rapidsmtp import _backend
from rapidsmtp._compose.template import Template
from rapidsmtp._models.outcome import Status
from rapidsmtp.campaign.campaign import Campaign
from rapidsmtp.cli import display
from rapidsmtp.cli.bench.recording_server import recording_server, records, wait_until_quiet
from rapidsmtp.cli.usage import NOT_ALL_ACCEPTED

_ROWS, _KILLS = 20_000, 5
_AWAY = 1.0
"""The time without a relay, in seconds."""
_LOOK = 0.005


def campaign_demo(options: argparse.Namespace) -> int:
    """Send a campaign, kill its runs, and print the record of the server beside the journal.

    Args:
        options: The options of `demo`.

    Returns:
        The exit status: 0 if the record and the journal agree.
    """
    rows = options.limit or _ROWS
    with tempfile.TemporaryDirectory(prefix="rapidsmtp-") as folder:
        start = time.monotonic()
        values = _Demo(Path(folder), rows).run()
        values["seconds"] = round(time.monotonic() - start, 1)
    if options.json:
        display.show(display.as_json(values))
    else:
        _print(rows, values)
    names = ("sent_twice", "lost", "wrongly_accepted", "not_reported", "unknown_after_settle")
    agrees = not any(values[name] for name in names)
    return 0 if agrees and values["sent_after_settle"] == rows else NOT_ALL_ACCEPTED


class _Demo:
    def __init__(self, folder: Path, rows: int) -> None:
        self._journal, self._record = folder / "news.campaign", folder / "record"
        self._rows = rows
        self._random = random.Random()

    def run(self) -> dict[str, Any]:
        with ExitStack() as stack:
            url = stack.enter_context(recording_server(self._record))
            port = int(url.partition("?")[0].rpartition(":")[2])
            self._create(url)
            # The moments: after so many messages, one of which takes the relay away.
            moments = sorted(self._random.randrange(self._rows) for _ in range(_KILLS + 1))
            outage = self._random.randrange(_KILLS + 1)
            process = self._start()
            for number, moment in enumerate(moments):
                self._wait_for(moment, process)
                if number == outage:
                    stack.close()
                    time.sleep(_AWAY)
                    stack.enter_context(recording_server(self._record, port))
                else:
                    process.kill()
                    process.wait()
                    process = self._start()
            process.wait()
            wait_until_quiet(url)
            values = self._compared()
            self._start().wait()
            wait_until_quiet(url)
            with Campaign.open(self._journal) as campaign:
                values["unknown_after_settle"] = campaign.status().unknown
            sent = Counter(row for row, _ in records(self._record))
            values["sent_after_settle"] = len(sent)
            values["sent_twice"] += sum(count > 1 for count in sent.values())
            return values

    def _create(self, url: str) -> None:
        template = Template.compose(
            sender="News <news@example.com>",
            to="{{ name }} <{{ email }}>",
            subject="Hello {{ name }}",
            text="Dear {{ name }},\n\nthe news of this month.\n",
        )
        rows = ({"name": f"N{n}", "email": f"n{n}@d{n % 500}.example"} for n in range(self._rows))
        Campaign.create(self._journal, template, rows, relays=url, connections=2).close()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "rapidsmtp", "campaign", "run", str(self._journal)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _wait_for(self, messages: int, process: "subprocess.Popen[bytes]") -> None:
        """Wait until the server has a number of messages, or the run has ended."""
        while process.poll() is None and len(records(self._record)) < messages:
            time.sleep(_LOOK)

    def _compared(self) -> dict[str, Any]:
        """Compare the record with the journal, and settle the UNKNOWN rows from the record."""
        sent = {row for row, _ in records(self._record)}
        with Campaign.open(self._journal) as campaign:
            found = {
                number: None if result is None else result.status
                for number, (_, result) in enumerate(campaign.rows(), 1)
            }
            accepted = {row for row, status in found.items() if status is Status.ACCEPTED}
            unknown = {row for row, status in found.items() if status is Status.UNKNOWN}
            campaign.settle(
                accepted=(f"<{campaign.id}.{row}@example.com>" for row in sent), rest_not_sent=True
            )
        return {
            "subscribers": self._rows,
            "kills": _KILLS,
            "relay_away": _AWAY,
            "sent": len(sent),
            "accepted": len(accepted),
            "sent_twice": 0,
            "lost": self._rows - len(accepted | unknown),
            "wrongly_accepted": len(accepted - sent),
            "not_reported": len(sent - accepted - unknown),
            "unknown": len(unknown),
            "unknown_sent": len(unknown & sent),
        }


def _print(rows: int, values: dict[str, Any]) -> None:
    display.show(f"rapidsmtp ({_backend.implementation} backend)")
    title = (
        f"{rows} subscribers; the run was killed {_KILLS} times (kill -9), and the relay was away "
        f"for {_AWAY:g} s"
    )
    lines = [
        ("at the server, by its own record", "sent"),
        ("accepted, by the journal", "accepted"),
        ("sent twice", "sent_twice"),
        ("lost", "lost"),
        ("accepted in the journal, and not at the server", "wrongly_accepted"),
        ("at the server, and not reported", "not_reported"),
        ("unknown", "unknown"),
        ("unknown after settle", "unknown_after_settle"),
        ("at the server after settle", "sent_after_settle"),
    ]
    table = [[text, f"{values[name]}"] for text, name in lines]
    display.table(title, ["", ""], [*table, ["seconds", f"{values['seconds']}"]])
    display.show(
        f"Of the {values['unknown']} unknown rows, {values['unknown_sent']} were at the server. "
        "`settle` got the server's record."
    )
