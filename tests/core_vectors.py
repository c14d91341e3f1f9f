"""Reader of `tests/vectors/*.json`. The Rust tests read these files too.

JSON has no type for bytes. So a vector file contains a string in which each character is the
Latin-1 character of one byte.
"""

import json
from pathlib import Path
from typing import Any


def rows(file: str, table: str) -> list[Any]:
    """Return one table of a vector file."""
    path = Path(__file__).parent / "vectors" / f"{file}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))[table])


def to_bytes(text: str) -> bytes:
    """Return the bytes that a string of a vector file represents."""
    return text.encode("latin-1")
