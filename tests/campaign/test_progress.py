"""Progress files of leases: who reads them, and what a campaign makes of them after `kill -9`."""

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from rapidsmtp import Campaign, Status, Template, _backend
from rapidsmtp.campaign import progress
from rapidsmtp.campaign.model import Lease, RowStatus
from server import TIMEOUT, Connection, Server

LEASE = Lease(1, 7, 3, 41, 9, 1796040000000, True)
OWNER = "host:12:0a1b2c3d"


@pytest.fixture(autouse=True)
def compiled() -> None:
    if _backend.implementation != "rust":
        pytest.skip("only the compiled engine writes progress files")


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return str(tmp_path / "j")


def left_behind(journal: str, content: bytes = bytes(LEASE.count)) -> Path:
    """Return a progress file whose owner has ended. `content` are its bytes after the header."""
    created = progress.create(journal, "incarnation", OWNER, LEASE)
    assert created is not None
    path = Path(f"{journal}-progress-0a1b2c3d-7")
    data = path.read_bytes()
    created.remove()  # releases the lock
    path.write_bytes(data[: -LEASE.count] + content)
    return path


def read(journal: str, lease: Lease = LEASE, incarnation: str = "incarnation") -> dict[int, int]:
    return progress.read(journal, incarnation, OWNER, lease)


def test_the_bytes_are_statuses(journal: str) -> None:
    left_behind(journal, bytes([0, 1, 2, 3, 4, 5, 6, 7, 99]))
    unknown = RowStatus.UNKNOWN
    expected = [0, unknown, RowStatus.ACCEPTED, RowStatus.REFUSED, 0, unknown, RowStatus.INVALID]
    assert read(journal) == dict(enumerate([*expected, 0, unknown], 41))


def test_the_file_of_an_owner_that_is_alive_is_not_read(journal: str) -> None:
    created = progress.create(journal, "incarnation", OWNER, LEASE)
    assert created is not None
    assert read(journal) == {}
    created.remove()
    assert read(journal) == {}


def test_only_the_file_of_this_lease_and_of_this_boot_is_read(
    journal: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left_behind(journal)
    assert len(read(journal)) == LEASE.count
    for change in ({"epoch": 4}, {"first": 40}, {"count": 8}, {"campaign": 2}):
        assert read(journal, Lease(**{**_fields(LEASE), **change})) == {}
    assert read(journal, incarnation="another") == {}
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another\n")
    monkeypatch.setattr(progress, "_BOOT_ID", boot_id)
    assert read(journal) == {}


def _fields(lease: Lease) -> dict[str, object]:
    return {name: getattr(lease, name) for name in Lease.__slots__}


@pytest.mark.parametrize("size", [0, 5, -1])
def test_a_file_that_is_not_whole_is_not_read(journal: str, size: int) -> None:
    path = left_behind(journal)
    path.write_bytes(path.read_bytes()[:size])
    assert read(journal) == {}


def test_no_file_is_created_without_locks_a_boot_id_or_the_compiled_engine(
    journal: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as context:
        context.setattr(progress, "_BOOT_ID", tmp_path / "absent")
        assert progress.create(journal, "incarnation", OWNER, LEASE) is None
    with monkeypatch.context() as context:
        context.setattr(progress, "lock", lambda *_, **__: False)
        assert progress.create(journal, "incarnation", OWNER, LEASE) is None
    missing = str(tmp_path / "absent" / "j")
    assert progress.create(missing, "incarnation", OWNER, LEASE) is None
    _backend.use("python")
    try:
        assert progress.create(journal, "incarnation", OWNER, LEASE) is None
    finally:
        _backend.use("rust")
    assert list(tmp_path.iterdir()) == []


RUN = """
import sys
from rapidsmtp import Campaign
for result in Campaign.open(sys.argv[1]).run(): pass
"""
ROWS = 1200


@pytest.mark.parametrize("accepted", [5, 150, 700])
def test_unknown_after_a_kill_is_what_was_on_the_wire(tmp_path: Path, accepted: int) -> None:
    received: Counter[str] = Counter()
    enough, lock = threading.Event(), threading.Lock()

    def relay(connection: Connection) -> None:
        connection.send(b"220 relay\r\n")
        recipient = ""
        while True:
            verb, *arguments = connection.line().upper().split(b":")
            if verb == b"DATA":
                connection.send(b"354 go on\r\n")
                connection.message()
                with lock:
                    received[recipient] += 1
                    if received.total() >= accepted:
                        enough.set()
            elif verb == b"RCPT TO":
                recipient = arguments[0].strip(b"<>").decode().lower()
            reply = b"250-relay\r\n250 PIPELINING\r\n" if verb[:4] == b"EHLO" else b"250 ok\r\n"
            connection.send(reply)

    path = str(tmp_path / "j")
    rows = [{"email": f"r{row}@a.example"} for row in range(1, ROWS + 1)]
    template = Template.compose(sender="s@a.example", to="{{ email }}", subject="x", text="x")
    with Server(relay) as server:
        url = f"smtp://127.0.0.1:{server.port}?starttls=off"
        Campaign.create(path, template, rows, relays=[url], connections=2).close()
        process = subprocess.Popen([sys.executable, "-c", RUN, path])
        assert enough.wait(6 * TIMEOUT)
        process.kill()
        process.wait()
        for connection in server.connections:
            assert connection.over.wait(TIMEOUT)
        with Campaign.open(path) as campaign:
            list(campaign.run())
            status = campaign.status()
            unknown = [result.row for _, result in campaign.rows(status=Status.UNKNOWN) if result]
            known = [result.row for _, result in campaign.rows(status=Status.ACCEPTED) if result]
    assert max(received.values()) == 1, "a row was sent twice"
    assert len(unknown) == status.unknown <= 2 * 2
    assert sorted([*unknown, *known]) == list(range(1, ROWS + 1))
    assert {f"r{row}@a.example" for row in known} <= set(received)
    assert [each.name for each in tmp_path.iterdir() if "progress" in each.name] == []
