"""The rows of a chunk: their bytes in the journal, and the messages that they make.

The message of a row has the same bytes in every run. The template is in the journal. The Message-ID
consists of the campaign's id and the row's number. The Date and the time of the DKIM signature are
the stamp of the chunk.
"""

import csv
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from rapidsmtp._compose.pure_list import excluded_form
from rapidsmtp._compose.pure_list_chunks import addresses_in, key_of_addresses
from rapidsmtp._models.chunk import Chunk
from rapidsmtp.campaign.model import Columns, Lease

compared_form = excluded_form
"""Return the form of an address in which suppressed and settled addresses are compared."""

ID_FIELD = "_id"
"""The name of the template field that has the value `{campaign}.{row}`."""

# zlib level 1: level 6 would need three times the CPU time and save only 15 % of the bytes.
_LEVEL = 1


def compressed(text: bytes) -> bytes:
    """Compress the rows of a chunk, which are CSV or lines of JSON."""
    return zlib.compress(text, _LEVEL)


def json_lines_of(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return rows as lines of JSON, in UTF-8."""
    lines = [json.dumps(dict(row), ensure_ascii=False, default=str) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


class ChunkRows:
    """The rows of a chunk.

    Args:
        columns: How to read the rows.
        format: 'csv' or 'jsonl'.
        data: The compressed rows.
        first: The number of the first row.

    Attributes:
        first: The number of the first row.
        raw: The rows: lists of cells, or mappings.
    """

    def __init__(self, columns: Columns, format: str, data: bytes, first: int) -> None:
        self._columns = columns
        self.first = first
        text = zlib.decompress(data).decode("utf-8")
        if format == "csv":
            lines = io.StringIO(text, newline="")
            self.raw: list[Any] = list(csv.reader(lines, delimiter=columns.delimiter))
        else:
            self.raw = [json.loads(line) for line in text.split("\n") if line]
        self._is_csv = format == "csv"

    def __len__(self) -> int:
        return len(self.raw)

    def values(self, row: int) -> dict[str, Any]:
        """Return a row as a mapping from the list's column names to cells."""
        values = self.raw[row - self.first]
        if not self._is_csv:
            return {**dict.fromkeys(self._columns.names), **values}
        return {name: _cell(values, place) for place, name in enumerate(self._columns.names)}

    def key(self, row: int) -> str | None:
        """Return the text that identifies a row: its key or its addresses; None without them."""
        return key_of(self.raw[row - self.first], self._columns)

    def addresses(self, row: int) -> list[str]:
        """Return the addresses of a row's recipients, in the form in which they are compared."""
        return addresses_of(self.raw[row - self.first], self._columns)


def key_of(row: Any, columns: Columns) -> str | None:
    """Return the text that identifies a row: its key or its addresses; None without them."""
    if columns.key is not None:
        return _text(row, columns.key).strip() or None
    return key_of_addresses(_text(row, place) for place in columns.recipient)


def addresses_of(row: Any, columns: Columns) -> list[str]:
    """Return the addresses of a row's recipients, in the form in which they are compared."""
    return addresses_in(_text(row, place) for place in columns.recipient)


def engine_chunk(
    columns: Columns, format: str, data: bytes, lease: Lease, campaign_id: str
) -> Chunk:
    """Return a chunk for the engine.

    Args:
        columns: How to read the rows.
        format: 'csv' or 'jsonl'.
        data: The compressed rows.
        lease: The chunk's lease. Its `stamp_at` is the Date, and the time of the DKIM signature.
        campaign_id: The campaign's id.
    """
    seconds = lease.stamp_at // 1000
    return Chunk(
        data=zlib.decompress(data),
        format=format,
        name=f"chunk {lease.chunk} of the journal",
        count=lease.count,
        columns=columns.fields,
        width=len(columns.names),
        delimiter=columns.delimiter,
        first=lease.first,
        id_prefix=f"{campaign_id}.",
        id_field=ID_FIELD,
        # A fixed zone: the local zone may differ between the machines of a campaign.
        date=format_datetime(datetime.fromtimestamp(seconds, tz=UTC)),
        time=seconds,
    )


def _text(row: Any, place: int | str) -> str:
    if isinstance(place, int):
        return _cell(row, place)
    value = row.get(place)
    return "" if value is None else str(value)


def _cell(cells: Sequence[str], column: int) -> str:
    return cells[column] if column < len(cells) else ""
