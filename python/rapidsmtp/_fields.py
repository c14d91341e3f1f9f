"""Header fields of email.message objects, folded as their policy folds them, and sooner.

Whatever is not sure to come out the same goes through the policy's own `fold_binary`. The tables
below name what `email` itself made; a class that somebody has changed or derived is not in them.
"""

import email.header
import email.headerregistry as registry
import email.policy
import re
import sys
from email import _header_value_parser
from operator import attrgetter
from typing import Any

from rapidsmtp import _core

_COMPAT32_UNLIMITED = 1_000_000
"""What `email.header` takes for a line without limit."""

parser: Any = _header_value_parser  # of whose inside typeshed says little

_BROKEN = re.compile(rb"\r\n[^ \t]|\r[^ \n\t]|\n[^ \t]")
"""A line end inside of a field that is no folding; newer versions of `email` refuse it."""

_OWN_NAMES = 2
"""What the namespace of a class holds to which nobody has added: `__module__`, `__doc__`."""


def _sources() -> dict[tuple[type, ...], str]:
    """How the header classes are folded that `HeaderRegistry` makes, by their bases."""
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
            source = "addresses"  # whose text is not the one that was parsed
        elif issubclass(kind, registry.ParameterizedMIMEHeader):
            source = "parameters"
        elif issubclass(kind, same_text):
            source = "parsed"
        else:
            continue
        sources[kind, registry.BaseHeader] = source
    return sources


def _plain_nodes() -> dict[type, bool]:
    """The nodes of a parse tree of whose text `tree_text` is sure: True for lists."""
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


def machinery() -> tuple[Any, ...]:
    """The functions of `email` that this module imitates."""
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
_KNOWN_METHODS = {
    _methods(email.policy.EmailPolicy): "lines",
    _methods(email.policy.Compat32): "compat32",
}


def source_of(policy: Any) -> str | None:
    """How a policy folds text: as `"lines"`, as `"compat32"`, or as nobody knows."""
    if not _NAMES.isdisjoint(vars(policy)):
        return None
    return _KNOWN_METHODS.get(_methods(type(policy)))


class Fields:
    """A policy's way of folding.

    Attributes:
        policy: the policy, whose line end is CRLF.
        source: what `source_of` says of it.
    """

    __slots__ = ("_limit", "_own_lines", "policy", "source")

    def __init__(self, policy: Any, source: str) -> None:
        self.policy = policy
        self.source = source
        limit = policy.max_line_length
        if not limit:
            limit = sys.maxsize if source == "lines" else _COMPAT32_UNLIMITED
        # None of ours fits into an odd one, so all are folded by the policy.
        self._limit = min(limit, sys.maxsize) if type(limit) is int and limit > 0 else 0
        self._own_lines = source == "compat32" or policy.refold_source in ("long", "none")

    def fold(self, name: str, value: Any) -> bytes:
        """Write a field.

        Args:
            name: its name.
            value: its value, as `email.message.Message.raw_items` gives it.

        Raises:
            ValueError: it would be more or less than a field.
            Exception: what the policy raises.
        """
        field = self._folded(name, value)
        if field is None:
            field = self.policy.fold_binary(name, value)
            if type(field) is not bytes or not field.endswith(b"\r\n"):
                raise ValueError("not one field")
            if _BROKEN.search(field[:-2]):
                raise ValueError("not one field")
        return field

    def _folded(self, name: str, value: Any) -> bytes | None:
        kind = type(value)
        if kind is str:
            if self._own_lines:
                return _core.fold_field(name, value, self._limit, self.source)
            return None
        if self.source != "lines" or len(vars(kind)) != _OWN_NAMES:
            return None
        source = _SOURCES.get(kind.__bases__)
        if source is None or not value._parse_tree:
            return None
        if source == "addresses":
            text = _core.tree_text(value._parse_tree, _PLAIN_NODES)
            return _core.fold_field(value._name, text, self._limit, "parsed") if text else None
        return _core.fold_field(value._name, value, self._limit, source)
