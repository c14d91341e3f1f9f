"""The parser of replies (RFC 5321 4.2). The parser accepts input that is split at any byte.

A reply is one or more lines `code SP text` with the same code. Every line except the last has a
hyphen instead of the space. The code may also be the whole line (RFC 5321 4.2). A reply that
breaks this grammar has the code -1, as an invalid code does in smtplib. The start of the next reply
is then unknown, so the reader stops.

A reply that exceeds a limit is an error, and the reader stops. The limits bound the memory that a
server can make the client use. Valid replies are far below the limits. RFC 5321 4.5.3.1.5 allows
512 octets in a line, and `MAX_LINE` is 8192, as in smtplib. The longest known replies are replies
to EHLO. They have about forty lines, far fewer than `MAX_LINES`.
"""

from collections.abc import Sequence

from rapidsmtp._models.reply import enhanced_status as enhanced_status
from rapidsmtp.errors import printable_reply

MAX_LINE = 8192
"""The maximum length of a line in bytes, with its line end. It is the limit of smtplib."""

MAX_LINES = 512
"""The maximum number of lines in a reply."""

MAX_REPLY = 65536
"""The maximum size of a reply, in bytes."""

LINE_TOO_LONG = "Line too long."
REPLY_TOO_LONG = "Reply too long."

MALFORMED = -1
"""The code of an invalid reply, as in smtplib."""

Reply = tuple[int, bytes]
"""The code (-1 for an invalid reply), and the text. The text is the texts of the lines, joined by
LF, as in smtplib."""

_CODES = {b"%03d" % code: code for code in range(1000)}
_SEPARATORS = (b" ", b"-", b"\t")
_WHITE_SPACE = b" \t\r\n"


def parse_line(line: bytes) -> Reply | None:
    """Parse a reply of a single line.

    Args:
        line: The line as the socket's file returned it. At the end of the stream the line end may
            be missing.

    Returns:
        The code (-1 if the line has no valid code) and the text without surrounding white space;
        None if a hyphen after the code shows that more lines follow (RFC 5321 4.2.1).
    """
    code = _code(line)
    if line[3:4] == b"-" and code != MALFORMED:
        return None
    return code, line[4:].strip(_WHITE_SPACE)


def parse_lines(lines: Sequence[bytes]) -> Reply:
    """Parse a reply of several lines.

    Args:
        lines: Two or more lines, as the socket's file returned them. All lines except the last have
            the same code and a hyphen.

    Returns:
        The code (-1 if the last line has another code, RFC 5321 4.2.1) and the text.
    """
    text = b"\n".join([line[4:].strip(_WHITE_SPACE) for line in lines])
    code = _code(lines[0])
    return code if _code(lines[-1]) == code else MALFORMED, text


def _code(line: bytes) -> int:
    """Return the code of a line, or -1.

    The fourth character is a space, a tab or a hyphen, or the line ends after the code. So `2500`
    and `250x` are no codes.
    """
    if line[3:4] in _SEPARATORS or not line[3:].strip(b"\r\n"):
        return _CODES.get(line[:3], MALFORMED)
    return MALFORMED


def reply_line(reply: Reply) -> str:
    """Return a reply with its code as one printable line."""
    code, text = reply
    return f"{code} {printable_reply(text)}".rstrip()


class ReplyReader:
    """A reader of replies. It receives the bytes of a stream in chunks of any size.

    Attributes:
        fault: The limit that a reply exceeded (`LINE_TOO_LONG`, `REPLY_TOO_LONG`), or None.
        broken: Whether the reader stopped after an invalid reply.
    """

    __slots__ = (
        "_code",
        "_max_line",
        "_partial",
        "_replies",
        "_size",
        "_texts",
        "_whole_invalid_lines",
        "broken",
        "fault",
    )

    def __init__(self, max_line: int = MAX_LINE, *, whole_invalid_lines: bool = False) -> None:
        """Create a reader for the beginning of a stream.

        Args:
            max_line: The maximum length of a line in bytes, with its line end.
            whole_invalid_lines: Whether the text of an invalid reply contains its last line from
                the first byte. Otherwise the text lacks the first four bytes, as in smtplib.
        """
        self._max_line = max_line
        self._whole_invalid_lines = whole_invalid_lines
        self.fault: str | None = None
        self.broken = False
        self._partial = bytearray()
        self._code: int | None = None
        self._texts: list[bytes] = []
        self._size = 0
        self._replies: list[Reply] = []

    def receive_data(self, data: bytes, awaited: int) -> int:
        """Read until the reader holds `awaited` complete replies.

        Args:
            data: The next bytes of the stream.
            awaited: The number of replies after which the method returns.

        Returns:
            The number of bytes used. Bytes remain unused only if the reader holds `awaited` replies
            or has stopped.
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
        """Handle the end of the stream. A last line without a line end is parsed, as in smtplib."""
        if self._partial and not self.broken and self.fault is None:
            line = bytes(self._partial)
            self._partial.clear()
            self._receive_line(line)

    def events(self) -> list[Reply]:
        """Remove and return all complete replies, oldest first."""
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
        code = _code(line)
        self._texts.append(line[4:].strip(_WHITE_SPACE))
        # RFC 5321 4.2.1: every line of a reply has the same code. Otherwise the reply is invalid.
        if code == MALFORMED or self._code not in (None, code):
            self.broken = True
            if self._whole_invalid_lines:
                self._texts[-1] = line.strip(_WHITE_SPACE)
            code = MALFORMED
        elif line[3:4] == b"-":
            self._code = code
            return
        self._replies.append((code, b"\n".join(self._texts)))
        self._code = None
        self._texts = []
        self._size = 0
