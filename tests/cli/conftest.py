"""Fixtures of the command line's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commandline import Command, Relay


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
