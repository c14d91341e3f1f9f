"""Split a message into constant bytes and texts with merge fields.

Attachments, inline images and boundaries are encoded once, when the template is created. The
compiled backend compiles the texts in `src/message/template.rs`, the pure-Python backend in
`pure_template`.
"""

import hashlib
import mimetypes
import os
import re
from urllib.parse import unquote

from rapidsmtp._compose.attachment import (
    ATTACHMENT,
    base64_lines,
    check_file_name,
    file_header,
    file_part,
    type_of,
)
from rapidsmtp._compose.charset import decode_text, text_of
from rapidsmtp._compose.encode import (
    MAXIMUM_LINE,
    PREFERRED_LINE,
    encode_parameter,
    strip_marks,
)
from rapidsmtp._compose.mime import ContentType, Part
from rapidsmtp._compose.text_part import BodyPart, TextPart, has_syntax
from rapidsmtp._compose.words import decode_words
from rapidsmtp.errors import brief

# The types of parts that must not change, with the reason.
_SEALED = {
    ("multipart", "signed"): "a signed part must not change",
    ("multipart", "encrypted"): "an encrypted part must not change",
}
# The types outside text/* whose fields are filled.
_TEXTS = frozenset(("json", "ics", "xml", "rtf", "x-rtf", "vcard", "x-vcard"))
# The subtypes whose text a mail reader may show as HTML or XML.
_MARKUP = re.compile("html|xml|sgml|xsl|svg|mathml|wml|enriched|^richtext$")
_CALENDARS = frozenset(
    ("calendar", "ics", "x-vcalendar", "vcard", "x-vcard", "directory", "x-calendar")
)
_FIELD_IN_PART = (
    "header {} of a part: merge fields are allowed in texts and in the message's own header only"
)
# The fields of a text part that are not copied. Some are written again for each row, and the others
# describe the text before it was filled.
_ENCODED_ANEW = frozenset(
    (
        "content-type",
        "content-transfer-encoding",
        "content-length",
        "content-md5",
        "mime-version",
    )
)

# A field or a statement of Jinja2, and not another use of the braces, such as in TeX and in C.
_FIELD = re.compile(
    r"""\{\{(?=[^{}]{0,300}[^\W\d])[-+]?\s*["'(\[\w-][^{}]{0,300}\}\}"""
    r"""|\{%[-+]?\s*(?:if|elif|else|for|set|raw|macro|filter|call|block|include|extends|import"""
    r"""|from|with|autoescape|end[a-z]+)\b[^{}]{0,300}%\}"""
)
# A field in binary data. Random data very rarely contains such a sequence.
_BINARY_FIELD = re.compile(rb"\{\{-?\s*[A-Za-z_]\w{2,60}\s*(?:\|[\w ()'\",.|]{1,80})?-?\}\}")
_MAX_FIELD = 60

# RFC 2392 section 2: a name in `cid:name` is the content of a Content-ID.
_CONTENT_ID = re.compile("[!-;=?-~]+")
_FOLD = re.compile("\r?\n[ \t]")
# RFC 2045 section 5.1 and RFC 2046 section 5.1.1.
_TOKEN = re.compile(r"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]+")
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_MAX_PLAIN = 200


LITERAL = "X-Rapidsmtp-Literal"
"""A header field of a part in `Template.source`. No message contains this field."""


def file_data(name: str, content: bytes, inline_name: str | None = None) -> bytes:
    """Return the part of a file that is the same for each row.

    Args:
        name: The name of the file.
        content: The content, which is encoded in base64.
        inline_name: None for an attachment; for the image `cid:inline_name` of the HTML, this name.

    Raises:
        ValueError: The name of the file or of the image cannot be written.
    """
    _check_names(name, inline_name)
    kind = type_of(mimetypes.guess_type(name)[0])
    head = file_header("attachment" if inline_name is None else "inline", kind, name)
    if inline_name is not None:
        head += f"Content-ID: <{inline_name}>\r\n".encode("ascii")
    data = head + b"\r\n" + base64_lines(content)
    return data if field_in_file(Part(data)) is None else f"{LITERAL}: yes\r\n".encode() + data


class LiteralFile(bytes):
    """A file that is the same for every row, although it contains what looks like a field."""


class BodyParts:
    """The parts of a message after its own header fields: MIME fields, empty line and body."""

    def __init__(self, seed: bytes = b"", root: str | os.PathLike[str] | None = None) -> None:
        """Create an empty body.

        Args:
            seed: The content of the message. The boundaries are a hash of it.
            root: The folder of the files that are read for each row, or None if no file is read.
        """
        self.parts: list[BodyPart] = []
        self._seed, self._root = seed, root
        self._multiparts = 0

    def add_text(self, source: str, subtype: str, boundaries: tuple[bytes, ...] = ()) -> None:
        """Add a text part."""
        kind = "html" if subtype == "html" else "text"
        content_type = f'text/{subtype}; charset="utf-8"'
        place = f"text/{subtype} part"
        self.parts.append(TextPart(content_type, source, kind, place, boundaries))

    def add_part(self, part: Part, boundaries: tuple[bytes, ...] = ()) -> None:
        """Add a parsed part, or a whole message without its own header fields.

        Raises:
            ValueError: A merge field is in a part or in a header field that is not rendered.
            OSError: The folder of the attachments does not exist.
        """
        content_type = part.content_type
        if content_type[:2] in _SEALED:
            self._add_sealed(part, _SEALED[content_type[:2]])
        elif content_type.maintype == "multipart" and part.children:
            self._add_multipart(part, boundaries)
        elif content_type.maintype == "multipart":
            fact = "does not occur" if part.boundary else "is missing"
            self._add_sealed(part, f"the boundary of the multipart {fact}")
        elif content_type.maintype == "message":
            self._add_sealed(part, "an attached message stays as it is")
        else:
            self._add_leaf(part, boundaries)

    def open_multipart(self, subtype: str, boundaries: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Start a multipart. Its boundary contains "=_", which encoded text never contains."""
        boundary = self._new_boundary()
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
        last = self.parts[-1] if self.parts else None
        if type(last) is bytes:
            self.parts[-1] = last + data
        else:
            self.parts.append(data)

    def _add_leaf(self, part: Part, boundaries: tuple[bytes, ...]) -> None:
        path = part.get(ATTACHMENT.lower())
        if path is not None:
            if self._root is None:
                raise ValueError(f"a part with {ATTACHMENT} needs attachment_root")
            content_type = part.get("content-type") or ""
            self.parts.append(file_part(text_of(path), self._root, content_type))
            return
        if part.get(LITERAL.lower()) is not None:
            header = ((name, value) for name, value in part.fields if name != LITERAL)
            lines = "".join(f"{name}: {value}\r\n" for name, value in header)
            self.parts.append(LiteralFile(lines.encode("ascii") + b"\r\n" + crlf(part.body)))
            return
        kind = kind_of(part.content_type)
        # A text with a disposition and a file name is a file, such as a file of `inline=`.
        is_file = part.disposition == "attachment" or (part.disposition and part.file_name)
        is_inline = part.content_type.maintype == "text" and not is_file
        if kind is None:
            self._add_sealed(part, f"a part of the type {part.content_type} stays as it is")
            return
        payload = part.decoded()
        if payload is None:
            self._add_sealed(part, f"the transfer encoding {part.encoding!r} is not known")
            return
        charset = part.content_type.parameters.get("charset")
        if payload is not part.body and b"{{" in part.body and b"{{" not in payload:
            reason = f"the text is not in its transfer encoding, {part.encoding}"
            _check_field(part, find_field(part.body.decode("latin-1")), reason)
        try:
            source, _ = decode_text(payload, charset, kind == "html")
        except ValueError as error:
            self._add_sealed(part, str(error))
            return
        if find_field(source) is None:
            # The bytes may contain a field, if the charset is not that of the text.
            reason = f"the text is not valid in its charset, {charset}"
            _check_field(part, find_field(payload.decode("latin-1")), reason)
        if find_field(source) is None and not (is_inline and has_syntax(source)):
            if not is_inline:
                self._add_sealed(part, "")  # an attachment without fields keeps its bytes
                return
            kind = "html" if kind == "html" else "text"
        if kind == "calendar":
            # RFC 5545 section 3.1, RFC 6350 section 3.2: a fold may be inside a field.
            source = _FOLD.sub("", source)
        if kind not in ("text", "html"):
            source = strip_marks(source)
        self._add_header(part, skip=_ENCODED_ANEW)
        self.parts.append(
            TextPart(_type_of_text(part.content_type), source, kind, place_of(part), boundaries)
        )

    def _add_multipart(self, part: Part, boundaries: tuple[bytes, ...]) -> None:
        for text, where in ((part.preamble, "before its first"), (part.epilogue, "after its last")):
            _check_text(part, text, f"mail readers do not show the text {where} part")
        boundary = part.boundary or ""
        skip = {"content-length"}
        # RFC 2045 section 6.4: a multipart has no other transfer encoding.
        if part.encoding not in ("7bit", "8bit"):
            skip.add("content-transfer-encoding")
        if not _BOUNDARY.fullmatch(boundary):
            boundary = self._new_boundary(part.body)
            self._add_bytes(_multipart_type(part.content_type, boundary))
            skip.add("content-type")
        self._add_header(part, frozenset(skip))
        inner = (*boundaries, b"--" + boundary.encode("ascii"))
        if part.preamble and _is_mail(part.preamble):
            self._add_bytes(b"\r\n" + crlf(part.preamble))
        for child in part.children:
            self.open_part(inner)
            self.add_part(child, inner)
        self.close_multipart(inner)
        if _is_mail(part.epilogue):
            self._add_bytes(crlf(part.epilogue))

    def _add_header(self, part: Part, skip: frozenset[str]) -> None:
        seen = set(skip)
        for name, value in part.fields:
            lower = name.lower()
            if not lower.startswith("content-") or lower in seen:
                continue
            seen.add(lower)
            check_part_field(name, value)
            self._add_bytes(crlf(f"{name}: {value}\n".encode("ascii", "surrogateescape")))

    def _add_sealed(self, part: Part, reason: str) -> None:
        """Add a part unchanged, or in base64 if it is not ASCII or has a line that is too long."""
        for each in part.walk():
            _check_sealed(part, each, reason)
        payload = None
        if part.content_type.maintype not in ("message", "multipart") and not _is_mail(part.body):
            payload = part.decoded()
        if payload is None:
            self._add_header(part, frozenset(("content-length",)))
            self._add_bytes(b"\r\n" + crlf(part.body))
            return
        self._add_header(part, frozenset(("content-length", "content-transfer-encoding")))
        self._add_bytes(b"Content-Transfer-Encoding: base64\r\n\r\n" + base64_lines(payload))

    def _new_boundary(self, seed: bytes | None = None) -> str:
        self._multiparts += 1
        text = hashlib.sha256(self._seed if seed is None else seed)
        text.update(b"%d" % self._multiparts)
        return f"=_{text.hexdigest()[:24]}"


def kind_of(content_type: ContentType) -> str | None:
    """Return the kind of a text, as in `TextPart`; None for a type that is not rendered."""
    maintype, subtype, *_ = content_type
    if maintype == "image" and subtype == "svg+xml":
        return "html"
    if maintype not in ("text", "application"):
        return None
    if subtype in _CALENDARS:
        return "calendar"
    if subtype == "json" or subtype.endswith("+json"):
        return "json"
    if subtype in ("rtf", "x-rtf"):
        return "rtf"
    is_markup = _MARKUP.search(subtype) is not None
    if maintype == "text":
        return "html" if is_markup else "text"
    return "html" if subtype.endswith(("+xml", "+html")) or subtype in _TEXTS else None


def find_field(text: str) -> str | None:
    """Return the first field or statement of Jinja2 in a text, or None."""
    if "{{" not in text and "{%" not in text:
        return None
    match = _FIELD.search(text)
    return brief(match[0][:_MAX_FIELD]) if match is not None else None


def place_of(part: Part) -> str:
    """Return the name of a part in error messages."""
    name = part.file_name
    return f"{part.content_type} part" + (f" {brief(name)!r}" if name else "")


def check_part_field(name: str, value: str) -> None:
    """Check that a header field of a part contains no merge field, not even an encoded one.

    Raises:
        ValueError: The header field contains a merge field.
    """
    try:
        words = strip_marks(decode_words(text_of(value)))
    except ValueError:
        words = ""
    if any(map(has_syntax, (value, words, unquote(value)))):
        raise ValueError(_FIELD_IN_PART.format(name))


def field_in_file(part: Part) -> str | None:
    """Return the first merge field in a file, or None."""
    try:
        _check_sealed(part, part, "")
    except ValueError as error:
        return str(error).partition(": ")[2].partition(" cannot be filled")[0]
    return None


def _check_sealed(root: Part, part: Part, reason: str) -> None:
    """Check that a part that is not rendered contains no merge field.

    Raises:
        ValueError: It contains a merge field.
    """
    if part is not root:
        for _, value in part.fields:
            try:
                text = strip_marks(decode_words(text_of(value)))
            except ValueError:
                text = value
            _check_field(part, find_field(text) or find_field(unquote(text)), reason)
    _check_text(part, part.preamble, reason)
    _check_text(part, part.epilogue, reason)
    if part.children:
        return
    payload = part.decoded()
    if payload is not None and payload is not part.body:
        _check_text(part, payload, reason)
    # The body may not be in its transfer encoding.
    _check_text(part, part.body, reason)


def _check_text(part: Part, data: bytes, reason: str) -> None:
    # In UTF-16, there is a NUL between the braces.
    if b"{{" not in data and b"{%" not in data and b"\0" not in data:
        return
    if kind_of(part.content_type) is None and b"\0" in data:
        match = _BINARY_FIELD.search(data)
        found = match[0].decode("ascii") if match is not None else None
    else:
        try:
            text, _ = decode_text(data, part.content_type.parameters.get("charset"))
        except ValueError:
            text = ""
        found = find_field(text) or find_field(data.decode("latin-1"))
    _check_field(part, found, reason)


def _check_field(part: Part, found: str | None, reason: str) -> None:
    if found is not None:
        raise ValueError(f"{place_of(part)}: {found} cannot be filled, because {reason}")


def _is_mail(data: bytes) -> bool:
    """Return whether data can be sent without an encoding: ASCII in short lines."""
    return data.isascii() and max(map(len, data.splitlines()), default=0) <= MAXIMUM_LINE


def _type_of_text(content_type: ContentType) -> str:
    """Return the Content-Type of a rendered text, with all its parameters."""
    parameters = []
    if content_type.maintype == "text" or "charset" in content_type.parameters:
        parameters.append('charset="utf-8"')
    for name, value in content_type.parameters.items():
        if name == "charset" or not _TOKEN.fullmatch(name) or "*" in name:
            continue
        is_plain = name in content_type.plain and value.isascii() and value.isprintable()
        if is_plain and len(value) <= _MAX_PLAIN:
            # An encoded word in a name is no literal. Mail programs decode it.
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            parameters.append(f'{name}="{escaped}"')
        else:
            parameters.append(encode_parameter(name, value))
    line = f"Content-Type: {content_type}"
    text = str(content_type)
    for parameter in parameters:
        fits = len(line) + 2 + len(parameter) <= PREFERRED_LINE
        text += f"; {parameter}" if fits else f";\r\n {parameter}"
        line = f"{line}; {parameter}" if fits else f" {parameter}"
    return text


def _multipart_type(content_type: ContentType, boundary: str) -> bytes:
    others = {name: value for name, value in content_type.parameters.items() if name != "boundary"}
    whole = content_type._replace(parameters={"boundary": boundary, **others})
    return f"Content-Type: {_type_of_text(whole)}\r\n".encode("ascii")


def _check_names(file_name: str, inline_name: str | None) -> None:
    check_file_name(file_name)
    if inline_name is not None and not _CONTENT_ID.fullmatch(inline_name):
        raise ValueError(
            f"inline image {inline_name!r}: the name becomes a Content-ID, so it must be ASCII "
            "without spaces, '<' and '>'"
        )


def crlf(data: bytes) -> bytes:
    """Convert all line ends to CRLF."""
    lines = data.count(b"\n")
    if lines == data.count(b"\r\n") == data.count(b"\r"):
        return data
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
