"""The files that `rapidsmtp` writes, and standard streams that are closed or full."""

import csv
import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import processes
from commandline import CSV, EML, Command, Relays, ScriptedRelay, accept, one_line
from rapidsmtp.cli import display
from rapidsmtp.cli.send import failures
from rapidsmtp.errors import spreadsheet_text


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
    one_line(
        redirected(command, "<&-", *sending), "-, line 1: no column 'email'; the list is empty"
    )


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


# Formulas


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@sum(1)", "'@sum(1)"),
        ("\N{FULLWIDTH EQUALS SIGN}1", "'\N{FULLWIDTH EQUALS SIGN}1"),
        ("\t=1", "\\t=1"),
        ("\r=1", "\\r=1"),
        ("  =1", "  '=1"),
        ("no;=1", "no;'=1"),
        ("no, @x; -1", "no, '@x; '-1"),
        ("5.1.1 <a@b.example>: no such user = unknown", None),
        ("1-2; see https://example.com/?a=b", None),
        ("", None),
    ],
)
def test_a_text_of_a_remote_party_is_no_formula(text: str, expected: str | None) -> None:
    assert spreadsheet_text(text) == (text if expected is None else expected)


def test_a_reply_is_no_formula_in_the_list_of_failures(command: Command, relays: Relays) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line[:4].upper() != "RCPT":
            return accept(relay, line)
        return "550 =HYPERLINK(1)" if "anna" in line else "550 no;@SUM(1)"

    command.write("message.eml", EML.replace("Bcc: hidden@example.com\n", ""))
    command.write("list.csv", "id,name,email\n=1+1,Anna,-anna@example.com\n@2,Bo,+bo@example.com\n")
    options = ("--tag", "id", "--not-accepted", "failed.csv")
    assert command.send(relays(script).url, *options).returncode == 1
    with (command.directory / "failed.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["name"])
    # The list's own values stay as they are.
    assert [row["id"] for row in rows] == ["=1+1", "@2"]
    assert [row["email"] for row in rows] == ["-anna@example.com", "+bo@example.com"]
    recipients = [row["outcome_recipient"] for row in rows]
    assert recipients == ["'-anna@example.com", "'+bo@example.com"]
    assert [row["outcome_text"] for row in rows] == ["'=HYPERLINK(1)", "no;'@SUM(1)"]


# Private files

PRIVATE = pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@PRIVATE
def test_only_the_owner_may_read_the_files(
    command: Command, relays: Relays, open_umask: None
) -> None:
    written = ("--not-accepted", "failed.csv", "--trace", "trace")
    assert command.send(relays().url, *written).returncode == 0
    options = ("--template", "message.eml", "--to", "list.csv", "--preview", "1")
    assert command("send", *options).returncode == 0
    directory = command.directory
    assert permissions(directory / "failed.csv") == permissions(directory / "trace") == 0o600
    assert permissions(directory / "preview") == 0o700
    assert permissions(directory / "preview" / "1.eml") == 0o600
    # The user chose the permissions of an existing file.
    (directory / "failed.csv").chmod(0o640)
    assert command.send(relays().url, *written).returncode == 0
    assert permissions(directory / "failed.csv") == 0o640


@PRIVATE
def test_overwrite_replaces_a_symbolic_link(command: Command) -> None:
    options = ("--template", "message.eml", "--to", "list.csv", "--preview", "2", "--overwrite")
    preview = command.directory / "preview"
    preview.mkdir()
    victim = command.directory / command.write("victim", "precious")
    (preview / "1.eml").symlink_to(victim)
    (preview / "2.eml").symlink_to("absent")
    result = command("send", *options)
    assert result.returncode == 0, result.stderr
    assert victim.read_text() == "precious" and not (preview / "absent").exists()
    for name in ("1.eml", "2.eml"):
        assert not (preview / name).is_symlink() and permissions(preview / name) == 0o600
    (preview / "1.eml").unlink()
    (preview / "1.eml").mkdir()
    one_line(command("send", *options), "1.eml")
