"""A crash at each moment between a grant and a durable outcome, and the run after it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from journals import START, Crash, FakeFeed, FakeRelay, FakeRows, Machine
from rapidsmtp import DKIM, JournalError, Status, Template
from rapidsmtp.campaign.journal import Journal

pytestmark = pytest.mark.usefixtures("backend")
EXCHANGE = Journal.exchange
FILES = ("j", "j-wal", "j-shm", "j-exchanges")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def crash(machine: Machine) -> None:
    with pytest.raises(Crash):
        machine.run()
    machine.reopen()


def crash_at_exchange(
    monkeypatch: pytest.MonkeyPatch, is_it: Callable[..., bool], *, after: bool
) -> None:
    """Crash before or after the first exchange with some arguments."""

    def exchange(self: Journal, *positional: Any, **arguments: Any) -> Any:
        if not is_it(**arguments):
            return EXCHANGE(self, *positional, **arguments)
        if after:
            EXCHANGE(self, *positional, **arguments)
        raise Crash

    monkeypatch.setattr(Journal, "exchange", exchange)


def grants(*, grant: Any = (), **_: Any) -> bool:
    return bool(grant)


def saves(*, records: Any = (), accepted: Any = (), **_: Any) -> bool:
    return bool(records or accepted)


def finish(machine: Machine, monkeypatch: pytest.MonkeyPatch, relay: FakeRelay) -> None:
    """Run to the end, and check that no row was taken twice."""
    monkeypatch.setattr(Journal, "exchange", EXCHANGE)
    monkeypatch.setattr(FakeFeed, "submit", SUBMIT)
    machine.run()
    assert max(relay.counts().values()) == 1
    found = machine.statuses()
    taken = {row for row, _, _ in relay.taken}
    assert {row for row, each in found.items() if each == "ACCEPTED"} <= taken
    assert taken <= {row for row, each in found.items() if each in ("ACCEPTED", "UNKNOWN")}
    assert set(found.values()) <= {"ACCEPTED", "UNKNOWN"}


SUBMIT = FakeFeed.submit


def test_before_the_grant_is_durable_rows_wait(
    machine: Machine, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_at_exchange(monkeypatch, grants, after=False)
    crash(machine)
    assert set(machine.statuses().values()) == {"waiting"}
    finish(machine, monkeypatch, relay)
    assert len(relay.taken) == 10
    assert machine.campaign.status().accepted == 10


def test_a_granted_row_that_was_not_begun_is_unknown(
    machine: Machine, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_at_exchange(monkeypatch, grants, after=True)
    crash(machine)
    assert set(machine.statuses().values()) == {"UNKNOWN"}
    assert not relay.taken
    monkeypatch.setattr(Journal, "exchange", EXCHANGE)
    assert not machine.run()
    assert not relay.taken


@pytest.mark.parametrize("is_taken", [False, True], ids=["in-the-body", "after-the-terminator"])
def test_a_row_on_the_wire_is_unknown(
    machine: Machine, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    def submit(feed: FakeFeed, rows: FakeRows, limit: int) -> None:
        if is_taken:
            relay.send(rows.granted[0])
        raise Crash

    monkeypatch.setattr(FakeFeed, "submit", submit)
    crash(machine)
    assert machine.statuses()[1] == "UNKNOWN"
    status = machine.campaign.status()
    assert (status.unknown, status.under_way, status.state) == (10, 0, "running")
    monkeypatch.setattr(FakeFeed, "submit", SUBMIT)
    assert not machine.run()
    assert len(relay.taken) == is_taken


def test_an_outcome_in_memory_is_lost_and_the_row_unknown(
    machine: Machine, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_at_exchange(monkeypatch, saves, after=False)
    crash(machine)
    assert set(machine.statuses().values()) == {"UNKNOWN"}
    assert len(relay.taken) == 10
    finish(machine, monkeypatch, relay)


def test_a_durable_outcome_stays(
    machine: Machine, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_at_exchange(monkeypatch, saves, after=True)
    crash(machine)
    assert set(machine.statuses().values()) == {"ACCEPTED"}
    finish(machine, monkeypatch, relay)
    assert machine.campaign.status().state == "done"


def test_power_loss_during_the_write_of_an_outcome(
    machine: Machine, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After the loss of power, the file is as before the write, or as after it."""
    saved = tmp_path / "saved"

    def exchange(self: Journal, *positional: Any, **arguments: Any) -> Any:
        if not saves(**arguments):
            return EXCHANGE(self, *positional, **arguments)
        saved.mkdir()
        for name in FILES:
            shutil.copy(tmp_path / name, saved / name)
        EXCHANGE(self, *positional, **arguments)
        raise Crash

    monkeypatch.setattr(Journal, "exchange", exchange)
    with pytest.raises(Crash):
        machine.run()
    machine.campaign.close()
    for name in FILES:
        (tmp_path / name).unlink(missing_ok=True)
        shutil.copy(saved / name, tmp_path / name)
    # The disk of this machine loses no power, so `J-exchanges` is as old as the journal.
    machine.reopen()
    assert set(machine.statuses().values()) == {"UNKNOWN"}
    finish(machine, monkeypatch, relay)


def test_rows_that_were_not_granted_are_sent_by_the_next_run(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, rows=1000)
    left = [300]

    def count() -> None:
        left[0] -= 1
        if not left[0]:
            raise Crash

    relay.after_submit = count
    crash(machine)
    found = machine.statuses()
    assert list(found.values()).count("ACCEPTED") > 100
    unknown = list(found.values()).count("UNKNOWN")
    assert 0 < unknown < 400
    relay.after_submit = lambda: None
    finish(machine, monkeypatch, relay)
    assert machine.campaign.status().accepted == 1000 - unknown


def test_an_orderly_end_leaves_no_unknown_row(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=1000)
    for number, _ in enumerate(machine.campaign.run()):
        if number == 200:
            break
    status = machine.campaign.status()
    assert (status.unknown, status.under_way, status.state) == (0, 0, "ready")
    assert status.accepted == len(relay.taken)
    machine.run()
    assert machine.campaign.status().accepted == 1000 == len(relay.taken)
    assert max(relay.counts().values()) == 1


def test_an_interrupt_ends_the_run_in_order(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path, rows=1000)
    left = [300]

    def count() -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    relay.after_submit = count
    with pytest.raises(KeyboardInterrupt):
        machine.run()
    status = machine.campaign.status()
    assert (status.unknown, status.under_way) == (0, 0)
    assert status.accepted == len(relay.taken)
    assert not list(machine.path.parent.glob("j-run-*"))


def test_settle_from_the_log_of_the_relay(
    machine: Machine, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [5]

    def count() -> None:
        left[0] -= 1
        if not left[0]:
            raise Crash

    relay.after_submit = count
    crash(machine)
    relay.after_submit = lambda: None
    log = [f"<{machine.campaign.id}.{row}@example.com>" for row, _, _ in relay.taken]
    report = machine.campaign.settle(accepted=[*log, "nobody@example.com"], rest_not_sent=True)
    assert report == (5, 5, ("nobody@example.com",))
    assert machine.run() == {"ACCEPTED": 5}
    assert machine.campaign.status().accepted == 10 == len(relay.taken)
    assert max(relay.counts().values()) == 1


def test_a_resend_has_the_same_bytes(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, idempotency_header="Idempotency-Key")
    crash_at_exchange(monkeypatch, saves, after=False)
    crash(machine)
    monkeypatch.setattr(Journal, "exchange", EXCHANGE)
    machine.clock.advance(3600)
    assert machine.campaign.settle(resend=True) == (0, 10, ())
    assert machine.run() == {"ACCEPTED": 10}
    first, second = relay.taken[:10], relay.taken[10:]
    assert sorted(first) == sorted(second)
    key = f"{machine.campaign.id}.{first[0][0]}"
    assert f"Idempotency-Key: {key}\r\n".encode() in first[0][2]
    assert f"Message-ID: <{key}@example.com>\r\n".encode() in first[0][2]


def test_a_resend_has_the_same_signature(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    signers = [DKIM("example.com", "news", pem)]
    template = Template.from_eml(Machine.TEMPLATE, dkim=signers)
    machine = Machine(tmp_path, template=template)
    crash_at_exchange(monkeypatch, saves, after=False)
    crash(machine)
    monkeypatch.setattr(Journal, "exchange", EXCHANGE)
    machine.clock.advance(3600)
    machine.reopen()
    machine.campaign.settle(resend=True)  # no key is needed
    with pytest.raises(JournalError, match=r"signs with news\._domainkey\.example\.com, and dkim="):
        machine.run()
    machine.reopen(dkim=signers)
    assert machine.run() == {"ACCEPTED": 10}
    first, second = relay.taken[:10], relay.taken[10:]
    assert sorted(first) == sorted(second)
    assert b"DKIM-Signature: v=1; a=ed25519-sha256;" in first[0][2]
    assert f"t={START // 1000};".encode() in first[0][2]


def test_on_unknown_resend_waits_for_the_end_of_the_old_transaction(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, on_unknown="resend")
    crash_at_exchange(monkeypatch, saves, after=False)
    crash(machine)
    monkeypatch.setattr(Journal, "exchange", EXCHANGE)
    start = machine.clock.now()
    assert machine.run() == {"ACCEPTED": 10}
    assert machine.clock.now() - start >= 630_000
    assert machine.campaign.status().state == "done"


def test_an_unknown_outcome_of_the_engine_is_reported(tmp_path: Path, relay: FakeRelay) -> None:
    machine = Machine(tmp_path)
    relay.replies = lambda row, _: ("TAKEN", None, "lost") if row == 3 else ("ACCEPTED",)
    assert machine.run() == {"ACCEPTED": 9, "UNKNOWN": 1}
    ((values, result),) = machine.campaign.rows(status=Status.UNKNOWN)
    assert values["name"] == "Person 3"
    assert result is not None
    assert (result.row, result.address, result.text) == (3, "user3@domain3.example", "lost")


def test_recipients_of_one_row_have_their_own_outcomes(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = b"From: a@example.com\r\nTo: {{ email }}\r\nBcc: copy@example.com\r\n\r\nx\r\n"
    machine = Machine(tmp_path, template=template, rows=[{"email": "one@example.org"}])
    relay.replies = lambda _, address: (
        ("DEFERRED", 450, "later") if address == "copy@example.com" else ("ACCEPTED",)
    )
    outcomes = machine.campaign.run()
    first = [next(outcomes), next(outcomes)]
    assert [(each.part, each.status.name) for each in first] == [(0, "ACCEPTED"), (1, "DEFERRED")]
    relay.replies = lambda *_: ("ACCEPTED",)
    assert [(each.part, each.status.name) for each in outcomes] == [(1, "ACCEPTED")]
    assert [recipients for _, recipients, _ in relay.taken] == [
        ["one@example.org"],
        ["copy@example.com"],
    ]
    assert relay.taken[0][2] == relay.taken[1][2]


def test_a_recipient_who_has_the_message_may_be_suppressed(
    tmp_path: Path, relay: FakeRelay
) -> None:
    template = Machine.TEMPLATE.replace(b"Subject", b"Cc: {{ name }}@b.example\r\nSubject")
    rows = [{"email": f"a{n}@a.example", "name": f"b{n}"} for n in range(2)]
    machine = Machine(tmp_path, rows=rows, template=template)
    relay.replies = lambda _, address: ("ACCEPTED",) if "@b" in address else ("DEFERRED", 450, "x")
    machine.run(wait=False)
    machine.campaign.suppress(["b0@b.example", "a1@a.example"])
    relay.replies = lambda *_: ("ACCEPTED",)
    machine.clock.advance(1000.0)
    found = [(each.row, each.part, each.address, each.status) for each in machine.campaign.run()]
    assert sorted(found) == [
        (1, 0, "a0@a.example", Status.ACCEPTED),
        (2, 0, "a1@a.example", Status.SUPPRESSED),
    ]


def test_all_recipients_of_a_lost_row_are_unknown(
    tmp_path: Path, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = b"From: a@example.com\r\nTo: {{ email }}\r\nBcc: copy@example.com\r\n\r\nx\r\n"
    machine = Machine(tmp_path, template=template, rows=[{"email": "one@example.org"}])
    crash_at_exchange(monkeypatch, grants, after=True)
    crash(machine)
    found = [result for _, result in machine.campaign.rows()]
    assert [(each.part, each.address) for each in found if each] == [
        (0, "one@example.org"),
        (1, "copy@example.com"),
    ]
    assert {each.status for each in found if each} == {Status.UNKNOWN}
