"""Disturbances of a run: files deleted, a full disk, a read-only file, and two processes."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
        while "make space on the disk" not in (line := process.stderr.readline()):
            assert line, process.communicate()
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
