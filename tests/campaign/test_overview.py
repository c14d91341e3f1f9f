"""The status, the reasons and the corrections of a campaign read no outcomes of accepted rows."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from journals import FakeRelay, Machine
from rapidsmtp import Status
from rapidsmtp.campaign import loading
from rapidsmtp.campaign.causes import open_outcomes
from rapidsmtp.campaign.sqlite import SqliteDatabase
from rapidsmtp.cli.campaign.status_text import as_dict

# A search by the number of the campaign alone is a scan, because a journal has one campaign.
SEARCHES = (
    "USING INDEX outcome_open (status=? AND campaign=?)",
    "USING PRIMARY KEY (campaign=? AND row=? AND part=?)",
    "USING PRIMARY KEY (campaign=? AND row>? AND row<?)",
)


@pytest.mark.usefixtures("backend")
def test_no_statement_scans_the_outcomes(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_ITERABLE_CHUNK", 10)
    machine = Machine(tmp_path, rows=30)
    replies = {1: ("TAKEN", None, "lost"), 2: ("REFUSED", 550, "no")}
    relay.replies = lambda row, _: replies.get(row % 10, ("ACCEPTED",))
    machine.run()
    statements: list[tuple[str, Sequence[Any]]] = []
    execute = SqliteDatabase.execute

    def recording(database: SqliteDatabase, statement: str, parameters: Sequence[Any] = ()) -> Any:
        statements.append((statement, parameters))
        return execute(database, statement, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteDatabase, "execute", recording)
        status = machine.campaign.status()
        values = as_dict(machine.campaign, status)
        reasons = list(open_outcomes(machine.campaign._opened.journal))
        assert machine.campaign.retry(status=Status.REFUSED, code=550) == 3
        assert machine.campaign.settle(rest_not_sent=True).waiting == 3
    assert (status.accepted, status.refused, status.unknown) == (24, 3, 3)
    assert [each.row for each in reasons] == [2, 12, 22, 1, 11, 21]
    assert [each["recipients"] for each in values["unknown_causes"]] == [3]
    database = machine.campaign._opened.database
    for statement, parameters in statements:
        plan = database.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
        for *_, step in plan:
            used = re.match(r"(?:SCAN|SEARCH)(?: TABLE)? (\w+)(.*)", step)
            if used is None:
                continue
            assert not step.startswith("SCAN") or used[1] == "journal", (statement, step)
            assert used[1] != "outcome" or step.endswith(SEARCHES), (statement, step)
