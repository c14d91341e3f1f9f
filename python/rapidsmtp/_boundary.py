"""Boundaries for multiparts that have none (RFC 2046 section 5.1.1), as `email` makes them.

The boundary stays in the message: in its Content-Type, which under an `EmailPolicy` is a parsed
object. To parse it takes `email` a hundred microseconds, and the result is always the same but
for the boundary. So it is parsed once for each type, and copied with another boundary: those
nodes of the tree that lead to it are new, the others are shared.
"""

import email.generator
import email.headerregistry as registry
import re
from typing import Any

from rapidsmtp import _core
from rapidsmtp._fields import Fields

_MOST_TYPES = 64
"""Multipart types that are remembered; programs make three or four."""

_SAMPLES = "=====0123456789012345678==", "=====8765432109876543210=="
_PLAIN_TYPE = re.compile(r"multipart/[a-z0-9.+-]+", re.ASCII | re.IGNORECASE)

_templates: dict[tuple[str, str], "_Template | None"] = {}


class Unbounded:
    """A multipart without a boundary, and where its delimiters belong.

    Args:
        message: the multipart.
        fields: how its header is folded.
        first_field: the place of its first header field among the pieces.
        delimiters: the places of its delimiters.
        spans: the places of its parts: the first, and the one behind the last.
    """

    def __init__(
        self,
        message: Any,
        fields: Fields,
        first_field: int,
        delimiters: list[int],
        spans: list[tuple[int, int]],
    ) -> None:
        self._message = message
        self._fields = fields
        self._first_field = first_field
        self._delimiters = delimiters
        self._spans = spans

    def bind(self, pieces: list[str | bytes]) -> None:
        """Make a boundary; write it in the message and among the pieces.

        Raises:
            email.errors.HeaderParseError: the message has no Content-Type to put it in.
        """
        boundary = self._made(pieces)
        set_boundary(self._message, boundary, self._fields)
        for place, (name, value) in enumerate(self._message._headers, self._first_field):
            if name.lower() == "content-type":
                pieces[place] = self._fields.fold(name, value)
        delimit(pieces, self._delimiters, boundary)

    def _made(self, pieces: list[str | bytes]) -> str:
        boundary: str = email.generator.BytesGenerator._make_boundary()  # type: ignore[attr-defined]
        inner = pieces[self._delimiters[0] : self._delimiters[-1]]
        if not _core.mentions(inner, f"--{boundary}".encode("ascii")):
            return boundary
        parts = [_core.assemble(pieces[begin:end]) for begin, end in self._spans]
        text = b"\r\n".join(parts)
        number, chosen = 0, boundary
        while re.search(rb"^--%b(--)?$" % re.escape(chosen.encode("ascii")), text, re.MULTILINE):
            chosen = f"{boundary}.{number}"
            number += 1
        return chosen


def delimit(pieces: list[str | bytes], places: list[int], boundary: str) -> None:
    """Write the delimiters of a multipart.

    Args:
        pieces: the pieces of the message.
        places: where they belong: one before each part, and the closing one.
        boundary: the boundary.
    """
    delimiter = f"\r\n--{boundary}".encode("ascii")
    *opening, closing = places
    for place in opening:
        pieces[place] = delimiter + b"\r\n"
    first, last = delimiter[2:] + b"\r\n", delimiter + b"--\r\n"
    if opening:
        pieces[opening[0]] = first
        pieces[closing] = last
    else:
        pieces[closing] = first + last


def set_boundary(message: Any, boundary: str, fields: Fields) -> None:
    """What the message's own `set_boundary` does while the generator writes it."""
    if fields.source == "lines" and _set_by_template(message, boundary, fields.policy):
        return
    before = message.policy
    message.policy = fields.policy
    try:
        message.set_boundary(boundary)
    finally:
        message.policy = before


def _set_by_template(message: Any, boundary: str, policy: Any) -> bool:
    headers = message._headers
    places = [place for place, (name, _) in enumerate(headers) if name.lower() == "content-type"]
    if len(places) != 1:
        return False
    name, value = headers[places[0]]
    factory: Any = policy.header_factory
    known: Any = registry.ContentTypeHeader
    if (
        not isinstance(value, str)
        or _PLAIN_TYPE.fullmatch(value) is None
        or type(factory) is not registry.HeaderRegistry
        or factory.base_class is not registry.BaseHeader
        or factory.registry.get("content-type") is not known
    ):
        return False
    key = name, str(value)
    if key not in _templates:
        if len(_templates) >= _MOST_TYPES:
            return False
        _templates[key] = _Template.learned(name, str(value), policy)
    template = _templates[key]
    if template is None:
        return False
    headers = headers.copy()
    headers[places[0]] = name, template.header(boundary)
    message._headers = headers
    return True


class _Template:
    """A parsed Content-Type, to be had with any boundary.

    Args:
        parsed: what `email` made of it with the first of the samples.
    """

    def __init__(self, parsed: Any) -> None:
        self._parsed = parsed
        self._tree = parsed._parse_tree
        self._path = _path_to(self._tree, _SAMPLES[0])

    @classmethod
    def learned(cls, name: str, text: str, policy: Any) -> "_Template | None":
        """Parse one, and see whether a copy is like a second one that was parsed."""
        first, second = (
            policy.header_store_parse(name, f'{text}; boundary="{sample}"')[1]
            for sample in _SAMPLES
        )
        try:
            template = cls(first)
            alike = _seen(template.header(_SAMPLES[1])) == _seen(second)
        except Exception:
            # A version of `email` with other trees: it parses each boundary itself.
            return None
        return template if alike else None

    def header(self, boundary: str) -> Any:
        """The same with another boundary."""
        kind = type(self._parsed)
        header = str.__new__(kind, str.replace(self._parsed, _SAMPLES[0], boundary))
        state = vars(header)
        state.update(vars(self._parsed))
        state["_parse_tree"] = _replaced(self._tree, self._path, boundary)
        state["_defects"] = list(state["_defects"])
        state["_params"] = {**state["_params"], "boundary": boundary}
        return header


def _path_to(node: Any, text: str) -> list[int]:
    """The indices that lead to the only leaf that holds the text."""
    paths = []
    for place, element in enumerate(node):
        if isinstance(element, str):
            if element == text:
                paths.append([place])
        elif text in str(element):
            paths.append([place, *_path_to(element, text)])
    (path,) = paths
    return path


def _replaced(node: Any, path: list[int], text: str) -> Any:
    kind = type(node)
    if path:
        copy = list.__new__(kind)  # past the initialiser: what it does is overwritten anyway
        copy.extend(node)
        copy[path[0]] = _replaced(node[path[0]], path[1:], text)
    else:
        copy = str.__new__(kind, text)
    copy.__dict__.update(node.__dict__)
    copy.defects = node.defects.copy()
    return copy


def _seen(header: Any) -> tuple[Any, ...]:
    state = dict(vars(header))
    tree = state.pop("_parse_tree")
    facts = header.params, tree.maintype, tree.subtype, list(tree.params), tree.all_defects
    return type(header).__bases__, str(header), repr(tree), str(tree), state, facts
