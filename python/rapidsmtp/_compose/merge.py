"""Merge a template with rows: into messages for a caller, or pending messages for a sender.

A pending message is a row that is not rendered yet. The compiled engine renders pending messages in
its own threads, without the Python interpreter.
"""

import email.utils
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count, islice
from typing import TYPE_CHECKING, Any, TypeAlias

from rapidsmtp import _backend
from rapidsmtp._compose.encode import RowError
from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import Outcome, PendingMessage, Status, message_of
from rapidsmtp._models.stamp import Stamp

if TYPE_CHECKING:
    from _typeshed import SupportsKeysAndGetItem

    # An object with the method `keys`, which `dict` can convert: a mapping or a database row.
    Row: TypeAlias = SupportsKeysAndGetItem[str, Any]

# The value of Date, the Message-ID without "@" and domain, and the time in seconds since 1970.
StampValues: TypeAlias = tuple[str, str, int]


class Merge(Iterator[Message | Outcome]):
    """The messages of a template's rows, each rendered when it is requested.

    Args:
        template: The compiled template.
        rows: The rows: mappings, or database rows with the method `keys`, such as `sqlite3.Row`.
        tag: The field whose value becomes a message's tag.
        stamps: The stamps of the messages, or None for the current time and new Message-IDs.

    Attributes:
        duplicates: The number of rows of a recipients list with the address of an earlier row.
        excluded: The number of rows of a recipients list with an excluded address.
    """

    def __init__(
        self,
        template: "_backend.Template",
        rows: "Iterable[Row]",
        tag: str | None,
        stamps: Iterable[Stamp] | None = None,
    ) -> None:
        self.duplicates = self.excluded = 0
        values = new_stamps() if stamps is None else (stamp.values() for stamp in stamps)
        self._pending = _from_rows(template, rows, tag, values)

    def __next__(self) -> Message | Outcome:
        pending = next(self._pending)
        if isinstance(pending, Outcome):
            return pending
        try:
            return message_of(pending)
        except Exception as error:  # see _from_rows
            return _invalid(pending.tag, error)


class ListMerge(Merge):
    """The messages of the rows of a recipients list.

    Args:
        recipients: The rows that are sent.
        limit: The maximum number of rows, or None.
        check_unchanged: The method of the list that raises an `OSError` if its file was changed. It
            is kept, because the list may own a temporary file.
        duplicates: The number of rows with the address of an earlier row.
        excluded: The number of rows with an excluded address.

    Attributes:
        read: The number of rows that were read so far.
    """

    def __init__(
        self,
        recipients: "_backend.RecipientsList",
        limit: int | None,
        check_unchanged: Callable[[], None],
        duplicates: int,
        excluded: int,
    ) -> None:
        self.duplicates, self.excluded, self.read = duplicates, excluded, 0
        self._check_unchanged = check_unchanged
        self._pending = self._rows(recipients, limit)

    def _rows(
        self, recipients: "_backend.RecipientsList", limit: int | None
    ) -> "Iterator[PendingMessage]":
        self._check_unchanged()
        for stamp in islice(new_stamps(), limit):
            pending = recipients.next(*stamp)
            if pending is None:
                return
            self.read += 1
            yield pending


def merged_for_engine(merge: Merge) -> "Iterator[Any]":
    """Return pending messages if the engine renders them; otherwise return messages."""
    return merge._pending if _backend.engine_renders else merge


def new_stamps() -> Iterator[StampValues]:
    """Yield an endless series of stamps with the current time and unique Message-IDs."""
    unique, second, date = secrets.token_hex(8), -1, ""
    for number in count():
        now = int(time.time())
        if now != second:
            second, date = now, email.utils.formatdate(now, localtime=True)
        yield date, f"{unique}.{number}", now


def mapping_of(row: "Row") -> Mapping[str, Any]:
    """Return a row as a mapping.

    Raises:
        ValueError: The row is not a mapping and has no method `keys`.
    """
    if isinstance(row, Mapping):
        return row
    if hasattr(row, "keys"):
        return dict(row)
    raise RowError(f"a row must be a mapping, not {type(row).__name__}")


def _from_rows(
    template: "_backend.Template",
    rows: "Iterable[Row]",
    tag: str | None,
    stamps: Iterator[StampValues],
) -> "Iterator[PendingMessage | Outcome]":
    for each in rows:
        stamp = next(stamps, None)
        if stamp is None:
            raise ValueError("there are fewer stamps than rows")
        value = None
        try:
            row = mapping_of(each)
            if tag is not None:
                if tag not in row:
                    raise RowError(f"the tag field {tag!r} is missing")
                value = row[tag]
            pending = template.pending(row, value, *stamp)
        except Exception as error:
            # Conversion to text calls methods of the objects in the row, and these methods may
            # raise any exception. The exception must not prevent the merge of the other rows.
            yield _invalid(value, error)
        else:
            yield pending


def _invalid(tag: Any, error: Exception) -> Outcome:
    reason = str(error)
    if not isinstance(error, ValueError):
        reason = " ".join(f"{type(error).__name__}: {reason}".split())
    return Outcome(tag, None, Status.INVALID, phase="build", reason=reason)
