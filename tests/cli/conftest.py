"""Fixtures of the command line's tests."""

import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commandline import CSV, EML, ONCE, Command, Relay
from rapidsmtp import cli


@pytest.fixture
def command(tmp_path: Path, half: str) -> Command:
    return Command(tmp_path, half)


@pytest.fixture
def relays() -> Iterator[Callable[..., Relay]]:
    made: list[Relay] = []

    def make(*arguments: Any) -> Relay:
        made.append(Relay(*arguments))
        return made[-1]

    yield make
    for relay in made:
        relay.close()


class Here:
    """Runs the command line in this process, in a directory with a template and a list."""

    def __init__(
        self, directory: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.directory = directory
        self._capsys, self._patch = capsys, patch
        patch.chdir(directory)
        self.write("letter.eml", EML)
        self.write("list.csv", CSV)

    def write(self, name: str, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        (self.directory / name).write_bytes(data)

    def __call__(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        self._patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        status = cli.main(arguments)
        output = self._capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, output.out, output.err)

    def send(self, url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        files = ("--template", "letter.eml", "--to", "list.csv")
        return self("send", "--relay", url, *files, *ONCE, *arguments)


@pytest.fixture
def here(
    tmp_path: Path, half: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Here:
    """For what needs no process of its own: it is much quicker than `command`."""
    return Here(tmp_path, capsys, monkeypatch)
