"""The files that `rapidsmtp` writes, and standard streams that are closed or full."""

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import processes
from commandline import CSV, EML, Command, Relays, ScriptedRelay, accept, one_line
from rapidsmtp.cli import display
from rapidsmtp.cli.send import failures


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--not-accepted", "list.csv"),
            "--not-accepted and --to name the same file, list.csv; use another file",
        ),
        (
            ("--not-accepted", "link.csv"),
            "--not-accepted and --to name the same file, link.csv; use another file",
        ),
        (("--not-accepted", "list.csv", "--dry-run"), "the same file"),
        (("--trace", "./list.csv"), "--trace and --to name the same file"),
        (("--trace", "message.eml"), "--trace and --template name the same file"),
        (("--trace", "new", "--not-accepted", "new"), "--trace and --not-accepted name the same"),
    ],
)
def test_a_file_that_is_read_is_not_written(
    command: Command, relays: Relays, arguments: tuple[str, ...], expected: str
) -> None:
    relay = relays()
    (command.directory / "link.csv").symlink_to("list.csv")
    one_line(command.send(relay.url, *arguments), expected)
    assert (command.directory / "list.csv").read_text() == CSV
    assert (command.directory / "message.eml").read_text() == EML
    assert relay.connections == 0


def test_a_device_may_be_named_twice(command: Command, relays: Relays) -> None:
    written = ("--trace", "/dev/null", "--not-accepted", "/dev/null")
    assert command.send(relays().url, *written).returncode == 0


def test_an_old_trace_is_kept_until_the_sending_starts(command: Command, relays: Relays) -> None:
    command.write("trace", "an old one\n")
    one_line(command.send(relays().url, "--trace", "trace", "--to", "absent.csv"), "absent.csv")
    assert (command.directory / "trace").read_text() == "an old one\n"
    assert command.send(relays().url, "--trace", "trace").returncode == 0
    assert "old" not in (command.directory / "trace").read_text()


def test_a_full_disk_for_the_trace_does_not_stop_the_sending(
    command: Command, relays: Relays
) -> None:
    result = command.send(relays().url, "--trace", "/dev/full", "--no-warnings")
    assert result.returncode == 0
    assert result.stderr == "rapidsmtp: --trace /dev/full is incomplete: No space left on device\n"


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_for_progress_does_not_stop_the_sending(
    command: Command, relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "_SECONDS_BETWEEN_LINES", 0.0)
    result = command.send(relays().url, "--json", stderr=Full())
    assert result.returncode == 0 and json.loads(result.stdout)["accepted"] == 3


def test_a_full_disk_for_the_report_does_not_stop_the_sending(
    command: Command, relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        return "550 no" if "bo@example.com" in line else accept(relay, line)

    monkeypatch.setattr(failures.tempfile, "SpooledTemporaryFile", lambda *_, **__: Full())
    result = command.send(relays(script).url, "--json", "--no-warnings")
    report = json.loads(result.stdout)
    assert (report["accepted"], report["partial"], report["not_attempted"]) == (2, 1, 0)
    assert report["not_accepted"] == [] and report["stopped"] is None
    assert result.stderr.splitlines() == [
        "rapidsmtp: the list of messages that were not accepted is incomplete: "
        "No space left on device"
    ]
    assert result.returncode == 1


PROGRAM = (sys.executable, "-m", "rapidsmtp")


def redirected(
    command: Command, redirection: str, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a shell that has closed or redirected a standard stream."""
    return processes.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *PROGRAM, *arguments],
        cwd=command.directory,
        env=command.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


FILES = ("--template", "message.eml", "--to", "list.csv")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&- <&-", "2>/dev/full"])
@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_sending_works_without_standard_streams(
    command: Command, relays: Relays, redirection: str, arguments: tuple[str, ...]
) -> None:
    relay = relays()
    result = redirected(command, redirection, "send", "--relay", relay.url, *FILES, *arguments)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert len(relay.bodies) == 3


def test_a_full_disk_for_stdout(command: Command, relays: Relays) -> None:
    relay = relays()
    sending = ("send", "--relay", relay.url, *FILES, "--no-warnings")
    result = redirected(command, ">/dev/full", *sending)
    assert result.returncode == 1
    expected = "rapidsmtp: writing the report failed: No space left on device\n"
    assert result.stderr == expected and len(relay.bodies) == 3


def test_a_closed_standard_input(command: Command, relays: Relays) -> None:
    sending = ("send", "--relay", relays().url, "--template", "message.eml", "--to", "-")
    one_line(redirected(command, "<&-", *sending), "no column")


def test_an_old_drawing_is_kept_if_the_measurement_fails(command: Command, tmp_path: Path) -> None:
    drawing = tmp_path / "bench.svg"
    drawing.write_text("an old one")
    target = ("--relay", "smtp://127.0.0.1:1", "--to", "a@example.com", "--messages", "5")
    assert command("bench", *target, "--plot", str(drawing)).returncode != 0
    assert drawing.read_text() == "an old one"


@pytest.mark.parametrize(
    ("script", "raised"),
    [
        ("import rapidsmtp\nraise rapidsmtp.RelayError('its own')", "RelayError: its own"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise OSError(28, 'its own')", "its own"),
    ],
)
def test_exceptions_of_a_script_have_a_traceback(
    plain_command: Command, script: str, raised: str
) -> None:
    plain_command.write("program.py", script)
    result = plain_command.run("run", "program.py")
    assert result.returncode not in (0, 2)
    assert "Traceback" in result.stderr and raised in result.stderr.splitlines()[-1]
