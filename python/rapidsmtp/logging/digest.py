"""Log records that wait to be mailed, and the mail that is composed from them.

A program can log errors faster than a relay accepts mail. So the number and the total length of the
waiting records are limited to the capacity of one mail. Further records are dropped and counted,
and the next mail reports their number. The first records of a problem usually contain more
information than later records, so the newest records are dropped.
"""

import email.policy
import email.utils
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

from rapidsmtp._compose.convert import with_envelope
from rapidsmtp._compose.encode import encode_header
from rapidsmtp._compose.envelope import envelope
from rapidsmtp._models.message import Message

_MAX_SUBJECT = 200
"""The maximum length of a subject in characters: a few lines of 78 (RFC 5322 section 2.1.1)."""

_AUTO_SUBMITTED = "auto-generated"
"""The value of Auto-Submitted. It prevents vacation notices and the like (RFC 3834 section 5)."""

# With `7bit`, the content is ASCII and has short lines. A relay may refuse 8-bit content (RFC 6152)
# and lines above 998 bytes (RFC 5321 4.5.3.1.6).
_POLICY = email.policy.SMTP.clone(cte_type="7bit")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class FormattedRecord:
    """One formatted record.

    Attributes:
        subject: The subject of a mail that contains only this record.
        text: The text of the record, as the formatter returned it.
        level: The numeric level of the record.
        created: The time at which the record was logged, in seconds since the epoch.
    """

    subject: str
    text: str
    level: int
    created: float


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """The records of one mail.

    Attributes:
        records: The records, in the order in which they were logged.
        dropped: The number of further records, which were dropped because of the limits.
    """

    records: tuple[FormattedRecord, ...]
    dropped: int

    @property
    def total(self) -> int:
        """The number of all records, including dropped records."""
        return len(self.records) + self.dropped


class PendingRecords:
    """The records that wait for the next mail. The caller must hold a lock for each call.

    Args:
        max_records: The maximum number of records.
        max_characters: The maximum total length of the texts of the records, in characters. A
            single text above this length is shortened.
    """

    def __init__(self, max_records: int, max_characters: int) -> None:
        self._max_records = max_records
        self._max_characters = max_characters
        self._records: list[FormattedRecord] = []
        self._length = 0
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._records)

    def add(self, subject: str, text: str, level: int, created: float) -> None:
        """Add a record, or count it as dropped if it does not fit."""
        text = shortened(text, self._max_characters)
        self._append(FormattedRecord(subject, text, level, created))

    def take(self) -> RecordBatch | None:
        """Remove and return all records; None if there are none."""
        if not self._records:
            return None
        batch = RecordBatch(tuple(self._records), self._dropped)
        self.clear()
        return batch

    def put_back(self, batch: RecordBatch) -> None:
        """Put back the records of a failed mail, before the records that were added later."""
        newer, dropped = self._records, self._dropped + batch.dropped
        self.clear()
        self._dropped = dropped
        for record in (*batch.records, *newer):
            self._append(record)

    def clear(self) -> None:
        """Remove all records."""
        self._records, self._length, self._dropped = [], 0, 0

    def _append(self, record: FormattedRecord) -> None:
        length = self._length + len(record.text)
        if len(self._records) >= self._max_records or length > self._max_characters:
            self._dropped += 1
        else:
            self._records.append(record)
            self._length = length


def shortened(text: str, limit: int) -> str:
    """Return the text, without its middle if it has more than `limit` characters.

    The start and the end of a traceback contain the most important information.
    """
    if len(text) <= limit:
        return text
    note = f"\n[at least {len(text) - limit} characters are omitted here]\n"
    kept = max(0, limit - len(note)) // 2
    return text[:kept] + note + text[len(text) - kept :]


class _Subject(str):
    """A subject that `email` neither parses nor folds.

    `email` decodes encoded words in a text. A line break in the decoded text starts another header
    field in Python 3.11 and 3.12.
    """

    __slots__ = ()

    name = "Subject"

    def fold(self, *, policy: Any) -> str:
        """Return the header field."""
        return encode_header(self.name, self).decode("ascii")


def compose(batch: RecordBatch, sender: str, recipients: Iterable[str]) -> Message:
    """Compose the mail of a batch.

    Args:
        batch: The records. If the batch has several records, the mail begins with a heading.
        sender: The value of From.
        recipients: The addresses in To.

    Returns:
        The mail.

    Raises:
        ValueError: An address has a line break, or there is no address.
    """
    message = EmailMessage(policy=_POLICY)
    message["From"] = sender
    if not email.utils.parseaddr(sender)[1]:
        raise ValueError(f"fromaddr {sender!r} is not an address")
    to = ", ".join(recipients)
    if not to:  # Python 3.13 reads an empty To as one empty address.
        raise ValueError("a message needs at least one recipient")
    message["To"] = to
    message["Subject"] = _Subject(_subject(batch))
    message["Date"] = email.utils.localtime()
    message["Message-ID"] = email.utils.make_msgid(domain=_domain(sender))
    message["Auto-Submitted"] = _AUTO_SUBMITTED
    message.set_content(
        "\n\n".join([*_heading(batch), *(_body(each.text) for each in batch.records)])
    )
    return with_envelope(message, *envelope(message))


def _subject(batch: RecordBatch) -> str:
    gravest = max(batch.records, key=lambda record: record.level)
    # A line break in the subject could add header fields to the mail. So all white space becomes
    # single spaces.
    subject = " ".join(_CONTROLS.sub(" ", _encodable(gravest.subject)).split())
    if len(subject) > _MAX_SUBJECT:
        subject = f"{subject[:_MAX_SUBJECT]}…"
    return subject if batch.total == 1 else f"{subject} ({batch.total} records)".lstrip()


def _heading(batch: RecordBatch) -> list[str]:
    if batch.total == 1:
        return []
    first, last = (_clock(batch.records[place].created) for place in (0, -1))
    lines = [f"{batch.total} records, {first} to {last}"]
    if batch.dropped:
        lines.append(f"{batch.dropped} of them are omitted: they exceed the size of one mail")
    return ["\n".join(lines)]


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


def _body(text: str) -> str:
    lines = _encodable(text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub(lambda control: f"\\x{ord(control[0]):02x}", lines).rstrip("\n")


def _encodable(text: str) -> str:
    """Escape lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode()


def _domain(sender: str) -> str:
    """Return the sender's domain for Message-ID.

    Without a domain, `make_msgid` would look up the name of this host. This may take half a minute.
    """
    domain = email.utils.parseaddr(sender)[1].rpartition("@")[2]
    return domain if domain and domain.isascii() else "localhost"
