"""Fixtures of the tests of campaigns."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from journals import relay

__all__ = ["relay"]


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where that is possible: each commit on a disk waits for the disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting run looks at the journal each minute. Days pass faster."""
    monkeypatch.setattr("rapidsmtp.campaign.running._POLL", 60.0)
