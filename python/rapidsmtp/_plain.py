"""A compiled template in plain Python, on Jinja2 and `email`: where there is no compiled half.

It writes what `src/message/template.rs` writes, once it is parsed; the bytes may differ.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from rapidsmtp._encode import (
    ADDRESS_HEADERS,
    Mailbox,
    RowError,
    encode_addresses,
    encode_header,
    encode_text,
    parse_mailboxes,
)
from rapidsmtp._jinja import Text, plain
from rapidsmtp._skeleton import TextPart

if TYPE_CHECKING:
    from rapidsmtp import _core

_BLIND = frozenset(("bcc", "resent-bcc"))
_Boxes: TypeAlias = dict[str, list[Mailbox]]


@dataclass(frozen=True, slots=True)
class _HeaderField:
    """One field of the header."""

    name: str
    text: Text

    def render(self, row: Mapping[str, Any]) -> tuple[bytes, list[Mailbox]]:
        value = self.text.render(row)
        if self.name.lower() not in ADDRESS_HEADERS:
            return encode_header(self.name, value), []
        mailboxes = parse_mailboxes(value, self.name)
        if self.name.lower() in _BLIND:
            return b"", mailboxes
        # An address field may stay away from a message, but cannot be there and be empty.
        return encode_addresses(self.name, mailboxes) if mailboxes else b"", mailboxes


@dataclass(frozen=True, slots=True)
class _BodyText:
    """A text of the body."""

    content_type: str
    text: Text
    boundaries: tuple[bytes, ...]

    def render(self, row: Mapping[str, Any]) -> bytes:
        encoding, body = encode_text(self.text.render(row), self.boundaries)
        head = f"Content-Type: {self.content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
        return head.encode("ascii") + body


class Draft:
    """A row on its way to a message."""

    __slots__ = ("_row", "_stamp", "_template", "tag")

    def __init__(
        self, template: "Template", row: Mapping[str, Any], tag: Any, stamp: tuple[str, str, int]
    ) -> None:
        self._template, self._row, self._stamp = template, row, stamp
        self.tag: Any = tag

    def compose(self) -> tuple[str, list[str], bytes, list[str]]:
        """Write the message.

        Returns:
            Sender, recipients, data, options of MAIL.

        Raises:
            ValueError: The row lacks something.
        """
        return self._template.compose(self._row, *self._stamp)


class Template:
    """A compiled message.

    Args:
        headers: Names and values of the message's own header, decoded and unfolded.
        parts: What follows them.
        signer: Who signs it.

    Raises:
        ValueError: Something in it is not a template.
    """

    def __init__(
        self,
        headers: Iterable[tuple[str, str]],
        parts: Sequence[bytes | TextPart],
        signer: "_core.Signer | None" = None,
    ) -> None:
        self._signer = signer
        required: set[str] = set()
        used: set[str] = set()
        self._fields: list[_HeaderField] = []
        self._constant: dict[int, tuple[bytes, list[Mailbox]]] = {}
        for name, value in headers:
            field = _HeaderField(name, Text(value, "header", f"header {name}"))
            required |= field.text.required
            used |= field.text.fields
            if field.text.constant is not None:
                self._constant[len(self._fields)] = field.render({})
            self._fields.append(field)
        self._names = {field.name.lower() for field in self._fields}
        self._prefix = "resent-" if "resent-date" in self._names else ""
        self._pieces: list[bytes | _BodyText] = []
        for part in parts:
            piece = part if isinstance(part, bytes) else _compiled(part)
            if isinstance(piece, _BodyText):
                required |= piece.text.required
                used |= piece.text.fields
                piece = piece.render({}) if piece.text.constant is not None else piece
            self._pieces.append(piece)
        fixed = (piece for piece in self._pieces if isinstance(piece, bytes))
        self._eight_bit = not all(piece.isascii() for piece in fixed)
        self.required_fields: frozenset[str] = frozenset(required)
        self._used = sorted(used)

    def draft(self, row: Mapping[str, Any], tag: Any, date: str, id: str, time: int) -> Draft:
        """Take a row.

        Args:
            row: Its values.
            tag: The message's tag.
            date: The value of Date.
            id: What stands before the "@" of Message-ID.
            time: Seconds since 1970, for a signature.
        """
        return Draft(self, row, tag, (date, id, time))

    def compose(
        self, row: Mapping[str, Any], date: str, id: str, time: int
    ) -> tuple[str, list[str], bytes, list[str]]:
        """Write the message for a row; see `Draft.compose`."""
        values = {name: plain(row[name]) for name in self._used if name in row}
        lines: list[bytes] = []
        boxes: _Boxes = {}
        for index, field in enumerate(self._fields):
            line, mailboxes = self._constant.get(index) or field.render(values)
            lines.append(line)
            boxes.setdefault(field.name.lower(), []).extend(mailboxes)
        sender, recipients = self._envelope(boxes)
        lines += self._made_fields(sender, date, id)
        body = [
            piece if isinstance(piece, bytes) else piece.render(values) for piece in self._pieces
        ]
        data = b"".join([*lines, *body])
        if not data.endswith(b"\r\n"):
            data += b"\r\n"
        if self._signer is not None:
            data = self._signer.sign(data, time) + data
        return sender, recipients, data, self._mail_options(boxes)

    def _envelope(self, boxes: _Boxes) -> tuple[str, list[str]]:
        senders = boxes.get(f"{self._prefix}sender") or boxes.get(f"{self._prefix}from")
        if not senders:
            raise RowError("no sender")
        named = [boxes.get(self._prefix + name, []) for name in ("to", "cc", "bcc")]
        recipients = dict.fromkeys(mailbox.address for group in named for mailbox in group)
        if not recipients:
            raise RowError("no recipient")
        return senders[0].address, list(recipients)

    def _made_fields(self, sender: str, date: str, id: str) -> Iterator[bytes]:
        """Date, Message-ID and MIME-Version (RFC 5322 section 3.6, RFC 2045 section 4)."""
        if "date" not in self._names:
            yield f"Date: {date}\r\n".encode("ascii")
        if "message-id" not in self._names:
            yield f"Message-ID: <{id}@{sender.rpartition('@')[2]}>\r\n".encode("ascii")
        yield b"MIME-Version: 1.0\r\n"

    def _mail_options(self, boxes: _Boxes) -> list[str]:
        options = []
        if not all(mailbox.address.isascii() for group in boxes.values() for mailbox in group):
            options.append("SMTPUTF8")
        if self._eight_bit:
            options.append("BODY=8BITMIME")
        return options


def _compiled(part: TextPart) -> _BodyText:
    text = Text(part.source, part.kind, part.place)
    return _BodyText(part.content_type, text, part.boundaries)
