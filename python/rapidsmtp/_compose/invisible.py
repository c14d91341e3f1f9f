"""Characters that a person does not see in an address, or takes for part of the text around it.

Such characters come from word processors, web pages and spreadsheets. RFC 8264 section 4.2 excludes
them from identifiers. At the ends of an address they are removed. Inside a local part they are
refused, because no mailbox has such an address. The compiled backend has the same rules in
`src/message/invisible.rs`.
"""

import re
import unicodedata

# The characters with the property Default_Ignorable_Code_Point (Unicode 16).
_IGNORABLE = (
    "\u00ad\u034f\u061c\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Refused characters that are not ignorable: spaces, quotation marks and bullets.
_OTHERS = (
    "\u00a0\u00ab\u00bb\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2022\u2023\u202f\u2039\u203a\u2043"
    "\u204c\u204d\u205f\u2219\u25aa\u25cf\u25e6\u2e42\u3000\u301d\u301e\u301f\uff02\uff07"
)
# The refused characters that an error text names. Others are "an invisible character".
_NAMED = frozenset(
    _OTHERS + "\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
    "\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\u3164\ufe0e\ufe0f\ufeff"
)
_EDGE = re.compile(f"[\\s{_IGNORABLE}]")
_REFUSED = re.compile(f"[{_IGNORABLE}{_OTHERS}]")


def trim(text: str) -> str:
    """Remove white space and invisible characters from both ends of an address."""
    text = text.strip()
    if text.isascii():
        return text
    start, end = 0, len(text)
    while start < end and _EDGE.match(text, start):
        start += 1
    while start < end and _EDGE.match(text, end - 1):
        end -= 1
    return text[start:end]


def without_invisible(text: str) -> str:
    """Return a text of one line: each run of white space is one space, others are removed."""
    return " ".join(re.sub(f"[{_IGNORABLE}]", "", text).split())


def refused(local_part: str) -> str | None:
    """Return the first refused character of a local part: `U+200B, ZERO WIDTH SPACE`."""
    if local_part.isascii() or (match := _REFUSED.search(local_part)) is None:
        return None
    character = match[0]
    name = unicodedata.name(character) if character in _NAMED else "an invisible character"
    return f"U+{ord(character):04X}, {name}"
