"""Progress and tables: rich on a terminal, plain lines everywhere else.

Progress goes to stderr, so that what a program reads from stdout is the result alone. rich obeys
NO_COLOR itself; plain lines have no colour. Where stderr cannot be written the work goes on: what
it brings is worth more than to be told how far it is.
"""

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TextIO

# Often enough to see that it runs, seldom enough for a log.
_SECONDS_BETWEEN_LINES = 10.0
# A bar is told of what is done no more often: telling it takes longer than sending a message.
_SECONDS_BETWEEN_STEPS = 0.05


class Progress(Protocol):
    """Counts what is done."""

    def advance(self, count: int = 1) -> None:
        """So many more are done."""


class _PlainProgress:
    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES

    def advance(self, count: int = 1) -> None:
        self._done += count
        if time.monotonic() >= self._next:
            with suppress(OSError):
                print(f"{self._label}: {self._done} of {self._total}", file=sys.stderr, flush=True)
            self._next = time.monotonic() + _SECONDS_BETWEEN_LINES


@contextmanager
def progress(labels: Sequence[str], total: int) -> Iterator[list[Progress]]:
    """Show a bar for each label, each up to `total`; they stay when all is done."""
    if not _rich_on(sys.stderr):
        yield [_PlainProgress(label, total) for label in labels]
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bars = RichProgress(*columns, console=Console(stderr=True))

    class Bar:
        def __init__(self, label: str) -> None:
            self._task = bars.add_task(label, total=total)
            self._done, self._next = 0, 0.0

        def advance(self, count: int = 1) -> None:
            self._done += count
            now = time.monotonic()
            if now >= self._next:
                self._next = now + _SECONDS_BETWEEN_STEPS
                self.show()

        def show(self) -> None:
            with suppress(OSError):
                bars.update(self._task, completed=self._done)

    with bars:
        shown = [Bar(label) for label in labels]
        try:
            yield list(shown)
        finally:
            for bar in shown:
                bar.show()


def notice(text: str) -> None:
    """Print one line to stderr, if it can be written."""
    with suppress(OSError):
        print(f"rapidsmtp: {printable(text)}", file=sys.stderr, flush=True)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout; columns of figures are set to the right."""
    if not rows:
        return
    if not _rich_on(sys.stdout):
        _plain_table(title, head, rows)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title, title_justify="left", show_header=any(head))
    for name, figures in zip(head, _figures(rows), strict=True):
        shown.add_column(
            name, justify="right" if figures else "left", overflow="fold", no_wrap=figures
        )
    for row in rows:
        # Text, because a reply of a server is no markup of ours.
        shown.add_row(*map(Text, row))
    Console().print(shown)


def as_json(value: Any) -> str:
    """Write a value in one line, in letters that stdout can write.

    What is not in its encoding would come out as an escape that JSON does not know.
    """
    encoding = (sys.stdout.encoding or "").lower().replace("_", "-")
    return json.dumps(value, ensure_ascii=not encoding.startswith("utf"))


def printable(text: str) -> str:
    """Make one line that a terminal shows; it would obey escapes out of a file or a reply."""
    return "".join(c if c.isprintable() else " " for c in text)


def _plain_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(title)
    lines = [head, *rows] if any(head) else rows
    widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
    figures = _figures(rows)
    for line in lines:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, figures, strict=True)
        ]
        print("  " + "  ".join(cells).rstrip())


def _figures(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Of each column, whether all its cells are figures, or a dash in the place of one."""
    columns = zip(*rows, strict=True)
    return [all(re.fullmatch(r"[\d.,]+|-", cell) for cell in column) for column in columns]


def _rich_on(stream: TextIO) -> bool:
    if not stream.isatty():
        return False
    try:
        import rich  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True
