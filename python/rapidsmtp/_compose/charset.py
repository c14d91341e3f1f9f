"""Decode the texts and header fields of messages as mail programs do."""

import re

from rapidsmtp import _backend
from rapidsmtp._charset import encoding_for_label, standard_label

_SURROGATES = re.compile("[\udc80-\udcff]+")
# HTML without a charset in its Content-Type states the charset near its beginning.
_META = re.compile(rb"<meta\b[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_META_RANGE = 2048


def decode_text(data: bytes, charset: str | None, html: bool = False) -> tuple[str, str]:
    """Decode the text of a part as mail programs do.

    Args:
        data: The text without its transfer encoding.
        charset: The charset that the Content-Type states, or None.
        html: Whether the text may state its charset itself.

    Returns:
        The text and the label of its charset.

    Raises:
        ValueError: The charset is unknown, or the text is not valid in it.
    """
    if charset is None and html:
        charset = stated_charset(data)
    label = (charset or "").strip(" \t\r\n'\"").lower()
    if label in _UNSTATED:
        # Messages without a charset are usually UTF-8, and otherwise windows-1252.
        label = "utf-8" if _is_utf_8(data) else "windows-1252"
    return decode_charset(label, data), label


_UNSTATED = frozenset(
    ("", "us-ascii", "ascii", "ansi_x3.4-1968", "unknown-8bit", "unknown", "x-unknown", "8bit")
)


def stated_charset(html: bytes) -> str | None:
    """Return the charset that HTML states in a `meta` near its beginning, or None."""
    meta = _META.search(html[:_META_RANGE])
    charset = meta[1].decode("ascii") if meta is not None else None
    # The bytes before the `meta` are ASCII, so the text is not UTF-16.
    return None if charset is not None and "16" in charset else charset


def decode_charset(label: str, data: bytes) -> str:
    """Decode bytes by the label of a charset.

    Raises:
        ValueError: The charset is unknown, or the bytes are not valid in it.
    """
    known = standard_label(label)
    try:
        if known is not None:
            return _backend.decode_charset(known, data)
        codec = encoding_for_label(label)
        if codec is None:
            raise ValueError(f"the charset {label!r} is unknown")
        return data.decode(codec)
    except UnicodeDecodeError:
        raise ValueError(f"the text is not valid in its charset, {label}") from None


def text_of(value: str) -> str:
    """Return a raw value with its bytes decoded: as UTF-8, or as windows-1252 if they are not."""

    def decoded(match: re.Match[str]) -> str:
        data = match[0].encode("ascii", "surrogateescape")
        return decode_text(data, None)[0]

    return _SURROGATES.sub(decoded, value)


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
