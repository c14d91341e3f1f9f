"""Make the plain text of a message from its HTML, with the fields and statements of the HTML.

The library markdownify converts the HTML when the template is compiled, so both backends give the
same text. It keeps the order of all texts, also of statements between the rows of a table. Each
field and statement is a placeholder during the conversion.
"""

import re
from bisect import bisect
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from rapidsmtp import _backend
from rapidsmtp._compose.text_part import TextPart

_MISSING = 'text="auto" needs markdownify, which is not installed: pip install rapidsmtp[html]'
_CURE = "write the plain text yourself"

# A placeholder is the number of a tag between these marks. Unicode reserves them for private use.
_START, _END = "\uf8f2", "\uf8f3"
_PLACEHOLDER = re.compile(f"{_START}([0-9]+){_END}")
_LITERAL = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_TAGS = {
    "{{": re.compile(rf"\{{\{{(?:{_LITERAL}|[^\"'])*?\}}\}}", re.DOTALL),
    "{%": re.compile(rf"\{{%[-+]?\s*(\w+)(?:{_LITERAL}|[^\"'])*?%\}}", re.DOTALL),
    "{#": re.compile(r"\{#.*?#\}", re.DOTALL),
}
_RAW = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}(.*?)\{%[-+]?\s*endraw\s*[-+]?%\}", re.DOTALL)
# Filters that write HTML. A plain text is not escaped.
_HTML_FILTER = re.compile(
    rf"({_LITERAL})|\s*\|\s*(?:e|escape|safe|nl2br)\b(?:\s*\(\s*\))?", re.DOTALL
)
# Parts of HTML that a mail program does not show.
_NOT_SHOWN = re.compile(
    r"<!--.*?-->|<(head|style|script|template|title)\b[^>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE
)
_HIDDEN = re.compile(r"display\s*:\s*none|mso-hide\s*:\s*all", re.IGNORECASE)
# A brace that would begin a field or a statement.
_BRACE = re.compile(rf"\{{(?=[{{%#{_START}])")


class _Tag(NamedTuple):
    """A field or a statement.

    Attributes:
        text: The tag as it is in the HTML.
        name: The name of the statement, such as "if"; "" for a field.
    """

    text: str
    name: str


def plain_text(html: str) -> str:
    """Return the plain text of an HTML template.

    Raises:
        ValueError: The HTML has wrong template syntax or is nested too deeply, or a statement is
            at a place that the plain text does not have.
        ImportError: markdownify is not installed.
    """
    # Wrong syntax is an error of the HTML, and not of the text that is made from it.
    part = TextPart("text/html", html, "html", "text/html part", ())
    _backend.templates().Template([], [part])
    tags: list[_Tag] = []
    source = _with_placeholders(html, tags)
    source = _NOT_SHOWN.sub(lambda match: _statements(match[0], tags), source)
    try:
        text = _converter()(tags).convert(source)
    except RecursionError:
        raise ValueError(f'text="auto": the HTML is nested too deeply; {_CURE}') from None
    _check_structure(text, source, tags)
    text = _BRACE.sub('{{ "{" }}', "\n".join(_tidy(text, tags)))
    return _PLACEHOLDER.sub(lambda match: _tag_in_text(tags[int(match[1])]), text)


def _with_placeholders(html: str, tags: list[_Tag]) -> str:
    """Replace each field and statement by a placeholder, and remove the comments of Jinja2."""
    html = html.translate({ord(_START): None, ord(_END): None})
    pieces, place = [], 0
    for match in re.finditer(r"\{[{%#]", html):
        if match.start() < place:
            continue
        raw = _RAW.match(html, match.start())
        tag = raw or _TAGS[match[0]].match(html, match.start())
        if tag is None:  # The syntax was checked, so this is no tag.
            break
        pieces.append(html[place : match.start()])
        place = tag.end()
        if raw is not None:
            # The text stays as it is: an entity is no syntax of Jinja2.
            pieces.append(raw[1].replace("{", "&#123;"))
        elif match[0] != "{#":
            pieces.append(f"{_START}{len(tags)}{_END}")
            tags.append(_Tag(tag[0], tag[1] if match[0] == "{%" else ""))
    return "".join(pieces) + html[place:]


def _statements(text: str, tags: list[_Tag]) -> str:
    """Return the placeholders of the statements in a text."""
    return "".join(match[0] for match in _PLACEHOLDER.finditer(text) if tags[int(match[1])].name)


def _tag_in_text(tag: _Tag) -> str:
    return _HTML_FILTER.sub(lambda match: match[1] or "", tag.text)


def _openings(tags: list[_Tag], numbers: Iterator[int]) -> dict[int, int | None]:
    """Return the statement that opened the block of each statement, by number.

    The opening statement of a block is its own one. A statement outside of all blocks has None.
    """
    found: dict[int, int | None] = {}
    opened: list[int] = []
    for number in numbers:
        name, text = tags[number].name, tags[number].text
        is_inline = name == "set" and "=" in text
        if name in ("elif", "else"):
            found[number] = opened[-1] if opened else None
        elif name.startswith("end"):
            found[number] = opened.pop() if opened else None
        elif name and not is_inline:
            opened.append(number)
            found[number] = number
        elif name:
            found[number] = None
    return found


def _check_structure(text: str, source: str, tags: list[_Tag]) -> None:
    """Check that the statements of a text have the structure that they have in the HTML.

    Raises:
        ValueError: They have not, because a statement is inside a tag of the HTML.
    """
    before = _openings(tags, iter(range(len(tags))))
    after = _openings(tags, (int(match[1]) for match in _PLACEHOLDER.finditer(text)))
    places = {int(match[1]): match.start() for match in _PLACEHOLDER.finditer(source)}
    starts = [match.start() for match in re.finditer("<", source)]
    for number, opening in before.items():
        if number in after:
            is_same = after[number] == opening
        elif opening is None:
            is_same = False
        else:
            # A whole block may be inside a tag of the HTML, such as in an attribute.
            is_same = opening not in after
            is_same = is_same and bisect(starts, places[opening]) == bisect(starts, places[number])
        if not is_same:
            raise ValueError(
                f'text="auto": {tags[number].text} is inside a tag of the HTML, so the plain text '
                f"cannot have it; {_CURE}"
            )


def _tidy(text: str, tags: list[_Tag]) -> Iterator[str]:
    """Yield the lines of a text, without lines that would be empty in the rendered text.

    A line that consists of statements becomes the start of the next line. Of several empty lines,
    only one remains.
    """
    start, was_empty, drops_empty = "", True, False
    for line in text.replace("\xa0", " ").split("\n"):
        line = line.rstrip()
        numbers = [int(match[1]) for match in _PLACEHOLDER.finditer(line)]
        if not line:
            if not was_empty and not drops_empty:
                yield start
                start, was_empty = "", True
            drops_empty = False
        elif (
            numbers
            and not _PLACEHOLDER.sub("", line).strip()
            and all(tags[number].name for number in numbers)
        ):
            start += line.strip()
            drops_empty = was_empty or not tags[numbers[-1]].name.startswith("end")
        else:
            yield start + line
            start, was_empty, drops_empty = "", False, False
    yield start


@cache
def _converter() -> Any:
    """Return the class that converts HTML.

    Raises:
        ImportError: markdownify is not installed.
    """
    try:
        import markdownify
    except ModuleNotFoundError as error:
        raise ImportError(_MISSING) from error

    # markdownify is an optional dependency without types, so the type of its class is `Any`.
    base: Any = markdownify.MarkdownConverter

    class Converter(base):  # type: ignore[misc]
        """A converter to text without the markup of Markdown."""

        class Options:
            autolinks = False
            bullets = "-"
            escape_asterisks = False
            escape_underscores = False
            # White space is one space, as in HTML, and paragraphs are not wrapped.
            wrap = True
            wrap_width = None

        def __init__(self, tags: list[_Tag]) -> None:
            super().__init__()
            self._tags = tags

        def process_tag(self, node: Any, parent_tags: Any = None) -> str:
            if self._is_hidden(node.attrs):
                return _statements(str(node), self._tags)
            # Newsletters use tables for their layout, so a cell may contain blocks.
            text: str = super().process_tag(node, (parent_tags or set()) - {"_inline"})
            return text

        def _is_hidden(self, attributes: Any) -> bool:
            # An attribute may depend on a statement. Then the text is shown.
            if "hidden" in attributes or _HIDDEN.search(attributes.get("style") or ""):
                texts = [*attributes, *map(str, attributes.values())]
                return not _statements(" ".join(texts), self._tags)
            return False

        def convert_a(self, el: Any, text: str, parent_tags: Any) -> str:
            href = "".join((el.get("href") or "").split())
            scheme, _, rest = href.partition(":")
            shown = text.strip()
            if not href or href.startswith("#") or scheme.lower() in ("tel", "javascript"):
                return text
            if scheme.lower() == "mailto":
                href = rest.partition("?")[0]
            if not shown or self._filled(shown) == self._filled(href):
                return text.replace(shown, href) if shown else href
            return f"{text.rstrip()} <{href}>{' ' if text[-1:].isspace() else ''}"

        def _filled(self, text: str) -> str:
            return _PLACEHOLDER.sub(lambda match: self._tags[int(match[1])].text, text)

        def convert_text(self, el: Any, text: str, parent_tags: Any) -> str:
            return text

        convert_b = convert_strong = convert_em = convert_i = convert_text
        convert_del = convert_s = convert_sub = convert_sup = convert_text
        convert_code = convert_kbd = convert_samp = convert_video = convert_text

        def convert_block(self, el: Any, text: str, parent_tags: Any) -> str:
            text = text.strip(" \n")
            return f"\n\n{text}\n\n" if text else ""

        convert_pre = convert_table = convert_caption = convert_figcaption = convert_block
        convert_center = convert_header = convert_footer = convert_main = convert_block
        convert_div = convert_article = convert_section = convert_body = convert_block

        def convert_hN(self, n: int, el: Any, text: str, parent_tags: Any) -> str:
            return self.convert_block(el, text, parent_tags)

        def convert_blockquote(self, el: Any, text: str, parent_tags: Any) -> str:
            quoted: str = super().convert_blockquote(el, text, parent_tags)
            return f"\n{quoted}"

        def convert_br(self, el: Any, text: str, parent_tags: Any) -> str:
            return f"\n{text}"

        def convert_img(self, el: Any, text: str, parent_tags: Any) -> str:
            return el.get("alt") or ""

        def convert_dd(self, el: Any, text: str, parent_tags: Any) -> str:
            return f"\n{text.strip()}\n"

        def convert_td(self, el: Any, text: str, parent_tags: Any) -> str:
            text = text.strip(" \n")
            if "\n" in text:
                return f"\n\n{text}\n\n"
            return f"{text}  " if text else ""

        convert_th = convert_td

        def convert_tr(self, el: Any, text: str, parent_tags: Any) -> str:
            if "\n" in text.strip(" \n"):
                return self.convert_block(el, text, parent_tags)
            return f"\n{text.strip()}\n" if text.strip() else ""

        def convert_li(self, el: Any, text: str, parent_tags: Any) -> str:
            # The number of an item in a loop is not known.
            siblings = "".join(el.parent.find_all(string=True, recursive=False))
            if el.parent.name == "ol" and _statements(siblings, self._tags):
                el.parent.name = "ul"
            item: str = super().convert_li(el, text, parent_tags)
            return item

    return Converter
