"""The report of failures: messages that were not accepted, and rows that gave no message.

The table groups the failures by reason. The JSON report has an entry for each message, and the CSV
file has a line for each row, with the cells of the list. So the CSV file can be sent again.

A recipients list may have a million rows, and all rows may fail. So only counts and a few examples
are kept in memory, and each outcome is written to the files when it arrives.
"""

import csv
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple

from rapidsmtp._compose.outcome_columns import header_of, joined_cells
from rapidsmtp._compose.recipients_list import CheckedList
from rapidsmtp._models.outcome import Outcome, RecipientResult, Status
from rapidsmtp.cli import display
from rapidsmtp.cli.files import open_private
from rapidsmtp.cli.usage import UsageError, name_options

# The maximum number of reasons in the table, and the maximum number of examples for each reason.
_MAX_REASONS = 20
_MAX_EXAMPLES = 5
# The maximum number of reasons that are counted separately. Further reasons are counted together.
# Without this limit, there may be as many reasons as messages, because a relay may give each reply
# a different text.
_MAX_KNOWN_REASONS = 10_000
_OTHER = ("", "other reasons")
# The maximum total size, in bytes, of outcomes that are kept in memory for the JSON report. Above
# this size, a temporary file holds the outcomes.
_MAX_IN_MEMORY = 1 << 20
# Parts of a reply that differ between messages: an address, and the id of a message or a session.
# Such an id has at least 8 characters, among them a letter and a digit.
_UNIQUE = re.compile(
    r"[^\s<>()\[\],;:\"']+@[^\s<>()\[\],;:\"']+"
    r"|\b(?=[\w.-]*\d)(?=[\w.-]*[A-Za-z])[\w-]{8,}(?:\.[\w-]+)*\b",
    re.ASCII,
)
_DIFFERENT = "\N{HORIZONTAL ELLIPSIS}"
_JSON_LIST = "the list of messages that were not accepted"


class RowName(NamedTuple):
    """A row of the recipients list in a report.

    Attributes:
        row: The number of the row among all rows, from 1.
        line: The number of its first line, or of its row in a sheet.
        tag: The cell of the column that identifies a row, or None.
        place: The place of the row in the file, in bytes.
    """

    row: int
    line: int
    tag: str | None
    place: int

    def as_dict(self) -> dict[str, Any]:
        """Return the row for a JSON report."""
        return {"row": self.row, "line": self.line, "tag": self.tag}


def skipped_rows(recipients: CheckedList) -> dict[str, int]:
    """Return the numbers of rows that are not sent, by reason."""
    dropped = recipients.repeated if recipients.drops_repeats else 0
    return {"duplicates": dropped, "excluded": recipients.excluded}


class FailureList:
    """The outcomes other than ACCEPTED. A `with` block closes the files at its end.

    Args:
        as_json: Whether to keep the outcomes for `print_json`.
        path: The CSV file to write the outcomes to, or None.
        recipients: The recipients list.

    Attributes:
        write_error: The error text if the CSV file or the JSON report is incomplete; otherwise "".

    Raises:
        UsageError: The CSV file cannot be written.
    """

    def __init__(self, as_json: bool, path: str | None, recipients: CheckedList) -> None:
        self.write_error = ""
        self._json_failed = self._csv_failed = False
        self._reasons: dict[tuple[str, str], tuple[int, list[str], str]] = {}
        self._path, self._recipients = path, recipients
        self._files = ExitStack()
        self._json = self._csv = None
        if as_json:
            self._json = self._files.enter_context(
                tempfile.SpooledTemporaryFile(  # noqa: SIM115  (`close` closes it)
                    _MAX_IN_MEMORY, "w+", encoding="utf-8", errors="surrogatepass"
                )
            )
        if path is not None:
            try:
                file = open_private(
                    path, "w", encoding="utf-8", errors="backslashreplace", newline=""
                )
            except OSError as error:
                raise UsageError(f"--not-accepted {path}: {error.strerror}") from None
            self._csv = csv.writer(self._files.enter_context(file))
            self._csv.writerow(header_of(recipients.names))

    def __enter__(self) -> "FailureList":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        try:
            self._files.close()
        except OSError as error:  # `close` writes buffered data
            self._set_write_error(f"--not-accepted {self._path}" if self._path else "", error)

    def add(self, row: RowName, outcome: Outcome) -> None:
        """Add an outcome other than ACCEPTED.

        The reports show the tag of the row instead of the outcome's own tag.
        """
        self._count_reason(row, outcome)
        if self._json is not None and not self._json_failed:
            try:
                self._json.write(", " if self._json.tell() else "")
                self._json.write(display.as_json(_outcome_as_dict(row, outcome)))
            except OSError as error:
                self._json_failed = True
                self._set_write_error("", error)
        if self._csv is not None:
            self._write_line(self._recipients.cells_at(row.place), _failures(outcome))

    def add_unread(self, skipped: int, reason: str) -> None:
        """Write the rows that were not read to the CSV file.

        Args:
            skipped: The number of rows that were read.
            reason: The reason.
        """
        if self._csv is not None:
            for cells in self._recipients.cells(skipped):
                self._write_line(cells, [(Status.NOT_ATTEMPTED.value, None, None, None, reason)])

    def _write_line(self, cells: list[str], failures: Sequence[Sequence[object]]) -> None:
        if self._csv is not None and not self._csv_failed:
            try:
                self._csv.writerow([*cells, *joined_cells(failures)])
            except OSError as error:
                self._csv_failed = True
                self._set_write_error(f"--not-accepted {self._path}", error)

    def print_table(self, title: str) -> None:
        """Print the reasons, the most frequent first."""
        ordered = sorted(self._reasons.items(), key=lambda item: -item[1][0])
        rows = [
            [": ".join(filter(None, (key[0], text))), f"{count}", _examples_text(names)]
            for key, (count, names, text) in ordered[:_MAX_REASONS]
        ]
        display.table(title, ["reason", "messages", "rows"], rows)
        if len(ordered) > _MAX_REASONS:
            more = len(ordered) - _MAX_REASONS
            display.show(f"and {more} more reasons; use --not-accepted FILE.csv to get all of them")

    def print_json(self, head: dict[str, object], name: str) -> None:
        """Print a JSON object whose last value is the list of outcomes.

        Args:
            head: The values before the list.
            name: The key of the list.
        """
        source = self._json
        assert source is not None
        display.show(display.as_json(head).removesuffix("}"), end=f', "{name}": [')
        if self._json_failed:
            display.show("]}")
            return
        source.seek(0)
        for part in iter(lambda: source.read(65536), ""):
            display.show(part, end="")
        display.show("]}")

    def print_write_error(self) -> None:
        """Print `write_error` to stderr if a report is incomplete."""
        if self.write_error:
            display.notice(self.write_error)

    def _count_reason(self, row: RowName, outcome: Outcome) -> None:
        text = outcome_reason(outcome)
        is_reply = any(result.code for result in outcome.recipients.values())
        grouped = grouped_reason(text) if is_reply else text
        key = (outcome.status.value, grouped)
        if key not in self._reasons and len(self._reasons) >= _MAX_KNOWN_REASONS:
            key = _OTHER
        count, names, first = self._reasons.get(key, (0, [], text))
        if len(names) <= _MAX_EXAMPLES:
            unit = self._recipients.unit
            names.append(f"{unit} {row.line}" if row.tag is None else row.tag)
        # The group has the text of its messages only if their texts are equal.
        self._reasons[key] = (count + 1, names, first if first == text else key[1])

    def _set_write_error(self, file: str, error: OSError) -> None:
        # The error is stored and not raised, so that the sending continues. After an error in one
        # of the two reports (the CSV file and the JSON report), the other report is still written.
        self.write_error = f"{file or _JSON_LIST} is incomplete: {error.strerror}"


def grouped_reason(reason: str) -> str:
    """Return a reply of a relay without the parts that differ between messages.

    Many relays write an address, a queue id or a session id into their replies.
    """
    return _UNIQUE.sub(_DIFFERENT, reason)


def _examples_text(names: list[str]) -> str:
    more = ", \N{HORIZONTAL ELLIPSIS}" if len(names) > _MAX_EXAMPLES else ""
    return ", ".join(names[:_MAX_EXAMPLES]) + more


def outcome_reason(outcome: Outcome) -> str:
    """Return the reason of an outcome. The words of a relay stay as they are."""
    return outcome.reason if outcome.reply else name_options(outcome.reason)


def _result_text(result: RecipientResult) -> str:
    """Return the text of a recipient's result. The words of a relay stay as they are."""
    return result.text if result.code else name_options(result.text)


def _failures(outcome: Outcome) -> list[tuple[object, ...]]:
    """Return the appended cells of each recipient that was not accepted.

    If an outcome has no such recipient, return the cells of the message.
    """
    return [
        (
            result.status.value,
            address,
            result.code,
            result.enhanced_status,
            _result_text(result) or outcome_reason(outcome),
        )
        for address, result in outcome.recipients.items()
        if result.status is not Status.ACCEPTED
    ] or [(outcome.status.value, None, None, None, outcome_reason(outcome))]


def _outcome_as_dict(row: RowName, outcome: Outcome) -> dict[str, Any]:
    return {
        **row.as_dict(),
        "status": outcome.status.name.lower(),
        "phase": outcome.phase,
        "attempts": outcome.attempts,
        "reason": outcome_reason(outcome),
        "recipients": {
            address: {
                "status": result.status.name.lower(),
                "code": result.code,
                "enhanced_status": result.enhanced_status,
                "text": _result_text(result),
            }
            for address, result in outcome.recipients.items()
        },
    }
