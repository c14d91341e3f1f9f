"""A chunk: consecutive rows of a campaign's frozen list, and what all of their messages share."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """The rows of a chunk.

    Attributes:
        data: The rows, in UTF-8.
        format: "csv": records without a header; "jsonl": an object in each line.
        name: The name of the chunk in error texts.
        count: The number of rows.
        columns: For "csv": the column of each field of the template, by name.
        width: For "csv": the number of columns.
        delimiter: For "csv": the delimiter between cells.
        first: The number of the first row in the list.
        id_prefix: The text before the row's number in its identifier. The identifier is the part
            of Message-ID before the "@".
        id_field: The field of the template whose value is the identifier, or None.
        date: The value of Date.
        time: The time of the DKIM signatures, in seconds since 1970.
    """

    data: bytes
    format: str
    name: str
    count: int
    columns: Mapping[str, int]
    width: int
    delimiter: str
    first: int
    id_prefix: str
    id_field: str | None
    date: str
    time: int
