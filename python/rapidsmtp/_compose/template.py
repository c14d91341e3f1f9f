"""Compile a message with merge fields to a template, and render a message for each row.

This module splits the message once, with the library `email`. The backend compiles the header
fields and the texts. For each row, only the header fields and texts that contain merge fields are
rendered and encoded again. A rendered message is 7-bit ASCII with short lines, so it needs no
capability of the relay. There are two exceptions: a non-ASCII address, and a signed or encrypted
part whose content is not ASCII or has long lines.
"""

import contextlib
import copy
import email.errors
import email.message
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rapidsmtp import _backend
from rapidsmtp._compose.attachment import ATTACHMENT
from rapidsmtp._compose.builder import Additions, FilePath, compose_body, parsed_body
from rapidsmtp._compose.checks import Finding, Inspected, check, inspect
from rapidsmtp._compose.dkim import DKIM, join
from rapidsmtp._compose.edit_as_new import Fields, drop_fields
from rapidsmtp._compose.encode import (
    ADDRESS_HEADERS,
    ENVELOPE_SENDER,
    TOKEN_HEADERS,
    check_header_name,
    strip_marks,
)
from rapidsmtp._compose.envelope import flatten
from rapidsmtp._compose.merge import Merge, mapping_of, new_stamps
from rapidsmtp._compose.mime import Part, check_depth, parse
from rapidsmtp._compose.parts import BodyParts
from rapidsmtp._compose.recipients_list import (
    CheckedList,
    Duplicates,
    ListOptions,
    open_recipients_list,
)
from rapidsmtp._compose.source import source_of_body, source_of_header
from rapidsmtp._compose.text_part import BodyPart, FilePart
from rapidsmtp._compose.words import check_words, decode_words
from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import message_of
from rapidsmtp._models.stamp import Stamp

if TYPE_CHECKING:
    from rapidsmtp._compose.merge import Row

_UNFOLD = re.compile(r"(?:\r\n|\r|\n)(?=[ \t])")
# The header fields that describe the body that `compose` builds.
_WRITTEN = frozenset(("mime-version", "content-type", "content-transfer-encoding"))
_WRITTEN |= frozenset(("content-disposition", "content-id", "content-length", "content-md5"))
Addresses = str | Sequence[str]
Signers = DKIM | Sequence[DKIM]

# RFC 5322 section 3.6: the fields that a message must not contain more than once.
_ONCE = {"date", "from", "sender", "reply-to", "to", "cc", "bcc", "subject"}
_ONCE |= {"message-id", "in-reply-to", "references", ENVELOPE_SENDER.lower()}
_DESTINATIONS = frozenset(("to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"))


class Template:
    """A message with Jinja2 fields in its header and texts.

    Templates are created by `compose`, `from_eml` or `from_message`. A template is safe to use from
    many threads at once.

    Attributes:
        required_fields: The fields that a row must have.
        envelope_sender: The sender of the envelope with its merge fields; "" for the null sender,
            and None if the sender is the author of the message.
        dropped: The names of the header fields that `from_eml` or `from_message` dropped, because
            they belong to an earlier message.

    Raises:
        ImportError: There is no compiled backend, and Jinja2 is not installed.
    """

    required_fields: frozenset[str]
    envelope_sender: str | None
    dropped: tuple[str, ...]
    _compiled: "_backend.Template"
    _header: bytes
    _parts: list[BodyPart]
    _dkim: Signers
    _destinations: list[str]  # the values of To, Cc and Bcc
    _inspected: Inspected | None  # the input of the checks; None before the first check

    def __init__(self) -> None:
        raise TypeError(
            "create a template with Template.compose, Template.from_eml or Template.from_message"
        )

    @classmethod
    def _from_parts(
        cls,
        headers: Iterable[tuple[str, str]],
        body: BodyParts,
        dkim: Signers = (),
        envelope_sender: str | None = None,
        dropped: tuple[str, ...] = (),
    ) -> "Template":
        """Compile a template.

        Args:
            headers: The names and values of the header fields in order, decoded and unfolded.
            body: The MIME fields and the body.
            dkim: The signers, as in `compose`.
            envelope_sender: As in `compose`. None: the sender is in the header fields, or not set.
            dropped: The names of the dropped header fields.

        Raises:
            ValueError: A text or a header has wrong template syntax, or the sender or all
                recipients are missing.
        """
        template = cls.__new__(cls)
        headers, sender = _with_envelope_sender(headers, envelope_sender)
        names = _check_names(headers)
        signer = join(dkim) if isinstance(dkim, DKIM) or dkim else None
        template._compiled = _backend.templates().Template(headers, body.parts, signer)
        _check_envelope(names)
        template.required_fields = template._compiled.required_fields
        template.envelope_sender = sender
        template.dropped = dropped
        template._header = source_of_header(headers)
        template._parts = body.parts
        template._inspected = None
        template._dkim = dkim
        template._destinations = [value for name, value in headers if name.lower() in _DESTINATIONS]
        return template

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
        attachments: Iterable[FilePath] = (),
        attachment_root: FilePath | None = None,
        calendar: FilePath | bytes | None = None,
        inline: Mapping[str, FilePath] | None = None,
        envelope_sender: str | None = None,
        dkim: Signers = (),
    ) -> "Template":
        """Compose a template from its parts.

        Args:
            sender: The From field.
            to: The addresses of the To field: one text, or several. They may contain merge fields.
            subject: The Subject field.
            text: The plain text. "auto" makes it from the HTML, with its merge fields, statements
                and links. This needs the extra `html`.
            html: The HTML text. Its merge fields are escaped. At least one of `text` and `html` is
                needed.
            cc: The addresses of the Cc field, in the form of `to`.
            bcc: The addresses that are in the envelope but not in the header, in the form of `to`.
            reply_to: The addresses of the Reply-To field, in the form of `to`.
            headers: More header fields. `compose` writes the fields Content-Type,
                Content-Transfer-Encoding, Content-Disposition, Content-ID and MIME-Version.
            attachments: The paths of files to attach. Merge fields in the files are not filled. A
                file is read once, and every row gets it. A path with merge fields, such as
                `tickets/{{ id }}.pdf`, is relative to `attachment_root`. Its file is read for each
                row. A row without such a file is invalid. The value of a field must not contain a
                slash or a backslash, and a symbolic link must not lead out of the folder.
            attachment_root: The folder of the paths with merge fields. The default is the current
                folder at the time of this call.
            calendar: An invitation: the path of an iCalendar file, or its text. It becomes an
                alternative of the texts and an attachment. It needs a METHOD, such as REQUEST. Its
                merge fields are escaped (RFC 5545).
            inline: The paths of images. Each key is the name that the HTML uses for the image:
                `<img src="cid:name">`.
            envelope_sender: The address in MAIL FROM, to which servers send bounces. The default
                is the author of the message: Sender, or From. It may contain merge fields, so that
                a bounce names its row: `bounces+{{ id }}@example.com`. "" is the null sender, for
                messages that must not cause a bounce.
            dkim: One `DKIM` or several. Each of them signs every message.

        Raises:
            ValueError: A text or a header has wrong template syntax, or a part is missing.
            OSError: A file cannot be read.
        """
        fields = [("From", sender)]
        for name, value in (("To", to), ("Cc", cc), ("Bcc", bcc), ("Reply-To", reply_to)):
            joined = value if isinstance(value, str) else ", ".join(value)
            if joined:
                fields.append((name, joined))
        fields.append(("Subject", subject))
        for name, value in (headers or {}).items():
            if name.lower() in _WRITTEN:
                raise ValueError(f"{name} cannot be set: compose writes it")
            if name.lower() == "return-path":
                raise ValueError(
                    f"{name} cannot be set: the server of the recipient writes it (RFC 5321 4.4); "
                    "use envelope_sender"
                )
            fields.append((name, value))
        additions = Additions.read(attachments, attachment_root, calendar)
        body = compose_body(text, html, inline or {}, additions)
        return cls._from_parts(fields, body, dkim, envelope_sender)

    @classmethod
    def from_eml(
        cls,
        source: str | os.PathLike[str] | bytes,
        *,
        text: Literal["auto"] | None = None,
        attachments: Iterable[FilePath] = (),
        attachment_root: FilePath | None = None,
        calendar: FilePath | bytes | None = None,
        envelope_sender: str | None = None,
        dkim: Signers = (),
        keep_headers: bool = False,
    ) -> "Template":
        """Compile a message file, with the merge fields in its header and texts.

        As "edit as new" in a mail program, this method drops the header fields that belong to an
        earlier message: its Message-ID and Date, trace fields such as Received, old signatures, and
        the state of mail programs. A Message-ID, a Date or another such field with a merge field is
        not dropped. The attribute `dropped` contains the names of the dropped fields.

        Args:
            source: The path of the file, or its bytes.
            text: "auto" adds a plain text to a message with HTML only, as in `compose`.
            attachments: Files to add, as in `compose`.
            attachment_root: As in `compose`. It is required if the message file itself names files
                to read for each row, such as a result of `source`. So a message file alone cannot
                make a program read other files.
            calendar: An invitation to add, as in `compose`.
            envelope_sender: As in `compose`. It replaces the sender of the envelope in a file that
                `source` has written. A field Return-Path of the file has no effect.
            dkim: As in `compose`.
            keep_headers: Whether to keep all header fields.

        Raises:
            ValueError: The source is not a message, one of its texts or headers has wrong template
                syntax, or a merge field is in a part that cannot be rendered, such as a signed one.
            OSError: A file cannot be read.
        """
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        message = parse(data)
        fields = list(_own_fields(message.fields))
        message.fields = [each for each in message.fields if each[0].lower() in _WRITTEN]
        _check_additions(message, text, attachment_root)
        additions = Additions.read(attachments, attachment_root, calendar)
        body = parsed_body(message, additions, text is not None)
        return cls._from_fields(fields, keep_headers, body, dkim, envelope_sender)

    @classmethod
    def from_message(
        cls,
        message: "email.message.Message[Any, Any]",
        *,
        text: Literal["auto"] | None = None,
        attachments: Iterable[FilePath] = (),
        attachment_root: FilePath | None = None,
        calendar: FilePath | bytes | None = None,
        envelope_sender: str | None = None,
        dkim: Signers = (),
        keep_headers: bool = False,
    ) -> "Template":
        """Compile an email.message object. The object is not changed.

        Args:
            message: The object.
            text: As in `from_eml`.
            attachments: As in `from_eml`.
            attachment_root: As in `from_eml`.
            calendar: As in `from_eml`.
            envelope_sender: As in `from_eml`.
            dkim: As in `compose`.
            keep_headers: As in `from_eml`.

        Raises:
            ValueError: A merge field was lost when `email` parsed a header, for example
                `{{ email }}` with spaces inside an address. The errors of `from_eml` are
                also raised.
        """
        check_depth(message)
        fields = []
        for name, value in _own_fields(message.raw_items()):
            _check_survived(name, value)
            fields.append((name, str(value)))
        bare = Part(_without_own_fields(message))
        _check_additions(bare, text, attachment_root)
        additions = Additions.read(attachments, attachment_root, calendar)
        body = parsed_body(bare, additions, text is not None)
        return cls._from_fields(fields, keep_headers, body, dkim, envelope_sender)

    @classmethod
    def _from_fields(
        cls,
        fields: Fields,
        keep_headers: bool,
        body: BodyParts,
        dkim: Signers,
        envelope_sender: str | None,
    ) -> "Template":
        """Compile a template from the raw header fields of a message and its body."""
        fields, dropped = drop_fields(fields, keep_headers)
        headers = [(name, _raw_value(name, value)) for name, value in fields]
        return cls._from_parts(headers, body, dkim, envelope_sender, dropped)

    def source(self) -> bytes:
        """Return the composed message with its merge fields, as a message file.

        The same template has the same source in every process. It contains all texts, header
        fields and attachments, Bcc, the sender of the envelope, and the paths of the files that are
        read for each row. `Template.from_eml(source, keep_headers=True)` compiles a template that
        gives the same bytes for the same row and stamp. These arguments are passed again:

        - `attachment_root`, if there are files that are read for each row. The files themselves are
          not in the source.
        - `dkim`.
        """
        return self._header + source_of_body(self._parts)

    def check(
        self, columns: Iterable[str] | None = None, *, message: Message | None = None
    ) -> list[Finding]:
        """Return problems that no server reports, such as a field with encoded braces.

        Args:
            columns: The columns of the recipients list, if they are known.
            message: A rendered message of this template. Without it, links with fields and the
                header of the message are not checked.

        Returns:
            The findings. Each has the name of its check. A problem in a text also has its place.
        """
        data = None if message is None else message.data
        if self._inspected is None:
            self._inspected = inspect(self.source(), self._compiled.fields)
        return check(self._inspected, columns, data)

    def render(self, row: "Row", *, tag: Any = None, stamp: Stamp | None = None) -> Message:
        """Render the message for one row.

        Args:
            row: The values by field name: a mapping, or an object with the method `keys`.
            tag: The message's tag.
            stamp: The Message-ID and the time of the message. The default is a new Message-ID and
                the current time. A Message-ID or a Date of the template itself is not changed.

        Raises:
            ValueError: A field is missing in the row, or its value is not allowed at its place in
                the template.
        """
        values = next(new_stamps()) if stamp is None else stamp.values()
        return message_of(self._compiled.pending(mapping_of(row), tag, *values))

    def merge(
        self,
        rows: "Iterable[Row]",
        tag: str | None = None,
        *,
        stamps: Iterable[Stamp] | None = None,
    ) -> Merge:
        """Return an iterator that renders one message for each row on request.

        Args:
            rows: The rows: mappings, or database rows with the method `keys`, such as
                `sqlite3.Row`.
            tag: The field whose value becomes the message's tag.
            stamps: One stamp for each row, as in `render`. This iterable may be endless. If it has
                fewer elements than `rows`, the iterator raises a ValueError.

        Returns:
            An iterator of `Message` objects. A row that cannot be rendered gives an `Outcome` with
            the status INVALID and the reason. If the iterator is passed to a `Sender`, the sender
            reads the rows from it instead of rendered messages. The engine of the sender then
            renders each message while it sends other messages.
        """
        return Merge(self._compiled, rows, tag, stamps)

    def merge_csv(
        self,
        path: str | os.PathLike[str],
        *,
        encoding: str | None = None,
        delimiter: str | None = None,
        sheet: str | None = None,
        columns: Mapping[str, str] | None = None,
        recipient: str | None = None,
        tag: str | None = None,
        duplicates: Duplicates = "first",
        exclude: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    ) -> Merge:
        """Merge the rows of a CSV file or a workbook. Its first line names the columns.

        The whole file is checked before the first message is rendered. So even an error on the last
        line is reported before the first message is sent.

        A field of the template gets its values from the column with this name or identifier. For
        example, the identifier of the column `First Name` is `first_name`. The field `email` is the
        recipient column. It is also found by other names that are usual for such a column.

        Args:
            path: The file. A cell in quotes may contain line breaks. A workbook (.xlsx, .xls, .ods)
                needs the extra `xlsx`.
            encoding: The encoding of a CSV file without a byte order mark; the default is UTF-8.
            delimiter: The character between two cells. The default is the one of `,`, `;`, tab and
                `|` that occurs most often in the first line.
            sheet: The sheet of a workbook; the default is the first sheet.
            columns: The names of columns by field, such as `{"name": "First Name"}`.
            recipient: The column with the address of the recipient, for the field `email` and for
                `duplicates` and `exclude`.
            tag: The column whose value becomes the message's tag.
            duplicates: What to do with a row whose recipient occurs in an earlier row: "first"
                (send only the first row), "all" (send every row) or "error". Addresses are equal if
                they differ at most in upper and lower case of the domain.
            exclude: Files with addresses that are not sent: one address in each line, or a CSV file
                with such a column. Upper and lower case is ignored.

        Returns:
            The same kind of iterator as `merge`. Its attributes `duplicates` and `excluded` are
            counts of rows.

        Raises:
            ValueError: A column that the template needs is missing, or a row is malformed. The
                error text contains the line number.
            OSError: The file cannot be read.
        """
        options = ListOptions(
            encoding=encoding,
            delimiter=delimiter,
            sheet=sheet,
            columns=columns or {},
            recipient=recipient,
            tag=tag,
            duplicates=duplicates,
            exclude=[exclude] if isinstance(exclude, (str, os.PathLike)) else exclude or (),
            compares=duplicates != "all",
        )
        return open_list(self, path, options).merge()


def open_list(
    template: Template, path: str | os.PathLike[str], options: ListOptions
) -> CheckedList:
    """Open a recipients list for a template, and check it.

    Raises:
        ValueError: The list lacks a column or is malformed.
        OSError: A file cannot be read.
    """
    return open_recipients_list(path, options, compiled_of(template), destination_fields(template))


def destination_fields(template: Template) -> list[str]:
    """Return the fields in To, Cc and Bcc, sorted."""
    fields: set[str] = set()
    for value in filter(str.strip, template._destinations):
        headers = [("From", "a@example.com"), ("To", value)]
        fields.update(_backend.templates().Template(headers, []).fields)
    return sorted(fields)


def attachment_root_of(template: Template) -> str | None:
    """Return the folder of the files that are read for each row; None if no file is read."""
    return next((part.root for part in template._parts if isinstance(part, FilePart)), None)


def compiled_of(template: Template) -> "_backend.Template":
    """Return the compiled template, for other modules of this package."""
    return template._compiled


Template.__module__ = "rapidsmtp"


def _check_additions(message: Part, text: str | None, root: FilePath | None) -> None:
    """Check the arguments of `from_eml` and `from_message`.

    Raises:
        ValueError: The text is not "auto", or a part names a file and `root` is None.
    """
    if text not in (None, "auto"):
        raise ValueError('text must be "auto" or None: the message has its own texts')
    if root is None and any(part.get(ATTACHMENT.lower()) for part in message.walk()):
        raise ValueError(f"a part with {ATTACHMENT} needs attachment_root")


def _with_envelope_sender(
    headers: Iterable[tuple[str, str]], given: str | None
) -> tuple[list[tuple[str, str]], str | None]:
    """Return the header fields, with the sender of the envelope as the last field, and this sender.

    Args:
        headers: The names and values of the header fields.
        given: The sender, or None if it may be one of the header fields.
    """
    kept = list(headers)
    if given is not None:
        kept = [each for each in kept if each[0].lower() != ENVELOPE_SENDER.lower()]
        kept.append((ENVELOPE_SENDER, given))
    sender = None
    for place, (name, value) in enumerate(kept):
        if name.lower() == ENVELOPE_SENDER.lower():
            sender = value.strip()
            if sender.startswith("<") and sender.endswith(">"):
                sender = sender[1:-1].strip()
            kept[place] = ENVELOPE_SENDER, sender
    return kept, sender


def _check_names(headers: list[tuple[str, str]]) -> set[str]:
    """Return the names of the header fields in lower case.

    Raises:
        ValueError: A name is not allowed, or occurs too often.
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


def _own_fields(fields: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the header fields except the MIME fields that describe the body."""
    for name, value in fields:
        if name.lower() not in _WRITTEN:
            yield name, value


def _raw_value(name: str, value: str) -> str:
    """Return the value of a field as one line of decoded text."""
    try:
        value = value.encode("utf-8", "surrogateescape").decode("utf-8")
        value = strip_marks(_UNFOLD.sub("", value))
        if name.lower() in ADDRESS_HEADERS:
            check_words(value)
        return value if name.lower() in TOKEN_HEADERS else decode_words(value)
    except UnicodeDecodeError:
        raise ValueError(f"header {name}: neither an encoded word nor UTF-8") from None
    except ValueError as error:
        raise ValueError(f"header {name}: {error}") from None


def _check_survived(name: str, value: Any) -> None:
    """Check that `email`, which rewrites structured headers, kept the merge fields of this header.

    Raises:
        ValueError: A merge field was lost.
    """
    text = str(value)
    lost = text.count("{{") != text.count("}}") or text.count("{%") != text.count("%}")
    for address in getattr(value, "addresses", ()):
        spec = address.addr_spec
        lost = lost or ("{{" in spec and ('"' in spec or "{{" not in text))
    if lost:
        raise ValueError(
            f"header {name}: Python's package email changed a merge field, and the value is now "
            f"{text!r}; write merge fields without spaces, such as {{{{email}}}}"
        )


def _without_own_fields(message: "email.message.Message[Any, Any]") -> bytes:
    # Make a deep copy. The generator adds missing boundaries to inner parts, but the caller's
    # message must not change.
    bare = copy.deepcopy(message)
    for name in {name for name, _ in _own_fields(message.raw_items())}:
        del bare[name]
    _set_boundaries(bare)
    return flatten(bare, checked=True)


def _set_boundaries(message: "email.message.Message[Any, Any]") -> None:
    """Set missing boundaries. The generator of `email` would set random ones."""
    content = hashlib.sha256()
    for part in message.walk():
        payload = None if part.is_multipart() else part.get_payload()
        fields = [(name, str(value)) for name, value in part.raw_items()]
        content.update(repr((fields, payload)).encode("utf-8", "backslashreplace"))
    for number, part in enumerate(message.walk()):
        if part.get_content_maintype() == "multipart" and part.get_boundary() is None:
            boundary = hashlib.sha256(b"%d:%b" % (number, content.digest())).hexdigest()[:24]
            with contextlib.suppress(email.errors.HeaderParseError):  # no Content-Type
                part.set_boundary(f"=_{boundary}")
