"""`Campaign`: lists, corrections, states, storage, and two processes on one journal."""

import base64
import csv
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from journals import START, FakeRelay, Machine, person
from rapidsmtp import Campaign, JournalError, RelayError, Status, Template
from rapidsmtp.campaign import states
from rapidsmtp.campaign.feeding import Pass
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.model import JournalUnavailable

pytestmark = pytest.mark.usefixtures("backend")
HOUR = 3_600_000
DAY = 24 * HOUR


def read_list(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_list(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


# Lists


def test_rows_of_a_file_are_frozen(tmp_path: Path, relay: FakeRelay) -> None:
    people = [["E-Mail", "name", "x"], ["a@example.org", "Ann", "1"], ["b@example.org", "Bö", "2"]]
    source = write_list(tmp_path / "list.csv", people)
    message = tmp_path / "mail.eml"
    message.write_bytes(Machine.TEMPLATE)
    machine = Machine(
        tmp_path, template=message, rows=source, list_options={"columns": {"email": "E-Mail"}}
    )
    source.write_text("another list")
    message.unlink()
    machine.reopen()
    assert machine.run() == {"ACCEPTED": 2}
    assert [recipients for _, recipients, _ in relay.taken] == [
        ["a@example.org"],
        ["b@example.org"],
    ]
    assert [values for values, _ in machine.campaign.rows()] == [
        dict(zip(people[0], row, strict=True)) for row in people[1:]
    ]


def test_a_deleted_list_does_not_matter_in_mid_run(tmp_path: Path, relay: FakeRelay) -> None:
    rows = [["email", "name"], *([f"u{number}@example.org", "N"] for number in range(500))]
    source = write_list(tmp_path / "list.csv", rows)
    machine = Machine(tmp_path, rows=source)
    for number, _ in enumerate(machine.campaign.run()):
        if number == 100:
            source.unlink()
    assert machine.campaign.status().accepted == 500


def test_a_malformed_list_leaves_no_journal(tmp_path: Path) -> None:
    source = write_list(
        tmp_path / "list.csv", [["email", "name"], ["a@example.org", "A"], ["b", "c", "d"]]
    )
    with pytest.raises(ValueError, match="line 3: 3 cells but 2 columns"):
        Machine(tmp_path, rows=source)
    assert not list(tmp_path.glob("j*"))


def test_rows_that_raise_leave_no_journal(tmp_path: Path) -> None:
    def rows() -> Any:
        yield person(1)
        raise LookupError("cursor")

    with pytest.raises(LookupError, match="cursor"):
        Machine(tmp_path, rows=rows())
    assert not list(tmp_path.glob("j*"))


def test_a_list_that_was_not_loaded_to_its_end(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.campaign._opened.database.execute("UPDATE campaign SET state = 'loading'")
    with pytest.raises(JournalError, match="was not loaded to its end; delete the file"):
        machine.reopen()


def test_repeated_recipients_are_suppressed(tmp_path: Path, relay: FakeRelay) -> None:
    rows = [person(1), person(2), {**person(1), "name": "Other"}, person(3)]
    rows[2]["email"] = rows[2]["email"].replace("domain1", "DOMAIN1")
    machine = Machine(tmp_path, rows=rows)
    assert machine.campaign.status().suppressed == 1
    assert machine.run() == {"ACCEPTED": 3}
    ((_, result),) = machine.campaign.rows(status=Status.SUPPRESSED)
    assert result is not None
    assert (result.row, result.text) == (3, "the recipient is that of row 1")
    assert machine.campaign.retry(status=Status.SUPPRESSED) == 1
    assert machine.run() == {"ACCEPTED": 1}


def test_repeated_recipients_may_be_sent_or_refused(tmp_path: Path, relay: FakeRelay) -> None:
    rows = [person(1), person(1)]
    with pytest.raises(ValueError, match=r"row 2 has the recipient of row 1; 1 rows repeat"):
        Machine(tmp_path, rows=rows, duplicates="error")
    assert Machine(tmp_path, rows=rows, duplicates="all").run() == {"ACCEPTED": 2}


def test_a_key_identifies_rows(tmp_path: Path, relay: FakeRelay) -> None:
    rows = [{**person(1), "id": 1}, {**person(1), "id": 2}, {**person(2), "id": 1}]
    machine = Machine(tmp_path, rows=rows, key="id")
    assert machine.run() == {"ACCEPTED": 2}
    with pytest.raises(ValueError, match="the key field 'no' is missing; the fields are: email"):
        Machine(tmp_path / "x", rows=rows, key="no")


def test_rows_that_two_processes_add_are_added_once(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path)
    entered, reports = threading.Event(), []

    def slow() -> Iterator[dict[str, str]]:
        for number in range(5, 2000):
            yield person(number)
            if number == 1500:
                thread.start()
                entered.wait(0.2)

    def add() -> None:
        with Campaign.open(machine.path) as other:
            reports.append(other.add([person(number) for number in range(5, 2000)]))
            entered.set()

    thread = threading.Thread(target=add)
    assert machine.campaign.add(slow()).new == 1989
    thread.join()
    assert (reports[0].new, reports[0].known) == (0, 1995)
    assert machine.campaign.status().rows == 1999
    assert not (tmp_path / "j-lock").exists()


def test_rows_of_a_process_that_was_killed_while_it_added_them_are_sent(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path)
    machine.run()
    with monkeypatch.context() as patched:
        patched.setattr(states, "change", lambda *_: False)  # killed before the change
        machine.campaign.add([person(20)])
    assert machine.campaign.status().state == "done"
    assert machine.run() == {"ACCEPTED": 1}


@pytest.mark.parametrize("as_file", [False, True])
def test_rows_are_added_once(tmp_path: Path, relay: FakeRelay, as_file: bool) -> None:
    def source(people: list[dict[str, str]]) -> Any:
        if not as_file:
            return people
        cells = [list(people[0]), *(list(each.values()) for each in people)]
        return write_list(tmp_path / "list.csv", cells)

    machine = Machine(tmp_path, rows=source([person(1), person(2)]))
    assert machine.run() == {"ACCEPTED": 2}
    changed = {**person(2), "name": "New"}
    more = [person(1), changed, person(3), person(3), person(4)]
    assert machine.campaign.add(source(more)) == (2, 2, 1)
    assert machine.campaign.status().state == "ready"
    assert machine.run() == {"ACCEPTED": 2}
    assert machine.campaign.status().rows == 4
    assert [row for row, *_ in relay.taken] == [1, 2, 3, 4]
    assert machine.campaign.add(source(more)) == (0, 4, 1)
    with pytest.raises(ValueError, match="column 'email' of the campaign's list is missing"):
        machine.campaign.add([{"mail": "x"}])


def test_a_row_that_makes_no_message_is_invalid(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=[person(1), {"email": "x@example.org", "name": ""}])
    assert machine.run() == {"ACCEPTED": 1, "INVALID": 1}
    assert machine.campaign.status().state == "done"


def test_export_can_be_sent_again(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path)
    relay.replies = lambda row, _: ("REFUSED", 550, "no") if row in (2, 5) else ("ACCEPTED",)
    machine.run()
    out = tmp_path / "rest.csv"
    assert machine.campaign.export(out, status=[Status.REFUSED, Status.UNKNOWN]) == 2
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert [row["name"] for row in rows] == ["Person 2", "Person 5"]
    assert {row["outcome"] for row in rows} == {"refused"}
    assert {(row["outcome_code"], row["outcome_text"]) for row in rows} == {("550", "no")}
    (tmp_path / "second").mkdir()
    relay.replies = lambda *_: ("ACCEPTED",)
    assert Machine(tmp_path / "second", rows=out).run() == {"ACCEPTED": 2}


def test_an_export_has_the_fields_of_all_rows(tmp_path: Path, relay: FakeRelay) -> None:
    rows = [person(1), {**person(2), "city": "Köln"}]
    machine = Machine(tmp_path, rows=rows)
    machine.campaign.add([{**person(3), "street": "x"}])
    machine.run()
    assert [values.get("city") for values, _ in machine.campaign.rows()] == [None, "Köln", None]
    machine.campaign.export(tmp_path / "all.csv")
    found = read_list(tmp_path / "all.csv")
    assert [(row["city"], row["street"]) for row in found] == [("", ""), ("Köln", ""), ("", "x")]


def test_rows_under_way_do_not_wait(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=500)
    outcomes = machine.campaign.run()
    next(outcomes)
    with Campaign.open(machine.path, clock=machine.clock) as other:
        status = other.status()
        assert status.under_way > 0
        waiting = list(other.rows(Status.NOT_ATTEMPTED))
        assert len(waiting) == status.waiting == 500 - status.under_way - status.accepted
        assert len(list(other.rows())) == 500
        assert other.export(tmp_path / "all.csv") == 500
    found = Counter(row["outcome"] for row in read_list(tmp_path / "all.csv"))
    assert found["under way"] == status.under_way
    assert found["waiting"] == status.waiting
    outcomes.close()


def test_the_old_outcome_of_a_row_under_way_is_not_listed(tmp_path: Path, relay: FakeRelay) -> None:
    template = Machine.TEMPLATE.replace(b"Subject", b"Cc: {{ name }}@b.example\r\nSubject")
    machine = Machine(tmp_path, rows=[{"email": "a@a.example", "name": "b"}], template=template)
    relay.replies = lambda _, address: ("ACCEPTED",) if "@b" in address else ("DEFERRED", 450, "x")
    machine.run(wait=False)
    assert [each.part for _, each in machine.campaign.rows(Status.DEFERRED) if each] == [0]
    machine.clock.advance(1000.0)
    seen: list[Any] = []

    def look() -> None:
        seen.append([each and each.part for _, each in machine.campaign.rows(Status.DEFERRED)])
        seen.append([each and each.part for _, each in machine.campaign.rows()])

    relay.after_submit = look
    assert machine.run(wait=False) == {"DEFERRED": 1}
    assert seen == [[], [1]]


def test_rows_by_status(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=250)
    for number, _ in enumerate(machine.campaign.run()):
        if number == 10:
            break
    count = machine.campaign.status().accepted
    assert len(list(machine.campaign.rows(status=Status.ACCEPTED))) == count
    assert len(list(machine.campaign.rows(status=Status.NOT_ATTEMPTED))) == 250 - count
    with pytest.raises(ValueError, match="is no status of a recipient"):
        next(machine.campaign.rows(status="partial"))  # type: ignore[arg-type]


# Retries and corrections


@pytest.mark.usefixtures("seldom")
def test_deferred_recipients_are_tried_again_until_the_limit(
    tmp_path: Path, relay: FakeRelay
) -> None:
    machine = Machine(tmp_path, rows=1)
    times: list[float] = []

    def reply(*_: Any) -> tuple[Any, ...]:
        times.append((machine.clock.now() - START) / 60_000)
        return "DEFERRED", 450, "later"

    relay.replies = reply
    outcomes = list(machine.campaign.run())
    assert [round(each) for each in times] == [0, 15, 75, 315, 555, 795, 1035, 1275]
    assert [each.next_at is None for each in outcomes] == [False] * 7 + [True]
    assert machine.campaign.status().state == "done"
    assert machine.campaign.status().deferred == 1
    relay.replies = lambda *_: ("ACCEPTED",)
    assert machine.campaign.retry(status=Status.DEFERRED, code=450) == 1
    assert machine.run() == {"ACCEPTED": 1}


def test_without_waiting_deferred_rows_stay(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path)
    relay.replies = lambda row, _: ("DEFERRED", 450, "later") if row < 4 else ("ACCEPTED",)
    assert machine.run(wait=False) == {"ACCEPTED": 7, "DEFERRED": 3}
    status = machine.campaign.status()
    assert (status.state, status.next_at) == ("ready", (START + 900_000) / 1000)
    assert not machine.run(wait=False)
    relay.replies = lambda *_: ("ACCEPTED",)
    machine.clock.advance(900)
    assert machine.run(wait=False) == {"ACCEPTED": 3}
    assert max(relay.counts().values()) == 1


def test_retry_needs_a_status_that_can_be_retried(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with pytest.raises(ValueError, match="ACCEPTED cannot be retried"):
        machine.campaign.retry(status=Status.ACCEPTED)
    with pytest.raises(ValueError, match="use settle"):
        machine.campaign.retry(status=[Status.REFUSED, Status.UNKNOWN])


def test_addresses_are_suppressed_before_the_campaign_is_ready(
    tmp_path: Path, relay: FakeRelay
) -> None:
    machine = Machine(tmp_path, suppress=[person(3)["email"].upper()])
    assert machine.run() == {"ACCEPTED": 9, "SUPPRESSED": 1}

    def addresses() -> Iterator[str]:
        yield "a@example.com"
        raise KeyboardInterrupt

    (tmp_path / "other").mkdir()
    with pytest.raises(KeyboardInterrupt):
        Machine(tmp_path / "other", suppress=addresses())
    assert not list((tmp_path / "other").iterdir())


def test_suppressed_addresses_are_not_sent(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=500)
    outcomes = machine.campaign.run()
    next(outcomes)
    last = person(500)["email"].upper()
    assert machine.campaign.suppress([last, "nobody@example.org"]) == 2
    assert machine.campaign.suppress([last]) == 0
    assert Counter(each.status.name for each in outcomes)["SUPPRESSED"] == 1
    assert machine.campaign.status().state == "done"
    assert 500 not in {row for row, *_ in relay.taken}


# The state


def test_pause_and_resume(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=1000)
    for number, _ in enumerate(machine.campaign.run()):
        if number == 50:
            machine.campaign.pause("lunch")
    status = machine.campaign.status()
    assert (status.state, status.reason, status.unknown) == ("paused", "lunch", 0)
    assert 50 < status.accepted == len(relay.taken) < 1000
    assert not machine.run()
    machine.campaign.resume()
    machine.run()
    assert machine.campaign.status().accepted == 1000
    assert max(relay.counts().values()) == 1
    with pytest.raises(JournalError, match="the campaign is done; this needs"):
        machine.campaign.pause()


def test_the_journal_is_not_overwritten(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for write in (machine.campaign.export, machine.campaign.report):
        with pytest.raises(ValueError, match="is the journal; use another file"):
            write(machine.path)
    assert machine.reopen().status().rows == 10


def test_one_text_is_not_taken_for_a_list_of_texts(tmp_path: Path) -> None:
    campaign = Machine(tmp_path).campaign
    for call in (campaign.suppress, lambda text: campaign.settle(accepted=text)):
        with pytest.raises(TypeError, match="is a text: pass a list of texts"):
            call("a@example.com")
    assert campaign.suppress(["a@example.com"]) == 1


def test_a_campaign_that_is_closed_ends_its_run(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=1000)
    outcomes = machine.campaign.run()
    for _ in range(50):
        next(outcomes)
    machine.campaign.close()
    assert list(outcomes) == []
    status = machine.reopen().status()
    assert (status.state, status.unknown, status.under_way) == ("ready", 0, 0)
    assert status.accepted == len(relay.taken) < 1000


def test_a_campaign_that_runs_in_another_thread_is_not_closed(
    tmp_path: Path, relay: FakeRelay
) -> None:
    machine = Machine(tmp_path)
    errors = []

    def close() -> None:
        try:
            machine.campaign.close()
        except RuntimeError as error:
            errors.append(str(error))

    def close_in_a_thread() -> None:
        relay.after_submit = lambda: None
        thread = threading.Thread(target=close)
        thread.start()
        thread.join()

    relay.after_submit = close_in_a_thread
    assert machine.run() == {"ACCEPTED": 10}
    assert len(errors) == 1 and "a run is under way in another thread" in errors[0]


def test_an_aborted_campaign_sends_nothing_more(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path)
    machine.campaign.abort()
    assert not machine.run()
    for call in (
        machine.campaign.resume,
        lambda: machine.campaign.retry(status=Status.REFUSED),
        lambda: machine.campaign.add([person(20)]),
    ):
        with pytest.raises(JournalError, match="aborted"):
            call()
    assert not relay.taken


def test_stop_ends_the_run_in_order(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=1000)
    for number, _ in enumerate(machine.campaign.run()):
        if number == 50:
            machine.campaign.stop()
    status = machine.campaign.status()
    assert (status.state, status.unknown, status.under_way) == ("ready", 0, 0)
    assert status.accepted == len(relay.taken) < 1000


def test_a_run_that_ends_does_not_keep_another_one_from_finishing(
    tmp_path: Path, relay: FakeRelay
) -> None:
    machine = Machine(tmp_path)
    relay.replies = lambda row, _: ("DEFERRED", 450, "x") if row == 1 else ("ACCEPTED",)
    outcomes = machine.campaign.run()
    for _ in range(10):
        next(outcomes)
    relay.replies = lambda *_: ("ACCEPTED",)
    with Campaign.open(machine.path, clock=machine.clock) as other:
        assert not list(other.run(wait=False))  # it ends, and sets the state to "ready"
    assert len(list(outcomes)) == 1
    assert machine.campaign.status().state == "done"


# Storage


def test_a_full_disk_keeps_outcomes_until_there_is_space(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, rows=3000)
    execute = machine.campaign._opened.database.execute
    (pages,) = execute("PRAGMA page_count").fetchone()
    execute(f"PRAGMA max_page_count = {pages + 4}")
    notices = []
    step = Pass.step

    def watched(self: Pass, wait: float) -> Any:
        records = step(self, wait)
        machine.clock.advance(0.01)
        if self.notice:
            assert machine.campaign._opened.notice == self.notice
            notices.append(self.notice)
            if len(notices) == 300:
                execute("PRAGMA max_page_count = 1000000")
        return records

    monkeypatch.setattr(Pass, "step", watched)
    machine.run()
    assert "database or disk is full; make space on the disk" in notices[0]
    assert machine.campaign._opened.notice == ""
    status = machine.campaign.status()
    assert (status.accepted, status.unknown) == (3000, 0)
    assert max(relay.counts().values()) == 1


@pytest.mark.parametrize("how", ["stop", "relay"])
def test_a_run_that_ends_while_the_disk_is_full_loses_nothing(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A run that is stopped does not wait for space, so rows may become UNKNOWN."""
    machine = Machine(tmp_path, rows=3000)
    execute = machine.campaign._opened.database.execute
    (pages,) = execute("PRAGMA page_count").fetchone()
    execute(f"PRAGMA max_page_count = {pages + 4}")
    exchange = Journal.exchange

    def watched(self: Journal, *positional: Any, **arguments: Any) -> Any:
        try:
            return exchange(self, *positional, **arguments)
        except JournalUnavailable:
            if how == "stop":
                machine.campaign.stop()
            elif how == "relay":
                relay.error = RelayError("relay x cannot be reached")
            raise

    monkeypatch.setattr(Journal, "exchange", watched)
    # After the failed exchange, there is space again for the next transaction.
    stop = Pass.stop

    def stopped(self: Pass, reason: str) -> Any:
        try:
            return stop(self, reason)
        finally:
            relay.error = None
            execute("PRAGMA max_page_count = 1000000")

    monkeypatch.setattr(Pass, "stop", stopped)
    if how == "relay":
        machine.run()
        assert machine.campaign.status().accepted == 3000
    else:
        with pytest.raises(JournalError, match=r"outcomes of .* rows could not be saved"):
            machine.run()
        machine.reopen()
        status = machine.campaign.status()
        assert status.accepted + status.unknown + status.waiting == 3000
        assert len(relay.taken) <= status.accepted + status.unknown
        assert status.unknown
        machine.run()
    assert max(relay.counts().values()) == 1


class FailingConnection:
    """A connection to a database that fails.

    Args:
        database: The database.
        statement: A part of the statements that fail.
        code: The result code of SQLite.
        text: The text of the error.
        times: How often the database fails.
    """

    def __init__(
        self, database: Any, statement: str, code: int, text: str, times: int = 1_000_000
    ) -> None:
        self.connection = database._connection
        database._connection = self
        self.statement, self.code, self.text, self.left = statement, code, text, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def execute(self, statement: str, parameters: Any = ()) -> Any:
        if self.left and self.statement in statement:
            self.left -= 1
            error = sqlite3.OperationalError(self.text)
            error.sqlite_errorcode = self.code
            raise error
        return self.connection.execute(statement, parameters)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE campaign SET state",
        "SET state = 'leased'",
        "INSERT INTO grant_",
        "SET beat_at",
        "SET state = ?, due_at",
        "UPDATE relay SET state = 'away'",
        "UPDATE relay SET state = 'up'",
        "COMMIT",
        "BEGIN",
    ],
)
def test_every_write_of_a_run_waits_until_the_disk_has_space(
    tmp_path: Path, relay: FakeRelay, statement: str
) -> None:
    machine = Machine(tmp_path, rows=50)
    database = machine.campaign._opened.database
    code, text = sqlite3.SQLITE_FULL, "database or disk is full"
    connection = FailingConnection(database, statement, code, text, times=5)
    relay.error = RelayError("relay x cannot be reached")
    wait = machine.clock.wait

    def waited(event: threading.Event, seconds: float) -> bool:
        relay.error = None
        return wait(event, seconds)

    # The relay recovers when the run waits for it.
    machine.clock.wait = waited  # type: ignore[method-assign]
    assert machine.run()["ACCEPTED"] == 50
    assert connection.left == 0
    assert machine.campaign._opened.notice == ""
    assert machine.campaign.status().state == "done"
    assert max(relay.counts().values()) == 1


def test_a_full_disk_does_not_keep_rows_from_being_read(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    opened = machine.campaign._opened
    lease = opened.journal.lease(f"{socket.gethostname()}:1:00000000", START, 0)
    assert lease is not None
    opened.journal.exchange(lease, START, grant=[1, 2])
    FailingConnection(opened.database, "BEGIN", sqlite3.SQLITE_FULL, "database or disk is full")
    assert machine.campaign.status().unknown == 2
    assert len(list(machine.campaign.rows(Status.NOT_ATTEMPTED))) == 8
    assert machine.campaign.export(tmp_path / "all.csv") == 10
    with pytest.raises(JournalUnavailable, match="make space on the disk"):
        machine.campaign.pause()


def test_a_run_that_is_stopped_does_not_wait_for_space(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path)
    database = machine.campaign._opened.database
    FailingConnection(database, "BEGIN", sqlite3.SQLITE_FULL, "database or disk is full")
    # Each wait returns as if the run had been stopped.
    machine.clock.wait = lambda *_: True  # type: ignore[method-assign]
    with pytest.raises(JournalUnavailable, match="make space on the disk"):
        machine.run()
    assert not relay.taken


def test_an_error_of_the_disk_ends_the_run(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path)
    database = machine.campaign._opened.database
    FailingConnection(database, "grant_", sqlite3.SQLITE_IOERR, "disk I/O error")
    expected = "cannot be read or written: disk I/O error; check the disk"
    with pytest.raises(JournalError, match=expected):
        machine.run()
    assert not relay.taken
    machine.reopen()
    assert machine.run() == {"ACCEPTED": 10}


RUN = """
import sys
sys.path.insert(0, {tests!r})
from rapidsmtp import Campaign
with Campaign.open(sys.argv[1]) as campaign:
    print(sum(1 for _ in campaign.run()))
"""


@pytest.mark.rust
def test_two_processes_share_a_journal(tmp_path: Path) -> None:
    from rapidsmtp.testing import Sink

    with Sink() as sink:
        rows = [person(number) for number in range(4000)]
        Campaign.create(tmp_path / "j", Machine.TEMPLATE, rows, relays=sink.url).close()
        code = RUN.format(tests=str(Path(__file__).parent.parent))
        command = [sys.executable, "-c", code, str(tmp_path / "j")]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        sent = [int(process.communicate(timeout=60)[0]) for process in processes]
        recipients = Counter(str(each.recipients) for each in sink.messages)
    assert sum(sent) == 4000 == len(recipients)
    assert max(recipients.values()) == 1
    with Campaign.open(tmp_path / "j") as campaign:
        assert campaign.status().accepted == 4000
        assert campaign.status().state == "done"


def test_a_real_server(tmp_path: Path) -> None:
    from rapidsmtp.testing import Sink

    with (
        Sink() as sink,
        Campaign.create(
            tmp_path / "j",
            Machine.TEMPLATE,
            [person(number) for number in range(300)],
            relays=sink.url,
        ) as campaign,
    ):
        assert Counter(each.status for each in campaign.run()) == {Status.ACCEPTED: 300}
        assert len(sink.messages) == 300
    assert not list(tmp_path.glob("j-run-*"))


def test_status_is_read_from_the_counts(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path)
    machine.run()
    statements: list[str] = []
    connection = machine.campaign._opened.database._connection  # type: ignore[attr-defined]
    connection.set_trace_callback(statements.append)
    machine.campaign.status()
    connection.set_trace_callback(None)
    assert not [each for each in statements if "outcome" in each or "chunk" in each]


def test_status_and_stop_from_another_thread(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=2000)
    seen: list[Any] = []

    def ask() -> None:
        seen.append(machine.campaign.status())
        machine.campaign.stop()

    outcomes = machine.campaign.run()
    next(outcomes)
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    list(outcomes)
    assert seen[0].state == "running"
    assert len(seen[0].owners) == 1
    assert machine.campaign.status().state == "ready"


def test_an_export_has_no_formulas_of_the_relay(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=1)
    relay.replies = lambda *_: ("REFUSED", 550, "=cmd|' /C calc'!A0")
    machine.run()
    machine.campaign.export(tmp_path / "out.csv")
    (row,) = csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8"))
    assert row["outcome_text"] == "'=cmd|' /C calc'!A0"


def test_a_template_with_files_of_rows_and_a_sender_of_rows(
    tmp_path: Path, relay: FakeRelay
) -> None:
    files = tmp_path / "tickets"
    files.mkdir()
    for number in (1, 2):
        (files / f"{number}.txt").write_text(f"ticket {number}")
    template = Template.compose(
        sender="a@example.com",
        to="{{ email }}",
        subject="Ticket",
        text="Your ticket",
        attachments=["{{ id }}.txt"],
        attachment_root=files,
        envelope_sender="bounces+{{ _id }}@example.com",
    )
    rows = [{**person(number), "id": number} for number in (1, 2)]
    machine = Machine(tmp_path, template=template, rows=rows)
    machine.reopen()
    assert machine.run() == {"ACCEPTED": 2}
    for row, _, data in relay.taken:
        assert (
            base64.b64encode(f"ticket {row}".encode()) in data or f"ticket {row}".encode() in data
        )
    assert relay.senders == [f"bounces+{machine.campaign.id}.{row}@example.com" for row in (1, 2)]
