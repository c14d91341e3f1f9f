"""Split a message into constant bytes and texts with merge fields.

Attachments, inline images and boundaries are encoded once, when the template is created. The
compiled backend compiles the texts in `src/message/template.rs`, the pure-Python backend in
`pure_template`.
"""

import base64
import copy
import email
import email.generator
import email.message
import email.policy
import email.utils
import io
import mimetypes
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rapidsmtp._compose.encode import (
    MAXIMUM_LINE,
    PREFERRED_LINE,
    encode_parameter,
    has_control,
)

# The types of parts that must not change, because they are signed or encrypted.
_SEALED = frozenset(("multipart/signed", "multipart/encrypted"))
_ESCAPED = frozenset(("text/html", "text/x-amp-html", "text/xml", "text/xhtml"))
_FIELD_IN_PART = (
    "header {} of a part: merge fields are allowed in texts and in the message's own header only"
)
# The fields of a text part that are not copied, because they are written again for each row.
_ENCODED_ANEW = frozenset(("content-type", "content-transfer-encoding", "mime-version"))

# A character that Python uses for a byte of a file name that is not valid in UTF-8.
_SURROGATE = re.compile("[\ud800-\udfff]")
# RFC 2392 section 2: a name in `cid:name` is the content of a Content-ID.
_CONTENT_ID = re.compile("[!-;=?-~]+")

if TYPE_CHECKING:
    # `Message` is subscriptable only for type checkers.
    Parsed = email.message.Message[str, str]


_MAX_DEPTH = 50
"""The maximum depth of nested parts. `email` recurses for each level. Messages have few levels."""

TOO_DEEP = f"the message has nested parts with more than {_MAX_DEPTH} levels"


class TextPart(NamedTuple):
    """A text part. Its MIME fields and its body are written again for each row.

    Attributes:
        content_type: The value of the field Content-Type.
        source: The text, in Jinja2's syntax.
        kind: The kind of text: "text", or "html", in which merge fields are escaped.
        place: The name of the part in error messages.
        boundaries: The delimiters of the enclosing multiparts. A delimiter is two dashes and a
            boundary.
    """

    content_type: str
    source: str
    kind: str
    place: str
    boundaries: tuple[bytes, ...]


class BodyParts:
    """The parts of a message after its own header fields: MIME fields, empty line and body."""

    def __init__(self) -> None:
        self.parts: list[bytes | TextPart] = []

    @classmethod
    def from_parsed(cls, message: "Parsed") -> "BodyParts":
        """Split a parsed message.

        Raises:
            ValueError: A text is not in its charset, or a header field of a part contains a merge
                field.
        """
        body = cls()
        body._add_parsed(message, ())
        return body

    def add_text(
        self, source: str, subtype: str, boundaries: tuple[bytes, ...] = (), parameters: str = ""
    ) -> None:
        """Add a text part."""
        kind = "html" if f"text/{subtype}" in _ESCAPED else "text"
        content_type = f'text/{subtype}; charset="utf-8"{parameters}'
        place = f"text/{subtype} part"
        self.parts.append(TextPart(content_type, source, kind, place, boundaries))

    def add_file(
        self, path: Path, boundaries: tuple[bytes, ...], inline_name: str | None = None
    ) -> None:
        """Add a file in base64: an attachment, or the image `cid:inline_name` of the HTML.

        Raises:
            ValueError: The name of the file or of the image cannot be written.
            OSError: The file cannot be read.
        """
        _check_names(path.name, inline_name)
        guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        maintype, _, subtype = guessed.partition("/")
        if maintype in ("message", "multipart"):
            # RFC 2046 section 5.2.1: a message must not be encoded in base64. Without base64, its
            # lines may be too long for the relay. So a file of this type is attached as unknown
            # binary data.
            maintype, subtype = "application", "octet-stream"
        fields = [
            f"Content-Type: {maintype}/{subtype}",
            "Content-Transfer-Encoding: base64",
            _disposition("attachment" if inline_name is None else "inline", path.name),
        ]
        if inline_name is not None:
            fields.append(f"Content-ID: <{inline_name}>")
        content = base64.encodebytes(path.read_bytes()).replace(b"\n", b"\r\n")
        self._add_bytes("\r\n".join([*fields, "", ""]).encode("ascii") + content)

    def open_multipart(self, subtype: str, boundaries: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Start a multipart. Its boundary contains "=_", which encoded text never contains."""
        boundary = f"=_{secrets.token_hex(12)}"
        self._add_bytes(f'Content-Type: multipart/{subtype}; boundary="{boundary}"\r\n'.encode())
        return (*boundaries, b"--" + boundary.encode())

    def open_part(self, boundaries: tuple[bytes, ...]) -> None:
        """Write the delimiter before the next part.

        Before the first part, the CRLF of the delimiter also ends the header of the multipart.
        """
        self._add_bytes(b"\r\n" + boundaries[-1] + b"\r\n")

    def close_multipart(self, boundaries: tuple[bytes, ...]) -> None:
        """Write the closing delimiter."""
        self._add_bytes(b"\r\n" + boundaries[-1] + b"--\r\n")

    def _add_bytes(self, data: bytes) -> None:
        if self.parts and isinstance(self.parts[-1], bytes):
            self.parts[-1] += data
        else:
            self.parts.append(data)

    def _add_parsed(self, part: "Parsed", boundaries: tuple[bytes, ...]) -> None:
        content_type = part.get_content_type()
        if part.is_multipart() and content_type not in _SEALED and _kind(part) == "multipart":
            self._add_multipart(part, boundaries)
        elif _kind(part) == "text" and part.get_content_disposition() != "attachment":
            self._add_header(part, skip=_ENCODED_ANEW)
            subtype = part.get_content_subtype()
            self.add_text(_decoded_text(part), subtype, boundaries, _text_parameters(part))
        else:
            self._add_sealed(part)

    def _add_multipart(self, part: "Parsed", boundaries: tuple[bytes, ...]) -> None:
        self._add_header(part, skip=frozenset(("mime-version",)))
        boundary = part.get_boundary()
        if boundary is None:
            raise ValueError(f"a {part.get_content_type()} part has no boundary")
        inner = (*boundaries, b"--" + boundary.encode("ascii"))
        if part.preamble:
            self._add_bytes(b"\r\n" + _crlf(part.preamble).removesuffix(b"\r\n"))
        for child in part.get_payload():
            self.open_part(inner)
            assert isinstance(child, email.message.Message)
            self._add_parsed(child, inner)
        self.close_multipart(inner)
        self._add_bytes(_crlf(part.epilogue or ""))

    def _add_header(self, part: "Parsed", skip: frozenset[str]) -> None:
        for name, value in part.raw_items():
            if not name.lower().startswith("content-") or name.lower() in skip:
                continue
            if has_syntax(value):
                raise ValueError(_FIELD_IN_PART.format(name))
            self._add_bytes(_crlf(f"{name}: {value}\n"))

    def _add_sealed(self, part: "Parsed") -> None:
        """Add a part unchanged, or in base64 if it is not ASCII or has a line that is too long."""
        # `content` is a copy of the part and not a new part, because a new part with the text of
        # `get_payload` would lose non-ASCII bytes.
        content = copy.copy(part)
        for name in list(part):
            if not name.lower().startswith("content-"):
                del content[name]
            elif has_syntax(str(part[name])):
                raise ValueError(_FIELD_IN_PART.format(name))
        data = _generate(content)
        leaf = not part.is_multipart()
        if leaf and (not data.isascii() or max(map(len, data.split(b"\r\n"))) > MAXIMUM_LINE):
            payload = part.get_payload(decode=True)
            assert isinstance(payload, bytes)
            del content["Content-Transfer-Encoding"]
            content["Content-Transfer-Encoding"] = "base64"
            content.set_payload(base64.encodebytes(payload).decode("ascii"))
            data = _generate(content)
        self._add_bytes(data)


def parse(data: bytes) -> "Parsed":
    """Parse a message with the policy `compat32`.

    Raises:
        ValueError: The nesting of the parts is too deep.
    """
    try:
        message = email.message_from_bytes(data, policy=email.policy.compat32)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    check_depth(message)
    return message


def check_depth(message: "email.message.Message[Any, Any]") -> None:
    """Check the depth of the nested parts, without a recursion.

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


def _check_names(file_name: str, inline_name: str | None) -> None:
    if has_control(file_name) or _SURROGATE.search(file_name):
        raise ValueError(
            f"file {file_name!r}: the name has a line break, a control character or an invalid "
            "character; rename the file"
        )
    if inline_name is not None and not _CONTENT_ID.fullmatch(inline_name):
        raise ValueError(
            f"inline image {inline_name!r}: the name becomes a Content-ID, so it must be ASCII "
            "without spaces, '<' and '>'"
        )


def _disposition(kind: str, file_name: str) -> str:
    head, parameter = f"Content-Disposition: {kind};", encode_parameter("filename", file_name)
    fits = len(head) + 1 + len(parameter) <= PREFERRED_LINE
    return head + (" " if fits else "\r\n ") + parameter


def has_syntax(text: str) -> bool:
    """Return whether a text has Jinja2 syntax."""
    return "{{" in text or "{%" in text or "{#" in text


def _kind(part: "Parsed") -> str:
    return part.get_content_maintype()


def _crlf(text: str) -> bytes:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")
    return lines.encode("ascii", "surrogateescape")


def _generate(part: "Parsed") -> bytes:
    buffer = io.BytesIO()
    generator = email.generator.BytesGenerator(
        buffer, mangle_from_=False, maxheaderlen=0, policy=email.policy.compat32
    )
    generator.flatten(part, linesep="\r\n")
    return buffer.getvalue()


def _decoded_text(part: "Parsed") -> str:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    charset = part.get_content_charset() or "utf-8"
    try:
        # A text without a charset, or with us-ascii, is decoded as UTF-8. UTF-8 includes ASCII, and
        # hand-written messages without a charset are usually UTF-8.
        return payload.decode("utf-8" if charset == "us-ascii" else charset)
    except (LookupError, UnicodeDecodeError):
        raise ValueError(
            f"a {part.get_content_type()} part is not in its charset, {charset}"
        ) from None


def _text_parameters(part: "Parsed") -> str:
    """Return the parameters of Content-Type for a text, such as format=flowed (RFC 3676)."""
    parameters = part.get_params() or []
    return "".join(
        f"; {encode_parameter(name, email.utils.collapse_rfc2231_value(value))}"
        for name, value in parameters[1:]
        if name.lower() in ("format", "delsp", "reply-type", "method", "component")
    )
