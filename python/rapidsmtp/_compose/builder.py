"""Build the body of a message from texts and files (RFC 2046, RFC 2387)."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rapidsmtp._compose.attachment import attachment_data
from rapidsmtp._compose.calendar_parts import Calendar, calendar_parts, read_calendar
from rapidsmtp._compose.charset import decode_text
from rapidsmtp._compose.mime import Part
from rapidsmtp._compose.parts import BodyParts, crlf, file_data
from rapidsmtp._compose.plain_text import plain_text

Boundaries = tuple[bytes, ...]
FilePath = str | os.PathLike[str]


@dataclass(slots=True)
class Additions:
    """The parts that `compose`, `from_eml` and `from_message` add to the texts of a message.

    Attributes:
        files: The attachments, as parts.
        calendar: The invitation, or None.
        root: The folder of the files that are read for each row, or None if no file is read.
    """

    files: list[bytes] = field(default_factory=list)
    calendar: Calendar | None = None
    root: FilePath | None = None

    @classmethod
    def read(
        cls,
        attachments: Iterable[FilePath],
        root: FilePath | None,
        calendar: FilePath | bytes | None,
    ) -> "Additions":
        """Read the files of the attachments whose paths have no merge fields.

        Args:
            attachments: The paths.
            root: The folder of the paths with merge fields. None is the current folder.
            calendar: The invitation.

        Raises:
            ValueError: A file name or the calendar is wrong.
            OSError: A file cannot be read.
        """
        additions = cls(root=root)
        for each in attachments:
            path = os.fspath(each)
            if "{{" in path or "{%" in path:
                additions.files.append(attachment_data(path))
                additions.root = root or "."
            else:
                name, content = Path(path).name, Path(path).read_bytes()
                additions.files.append(file_data(name, content))
        if calendar is not None:
            additions.calendar = read_calendar(calendar)
            additions.files.append(calendar_parts(additions.calendar)[1])
        return additions


def compose_body(
    text: str | None, html: str | None, inline: Mapping[str, FilePath], additions: Additions
) -> BodyParts:
    """Build a body. The body contains mixed, alternative and related multiparts as needed.

    Args:
        text: The plain text. "auto" makes it from the HTML.
        html: The HTML.
        inline: The paths of images by name.
        additions: The attachments and the invitation.

    Raises:
        ValueError: `text` and `html` are both None, or there are inline images but no HTML to show
            them.
        OSError: A file cannot be read.
        ImportError: The library that makes the plain text is not installed.
    """
    if text is None and html is None:
        raise ValueError("a message needs text, html or both")
    if inline and html is None:
        raise ValueError("inline images need html that shows them")
    if text == "auto":
        if html is None:
            raise ValueError('text="auto" needs html')
        text = plain_text(html)
    images = [
        file_data(Path(path).name, Path(path).read_bytes(), name) for name, path in inline.items()
    ]
    texts = repr((text, html, additions.calendar)).encode("utf-8", "replace")
    body = BodyParts(_seed([texts, *additions.files, *images]), additions.root)
    if not additions.files:
        _add_texts(body, text, html, images, additions, ())
        return body
    boundaries = body.open_multipart("mixed", ())
    body.open_part(boundaries)
    _add_texts(body, text, html, images, additions, boundaries)
    for data in additions.files:
        body.open_part(boundaries)
        body.add_part(Part(data), boundaries)
    body.close_multipart(boundaries)
    return body


def parsed_body(message: Part, additions: Additions, makes_text: bool) -> BodyParts:
    """Build the body of a parsed message, with the additions.

    Args:
        message: The message. It is changed.
        additions: The additions.
        makes_text: Whether to create the plain text from the HTML.

    Raises:
        ValueError: A merge field is in a part that is not rendered, or the message has no HTML or
            already a plain text.
        ImportError: The library that makes the plain text is not installed.
    """
    seed = _seed([message.body, *additions.files])
    if makes_text:
        message = _with_alternative(message, Part(_text_part(_made_text(message))), 0, seed)
    if additions.calendar is not None:
        calendar = Part(calendar_parts(additions.calendar)[0])
        message = _with_alternative(message, calendar, None, seed)
    body = BodyParts(seed, additions.root)
    files = [Part(data) for data in additions.files]
    if files and _is_multipart(message, "mixed"):
        message.children += files
    elif files:
        message = _multipart("mixed", [message, *files], seed)
    body.add_part(message)
    return body


def _made_text(message: Part) -> str:
    """Return the plain text that is made from the HTML of a message."""
    texts = list(_shown(message))
    if any(each.content_type.subtype == "plain" for each in texts):
        raise ValueError('text="auto": the message has a plain text already')
    html = next((each for each in texts if each.content_type.subtype == "html"), None)
    if html is None:
        raise ValueError('text="auto" needs HTML, but the message has none')
    charset = html.content_type.parameters.get("charset")
    return plain_text(decode_text(html.decoded() or b"", charset, html=True)[0])


def _shown(part: Part) -> Iterator[Part]:
    """Yield the texts that a mail program shows, except in signed parts and attached messages."""
    if part.content_type.maintype == "multipart" and part.content_type.subtype != "signed":
        for child in part.children:
            yield from _shown(child)
    elif part.content_type.maintype == "text" and part.disposition != "attachment":
        yield part


def _with_alternative(message: Part, new: Part, place: int | None, seed: bytes) -> Part:
    """Add an alternative of the texts of a message. `place` is its index; None is the end."""
    parent, node = None, message
    while _is_multipart(node, "mixed"):
        parent, node = node, node.children[0]
    if not _is_multipart(node, "alternative"):
        node = _multipart("alternative", [node], seed)
        if parent is None:
            message = node
        else:
            parent.children[0] = node
    node.children.insert(len(node.children) if place is None else place, new)
    return message


def _is_multipart(part: Part, subtype: str) -> bool:
    return part.content_type[:2] == ("multipart", subtype) and bool(part.children)


def _multipart(subtype: str, children: list[Part], seed: bytes) -> Part:
    boundary = hashlib.sha256(subtype.encode() + seed).hexdigest()[:24]
    part = Part(f'Content-Type: multipart/{subtype}; boundary="=_{boundary}"\r\n\r\n'.encode())
    part.children = children
    return part


def _text_part(text: str) -> bytes:
    head = 'Content-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n'
    return head.encode("ascii") + crlf(text.encode("utf-8", "surrogatepass"))


def _seed(contents: Iterable[bytes]) -> bytes:
    """Return a hash of the content, so that the same content has the same boundaries."""
    seed = hashlib.sha256()
    for data in contents:
        seed.update(b"%d:" % len(data))
        seed.update(data)
    return seed.digest()


def _add_texts(
    body: BodyParts,
    text: str | None,
    html: str | None,
    images: Sequence[bytes],
    additions: Additions,
    outer: Boundaries,
) -> None:
    calendar = additions.calendar
    is_single = (text is None or html is None) and calendar is None
    boundaries = outer if is_single else body.open_multipart("alternative", outer)
    if text is not None:
        if not is_single:
            body.open_part(boundaries)
        body.add_text(text, "plain", boundaries)
    if html is not None:
        if not is_single:
            body.open_part(boundaries)
        _add_html(body, html, images, boundaries)
    if calendar is not None:
        body.open_part(boundaries)
        body.add_part(Part(calendar_parts(calendar)[0]), boundaries)
    if not is_single:
        body.close_multipart(boundaries)


def _add_html(body: BodyParts, html: str, images: Sequence[bytes], outer: Boundaries) -> None:
    if not images:
        body.add_text(html, "html", outer)
        return
    boundaries = body.open_multipart("related", outer)
    body.open_part(boundaries)
    body.add_text(html, "html", boundaries)
    for data in images:
        body.open_part(boundaries)
        body.add_part(Part(data), boundaries)
    body.close_multipart(boundaries)
