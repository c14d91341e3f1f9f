"""Disturbances of a run: files deleted, a full disk, a read-only file, two processes, and the order
of the writes on the disk and on the wire.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import processes
from campaign import judge
from campaign.judge import Totals, create
from commandline import Command
from rapidsmtp.cli.bench.recording_server import recording_server, records, wait_until_quiet

ROWS = 1200
SECONDS = 120


@pytest.fixture
def command(tmp_path: Path, backend: str) -> Command:
    return Command(tmp_path, backend)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder on a disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    arguments = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(arguments, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def check(path: Path, record: Path, url: str, kills: int = 0) -> Totals:
    """Check that the record and the journal agree, and return the totals."""
    wait_until_quiet(url)
    totals = Totals()
    judge.judge(path, record, kills, totals)
    assert (totals.twice, totals.lost, totals.wrong, totals.silent) == (0, 0, 0, 0), totals
    assert totals.faults == []
    return totals


def run_to_the_end(command: Command, path: Path) -> None:
    ended = command.run("campaign", "run", str(path), "--no-wait")
    assert ended.returncode in (0, 1), ended.stderr


def test_one_command_sends_the_rest_although_list_and_template_are_gone(
    command: Command, tmp_path: Path
) -> None:
    lines = "".join(f"{row},N,r{row}@d{row % 9}.example\n" for row in range(ROWS))
    command.write("message.eml", judge.TEMPLATE)
    command.write("list.csv", f"id,name,email\n{lines}")
    path, record = tmp_path / "news.campaign", tmp_path / "record"
    files = ("--template", "message.eml", "--to", "list.csv", "--no-warnings")
    with recording_server(record) as url:
        process = command.start("send", "--relay", url, *files, "--journal", str(path))
        wait_for(lambda: len(records(record)) > 100)
        process.kill()
        process.communicate()
        (tmp_path / "list.csv").unlink()
        (tmp_path / "message.eml").unlink()
        run_to_the_end(command, path)
        check(path, record, url, 1)


def test_two_processes_one_of_which_is_killed(command: Command, tmp_path: Path) -> None:
    path, record = tmp_path / "j", tmp_path / "record"
    with recording_server(record) as url:
        create(path, url, ROWS)
        both = [command.start("campaign", "run", str(path)) for _ in range(2)]
        wait_for(lambda: len(records(record)) > 100)
        both[0].kill()
        outputs = [each.communicate(timeout=SECONDS) for each in both]
        assert both[1].returncode in (0, 1), outputs[1]
        check(path, record, url, 1)


def test_a_full_disk_delays_the_rest(command: Command, small_disk: Path, tmp_path: Path) -> None:
    path, record, filler = small_disk / "j", tmp_path / "record", small_disk / "filler"
    with recording_server(record) as url:
        create(path, url, ROWS)
        # A little space is left, so that the disk is full in the middle of the run.
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        filler.write_bytes(bytes(free - 256 * 1024))
        process = command.start("campaign", "run", str(path))
        wait_for(lambda: os.statvfs(small_disk).f_bavail == 0 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        filler.unlink()
        output, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, (output, errors)
        assert check(path, record, url).unknown == 0


def test_a_read_only_journal_is_not_run(command: Command, small_disk: Path, tmp_path: Path) -> None:
    path, record = small_disk / "j", tmp_path / "record"
    with recording_server(record) as url:
        create(path, url, 3)
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        for arguments in (("run",), ("pause",), ("settle", "--resend")):
            result = command("campaign", arguments[0], str(path), *arguments[1:])
            assert result.returncode == 2, result.stderr
            assert f"journal {path} is read-only: make the file" in result.stderr
        status = command("campaign", "status", str(path))
        assert status.returncode == 0, status.stderr
        assert "waiting" in status.stdout
    assert records(record) == []


# The order of the system calls

# Writes the rows of a grant to a file after the exchange that grants them.
MARKING = """
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
    for _ in campaign.run():
        pass
"""
CALLS = "pwrite64,write,writev,sendto,sendmsg,fsync,fdatasync"
LINE = re.compile(r"\d+ +(?:<\.\.\. )?(\w+)(?:\(\d+<([^>]*)>| resumed>)(.*)")
MESSAGE_ID = re.compile(r"Message-ID: <[0-9a-f]{16}\.(\d+)@")
GRANTED = re.compile(r"GRANTED (\d+)-(\d+)")


def test_no_row_leaves_before_its_grant_is_on_the_disk(
    backend: str, command: Command, tmp_path: Path
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    path, trace = tmp_path / "j", tmp_path / "trace"
    with recording_server(tmp_path / "record") as url:
        create(path, url, 400)
        ended = processes.run(
            ["strace", "-f", "-y", "-qq", "-s", "200000", "-e", f"trace={CALLS}", "-o", trace,
             sys.executable, "-c", MARKING, path, tmp_path / "marks"],
            env=command.environment, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
    if "ptrace" in ended.stderr:
        pytest.skip("this system does not permit ptrace")
    assert ended.returncode == 0, ended.stderr
    granted: set[int] = set()
    seen: set[int] = set()
    written = synced = 0
    for line in trace.read_text("utf-8", "replace").splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        call, file, rest = match.groups()
        is_end = file is None or "unfinished" not in rest
        if call == "pwrite64" and file is not None and file.endswith("-wal"):
            written += 1
        elif call in ("fsync", "fdatasync"):
            synced = written if is_end else synced
        elif file is not None and file.endswith("marks"):
            first, last = map(int, GRANTED.search(rest).groups())
            assert synced == written > 0, "the grant is not on the disk"
            granted.update(range(first, last + 1))
        elif file is not None and ("socket" in file or "TCP" in file):
            rows = {int(row) for row in MESSAGE_ID.findall(rest)}
            assert rows <= granted, f"rows {rows - granted} were not granted"
            seen |= rows
    assert seen == set(range(1, 401))
