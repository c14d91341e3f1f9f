"""Messages that are not as they should be: by reason for a reader, one by one for a program.

A list may have a million lines, and all of them may be bad. So only counts and a few examples
are held; the single outcomes go to files as they come.
"""

import csv
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

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
_LIST = "the list of those that were not accepted"
_COLUMNS = ("row", "tag", "recipient", "status", "code", "enhanced_status", "phase", "reason")


class Findings:
    """The outcomes that were not accepted; a context manager that closes its files.

    Args:
        as_json: Whether to keep them for `print_json`.
        path: A CSV file to write them to, or None.

    Attributes:
        fault: Why the CSV file, or the JSON report, is not complete, or "".

    Raises:
        UsageError: The file cannot be written.
    """

    def __init__(self, as_json: bool, path: str | None) -> None:
        self.fault = ""
        self._is_cut_off = self._is_full = False
        self._reasons: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self._path = path
        self._files = ExitStack()
        self._spool = self._csv = None
        if as_json:
            self._spool = self._files.enter_context(
                tempfile.SpooledTemporaryFile(  # noqa: SIM115  (closed with the others)
                    _IN_MEMORY, "w+", encoding="utf-8", errors="surrogatepass"
                )
            )
        if path is not None:
            try:
                file = Path(path).open(  # noqa: SIM115  (closed with the others)
                    "w", encoding="utf-8", errors="backslashreplace", newline=""
                )
            except OSError as error:
                raise UsageError(f"{path}: {error.strerror}") from None
            self._csv = csv.writer(self._files.enter_context(file))
            self._csv.writerow(_COLUMNS)

    def __enter__(self) -> "Findings":
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
            self._failed(self._path or _LIST, fault)

    @property
    def has_csv(self) -> bool:
        """Whether there is a CSV file."""
        return self._csv is not None

    def add(self, row: int, tag: object, outcome: Outcome) -> None:
        """Note an outcome.

        Args:
            row: The row that it is of, from 1 on.
            tag: What the row is called; the outcome's own tag is not asked.
            outcome: What has become of it.
        """
        self._remember(row, tag, outcome)
        if self._spool is not None and not self._is_cut_off:
            try:
                self._spool.write(", " if self._spool.tell() else "")
                self._spool.write(display.as_json(_outcome_as_dict(row, tag, outcome)))
            except OSError as error:
                self._is_cut_off = True
                self._failed(_LIST, error)
        self.write(_lines(row, tag, outcome))

    def write(self, lines: list[list[object]]) -> None:
        """Write lines to the CSV file, if there is one."""
        if self._csv is not None and not self._is_full:
            try:
                self._csv.writerows(lines)
            except OSError as error:
                self._is_full = True
                self._failed(self._path, error)

    def print_table(self, title: str) -> None:
        """Print the reasons, the most frequent first."""
        ordered = sorted(self._reasons.items(), key=lambda item: -item[1][0])
        shown = [
            [": ".join(filter(None, key)), f"{count}", _examples(names)]
            for key, (count, names) in ordered[:_REASONS]
        ]
        display.table(title, ["reason", "messages", "which"], shown)
        if len(ordered) > _REASONS:
            print(f"and {len(ordered) - _REASONS} more reasons; --not-accepted FILE.csv has all")

    def print_json(self, head: dict[str, object], name: str) -> None:
        """Print an object that has all outcomes as its last value.

        Args:
            head: The other values.
            name: The last value's name.
        """
        spool = self._spool
        assert spool is not None
        print(display.as_json(head).removesuffix("}"), end=f', "{name}": [')
        if self._is_cut_off:
            print("]}")
            return
        spool.seek(0)
        for part in iter(lambda: spool.read(65536), ""):
            print(part, end="")
        print("]}")

    def print_fault(self) -> None:
        """Say on stderr what is not complete, if anything."""
        if self.fault:
            display.notice(self.fault)

    def _remember(self, row: int, tag: object, outcome: Outcome) -> None:
        key = (outcome.status.value, outcome.reason)
        if key not in self._reasons and len(self._reasons) >= _KNOWN_REASONS:
            key = _OTHER
        count, names = self._reasons.get(key, (0, []))
        if len(names) <= _EXAMPLES:
            names.append(f"row {row}" if tag is None else str(tag))
        self._reasons[key] = (count + 1, names)

    def _failed(self, what: str | None, error: OSError) -> None:
        # A full disk is no reason to stop the sending: the report is told all the same.
        self.fault = f"{what} is not complete: {error.strerror}"


def _examples(names: list[str]) -> str:
    more = ", \N{HORIZONTAL ELLIPSIS}" if len(names) > _EXAMPLES else ""
    return ", ".join(names[:_EXAMPLES]) + more


def _lines(row: int, tag: object, outcome: Outcome) -> list[list[object]]:
    """A line of the CSV file for each recipient that was not accepted, or one for all."""
    refused = [
        (address, result)
        for address, result in outcome.recipients.items()
        if result.status is not Status.ACCEPTED
    ]
    if not refused:
        status = outcome.status.name.lower()
        return [[row, tag, "", status, None, None, outcome.phase, outcome.reason]]
    return [
        [
            row,
            tag,
            address,
            result.status.name.lower(),
            result.code,
            result.enhanced_status,
            outcome.phase,
            result.text or outcome.reason,
        ]
        for address, result in refused
    ]


def _outcome_as_dict(row: int, tag: object, outcome: Outcome) -> dict[str, Any]:
    return {
        "row": row,
        "tag": tag,
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
