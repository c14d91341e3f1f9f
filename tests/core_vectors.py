"""Reads `tests/vectors/*.json`, which cargo reads too. Octets stand there as Latin-1."""

import json
from pathlib import Path
from typing import Any


def rows(file: str, table: str) -> list[Any]:
    """One table of a file of vectors."""
    path = Path(__file__).parent / "vectors" / f"{file}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))[table])


def octets(text: str) -> bytes:
    """The octets that a vector's text stands for."""
    return text.encode("latin-1")
