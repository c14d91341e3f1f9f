"""Dot-stuffing and repair of line ends: the bytes of a message after the 354 (RFC 5321 4.5.2).

First, every bare CR or LF becomes CRLF, because RFC 5321 2.3.8 forbids bare CR and LF. Some servers
accept a bare LF as a line end. Without the repair, such a server could find a terminator, and
commands after it, in the middle of a message (SMTP smuggling). Then a dot at the start of a line is
doubled, and the terminator CRLF.CRLF is added.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer as Buffer

LARGE = 1 << 20
"""The size, in bytes, from which a message is stuffed in parts."""

_LONE_DOT = b".\r\n"
_LINE_END = re.compile(rb"\r\n|\n|\r")


def repair(data: "Buffer") -> bytes:
    """Make every line end CRLF. A correct message is returned unchanged.

    Args:
        data: The message.

    Raises:
        TypeError: The message is not a buffer of bytes.
    """
    data = _to_bytes(data)
    if data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r"):
        return data
    return _LINE_END.sub(b"\r\n", data)


def stuff(data: "Buffer") -> tuple[bytes, int]:
    """Stuff a message.

    Args:
        data: The message.

    Returns:
        The bytes to send after the 354, with the terminator; and the value for the SIZE parameter.
        This value is the size of the repaired message before stuffing, in bytes (RFC 1870 section
        5).

    Raises:
        TypeError: The message is not a buffer of bytes.
    """
    message = repair(data)
    size = len(message)
    if b"\n." in message:
        message = message.replace(b"\n.", b"\n..")
    first = b"." if message.startswith(b".") else b""
    last = _LONE_DOT if message.endswith(b"\r\n") else b"\r\n" + _LONE_DOT
    return b"".join((first, message, last)), size


def stuffed_parts(message: bytes) -> "Iterator[tuple[bytes, int]]":
    """Stuff a message in parts, because a stuffed copy of a large message doubles the memory use.

    Args:
        message: The message.

    Yields:
        The bytes of the next part, and the number of bytes that this part adds to SIZE. The last
        part includes the terminator.
    """
    begin = 0
    while begin < len(message):
        # Each part ends with a line end, so its repair and stuffing do not depend on the next part.
        end = message.find(b"\n", begin + LARGE) + 1 or len(message)
        part, size = stuff(message[begin:end])
        yield part if end == len(message) else part[: -len(_LONE_DOT)], size
        begin = end


def _to_bytes(data: "Buffer") -> bytes:
    # Use memoryview(), because it raises TypeError if `data` is an int. bytes() would instead
    # return that number of zero bytes.
    return data if isinstance(data, bytes) else memoryview(data).tobytes()
