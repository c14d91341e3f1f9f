"""A reply of a server (RFC 5321 section 4.2) as the public interfaces return it."""

import re
from typing import NamedTuple

_ENHANCED_STATUS = re.compile(rb"([245])\.(\d{1,3})\.(\d{1,3})(?![^ \n])")


def enhanced_status(code: int, text: bytes) -> str | None:
    """Return the enhanced status code at the start of a reply's text (RFC 2034, RFC 3463).

    Args:
        code: The code of the reply. Its first digit must be that of the enhanced status code.
        text: The text of the reply.

    Returns:
        The enhanced status code, for example `"5.1.1"`; None if the text begins with no such code.
    """
    match = _ENHANCED_STATUS.match(text)
    if match is None or int(match[1]) != code // 100:
        return None
    return match[0].decode("ascii")


class Reply(NamedTuple):
    """A server's reply, equal to smtplib's tuple (code, text).

    Attributes:
        code: The reply code (three digits). -1 means that the reply has no valid code.
        text: The text of the lines without the codes, joined by LF.
    """

    code: int
    text: bytes

    @property
    def message(self) -> str:
        """The text as a `str`. This is aiosmtplib's name."""
        return self.text if isinstance(self.text, str) else self.text.decode("utf-8", "replace")

    @property
    def enhanced_status(self) -> str | None:
        """The enhanced status code at the start of the text, such as `"2.1.5"` (RFC 3463)."""
        return enhanced_status(self.code, self.text)

    def __str__(self) -> str:
        return f"{self.code} {self.message}"


Reply.__module__ = "rapidsmtp"
