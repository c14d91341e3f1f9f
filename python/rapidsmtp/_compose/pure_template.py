"""Compile and render templates in the pure-Python backend, with Jinja2 and `email`.

For the same template and row, the messages of this module and of `src/message/template.rs` have the
same content, but the encoded bytes may differ.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from rapidsmtp._compose.attachment import attached
from rapidsmtp._compose.encode import (
    ADDRESS_HEADERS,
    ENVELOPE_SENDER,
    Mailbox,
    RowError,
    encode_addresses,
    encode_header,
    encode_text,
    parse_addresses,
    parse_envelope_sender,
    place_of_header,
)
from rapidsmtp._compose.escape import escape_fields, has_c1, refuse_c1
from rapidsmtp._compose.pure_granted_rows import GrantedRows as GrantedRows
from rapidsmtp._compose.pure_list import ListCheck as ListCheck
from rapidsmtp._compose.pure_list import RecipientsList as RecipientsList
from rapidsmtp._compose.pure_list_chunks import ListChunks as ListChunks
from rapidsmtp._compose.pure_list_chunks import repeated_keys as repeated_keys
from rapidsmtp._compose.pure_text import Budget, Text, plain
from rapidsmtp._compose.text_part import BodyPart, FilePart, TextPart

ProgressFile = None
"""This backend writes no progress files."""

_BLIND = frozenset(("bcc", "resent-bcc"))
# The fields that are generated if they are absent or empty.
_GENERATED = frozenset(("date", "message-id"))
# The fields that the envelope and the generated fields depend on.
_NAMED = ADDRESS_HEADERS | _GENERATED | {ENVELOPE_SENDER.lower()}
_Mailboxes: TypeAlias = dict[str, list[Mailbox]]


@dataclass(frozen=True, slots=True)
class _HeaderField:
    """One field of the header."""

    name: str
    text: Text

    def render(self, row: Mapping[str, Any], budget: Budget) -> tuple[bytes, list[Mailbox]]:
        value = self.text.render(row, budget)
        if self.name == ENVELOPE_SENDER:
            address = parse_envelope_sender(value, self.text.constant is not None)
            return b"", [Mailbox("", address)]
        if self.name.lower() not in ADDRESS_HEADERS:
            return encode_header(self.name, value), []
        addresses = parse_addresses(value, self.name)
        # RFC 5322 section 3.6.3: an address field may be absent, but not empty. So a field without
        # addresses and groups is omitted.
        if self.name.lower() in _BLIND or not any(addresses):
            return b"", addresses.mailboxes
        return encode_addresses(self.name, addresses), addresses.mailboxes


@dataclass(frozen=True, slots=True)
class _ConstantFields:
    """Adjacent constant fields of the header. Only the first one may have a name."""

    lines: bytearray
    name: str = ""
    mailboxes: list[Mailbox] = field(default_factory=list)

    def render(self, row: Mapping[str, Any], budget: Budget) -> tuple[bytearray, list[Mailbox]]:
        return self.lines, self.mailboxes


@dataclass(frozen=True, slots=True)
class _BodyText:
    """A text of the body, with the MIME fields of its part."""

    part: TextPart
    text: Text
    has_c1: bool

    def render(self, row: Mapping[str, Any], budget: Budget) -> bytes:
        text = self.text.render(row, budget)
        try:
            if self.part.kind not in ("text", "html"):
                text = escape_fields(text, self.part.kind)
            if not self.has_c1:
                refuse_c1(text)
        except RowError as error:
            raise RowError(f"{self.part.place}: {error}") from None
        encoding, body = encode_text(text, self.part.boundaries)
        kind = self.part.content_type
        head = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
        return head.encode("ascii") + body


@dataclass(frozen=True, slots=True)
class _BodyFile:
    """An attached file that is read for each row."""

    part: FilePart
    text: Text

    def render(self, row: Mapping[str, Any], budget: Budget) -> bytes:
        path = self.text.render(row, budget)
        data, size = attached(self.part, path, budget.bytes)
        budget.bytes -= size
        return data


class _Signer(Protocol):
    """The method of the compiled backend's `Signer` that this module calls."""

    def sign(self, message: bytes, time: int) -> bytes:
        """Return the signature fields."""


class PendingMessage:
    """A row that is not rendered yet, with its template."""

    __slots__ = ("_row", "_stamp", "_template", "tag")

    def __init__(
        self, template: "Template", row: Mapping[str, Any], tag: Any, stamp: tuple[str, str, int]
    ) -> None:
        self._template, self._row, self._stamp = template, row, stamp
        self.tag: Any = tag

    def render(self) -> tuple[str, list[str], bytes, list[str]]:
        """Render the message.

        Returns:
            The sender, the recipients, the data and the MAIL options.

        Raises:
            ValueError: A field is missing, or its value is not allowed at its place in the
                template.
        """
        return self._template.render(self._row, *self._stamp)


class Template:
    """A compiled template.

    Args:
        headers: The names and values of the message's own header fields, decoded and unfolded.
        parts: The MIME fields and the body. They follow `headers`.
        signer: The signer of each message, or None.

    Raises:
        ValueError: A text or a header has wrong template syntax.
    """

    def __init__(
        self,
        headers: Iterable[tuple[str, str]],
        parts: Sequence[BodyPart],
        signer: "_Signer | None" = None,
    ) -> None:
        self._signer = signer
        required: set[str] = set()
        used: set[str] = set()
        self._fields: list[_HeaderField | _ConstantFields] = []
        names: set[str] = set()
        for name, value in headers:
            header = _HeaderField(name, Text(value, "header", place_of_header(name)))
            required |= header.text.required
            used |= header.text.fields
            names.add(name.lower())
            self._add_field(header)
        self._prefix = "resent-" if "resent-date" in names else ""
        self._parts: list[bytes | _BodyText | _BodyFile] = []
        for part in parts:
            compiled = part if isinstance(part, bytes) else _compiled(part)
            if not isinstance(compiled, bytes):
                required |= compiled.text.required
                used |= compiled.text.fields
                if isinstance(compiled, _BodyText) and compiled.text.constant is not None:
                    compiled = compiled.render({}, Budget())
            self._parts.append(compiled)
        fixed = (part for part in self._parts if isinstance(part, bytes))
        self._eight_bit = not all(part.isascii() for part in fixed)
        self.required_fields: frozenset[str] = frozenset(required)
        self.fields = sorted(used)

    def _add_field(self, header: _HeaderField) -> None:
        if header.text.constant is None:
            self._fields.append(header)
            return
        line, mailboxes = header.render({}, Budget())
        if header.name.lower() in _NAMED:
            self._fields.append(_ConstantFields(bytearray(line), header.name, mailboxes))
            return
        # A template may have many constant fields, so they need no memory except their bytes.
        last = self._fields[-1] if self._fields else None
        if not isinstance(last, _ConstantFields):
            last = _ConstantFields(bytearray())
            self._fields.append(last)
        last.lines.extend(line)

    def pending(
        self, row: Mapping[str, Any], tag: Any, date: str, id: str, time: int
    ) -> PendingMessage:
        """Return the pending message of a row.

        Args:
            row: The values by field name.
            tag: The message's tag.
            date: The value of Date.
            id: The Message-ID without its angle brackets. If it has no "@", the domain of the
                author follows.
            time: The time to write into the signatures, in seconds since 1970.
        """
        return PendingMessage(self, row, tag, (date, id, time))

    def render(
        self, row: Mapping[str, Any], date: str, id: str, time: int
    ) -> tuple[str, list[str], bytes, list[str]]:
        """Render the message for a row, with the same result as `PendingMessage.render`."""
        values = {name: plain(row[name]) for name in self.fields if name in row}
        lines: list[bytes | bytearray] = []
        found: _Mailboxes = {}
        written: set[str] = set()
        budget = Budget()
        for each in self._fields:
            line, mailboxes = each.render(values, budget)
            lines.append(line)
            if line:
                written.add(each.name.lower())
            found.setdefault(each.name.lower(), []).extend(mailboxes)
        author, sender, recipients = self._envelope(found)
        lines += self._added_fields(written, author, date, id)
        body = [
            part if isinstance(part, bytes) else part.render(values, budget) for part in self._parts
        ]
        data = b"".join([*lines, *body])
        if not data.endswith(b"\r\n"):
            data += b"\r\n"
        if self._signer is not None:
            data = self._signer.sign(data, time) + data
        return sender, recipients, data, self._mail_options(found)

    def _envelope(self, found: _Mailboxes) -> tuple[str, str, list[str]]:
        """Return the address of the author, the sender of the envelope, and the recipients."""
        authors = found.get(f"{self._prefix}sender") or found.get(f"{self._prefix}from")
        if not authors:
            raise RowError("the message has no sender: From is empty")
        senders = found.get(ENVELOPE_SENDER.lower(), authors)
        named = [found.get(self._prefix + name, []) for name in ("to", "cc", "bcc")]
        recipients: dict[tuple[str, str], str] = {}
        for group in named:
            for mailbox in group:
                # RFC 5321 section 2.4: only the local part is case-sensitive.
                local_part, _, domain = mailbox.address.rpartition("@")
                recipients.setdefault((local_part, domain.lower()), mailbox.address)
        if not recipients:
            raise RowError("the message has no recipient: To, Cc and Bcc are empty")
        return authors[0].address, senders[0].address, list(recipients.values())

    def _added_fields(self, written: set[str], author: str, date: str, id: str) -> Iterator[bytes]:
        """Yield the fields that the template does not have, and MIME-Version.

        They are Date and Message-ID (RFC 5322 section 3.6), and an empty group for a message that
        shows no recipients.
        """
        if not self._prefix and written.isdisjoint(("to", "cc")):
            yield b"To: undisclosed-recipients:;\r\n"
        if "date" not in written:
            yield f"Date: {date}\r\n".encode("ascii")
        if "message-id" not in written:
            domain = "" if "@" in id else f"@{author.rpartition('@')[2]}"
            yield f"Message-ID: <{id}{domain}>\r\n".encode("ascii")
        yield b"MIME-Version: 1.0\r\n"

    def _mail_options(self, found: _Mailboxes) -> list[str]:
        options = []
        if not all(mailbox.address.isascii() for group in found.values() for mailbox in group):
            options.append("SMTPUTF8")
        if self._eight_bit:
            options.append("BODY=8BITMIME")
        return options


def _compiled(part: TextPart | FilePart) -> _BodyText | _BodyFile:
    if isinstance(part, FilePart):
        return _BodyFile(part, Text(part.path, "header", part.place))
    # In a text with another format, the values are marked as in a header, and escaped afterwards.
    kind = part.kind if part.kind in ("text", "html") else "header"
    return _BodyText(part, Text(part.source, kind, part.place), has_c1(part.source))
