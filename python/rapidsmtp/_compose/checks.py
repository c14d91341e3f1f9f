"""Checks of a template before its messages are sent: problems that no server reports.

`CHECKS` lists the checks with their names, which do not change. A check is a function that yields a
`Problem` for each place. To add a check, write its function and add it to `CHECKS`.

The checks of texts read the template's source, and the first rendered message if there is one. A
value of a row can also be the cause of a problem. The checks of the whole message need a rendered
message. All expressions take linear time.

A message may have a megabyte of text, and `str.find` is many times as fast as an expression. So an
expression is tried only at the places of the characters with which it begins (`_matches`).
"""

import difflib
import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from email.utils import parseaddr
from heapq import merge
from operator import attrgetter
from typing import NamedTuple
from urllib.parse import unquote

from rapidsmtp._compose.charset import decode_text, text_of
from rapidsmtp._compose.encode import strip_marks
from rapidsmtp._compose.foreign_fields import foreign_fields, known_names
from rapidsmtp._compose.list_columns import identifier
from rapidsmtp._compose.mime import Part
from rapidsmtp._compose.parts import field_in_file, kind_of, place_of
from rapidsmtp._compose.text_part import has_syntax
from rapidsmtp._compose.words import decode_words
from rapidsmtp.errors import printable

# The maximum number of findings of one check. The last finding states the total number.
_MAX_FINDINGS = 5
_MAX_SHOWN = 60
# The maximum distance between the start of a tag and one of its attributes.
_MAX_TAG = 3_000
# "<" is frequent in HTML, so a single search finds the places of all these tags.
_TAG = re.compile("<(?=(!--|script|style|link|iframe|frameset|object|embed|applet|form|base))")


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that `Template.check` has found.

    Attributes:
        name: The name of the check, such as "relative-link".
        text: The problem and the cure, in one line.
        part: The part or the header field with the problem; "" if the problem concerns the message.
        line: The number of the line in the part, from 1; 0 if the problem has no place.
        column: The column in the line, from 1; 0 if the problem has no place.
    """

    name: str
    text: str
    part: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        place = f"{self.part}, line {self.line}, column {self.column}: " if self.line else ""
        return f"{place}{self.text} [{self.name}]"


Finding.__module__ = "rapidsmtp"


class CheckedText(NamedTuple):
    """A text that the checks read.

    Attributes:
        place: The name of the part or of the header field.
        kind: The kind of the text, as in `TextPart`; "header" for a header field.
        text: The decoded text.
        is_source: Whether the text is the source of the template, and not a rendered text.
        markup: The text, with spaces instead of HTML comments, so all positions stay the same.
        shown: `markup`, with spaces instead of style sheets and scripts.
        folded: The text with ASCII letters in lower case.
        tags: The places at which `_TAG` matches, by the matched characters in lower case.
        broken: The places of the fields whose braces are encoded or separated.
    """

    place: str
    kind: str
    text: str
    is_source: bool
    markup: str
    shown: str
    folded: str
    tags: Mapping[str, Sequence[int]]
    broken: Sequence[tuple[int, int]] = ()

    @classmethod
    def of(cls, place: str, kind: str, text: str, is_source: bool) -> "CheckedText":
        """Create the text."""
        if text.isascii():
            folded = text.lower()
        else:
            folded = text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")
        tags: dict[str, list[int]] = {}
        for match in _TAG.finditer(folded):
            tags.setdefault(f"<{match[1]}", []).append(match.start())
        markup = shown = text
        if kind == "html" and "<!--" in tags:
            markup = shown = _blanked(text, _stretches(text, _COMMENT, _COMMENT_END))
        if kind == "html" and tags.keys() & {"<style", "<script"}:
            shown = _blanked(markup, _stretches(markup, _INVISIBLE, _INVISIBLE_END))
        created = cls(place, kind, text, is_source, markup, shown, folded, tags)
        starts = merge(*map(created.places, ("%", "&", "\N{FULLWIDTH LEFT CURLY BRACKET}")))
        broken = [
            match.span()
            for pattern, places in ((_ENCODED_FIELD, starts), (_SPLIT_FIELD, created.places("{")))
            for match in _matches(pattern, places, shown)
        ]
        return created._replace(broken=sorted(broken))

    def places(self, start: str) -> Iterator[int]:
        """Yield the places of some characters in lower case, in order.

        If the first character is "<", the characters must be in `_TAG`.
        """
        if start[0] == "<":
            yield from self.tags.get(start, ())
        # The search for one character is many times as fast as for several characters.
        elif all(each in self.folded for each in start if not each.isalpha()):
            place = self.folded.find(start)
            while place >= 0:
                yield place
                place = self.folded.find(start, place + 1)


class Problem(NamedTuple):
    """A problem at a position in a text. If it concerns the whole message, `where` is None."""

    text: str
    where: CheckedText | None = None
    position: int = 0


@dataclass(slots=True)
class Inspected:
    """The template and the message that the checks read.

    Attributes:
        fields: The names of the template's fields.
        columns: The columns of the recipients list, or None if they are not known.
        message: The rendered message, or None.
        texts: The texts of the template and of the message.
        content_ids: The Content-IDs of the parts.
        files: The attached files that contain a field, each with its first field.
        links: The links and images of the HTML texts.
        known: The names for `foreign_fields` (see `known_names`).
    """

    fields: frozenset[str]
    columns: frozenset[str] | None = None
    message: Part | None = None
    texts: list[CheckedText] = field(default_factory=list)
    content_ids: set[str] = field(default_factory=set)
    files: list[tuple[str, CheckedText]] = field(default_factory=list)
    links: "list[_Link]" = field(default_factory=list)
    known: Set[str] = frozenset()

    def html(self) -> Iterator[CheckedText]:
        """Yield the HTML texts."""
        return (text for text in self.texts if text.kind == "html")


def inspect(source: bytes, fields: Iterable[str]) -> Inspected:
    """Return the input of the checks for a template.

    Args:
        source: The source of the template, as a message file.
        fields: The names of the template's fields.
    """
    template = Inspected(frozenset(fields))
    _add_texts(template, Part(source), is_source=True)
    template.links += _links(template.html())
    return template


def check(
    template: Inspected, columns: Iterable[str] | None = None, message: bytes | None = None
) -> list[Finding]:
    """Return the findings of all checks.

    Args:
        template: The template. It is not changed.
        columns: The columns of the recipients list, or None if they are not known.
        message: A rendered message, or None.
    """
    inspected = replace(
        template,
        columns=None if columns is None else frozenset(columns),
        texts=[],
        content_ids={*template.content_ids},
    )
    if message is not None:
        inspected.message = Part(message)
        _add_texts(inspected, inspected.message, is_source=False)
    inspected.known = known_names(inspected.fields | (inspected.columns or frozenset()))
    inspected.links = [*template.links, *_links(inspected.html())]
    inspected.texts = [*template.texts, *inspected.texts]
    findings: list[Finding] = []
    for name, function in CHECKS.items():
        findings += _findings(name, function(inspected))
    return findings


def _findings(name: str, problems: Iterator[Problem]) -> Iterator[Finding]:
    """Yield the findings of one check. A problem of the source and of the message counts once."""
    found: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        place = "" if problem.where is None else problem.where.place
        found.setdefault((problem.text, place), problem)
    for text, where, position in list(found.values())[:_MAX_FINDINGS]:
        if where is None:
            yield Finding(name, printable(text))
            continue
        line = where.text.count("\n", 0, position) + 1
        column = position - where.text.rfind("\n", 0, position)
        yield Finding(name, printable(text), printable(where.place), line, column)
    more = len(found) - _MAX_FINDINGS
    if more > 0:
        yield Finding(name, f"{more} more such {'place' if more == 1 else 'places'}")


def _add_texts(inspected: Inspected, message: Part, is_source: bool) -> None:
    for name, value in message.fields:
        if not name.lower().startswith("content-"):
            inspected.texts.append(
                CheckedText.of(f"header {name}", "header", _decoded(value), is_source)
            )
    for part in message.walk():
        content_id = part.get("content-id")
        if content_id is not None:
            inspected.content_ids.add(unquote(content_id.strip(" \t<>")))
        kind = kind_of(part.content_type)
        if part.children or kind is None:
            continue
        if _is_file(part):
            if is_source:
                _add_file(inspected, part)
            continue
        data = part.decoded()
        try:
            text, _ = decode_text(data or b"", part.content_type.parameters.get("charset"))
        except ValueError:
            continue
        inspected.texts.append(CheckedText.of(place_of(part), kind, text, is_source))


def _add_file(inspected: Inspected, part: Part) -> None:
    found = field_in_file(part)
    if found is not None:
        text = (part.decoded() or b"").decode("utf-8", "replace")
        inspected.files.append((found, CheckedText.of(place_of(part), "file", text, True)))


def _is_file(part: Part) -> bool:
    """Return whether a part is a file that the template does not render."""
    return part.disposition == "attachment" and not has_syntax(part.body.decode("latin-1"))


def _decoded(value: str) -> str:
    try:
        return strip_marks(decode_words(text_of(value)))
    except ValueError:
        return value


def _length(text: str) -> int:
    """Return the number of characters. A line end is one character."""
    return len(text) - text.count("\r\n")


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]}…"


def _matches(
    pattern: re.Pattern[str], places: Iterable[int], content: str
) -> Iterator[re.Match[str]]:
    """Yield the matches of a pattern at some places, in order. No two matches overlap."""
    end = 0
    for place in places:
        match = pattern.match(content, place) if place >= end else None
        if match is not None:
            yield match
            end = match.end()


# Fields that are not filled

_BRACE = r"(?:%(?:25){0,2}7b|&#0*123;|&#x0*7b;|&lbrace;|&lcub;|\N{FULLWIDTH LEFT CURLY BRACKET})"
_ENCODED_FIELD = re.compile(rf"{_BRACE}\s*(?:{_BRACE}|%25)[^\"'<>\s]{{0,40}}", re.IGNORECASE)
_SPLIT_FIELD = re.compile(
    r"\{(?:(?:<[^<>{}]{1,200}>){1,5}|(?:\s|&nbsp;|&zwnj;|[\u00ad\u200b-\u200f\u2060\ufeff]){1,5})"
    r"\{\s?[^\W\d][^{}<>\n]{0,40}\}?"
)
_SYNTAX = re.compile(r"\{[{%#]")
_SYNTAX_END = re.compile(r"[}%#]\}")
_INVISIBLE = re.compile(r"<(style|script)\b", re.IGNORECASE)
_INVISIBLE_END = re.compile(r"</(?:style|script)\b", re.IGNORECASE)
# Outlook shows the content of a conditional comment.
_COMMENT = re.compile(r"<!--(?!\s*\[if|<!)", re.IGNORECASE)
_COMMENT_END = re.compile("-->")
_NOT_LINE_END = re.compile(r"[^\n]")
_C1 = re.compile("[\x80-\x9f]")
_C1_UTF8 = re.compile(b"\xc2[\x80-\x9f]")


def _encoded_fields(inspected: Inspected) -> Iterator[Problem]:
    """Yield fields whose braces an editor has encoded, so that they are no syntax."""
    for text in inspected.texts:
        for start, end in text.broken:
            yield Problem(
                f"{_shown(text.text[start:end])} is not filled, because its braces are encoded or "
                "apart; write {{ field }}",
                text,
                start,
            )


def _fields_without_column(inspected: Inspected) -> Iterator[Problem]:
    """Yield fields that are always missing, or always have their default."""
    if inspected.columns is None:
        return
    known = {identifier(column) for column in inspected.columns} | inspected.columns
    for name in sorted(inspected.fields - known):
        near = difflib.get_close_matches(name, inspected.columns, 1)
        hint = f"; the most similar column is {near[0]!r}" if near else ""
        yield Problem(f"the list has no column for the field {name!r}{hint}")


def _unfilled_fields(inspected: Inspected) -> Iterator[Problem]:
    """Yield fields in attached files, which are the same for every row."""
    for found, text in inspected.files:
        yield Problem(
            f"{found} in this file is not filled, because every row gets the same file; "
            "use a message file with Template.from_eml or --template",
            text,
            max(text.text.find(found), 0),
        )


def _foreign_fields(inspected: Inspected) -> Iterator[Problem]:
    """Yield texts that look like fields of other programs."""
    for text in inspected.texts:
        if text.kind not in ("text", "html", "header"):
            continue
        shown = _blanked(text.shown, text.broken)
        if text.is_source and has_syntax(shown):
            shown = _blanked(shown, _stretches(shown, _SYNTAX, _SYNTAX_END))
        for start, found in foreign_fields(shown, inspected.known):
            yield _foreign_field(found, text, start)
    # In a link, an editor may have encoded the field.
    for link in inspected.links:
        decoded = unquote(unquote(link.url)) if "%" in link.url else link.url
        if decoded != link.url and not _ENCODED_FIELD.search(link.url):
            for _, found in foreign_fields(decoded, inspected.known):
                if found not in link.url:
                    yield _foreign_field(found, link.text, link.position)


def _foreign_field(found: str, text: CheckedText, position: int) -> Problem:
    fact = f"{_shown(found)} looks like a field, but is not filled; write {{{{ field }}}}"
    return Problem(fact, text, position)


def _comments(inspected: Inspected) -> Iterator[Problem]:
    """Yield comments of the template that remove CSS or HTML."""
    for text in inspected.texts:
        if not text.is_source:
            continue
        end = 0
        for start in text.places("{"):
            if start < end or not text.text.startswith("{#", start):
                continue
            end = text.text.find("#}", start + 2) + 2
            if end < 2:
                break
            comment = text.text[start:end]
            if re.search("[{}<>;]", comment[2:-2]):
                yield Problem(
                    f"the comment {_shown(comment)} removes {_length(comment)} characters; "
                    "write a space between the brace and the number sign if this is CSS",
                    text,
                    start,
                )


def _control_characters(inspected: Inspected) -> Iterator[Problem]:
    """Yield C1 control characters, which come from a wrong charset."""
    for text in inspected.texts:
        # Almost no text has such a character, so a faster search in the UTF-8 bytes is tried first.
        if text.text.isascii() or not _C1_UTF8.search(text.text.encode("utf-8", "surrogatepass")):
            continue
        for match in _C1.finditer(text.text):
            yield Problem(
                f"the control character U+{ord(match[0]):04X} is shown as a box; "
                "save the text in UTF-8",
                text,
                match.start(),
            )


def _stretches(
    source: str, begin: re.Pattern[str], end: re.Pattern[str]
) -> Iterator[tuple[int, int]]:
    """Yield the places of the stretches from a match of `begin` to a match of `end`."""
    place = 0
    while start := begin.search(source, place):
        stop = end.search(source, start.end())
        if stop is None:
            return
        place = stop.end()
        yield start.start(), place


def _blanked(source: str, places: Iterable[tuple[int, int]]) -> str:
    """Replace stretches with spaces, except for their line ends."""
    shown, last = [], 0
    for start, end in places:
        if start >= last:
            shown += [source[last:start], _NOT_LINE_END.sub(" ", source[start:end])]
            last = end
    return "".join([*shown, source[last:]])


# Links and images in HTML

_ATTRIBUTES = ("src", "href", "background", "poster")
_ATTRIBUTE = re.compile(
    r"""(?<=[\s"'])(src|href|background|poster)\s{0,16}=\s*("[^"]*"|'[^']*'|[^\s"'<>]+)""",
    re.IGNORECASE,
)
_CLOSED_VALUE = re.compile(r"""=\s*(?:"[^"]*"|'[^']*')""")
_OPEN_VALUE = re.compile(r"""=\s*["']""")
_STYLE_URL = re.compile(r"""url\(\s*["']?([^"'()\s]{1,2000})["']?\s*\)""", re.IGNORECASE)
_SCHEME = re.compile("[a-z][a-z0-9+.-]+:", re.IGNORECASE)
_FILE_URL = re.compile(r"file:|[a-z]:[\\/]|\\\\", re.IGNORECASE)
_SCRIPT = re.compile(r"<script\b([^<>]{0,300})>?", re.IGNORECASE)
# Elements that mail readers remove or disable.
_ACTIVE = {
    "iframe": "mail readers remove <iframe>; use a link",
    "frameset": "mail readers remove <frameset>; use a link",
    "object": "mail readers remove <object>; use a link",
    "embed": "mail readers remove <embed>; use a link",
    "applet": "mail readers remove <applet>; use a link",
    "form": "most mail readers disable <form>; link to a page with the form",
    "base": "most mail readers ignore <base>; write the whole URL into each link",
}
_TAG_NAME = re.compile(r"<([a-z]+)(?=[\s/>])", re.IGNORECASE)
_STYLESHEET = re.compile(
    r"""<link\b[^<>]{0,2000}?\brel\s*=\s*["']?\s*stylesheet\b""", re.IGNORECASE
)


class _Link(NamedTuple):
    kind: str
    url: str
    text: CheckedText
    position: int


def _links(texts: Iterable[CheckedText]) -> Iterator[_Link]:
    """Yield the links and images of HTML texts. A link with a field needs a rendered text."""
    for text in texts:
        found = []
        for attribute in _ATTRIBUTES if "=" in text.text else ():
            for match in _matches(_ATTRIBUTE, text.places(attribute), text.markup):
                start = match.start()
                tag = text.markup.rfind("<", max(start - _MAX_TAG, 0), start)
                before = text.markup[tag:start]
                if tag < 0 or ">" in before or _is_in_value(before):
                    continue
                url = html.unescape(match[2].strip("\"'")).strip()
                if not (text.is_source and has_syntax(url)):
                    found.append(_Link(match[1].lower(), url, text, match.start(2)))
        yield from sorted(found, key=attrgetter("position"))
        for match in _matches(_STYLE_URL, text.places("url("), text.markup):
            if not (text.is_source and has_syntax(match[1])):
                yield _Link("url", html.unescape(match[1]), text, match.start(1))


def _is_in_value(before: str) -> bool:
    """Return whether a place in a tag is inside the value of an attribute."""
    if before.count('"') % 2 == before.count("'") % 2 == 0:
        return False
    return _OPEN_VALUE.search(_CLOSED_VALUE.sub("", before)) is not None


def _inline_images(inspected: Inspected) -> Iterator[Problem]:
    for link in inspected.links:
        name = unquote(link.url[4:])
        if link.url[:4].lower() == "cid:" and name not in inspected.content_ids:
            yield Problem(
                f"cid:{_shown(name)} has no inline image with this Content-ID; add the image",
                link.text,
                link.position,
            )


def _relative_links(inspected: Inspected) -> Iterator[Problem]:
    for link in inspected.links:
        if link.url.startswith("#") or _SCHEME.match(link.url) or _is_file_link(link.url):
            continue
        if any(not place for place, _ in foreign_fields(unquote(link.url), inspected.known)):
            continue  # the check of foreign fields reports it
        shown = f"{link.kind}={_shown(link.url)}" if link.url else f"the {link.kind} is empty"
        fact = " is relative" if link.url else ""
        cure = "" if link.kind == "href" or not link.url else ", or use an inline image"
        yield Problem(
            f"{shown}{fact}, so no mail reader can open it; write the whole URL, with https:{cure}",
            link.text,
            link.position,
        )


def _file_links(inspected: Inspected) -> Iterator[Problem]:
    for link in inspected.links:
        if _is_file_link(link.url):
            yield Problem(
                f"{link.kind}={_shown(link.url)} names a file of this computer; "
                "use an https URL or an inline image",
                link.text,
                link.position,
            )


def _is_file_link(url: str) -> bool:
    return _FILE_URL.match(url) is not None


def _scripts(inspected: Inspected) -> Iterator[Problem]:
    for text in inspected.html():
        for match in _matches(_SCRIPT, text.places("<script"), text.markup):
            # Structured data for mail readers (schema.org) is no script.
            if "ld+json" not in match[1].lower():
                yield Problem("mail readers remove <script>; delete it", text, match.start())
        for name, fact in _ACTIVE.items():
            for match in _matches(_TAG_NAME, text.places(f"<{name}"), text.markup):
                if match[1].lower() == name:
                    yield Problem(fact, text, match.start())


def _stylesheets(inspected: Inspected) -> Iterator[Problem]:
    for text in inspected.html():
        for match in _matches(_STYLESHEET, text.places("<link"), text.markup):
            yield Problem(
                "most mail readers do not load <link rel=stylesheet>; write the CSS into the HTML",
                text,
                match.start(),
            )


# The whole message

_DOMAIN_TAG = re.compile(r"(?:^|;)\s*d\s*=\s*([^;\s]+)")
# Second-level labels under which country registries register names, such as "co" in co.uk. The
# Public Suffix List has thousands of such labels. For a warning, the most common labels are enough.
_REGISTRY_LABELS = frozenset(
    ("ac", "co", "com", "edu", "gob", "gov", "gouv", "gv", "mil", "ne", "net", "nom", "or", "org")
)


def _list_unsubscribe(inspected: Inspected) -> Iterator[Problem]:
    """Check RFC 8058 section 3: List-Unsubscribe must contain an https URI."""
    if inspected.message is None:
        return
    uris = inspected.message.get("list-unsubscribe")
    if uris is None:
        yield Problem(
            "List-Unsubscribe is missing; large providers require it for bulk mail (RFC 8058)"
        )
    elif "https" not in _schemes(uris):
        yield Problem(
            "List-Unsubscribe has no https URI; add one for one-click unsubscribe (RFC 8058)"
        )


def _one_click(inspected: Inspected) -> Iterator[Problem]:
    """Check RFC 8058 section 3: List-Unsubscribe-Post must be `List-Unsubscribe=One-Click`."""
    if inspected.message is None:
        return
    post = inspected.message.get("list-unsubscribe-post")
    if post is None:
        yield Problem(
            "List-Unsubscribe-Post is missing; add the header field "
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click (RFC 8058)"
        )
    elif post.strip() != "List-Unsubscribe=One-Click":
        yield Problem(
            "List-Unsubscribe-Post must have the value List-Unsubscribe=One-Click (RFC 8058)"
        )


def _schemes(uris: str) -> set[str]:
    """Return the schemes of the URIs in a List-Unsubscribe field (RFC 2369 section 2)."""
    found = (text.partition("<")[2] for text in uris.split(">")[:-1])
    return {uri.partition(":")[0].strip().lower() for uri in found}


def _plain_text(inspected: Inspected) -> Iterator[Problem]:
    kinds = set() if inspected.message is None else set(_text_kinds(inspected.message))
    if "html" in kinds and "plain" not in kinds:
        yield Problem(
            "the message has HTML but no plain text; some mail readers and filters need both; "
            'use text="auto" or --text auto'
        )


def _text_kinds(part: Part) -> Iterator[str]:
    """Yield the subtypes of the texts that a mail reader shows, as `EmailMessage.get_body` does."""
    if part.disposition == "attachment":
        return
    if part.content_type.maintype == "text":
        yield part.content_type.subtype
    elif part.content_type.maintype == "multipart":
        # RFC 2387 section 3.2: the first part of multipart/related is its root.
        is_related = part.content_type.subtype == "related"
        for each in part.children[:1] if is_related else part.children:
            yield from _text_kinds(each)


def _alignment(inspected: Inspected) -> Iterator[Problem]:
    """Check that a DKIM signature of a signed message is aligned with the domain of From.

    DMARC ignores a signature that is not aligned. In relaxed mode, two domains are aligned if they
    have the same organizational domain (RFC 7489 section 3.1.1).
    """
    if inspected.message is None:
        return
    author = parseaddr(inspected.message.get("from") or "")[1]
    domain = author.rpartition("@")[2].lower().rstrip(".")
    signed = [
        match[1].lower().rstrip(".")
        for name, value in inspected.message.fields
        if name.lower() == "dkim-signature" and (match := _DOMAIN_TAG.search(value))
    ]
    if domain and signed and all(_organization(domain) != _organization(each) for each in signed):
        yield Problem(
            f"the domain of From is {domain}, but the DKIM signature is for {', '.join(signed)}: "
            "not aligned, so DMARC ignores the signature (the organizational domains are guessed "
            "from the last labels)"
        )


def _organization(domain: str) -> str:
    """Guess the organizational domain: the last two labels, or the last three as in one.co.uk."""
    labels = domain.split(".")
    country = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _REGISTRY_LABELS
    return ".".join(labels[-3 if country else -2 :])


CHECKS: dict[str, Callable[[Inspected], Iterator[Problem]]] = {
    "encoded-field": _encoded_fields,
    "field-without-column": _fields_without_column,
    "unfilled-field": _unfilled_fields,
    "foreign-field": _foreign_fields,
    "comment": _comments,
    "control-character": _control_characters,
    "missing-image": _inline_images,
    "relative-link": _relative_links,
    "file-link": _file_links,
    "script": _scripts,
    "stylesheet": _stylesheets,
    "list-unsubscribe": _list_unsubscribe,
    "one-click": _one_click,
    "plain-text": _plain_text,
    "alignment": _alignment,
}
"""The checks by their names, in the order of the findings."""
