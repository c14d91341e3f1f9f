"""Decode the encoded words of a raw header value (RFC 2047)."""

import binascii
import re

from rapidsmtp._compose.charset import decode_text
from rapidsmtp._compose.encode import (
    ENCODED_WORD_IN_ADDRESS,
    FIELD_END,
    FIELD_START,
    strip_marks,
)

_ENCODED_WORD = re.compile(r"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([bBqQ])\?([^?\s]*)\?=")


def decode_words(value: str) -> str:
    """Decode the encoded words of a raw header value, so that merge fields in them are found.

    Adjacent encoded words are joined. The decoded text is returned between the marks of a merge
    field, because encoded text is never syntax (RFC 2047 section 6.2). The decoded text may itself
    contain merge fields.

    Raises:
        ValueError: A charset is unknown, or a word cannot be decoded with its charset.
    """
    decoded: list[str] = []
    run: list[tuple[str, bytes]] = []
    position = 0
    for match in _ENCODED_WORD.finditer(value):
        between = value[position : match.start()]
        if between.strip() or not run:
            decoded += [_decode_run(run), between]
            run = []
        run.append((match[1].lower(), _decode_word(match[2], match[3])))
        position = match.end()
    return "".join([*decoded, _decode_run(run), value[position:]])


def check_words(value: str) -> None:
    """Check that no address in a raw header value contains an encoded word.

    Raises:
        ValueError: An address contains an encoded word.
    """
    words = _ENCODED_WORD.sub("\0", value)
    in_address = any("\0" in each and "@" in each for each in re.split(r"[\s,;<>()]+", words))
    if in_address or re.search(r"<[^<>]*\0", words):
        raise ValueError(ENCODED_WORD_IN_ADDRESS)


def _decode_word(encoding: str, text: str) -> bytes:
    data = text.encode("ascii", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(data, header=True)
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
    except binascii.Error as error:
        raise ValueError(f"an encoded word cannot be decoded: {error}") from None


def _decode_run(run: list[tuple[str, bytes]]) -> str:
    """Decode adjacent encoded words.

    The bytes of two words with the same charset are joined before decoding, because a character may
    be split between the two words.
    """
    if not run:
        return ""
    text, start = [], 0
    for end in range(1, len(run) + 1):
        if end == len(run) or run[end][0] != run[start][0]:
            charset = run[start][0]
            try:
                text.append(decode_text(b"".join(data for _, data in run[start:end]), charset)[0])
            except ValueError as error:
                raise ValueError(f"an encoded word cannot be decoded: {error}") from None
            start = end
    return f"{FIELD_START}{strip_marks(''.join(text))}{FIELD_END}"
