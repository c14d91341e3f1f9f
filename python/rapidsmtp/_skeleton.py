"""A message taken apart into bytes that never change and texts that may.

Attachments, inline images and boundaries are encoded once, when the template is made. What the
texts are is for whoever compiles them: `src/message/template.rs`, or `_plain` without it.
"""

import base64
import copy
import email.generator
import email.message
import email.policy
import io
import mimetypes
import secrets
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rapidsmtp._encode import MAXIMUM_LINE

# A change inside of these would break what they are for: a signature, a seal, somebody's mail.
_SEALED = frozenset(("multipart/signed", "multipart/encrypted"))
_ESCAPED = frozenset(("text/html", "text/x-amp-html", "text/xml", "text/xhtml"))
_FIELD_IN_PART = "a part's header {}: fields belong in texts and in the message's own header"
_ENCODED_ANEW = frozenset(("content-type", "content-transfer-encoding", "mime-version"))

if TYPE_CHECKING:
    # Subscriptable for the type checker alone.
    Parsed = email.message.Message[str, str]


class TextPart(NamedTuple):
    """A text: the rest of its header and its body are written when it is rendered.

    Attributes:
        content_type: The value of its Content-Type.
        source: Jinja2's syntax.
        kind: "text", or "html" where fields are escaped.
        place: What errors call it.
        boundaries: Those of the multiparts around it, each with its two dashes.
    """

    content_type: str
    source: str
    kind: str
    place: str
    boundaries: tuple[bytes, ...]


class Skeleton:
    """What stands behind the message's own header fields: MIME fields, empty line, body."""

    def __init__(self) -> None:
        self.parts: list[bytes | TextPart] = []

    @classmethod
    def from_parsed(cls, message: "Parsed") -> "Skeleton":
        """Take a parsed message apart.

        Raises:
            ValueError: A text is broken, or a field stands in the header of a part.
        """
        skeleton = cls()
        skeleton._add_parsed(message, ())
        return skeleton

    def add_text(
        self, source: str, subtype: str, boundaries: tuple[bytes, ...] = (), parameters: str = ""
    ) -> None:
        """Add a text part."""
        kind = "html" if f"text/{subtype}" in _ESCAPED else "text"
        content_type = f'text/{subtype}; charset="utf-8"{parameters}'
        place = f"text/{subtype} part"
        self.parts.append(TextPart(content_type, source, kind, place, boundaries))

    def add_file(self, path: Path, boundaries: tuple[bytes, ...], inline_name: str = "") -> None:
        """Add an attachment, or an image that HTML calls `cid:inline_name`, in base64."""
        guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        maintype, _, subtype = guessed.partition("/")
        if maintype in ("message", "multipart"):
            # A message must not be in base64 (RFC 2046 section 5.2.1), and is read as no message in
            # it; as it is, its lines may be longer than a relay takes.
            maintype, subtype = "application", "octet-stream"
        part = EmailMessage(email.policy.SMTP)
        part.set_content(
            path.read_bytes(),
            maintype=maintype,
            subtype=subtype,
            disposition="inline" if inline_name else "attachment",
            filename=path.name,
            cid=f"<{inline_name}>" if inline_name else None,
        )
        del part["MIME-Version"]
        self._add_bytes(part.as_bytes())

    def open_multipart(self, subtype: str, boundaries: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Begin a multipart; a boundary with "=_" cannot stand in an encoded text."""
        boundary = f"=_{secrets.token_hex(12)}"
        self._add_bytes(f'Content-Type: multipart/{subtype}; boundary="{boundary}"\r\n'.encode())
        return (*boundaries, b"--" + boundary.encode())

    def open_part(self, boundaries: tuple[bytes, ...]) -> None:
        """Write the delimiter in front of the next part; its CRLF also ends the header."""
        self._add_bytes(b"\r\n" + boundaries[-1] + b"\r\n")

    def close_multipart(self, boundaries: tuple[bytes, ...]) -> None:
        """Write the last delimiter."""
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
        """Add a part as it is; only bytes that a relay may not take are wrapped in base64."""
        # A copy, because get_payload() would replace the bytes beyond ASCII in it.
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


def has_syntax(text: str) -> bool:
    """Whether Jinja2 would see anything but plain text."""
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
        # UTF-8 holds ASCII, and hand-written mail that says nothing is UTF-8.
        return payload.decode("utf-8" if charset == "us-ascii" else charset)
    except (LookupError, UnicodeDecodeError):
        raise ValueError(
            f"a {part.get_content_type()} part is not in its charset, {charset}"
        ) from None


def _text_parameters(part: "Parsed") -> str:
    """What Content-Type says besides the charset, such as format=flowed (RFC 3676)."""
    parameters = part.get_params() or []
    return "".join(
        f'; {name}="{value}"'
        for name, value in parameters[1:]
        if name.lower() in ("format", "delsp", "reply-type", "method", "component")
    )
