"""Replies: bytes to (code, text), resumable at any byte and bounded (RFC 5321 4.2).

A reply is one or more lines `code SP text`, all with the same code, every one but the last with
a hyphen in the place of the space. What breaks that grammar is told as code -1, as smtplib does
for a code that it cannot parse; after it the stream is out of step and the reader reads no more.

The limits bound what a server can make a client keep. RFC 5321 4.5.3.1.5 allows 512 octets for a
line; smtplib allows 8192, and the largest EHLO replies seen have some forty lines.
"""

import re
from collections.abc import Sequence

MAX_LINE = 8192
"""Octets in one line, its line end included: smtplib's own limit."""

MAX_LINES = 512
"""Lines in one reply."""

MAX_REPLY = 65536
"""Octets in one reply."""

LINE_TOO_LONG = "Line too long."
REPLY_TOO_LONG = "Reply too long."

MALFORMED = -1
"""The code that stands for a reply whose code cannot be read, as in smtplib."""

Reply = tuple[int, bytes]
"""A code, or -1, and the text: lines joined by LF, as smtplib gives them."""

_ENHANCED_STATUS = re.compile(rb"([245])\.(\d{1,3})\.(\d{1,3})(?![^ \n])")
_CODES = {b"%03d" % code: code for code in range(1000)}
_WHITE_SPACE = b" \t\r\n"


def parse_line(line: bytes) -> Reply | None:
    """Read a reply that is a single line.

    Args:
        line: the line as the socket's file gave it; its line end may be missing at end of file.

    Returns:
        The code (-1 where it is not three digits) and the text without the white space around
        it; None where the line says that more lines follow.
    """
    code = _CODES.get(line[:3], MALFORMED)
    if line[3:4] == b"-" and code != MALFORMED:
        return None
    return code, line[4:].strip(_WHITE_SPACE)


def parse_lines(lines: Sequence[bytes]) -> Reply:
    """Read a reply of several lines.

    Args:
        lines: two or more, as the socket's file gave them; all but the last say, with one code,
            that others follow.

    Returns:
        The code, -1 where the last line has another one, and the text.
    """
    text = b"\n".join([line[4:].strip(_WHITE_SPACE) for line in lines])
    code = lines[0][:3]
    return _CODES.get(code, MALFORMED) if lines[-1][:3] == code else MALFORMED, text


def enhanced_status(code: int, text: bytes) -> str | None:
    """The enhanced status code at the head of a reply's text (RFC 2034, RFC 3463).

    Args:
        code: the reply's code, whose first digit the enhanced code's class must repeat.
        text: the reply's text.

    Returns:
        Such as `"5.1.1"`; None where there is none.
    """
    match = _ENHANCED_STATUS.match(text)
    if match is None or int(match[1]) != code // 100:
        return None
    return match[0].decode("ascii")


class ReplyReader:
    """Reads replies out of bytes that come in chunks of any size.

    Attributes:
        fault: why the reader stopped at a limit (`LINE_TOO_LONG`, `REPLY_TOO_LONG`), or None.
        broken: whether a malformed reply was read, after which nothing can be trusted.
    """

    __slots__ = ("_code", "_max_line", "_partial", "_replies", "_size", "_texts", "broken", "fault")

    def __init__(self, max_line: int = MAX_LINE) -> None:
        """Begin between two replies.

        Args:
            max_line: octets in one line, its line end included.
        """
        self._max_line = max_line
        self.fault: str | None = None
        self.broken = False
        self._partial = bytearray()
        self._code = b""
        self._texts: list[bytes] = []
        self._size = 0
        self._replies: list[Reply] = []

    def receive_data(self, data: bytes, awaited: int) -> int:
        """Read on, until so many replies are complete.

        Args:
            data: the next bytes of the stream.
            awaited: the number of replies to stop after.

        Returns:
            How many octets of `data` were used: fewer than all only when `awaited` replies are
            complete or the reader has stopped for good.
        """
        position = 0
        while len(self._replies) < awaited and not self.broken and self.fault is None:
            end = data.find(b"\n", position) + 1
            if not end:
                self._partial += data[position:]
                if len(self._partial) > self._max_line:
                    self.fault = LINE_TOO_LONG
                return len(data)
            line = data[position:end]
            if self._partial:
                line = bytes(self._partial) + line
                self._partial.clear()
            position = end
            self._receive_line(line)
        return position

    def receive_eof(self) -> None:
        """The stream has ended: a last line without a line end counts as a line."""
        if self._partial and not self.broken and self.fault is None:
            line = bytes(self._partial)
            self._partial.clear()
            self._receive_line(line)

    def events(self) -> list[Reply]:
        """Take the replies that are complete, oldest first."""
        replies = self._replies
        self._replies = []
        return replies

    def _receive_line(self, line: bytes) -> None:
        self._size += len(line)
        if len(line) > self._max_line:
            self.fault = LINE_TOO_LONG
            return
        if self._size > MAX_REPLY or len(self._texts) == MAX_LINES:
            self.fault = REPLY_TOO_LONG
            return
        code = line[:3]
        self._texts.append(line[4:].strip(_WHITE_SPACE))
        if code not in _CODES or (self._code and code != self._code):
            self.broken = True
            self._finish(MALFORMED)
        elif line[3:4] == b"-":
            self._code = code
        else:
            self._finish(_CODES[code])

    def _finish(self, code: int) -> None:
        self._replies.append((code, b"\n".join(self._texts)))
        self._code = b""
        self._texts = []
        self._size = 0
