"""Stuffing: a message to what follows the 354 (RFC 5321 4.5.2), line ends repaired.

Every CR or LF that stands alone becomes CRLF first: a server that takes a bare LF for a line end
would otherwise find an end of data, and commands behind it, in the middle of a message (SMTP
smuggling). Then a dot at the start of a line is doubled, and CRLF dot CRLF ends it all.
"""

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")


def repair(data: bytes) -> bytes:
    """Make every line end CRLF; a message without fault comes back as it is.

    Args:
        data: the message.
    """
    if data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r"):
        return data
    return _LINE_END.sub(b"\r\n", data)


def stuff(data: bytes) -> tuple[bytes, int]:
    """Make a message ready for the wire.

    Args:
        data: the message.

    Returns:
        What is written after the 354, end of data included, and the size that SIZE declares: the
        octets of the repaired message before stuffing (RFC 1870).
    """
    message = repair(bytes(data))
    size = len(message)
    if b"\n." in message:
        message = message.replace(b"\n.", b"\n..")
    first = b"." if message.startswith(b".") else b""
    last = b".\r\n" if message.endswith(b"\r\n") else b"\r\n.\r\n"
    return b"".join((first, message, last)), size
