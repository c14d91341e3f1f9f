"""`rapidsmtp send` ends in order at Ctrl-C, SIGTERM and SIGHUP."""

import csv
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from commandline import ONCE, Command, Relays, ScriptedRelay, accept, without_progress
from terminal import Terminal

SIGNALS = [
    (signal.SIGINT, 130, "interrupted"),
    (signal.SIGTERM, 143, "ended by SIGTERM"),
    (signal.SIGHUP, 129, "ended by SIGHUP"),
]
FILES = ("--template", "message.eml", "--to", "list.csv", "--json", "--not-accepted", "failed.csv")
# Writes a text into a pipe when the first signal was handled.
REPORTING = """
from pathlib import Path
from rapidsmtp.cli.send import end_signals
end_signals.GRACE = 3600.0
handle = end_signals.EndSignals._handle
def reporting(self, number, frame):
    is_first = self.ended is None
    handle(self, number, frame)
    if is_first:
        Path("handled").write_text("handled")
end_signals.EndSignals._handle = reporting
"""


class SilentRelay:
    """The script of a relay that accepts one message and does not reply to the second one."""

    def __init__(self) -> None:
        self.reached, self.ended = threading.Event(), threading.Event()

    def __call__(self, relay: ScriptedRelay, line: str) -> str | None:
        if line == "." and len(relay.bodies) == 2:
            self.reached.set()
            self.ended.wait(300)
        return accept(relay, line)


def check_report(output: str, reason: str) -> None:
    report = json.loads(output)
    assert (report["accepted"], report["unknown"], report["not_attempted"]) == (1, 1, 1)
    assert report["stopped"] == reason
    check_file(Path("failed.csv"))


def check_file(path: Path) -> None:
    with path.open(newline="") as file:
        lines = {(line["id"], line["outcome"]) for line in csv.DictReader(file)}
    assert lines == {("2", "unknown"), ("3", "not attempted")}


@pytest.mark.parametrize(("number", "status", "reason"), SIGNALS)
def test_a_signal_ends_the_sending_in_order(
    command: Command, relays: Relays, number: int, status: int, reason: str
) -> None:
    script = SilentRelay()
    process = command.start("send", "--relay", relays(script).url, *FILES, *ONCE)
    assert script.reached.wait(60)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    script.ended.set()
    assert process.returncode == status, errors
    assert without_progress(errors) == f"rapidsmtp: stopped: {reason}\n"
    check_report(output, reason)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("first", "status", "reason"), SIGNALS)
def test_a_second_signal_ends_at_once(
    command: Command, relays: Relays, first: int, status: int, reason: str, second: int
) -> None:
    script = SilentRelay()
    # The relay does not reply, so only the second signal ends this wait within the test's time.
    os.mkfifo("handled")
    process = command.start("send", "--relay", relays(script).url, *FILES, *ONCE, prepare=REPORTING)
    assert script.reached.wait(60)
    process.send_signal(first)
    assert Path("handled").read_text() == "handled"
    process.send_signal(second)
    output, errors = process.communicate(timeout=60)
    script.ended.set()
    assert process.returncode == status, errors
    check_report(output, reason)


@pytest.mark.parametrize(("number", "status", "reason"), SIGNALS)
def test_a_signal_before_the_sending(
    command: Command, number: int, status: int, reason: str
) -> None:
    os.mkfifo("list.pipe")
    prepare = "import tempfile; tempfile.tempdir = '.'"
    process = command.start(
        "send", "--relay", "smtp://127.0.0.1:1", "--template", "message.eml", "--to", "list.pipe",
        prepare=prepare,
    )  # fmt: skip
    with Path("list.pipe").open("w") as list_file:  # the command has opened the list
        list_file.write("email\n")
        list_file.flush()
        process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (status, "")
    assert errors == f"rapidsmtp: {reason}\n"
    names = {path.name for path in Path().iterdir()}
    assert names == {"list.csv", "list.pipe", "message.eml"}


def test_an_ignored_signal_stays_ignored(command: Command, relays: Relays) -> None:
    sent = threading.Event()

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line == "." and len(relay.bodies) == 2:
            process.send_signal(signal.SIGHUP)
            sent.set()
        return accept(relay, line)

    prepare = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    process = command.start("send", "--relay", relays(script).url, *FILES, *ONCE, prepare=prepare)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, sent.is_set()) == (0, True), errors
    assert json.loads(output)["accepted"] == 3


def test_a_closed_terminal(command: Command, relays: Relays) -> None:
    script = SilentRelay()
    arguments = ("--template", "message.eml", "--to", "list.csv", *ONCE, *FILES[-2:])
    terminal = Terminal(command, "send", "--relay", relays(script).url, *arguments)
    terminal.read(lambda text: script.reached.is_set())
    assert terminal.hang_up() == 129
    script.ended.set()
    check_file(Path("failed.csv"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_does_not_interrupt_the_report(
    command: Command, relays: Relays, number: int
) -> None:
    def refuse(relay: ScriptedRelay, line: str) -> str | None:
        return "550 5.1.1 " + "no " * 100 if "RCPT" in line.upper() else accept(relay, line)

    rows = "".join(f"{n},N{n},n{n}@example.com\n" for n in range(1000))
    command.write("list.csv", "id,name,email\n" + rows)
    process = command.start("send", "--relay", relays(refuse, "PIPELINING").url, *FILES, *ONCE)
    assert process.stdout is not None and process.stderr is not None
    # The report is larger than the pipe, so the process waits until the test reads all of it.
    first = process.stdout.read(1)
    process.send_signal(number)
    report = json.loads(first + process.stdout.read())
    assert len(report["not_accepted"]) == 1000
    assert process.wait(60) == 1
    assert without_progress(process.stderr.read()) == ""
