"""One composed message -> a compiled template -> a message for each row.

The message is taken apart here, once, by the library `email`. What it is made of is compiled by
whichever half of the core is loaded: for a row only the header fields and texts that hold merge
fields are rendered and encoded again. The result needs nothing of the relay: seven bits, short
lines, ASCII, unless an address or a sealed part has more.
"""

import copy
import csv
import email
import email.message
import email.policy
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rapidsmtp import _core
from rapidsmtp._encode import TOKEN_HEADERS, check_header_name, decode_words, strip_marks
from rapidsmtp.dkim import DKIM, join
from rapidsmtp.merge import Merge, mapping_of, stamps
from rapidsmtp.message import Message, flatten
from rapidsmtp.outcome import message_of

if TYPE_CHECKING:
    from rapidsmtp._skeleton import Skeleton
    from rapidsmtp.merge import Row

_UNFOLD = re.compile(r"\r?\n(?=[ \t])")
Addresses = str | Sequence[str]
Signers = DKIM | Sequence[DKIM]

# Columns that are named where one is missing.
_SHOWN_COLUMNS = 8

# RFC 5322 section 3.6: fields that a message has once at the most.
_ONCE = {"date", "from", "sender", "reply-to", "to", "cc", "bcc", "subject"}
_ONCE |= {"message-id", "in-reply-to", "references"}
# What the compiled half reads by itself.
_UTF8 = frozenset(("utf-8", "utf-8-sig", "utf8"))


class Template:
    """A message with Jinja2 fields in its header and texts.

    Made by `compose`, `from_eml` or `from_message`. Safe to use from many threads at once.

    Attributes:
        required_fields: The fields that a row must have.

    Raises:
        ImportError: There is no compiled half, and Jinja2 is not installed.
    """

    def __init__(
        self, headers: Iterable[tuple[str, str]], body: "Skeleton", dkim: Signers = ()
    ) -> None:
        """Compile; use one of the class methods instead.

        Args:
            headers: Names and values in order, decoded and unfolded.
            body: What follows them.
            dkim: Who signs it.

        Raises:
            ValueError: Something in it is not a template, or there is no sender or recipient.
        """
        headers = list(headers)
        names = _check_names(headers)
        signer = join(dkim) if isinstance(dkim, DKIM) or dkim else None
        self._compiled = _compiler()(headers, body.parts, signer)
        _check_envelope(names)
        self.required_fields: frozenset[str] = self._compiled.required_fields

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
        dkim: Signers = (),
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
            dkim: Who signs each message, last and over exactly what is sent; one `DKIM`, or
                several.

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
        return cls(fields, compose_body(text, html, files, images), dkim)

    @classmethod
    def from_eml(cls, source: str | os.PathLike[str] | bytes, *, dkim: Signers = ()) -> "Template":
        """Compile a message file; its header is taken as it is written, fields and all.

        Args:
            source: The path of the file, or its bytes.
            dkim: As in `compose`.

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
        return cls(headers, Skeleton.from_parsed(message), dkim)

    @classmethod
    def from_message(
        cls, message: "email.message.Message[Any, Any]", *, dkim: Signers = ()
    ) -> "Template":
        """Compile an email.message object, which stays as it is.

        Args:
            message: The object.
            dkim: As in `compose`.

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
        return cls(headers, Skeleton.from_parsed(bare), dkim)

    def render(self, row: "Row", *, tag: Any = None) -> Message:
        """Make the message for one row.

        Args:
            row: Values by the names of the fields: a mapping, or anything that has keys.
            tag: The message's tag.

        Raises:
            ValueError: The row lacks a field, or has one that cannot stand where it is used.
        """
        return message_of(self._compiled.draft(mapping_of(row), tag, *next(stamps())))

    def merge(self, rows: "Iterable[Row]", tag: str | None = None) -> Merge:
        """Make a message for each row, one at a time and no sooner than it is asked for.

        Args:
            rows: Mappings, or a database's rows that have keys, as `sqlite3.Row` has.
            tag: The field whose value becomes the message's tag.

        Returns:
            An iterator. It gives a `Message`, or for a row that cannot become one an `Outcome`
            with the status INVALID and the reason. A `Sender` takes the rows out of it instead,
            and its engine writes the messages while others are sent.
        """
        return Merge(self._compiled, rows, tag)

    def merge_csv(
        self, path: str | os.PathLike[str], *, encoding: str = "utf-8-sig", tag: str | None = None
    ) -> Merge:
        """Merge the rows of a CSV file whose first line names the columns.

        The whole file is read through once before the first message is made, so that a file
        that is broken on its last line is known before anything is sent.

        Args:
            path: The file; a cell in quotes may hold line breaks.
            encoding: Its encoding; the default takes UTF-8 with and without a byte order mark.
            tag: The column whose value becomes the message's tag.

        Returns:
            As `merge`.

        Raises:
            ValueError: A column that the template needs is missing, or a line is broken; the
                text has the line's number.
            OSError: The file cannot be read.
        """
        required = self.required_fields | ({tag} if tag is not None else set())
        check_csv(path, encoding, required)
        if _core.implementation == "rust" and encoding.lower() in _UTF8:
            lines = _core.native("CsvLines")
            return Merge.of_lines(lines(self._compiled, os.fspath(path), tag))
        return Merge(self._compiled, csv_rows(path, encoding), tag)


def _compiler() -> Any:
    """What compiles a template: `_native.Template`, or the plain one."""
    if _core.implementation == "rust":
        return _core.native("Template")
    from rapidsmtp._plain import Template as PlainTemplate

    return PlainTemplate


def _check_names(headers: list[tuple[str, str]]) -> set[str]:
    """The names of the header's fields in lower case.

    Raises:
        ValueError: One cannot be a name, or stands there too often.
    """
    names: set[str] = set()
    for name, _ in headers:
        check_header_name(name)
        if name.lower() in _ONCE & names:
            raise ValueError(f"the template has more than one {name}")
        names.add(name.lower())
    return names


def _check_envelope(names: set[str]) -> None:
    prefix = "resent-" if "resent-date" in names else ""
    if names.isdisjoint({f"{prefix}sender", f"{prefix}from"}):
        raise ValueError("the template has no From")
    if names.isdisjoint({prefix + name for name in ("to", "cc", "bcc")}):
        raise ValueError("the template has neither To nor Cc nor Bcc")


def check_csv(path: str | os.PathLike[str], encoding: str, required: Iterable[str]) -> int:
    """Read a CSV file through and return the number of its rows.

    Raises:
        ValueError: A required column is missing, a line has too few or too many cells, or the
            file is not in the encoding; the text has the line's number.
        OSError: The file cannot be read.
    """
    name, line, count = Path(path).name, 1, 0
    try:
        with _open(path, encoding) as file:
            reader = csv.reader(file, strict=True)
            columns = next(reader, [])
            for column in sorted(required):
                if columns.count(column) != 1:
                    raise ValueError(f"{name}, line 1: {_missing(column, columns)}")
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


def _open(path: str | os.PathLike[str], encoding: str) -> TextIO:
    # A byte order mark is no part of the first column's name, however UTF-8 is called.
    encoding = "utf-8-sig" if encoding.lower() in _UTF8 else encoding
    return Path(path).open(encoding=encoding, newline="")


def _missing(column: str, columns: list[str]) -> str:
    if column in columns:
        return f"more than one column {column!r}"
    found = ", ".join(map(repr, columns[:_SHOWN_COLUMNS])) or "none"
    more = ", …" if len(columns) > _SHOWN_COLUMNS else ""
    return f"no column {column!r}; there are: {found}{more}"


def _check_cells(cells: list[str], columns: list[str], where: str) -> None:
    if len(cells) < len(columns):
        raise ValueError(f"{where}: no cell for the column {columns[len(cells)]!r}")
    if len(cells) > len(columns):
        raise ValueError(f"{where}: {len(cells)} cells, but {len(columns)} columns")


def csv_rows(path: str | os.PathLike[str], encoding: str) -> Iterator[dict[str, Any]]:
    """Read the rows of a CSV file that `check_csv` has passed, one at a time."""
    with _open(path, encoding) as file:
        reader = csv.reader(file, strict=True)
        columns = next(reader, [])[::-1]
        for cells in reader:
            if cells:
                # From behind: of columns with the same name the first is the one that counts.
                yield dict(zip(columns, cells[::-1], strict=True))


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
