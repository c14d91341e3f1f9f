"""Fold header fields of email.message objects as their policy does, but faster.

If the result may differ, the policy's own `fold_binary` folds the field. The tables below contain
only the unchanged classes of `email`. For objects of changed or derived classes, this module also
calls `fold_binary`.
"""

import email.header
import email.headerregistry as registry
import email.policy
import re
import sys
from email import _header_value_parser
from operator import attrgetter
from typing import Any

from rapidsmtp import _backend
from rapidsmtp._compose.genuine import are_genuine

_COMPAT32_UNLIMITED = 1_000_000
"""The line length that `email.header` uses for no limit."""

parser: Any = _header_value_parser  # typeshed lacks most private names of this module

_BROKEN = re.compile(rb"\r(?![ \n\t])|\n(?![ \t])")
"""A line end that is inside a field and is not part of its folding.

Newer versions of `email` refuse a field with such a line end.
"""

_OWN_NAMES = 2
"""The number of names in an unchanged class: `__module__` and `__doc__`."""


def has_line_break(field: bytes) -> bool:
    """Return whether a folded field has a line break that is not part of its folding."""
    return _BROKEN.search(field.removesuffix(b"\r\n")) is not None


def _sources() -> dict[tuple[type, ...], str]:
    """Return how to fold each header class of `HeaderRegistry`.

    A key is the tuple of a class's bases.
    """
    same_text = (
        registry.UnstructuredHeader,
        registry.DateHeader,
        registry.MIMEVersionHeader,
        registry.ContentTransferEncodingHeader,
        registry.MessageIDHeader,
    )
    sources: dict[tuple[type, ...], str] = {}
    kinds: set[Any] = {registry.UnstructuredHeader, *registry.HeaderRegistry().registry.values()}
    for kind in kinds:
        if issubclass(kind, registry.AddressHeader):
            source = "addresses"  # the text of an address header may differ from the parsed text
        elif issubclass(kind, registry.ParameterizedMIMEHeader):
            source = "parameters"
        elif issubclass(kind, same_text):
            source = "parsed"
        else:
            continue
        sources[kind, registry.BaseHeader] = source
    return sources


def _plain_nodes() -> dict[type, bool]:
    """Return the node classes whose text `tree_text` can compute.

    The value is True for a list of nodes.
    """
    nodes = {}
    kind: Any
    for kind in vars(parser).values():
        if not isinstance(kind, type):
            continue
        text: Any = kind.__str__
        if issubclass(kind, parser.TokenList) and text is parser.TokenList.__str__:
            nodes[kind] = True
        elif issubclass(kind, parser.Terminal) and text is str.__str__:
            nodes[kind] = False
    return nodes


_SOURCES = _sources()
_PLAIN_NODES = _plain_nodes()


def folding_functions() -> tuple[Any, ...]:
    """Return the functions of `email` that this module reimplements."""
    return (
        registry.BaseHeader.fold,
        registry.BaseHeader.__new__,
        registry.UnstructuredHeader.parse,
        registry.ParameterizedMIMEHeader.parse,
        parser._refold_parse_tree,
        parser._fold_mime_parameters,
        parser.TokenList.fold,
        parser.TokenList.__str__,
        email.header.Header.encode,
    )


_methods = attrgetter(
    "fold_binary",
    "_fold",
    "clone",
    "header_fetch_parse",
    "header_store_parse",
    "__getattribute__",
)
_NAMES = frozenset(("fold_binary", "_fold", "header_fetch_parse", "header_store_parse"))
_POLICIES = {
    _methods(email.policy.EmailPolicy): "lines",
    _methods(email.policy.Compat32): "compat32",
}
_KNOWN_METHODS = {key: source for key, source in _POLICIES.items() if are_genuine(key)}


def source_of(policy: Any) -> str | None:
    """Return how a policy folds text: `"lines"`, `"compat32"`, or None for a changed policy."""
    if not _NAMES.isdisjoint(vars(policy)):
        return None
    return _KNOWN_METHODS.get(_methods(type(policy)))


class Fields:
    """An object that folds header fields, with the same result as a policy.

    Attributes:
        policy: The policy. Its line end is CRLF.
        source: The result of `source_of` for the policy.
    """

    __slots__ = ("_limit", "_own_lines", "policy", "source")

    def __init__(self, policy: Any, source: str) -> None:
        self.policy = policy
        self.source = source
        limit = policy.max_line_length
        if not limit:
            limit = sys.maxsize if source == "lines" else _COMPAT32_UNLIMITED
        # The limit 0 replaces a value that is not a positive `int`. No field fits into 0
        # characters, so the policy itself folds all fields.
        self._limit = min(limit, sys.maxsize) if type(limit) is int and limit > 0 else 0
        self._own_lines = source == "compat32" or policy.refold_source in ("long", "none")

    def fold(self, name: str, value: Any) -> bytes:
        """Return the folded field.

        Args:
            name: The name.
            value: The value, as `email.message.Message.raw_items` returns it.

        Raises:
            ValueError: The policy did not return exactly one field.
            Exception: Any exception that the policy raises.
        """
        field = self._folded(name, value)
        if field is None:
            field = self.policy.fold_binary(name, value)
            if type(field) is not bytes or not field.endswith(b"\r\n"):
                raise ValueError("not one field")
            if has_line_break(field):
                raise ValueError("not one field")
        return field

    def _folded(self, name: str, value: Any) -> bytes | None:
        kind = type(value)
        if kind is str:
            if self._own_lines:
                return _backend.fold_field(name, value, self._limit, self.source)
            return None
        if self.source != "lines" or len(vars(kind)) != _OWN_NAMES:
            return None
        source = _SOURCES.get(kind.__bases__)
        if source is None or not value._parse_tree:
            return None
        if source == "addresses":
            text = _backend.tree_text(value._parse_tree, _PLAIN_NODES)
            return _backend.fold_field(value._name, text, self._limit, "parsed") if text else None
        return _backend.fold_field(value._name, value, self._limit, source)
