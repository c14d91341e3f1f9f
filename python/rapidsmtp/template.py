"""One composed message -> a compiled template -> a message for each row.

This is the plain form on Jinja2 and `email`. The message is taken apart once; for a row only the
header fields and texts that hold merge fields are rendered and encoded again. The result needs
nothing of the relay: seven bits, short lines, ASCII, unless an address or a sealed part has more.
"""

import copy
import csv
import email
import email.message
import email.policy
import email.utils
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapidsmtp._encode import (
    ADDRESS_HEADERS,
    TOKEN_HEADERS,
    Mailbox,
    RowError,
    check_header_name,
    decode_words,
    encode_addresses,
    encode_header,
    parse_mailboxes,
    strip_marks,
)
from rapidsmtp.message import Message, flatten
from rapidsmtp.outcome import Outcome, Status

if TYPE_CHECKING:
    from rapidsmtp._jinja import Text
    from rapidsmtp._skeleton import Skeleton

_UNFOLD = re.compile(r"\r?\n(?=[ \t])")
_BLIND = frozenset(("bcc", "resent-bcc"))
Addresses = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class _HeaderField:
    """One field of the header; `encoded` and `mailboxes` are known where it is constant."""

    name: str
    text: "Text"

    def render(self, row: Mapping[str, Any]) -> tuple[bytes, list[Mailbox]]:
        value = self.text.render(row)
        if self.name.lower() not in ADDRESS_HEADERS:
            return encode_header(self.name, value), []
        mailboxes = parse_mailboxes(value, self.name)
        if self.name.lower() in _BLIND:
            return b"", mailboxes
        # An address field may stay away from a message, but cannot be there and be empty.
        return encode_addresses(self.name, mailboxes) if mailboxes else b"", mailboxes


# RFC 5322 section 3.6: fields that a message has once at the most.
_ONCE = {"date", "from", "sender", "reply-to", "to", "cc", "bcc", "subject"}
_ONCE |= {"message-id", "in-reply-to", "references"}


class Template:
    """A message with Jinja2 fields in its header and texts.

    Made by `compose`, `from_eml` or `from_message`. Safe to use from many threads at once.

    Raises:
        ImportError: Jinja2 is not installed.
    """

    def __init__(self, headers: Iterable[tuple[str, str]], body: "Skeleton") -> None:
        """Compile; use one of the class methods instead.

        Args:
            headers: Names and values in order, decoded and unfolded.
            body: What follows them.

        Raises:
            ValueError: Something in it is not a template, or there is no sender or recipient.
        """
        from rapidsmtp._jinja import Text

        self._body = body
        self._fields: list[_HeaderField] = []
        self._constant: dict[int, tuple[bytes, list[Mailbox]]] = {}
        required = set(body.required)
        for name, value in headers:
            check_header_name(name)
            field = _HeaderField(name, Text(value, "header", f"header {name}"))
            if name.lower() in _ONCE and any(name.lower() == f.name.lower() for f in self._fields):
                raise ValueError(f"the template has more than one {name}")
            required |= field.text.required
            if field.text.constant is not None:
                self._constant[len(self._fields)] = field.render({})
            self._fields.append(field)
        self._names = {field.name.lower() for field in self._fields}
        self._prefix = "resent-" if "resent-date" in self._names else ""
        self._check_envelope()
        self.required_fields = frozenset(required)

    def _check_envelope(self) -> None:
        if self._names.isdisjoint({f"{self._prefix}sender", f"{self._prefix}from"}):
            raise ValueError("the template has no From")
        if self._names.isdisjoint({self._prefix + name for name in ("to", "cc", "bcc")}):
            raise ValueError("the template has neither To nor Cc nor Bcc")

    @classmethod
    def compose(
        cls,
        *,
        sender: str,
        to: Addresses,
        subject: str,
        text: str | None = None,
        html: str | None = None,
        cc: Addresses = (),
        bcc: Addresses = (),
        reply_to: Addresses = (),
        headers: Mapping[str, str] | None = None,
        attachments: Iterable[str | os.PathLike[str]] = (),
        inline: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> "Template":
        """Compose a template from its parts.

        Args:
            sender: The From field.
            to: One address field, or several.
            subject: The Subject field.
            text: The plain text.
            html: The HTML text, escaped automatically; at least one of the two is needed.
            cc: As `to`.
            bcc: As `to`; used for the envelope only.
            reply_to: As `to`.
            headers: More header fields.
            attachments: Paths of files, the same for each row.
            inline: Paths of images by the name that HTML gives them: `<img src="cid:name">`.

        Raises:
            ValueError: A text or field is no template, or something is missing.
            OSError: A file cannot be read.
        """
        from rapidsmtp._compose import compose_body

        fields = [("From", sender)]
        for name, value in (("To", to), ("Cc", cc), ("Bcc", bcc), ("Reply-To", reply_to)):
            joined = value if isinstance(value, str) else ", ".join(value)
            if joined:
                fields.append((name, joined))
        fields.append(("Subject", subject))
        for name, value in (headers or {}).items():
            if name.lower().startswith(("content-", "mime-")):
                raise ValueError(f"{name} is made by compose")
            fields.append((name, value))
        files = [Path(path) for path in attachments]
        images = {name: Path(path) for name, path in (inline or {}).items()}
        return cls(fields, compose_body(text, html, files, images))

    @classmethod
    def from_eml(cls, source: str | os.PathLike[str] | bytes) -> "Template":
        """Compile a message file; its header is taken as it is written, fields and all.

        Args:
            source: The path of the file, or its bytes.

        Raises:
            ValueError: It is not a message, or something in it is no template.
            OSError: The file cannot be read.
        """
        from rapidsmtp._skeleton import Skeleton

        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        message = email.message_from_bytes(data, policy=email.policy.compat32)
        if not message.keys():
            raise ValueError("not a message: it does not begin with header fields")
        headers = [(name, _raw_value(name, value)) for name, value in _own_fields(message)]
        return cls(headers, Skeleton.from_parsed(message))

    @classmethod
    def from_message(cls, message: "email.message.Message[Any, Any]") -> "Template":
        """Compile an email.message object, which stays as it is.

        Raises:
            ValueError: `email` has parsed a header so that a field in it is lost, such as
                `{{ email }}` with its spaces inside an address; or as in `from_eml`.
        """
        from rapidsmtp._skeleton import Skeleton

        headers = []
        for name, value in _own_fields(message):
            _check_survived(name, value)
            headers.append((name, _raw_value(name, str(value))))
        bare = email.message_from_bytes(_without_own_fields(message), policy=email.policy.compat32)
        return cls(headers, Skeleton.from_parsed(bare))

    def render(self, row: Mapping[str, Any], *, tag: Any = None) -> Message:
        """Make the message for one row.

        Args:
            row: Values by the names of the fields.
            tag: The message's tag.

        Raises:
            ValueError: The row lacks a field, or has one that cannot stand where it is used.
        """
        from rapidsmtp._jinja import plain

        if not isinstance(row, Mapping):
            raise RowError(f"a row must be a mapping, not {type(row).__name__}")
        values = plain(row)
        lines: list[bytes] = []
        boxes: dict[str, list[Mailbox]] = {}
        for index, field in enumerate(self._fields):
            line, mailboxes = self._constant.get(index) or field.render(values)
            lines.append(line)
            boxes.setdefault(field.name.lower(), []).extend(mailboxes)
        sender, recipients = self._envelope(boxes)
        lines += self._made_fields(sender)
        data = b"".join(lines) + self._body.render(values)
        options = self._mail_options(boxes)
        return Message(sender, recipients, data, tag=tag, mail_options=options)

    def merge(
        self, rows: Iterable[Mapping[str, Any]], tag: str | None = None
    ) -> Iterator[Message | Outcome]:
        """Make a message for each row, one at a time and no sooner than it is asked for.

        Args:
            rows: Mappings.
            tag: The field whose value becomes the message's tag.

        Yields:
            A `Message`, or for a row that cannot become one an `Outcome` with the status
            INVALID and the reason.
        """
        for row in rows:
            value = None
            try:
                if tag is not None:
                    if not isinstance(row, Mapping) or tag not in row:
                        raise RowError(f"no field {tag!r}, which is the tag")
                    value = row[tag]
                yield self.render(row, tag=value)
            except ValueError as error:
                yield Outcome(value, None, Status.INVALID, phase="build", reason=str(error))

    def merge_csv(
        self, path: str | os.PathLike[str], *, encoding: str = "utf-8-sig", tag: str | None = None
    ) -> Iterator[Message | Outcome]:
        """Merge the rows of a CSV file whose first line names the columns.

        The whole file is read through once before the first message is made, so that a file
        that is broken on its last line is known before anything is sent.

        Args:
            path: The file; a cell in quotes may hold line breaks.
            encoding: Its encoding; the default takes UTF-8 with and without a byte order mark.
            tag: The column whose value becomes the message's tag.

        Raises:
            ValueError: A column that the template needs is missing, or a line is broken; the
                text has the line's number.
            OSError: The file cannot be read.
        """
        required = self.required_fields | ({tag} if tag is not None else set())
        check_csv(path, encoding, required)
        return self.merge(csv_rows(path, encoding), tag)

    def _envelope(self, boxes: dict[str, list[Mailbox]]) -> tuple[str, list[str]]:
        senders = boxes.get(f"{self._prefix}sender") or boxes.get(f"{self._prefix}from")
        if not senders:
            raise RowError("no sender")
        named = [boxes.get(self._prefix + name, []) for name in ("to", "cc", "bcc")]
        recipients = dict.fromkeys(mailbox.address for group in named for mailbox in group)
        if not recipients:
            raise RowError("no recipient")
        return senders[0].address, list(recipients)

    def _made_fields(self, sender: str) -> Iterator[bytes]:
        """Date, Message-ID and MIME-Version where the template has none (RFC 5322, 3.6)."""
        if "date" not in self._names:
            yield f"Date: {email.utils.formatdate(localtime=True)}\r\n".encode("ascii")
        if "message-id" not in self._names:
            domain = sender.rpartition("@")[2]
            yield f"Message-ID: {email.utils.make_msgid(domain=domain)}\r\n".encode("ascii")
        yield b"MIME-Version: 1.0\r\n"

    def _mail_options(self, boxes: dict[str, list[Mailbox]]) -> list[str]:
        options = []
        if not all(mailbox.address.isascii() for group in boxes.values() for mailbox in group):
            options.append("SMTPUTF8")
        if self._body.eight_bit:
            options.append("BODY=8BITMIME")
        return options


def check_csv(path: str | os.PathLike[str], encoding: str, required: Iterable[str]) -> int:
    """Read a CSV file through and return the number of its rows.

    Raises:
        ValueError: A required column is missing, a line has too few or too many cells, or the
            file is not in the encoding; the text has the line's number.
        OSError: The file cannot be read.
    """
    name, line, count = Path(path).name, 1, 0
    try:
        with Path(path).open(encoding=encoding, newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = next(reader, [])
            for column in sorted(required):
                if columns.count(column) != 1:
                    fault = "no column" if column not in columns else "more than one column"
                    raise ValueError(f"{name}, line 1: {fault} {column!r}")
            line = reader.line_num + 1
            for cells in reader:
                if cells:
                    _check_cells(cells, columns, f"{name}, line {line}")
                    count += 1
                line = reader.line_num + 1
    except UnicodeError:
        raise ValueError(f"{name}, line {line} or later: not in the encoding {encoding}") from None
    except LookupError:
        raise ValueError(f"{encoding!r} is no encoding") from None
    except csv.Error as error:
        raise ValueError(f"{name}, line {line}: {error}") from None
    return count


def _check_cells(cells: list[str], columns: list[str], where: str) -> None:
    if len(cells) < len(columns):
        raise ValueError(f"{where}: no cell for the column {columns[len(cells)]!r}")
    if len(cells) > len(columns):
        raise ValueError(f"{where}: {len(cells)} cells, but {len(columns)} columns")


def csv_rows(path: str | os.PathLike[str], encoding: str) -> Iterator[dict[str, Any]]:
    """Read the rows of a CSV file that `check_csv` has passed, one at a time."""
    with Path(path).open(encoding=encoding, newline="") as file:
        yield from csv.DictReader(file, strict=True)


def _own_fields(message: "email.message.Message[Any, Any]") -> Iterator[tuple[str, Any]]:
    """The fields that belong to the message and not to the form of its body."""
    for name, value in message.raw_items():
        if not name.lower().startswith("content-") and name.lower() != "mime-version":
            yield name, value


def _raw_value(name: str, value: str) -> str:
    """A field's value in one line of decoded text."""
    try:
        value = value.encode("utf-8", "surrogateescape").decode("utf-8")
        value = strip_marks(_UNFOLD.sub("", value))
        return value if name.lower() in TOKEN_HEADERS else decode_words(value)
    except UnicodeDecodeError:
        raise ValueError(f"header {name}: neither an encoded word nor UTF-8") from None
    except ValueError as error:
        raise ValueError(f"header {name}: {error}") from None


def _check_survived(name: str, value: Any) -> None:
    """Refuse a field that email's structured headers have rewritten into something else."""
    text = str(value)
    lost = text.count("{{") != text.count("}}") or text.count("{%") != text.count("%}")
    for address in getattr(value, "addresses", ()):
        spec = address.addr_spec
        lost = lost or ("{{" in spec and ('"' in spec or "{{" not in text))
    if lost:
        raise ValueError(f"header {name}: a field did not survive email's own parsing: {text!r}")


def _without_own_fields(message: "email.message.Message[Any, Any]") -> bytes:
    # A deep copy: a generator gives boundaries to inner parts that have none yet.
    bare = copy.deepcopy(message)
    for name in {name for name, _ in _own_fields(message)}:
        del bare[name]
    return flatten(bare)
