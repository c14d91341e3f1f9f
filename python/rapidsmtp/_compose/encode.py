"""Encode header fields and text bodies so that every relay accepts them: ASCII, short lines, CRLF.

The rules are in RFC 5322 section 2.1.1 (998 bytes per line, 78 preferred), RFC 2047 (encoded words)
and RFC 2045 (quoted-printable, base64). In a rendered header field, each value of a merge field is
between the marks `FIELD_START` and `FIELD_END`. This value is text and never syntax, so a comma, a
bracket or a quote in a name cannot add a recipient. A value with a line break is refused, because
it could add a header field.
"""

import base64
import binascii
import re
from email.header import Header
from itertools import groupby
from typing import NamedTuple
from urllib.parse import quote

from rapidsmtp._compose.invisible import refused, trim
from rapidsmtp._domain import to_a_labels
from rapidsmtp.errors import brief

# The marks around the value of a merge field. Unicode reserves these code points for private use. A
# mark inside a value is removed, so that a value cannot end its own marked range.
FIELD_START, FIELD_END = "\uf8f0", "\uf8f1"
# The value of a merge field in a rendered text.
MARKED = re.compile(f"{FIELD_START}([^{FIELD_END}]*)")

# RFC 5322 section 2.1.1: the maximum and the preferred length of a line, without the CRLF.
MAXIMUM_LINE = 998
PREFERRED_LINE = 78
# The minimum length from which a word must be encoded. Without encoding, such a word may not fit
# into one line: escaping may double its length, and the field name may be on the same line.
_MAX_WORD = MAXIMUM_LINE // 2 - 32
# RFC 5321 section 4.5.3.1.3: the maximum length of a path is 256 octets. The angle brackets of the
# path are two of these octets and not part of the address.
MAXIMUM_PATH = 256
MAXIMUM_ADDRESS = MAXIMUM_PATH - 2
# The maximum length of an address before its domain is converted to A-labels, in bytes. The
# conversion takes quadratic time.
_MAX_UNCONVERTED = 4 * MAXIMUM_ADDRESS

ADDRESS_HEADERS = frozenset(
    prefix + name
    for prefix in ("", "resent-")
    for name in ("from", "sender", "reply-to", "to", "cc", "bcc")
)
ENVELOPE_SENDER = "X-Rapidsmtp-Envelope-Sender"
"""The field of a template with the sender of the envelope. No message contains this field."""

# Fields whose value consists of tokens. The values of these fields must not contain encoded words
# (RFC 2047 section 5).
TOKEN_HEADERS = frozenset(
    """
    date resent-date message-id resent-message-id in-reply-to references list-unsubscribe
    list-unsubscribe-post list-subscribe list-help list-post list-owner list-archive
    auto-submitted precedence return-path received dkim-signature feedback-id
    x-rapidsmtp-envelope-sender
    """.split()  # noqa: SIM905  (a list literal would fill a page)
)
_IDENTIFIERS = frozenset(("message-id", "resent-message-id"))
# RFC 2369: the value of these fields is a list of URLs in angle brackets, separated by commas. The
# value of a merge field must not add another URL to this list.
URL_LIST_HEADERS = frozenset(name for name in TOKEN_HEADERS if name.startswith("list-"))

# The maximum length of a parameter's value in one line, without the name of the parameter.
_PIECE = 50

_HEADER_NAME = re.compile(r"[!-9;-~]+")
# The characters that a value must not contain: the C0 controls except the tab, DEL, the C1
# controls, and the characters that end a line in Python or Unicode.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_ATOM = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+", re.ASCII)
_NEEDS_QUOTES = re.compile(r"[()<>\[\]:;@\\,.\"]")
_NOT_IN_URL = re.compile(r"[\s<>,\"\\]")
# RFC 2047 section 5, rule 3. Some readers decode such a word, so they see another address.
ENCODED_WORD_IN_ADDRESS = "an encoded word is not allowed in an address (RFC 2047 section 5)"
LOCAL_PART = re.compile(r'[^\s()<>\[\]:;@\\,"]+|"(?:[^"\\]|\\.)*"')
_DOMAIN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[A-Za-z0-9.:_-]+\]")


class RowError(ValueError):
    """A row cannot be rendered: a field is missing, empty or not allowed at its place."""

    def __init__(self, reason: str) -> None:
        super().__init__(brief(reason))


class Mailbox(NamedTuple):
    """A mailbox: its display name, which may be empty, and its address with an ASCII domain."""

    name: str
    address: str


class Group(NamedTuple):
    """A group of an address list (RFC 5322 section 3.4), such as `undisclosed-recipients:;`.

    Attributes:
        name: The display name.
        start: The index of the group's first mailbox in the list.
        end: The index after the group's last mailbox.
    """

    name: str
    start: int
    end: int


class AddressList(NamedTuple):
    """An address list: its mailboxes, and the groups of them."""

    mailboxes: list[Mailbox]
    groups: list[Group]


def check_header_name(name: str) -> None:
    """Check the name of a header field (RFC 5322 section 2.2).

    A name with a merge field is not allowed.

    Raises:
        ValueError: The name is not allowed.
    """
    if not _HEADER_NAME.fullmatch(name) or "{{" in name or "{%" in name:
        raise ValueError(f"{name!r} cannot be the name of a header field")


def encode_header(name: str, value: str) -> bytes:
    """Encode one header field of text or tokens.

    Args:
        name: The name.
        value: The rendered value, with the marks of the merge fields.

    Returns:
        The folded field, with CRLF at its end. A field of tokens without a token is empty: RFC 5322
        and RFC 2369 allow such a field to be absent, but not to be empty.

    Raises:
        RowError: The value contains a control character, or cannot be encoded.
    """
    _refuse_controls(value, name)
    tokens = name.lower() in TOKEN_HEADERS
    if name.lower() in URL_LIST_HEADERS:
        for field in MARKED.findall(value):
            if _NOT_IN_URL.search(field):
                raise RowError(f"header {name}: {field!r} is not valid in a URL; use |urlencode")
    value = strip_marks(value).strip(" \t")
    if tokens and not value.strip("<>, \t"):
        return b""
    if name.lower() in _IDENTIFIERS and re.search(r"\s", value):
        # RFC 5322 section 3.6.4: white space is not allowed inside the angle brackets.
        raise RowError(f"header {name}: {value!r} is not a message identifier")
    if value.isascii() and (tokens or "=?" not in value):
        folded = _fold(f"{name}: {value}")
        if max(map(len, folded.split("\r\n"))) <= MAXIMUM_LINE:
            return f"{folded}\r\n".encode("ascii")
    if tokens:
        raise RowError(
            f"header {name}: only ASCII words of at most {MAXIMUM_LINE} bytes are allowed"
        )
    end = ""
    if name.lower() == "list-id":
        # RFC 2919 section 2: the value of List-Id is a phrase and an identifier. Only the phrase
        # may be encoded.
        phrase, bracket, identifier = value.rpartition(" <")
        if bracket and identifier.isascii() and len(identifier) < _MAX_WORD:
            value, end = phrase, f"\r\n <{identifier}"
    return f"{name}: {_encoded_words(value, len(name) + 2)}{end}\r\n".encode("ascii")


def encode_parameter(name: str, value: str) -> str:
    """Encode a parameter of a MIME header field (RFC 2045 section 5.1, RFC 2231).

    The value is a literal, so it is never parsed. Some readers decode an encoded word in quotes,
    although RFC 2047 section 5 forbids it. So a value with "=?" is written as RFC 2231 defines.

    Args:
        name: The name of the parameter.
        value: The value, of any characters and any length.

    Returns:
        The parameter. A long one has several lines.

    Raises:
        UnicodeEncodeError: The value has a lone surrogate.
    """
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    if value.isascii() and value.isprintable() and "=?" not in value and len(escaped) <= _PIECE:
        return f'{name}="{escaped}"'
    pieces = [""]
    for character in value:
        encoded = quote(character, safe="")
        if len(pieces[-1]) + len(encoded) > _PIECE:
            pieces.append("")
        pieces[-1] += encoded
    pieces[0] = f"utf-8''{pieces[0]}"
    if len(pieces) == 1:
        return f"{name}*={pieces[0]}"
    return ";\r\n ".join(f"{name}*{number}*={piece}" for number, piece in enumerate(pieces))


def encode_addresses(name: str, addresses: AddressList) -> bytes:
    """Encode a header field of addresses. Each line contains as many addresses as fit.

    An address whose local part is not ASCII stays in UTF-8 (RFC 6532).
    """
    text, column = f"{name}:", len(name) + 1
    for index, words in enumerate(_entries(addresses, len(name) + 2)):
        if index and column + sum(1 + len(word) for word in words) > PREFERRED_LINE:
            text, column = f"{text}\r\n", 0
        # Break between the words of a mailbox only if the mailbox is longer than a line.
        for place, word in enumerate(words):
            if place and column + 1 + len(word) > PREFERRED_LINE:
                text, column = f"{text}\r\n", 0
            text += f" {word}"
            column += 1 + len(word)
    return f"{text}\r\n".encode()


def _entries(addresses: AddressList, column: int) -> list[list[str]]:
    """Return the words of each mailbox and of each start of a group, with their punctuation."""
    mailboxes, groups = addresses
    entries: list[list[str]] = []
    pending = list(reversed(groups))
    group: Group | None = None
    for index in range(len(mailboxes) + 1):
        while pending and pending[-1].start == index:
            group = pending.pop()
            _separate(entries)
            entries.append(_phrase(group.name, column))
            entries[-1][-1] += ":;" if group.start == group.end else ":"
        if index < len(mailboxes):
            _separate(entries)
            entries.append(_mailbox_words(mailboxes[index], column))
            if group is not None and index + 1 == group.end:
                entries[-1][-1] += ";"
    return entries


def _separate(entries: list[list[str]]) -> None:
    if entries and not entries[-1][-1].endswith(":"):
        entries[-1][-1] += ","


def encode_text(text: str, boundaries: tuple[bytes, ...]) -> tuple[str, bytes]:
    """Encode a text body as 7-bit data.

    Args:
        text: The text, with any line ends.
        boundaries: The delimiters of the enclosing multiparts. The encoded body must not contain a
            delimiter, for any value of a merge field.

    Returns:
        The Content-Transfer-Encoding and the encoded body, with CRLF line ends.

    Raises:
        RowError: The text has a lone surrogate.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(f"the text is not valid Unicode: {error.reason}") from None
    if data.isascii() and b"\0" not in data and _lines_fit(data):
        encoding, body = "7bit", data
    else:
        encoding, body = "quoted-printable", binascii.b2a_qp(data, istext=True)
    # Choose base64 if it is shorter than quoted-printable, as for most scripts except Latin. Base64
    # writes 4 bytes for 3 bytes, and a line end for each 57 bytes. The constant 64 keeps a short
    # text in quoted-printable, which people can read. Also choose base64 if the body chosen so far
    # contains a delimiter. A delimiter begins with dashes, and base64 contains no dash.
    longer = len(body) > len(data) * 7 // 5 + 64
    if longer or any(boundary in body for boundary in boundaries):
        return "base64", _base64(data)
    return encoding, body.replace(b"\n", b"\r\n")


def strip_marks(value: str) -> str:
    """Return a value without the marks of its merge fields."""
    return value.replace(FIELD_START, "").replace(FIELD_END, "")


def parse_mailboxes(value: str, name: str, *, convert: bool = True) -> list[Mailbox]:
    """Parse a rendered list of addresses, as `parse_addresses` does, and return its mailboxes."""
    return parse_addresses(value, name, convert=convert).mailboxes


def parse_addresses(value: str, name: str, *, convert: bool = True) -> AddressList:
    """Parse a rendered list of addresses (RFC 5322 section 3.4).

    The value of a merge field is one word.

    Args:
        value: The list.
        name: The name of the header field.
        convert: Whether to convert the domains to A-labels.

    Raises:
        RowError: The value contains a control character, or is not a list of addresses.
    """
    _refuse_controls(value, name)
    parser = _MailboxParser(name, convert)
    for character in value:
        parser.feed(character)
    return parser.finish()


class _MailboxParser:
    """A parser of address lists. It reads each character once."""

    def __init__(self, header: str, convert: bool) -> None:
        self._header = header
        self._convert = convert
        self._mailboxes: list[Mailbox] = []
        self._groups: list[Group] = []
        self._group: tuple[str, int] | None = None
        self._fields = 0
        self._start()

    def _start(self) -> None:
        self._phrase: list[str] = []
        self._bare: list[str] = []
        self._angle: list[str] | None = None
        self._in_angle = self._in_quotes = self._escaped = self._has_at = False
        self._comments = 0

    def feed(self, character: str) -> None:
        if character == FIELD_START:
            self._fields += 1
        elif character == FIELD_END:
            self._fields -= 1
        elif self._fields or self._escaped:
            self._escaped = False
            self._text(character, character)
        elif character == "\\" and (self._in_quotes or self._comments):
            self._escaped = True
            self._text("", character)
        elif self._comments or (character == "(" and not self._in_quotes):
            self._comments += {"(": 1, ")": -1}.get(character, 0)
        elif character == '"':
            self._in_quotes = not self._in_quotes
            self._text("", character)
        elif self._in_quotes:
            self._text(character, character)
        else:
            self._syntax(character)

    def _text(self, shown: str, literal: str) -> None:
        """Add a character, as `shown` to the display name, as `literal` to an address."""
        if self._comments:
            return
        if self._in_angle and self._angle is not None:
            self._angle.append(literal)
        elif self._angle is not None:
            if literal.strip():  # most likely a second address, which must not be dropped silently
                raise RowError(f"header {self._header}: a comma is missing after an address")
        else:
            self._phrase.append(shown)
            self._bare.append(literal)

    def _syntax(self, character: str) -> None:
        if character == "<" and self._angle is None:
            self._angle, self._in_angle = [], True
        elif character == ">" and self._in_angle:
            self._in_angle = False
        elif self._in_angle:
            self._text(character, character)
        elif character in ",;":
            self._end()
            if character == ";":
                self._end_group()
        elif character == ":" and self._angle is None and not self._has_at:
            self._end_group()
            self._group = _words_of(self._phrase), len(self._mailboxes)
            self._start()
        else:
            self._has_at = self._has_at or character == "@"
            self._text(character, character)

    def _end(self) -> None:
        phrase = _words_of(self._phrase)
        literal = trim("".join(self._bare if self._angle is None else self._angle))
        named = self._angle is not None
        broken = self._in_angle or self._in_quotes or self._comments
        self._start()
        if broken:
            raise RowError(f"header {self._header}: a bracket or quote is not closed")
        if literal or phrase or named:
            address = check_address(literal, f"header {self._header}")
            address = address if self._convert else literal
            self._mailboxes.append(Mailbox(phrase if named else "", address))

    def _end_group(self) -> None:
        if self._group is not None:
            name, start = self._group
            if name:
                self._groups.append(Group(name, start, len(self._mailboxes)))
        self._group = None

    def finish(self) -> AddressList:
        self._end()
        self._end_group()
        return AddressList(self._mailboxes, self._groups)


def _words_of(characters: list[str]) -> str:
    # Split at spaces and tabs only. `str.split` would also split at no-break and ideographic
    # spaces, which are part of a name.
    return " ".join(re.findall(r"[^ \t]+", "".join(characters)))


def place_of_header(name: str) -> str:
    """Return the name of a header field in error messages."""
    return "envelope_sender" if name == ENVELOPE_SENDER else f"header {name}"


def parse_envelope_sender(value: str, is_constant: bool) -> str:
    """Return the address in a rendered sender of the envelope (RFC 5321 section 4.1.2).

    Args:
        value: The value. It is empty for the null reverse-path.
        is_constant: Whether the value is the same for each row. Only then it may be the null
            reverse-path, so that an empty field does not make a message without bounces.

    Returns:
        The address, or "" for the null reverse-path.

    Raises:
        RowError: The value is not an address.
    """
    place = place_of_header(ENVELOPE_SENDER)
    if has_control(value):
        raise RowError(f"{place}: the value contains a line break or control character")
    address = trim(strip_marks(value))
    if address:
        return check_address(address, place)
    if is_constant:
        return ""
    raise RowError(f"{place}: the address is empty; only a constant empty text is the null sender")


def check_address(address: str, place: str) -> str:
    """Return an address with its domain in A-labels (RFC 5890).

    Args:
        address: The address.
        place: Its place in error messages, such as "header To".

    Raises:
        RowError: The text is not an address.
    """
    local_part, at, domain = address.rpartition("@")
    fault = f"{place}: {address!r} is not an address"
    if at and (character := refused(local_part)):
        raise RowError(f"{fault}: it contains {character}")
    if _length(address) > _MAX_UNCONVERTED or not at or not LOCAL_PART.fullmatch(local_part):
        raise RowError(fault)
    if "=?" in local_part and "?=" in local_part:
        raise RowError(f"{place}: {ENCODED_WORD_IN_ADDRESS}")
    try:
        domain = to_a_labels(domain)
    except ValueError:
        raise RowError(fault) from None
    address = f"{local_part}@{domain}"
    if not _DOMAIN.fullmatch(domain) or _length(address) > MAXIMUM_ADDRESS:
        raise RowError(fault)
    return address


def _length(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def has_control(value: str) -> bool:
    """Return whether a value has a line break or another control character except the tab."""
    return _CONTROL.search(value) is not None


def _refuse_controls(value: str, name: str) -> None:
    if has_control(value):
        raise RowError(f"header {name}: the value contains a line break or control character")


def _fold(line: str) -> str:
    """Break a header field before white space, but not directly after its name."""
    if len(line) <= PREFERRED_LINE:
        return line
    name, _, value = line.partition(":")
    folded, length = [f"{name}:"], len(name) + 1
    # `rstrip` keeps this linear: the expression would search each suffix of trailing white space.
    for index, word in enumerate(re.findall(r"[ \t]*[^ \t]+", value.rstrip(" \t"))):
        if index and length + len(word) > PREFERRED_LINE:
            folded.append("\r\n")
            length = 0
        folded.append(word)
        length += len(word)
    return "".join(folded)


def _encoded_words(value: str, used: int) -> str:
    try:
        # `Header` reserves space for the name of the field in the first line. Here, the first line
        # already contains `used` characters. So a name of about this length is passed.
        header = Header(value, "utf-8", maxlinelen=76, header_name="x" * min(used - 2, 40))
        return header.encode(linesep="\r\n")
    except UnicodeEncodeError as error:
        raise RowError(f"the text is not valid Unicode: {error.reason}") from None


def _mailbox_words(mailbox: Mailbox, column: int) -> list[str]:
    """Return the words of a mailbox in a header; the first word starts at `column`."""
    address = _header_address(mailbox.address)
    if not mailbox.name:
        return [address]
    return [*_phrase(mailbox.name, column), f"<{address}>"]


def _phrase(name: str, column: int) -> list[str]:
    """Return the words of a display name: unchanged, in quotes, or as encoded words."""
    words = name.split(" ")
    if all(map(_is_plain, words)):
        if _NEEDS_QUOTES.search(name):
            escaped = name.replace("\\", "\\\\").replace('"', '\\"')
            words = f'"{escaped}"'.split(" ")
        return words
    whole = _encoded_words(name, column).split()
    if len(whole) == 1 or name.isascii():
        return whole
    # RFC 2047 section 6.2: a parser must ignore white space between two encoded words. But in a
    # phrase, Python's parser and others read it as a space. To avoid adjacent encoded words where
    # possible, the words that need no encoding stay unchanged.
    encoded: list[str] = []
    for plain, run in groupby(words, lambda word: _is_plain(word) and bool(_ATOM.fullmatch(word))):
        adjacent = list(run)
        encoded += adjacent if plain else _encoded_words(" ".join(adjacent), column).split()
    return encoded


def _is_plain(word: str) -> bool:
    """Return whether a word needs no encoding: it is ASCII, short and not like an encoded word."""
    return word.isascii() and "=?" not in word and len(word) < _MAX_WORD


def _header_address(address: str) -> str:
    """Return an address as it is written in a header.

    RFC 5322 section 3.2.3: in a header, a local part with a leading, trailing or double dot needs
    quotes. The envelope keeps such an address without quotes, because servers accept this form.
    """
    local_part, _, domain = address.rpartition("@")
    if not local_part.startswith('"') and "" in local_part.split("."):
        return f'"{local_part}"@{domain}'
    return address


def _base64(data: bytes) -> bytes:
    return base64.encodebytes(data.replace(b"\n", b"\r\n")).replace(b"\n", b"\r\n")


def _lines_fit(data: bytes) -> bool:
    return len(data) <= MAXIMUM_LINE or max(map(len, data.split(b"\n"))) <= MAXIMUM_LINE
