"""Reader of `tests/traces/*.smtp`; each file is one transaction. The Rust tests read these files
too.

Each line is a key and a value. The first lines are the envelope and the options. The next lines are
the client's lines (`C:`), the server's reply lines (`S:`) and events (`E:`). Consecutive client's
lines are one flight. The last lines are the expected result of the transaction.
"""

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

BODY = b"body\r\n.\r\n"

PATHS = sorted((Path(__file__).parent / "traces").glob("*.smtp"))


@dataclass
class Trace:
    """One transaction. `talk` holds the client's flights, the server's lines and the events."""

    values: dict[str, str] = field(default_factory=dict)
    talk: list[tuple[str, bytes]] = field(default_factory=list)


def read(path: Path) -> Trace:
    """Parse a trace."""
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
