"""A text of a message that is rendered for each row."""

from typing import NamedTuple


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


def has_syntax(text: str) -> bool:
    """Return whether a text has Jinja2 syntax."""
    return "{{" in text or "{%" in text or "{#" in text
