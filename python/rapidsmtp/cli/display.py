"""Progress and tables: drawn by rich on a terminal, written as plain lines elsewhere.

Commands print only through this module. It shows the characters that a terminal executes or hides
as escapes: a cell of the recipients list or a reply of a server may contain such characters.

Progress is written to stderr, so stdout contains only the result. If the environment variable
NO_COLOR is set, rich uses no colour. Plain lines never have colour. An error in writing progress is
ignored, so that the sending continues.
"""

import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TextIO

from rapidsmtp.errors import printable

# The minimum interval between plain progress lines, in seconds. The interval is long, so that the
# lines do not fill a log file.
_SECONDS_BETWEEN_LINES = 10.0
# The minimum interval between updates of a bar, in seconds. An update takes longer than sending a
# message, so an update for each message would slow down the sending.
_SECONDS_BETWEEN_UPDATES = 0.05


class Progress(Protocol):
    """A counter of finished items."""

    def advance(self, count: int = 1) -> None:
        """Add `count` finished items."""

    def wait(self, event: str, text: str) -> None:
        """Show what the command waits for.

        Args:
            event: The cause of the wait; empty for no wait. Without a terminal, a line is printed
                only if the cause has changed.
            text: The cause with the current times.
        """


class _PlainProgress:
    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES
        self._event, self._next_event = "", 0.0

    def wait(self, event: str, text: str) -> None:
        now = time.monotonic()
        # A relay may send another text with each refusal, for example with the time.
        if event == self._event or (event and now < self._next_event):
            return
        self._event, self._next_event = event, now + _SECONDS_BETWEEN_LINES
        line = text or f"{self._done} of {self._total}; the sending continues"
        with suppress(OSError):
            show(f"{self._label}: {line}", stream=sys.stderr)

    def advance(self, count: int = 1) -> None:
        self._done += count
        if time.monotonic() >= self._next:
            with suppress(OSError):
                show(f"{self._label}: {self._done} of {self._total}", stream=sys.stderr)
            self._next = time.monotonic() + _SECONDS_BETWEEN_LINES


@contextmanager
def progress(labels: Sequence[str], total: int) -> Iterator[list[Progress]]:
    """Show a progress bar for each label until the `with` block ends.

    Args:
        labels: The labels of the bars.
        total: The number of items of each bar.

    Yields:
        One `Progress` for each label. The bars remain visible after the `with` block.
    """
    if not _rich_on(sys.stderr):
        yield [_PlainProgress(label, total) for label in labels]
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )

    class Bars(RichProgress):
        waiting = ""

        def get_renderables(self) -> Iterator[Any]:
            yield from super().get_renderables()
            if self.waiting:
                # `Text`, because rich interprets a str as markup.
                yield Text(printable(self.waiting), overflow="fold")

    bars = Bars(*columns, console=Console(stderr=True))

    class Bar:
        def __init__(self, label: str) -> None:
            self._task = bars.add_task(label, total=total)
            self._done, self._next = 0, 0.0

        def advance(self, count: int = 1) -> None:
            self._done += count
            now = time.monotonic()
            if now >= self._next:
                self._next = now + _SECONDS_BETWEEN_UPDATES
                self.show()

        def wait(self, event: str, text: str) -> None:
            bars.waiting = text

        def show(self) -> None:
            with suppress(OSError):
                bars.update(self._task, completed=self._done)

    with bars:
        shown = [Bar(label) for label in labels]
        try:
            yield list(shown)
        finally:
            bars.waiting = ""
            for bar in shown:
                bar.show()


def notice(text: str) -> None:
    """Print one line to stderr, and ignore an error in writing."""
    with suppress(OSError):
        line = f"rapidsmtp: {' '.join(text.splitlines())}"
        show(_wrapped(line) if sys.stderr.isatty() else line, stream=sys.stderr)


def _wrapped(line: str) -> str:
    """Return a line with line breaks between its words, for the width of the terminal."""
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.wrap(
            printable(line),
            width,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def show(text: str, *, end: str = "\n", stream: TextIO | None = None) -> None:
    """Print a text of one or more lines.

    Args:
        text: The text. Only its line feeds are printed as they are.
        end: The end of the text.
        stream: The stream; None for stdout.
    """
    lines = "\n".join(map(printable, text.split("\n")))
    print(lines, end=end, file=stream or sys.stdout, flush=True)


def clear() -> None:
    """Clear the terminal and move the cursor to its first line."""
    sys.stdout.write("\x1b[H\x1b[2J")


def discard_output() -> None:
    """Replace stdout and stderr with /dev/null, each if writing to it fails.

    Otherwise Python would flush them at its exit, fail again, report the same error a second time,
    and exit with the status 120. The terminal of a command may be closed before the command ends.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout, with numbers aligned to the right.

    A table without rows is not printed.

    Args:
        title: The line above the table.
        head: The names of the columns. If all names are empty, the table has no head.
        rows: The cells of each row.
    """
    if not rows:
        return
    if not _rich_on(sys.stdout):
        _plain_table(title, head, rows)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        title=Text(printable(title), "table.title"), title_justify="left", show_header=any(head)
    )
    for name, numeric in zip(head, _numeric_columns(rows), strict=True):
        shown.add_column(
            name, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric
        )
    for row in rows:
        # Cells are converted to `Text`, because rich interprets a str as markup.
        shown.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(shown)


def as_json(value: Any) -> str:
    """Return a value as one line of JSON that stdout can encode.

    Characters that are not printable become JSON escapes. If stdout is not UTF-8, all characters
    that are not ASCII become JSON escapes. Otherwise the error handler `backslashreplace` of stdout
    would write escapes that are invalid in JSON.
    """
    encoding = (sys.stdout.encoding or "").lower().replace("_", "-")
    text = json.dumps(value, ensure_ascii=not encoding.startswith("utf"))
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _plain_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    show(title)
    rows = [[printable(cell) for cell in row] for row in rows]
    lines = [head, *rows] if any(head) else rows
    widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
    numeric = _numeric_columns(rows)
    for line in lines:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        show("  " + "  ".join(cells).rstrip())


def _numeric_columns(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Return a bool for each column: whether every cell is a number or "-" (a missing number)."""
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
