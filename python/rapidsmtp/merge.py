"""A template and its rows: messages for whoever iterates, drafts for a sender.

A draft is a row that was taken, and nothing was written yet. The compiled engine writes its
messages on threads of its own, without the interpreter.
"""

import email.utils
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

from rapidsmtp import _core
from rapidsmtp._encode import RowError
from rapidsmtp.message import Message
from rapidsmtp.outcome import Draft, Outcome, Status, message_of

if TYPE_CHECKING:
    from _typeshed import SupportsKeysAndGetItem

    from rapidsmtp import _plain

    Compiled: TypeAlias = _core.Template | _plain.Template

    # What `dict` takes and reads by `keys`: mappings, and a database's rows.
    Row: TypeAlias = SupportsKeysAndGetItem[str, Any]

Stamp: TypeAlias = tuple[str, str, int]


class Merge(Iterator[Message | Outcome]):
    """The messages of a template's rows, made as they are asked for.

    Args:
        template: The compiled template.
        rows: Mappings, or a database's rows that have keys, as `sqlite3.Row` has.
        tag: The field whose value becomes a message's tag.
    """

    def __init__(self, template: "Compiled", rows: "Iterable[Row]", tag: str | None) -> None:
        self._drafts = _of_rows(template, rows, tag)
        self._is_compiled = _core.implementation == "rust"

    @classmethod
    def of_lines(cls, lines: "_core.CsvLines") -> "Merge":
        """The same for lines that the compiled half reads."""
        merge = cls.__new__(cls)
        merge._drafts, merge._is_compiled = _of_lines(lines), True
        return merge

    def __next__(self) -> Message | Outcome:
        draft = next(self._drafts)
        if isinstance(draft, Outcome):
            return draft
        try:
            return message_of(draft)
        except Exception as error:  # see _of_rows
            return _invalid(draft.tag, error)

    def unwritten(self) -> "Iterator[Any]":
        """What an engine takes: drafts, or messages where it does not write them."""
        return self._drafts if self._is_compiled else self


def stamps() -> Iterator[Stamp]:
    """Date, the left part of Message-ID, and the time in seconds since 1970, for each message."""
    unique, second, date = secrets.token_hex(8), -1, ""
    for number in count():
        now = int(time.time())
        if now != second:
            second, date = now, email.utils.formatdate(now, localtime=True)
        yield date, f"{unique}.{number}", now


def mapping_of(row: "Row") -> Mapping[str, Any]:
    """A row as a mapping.

    Raises:
        ValueError: It is none, nor anything that has keys.
    """
    if isinstance(row, Mapping):
        return row
    if hasattr(row, "keys"):
        return dict(row)
    raise RowError(f"a row must be a mapping, not {type(row).__name__}")


def _of_rows(
    template: "Compiled", rows: "Iterable[Row]", tag: str | None
) -> "Iterator[Draft | Outcome]":
    for each, stamp in zip(rows, stamps(), strict=False):
        value = None
        try:
            row = mapping_of(each)
            if tag is not None:
                if tag not in row:
                    raise RowError(f"no field {tag!r}, which is the tag")
                value = row[tag]
            draft = template.draft(row, value, *stamp)
        except Exception as error:
            # The row's own objects are asked for their text, and may raise whatever they like: that
            # must not end the run for the others.
            yield _invalid(value, error)
        else:
            yield draft


def _of_lines(lines: "_core.CsvLines") -> "Iterator[Draft | Outcome]":
    for stamp in stamps():
        try:
            draft = lines.next(*stamp)
        except ValueError as error:
            yield _invalid(lines.tag, error)
            continue
        if draft is None:
            return
        yield draft


def _invalid(tag: Any, error: Exception) -> Outcome:
    reason = str(error)
    if not isinstance(error, ValueError):
        reason = " ".join(f"{type(error).__name__}: {reason}".split())
    return Outcome(tag, None, Status.INVALID, phase="build", reason=reason)
