"""What `rapidsmtp send` tells at its end: counts, and what was not accepted, by reason."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rapidsmtp.cli import display
from rapidsmtp.cli.findings import Findings
from rapidsmtp.outcome import Outcome, Status


class Summary:
    """Counts, and those that were not accepted; a context manager that closes its files.

    Args:
        relay: The relay's name.
        total: The number of rows.
        as_json: Whether the report is JSON, which has every outcome that is not ACCEPTED.
        not_accepted: A CSV file to write those to, or None.
        warnings: What a JSON report tells beside.

    Raises:
        UsageError: The file cannot be written.
    """

    def __init__(
        self,
        relay: str,
        total: int,
        as_json: bool,
        not_accepted: str | None,
        warnings: Sequence[str] = (),
    ) -> None:
        self.relay = relay
        self.total = total
        self.counts: Counter[Status] = Counter()
        self.stopped = ""
        self._as_json = as_json
        self._warnings = warnings
        self._taken = 0
        self._start = time.monotonic()
        self._findings = Findings(as_json, not_accepted)

    def __enter__(self) -> "Summary":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._findings.__exit__(kind, error, traceback)

    def start(self) -> None:
        """Begin to count the seconds."""
        self._start = time.monotonic()

    @property
    def all_accepted(self) -> bool:
        """Whether there is nothing to complain of."""
        return self.counts[Status.ACCEPTED] == self.total and not self._findings.fault

    def add(self, row: int, tag: object, outcome: Outcome) -> None:
        """Count an outcome.

        Args:
            row: The row that it is of, from 1 on.
            tag: What the row is called.
            outcome: What has become of it.
        """
        self._taken += 1
        self.counts[outcome.status] += 1
        if outcome.status is not Status.ACCEPTED:
            self._findings.add(row, tag, outcome)

    def add_untaken(self, rows: Iterable[Mapping[str, Any]], taken: int, tag: str | None) -> None:
        """Note the rows of which no message was made, because the sending stopped before.

        `print` counts them by itself; this is for the CSV file.

        Args:
            rows: All rows.
            taken: How many of them to leave out.
            tag: The column of the tag.
        """
        if not self._findings.has_csv or taken >= self.total:
            return
        status = Status.NOT_ATTEMPTED.name.lower()
        for number, row in enumerate(rows, 1):
            if number > taken:
                name = row.get(tag) if tag else None
                line = [number, name, "", status, None, None, "connect", self.stopped]
                self._findings.write([line])

    def print(self, **known: object) -> None:
        """Print it to stdout, and why it stopped to stderr.

        Args:
            known: What else a JSON report has.
        """
        seconds = time.monotonic() - self._start
        self.counts[Status.NOT_ATTEMPTED] += self.total - self._taken
        if self._as_json:
            self._print_json(seconds, known)
        else:
            self._print_tables(seconds)
        if self.stopped:
            display.notice(f"stopped: {self.stopped}")

    def print_fault(self) -> None:
        """Say on stderr what of it is not complete, if anything."""
        self._findings.print_fault()

    def _print_tables(self, seconds: float) -> None:
        rows = [[status.value, f"{self.counts[status]}"] for status in Status]
        rows = [row for row in rows if row[1] != "0" or row[0] == Status.ACCEPTED.value]
        rows.append(["seconds", f"{seconds:.2f}"])
        rows.append(["messages a second", f"{self._per_second(seconds):.0f}"])
        display.table(f"sent to {self.relay}", ["", ""], rows)
        self._findings.print_table("not accepted")

    def _print_json(self, seconds: float, known: Mapping[str, object]) -> None:
        head = {
            "relay": self.relay,
            "messages": self.total,
            **{status.name.lower(): self.counts[status] for status in Status},
            "seconds": round(seconds, 3),
            "messages_per_second": round(self._per_second(seconds), 1),
            "stopped": self.stopped or None,
            "warnings": list(self._warnings),
            **known,
        }
        self._findings.print_json(head, "not_accepted")

    def _per_second(self, seconds: float) -> float:
        return self.counts[Status.ACCEPTED] / seconds if seconds else 0.0
