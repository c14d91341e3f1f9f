"""Add missing boundaries to multiparts (RFC 2046 section 5.1.1), exactly as `email` does.

The boundary is stored in the message's Content-Type. Under an `EmailPolicy`, the value of this
field is a parsed object. `email` needs a hundred microseconds to parse it. For two messages of the
same multipart type, the parsed objects differ only in the boundary. So `email` parses the field
once for each multipart type. For each further message, this module copies the parsed object and
replaces the boundary. In a copy, only the nodes on the path to the boundary are new. All other
nodes are shared.
"""

import email.generator
import email.headerregistry as registry
import re
from typing import Any

from rapidsmtp import _backend
from rapidsmtp._compose.header_fields import Fields

_MAX_TYPES = 64
"""The maximum number of multipart types in the cache. Programs use three or four."""

_SAMPLES = "=====0123456789012345678==", "=====8765432109876543210=="
_PLAIN_TYPE = re.compile(r"multipart/[a-z0-9.+-]+", re.ASCII | re.IGNORECASE)

_content_types: dict[tuple[str, str], "_ContentType | None"] = {}


class Unbounded:
    """A multipart without a boundary, with the positions of its delimiters.

    Args:
        message: The multipart.
        fields: The object that folds the header fields of the multipart.
        first_field: The index of the multipart's first header field in the collected message.
        delimiters: The indices of the multipart's delimiters in the collected message.
        spans: The start and end index of each part in the collected message.
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

    def bind(self, collected: list[str | bytes]) -> None:
        """Generate a boundary, and write it to the message and to the collected bytes.

        Args:
            collected: The collected message, as a list of pieces.

        Raises:
            email.errors.HeaderParseError: The message has no Content-Type that can hold the
                boundary.
        """
        boundary = self._unused_boundary(collected)
        set_boundary(self._message, boundary, self._fields)
        for place, (name, value) in enumerate(self._message._headers, self._first_field):
            if name.lower() == "content-type":
                collected[place] = self._fields.fold(name, value)
        delimit(collected, self._delimiters, boundary)

    def _unused_boundary(self, collected: list[str | bytes]) -> str:
        boundary: str = email.generator.BytesGenerator._make_boundary()  # type: ignore[attr-defined]
        inner = collected[self._delimiters[0] : self._delimiters[-1]]
        if not _backend.mentions(inner, f"--{boundary}".encode("ascii")):
            return boundary
        parts = [_backend.assemble(collected[begin:end]) for begin, end in self._spans]
        text = b"\r\n".join(parts)
        number, chosen = 0, boundary
        while re.search(rb"^--%b(--)?$" % re.escape(chosen.encode("ascii")), text, re.MULTILINE):
            chosen = f"{boundary}.{number}"
            number += 1
        return chosen


def delimit(collected: list[str | bytes], places: list[int], boundary: str) -> None:
    """Write the delimiters of a multipart.

    Args:
        collected: The collected message, as a list of pieces.
        places: The indices of the delimiters: one before each part, and the closing one.
        boundary: The boundary.
    """
    delimiter = f"\r\n--{boundary}".encode("ascii")
    *opening, closing = places
    for place in opening:
        collected[place] = delimiter + b"\r\n"
    first, last = delimiter[2:] + b"\r\n", delimiter + b"--\r\n"
    if opening:
        collected[opening[0]] = first
        collected[closing] = last
    else:
        collected[closing] = first + last


def set_boundary(message: Any, boundary: str, fields: Fields) -> None:
    """Set the boundary in the same way as the message's own method `set_boundary`."""
    if fields.source == "lines" and _set_by_copy(message, boundary, fields.policy):
        return
    before = message.policy
    message.policy = fields.policy
    try:
        message.set_boundary(boundary)
    finally:
        message.policy = before


def _set_by_copy(message: Any, boundary: str, policy: Any) -> bool:
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
    if key not in _content_types:
        if len(_content_types) >= _MAX_TYPES:
            return False
        _content_types[key] = _ContentType.parsed(name, str(value), policy)
    content_type = _content_types[key]
    if content_type is None:
        return False
    headers = headers.copy()
    headers[places[0]] = name, content_type.header(boundary)
    message._headers = headers
    return True


class _ContentType:
    """A parsed Content-Type that can be copied with another boundary.

    Args:
        parsed: The field with the first sample boundary, parsed by `email`.
    """

    def __init__(self, parsed: Any) -> None:
        self._parsed = parsed
        self._tree = parsed._parse_tree
        self._path = _path_to(self._tree, _SAMPLES[0])

    @classmethod
    def parsed(cls, name: str, text: str, policy: Any) -> "_ContentType | None":
        """Parse a field.

        The field is parsed with each of the two sample boundaries. Return None if a copy of the
        first field with the second boundary differs from the second field. In that case, copies are
        not reliable.
        """
        first, second = (
            policy.header_store_parse(name, f'{text}; boundary="{sample}"')[1]
            for sample in _SAMPLES
        )
        try:
            content_type = cls(first)
            is_equal = _facts(content_type.header(_SAMPLES[1])) == _facts(second)
        except Exception:
            # This version of `email` creates parse trees that this class cannot copy. The result
            # None makes `email` parse the field for each boundary.
            return None
        return content_type if is_equal else None

    def header(self, boundary: str) -> Any:
        """Return a copy of the parsed field with another boundary."""
        kind = type(self._parsed)
        header = str.__new__(kind, str.replace(self._parsed, _SAMPLES[0], boundary))
        state = vars(header)
        state.update(vars(self._parsed))
        state["_parse_tree"] = _replaced(self._tree, self._path, boundary)
        state["_defects"] = list(state["_defects"])
        state["_params"] = {**state["_params"], "boundary": boundary}
        return header


def _path_to(node: Any, text: str) -> list[int]:
    """Return the path to the only leaf that holds the text in a parse tree.

    The path contains the index of the child at each level.
    """
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
        # `__init__` is not called, because the attributes are copied below.
        copy = list.__new__(kind)
        copy.extend(node)
        copy[path[0]] = _replaced(node[path[0]], path[1:], text)
    else:
        copy = str.__new__(kind, text)
    copy.__dict__.update(node.__dict__)
    copy.defects = node.defects.copy()
    return copy


def _facts(header: Any) -> tuple[Any, ...]:
    state = dict(vars(header))
    tree = state.pop("_parse_tree")
    visible = header.params, tree.maintype, tree.subtype, list(tree.params), tree.all_defects
    return type(header).__bases__, str(header), repr(tree), str(tree), state, visible
