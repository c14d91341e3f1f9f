"""Reader of `tests/vectors/*.json`, which cargo reads too.

A string in a vector file contains the Latin-1 character of each byte.
"""

import json
from pathlib import Path
from typing import Any


def rows(file: str, table: str) -> list[Any]:
    """Return one table of a vector file."""
    path = Path(__file__).parent / "vectors" / f"{file}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))[table])


def to_bytes(text: str) -> bytes:
    """Return the bytes of a text that a vector writes as Latin-1."""
    return text.encode("latin-1")
