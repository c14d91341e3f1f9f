"""What `rapidsmtp send` tells at its end: counts, and what was not accepted, by reason.

A list may have a million lines, and a relay may refuse all of them. So only counts and a few
examples are held; the single outcomes go to files as they come.
"""

import csv
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rapidsmtp.cli import display
from rapidsmtp.cli.usage import UsageError
from rapidsmtp.outcome import Outcome, Status

# A report is read by a person: so many reasons, and so many examples of each.
_REASONS = 20
_EXAMPLES = 5
# A relay may name each recipient in its refusal; beyond so many reasons the rest is one.
_KNOWN_REASONS = 10_000
_OTHER = ("", "other reasons")
# The outcomes of a JSON report are held in memory up to so many octets.
_IN_MEMORY = 1 << 20
_COLUMNS = ("row", "tag", "recipient", "status", "code", "enhanced_status", "phase", "reason")


class Summary:
    """Counts, and those that were not accepted; a context manager that closes its files.

    Args:
        relay: The relay's name.
        total: The number of rows.
        as_json: Whether the report is JSON, which has every outcome that is not ACCEPTED.
        not_accepted: A CSV file to write those to, or None.

    Raises:
        UsageError: The file cannot be written.
    """

    def __init__(self, relay: str, total: int, as_json: bool, not_accepted: str | None) -> None:
        self.relay = relay
        self.total = total
        self.counts: Counter[Status] = Counter()
        self.stopped = ""
        self.fault = ""
        self._taken = 0
        self._start = time.monotonic()
        self._reasons: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self._path = not_accepted
        self._files = ExitStack()
        self._spool = self._csv = None
        if as_json:
            self._spool = self._files.enter_context(
                tempfile.SpooledTemporaryFile(  # noqa: SIM115  (closed with the others)
                    _IN_MEMORY, "w+", encoding="utf-8", errors="surrogatepass"
                )
            )
        if not_accepted is not None:
            try:
                file = Path(not_accepted).open(  # noqa: SIM115  (closed with the others)
                    "w", encoding="utf-8", errors="backslashreplace", newline=""
                )
            except OSError as error:
                raise UsageError(f"{not_accepted}: {error.strerror}") from None
            self._csv = csv.writer(self._files.enter_context(file))
            self._csv.writerow(_COLUMNS)

    def __enter__(self) -> "Summary":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._files.close()
        except OSError as fault:  # the last of a file is written when it is closed
            self._failed(fault)

    @property
    def all_accepted(self) -> bool:
        """Whether there is nothing to complain of."""
        return self.counts[Status.ACCEPTED] == self.total and not self.fault

    def add(self, row: int, outcome: Outcome) -> None:
        """Count an outcome.

        Args:
            row: The row that it is of, from 1 on.
            outcome: What has become of it.
        """
        self._taken += 1
        self.counts[outcome.status] += 1
        if outcome.status is Status.ACCEPTED:
            return
        self._remember(row, outcome)
        if self._spool is not None:
            self._spool.write(", " if self._spool.tell() else "")
            self._spool.write(display.as_json(_outcome_as_dict(row, outcome)))
        if self._csv is not None:
            self._write(_lines(row, outcome))

    def add_untaken(self, rows: Iterable[Mapping[str, Any]], taken: int, tag: str | None) -> None:
        """Note the rows of which no message was made, because the sending stopped before.

        `print` counts them by itself; this is for the CSV file.

        Args:
            rows: All rows.
            taken: How many of them to leave out.
            tag: The column of the tag.
        """
        if self._csv is None or taken >= self.total:
            return
        status = Status.NOT_ATTEMPTED.name.lower()
        for number, row in enumerate(rows, 1):
            if number > taken:
                name = row.get(tag) if tag else None
                self._write([[number, name, "", status, None, None, "connect", self.stopped]])

    def print(self, **known: object) -> None:
        """Print it to stdout, and why it stopped to stderr.

        Args:
            known: What else a JSON report has.
        """
        seconds = time.monotonic() - self._start
        self.counts[Status.NOT_ATTEMPTED] += self.total - self._taken
        if self._spool is not None:
            self._print_json(self._spool, seconds, known)
        else:
            self._print_tables(seconds)
        if self.stopped:
            print(f"rapidsmtp: stopped: {display.printable(self.stopped)}", file=sys.stderr)

    def print_fault(self) -> None:
        """Say on stderr that the CSV file is not complete, if so."""
        if self.fault:
            print(f"rapidsmtp: {display.printable(self.fault)}", file=sys.stderr)

    def _remember(self, row: int, outcome: Outcome) -> None:
        key = (outcome.status.value, outcome.reason)
        if key not in self._reasons and len(self._reasons) >= _KNOWN_REASONS:
            key = _OTHER
        count, names = self._reasons.get(key, (0, []))
        if len(names) <= _EXAMPLES:
            names.append(f"row {row}" if outcome.tag is None else str(outcome.tag))
        self._reasons[key] = (count + 1, names)

    def _write(self, lines: list[list[object]]) -> None:
        assert self._csv is not None
        if not self.fault:
            try:
                self._csv.writerows(lines)
            except OSError as error:
                self._failed(error)

    def _failed(self, error: OSError) -> None:
        # A full disk is no reason to stop the sending: the report is told all the same.
        self.fault = f"{self._path} is not complete: {error.strerror}"

    def _print_tables(self, seconds: float) -> None:
        rows = [[status.value, f"{self.counts[status]}"] for status in Status]
        rows = [row for row in rows if row[1] != "0" or row[0] == Status.ACCEPTED.value]
        rows.append(["seconds", f"{seconds:.2f}"])
        rows.append(["messages a second", f"{self._per_second(seconds):.0f}"])
        display.table(f"sent to {self.relay}", ["", ""], rows)
        ordered = sorted(self._reasons.items(), key=lambda item: -item[1][0])
        shown = [
            [": ".join(filter(None, key)), f"{count}", _examples(names)]
            for key, (count, names) in ordered[:_REASONS]
        ]
        display.table("not accepted", ["reason", "messages", "which"], shown)
        if len(ordered) > _REASONS:
            print(f"and {len(ordered) - _REASONS} more reasons; --not-accepted FILE.csv has all")

    def _print_json(self, spool: IO[str], seconds: float, known: Mapping[str, object]) -> None:
        head = {
            "relay": self.relay,
            "messages": self.total,
            **{status.name.lower(): self.counts[status] for status in Status},
            "seconds": round(seconds, 3),
            "messages_per_second": round(self._per_second(seconds), 1),
            "stopped": self.stopped or None,
            **known,
        }
        print(display.as_json(head).removesuffix("}"), end=', "not_accepted": [')
        spool.seek(0)
        for part in iter(lambda: spool.read(65536), ""):
            print(part, end="")
        print("]}")

    def _per_second(self, seconds: float) -> float:
        return self.counts[Status.ACCEPTED] / seconds if seconds else 0.0


def _examples(names: list[str]) -> str:
    more = ", \N{HORIZONTAL ELLIPSIS}" if len(names) > _EXAMPLES else ""
    return ", ".join(names[:_EXAMPLES]) + more


def _lines(row: int, outcome: Outcome) -> list[list[object]]:
    """A line of the CSV file for each recipient that was not accepted, or one for all."""
    refused = [
        (address, result)
        for address, result in outcome.recipients.items()
        if result.status is not Status.ACCEPTED
    ]
    if not refused:
        status = outcome.status.name.lower()
        return [[row, outcome.tag, "", status, None, None, outcome.phase, outcome.reason]]
    return [
        [
            row,
            outcome.tag,
            address,
            result.status.name.lower(),
            result.code,
            result.enhanced_status,
            outcome.phase,
            result.text or outcome.reason,
        ]
        for address, result in refused
    ]


def _outcome_as_dict(row: int, outcome: Outcome) -> dict[str, Any]:
    return {
        "row": row,
        "tag": outcome.tag,
        "status": outcome.status.name.lower(),
        "phase": outcome.phase,
        "attempts": outcome.attempts,
        "reason": outcome.reason,
        "recipients": {
            address: {
                "status": result.status.name.lower(),
                "code": result.code,
                "enhanced_status": result.enhanced_status,
                "text": result.text,
            }
            for address, result in outcome.recipients.items()
        },
    }
