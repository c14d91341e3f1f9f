"""The rows of a chunk that the engine may send, in the pure-Python backend.

The class has the interface of the compiled backend (`src/python/granted_rows.rs`) and gives the
same rows. This backend writes no progress file.
"""

import csv
import io
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

from rapidsmtp._compose.encode import RowError
from rapidsmtp._compose.list_file import csv_error
from rapidsmtp._models.chunk import Chunk


class RowMessage:
    """The message of a row, in the form that `Engine.submit` accepts.

    Attributes:
        tag: The number of the row.
        parts: The places of the recipients among those of the row; None: all recipients.
        recipients: The recipients.
        data: The content.
        mail_options: The ESMTP parameters of MAIL.
        rcpt_options: The ESMTP parameters of RCPT.
    """

    __slots__ = ("_error", "_sender", "data", "mail_options", "parts", "recipients", "tag")

    rcpt_options = ()

    def __init__(
        self,
        number: int,
        rendered: tuple[str, list[str], bytes, list[str]] | None,
        parts: Sequence[int] | None,
        error: str = "",
    ) -> None:
        sender, recipients, data, options = rendered or ("", [], b"", [])
        self.tag, self.parts = number, parts
        chosen = range(len(recipients)) if parts is None else parts
        self.recipients = [each for place, each in enumerate(recipients) if place in chosen]
        self.data, self.mail_options = data, options
        self._sender, self._error = sender, error
        if error:
            # A message that could not be built has no recipients, but has an outcome.
            self.recipients = [""]

    @property
    def sender(self) -> str:
        """The sender.

        Raises:
            ValueError: The row makes no message.
        """
        if self._error:
            raise RowError(self._error)
        return self._sender


class GrantedRows:
    """The rows of a chunk that the engine may send.

    Args:
        template: The compiled template.
        chunk: The chunk.
        progress: None.

    Attributes:
        messages: The messages that were rendered and not submitted.
    """

    def __init__(self, template: Any, chunk: Chunk, progress: None = None) -> None:
        self.messages: list[RowMessage] = []
        self._template = template
        self._chunk = chunk
        self._granted: deque[tuple[int, Sequence[int] | None]] = deque()
        self._next = 0
        self._rows: Iterator[Mapping[str, Any]] = iter(())
        self._restart()

    def grant(self, rows: Sequence[int], parts: Mapping[int, Sequence[int]] | None = None) -> None:
        """Let `Engine.submit_rows` submit these rows, after the rows of earlier calls.

        Args:
            rows: The numbers of the rows.
            parts: By row: the recipients to send to, for rows that are not sent to all of them.

        Raises:
            ValueError: A row is not in the chunk.
        """
        first, end = self._chunk.first, self._chunk.first + self._chunk.count
        for row in rows:
            if not first <= row < end:
                raise ValueError(
                    f"row {row} is not in the chunk, which has the rows {first} to {end - 1}"
                )
        self._granted.extend((row, (parts or {}).get(row)) for row in rows)

    @property
    def left(self) -> int:
        """The number of granted rows that were not submitted yet."""
        return len(self._granted) + len(self.messages)

    def withdraw(self) -> list[int]:
        """Remove the granted rows that were not submitted yet, and return their numbers."""
        rows = [each.tag for each in self.messages] + [row for row, _ in self._granted]
        self.messages, self._granted = [], deque()
        return rows

    def recipients(self, row: int) -> list[str] | None:
        """Return the recipients of a row, in order; None for a row that makes no message."""
        values = self._row(row - self._chunk.first, row)
        try:
            return self._rendered(row, values)[1]
        except ValueError:
            return None

    def render(self, number: int) -> None:
        """Render granted rows, until `messages` has this number of messages."""
        while self._granted and len(self.messages) < number:
            row, parts = self._granted[0]
            values = self._row(row - self._chunk.first, row)
            try:
                message = [RowMessage(row, self._rendered(row, values), parts)]
            except ValueError as error:
                message = [RowMessage(row, None, parts, str(error) or "the row makes no message")]
            # The two statements contain no call, so no signal handler runs between them, and an
            # interrupt neither loses nor doubles the row.
            self.messages += message
            del self._granted[0]

    def _rendered(
        self, row: int, values: Mapping[str, Any]
    ) -> tuple[str, list[str], bytes, list[str]]:
        chunk = self._chunk
        identifier = f"{chunk.id_prefix}{row}"
        if chunk.id_field is not None:
            values = {**values, chunk.id_field: identifier}
        result: tuple[str, list[str], bytes, list[str]] = self._template.render(
            values, chunk.date, identifier, chunk.time
        )
        return result

    def _row(self, place: int, number: int) -> Mapping[str, Any]:
        """Return the row at a place of the chunk.

        Raises:
            ValueError: The chunk is damaged.
        """
        if place < self._next:
            self._restart()
        # After an exception the iterator has ended, and with this value the next call restarts it.
        skipped, self._next = place - self._next, self._chunk.count + 1
        row = next(islice(self._rows, skipped, None), None)
        self._next = place + 1
        if row is None:
            raise ValueError(f"the chunk has no row {number}")
        return row

    def _restart(self) -> None:
        self._next = 0
        read = _records if self._chunk.format == "csv" else _objects
        self._rows = read(self._chunk)


def _records(chunk: Chunk) -> Iterator[Mapping[str, Any]]:
    text = io.StringIO(chunk.data.decode("utf-8"), newline="")
    reader = csv.reader(text, delimiter=chunk.delimiter, strict=True)
    for number in count(1):
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{chunk.name}, row {number}: {csv_error(error)}") from None
        if cells is None:
            return
        yield {
            name: cells[place] if place < len(cells) else ""
            for name, place in chunk.columns.items()
        }


def _objects(chunk: Chunk) -> Iterator[Mapping[str, Any]]:
    for line in chunk.data.splitlines():
        try:
            row: Mapping[str, Any] = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{chunk.name}: a row is not JSON: {error}") from None
        yield row
