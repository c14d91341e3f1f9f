"""Write a template as a message file with its merge fields. The result depends on nothing else."""

import base64
import re
from collections.abc import Iterable

from rapidsmtp._compose.attachment import attachment_data
from rapidsmtp._compose.encode import FIELD_END, FIELD_START, TOKEN_HEADERS
from rapidsmtp._compose.parts import LITERAL, LiteralFile, crlf
from rapidsmtp._compose.text_part import BodyPart, FilePart, TextPart

# Decoded text of encoded words, which is never syntax; or the start of an encoded word.
_LITERAL = re.compile(f"{FIELD_START}([^{FIELD_END}]*){FIELD_END}|=[?]")
# The number of characters in an encoded word. It has at most 75 bytes (RFC 2047 section 2).
_WORD = 10


def source_of_header(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the header fields in UTF-8.

    Args:
        headers: The names and decoded values.
    """
    lines = []
    for name, value in headers:
        text = value if name.lower() in TOKEN_HEADERS else _LITERAL.sub(_encoded, value)
        # A line break inside a field of Jinja2 has the meaning of a space.
        text = " ".join(text.splitlines())
        lines.append(f"{name}: {text}\r\n".encode("utf-8", "surrogateescape"))
    return b"".join(lines)


def _encoded(match: re.Match[str]) -> str:
    text = match[0] if match[1] is None else match[1]
    pieces = (text[start : start + _WORD] for start in range(0, len(text), _WORD))
    words = (base64.b64encode(piece.encode("utf-8", "surrogateescape")) for piece in pieces)
    return " ".join(f"=?utf-8?b?{word.decode('ascii')}?=" for word in words)


def source_of_body(parts: Iterable[BodyPart]) -> bytes:
    """Return the MIME fields and the body."""
    written = [b"MIME-Version: 1.0\r\n"]
    for part in parts:
        if isinstance(part, LiteralFile):
            written.append(f"{LITERAL}: yes\r\n".encode("ascii"))
        if isinstance(part, FilePart):
            written.append(_file(part))
        else:
            written.append(part if isinstance(part, bytes) else _text(part))
    return b"".join(written)


def _file(part: FilePart) -> bytes:
    kind = f"Content-Type: {part.content_type}\r\n" if part.content_type else ""
    return kind.encode("ascii") + attachment_data(part.path)


def _text(part: TextPart) -> bytes:
    body, encoding = crlf(part.source.encode("utf-8", "surrogatepass")), "8bit"
    if b"\0" in body or any(boundary in body for boundary in part.boundaries):
        body, encoding = base64.encodebytes(body).replace(b"\n", b"\r\n"), "base64"
    head = f"Content-Type: {part.content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode("ascii") + body
