"""Log records that wait to be mailed, and the mail that is made of them.

A program in trouble logs faster than anybody reads. What waits is bounded, by number and by
length, to what one mail may hold; what does not fit is counted, and the next mail says so. The
first records of a trouble tell more than those that follow, so it is the newest that are dropped.
"""

import email.policy
import email.utils
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import EmailMessage

# RFC 5322 section 2.1.1 recommends 78 characters a line; a subject longer than a few of them is
# no subject any more.
_LONGEST_SUBJECT = 200
# RFC 3834 section 5: no holiday note comes back.
_AUTO_SUBMITTED = "auto-generated"
# A relay need not take 8-bit content (RFC 6152), nor lines above 998 octets (RFC 5321).
_POLICY = email.policy.SMTP.clone(cte_type="7bit")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One record, formatted.

    Attributes:
        subject: The subject that a mail of it alone has.
        text: What the formatter made of it.
        level: Its level's number.
        created: When it was logged, in seconds since the epoch.
    """

    subject: str
    text: str
    level: int
    created: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes into one mail.

    Attributes:
        entries: The records, in their order.
        dropped: How many more there were.
    """

    entries: tuple[Entry, ...]
    dropped: int

    @property
    def total(self) -> int:
        """All records, those that are not in it included."""
        return len(self.entries) + self.dropped


class Backlog:
    """The records that wait; its user has the lock.

    Args:
        records: How many may wait.
        characters: How long their texts may be together; a longer text is cut.
    """

    def __init__(self, records: int, characters: int) -> None:
        self._records = records
        self._characters = characters
        self._entries: list[Entry] = []
        self._length = 0
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, subject: str, text: str, level: int, created: float) -> None:
        """Take a record, or count it where there is no room."""
        self._append(Entry(subject, shortened(text, self._characters), level, created))

    def take(self) -> Batch | None:
        """All that waits; None where nothing does."""
        if not self._entries:
            return None
        batch = Batch(tuple(self._entries), self._dropped)
        self.clear()
        return batch

    def put_back(self, batch: Batch) -> None:
        """What could not be mailed waits again, before what has come since."""
        newer, dropped = self._entries, self._dropped + batch.dropped
        self.clear()
        self._dropped = dropped
        for entry in (*batch.entries, *newer):
            self._append(entry)

    def clear(self) -> None:
        """Forget everything."""
        self._entries, self._length, self._dropped = [], 0, 0

    def _append(self, entry: Entry) -> None:
        length = self._length + len(entry.text)
        if len(self._entries) >= self._records or length > self._characters:
            self._dropped += 1
        else:
            self._entries.append(entry)
            self._length = length


def shortened(text: str, limit: int) -> str:
    """Cut the middle out of a text that is too long: a traceback's ends say most."""
    if len(text) <= limit:
        return text
    note = f"\n[{len(text) - limit} characters or more are left out here]\n"
    half = max(0, limit - len(note)) // 2
    return text[:half] + note + text[len(text) - half :]


def compose(batch: Batch, sender: str, recipients: Iterable[str]) -> EmailMessage:
    """Make the mail of a batch.

    Args:
        batch: The records. One alone is the whole text; several have a line above them.
        sender: The field From.
        recipients: The field To.

    Raises:
        ValueError: An address has a line break.
    """
    message = EmailMessage(policy=_POLICY)
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = _subject(batch)
    message["Date"] = email.utils.localtime()
    message["Message-ID"] = email.utils.make_msgid(domain=_domain(sender))
    message["Auto-Submitted"] = _AUTO_SUBMITTED
    message.set_content(
        "\n\n".join([*_heading(batch), *(_body(each.text) for each in batch.entries)])
    )
    return message


def _subject(batch: Batch) -> str:
    gravest = max(batch.entries, key=lambda entry: entry.level)
    # A header field is one line: whatever breaks one is a blank, so that no record adds fields.
    subject = " ".join(_CONTROLS.sub(" ", _encodable(gravest.subject)).split())
    if len(subject) > _LONGEST_SUBJECT:
        subject = f"{subject[:_LONGEST_SUBJECT]}…"
    return subject if batch.total == 1 else f"{subject} ({batch.total} records)".lstrip()


def _heading(batch: Batch) -> list[str]:
    if batch.total == 1:
        return []
    first, last = (_clock(batch.entries[place].created) for place in (0, -1))
    lines = [f"{batch.total} records, {first} to {last}"]
    if batch.dropped:
        lines.append(f"{batch.dropped} of them are not in here: there was no room left")
    return ["\n".join(lines)]


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


def _body(text: str) -> str:
    lines = _encodable(text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub(lambda control: f"\\x{ord(control[0]):02x}", lines).rstrip("\n")


def _encodable(text: str) -> str:
    """A text without lone surrogates, which UTF-8 does not have."""
    return text.encode("utf-8", "backslashreplace").decode()


def _domain(sender: str) -> str:
    """The right side of the Message-ID: asking for this host's own name can take half a minute."""
    domain = email.utils.parseaddr(sender)[1].rpartition("@")[2]
    return domain if domain and domain.isascii() else "localhost"
