"""The file `J-exchanges` beside a journal `J`. It shows whether the journal is an older copy.

The file has the journal's incarnation, the number of the last write transaction and the highest
granted row. An older copy of the journal has a lower number than the file. The file is written
after each commit, without fsync. So its number is never higher than that of the newest journal.
"""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple


class Mark(NamedTuple):
    """The content of the file.

    Attributes:
        incarnation: The random id of the journal.
        exchanges: The number of the last write transaction.
        granted_to: The highest granted row, or 0.
    """

    incarnation: str
    exchanges: int
    granted_to: int


class MarkFile:
    """The file of a journal.

    Args:
        journal: The path of the journal.

    Attributes:
        path: The path of the file.
    """

    def __init__(self, journal: str) -> None:
        self.path: str = f"{journal}-exchanges"
        self._descriptor: int | None = None

    def open(self) -> None:
        """Open the file for writing. It is created if it does not exist.

        Raises:
            OSError: The file cannot be opened.
        """
        self._descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)

    def read(self) -> Mark | None:
        """Return the content; None if the file is missing or malformed."""
        try:
            words = Path(self.path).read_text(encoding="ascii").split()
            return Mark(words[0], int(words[1]), int(words[2]))
        except (OSError, ValueError, IndexError):
            return None

    def write(self, mark: Mark) -> None:
        """Write the content, if the file is open."""
        if self._descriptor is None:
            return
        text = f"{mark.incarnation} {mark.exchanges:20} {mark.granted_to:20}\n"
        # If the disk is full, the file keeps its length, so this write needs no space.
        with contextlib.suppress(OSError):
            _write_at_start(self._descriptor, text.encode("ascii"))

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _write_at_start(descriptor: int, data: bytes) -> None:
    if hasattr(os, "pwrite"):
        os.pwrite(descriptor, data, 0)
    else:  # Windows
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, data)
