"""The parts of a message that are rendered for each row: texts, and files in attachments."""

from typing import NamedTuple, TypeAlias


class TextPart(NamedTuple):
    """A text part. Its MIME fields and its body are written again for each row.

    Attributes:
        content_type: The value of the field Content-Type.
        source: The text, in Jinja2's syntax.
        kind: The kind of text, which decides how the values of fields are escaped: "text" (not at
            all), "html", "calendar", "json" or "rtf".
        place: The name of the part in error messages.
        boundaries: The delimiters of the enclosing multiparts. A delimiter is two dashes and a
            boundary.
    """

    content_type: str
    source: str
    kind: str
    place: str
    boundaries: tuple[bytes, ...]


class FilePart(NamedTuple):
    """An attached file whose path has merge fields. It is read for each row.

    Attributes:
        path: The path below `root`, in Jinja2's syntax.
        place: The name of the part in error messages.
        root: The folder that contains the files.
        content_type: The value of the field Content-Type; "" if it depends on the name of the file.
        types: The values of Content-Type by the suffix of the name, such as ".pdf", in lower case.
    """

    path: str
    place: str
    root: str
    content_type: str
    types: dict[str, str]


BodyPart: TypeAlias = bytes | TextPart | FilePart
"""A part of a message after its own header fields."""


def has_syntax(text: str) -> bool:
    """Return whether a text has Jinja2 syntax."""
    return "{{" in text or "{%" in text or "{#" in text
