"""Fixtures of the command line's tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import processes
from commandline import Command, Relays, ScriptedRelay, wait_for_threads
from rapidsmtp.cli import display, repeating
from rapidsmtp.cli.send import waiting


@pytest.fixture
def command(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return the command line, in a directory that is also the test's working directory."""
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path, backend)


@pytest.fixture
def plain_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return the command line, for tests that do not depend on the backend."""
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path, "python")


@pytest.fixture
def relays() -> Iterator[Relays]:
    """Yield a function that starts a scripted relay."""
    started: list[ScriptedRelay] = []

    def start(*arguments: Any) -> ScriptedRelay:
        started.append(ScriptedRelay(*arguments))
        return started[-1]

    yield start
    for relay in started:
        relay.close()


@pytest.fixture(autouse=True)
def no_progress_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print no progress lines, because their number depends on the load of the machine.

    This fixture concerns commands in the process of the tests. `without_progress` removes the lines
    of other processes.
    """
    monkeypatch.setattr(display, "_SECONDS_BETWEEN_LINES", 1e9)
    monkeypatch.setattr(waiting, "_PATIENCE", 1e9)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show each text at once."""
    monkeypatch.setattr(display, "_SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(waiting, "_PATIENCE", 0.0)
    monkeypatch.setattr(repeating, "_INTERVAL", 0.01)


@pytest.fixture(autouse=True)
def no_process_remains() -> Iterator[None]:
    """After each test, kill the processes that the test started and that are still running."""
    yield
    processes.kill_remaining()


@pytest.fixture(scope="module", autouse=True)
def no_thread_remains() -> Iterator[None]:
    """Check at the end of each module that no thread remains.

    The threads of a command end shortly after the command. A check after each command would take
    too long.
    """
    yield
    wait_for_threads()
