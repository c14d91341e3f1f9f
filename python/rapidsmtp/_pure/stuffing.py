"""Stuffing: a message to what follows the 354 (RFC 5321 4.5.2), line ends repaired.

Every CR or LF that stands alone becomes CRLF first: a server that takes a bare LF for a line end
would otherwise find an end of data, and commands behind it, in the middle of a message (SMTP
smuggling). Then a dot at the start of a line is doubled, and CRLF dot CRLF ends it all.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer as Buffer

LARGE = 1 << 20
"""Octets from which on a message is made ready by pieces."""

_LONE_DOT = b".\r\n"
_LINE_END = re.compile(rb"\r\n|\n|\r")


def repair(data: "Buffer") -> bytes:
    """Make every line end CRLF; a message without fault comes back as it is.

    Args:
        data: the message.

    Raises:
        TypeError: it is not a buffer of octets.
    """
    data = _octets(data)
    if data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r"):
        return data
    return _LINE_END.sub(b"\r\n", data)


def stuff(data: "Buffer") -> tuple[bytes, int]:
    """Make a message ready for the wire.

    Args:
        data: the message.

    Returns:
        What is written after the 354, end of data included, and the size that SIZE declares: the
        octets of the repaired message before stuffing (RFC 1870).

    Raises:
        TypeError: it is not a buffer of octets.
    """
    message = repair(data)
    size = len(message)
    if b"\n." in message:
        message = message.replace(b"\n.", b"\n..")
    first = b"." if message.startswith(b".") else b""
    last = _LONE_DOT if message.endswith(b"\r\n") else b"\r\n" + _LONE_DOT
    return b"".join((first, message, last)), size


def stuffed_pieces(message: bytes) -> "Iterator[tuple[bytes, int]]":
    """As `stuff`, some lines at a time: a copy of a large message would double its memory.

    Args:
        message: the message.

    Yields:
        What is written next, end of data behind the last, and the octets that it adds to SIZE.
    """
    begin = 0
    while begin < len(message):
        # Behind a line end nothing reaches into the next piece, and a dot begins a line.
        end = message.find(b"\n", begin + LARGE) + 1 or len(message)
        piece, size = stuff(message[begin:end])
        yield piece if end == len(message) else piece[: -len(_LONE_DOT)], size
        begin = end


def _octets(data: "Buffer") -> bytes:
    # bytes(data) alone would take a number for a length.
    return data if isinstance(data, bytes) else memoryview(data).tobytes()
