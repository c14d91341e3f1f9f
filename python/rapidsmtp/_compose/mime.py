"""Split a message into its header fields and MIME parts, without changing a byte of them.

The package `email` is not used here, because its generator does not always give back the bytes that
its parser has read. A signature of a part would then be invalid.

The parser accepts what mail programs write and read. A header ends at an empty line, or at a line
that is no header field. A multipart whose boundary does not occur is a part without children.
"""

import binascii
import email.message
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from rapidsmtp._compose.charset import decode_text, text_of

_MAX_DEPTH = 50
"""The maximum depth of nested parts. Messages have few levels."""

TOO_DEEP = f"the message has nested parts with more than {_MAX_DEPTH} levels"

_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)?")
_NAME = re.compile(rb"([!-9;-~]+):")
_LINE_END = re.compile(rb"\r\n|\r|\n")
# RFC 2045 section 5.1. Real messages also have white space around the slash, comments, and other
# separators than a semicolon.
_TYPE = re.compile(r"\s*([^\s/;:()<>@,\\\"\[\]?=]+)\s*/\s*([^\s/;:()<>@,\\\"\[\]?=]+)")
_COMMENT = re.compile(r"\((?:[^()\\]|\\.)*\)", re.DOTALL)
_LEADING_COMMENT = re.compile(r"\s*" + _COMMENT.pattern, re.DOTALL)
_PARAMETER = re.compile(
    r"([^\s;,=()\"]+)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^;\"][^;]*)?)", re.DOTALL
)
# RFC 2231 sections 3 and 4: `name*`, `name*0`, `name*0*`.
_CONTINUED = re.compile(r"([^*]+)\*(?:([0-9]{1,4})\*?)?")
_FIRST_WORD = re.compile(r"[\w.-]+")


class ContentType(NamedTuple):
    """A parsed Content-Type.

    Attributes:
        maintype: The type, in lower case.
        subtype: The subtype, in lower case.
        parameters: The names in lower case and the decoded values. A name occurs once.
        plain: The names of the parameters that are not encoded (RFC 2231).
    """

    maintype: str
    subtype: str
    parameters: dict[str, str]
    plain: frozenset[str]

    def __str__(self) -> str:
        return f"{self.maintype}/{self.subtype}"


class Part:
    """A message or a part of a message.

    Attributes:
        fields: The names of the header fields and their raw values. Bytes that are not ASCII are
            surrogates, as in `email`.
        body: The bytes after the header.
        content_type: The parsed Content-Type.
        boundary: The boundary of a multipart, or None.
        children: The parts of a multipart, or the message in a message/rfc822. It is empty if the
            boundary does not occur.
        preamble: The bytes of a multipart before the first delimiter.
        epilogue: The bytes of a multipart after the last delimiter.
    """

    __slots__ = (
        "body", "boundary", "children", "content_type", "epilogue", "fields", "preamble",
    )  # fmt: skip

    def __init__(self, data: bytes, default: str = "text/plain", depth: int = 0) -> None:
        """Parse a part.

        Raises:
            ValueError: The nesting of the parts is too deep.
        """
        if depth > _MAX_DEPTH:
            raise ValueError(TOO_DEEP)
        self.fields, self.body = _split_header(data)
        self.content_type = parse_content_type(self.get("content-type"), default)
        self.children: list[Part] = []
        self.preamble = self.epilogue = b""
        self.boundary: str | None = None
        if self.content_type.maintype == "multipart":
            self._split(depth)
        elif self.content_type[:2] == ("message", "rfc822") and self.encoding in _IDENTITY:
            self.children = [Part(self.body, depth=depth + 1)]

    def get(self, name: str) -> str | None:
        """Return the raw value of the first field with this name in lower case, or None."""
        return next((value for each, value in self.fields if each.lower() == name), None)

    @property
    def encoding(self) -> str:
        """The Content-Transfer-Encoding, in lower case; "7bit" if there is none."""
        value = _COMMENT.sub("", self.get("content-transfer-encoding") or "")
        word = _FIRST_WORD.search(value)
        return word[0].lower() if word is not None else "7bit"

    @property
    def disposition(self) -> str:
        """The disposition, in lower case; "" if there is none."""
        word = _FIRST_WORD.search(_COMMENT.sub("", self.get("content-disposition") or ""))
        return word[0].lower() if word is not None else ""

    @property
    def file_name(self) -> str:
        """The name of the file in the part, or ""."""
        disposition, _ = _parameters(self.get("content-disposition") or "")
        return disposition.get("filename") or self.content_type.parameters.get("name", "")

    def decoded(self) -> bytes | None:
        """Return the body without its transfer encoding; None if the encoding is not known."""
        encoding = self.encoding
        if encoding in _IDENTITY:
            return self.body
        if encoding == "quoted-printable":
            return binascii.a2b_qp(self.body)
        if encoding == "base64":
            return _from_base64(self.body)
        if encoding in ("x-uuencode", "uuencode", "x-uue", "uue"):
            return _from_uuencode(self.body)
        return None

    def walk(self) -> "Iterator[Part]":
        """Yield the part and all parts below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def _split(self, depth: int) -> None:
        self.boundary = self.content_type.parameters.get("boundary")
        if not self.boundary:
            return
        delimiter = b"--" + self.boundary.encode("utf-8", "surrogateescape")
        starts, ends, closing = [], [], None
        for place, end, closes in _delimiters(self.body, delimiter):
            ends.append(place)
            if closes:
                closing = end
                break
            starts.append(end)
        if not starts:
            return
        self.preamble = self.body[: ends[0]]
        self.epilogue = b"" if closing is None else self.body[closing:]
        if closing is None:
            ends.append(len(self.body))
        digest = self.content_type.subtype == "digest"
        default = "message/rfc822" if digest else "text/plain"
        self.children = [
            Part(self.body[start:end], default, depth + 1)
            for start, end in zip(starts, ends[1:], strict=True)
            if start <= end  # no part is between two adjacent delimiters
        ]


_IDENTITY = frozenset(("7bit", "8bit", "binary"))


def parse(data: bytes) -> Part:
    """Parse a message. A byte order mark and a line of an mbox file before it are skipped.

    Raises:
        ValueError: The data does not begin with header fields, or the nesting is too deep.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data.startswith(b"From "):
        line = _LINE.match(data)
        data = data[line.end() :] if line is not None else data
    message = Part(data)
    if not message.fields:
        raise ValueError("not a message: it does not begin with header fields")
    return message


def check_depth(message: "email.message.Message[Any, Any]") -> None:
    """Check the depth of the nested parts of an email.message object, without a recursion.

    Raises:
        ValueError: The nesting of the parts is too deep.
    """
    level: list[Any] = [message]
    for _ in range(_MAX_DEPTH):
        inner = (part.get_payload() for part in level if part.is_multipart())
        # The keys remove duplicates, because a message may contain the same part several times.
        children = {id(child): child for payload in inner for child in payload}
        level = [each for each in children.values() if isinstance(each, email.message.Message)]
    if level:
        raise ValueError(TOO_DEEP)


def parse_content_type(value: str | None, default: str = "text/plain") -> ContentType:
    """Parse a Content-Type as leniently as mail readers do.

    A value that is no type counts as text/plain (RFC 2045 section 5.2).

    Args:
        value: The raw value, or None.
        default: The type of a part without this field.
    """
    if value is None:
        maintype, _, subtype = default.partition("/")
        return ContentType(maintype, subtype, {}, frozenset())
    value = _without_leading_comments(value)
    match = _TYPE.match(value)
    maintype, subtype = match.groups() if match is not None else ("text", "plain")
    rest = value[match.end() :] if match is not None else value.partition(";")[2]
    parameters, plain = _parameters(rest)
    return ContentType(maintype.lower(), subtype.lower(), parameters, plain)


def _split_header(data: bytes) -> tuple[list[tuple[str, str]], bytes]:
    fields: list[tuple[str, list[bytes]]] = []
    place = 0
    while place < len(data):
        line = _LINE.match(data, place)
        assert line is not None
        name = _NAME.match(data, place, line.end())
        text = line[0]
        if name is not None:
            fields.append((name[1].decode("ascii"), [data[name.end() : line.end()]]))
        elif text[:1] in (b" ", b"\t") and fields:
            fields[-1][1].append(text)
        else:
            if not text.strip(b"\r\n"):
                place = line.end()
            break
        place = line.end()
    return [(name, _value(lines)) for name, lines in fields], data[place:]


def _value(lines: Sequence[bytes]) -> str:
    value = b"".join(lines).rstrip(b"\r\n")
    return value.decode("ascii", "surrogateescape").lstrip(" \t")


def _delimiters(body: bytes, delimiter: bytes) -> Iterator[tuple[int, int, bool]]:
    """Yield the delimiters of a multipart (RFC 2046 section 5.1.1).

    A delimiter is a whole line. The line end before it belongs to it.

    Yields:
        The start of the delimiter, its end, and whether it closes the multipart.
    """
    place = body.find(delimiter)
    while place >= 0:
        after = place + len(delimiter)
        if place == 0 or body[place - 1 : place] in (b"\r", b"\n"):
            closes = body.startswith(b"--", after)
            line = _LINE.match(body, after)
            assert line is not None
            if not body[after + 2 * closes : line.end()].strip(b" \t\r\n"):
                ended = body[max(place - 2, 0) : place] == b"\r\n"
                yield max(place - 1 - ended, 0), line.end(), closes
                if closes:
                    return
        place = body.find(delimiter, after)


def _parameters(text: str) -> tuple[dict[str, str], frozenset[str]]:
    """Return the decoded parameters of a field, and the names of those that are not encoded."""
    found: list[tuple[str, str]] = []
    plain = set()
    for match in _PARAMETER.finditer(text):
        name, quoted, bare = match.groups()
        if quoted is not None:
            value = re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        else:
            value = _COMMENT.sub("", bare or "").strip()
            if name.lower() in ("charset", "boundary"):
                value = value.partition(",")[0].strip()
        value = re.sub(r"\r\n|\r|\n", "", text_of(value) if name.lower() != "boundary" else value)
        found.append((name.lower(), value))
        if "*" not in name:
            plain.add(name.lower())
    return _joined(found), frozenset(plain)


def _joined(found: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Decode the values of RFC 2231, and join those with several parts. The first name counts."""
    parameters: dict[str, str] = {}
    pieces: dict[str, list[tuple[int, bool, str]]] = {}
    for name, value in found:
        match = _CONTINUED.fullmatch(name)
        if match is None:
            parameters.setdefault(name, value)
        else:
            is_encoded = name.endswith("*")
            pieces.setdefault(match[1], []).append((int(match[2] or 0), is_encoded, value))
    for name, parts in pieces.items():
        parts.sort(key=lambda part: part[0])
        charset = "utf-8"
        if parts[0][1]:
            charset, _, rest = parts[0][2].partition("'")
            parts[0] = (0, True, rest.partition("'")[2])
        data = b"".join(
            unquote_to_bytes(value) if is_encoded else value.encode("utf-8", "surrogateescape")
            for _, is_encoded, value in parts
        )
        try:
            text, _ = decode_text(data, charset or None)
        except ValueError:
            text = data.decode("utf-8", "replace")
        parameters.setdefault(name, text)
    return parameters


def _without_leading_comments(value: str) -> str:
    place = 0
    while match := _LEADING_COMMENT.match(value, place):
        place = match.end()
    return value[place:]


def _from_base64(body: bytes) -> bytes | None:
    try:
        return binascii.a2b_base64(body)
    except binascii.Error:
        pass
    bare = re.sub(rb"[^A-Za-z0-9+/]", b"", body)
    try:
        return binascii.a2b_base64(bare + b"=" * (-len(bare) % 4))
    except binascii.Error:
        return None


def _from_uuencode(body: bytes) -> bytes | None:
    lines = iter(body.splitlines())
    if not any(line.startswith(b"begin ") for line in lines):
        return None
    decoded: list[bytes] = []
    for line in lines:
        if line.strip() == b"end":
            return b"".join(decoded)
        try:
            decoded.append(binascii.a2b_uu(line))
        except binascii.Error:
            return None
    return None
