"""Header fields and text bodies in bytes that every relay takes: ASCII, short lines, CRLF.

RFC 5322 section 2.1.1 (998 bytes a line, 78 preferred), RFC 2047 (encoded words), RFC 2045
(quoted-printable, base64). A value out of a merge field arrives between `FIELD_BEGINS` and
`FIELD_ENDS`: it is text and never syntax, so a comma, a bracket or a quote in somebody's name
cannot add a recipient, and a line break in it is refused, not repaired.
"""

import base64
import binascii
import re
import unicodedata
from email.header import Header
from itertools import groupby
from typing import NamedTuple

# Unicode keeps these code points for private use; values of fields are rid of them first.
FIELD_BEGINS, FIELD_ENDS = "\uf8f0", "\uf8f1"

# RFC 5322 section 2.1.1, without the CRLF.
MAXIMUM_LINE = 998
PREFERRED_LINE = 78
# A word is twice as long where all of it is escaped, and the header's name may stand before it.
_LONGEST_WORD = MAXIMUM_LINE // 2 - 32
# RFC 5321 section 4.5.3.1.3: a path has 256 octets, two of them the angle brackets.
MAXIMUM_ADDRESS = 254

ADDRESS_HEADERS = frozenset(
    prefix + name
    for prefix in ("", "resent-")
    for name in ("from", "sender", "reply-to", "to", "cc", "bcc")
)
# Values made of tokens: an encoded word has no meaning in them (RFC 2047 section 5).
TOKEN_HEADERS = frozenset(
    """
    date resent-date message-id resent-message-id in-reply-to references list-unsubscribe
    list-unsubscribe-post list-subscribe list-help list-post list-owner list-archive
    auto-submitted precedence return-path received dkim-signature feedback-id
    """.split()  # noqa: SIM905  (a list of them would be a page long)
)
# RFC 2369: addresses in angle brackets with commas between them, which no field may add.
URL_LIST_HEADERS = frozenset(name for name in TOKEN_HEADERS if name.startswith("list-"))

_HEADER_NAME = re.compile(r"[!-9;-~]+")
# C0 but for the tab, DEL, and whatever Python or Unicode takes for the end of a line.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")
_ENCODED_WORD = re.compile(r"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([bBqQ])\?([^?\s]*)\?=")
_ATOM = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+", re.ASCII)
_NEEDS_QUOTES = re.compile(r"[()<>\[\]:;@\\,.\"]")
_MARKED = re.compile(f"{FIELD_BEGINS}([^{FIELD_ENDS}]*)")
_NOT_IN_URL = re.compile(r"[\s<>,\"\\]")
_LOCAL_PART = re.compile(r'[^\s()<>\[\]:;@\\,"]+|"(?:[^"\\]|\\.)*"')
_DOMAIN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[A-Za-z0-9.:_-]+\]")
# IDNA 2003 (RFC 3490), which is what Python has, turns these into another domain.
_IDNA_DEVIATIONS = frozenset("\u00df\u03c2\u200c\u200d")


class RowError(ValueError):
    """This row cannot become a message: a field is missing, empty or unfit for its place."""


class Mailbox(NamedTuple):
    """A display name, "" for none, and an address with an ASCII domain."""

    name: str
    address: str


def check_header_name(name: str) -> None:
    """Refuse what cannot be a field name (RFC 5322 section 2.2), or is one with a merge field.

    Raises:
        ValueError: It cannot.
    """
    if not _HEADER_NAME.fullmatch(name) or "{{" in name or "{%" in name:
        raise ValueError(f"{name!r} cannot be the name of a header field")


def encode_header(name: str, value: str) -> bytes:
    """Write one header field of text or tokens.

    Args:
        name: The field's name.
        value: Its rendered value, with the marks of the merge fields.

    Returns:
        The folded field with its last CRLF.

    Raises:
        RowError: A line break or another control character is in it, or it cannot be encoded.
    """
    _refuse_controls(value, name)
    tokens = name.lower() in TOKEN_HEADERS
    if name.lower() in URL_LIST_HEADERS:
        for field in _MARKED.findall(value):
            if _NOT_IN_URL.search(field):
                raise RowError(f"header {name}: {field!r} cannot stand in a URL, |urlencode it")
    value = strip_marks(value).strip(" \t")
    if value.isascii() and (tokens or "=?" not in value):
        folded = _fold(f"{name}: {value}")
        if max(map(len, folded.split("\r\n"))) <= MAXIMUM_LINE:
            return f"{folded}\r\n".encode("ascii")
    if tokens:
        raise RowError(f"header {name}: it takes ASCII in words of at most {MAXIMUM_LINE} bytes")
    end = ""
    if name.lower() == "list-id":
        # RFC 2919 section 2: a phrase, and the identifier by which readers sort their mail.
        phrase, bracket, identifier = value.rpartition(" <")
        if bracket and identifier.isascii() and len(identifier) < _LONGEST_WORD:
            value, end = phrase, f"\r\n <{identifier}"
    return f"{name}: {_encoded_words(value, len(name) + 2)}{end}\r\n".encode("ascii")


def encode_addresses(name: str, mailboxes: list[Mailbox]) -> bytes:
    """Write a header field of addresses, one line for as many as fit.

    An address with a local part beyond ASCII stays as it is, in UTF-8 (RFC 6532).
    """
    text, column = f"{name}:", len(name) + 1
    for index, mailbox in enumerate(mailboxes):
        words = _mailbox_words(mailbox, len(name) + 2)
        if index + 1 < len(mailboxes):
            words[-1] += ","
        if index and column + sum(1 + len(word) for word in words) > PREFERRED_LINE:
            text, column = f"{text}\r\n", 0
        # Only what has more than a line is broken between its words.
        for place, word in enumerate(words):
            if place and column + 1 + len(word) > PREFERRED_LINE:
                text, column = f"{text}\r\n", 0
            text += f" {word}"
            column += 1 + len(word)
    return f"{text}\r\n".encode()


def encode_text(text: str, boundaries: tuple[bytes, ...]) -> tuple[str, bytes]:
    """Write a text body in seven bits.

    Args:
        text: The text, with any line ends.
        boundaries: Those of the multiparts around it, with their two dashes: no line of the
            body may be taken for one of them, whatever a merge field holds.

    Returns:
        The Content-Transfer-Encoding and the encoded body, with CRLF line ends.

    Raises:
        RowError: A lone surrogate is in it.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(f"text that is not Unicode: {error.reason}") from None
    if data.isascii() and b"\0" not in data and _lines_fit(data):
        encoding, body = "7bit", data
    else:
        encoding, body = "quoted-printable", binascii.b2a_qp(data, istext=True)
    # Base64 takes 4 bytes for 3 and a line end for 57, which is less for most scripts but Latin,
    # and there is no dash in it; a short text is better read by people.
    longer = len(body) > len(data) * 7 // 5 + 64
    if longer or any(boundary in body for boundary in boundaries):
        return "base64", _base64(data)
    return encoding, body.replace(b"\n", b"\r\n")


def decode_words(value: str) -> str:
    """Decode the encoded words of a raw header value, so that the fields in them are found.

    Each run of them comes back between the marks of a field: what was encoded is text and never
    syntax (RFC 2047 section 6.2), though it may hold a field itself.

    Raises:
        ValueError: A charset is unknown, or the words cannot be decoded in theirs.
    """
    pieces: list[str] = []
    run: list[tuple[str, bytes]] = []
    position = 0
    for match in _ENCODED_WORD.finditer(value):
        between = value[position : match.start()]
        if between.strip() or not run:
            pieces += [_decode_run(run), between]
            run = []
        run.append((match[1].lower(), _decode_word(match[2], match[3])))
        position = match.end()
    return "".join([*pieces, _decode_run(run), value[position:]])


def strip_marks(value: str) -> str:
    """The value without the marks of its fields."""
    return value.replace(FIELD_BEGINS, "").replace(FIELD_ENDS, "")


def parse_mailboxes(value: str, name: str) -> list[Mailbox]:
    """Read a rendered list of addresses (RFC 5322 section 3.4); a merge field in it is a word.

    Raises:
        RowError: A line break is in it, or something that is no address.
    """
    _refuse_controls(value, name)
    parser = _MailboxParser(name)
    for character in value:
        parser.feed(character)
    return parser.finish()


class _MailboxParser:
    """One pass over the characters; `_where` is what they belong to."""

    def __init__(self, header: str) -> None:
        self._header = header
        self._mailboxes: list[Mailbox] = []
        self._fields = 0
        self._start()

    def _start(self) -> None:
        self._phrase: list[str] = []
        self._bare: list[str] = []
        self._angle: list[str] | None = None
        self._in_angle = self._in_quotes = self._escaped = False
        self._comments = 0

    def feed(self, character: str) -> None:
        if character == FIELD_BEGINS:
            self._fields += 1
        elif character == FIELD_ENDS:
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
        """Add a character: `shown` to a display name, `literal` where it may be an address."""
        if self._comments:
            return
        if self._in_angle and self._angle is not None:
            self._angle.append(literal)
        elif self._angle is not None:
            if literal.strip():  # a second address, most likely: nobody may be lost without a word
                raise RowError(f"header {self._header}: a comma is missing behind an address")
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
        elif character == ":" and self._angle is None:
            self._start()  # what stood before it was the name of a group
        else:
            self._text(character, character)

    def _end(self) -> None:
        # No-break and ideographic spaces are somebody's own.
        phrase = " ".join(re.findall(r"[^ \t]+", "".join(self._phrase)))
        literal = "".join(self._bare if self._angle is None else self._angle).strip()
        named = self._angle is not None
        broken = self._in_angle or self._in_quotes or self._comments
        self._start()
        if broken:
            raise RowError(f"header {self._header}: a bracket or a quote is left open")
        if literal or phrase or named:
            address = check_address(literal, self._header)
            self._mailboxes.append(Mailbox(phrase if named else "", address))

    def finish(self) -> list[Mailbox]:
        self._end()
        return self._mailboxes


def check_address(address: str, header: str) -> str:
    """Check an address and write its domain in A-labels (RFC 5890).

    Raises:
        RowError: It is not one that can be sent to.
    """
    local_part, at, domain = address.rpartition("@")
    fault = f"header {header}: {address!r} is not an address"
    if not at or not _LOCAL_PART.fullmatch(local_part):
        raise RowError(fault)
    try:
        domain = domain if domain.isascii() else _a_labels(domain)
    except UnicodeError:
        raise RowError(fault) from None
    address = f"{local_part}@{domain}"
    if not _DOMAIN.fullmatch(domain) or len(address.encode("utf-8", "replace")) > MAXIMUM_ADDRESS:
        raise RowError(fault)
    return address


def _a_labels(domain: str) -> str:
    labels = []
    for label in re.split("[.\u3002\uff0e\uff61]", domain):
        if _IDNA_DEVIATIONS.isdisjoint(label):
            labels.append(label.encode("idna").decode("ascii"))
        else:
            normal = unicodedata.normalize("NFC", label.lower())
            labels.append("xn--" + normal.encode("punycode").decode("ascii"))
    return ".".join(labels)


def _refuse_controls(value: str, name: str) -> None:
    if _CONTROL.search(value):
        raise RowError(f"header {name}: a line break or control character in a field")


def _fold(line: str) -> str:
    """Break a header field before white space, never straight after its name."""
    if len(line) <= PREFERRED_LINE:
        return line
    name, _, value = line.partition(":")
    folded, length = [f"{name}:"], len(name) + 1
    for index, word in enumerate(re.findall(r"[ \t]*[^ \t]+", value)):
        if index and length + len(word) > PREFERRED_LINE:
            folded.append("\r\n")
            length = 0
        folded.append(word)
        length += len(word)
    return "".join(folded)


def _encoded_words(value: str, used: int) -> str:
    try:
        # Header takes the room for the first line from the length of a name.
        header = Header(value, "utf-8", maxlinelen=76, header_name="x" * min(used - 2, 40))
        return header.encode(linesep="\r\n")
    except UnicodeEncodeError as error:
        raise RowError(f"text that is not Unicode: {error.reason}") from None


def _mailbox_words(mailbox: Mailbox, column: int) -> list[str]:
    """What a mailbox is written in, without the blanks between; `column` is where it begins."""
    address = _header_address(mailbox.address)
    if not mailbox.name:
        return [address]
    return [*_phrase(mailbox.name, column), f"<{address}>"]


def _phrase(name: str, column: int) -> list[str]:
    """A display name: as it is, in quotes, or in encoded words."""
    words = name.split(" ")
    if all(map(_is_plain, words)):
        if _NEEDS_QUOTES.search(name):
            escaped = name.replace("\\", "\\\\").replace('"', '\\"')
            words = f'"{escaped}"'.split(" ")
        return words
    whole = _encoded_words(name, column).split()
    if len(whole) == 1 or name.isascii():
        return whole
    # Python's parser, and not it alone, reads a blank between two encoded words of a phrase, where
    # there is none (RFC 2047 section 6.2): what can do without them does.
    written: list[str] = []
    for plain, run in groupby(words, lambda word: _is_plain(word) and bool(_ATOM.fullmatch(word))):
        adjacent = list(run)
        written += adjacent if plain else _encoded_words(" ".join(adjacent), column).split()
    return written


def _is_plain(word: str) -> bool:
    """Whether a word needs no encoding: it is ASCII, fits and looks like no encoded word."""
    return word.isascii() and "=?" not in word and len(word) < _LONGEST_WORD


def _header_address(address: str) -> str:
    """An address as a header has it.

    Dots where an atom has none stand in quotes there (RFC 5322 section 3.2.3), though servers take
    them without.
    """
    local_part, _, domain = address.rpartition("@")
    if not local_part.startswith('"') and "" in local_part.split("."):
        return f'"{local_part}"@{domain}'
    return address


def _base64(data: bytes) -> bytes:
    return base64.encodebytes(data.replace(b"\n", b"\r\n")).replace(b"\n", b"\r\n")


def _lines_fit(data: bytes) -> bool:
    return len(data) <= MAXIMUM_LINE or max(map(len, data.split(b"\n"))) <= MAXIMUM_LINE


def _decode_word(encoding: str, text: str) -> bytes:
    data = text.encode("ascii", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(data, header=True)
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
    except binascii.Error as error:
        raise ValueError(f"an encoded word cannot be decoded: {error}") from None


def _decode_run(run: list[tuple[str, bytes]]) -> str:
    """Decode adjacent words; a character may be split over two of the same charset."""
    if not run:
        return ""
    text, start = [], 0
    for end in range(1, len(run) + 1):
        if end == len(run) or run[end][0] != run[start][0]:
            charset = run[start][0]
            try:
                text.append(b"".join(data for _, data in run[start:end]).decode(charset))
            except (LookupError, UnicodeDecodeError) as error:
                raise ValueError(f"an encoded word cannot be decoded: {error}") from None
            start = end
    return f"{FIELD_BEGINS}{strip_marks(''.join(text))}{FIELD_ENDS}"
