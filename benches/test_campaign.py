"""A campaign with a journal compared with a `Sender` without one: rows to accepted messages.

Both read the same recipients list in CSV and render the same template. The campaign also grants
each row and saves each outcome durably (SQLite with `synchronous=FULL`). Its list was frozen in the
journal before the measurement. Both read all outcomes.
"""

import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from competitors import Spent, spend
from newsletter import row, template

from rapidsmtp import Campaign, Sender, Status, Template

ROUNDS = 5
SMALL = Template.compose(
    sender="News <news@example.com>",
    to="{{ name }} <{{ email }}>",
    subject="{{ name }}, what is new",
    text="Dear {{ name }},\n\n" + "A line of a small message.\n" * 10,
)


@pytest.mark.parametrize(
    ("merged", "count"),
    [pytest.param(template(), 8_000, id="38-kB"), pytest.param(SMALL, 30_000, id="small")],
)
def test_journal_2_connections(benchmark, port, tmp_path, merged, count):
    recipients = tmp_path / "list.csv"
    with recipients.open("w", encoding="utf-8") as file:
        file.write("name,email,city,token\n")
        file.writelines(",".join(row(number).values()) + "\n" for number in range(count))
    turns: list[tuple[Spent, Spent]] = []

    def turn() -> None:
        without = by_sender(port, merged, recipients, count)
        turns.append((without, by_campaign(port, merged, recipients, count)))

    benchmark.pedantic(turn, rounds=ROUNDS, warmup_rounds=1)

    def median(place: int, name: str) -> float:
        return statistics.median(getattr(each[place], name) for each in turns)

    # The design's bar for the rate with a journal against the rate without is 0.85 for 38 KB and
    # 0.80 for small rows.
    benchmark.extra_info["facts"] = {
        "rows_per_second": round(1 / median(1, "wall")),
        "rate_ratio": round(median(0, "wall") / median(1, "wall"), 2),
        "cpu_ratio": round(median(1, "cpu") / median(0, "cpu"), 2),
    }


def by_sender(port: int, merged: Template, recipients: Path, count: int) -> Spent:
    rows = merged.merge_csv(recipients)
    with Sender(url(port), connections=2) as sender:

        def work() -> None:
            statuses = Counter(outcome.status for outcome in sender.send(rows))
            assert statuses == {Status.ACCEPTED: count}, statuses

        return spend(work, count)


def by_campaign(port: int, merged: Template, recipients: Path, count: int) -> Spent:
    journal = recipients.with_name("journal")
    for each in journal.parent.glob("journal*"):
        each.unlink()
    settings: dict[str, Any] = {"relays": [url(port)], "connections": 2}
    with Campaign.create(journal, merged, recipients, **settings) as campaign:

        def work() -> None:
            statuses = Counter(result.status for result in campaign.run())
            assert statuses == {Status.ACCEPTED: count}, statuses

        return spend(work, count)


def url(port: int) -> str:
    return f"smtp://127.0.0.1:{port}?starttls=off"
