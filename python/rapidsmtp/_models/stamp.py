"""The values of a message that are not in its row."""

import re
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

# RFC 5322 section 3.6.4, without quoted strings and domain literals.
_IDENTIFIER = re.compile(r"[\w!#$%&'*+./=?^`{|}~-]+(?:@[\w.-]+)?", re.ASCII)
# The last part of a Message-ID that no line has to be folded for.
_MAX_LENGTH = 250


@dataclass(frozen=True, slots=True)
class Stamp:
    """The Message-ID, the Date and the time of the DKIM signatures of one message.

    With the same template, row and stamp, every process gives the same bytes. A program that may
    have to send a message again, for example after a crash, stores the values of its stamp.

    Attributes:
        message_id: The Message-ID without its angle brackets. If it has no "@", the domain of the
            author follows: Sender, or From.
        time: The time of the Date field and of the DKIM signatures, with its time zone. Fractions
            of a second are ignored.

    Raises:
        ValueError: The Message-ID contains a character that is not allowed, or the time has no time
            zone or is before 1970.
    """

    message_id: str
    time: datetime

    def __post_init__(self) -> None:
        if not _IDENTIFIER.fullmatch(self.message_id) or len(self.message_id) > _MAX_LENGTH:
            raise ValueError(
                f"message_id {self.message_id!r} is not the content of a Message-ID, such as "
                "'campaign.17' or 'campaign.17@example.com'"
            )
        if self.time.utcoffset() is None:
            raise ValueError("the time of a stamp has no time zone; use datetime.now(timezone.utc)")
        if self.time.timestamp() < 0:
            raise ValueError(f"the time of a stamp is before 1970: {self.time}")

    def values(self) -> tuple[str, str, int]:
        """Return the value of Date, the Message-ID and the time in seconds since 1970."""
        return format_datetime(self.time), self.message_id, int(self.time.timestamp())


Stamp.__module__ = "rapidsmtp"
