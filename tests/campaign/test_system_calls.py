"""The system calls of a run: their order, and the loss of power between any two of them.

`POWER_CUTS` sets the number of losses of power for `make soak`, and `POWER_SEED` repeats a run.
"""

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import processes
from campaign.judge import create, statuses_by_row
from campaign.system_calls import CALLS, Disk, Event, parse
from commandline import Command
from journals import FakeRelay
from rapidsmtp import Campaign, CampaignState, Status
from rapidsmtp.campaign import loading, progress
from rapidsmtp.cli.bench.recording_server import recording_server, records, wait_until_quiet

ROWS = 400
CHUNK = 150
SECONDS = 120
CUTS = int(os.environ.get("POWER_CUTS", "15"))
SEED = int(os.environ.get("POWER_SEED", "1"))

# Writes the rows of a grant to a file after the exchange that grants them. The write-ahead log is
# short, so that the run also copies it to the journal.
PROGRAM = """
import os, sys
from rapidsmtp import Campaign
from rapidsmtp.campaign.journal import Journal
marks = os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
exchange = Journal.exchange
def marking(self, lease, now, *, grant=(), **arguments):
    result = exchange(self, lease, now, grant=grant, **arguments)
    if grant and result.granted:
        os.write(marks, f"GRANTED {grant[0]}-{grant[-1]}\\n".encode())
    return result
Journal.exchange = marking
with Campaign.open(sys.argv[1]) as campaign:
    campaign._opened.database.execute("PRAGMA wal_autocheckpoint = 20")
    for _ in campaign.run():
        pass
"""


class Traced:
    """A run that was traced.

    Attributes:
        events: Its system calls.
        folder: The folder of the journal.
        files: The files of the folder before the run, by name.
    """

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder = folder
        path, trace, record = folder / "j", folder.parent / "trace", folder.parent / "record"
        command = Command(folder, backend)
        with recording_server(record) as url:
            create(path, url, ROWS)
            self.files = {each.name: each.read_bytes() for each in folder.iterdir()}
            ended = processes.run(
                ["strace", "-f", "-y", "-qq", "-s", "200000", "-e", f"trace={CALLS}", "-o", trace,
                 sys.executable, "-c", PROGRAM, path, folder.parent / "marks"],
                env=command.environment, capture_output=True, text=True, timeout=SECONDS,
            )  # fmt: skip
            if "ptrace" in ended.stderr:
                pytest.skip("this system does not permit ptrace")
            assert ended.returncode == 0, ended.stderr
            wait_until_quiet(url)
        self.events = list(parse(trace))
        rows = [row for event in self.events if event.kind == "sent" for row in event.rows]
        assert sorted(rows) == sorted(row for row, _ in records(record)) == list(range(1, ROWS + 1))


_traced: dict[str, Traced] = {}


@pytest.fixture
def traced(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """Trace a run, once for each backend."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if backend not in _traced:
        folder = tmp_path_factory.mktemp(f"traced-{backend}") / "journal"
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loading, "_ITERABLE_CHUNK", CHUNK)
            _traced[backend] = Traced(folder, backend)
    return _traced[backend]


def test_no_row_leaves_before_its_grant_is_on_the_disk(traced: Traced) -> None:
    granted: set[int] = set()
    seen: set[int] = set()
    written = synced = 0
    begun: dict[str, int] = {}
    for event in traced.events:
        if event.kind == "write" and event.path.endswith("-wal"):
            written += 1
        elif event.kind == "sync":
            begun[event.thread] = written
        elif event.kind == "synced":
            synced = max(synced, begun[event.thread])
        elif event.kind == "granted":
            assert synced == written > 0, "the grant is not on the disk"
            granted.update(event.rows)
        elif event.kind == "leaves":
            assert granted.issuperset(event.rows), f"rows {event.rows} were not granted"
            seen.update(event.rows)
    assert seen == set(range(1, ROWS + 1))


def cuts(traced: Traced) -> Iterator[tuple[dict[str, bytes], set[int]]]:
    """Yield an image of the disk at each cut, and the rows that the relay may have then."""
    source = random.Random(SEED)
    chosen = set(source.sample(range(len(traced.events)), CUTS))
    disk, sent = Disk(traced.folder, traced.files), set[int]()
    for number, event in enumerate(traced.events):
        if number in chosen:
            yield disk.image(source), set(sent)
        disk.apply(event)
        if event.kind == "sent":
            sent.update(event.rows)


def test_a_loss_of_power_loses_no_row_and_sends_none_twice(
    traced: Traced, relay: FakeRelay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The system has started again, so the progress files are not used.
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another start of the system\n")
    monkeypatch.setattr(progress, "_BOOT_ID", boot_id)
    everything = set(range(1, ROWS + 1))
    unknown_rows = 0
    for number, (files, sent) in enumerate(cuts(traced)):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        for name, data in files.items():
            # SQLite writes the index of the write-ahead log through shared memory.
            content = random.Random(number).randbytes(len(data)) if name.endswith("-shm") else data
            (folder / name).write_bytes(content)
        relay.taken.clear()
        with Campaign.open(folder / "j") as campaign:
            assert campaign._opened.database.execute("PRAGMA integrity_check").fetchall() == [
                ("ok",)
            ]
            before = statuses_by_row(campaign)
            accepted = {row for row, each in before.items() if each is Status.ACCEPTED}
            unknown = {row for row, each in before.items() if each is Status.UNKNOWN}
            assert set(before) == everything
            assert accepted <= sent, "a row is ACCEPTED and was not sent"
            assert sent <= accepted | unknown, "a row was sent and is not reported"
            for _ in campaign.run(wait=False):
                pass
            again = [row for row, _, _ in relay.taken]
            assert sorted(again) == sorted(everything - accepted - unknown)
            after = campaign.status()
            counts = (after.state, after.accepted, after.unknown)
            assert counts == (CampaignState.DONE, len(accepted) + len(again), len(unknown))
        unknown_rows += len(unknown)
        shutil.rmtree(folder)
    print(f"{CUTS} losses of power, seed {SEED}: {unknown_rows} rows UNKNOWN")


def test_an_image_has_the_synced_writes_and_any_of_the_others() -> None:
    folder = Path("/d")
    disk = Disk(folder, {"a": b"x" * 1024})
    steps = [
        Event("write", "/d/a", 0, b"1" * 10),
        Event("sync", "/d/a", thread="1"),
        Event("write", "/d/a", 10, b"2" * 1000),
        Event("synced", thread="1"),
        Event("create", "/d/b"),
        Event("write", "/d/b", 600, b"3"),
        Event("sync", "/d/b", thread="1"),
        Event("synced", thread="1"),
    ]
    for step in steps:
        disk.apply(step)
    source = random.Random(1)
    found = {tuple(sorted(disk.image(source).items())) for _ in range(200)}
    start = b"1" * 10
    parts = [
        start + first + last + b"x" * 14
        for first in (b"2" * 502, b"x" * 502)
        for last in (b"2" * 498, b"x" * 498)
    ]
    created = bytes(600) + b"3"
    assert {dict(each)["a"] for each in found} == set(parts)
    assert {dict(each).get("b") for each in found} == {None, created}
    disk.apply(Event("sync", "/d", thread="1"))
    disk.apply(Event("synced", thread="1"))
    assert all(disk.image(source)["b"] == created for _ in range(20))
    disk.apply(Event("rename", "/d/b", target="/d/a"))
    disk.apply(Event("truncate", "/d/a", 4))
    names = {tuple(sorted(disk.image(source))) for _ in range(50)}
    assert names == {("a", "b"), ("a",)}
