"""`rapidsmtp send` shows what it waits for, while no message gets an outcome."""

import io
import re
import threading
from typing import Any

import pytest

from commandline import Command, Relays, ScriptedRelay, accept
from rapidsmtp import Stats
from rapidsmtp.cli import display
from rapidsmtp.cli.send import waiting
from rapidsmtp.cli.send.waiting import Watch, times, waiting_for

RELAY = "mx.example:25"
REFUSING = {"refusing_for": 20.0, "refusal": "451 4.7.1 later", "waiting": 3}


@pytest.fixture(autouse=True)
def usual_times(no_progress_lines: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_SECONDS_BETWEEN_LINES", 10.0)
    monkeypatch.setattr(waiting, "_PATIENCE", 5.0)


@pytest.mark.parametrize(
    ("counters", "text"),
    [
        (REFUSING, "relay mx.example:25: 451 4.7.1 later"),
        (
            {"refusing_for": 1.0, "refusal": "cannot connect to mx.example:25: refused"},
            "cannot connect to mx.example:25: refused",
        ),
        ({"in_flight": 2, "connections": 2}, "relay mx.example:25 has not replied"),
        ({"queued": 2}, "relay mx.example:25: no connection yet"),
        (
            {"waiting": 2, "connections": 1, "refusal": "450 4.2.0 later"},
            "relay mx.example:25: the messages wait for a retry after 450 4.2.0 later",
        ),
        ({}, ""),
    ],
)
def test_the_cause_of_the_wait(counters: dict[str, Any], text: str) -> None:
    stats = Stats(**counters)
    assert waiting_for(stats, RELAY, 6.0) == text
    assert waiting_for(stats, RELAY, 4.0) == ""


def test_the_time_of_the_next_attempt() -> None:
    assert times(Stats(**REFUSING, next_attempt=4.6), 20.2) == (
        "no outcome for 20 s, next attempt in 5 s"
    )
    assert times(Stats(**REFUSING, next_attempt=0.2), 20.2) == "no outcome for 20 s"


class Recorder:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def advance(self, count: int = 1) -> None: ...

    def wait(self, event: str, text: str) -> None:
        self.texts.append(text)


def test_the_text_ends_with_the_next_outcome() -> None:
    recorder = Recorder()
    counters = [Stats(**REFUSING)] * 3 + [Stats(accepted=1, **REFUSING), Stats(accepted=1)]
    reading = iter(counters)
    watch = Watch(lambda: next(reading), RELAY, recorder)
    for second in (100.0, 104.0, 106.0, 107.0, 108.0):
        watch.look(second)
    assert recorder.texts == [
        "", "", "relay mx.example:25: 451 4.7.1 later (no outcome for 6 s)", "", "",
    ]  # fmt: skip


def test_a_log_file_gets_one_line_for_each_event(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    with display.progress(["sending"], 3) as (bar,):
        now = 100.0
        for second in range(60):
            now += 1.0
            bar.wait(f"451 later, {second // 30}", f"451 later, {second // 30} ({second} s)")
        for second in range(60):  # another text each second
            now += 1.0
            bar.wait(f"451 {second}", f"451 {second} \x1b[31m")
        bar.wait("", "")
        bar.wait("", "")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["sending: 451 later, 0 (0 s)", "sending: 451 later, 1 (30 s)"]
    assert 5 <= len(lines[2:-1]) <= 7 and not any("\x1b" in line for line in lines)
    assert lines[-1] == "sending: 0 of 3; the sending continues"


class Seen(io.StringIO):
    """A standard error that sets an event when a text is written."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self.event = threading.Event()
        self._pattern = pattern

    def write(self, text: str) -> int:
        if re.search(self._pattern, text):
            self.event.set()
        return super().write(text)


REPLIES = ["451 4.7.1 try later", "421 4.3.2 try later", None]


@pytest.mark.usefixtures("impatient", "fast_clock")
@pytest.mark.parametrize("point", ["MAIL", "RCPT"])
@pytest.mark.parametrize("reply", REPLIES, ids=["451", "421", "closed"])
def test_a_refusal_is_shown_while_it_lasts(
    command: Command, relays: Relays, point: str, reply: str | None
) -> None:
    errors = Seen("try later" if reply else "closed the connection")

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line[:4].upper() == point and not errors.event.is_set():
            return reply
        return accept(relay, line)

    relay = relays(script)
    result = command.send(relay.url, "--max-attempts", "1000", "--json", stderr=errors)
    assert result.returncode == 0, errors.getvalue()
    assert errors.event.is_set()
    assert all(line.startswith("sending: ") for line in errors.getvalue().splitlines())


@pytest.mark.usefixtures("impatient")
def test_a_silent_relay_is_shown(command: Command, relays: Relays) -> None:
    errors = Seen("has not replied")

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line == ".":
            errors.event.wait(60)
        return accept(relay, line)

    result = command.send(relays(script).url, stderr=errors)
    assert result.returncode == 0 and errors.event.is_set()
