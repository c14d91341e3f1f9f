"""Reads `tests/traces/*.smtp`, which cargo reads too: one transaction each.

Each line is a key and a value. First the envelope and how to begin; then what the client writes
(`C:`, lines in a row are one flight), what the server answers (`S:`) and what happens (`E:`);
then the verdict.
"""

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

BODY = b"body\r\n.\r\n"

PATHS = sorted((Path(__file__).parent / "traces").glob("*.smtp"))


@dataclass
class Trace:
    """One transaction: `talk` holds flights of the client, lines of the server, and events."""

    values: dict[str, str] = field(default_factory=dict)
    talk: list[tuple[str, bytes]] = field(default_factory=list)


def read(path: Path) -> Trace:
    """Read a trace."""
    trace = Trace()
    talk = []
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(": ")
        if key in ("C", "S", "E"):
            talk.append((key, value.encode()))
        elif not line.startswith("#"):
            trace.values[key.rstrip(":")] = value
    for key, group in groupby(talk, key=lambda item: item[0]):
        values = [value for _, value in group]
        if key == "C":
            trace.talk.append((key, b"".join(value + b"\r\n" for value in values)))
        else:
            trace.talk += [(key, value) for value in values]
    return trace
