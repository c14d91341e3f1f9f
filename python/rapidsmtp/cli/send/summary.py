"""The report of `rapidsmtp send`: counts by status, and failures by reason."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType

from rapidsmtp._compose.recipients_list import CheckedList
from rapidsmtp._models.outcome import SENDER_STATUSES, Outcome, Status
from rapidsmtp.cli import display
from rapidsmtp.cli.send.failures import FailureList, RowName, skipped_rows


class Summary:
    """The counts and failures of a mailing. A `with` block closes the CSV file at its end.

    Args:
        relay: The relay's name.
        recipients: The recipients list.
        as_json: Whether the report is JSON. A JSON report contains each outcome other than
            ACCEPTED.
        not_accepted: The path of the CSV file for the outcomes other than ACCEPTED, or None.
        warnings: The warnings to include in a JSON report.

    Attributes:
        total: The number of rows of the mailing.
        counts: The number of messages with each status.
        dropped: The names of the header fields that the template has dropped.
        envelope_sender: The sender of the envelope that the template sets, or None.
        stopped: The reason why the sending ended early; "" if it did not end early.

    Raises:
        UsageError: The CSV file cannot be written.
    """

    def __init__(
        self,
        relay: str,
        recipients: CheckedList,
        as_json: bool,
        not_accepted: str | None,
        warnings: Sequence[str],
    ) -> None:
        self.total = recipients.total
        self.counts: Counter[Status] = Counter()
        self.dropped: tuple[str, ...] = ()
        self.envelope_sender: str | None = None
        self.stopped = ""
        self._relay = relay
        self._as_json = as_json
        self._warnings = warnings
        self._added = 0
        self._start = time.monotonic()
        self._skipped = skipped_rows(recipients)
        self._failures = FailureList(as_json, not_accepted, recipients)

    def __enter__(self) -> "Summary":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._failures.close()

    def start(self) -> None:
        """Start to measure the duration of the sending."""
        self._start = time.monotonic()

    @property
    def all_accepted(self) -> bool:
        """Whether every message was accepted and every report was written."""
        return self.counts[Status.ACCEPTED] == self.total and not self._failures.write_error

    def add(self, row: RowName, outcome: Outcome) -> None:
        """Add the outcome of a row's message."""
        self._added += 1
        self.counts[outcome.status] += 1
        if outcome.status is not Status.ACCEPTED:
            self._failures.add(row, outcome)

    def add_unread(self, read: int) -> None:
        """Add the unread rows to the CSV file if the sending ended before it read all rows.

        The counts are not changed here, because `print` adds these rows to the counts.

        Args:
            read: The number of rows that were read.
        """
        if self.stopped:
            self._failures.add_unread(read, self.stopped)

    def print(self, **values: object) -> None:
        """Print the report to stdout, and the reason for an early end to stderr.

        Args:
            values: Additional values of a JSON report, by key.
        """
        seconds = time.monotonic() - self._start
        self.counts[Status.NOT_ATTEMPTED] += self.total - self._added
        if self._as_json:
            self._print_json(seconds, values)
        else:
            self._print_tables(seconds)
        if self.stopped:
            display.notice(f"stopped: {self.stopped}")

    def print_write_error(self) -> None:
        """If a report is incomplete, print the reason to stderr."""
        self._failures.print_write_error()

    def _print_tables(self, seconds: float) -> None:
        rows = [[status.value, f"{self.counts[status]}"] for status in SENDER_STATUSES]
        rows = [row for row in rows if row[1] != "0" or row[0] == Status.ACCEPTED.value]
        rows += [[name, f"{count}"] for name, count in self._skipped.items() if count]
        rows.append(["seconds", f"{seconds:.2f}"])
        rows.append(["messages per second", f"{self._per_second(seconds):.0f}"])
        display.table(f"sent to {self._relay}", ["", ""], rows)
        show_template(self.dropped, self.envelope_sender)
        self._failures.print_table("not accepted")

    def _print_json(self, seconds: float, values: Mapping[str, object]) -> None:
        head = {
            "relay": self._relay,
            "messages": self.total,
            **{status.name.lower(): self.counts[status] for status in SENDER_STATUSES},
            **self._skipped,
            "seconds": round(seconds, 3),
            "messages_per_second": round(self._per_second(seconds), 1),
            "stopped": self.stopped or None,
            "dropped": list(self.dropped),
            "envelope_sender": self.envelope_sender,
            "warnings": list(self._warnings),
            **values,
        }
        self._failures.print_json(head, "not_accepted")

    def _per_second(self, seconds: float) -> float:
        return self.counts[Status.ACCEPTED] / seconds if seconds else 0.0


def show_template(dropped: Sequence[str], envelope_sender: str | None) -> None:
    """Print what the template has dropped and what it sets, one line each.

    Args:
        dropped: The names of the dropped header fields.
        envelope_sender: The sender of the envelope, or None.
    """
    if dropped:
        display.show(f"header fields of the earlier message, not sent: {', '.join(dropped)}")
    if envelope_sender is not None:
        display.show(f"envelope sender: {envelope_sender or '<>'}")
