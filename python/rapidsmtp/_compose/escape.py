"""Escape the values of fields in texts that are neither plain text nor HTML.

The engine of templates has put each value between `FIELD_START` and `FIELD_END`. A value is data:
it must not add a property to a calendar, a member to a JSON object or a group to an RTF text.
`src/message/escape.rs` is the counterpart of this module.
"""

import json
import re
from collections.abc import Callable, Iterator

from rapidsmtp._compose.encode import FIELD_END, FIELD_START, RowError

_FIELD = re.compile(f"{FIELD_START}([^{FIELD_END}]*){FIELD_END}")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_C1 = re.compile("[\x80-\x9f]")
_LINE_END = re.compile("\r\n|\r")

# RFC 5545 section 3.1, RFC 6350 section 3.2: the maximum length of a line, in bytes.
_CONTENT_LINE = 75
# Properties whose value is no TEXT, so a backslash in it is no escape: URIs, dates, rules.
_NO_TEXT = frozenset(
    """
    attach attendee organizer url source image conference geo dtstart dtend dtstamp due duration
    created last-modified completed recurrence-id exdate rdate rrule exrule trigger freebusy
    percent-complete priority sequence repeat tzoffsetfrom tzoffsetto tzurl refresh-interval
    photo logo sound key fburl caladruri caluri impp member related bday anniversary rev
    """.split()  # noqa: SIM905  (a list literal would fill a page)
)
_VALUE_TYPE = re.compile(r';value="?([a-z-]+)', re.IGNORECASE)
_HTML = re.compile(r';fmttype="?text/html', re.IGNORECASE)
# RFC 6868 section 3.
_PARAMETER = {"^": "^^", '"': "^'", "\n": "^n"}
_MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;"}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_IN_SCRIPT = {each: f"\\u{ord(each):04x}" for each in "<>&\x7f\u2028\u2029"}


def escape_fields(text: str, kind: str) -> str:
    """Return a rendered text with its values escaped.

    Args:
        text: The text, with the marks of its values.
        kind: The kind of the text: "calendar", "json" or "rtf".

    Raises:
        RowError: A value is not allowed at its place.
    """
    return _KINDS[kind](text)


def has_c1(text: str) -> bool:
    """Return whether a text has C1 control characters."""
    return _C1.search(text) is not None


def refuse_c1(text: str) -> None:
    """Refuse C1 control characters: windows-1252 bytes were decoded with a wrong charset.

    Raises:
        RowError: The text contains such a character.
    """
    match = _C1.search(text)
    if match is not None:
        raise RowError(
            f"a value contains the control character U+{ord(match[0]):04X}; "
            "read the recipients list as windows-1252"
        )


def _calendar(text: str) -> str:
    lines = []
    for line in _marked_lines(text):
        lines.append(_folded("".join(_content_line(line))))
    return "\n".join(lines)


def _marked_lines(text: str) -> Iterator[str]:
    """Split a text at the line ends outside of its values."""
    start = place = 0
    while (end := text.find("\n", place)) >= 0:
        mark = text.find(FIELD_START, place, end)
        if mark >= 0:
            place = text.find(FIELD_END, mark) + 1
            continue
        yield text[start:end].removesuffix("\r")
        start = place = end + 1
    yield text[start:]


def _content_line(line: str) -> Iterator[str]:
    """Yield the pieces of a line of a calendar or of a card, with escaped values.

    A line is `name;parameter="value":value` (RFC 5545 section 3.1, RFC 6350 section 3.3).
    """
    if FIELD_START not in line:
        yield line
        return
    head, quoted, in_value = "", False, False
    escape: Callable[[str], str] = _structure
    for number, piece in enumerate(_FIELD.split(line)):
        if number % 2:
            if in_value:
                yield escape(piece)
            elif quoted:
                yield _in_quotes(piece)
            else:
                yield _unquoted(piece) if head else _structure(piece)
            continue
        yield piece
        if in_value:
            continue
        for place, character in enumerate(piece):
            if character == '"':
                quoted = not quoted
            elif character == ":" and not quoted:
                in_value = True
                escape = _value_of(head + piece[:place])
                break
        head += piece


def _value_of(head: str) -> Callable[[str], str]:
    """Return the function that escapes the values of a property, by its name and parameters."""
    if _HTML.search(head):
        return lambda value: _text("".join(_MARKUP.get(each, each) for each in value))
    kind = _VALUE_TYPE.search(head)
    if kind is not None:
        return _text if kind[1].lower() == "text" else _structure
    name = head.partition(";")[0].rpartition(".")[2].strip().lower()
    return _structure if name in _NO_TEXT else _text


def _text(value: str) -> str:
    """Escape a TEXT (RFC 5545 section 3.3.11, RFC 6350 section 3.4)."""
    value = _LINE_END.sub("\n", value)
    _refuse_controls(value)
    value = re.sub(r"([\\;,])", r"\\\1", value)
    return value.replace("\n", "\\n")


def _in_quotes(value: str) -> str:
    value = _LINE_END.sub("\n", value)
    _refuse_controls(value)
    return "".join(_PARAMETER.get(each, each) for each in value)


def _structure(value: str) -> str:
    """Check a value that cannot be escaped: it must not end its property."""
    _refuse_controls(value)
    if "\n" in value or "\r" in value:
        raise RowError("a value contains a line break, which is not allowed at its place")
    return value


def _unquoted(value: str) -> str:
    value = _structure(value)
    if re.search('[",:;]', value):
        raise RowError(f'{value!r} in a parameter needs quotes: write NAME="{{{{ field }}}}"')
    return value


def _refuse_controls(value: str) -> None:
    if _CONTROL.search(_LINE_END.sub("\n", value)):
        raise RowError("a value contains a control character")


def _folded(line: str) -> str:
    """Fold a line at 75 bytes, between characters."""
    if len(line) * 4 <= _CONTENT_LINE or len(line.encode("utf-8", "replace")) <= _CONTENT_LINE:
        return line
    folded, length = [], 0
    for character in line:
        size = len(character.encode("utf-8", "replace"))
        if length + size > _CONTENT_LINE:
            folded.append("\n ")
            length = 1
        folded.append(character)
        length += size
    return "".join(folded)


def _json(text: str) -> str:
    """Escape values in strings (RFC 8259 section 7). Elsewhere, a value must be a number or a word.

    `<` and `>` are escaped too, because a reader may show JSON in an HTML page.
    """
    written, in_string, escaped = [], False, False
    for number, piece in enumerate(_FIELD.split(text)):
        if number % 2:
            written.append(_json_string(piece) if in_string else _json_word(piece))
            continue
        written.append(piece)
        for character in piece:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = in_string
            elif character == '"':
                in_string = not in_string
    return "".join(written)


def _json_string(value: str) -> str:
    text = json.dumps(value, ensure_ascii=False)[1:-1]
    return "".join(_IN_SCRIPT.get(each, each) for each in text)


def _json_word(value: str) -> str:
    # Python's names of the three words.
    value = {"True": "true", "False": "false", "None": "null"}.get(value, value)
    if not _NUMBER.fullmatch(value):
        raise RowError(f"{value!r} is no number in JSON; put the field in quotes")
    return value


def _rtf(text: str) -> str:
    return _FIELD.sub(
        lambda match: "".join(map(_rtf_character, _LINE_END.sub("\n", match[1]))), text
    )


def _rtf_character(character: str) -> str:
    if character in "\\{}":
        return f"\\{character}"
    if character == "\n":
        return "\\line "
    if character == "\t":
        return "\\tab "
    if " " <= character <= "~":
        return character
    _refuse_controls(character)
    units = character.encode("utf-16-le", "replace")
    numbers = (int.from_bytes(units[at : at + 2], "little", signed=True) for at in (0, 2))
    return "".join(f"\\u{number}?" for number in list(numbers)[: len(units) // 2])


_KINDS: dict[str, Callable[[str], str]] = {"calendar": _calendar, "json": _json, "rtf": _rtf}
