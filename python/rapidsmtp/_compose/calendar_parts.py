"""An invitation to an event: a calendar (RFC 5545) in a message, as RFC 6047 defines.

Mail programs show the invitation with its buttons if the calendar is an alternative of the texts,
with the type text/calendar and its METHOD as a parameter. Programs that do not know calendars show
an attachment. This attachment has the type application/ics, as in messages of Gmail, because two
parts of the type text/calendar can appear as two invitations.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from rapidsmtp._compose.attachment import check_file_name
from rapidsmtp._compose.encode import encode_parameter, strip_marks
from rapidsmtp._compose.escape import escape_fields
from rapidsmtp._compose.text_part import has_syntax
from rapidsmtp.errors import brief

_NAME = "invite.ics"
_BEGIN = re.compile(r"BEGIN:VCALENDAR[ \t]*\n", re.IGNORECASE)
_END = re.compile(r"^END:VCALENDAR\s*\Z", re.IGNORECASE | re.MULTILINE)
_METHOD = re.compile(r"^METHOD((?:;[^:\n]*)?:.*)$", re.IGNORECASE | re.MULTILINE)
# RFC 5545 section 3.7.2: the value is an iana-token.
_TOKEN = re.compile(r"(?:;[^:]*)?:\s*([A-Za-z0-9-]+)\s*")
_FOLD = re.compile("\n[ \t]")


class Calendar(NamedTuple):
    """A calendar with its merge fields.

    Attributes:
        name: The name of the file.
        text: The text in lines that are not folded. Without merge fields, the lines are folded.
        method: The METHOD, such as "REQUEST".
    """

    name: str
    text: str
    method: str


def read_calendar(given: str | bytes | os.PathLike[str]) -> Calendar:
    """Read and check a calendar.

    Args:
        given: The path of a file, or the text of the calendar.

    Raises:
        ValueError: The text is not a calendar, is not UTF-8 or has no METHOD.
        OSError: The file cannot be read.
    """
    name, content = _NAME, given
    # A text of several lines is no path.
    if not isinstance(content, bytes) and "\n" not in os.fspath(content):
        path = Path(content)
        name, content = path.name, path.read_bytes()
    fault = f"calendar {brief(name)!r}"
    check_file_name(name)
    if isinstance(content, bytes):
        try:
            content = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"{fault}: the text is not UTF-8") from None
    text = strip_marks(os.fspath(content))
    # RFC 5545 section 3.1: a fold may be inside a merge field.
    text = _FOLD.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip() + "\n"
    if _BEGIN.match(text) is None or _END.search(text) is None:
        raise ValueError(f"{fault}: it is no text from BEGIN:VCALENDAR to END:VCALENDAR")
    methods = {line[1].strip().upper() for line in _METHOD.finditer(text)}
    if not methods:
        raise ValueError(f"{fault}: it has no METHOD; add a line such as METHOD:REQUEST")
    token = _TOKEN.fullmatch(min(methods))
    if len(methods) > 1 or token is None:
        raise ValueError(f"{fault}: METHOD must be one word that is the same for each row")
    if not has_syntax(text):
        text = escape_fields(text, "calendar")
    return Calendar(name, text, token[1])


def calendar_parts(calendar: Calendar) -> tuple[bytes, bytes]:
    """Return the alternative of the texts and the attachment, as parts.

    A part with merge fields is rendered for each row, with its values escaped.
    """
    text = calendar.text.replace("\n", "\r\n").encode("utf-8", "surrogatepass")
    kind = f'Content-Type: text/calendar; charset="utf-8"; method={calendar.method}\r\n'
    name = encode_parameter("name", calendar.name)
    file_name = encode_parameter("filename", calendar.name)
    file = (
        f"Content-Type: application/ics;\r\n {name}\r\n"
        f"Content-Disposition: attachment;\r\n {file_name}\r\n"
    )
    eight_bit = "Content-Transfer-Encoding: 8bit\r\n\r\n"
    return (kind + eight_bit).encode("ascii") + text, (file + eight_bit).encode("ascii") + text
