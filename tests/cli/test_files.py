"""What `rapidsmtp` writes to: files of the user's, and standard streams that may be gone."""

import errno
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commandline import CSV, EML, Command, Relay, accept, one_line
from rapidsmtp.cli import display, findings


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--not-accepted", "list.csv"), "--not-accepted and --to are the same file: list.csv"),
        (("--not-accepted", "link.csv"), "--not-accepted and --to are the same file: link.csv"),
        (("--not-accepted", "list.csv", "--dry-run"), "the same file"),
        (("--trace", "./list.csv"), "--trace and --to are the same file"),
        (("--trace", "letter.eml"), "--trace and --template are the same file"),
        (("--trace", "new", "--not-accepted", "new"), "--trace and --not-accepted are the same"),
    ],
)
def test_what_is_read_is_not_written(
    here: Any, relays: Callable[..., Relay], arguments: tuple[str, ...], expected: str
) -> None:
    relay = relays()
    (here.directory / "link.csv").symlink_to("list.csv")
    one_line(here.send(relay.url, *arguments), expected)
    assert (here.directory / "list.csv").read_text() == CSV
    assert (here.directory / "letter.eml").read_text() == EML
    assert relay.connections == 0


def test_devices_are_as_many_files_as_one_likes(here: Any, relays: Callable[..., Relay]) -> None:
    written = ("--trace", "/dev/null", "--not-accepted", "/dev/null")
    assert here.send(relays().url, *written).returncode == 0


def test_a_trace_stays_until_there_is_a_new_one(here: Any, relays: Callable[..., Relay]) -> None:
    here.write("trace", "an old one\n")
    one_line(here.send(relays().url, "--trace", "trace", "--to", "absent.csv"), "absent.csv")
    assert (here.directory / "trace").read_text() == "an old one\n"
    assert here.send(relays().url, "--trace", "trace").returncode == 0
    assert "old" not in (here.directory / "trace").read_text()


def test_a_trace_that_cannot_be_written_stops_nothing(
    here: Any, relays: Callable[..., Relay]
) -> None:
    result = here.send(relays().url, "--trace", "/dev/full", "--no-warnings")
    assert result.returncode == 0
    assert result.stderr == "rapidsmtp: /dev/full is not complete: No space left on device\n"


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_no_place_for_progress_stops_nothing(
    here: Any, relays: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "_SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(sys, "stderr", Full())
    result = here.send(relays().url, "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["accepted"] == 3


def test_no_place_for_the_report_stops_nothing(
    here: Any, relays: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(relay: Relay, line: str) -> str | None:
        return "550 no" if "bo@example.com" in line else accept(relay, line)

    monkeypatch.setattr(findings.tempfile, "SpooledTemporaryFile", lambda *_, **__: Full())
    result = here.send(relays(script).url, "--json", "--no-warnings")
    report = json.loads(result.stdout)
    assert (report["accepted"], report["partial"], report["not_attempted"]) == (2, 1, 0)
    assert report["not_accepted"] == [] and report["stopped"] is None
    assert result.stderr.splitlines() == [
        "rapidsmtp: the list of those that were not accepted is not complete: "
        "No space left on device"
    ]
    assert result.returncode == 1


PROGRAM = (sys.executable, "-m", "rapidsmtp")


def redirected(
    command: Command, redirection: str, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run it by a shell that has closed a stream, or put it elsewhere."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *PROGRAM, *arguments],
        cwd=command.directory,
        env=command.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


LETTER = ("--template", "letter.eml", "--to", "list.csv")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&- <&-", "2>/dev/full"])
@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_mail_goes_out_without_standard_streams(
    command: Command, relays: Callable[..., Relay], redirection: str, arguments: tuple[str, ...]
) -> None:
    relay = relays()
    result = redirected(command, redirection, "send", "--relay", relay.url, *LETTER, *arguments)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert len(relay.bodies) == 3


def test_a_report_that_cannot_be_written(command: Command, relays: Callable[..., Relay]) -> None:
    relay = relays()
    sending = ("send", "--relay", relay.url, *LETTER, "--no-warnings")
    result = redirected(command, ">/dev/full", *sending)
    assert result.returncode == 1
    fault = "rapidsmtp: the report could not be written: No space left on device\n"
    assert result.stderr == fault and len(relay.bodies) == 3


def test_a_standard_input_that_is_closed(command: Command, relays: Callable[..., Relay]) -> None:
    sending = ("send", "--relay", relays().url, "--template", "letter.eml", "--to", "-")
    one_line(redirected(command, "<&-", *sending), "no column")


def test_a_drawing_stays_until_there_is_a_new_one(here: Any, tmp_path: Path) -> None:
    drawing = tmp_path / "bench.svg"
    drawing.write_text("an old one")
    target = ("--relay", "smtp://127.0.0.1:1", "--to", "a@example.com", "--messages", "5")
    assert here("bench", *target, "--plot", str(drawing)).returncode != 0
    assert drawing.read_text() == "an old one"


@pytest.mark.parametrize(
    ("script", "raised"),
    [
        ("import rapidsmtp\nraise rapidsmtp.RelayError('its own')", "RelayError: its own"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise OSError(28, 'its own')", "its own"),
    ],
)
def test_what_a_script_raises_is_its_own(command: Command, script: str, raised: str) -> None:
    command.write("program.py", script)
    result = command("run", "program.py")
    assert result.returncode not in (0, 2)
    assert "Traceback" in result.stderr and raised in result.stderr.splitlines()[-1]
