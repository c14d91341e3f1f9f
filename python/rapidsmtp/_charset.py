"""Decode text by the label of its charset, as the WHATWG Encoding standard does.

Mail programs and browsers follow this standard: they decode a text with the label `iso-8859-1` as
windows-1252, and with `gb2312` as GB 18030. The compiled backend uses the crate encoding_rs
(`src/charset.rs`). Both backends give the same text, with one exception: Python's Big5 lacks 192
rare characters, and has two punctuation marks of another width.
"""

import codecs
import re
from collections.abc import Callable

# Each entry is a codec of Python with a colon, and the labels of the standard for this codec.
_TABLE = """
    utf_8: unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8
    big5hkscs: big5 big5-hkscs cn-big5 csbig5 x-x-big5
    cp1250: cp1250 windows-1250 x-cp1250
    cp1251: cp1251 windows-1251 x-cp1251
    cp1252: ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100
        iso8859-1 iso88591 iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252
    cp1253: cp1253 windows-1253 x-cp1253
    cp1254: cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9
        iso_8859-9:1989 l5 latin5 windows-1254 x-cp1254
    cp1255: cp1255 windows-1255 x-cp1255
    cp1256: cp1256 windows-1256 x-cp1256
    cp1257: cp1257 windows-1257 x-cp1257
    cp1258: cp1258 windows-1258 x-cp1258
    cp866: 866 cp866 csibm866 ibm866
    cp874: dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874
    cp932: csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis
    cp949: cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989
        ksc5601 ksc_5601 windows-949
    euc_jp: cseucpkdfmtjapanese euc-jp x-euc-jp
    gb18030: chinese csgb2312 csiso58gb231280 gb18030 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58
        x-gbk
    iso2022_jp: csiso2022jp iso-2022-jp
    iso8859_10: csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6
    iso8859_13: iso-8859-13 iso8859-13 iso885913
    iso8859_14: iso-8859-14 iso8859-14 iso885914
    iso8859_15: csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9
    iso8859_16: iso-8859-16
    iso8859_2: csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987
        l2 latin2
    iso8859_3: csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988
        l3 latin3
    iso8859_4: csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988
        l4 latin4
    iso8859_5: csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5
        iso_8859-5:1988
    iso8859_6: arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6
        iso-8859-6-e iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987
    iso8859_7: csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7
        iso88597 iso_8859-7 iso_8859-7:1987 sun_eu_greek
    iso8859_8: csiso88598e csiso88598i csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e
        iso-8859-8-i iso-ir-138 iso8859-8 iso88598 iso_8859-8 iso_8859-8:1988 logical visual
    koi8_r: cskoi8r koi koi8 koi8-r koi8_r
    koi8_u: koi8-ru koi8-u
    mac_cyrillic: x-mac-cyrillic x-mac-ukrainian
    mac_roman: csmacintosh mac macintosh x-mac-roman
    utf_16_be: unicodefffe utf-16be
    utf_16_le: csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le
"""


def _labels() -> dict[str, str]:
    labels, codec = {}, ""
    for word in _TABLE.split():
        if word.endswith(":"):
            codec = word[:-1]
        else:
            labels[word] = codec
    return labels


_CODECS = _labels()

# The differences between the standard and the codecs of Python. KOI8-U, and GB 18030 of 2022:
_KOI8_U = {"╝": "ў", "╬": "Ў"}
_GB18030 = dict(
    zip(
        "\ue5e5\ue78d\ue78e\ue78f\ue790\ue791\ue792\ue793\ue794\ue795\ue796\ue7c7"
        "\ue81e\ue826\ue82b\ue82c\ue832\ue843\ue854\ue864",
        "\u3000︐︒︑︓︔︕︖︗︘︙ḿ龴龵龶龷龸龹龺龻",
        strict=True,
    )
)
_BIG5 = dict(
    zip(
        "\u2022\uff64\u203e\u223c\u2641\u2609\u00a5\u00a2\u00a3",
        "\u2027\ufe51\u00af\uff5e\u2295\u2299\uffe5\uffe0\uffe1",
        strict=True,
    )
)
_TRANSLATIONS = {
    "koi8_u": str.maketrans(_KOI8_U),
    "gb18030": str.maketrans(_GB18030),
    "big5hkscs": str.maketrans(_BIG5),
}
# Codecs of Python that are no charsets, in addition to those from bytes to bytes.
_NO_CHARSETS = frozenset(
    ("idna", "mbcs", "oem", "punycode", "raw_unicode_escape", "undefined", "unicode_escape")
)
_ESCAPE = re.compile(rb"\x1b(\([BJI]|\$[@B])")


def encoding_for_label(label: str) -> str | None:
    """Return the codec of Python for the label of a charset.

    Args:
        label: A label of the standard, or a name of the same charset in Python, such as `latin-1`.
            Case and white space around the label have no effect.

    Returns:
        The name of the codec; None if neither the standard nor Python knows the label. For a
        charset of the standard, `decode` is exact, and the codec is nearly exact.
    """
    known = standard_label(label)
    if known is not None:
        return _CODECS[known]
    try:
        codec = codecs.lookup(label.strip())
    except (LookupError, ValueError):
        return None
    name = codec.name.replace("-", "_")
    is_charset = getattr(codec, "_is_text_encoding", True) and name not in _NO_CHARSETS
    return codec.name if is_charset else None


def standard_label(label: str) -> str | None:
    """Return a label of the standard for the same charset, or None if it has no such charset."""
    label = label.strip(" \t\n\r\f").lower()
    if label in _CODECS:
        return label
    try:
        name = codecs.lookup(label).name.lower()
    except (LookupError, ValueError):
        return None
    return next((each for each in (name, name.replace("_", "-")) if each in _CODECS), None)


def decode(label: str, data: bytes) -> str:
    """Decode bytes by a label of the standard.

    Args:
        label: The label, in lower case.
        data: The bytes. A byte order mark of UTF-16 takes precedence over its label.

    Raises:
        LookupError: The standard has no such label.
        ValueError: The bytes are not valid in this charset.
    """
    codec = _CODECS.get(label)
    if codec is None:
        raise LookupError(f"the charset {label!r} is unknown")
    if codec.startswith("utf_16"):
        codec = "utf_16" if data[:2] in (codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE) else codec
    errors = _ERRORS if codec.startswith(("cp12", "cp874", "gb")) else "strict"
    try:
        text = _DECODERS[codec](data) if codec in _DECODERS else data.decode(codec, errors)
    except UnicodeError:
        raise ValueError(f"the text is not valid in its charset, {label}") from None
    # The standard has no private-use characters for these bytes of Shift_JIS.
    if codec == "cp932" and re.search("[\uf8f0-\uf8f3]", text):
        raise ValueError(f"the text is not valid in its charset, {label}")
    return text.translate(_TRANSLATIONS.get(codec, {}))


def _euc_jp(data: bytes) -> str:
    """Decode EUC-JP with the characters of NEC and IBM, which Python has for Shift_JIS only."""
    text, place = [], 0
    while place < len(data):
        first = data[place]
        if first < 0x80:
            size, piece = 1, chr(first)
        elif first == 0x8E:
            size, piece = 2, data[place : place + 2].decode("euc_jp")
        elif first == 0x8F:
            size, piece = 3, data[place : place + 3].decode("euc_jp")
            piece = "\uff5e" if piece == "~" else piece
        else:
            size, piece = 2, _jis(data[place : place + 2])
        text.append(piece)
        place += size
    return "".join(text)


def _jis(pair: bytes) -> str:
    """Decode one character of JIS X 0208 in EUC, by its bytes in Shift_JIS."""
    if len(pair) != 2 or not all(0xA1 <= byte <= 0xFE for byte in pair):
        raise UnicodeError
    row, cell = pair[0] - 0xA1, pair[1] - 0xA1
    lead = row // 2 + (0x81 if row < 62 else 0xC1)
    trail = cell + (0x9F if row % 2 else 0x40 if cell < 63 else 0x41)
    return bytes((lead, trail)).decode("cp932")


def _iso_2022_jp(data: bytes) -> str:
    text, mode = [], b"(B"
    for number, piece in enumerate(_ESCAPE.split(data)):
        if number % 2:
            mode = piece
        elif not piece.isascii() or any(byte in piece for byte in (b"\x0e", b"\x0f", b"\x1b")):
            raise UnicodeError
        elif mode.startswith(b"$"):
            high = bytes(byte | 0x80 if byte > 0x20 else byte for byte in piece)
            text.append(_euc_jp(high))
        elif mode == b"(I":
            if any(byte > 0x5F for byte in piece):
                raise UnicodeError
            text.append("".join(chr(byte + 0xFF40) if byte > 0x20 else chr(byte) for byte in piece))
        else:
            shown = piece.decode("ascii")
            text.append(shown.translate({0x5C: "¥", 0x7E: "‾"}) if mode == b"(J" else shown)
    return "".join(text)


_DECODERS: dict[str, Callable[[bytes], str]] = {"euc_jp": _euc_jp, "iso2022_jp": _iso_2022_jp}


def _as_control(error: UnicodeError) -> tuple[str, int]:
    """Decode a byte that has no character in Python's codec, as the standard does.

    In a charset of Windows, such a byte from 0x80 to 0x9F is a C1 control character.
    """
    if not isinstance(error, UnicodeDecodeError):
        raise error
    byte = error.object[error.start]
    if error.encoding == "gb18030" and byte == 0x80:
        return "€", error.start + 1
    if error.encoding == "charmap" and 0x80 <= byte <= 0x9F:
        return chr(byte), error.start + 1
    if error.encoding == "charmap" and byte == 0xCA:  # windows-1255
        return "\u05ba", error.start + 1
    raise error


_ERRORS = "rapidsmtp.charset"
codecs.register_error(_ERRORS, _as_control)
