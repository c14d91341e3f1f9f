"""The fixture `stage`, which starts the servers, clients and namespaces of a test."""

import contextlib
from collections.abc import Iterator

import pytest

from outages.stage import Stage


@pytest.fixture
def stage(backend: str) -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        yield Stage(backend, stack)
