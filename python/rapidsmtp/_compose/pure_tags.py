"""Find the tags of a template, before Jinja2 parses them.

This check gives the errors about the structure of a template their texts and positions. Both
backends do the same check (`src/message/text/tags.rs`), so both give the same errors. The check
also bounds the nesting: the parsers of minijinja and Jinja2 call themselves for each level.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import NoReturn

TAGS = 20_000
"""The maximum number of tags. It bounds the time and the memory for compiling."""
ELIFS = 250
"""The maximum number of `elif` and `else` in all open blocks."""
DEPTH = 50
"""The maximum nesting of blocks and, in a tag, of brackets."""
LOOPS = 15
"""The maximum nesting of loops. Jinja2 compiles loops to Python, which nests at most 20 loops."""
OPERATORS = 100
"""The maximum number of operators in a tag. The parsers call themselves for each operator."""
NUMBER = 38
"""The maximum length of a number, in characters."""
LONG_LINE = 100
"""The maximum length of a line without an excerpt in the error text, in characters."""
EXCERPT = 60
"""The maximum length of an excerpt, in characters."""

INVALID = "the syntax of the tag is invalid"
_MARKUP = re.compile("<[A-Za-z/][^<>]*>")
_FILES = frozenset(("include", "import", "from", "extends", "block"))
_WORDS = frozenset(("and", "or", "not", "if", "is", "in"))
_TYPOGRAPHIC = frozenset("\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\u00ab\u00bb\u2032\u2033")
_RAW = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}")
_END_RAW = re.compile(r"\{%[-+]?\s*endraw\s*[-+]?%\}")
_ENTITY = re.compile("&[a-zA-Z0-9#]{1,10};")
_WORD = re.compile(r"\w+")
_NAME = re.compile(r"[^\W\d]\w*")
_NUMBER = re.compile(r"\w+(?:\.[0-9]\w*)?")
_VALID_NUMBER = re.compile(
    r"0+(?:_0+)*|[1-9][0-9]*(?:_[0-9]+)*|[0-9]+(?:_[0-9]+)*\.[0-9]+(?:_[0-9]+)*"
)
_OPEN = {")": "(", "]": "[", "}": "{"}


@dataclass(slots=True)
class _Block:
    """A block that is not closed yet."""

    name: str
    start: int
    elifs: int = 0
    has_else: bool = False


class Refusal(Exception):
    """A part of a template is refused. The arguments are its place and the message."""


class Tags:
    """The tags of a template whose line ends are LF."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._starts: list[int] = []
        self._ends: list[int] = []

    def find(self) -> None:
        """Find the tags.

        Raises:
            Refusal: A tag or block has no end, a tag is not allowed, or a bound is exceeded.
        """
        source = self._source
        blocks: list[_Block] = []
        at = source.find("{")
        while at >= 0:
            two = source[at : at + 2]
            if two == "{#":
                end = source.find("#}", at + 2)
                if end < 0:
                    _refuse(at, "the comment has no end, '#}'")
                at = end + 2
            elif two in ("{%", "{{"):
                at = self._tag(at, two == "{%", blocks)
            else:
                at += 1
            at = source.find("{", at)
        if blocks:
            name = blocks[-1].name
            _refuse(blocks[-1].start, f"the tag '{name}' has no 'end{name}'")

    def error(self, at: int, message: str) -> str:
        """Return the error text for the tag that contains the character `at`."""
        place = bisect_right(self._starts, at) - 1
        start = self._starts[place] if place >= 0 else min(at, len(self._source))
        end = self._ends[place] if place >= 0 else len(self._source)
        if message == INVALID and _MARKUP.search(self._source, start, end):
            message = (
                "the tag contains HTML, as editors add it; remove the formatting between the braces"
            )
        line_start = self._source.rfind("\n", 0, start) + 1
        line_end = self._source.find("\n", line_start)
        if (len(self._source) if line_end < 0 else line_end) - line_start > LONG_LINE:
            dots = "…" if end - start > EXCERPT else ""
            message = f"{message}, in {self._source[start : min(end, start + EXCERPT)] + dots!r}"
        line = self._source.count("\n", 0, start) + 1
        return f"line {line}, column {start - line_start + 1}: {message}"

    def _tag(self, start: int, is_block: bool, blocks: list[_Block]) -> int:
        """Check a tag and return the place after it."""
        source = self._source
        if len(self._starts) == TAGS:
            _refuse(start, "the template has too many tags")
        self._starts.append(start)
        self._ends.append(len(source))
        if is_block and (raw := _RAW.match(source, start)):
            end = _END_RAW.search(source, raw.end())
            if end is None:
                _refuse(start, "the tag 'raw' has no 'endraw'")
            return end.end()
        end_of_tag, keyword, assigns = _content(source, start, is_block)
        self._ends[-1] = end_of_tag
        if is_block:
            _check_structure(start, keyword, assigns, blocks)
        else:
            _check_field(source[start + 2 : end_of_tag - 2], start)
        return end_of_tag


def _refuse(at: int, message: str) -> NoReturn:
    raise Refusal(at, message)


def _content(source: str, start: int, is_block: bool) -> tuple[int, str, bool]:
    """Read one tag. Return its end, its first word, and whether it has an assignment."""
    closer = "%}" if is_block else "}}"
    at = start + 2
    if source[at : at + 1] in ("-", "+"):
        at += 1
    brackets: list[str] = []
    operators, assigns, keyword, was_in = 0, False, "", False
    while at < len(source):
        character = source[at]
        if not brackets:
            trimmed = at + 1 if character in "-+" else at
            if source.startswith(closer, at) or source.startswith(closer, trimmed):
                if operators > OPERATORS:
                    _refuse(start, "the operators of the tag are nested too deeply")
                return trimmed + 2, keyword, assigns
        following = source[at + 1 : at + 2]
        if character in "'\"":
            at = _string_end(source, at, start)
            continue
        if character in "([{":
            brackets.append(character)
            if len(brackets) > DEPTH:
                _refuse(start, "the brackets of the tag are nested too deeply")
        elif character in ")]}":
            if not brackets or brackets.pop() != _OPEN[character]:
                _refuse(start, f"the bracket '{character}' closes no bracket")
        elif character == "&":
            _refuse(start, _escaped(source, at))
        elif character in _TYPOGRAPHIC:
            _refuse(
                start,
                f"the tag has the typographic quote '{character}'; write a plain quote instead",
            )
        elif "0" <= character <= "9":
            at = _number_end(source, at, start)
            continue
        elif word := _WORD.match(source, at):
            keyword = keyword or word[0]
            was_in = was_in or word[0] == "in"
            operators += word[0] in _WORDS
            at = word.end()
            continue
        elif character in ",:":
            is_allowed = (
                is_block
                and character == ","
                and (keyword == "set" or (keyword == "for" and not was_in))
            )
            if not brackets and not is_allowed:
                _refuse(start, f"the '{character}' of the tag is outside of brackets")
        elif character == "=" and following != "=":
            assigns = assigns or not brackets
        elif character in "=!<>" and following == "=":
            operators += 1
            at += 1
        elif character in "|.+-*/%~<>":
            operators += 1
        elif not character.isspace():
            _refuse(start, f"the character {character!r} is not allowed in a tag")
        at += 1
    if brackets:
        _refuse(start, "a bracket of the tag is not closed")
    _refuse(start, f"the tag has no end, '{closer}'")


def _number_end(source: str, at: int, start: int) -> int:
    """Return the place after a number. Jinja2 and minijinja read other numbers differently."""
    number = _NUMBER.match(source, at)
    assert number is not None
    if not _VALID_NUMBER.fullmatch(number[0]):
        _refuse(start, f"the number {number[0]!r} is invalid")
    if len(number[0]) > NUMBER:
        _refuse(start, "a number of the template is too large")
    return number.end()


def _string_end(source: str, at: int, start: int) -> int:
    """Return the place after a string that starts at `at`."""
    quote = source[at]
    end = at + 1
    while end < len(source):
        if source[end] == quote:
            return end + 1
        if source[end] == "\\":
            escape = source[end + 1 : end + 2]
            # Jinja2 and minijinja read these escapes differently.
            if escape and escape in "/avNU\n":
                shown = "line break" if escape == "\n" else escape
                _refuse(start, f"a backslash before '{shown}' is not allowed in a string")
            end += 1
        end += 1
    _refuse(start, "a string of the tag has no end; its quote is missing")


def _escaped(source: str, at: int) -> str:
    """Return the error for an `&`, which an editor for HTML has usually made of a quote."""
    entity = _ENTITY.match(source, at)
    if entity is None:
        return "the tag has an '&', which is no operator; write 'and'"
    return (
        f"the tag has '{entity[0]}', which an HTML editor has made of a character; write the "
        "character itself, such as a quote or a space"
    )


def _check_field(content: str, start: int) -> None:
    """Refuse the name of a column in place of a field, and the braces of Handlebars."""
    words = content.split()
    if len(words) > 1 and all(map(_NAME.fullmatch, words)) and _WORDS.isdisjoint(words):
        _refuse(start, f"a field contains no space; write {'_'.join(words).lower()}")
    inner = content.strip()
    if inner[:1] == "{" and inner[-1:] == "}" and _NAME.fullmatch(inner[1:-1].strip()):
        _refuse(start, f"a field has two braces; write {{{{ {inner[1:-1].strip()} }}}}")


def _check_structure(start: int, keyword: str, assigns: bool, blocks: list[_Block]) -> None:
    """Check that a tag fits to the blocks around it."""
    if keyword in ("if", "for", "macro", "set"):
        if keyword == "set" and assigns:
            return
        loops = sum(block.name == "for" for block in blocks)
        if len(blocks) == DEPTH or (keyword == "for" and loops == LOOPS):
            _refuse(start, "the blocks are nested too deeply")
        blocks.append(_Block(keyword, start))
    elif keyword in ("elif", "else"):
        if sum(block.elifs for block in blocks) == ELIFS:
            _refuse(start, f"the open blocks have more than {ELIFS} 'elif'")
        block = blocks[-1] if blocks else None
        is_else = keyword == "else"
        if (
            block is None
            or block.has_else
            or not (block.name == "if" or (is_else and block.name == "for"))
        ):
            _refuse(start, f"the tag '{keyword}' has no 'if'")
        block.elifs += 1
        block.has_else = is_else
    elif keyword in ("endif", "endfor", "endmacro", "endset"):
        name = keyword[3:]
        block = blocks.pop() if blocks else None
        if block is not None and block.name == name:
            return
        if block is not None and any(outer.name == name for outer in blocks):
            _refuse(block.start, f"the tag '{block.name}' has no 'end{block.name}'")
        _refuse(start, f"the tag '{keyword}' has no '{name}'")
    elif keyword == "endraw":
        _refuse(start, "the tag 'endraw' has no 'raw'")
    elif not keyword:
        _refuse(start, "the tag is empty")
    elif keyword in _FILES:
        _refuse(start, f"the tag '{keyword}' is not allowed: a template is one file")
    else:
        _refuse(start, f"the tag '{keyword}' is not allowed")
