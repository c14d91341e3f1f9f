"""Write messages exactly as `email.generator.BytesGenerator` does, but faster.

The generator writes each part into a separate buffer, copies this buffer into the buffer of the
parent, and splits each text into lines. This module avoids these copies. It walks through a message
once and collects references to the texts and to the folded header fields. Then the backend joins
the texts and fields in a single allocation.

The walk changes nothing and handles only the common cases. Other cases are a class or a policy with
its own methods, text that must be encoded again, a payload of the wrong type, a message that
contains itself, and any exception. In these cases the result of the walk is dropped, and the
generator writes or refuses the message. A missing boundary is generated at random and stored in the
message, but the walk must not change the message. So missing boundaries are generated after the
walk, in the same order as by the generator.
"""

import email.generator
import email.message
import io
import re
from operator import attrgetter
from typing import Any

from rapidsmtp import _backend
from rapidsmtp._compose.boundary import Unbounded, delimit
from rapidsmtp._compose.genuine import are_genuine
from rapidsmtp._compose.header_fields import (
    Fields,
    folding_functions,
    has_line_break,
    source_of,
)

_MAX_DEPTH = 40
"""The maximum depth of nested messages. A deeper message may exceed Python's recursion limit."""

_PLAIN_TYPES = frozenset(("application", "audio", "font", "image", "model", "text", "video"))
"""Main types whose payload the generator writes unchanged."""

_TYPE = re.compile(r"([a-z]+)/([a-z0-9.+-]+)(?=;|\Z)", re.ASCII | re.IGNORECASE)
_BOUNDARY = re.compile(r';\s*boundary=(?:"([\w\'+./:=-]+)"|([\w+.-]+))\Z', re.ASCII | re.IGNORECASE)
_FROM_LINE = re.compile(r"^From ", re.MULTILINE)
_MAX_TYPES = 256
"""The maximum number of content types in the cache. A type with a boundary is not cached."""
_MAX_TYPE_LENGTH = 200
_ENCODINGS = frozenset(("7bit", "8bit", "base64", "binary", "quoted-printable"))

_USED_METHODS = (
    "get_content_maintype",
    "get_content_subtype",
    "get_content_type",
    "get_default_type",
    "get_payload",
    "get_boundary",
    "get_param",
    "get",
    "is_multipart",
    "raw_items",
    "set_boundary",
    "_get_params_preserve",
)
_methods = attrgetter(*_USED_METHODS, "__getattribute__", "__setattr__")
_KNOWN_METHODS = _methods(email.message.Message)
_NAMES = frozenset((*_USED_METHODS, "_write_headers"))

_generator = attrgetter(
    "flatten",
    "clone",
    "write",
    "_write",
    "_dispatch",
    "_encode",
    "_new_buffer",
    "_write_headers",
    "_write_lines",
    "_handle_text",
    "_writeBody",
    "_handle_multipart",
    "_handle_multipart_signed",
    "_handle_message",
    "_make_boundary",
    "_compile_re",
)


def _reimplemented() -> tuple[Any, ...]:
    """Return the functions that this module reimplements.

    If a program replaces one of these functions, the generator writes the messages.
    """
    generator = email.generator.BytesGenerator
    names = len(vars(generator)), len(vars(email.generator.Generator))
    return _generator(generator), names, folding_functions()


def _genuine() -> tuple[Any, ...] | None:
    """Return `_reimplemented()`; None if a program changed a function before this module loaded."""
    everything = generator, _, functions = _reimplemented()
    return everything if are_genuine((*generator, *functions, *_KNOWN_METHODS)) else None


_GENUINE = _genuine()


def to_bytes(message: "email.message.Message[Any, Any]", *, policy: Any = None) -> bytes:
    """Return the bytes of a message, with CRLF line ends.

    The bytes are exactly those that `email.generator.BytesGenerator(file, policy=policy)` writes
    with `flatten(message, linesep="\\r\\n")`. So `From ` at the start of a line is escaped unless
    the policy disables escaping, and a multipart without a boundary gets a new boundary.

    Args:
        message: An email.message object of any class.
        policy: An `email.policy` object; None for the message's own policy.

    Returns:
        The message.

    Raises:
        Exception: Any exception that the generator raises.
    """
    return _written(message, policy, email.generator.BytesGenerator)


def checked_bytes(message: "email.message.Message[Any, Any]", *, policy: Any = None) -> bytes:
    """Return the same bytes as `to_bytes`, but refuse a line break in the value of a header field.

    An `EmailPolicy` decodes encoded words in a text that the program sets, also in the name of an
    attachment. A line break in the decoded text starts another header field. Newer versions of
    `email` refuse such a field in some cases.

    Args:
        message: As in `to_bytes`.
        policy: As in `to_bytes`.

    Raises:
        ValueError: A header field has a line break that is not part of its folding, or the nesting
            of the parts is too deep.
        Exception: Any exception that the generator raises.
    """
    try:
        return _written(message, policy, _CheckingGenerator)
    except RecursionError:
        raise ValueError("the message has too many levels of nested parts") from None


def _written(message: Any, policy: Any, generator: type[email.generator.BytesGenerator]) -> bytes:
    walk = _walked(message, policy)
    if walk is not None:
        return walk.finish()
    with io.BytesIO() as file:
        generator(file, policy=policy).flatten(message, linesep="\r\n")
        return file.getvalue()


class _CheckingGenerator(email.generator.BytesGenerator):
    def _write_headers(self, msg: Any) -> None:
        for name, value in msg.raw_items():
            if has_line_break(self.policy.fold_binary(name, value)):  # type: ignore[union-attr]
                raise ValueError(
                    f"header {name}: the value contains a line break or control character"
                )
        super()._write_headers(msg)  # type: ignore[misc]


def _walked(message: Any, policy: Any) -> "_Walk | None":
    try:
        if _reimplemented() != _GENUINE:
            return None
        chosen = message.policy if policy is None else policy
        source = source_of(chosen)
        if source is None:
            return None
        if chosen.linesep != "\r\n":
            chosen = chosen.clone(linesep="\r\n")
        walk = _Walk(Fields(chosen, source), policy is None or bool(policy.mangle_from_))
        walk.write(message, 0)
    except Exception:
        # Return None, so that the generator handles the message and raises the same exception.
        return None
    return walk


_types: dict[str, tuple[str, str, str | None]] = {}


def _is_known(kind: type) -> bool:
    """Return whether a class of messages has only the methods of `email.message.Message`."""
    return (
        _methods(kind) == _KNOWN_METHODS
        and not hasattr(kind, "_write_headers")
        and not hasattr(kind, "__getattr__")
    )


class _Unknown(Exception):
    """A case that only the generator handles."""


class _Walk:
    """The collected parts of a message, in order."""

    __slots__ = ("_fields", "_known", "_mangle", "_parts", "_unbounded")

    def __init__(self, fields: Fields, mangle: bool) -> None:
        self._fields = fields
        self._known: type | None = None
        self._mangle = mangle
        self._parts: list[str | bytes] = []
        self._unbounded: list[Unbounded] = []

    def finish(self) -> bytes:
        """Generate the missing boundaries, and join the parts."""
        for unbounded in self._unbounded:
            unbounded.bind(self._parts)
        return _backend.assemble(self._parts)

    def write(self, message: Any, depth: int) -> None:
        """Collect a message, or a part of one."""
        kind = type(message)
        if kind is not self._known and not _is_known(kind):
            raise _Unknown
        self._known = kind
        if depth > _MAX_DEPTH or not _NAMES.isdisjoint(message.__dict__):
            raise _Unknown
        fields, collected = self._fields, self._parts
        headers = message._headers
        if type(headers) is not list:
            raise _Unknown
        content_type, first_field = None, len(collected)
        for name, value in headers:
            lower = name.lower()
            if lower == "content-type" and content_type is None:
                content_type = value
            elif lower == "content-transfer-encoding":
                self._check_encoding(name, value)
            collected.append(fields.fold(name, value))
        collected.append(b"\r\n")
        main, sub, boundary = self._type_of(message, content_type)
        if main in _PLAIN_TYPES:
            self._write_text(message._payload)
        elif main == "multipart":
            self._write_parts(message, sub, boundary, first_field, depth)
        elif main == "message" and sub not in ("delivery-status", "delivery_status"):
            payload = message._payload
            if type(payload) is not list:
                raise _Unknown
            self.write(payload[0], depth + 1)
        else:
            raise _Unknown

    def _check_encoding(self, name: str, value: Any) -> None:
        # The generator parses a value that is not in `_ENCODINGS`, and raises an exception if the
        # value is malformed. So the walk parses the value too, although it does not use the result.
        if type(value) is not str or value not in _ENCODINGS:
            str(self._fields.policy.header_fetch_parse(name, value)).lower()

    def _type_of(self, message: Any, content_type: Any) -> tuple[str, str, str | None]:
        """Return the type, the subtype and the boundary: "" for no boundary, None if unknown."""
        text = message._default_type if content_type is None else content_type
        known = _types.get(text) if isinstance(text, str) else None
        if known is not None:
            return known
        plain = _TYPE.match(text) if isinstance(text, str) else None
        if plain is None:
            main = self._under_policy(message, message.get_content_maintype)
            return main, self._under_policy(message, message.get_content_subtype), None
        main, sub = plain[1].lower(), plain[2].lower()
        end = plain.end()
        if main != "multipart" or end == len(text):
            found = main, sub, ""
            if len(_types) < _MAX_TYPES and len(text) < _MAX_TYPE_LENGTH:
                _types[str(text)] = found
            return found
        bounded = _BOUNDARY.match(text, end)
        return main, sub, bounded and (bounded[1] or bounded[2])

    def _under_policy(self, message: Any, method: Any) -> Any:
        """Call a method of the message under the generator's policy, and return the result."""
        before = message.policy
        message.policy = self._fields.policy
        try:
            return method()
        finally:
            message.policy = before

    def _write_text(self, text: Any) -> None:
        if text is None:
            return
        if type(text) is not str:
            raise _Unknown
        if text.isascii():
            if self._mangle and _backend.has_from_line(text):
                text = _FROM_LINE.sub(">From ", text)
            self._parts.append(text)
            return
        if self._fields.policy.cte_type == "7bit" or (self._mangle and _FROM_LINE.search(text)):
            raise _Unknown
        self._parts.append(_backend.repair(text.encode("ascii", "surrogateescape")))

    def _write_parts(
        self, message: Any, sub: str, boundary: str | None, first_field: int, depth: int
    ) -> None:
        parts = message._payload
        if parts is None:
            parts = []
        if type(parts) is not list:
            raise _Unknown
        if boundary is None:
            boundary = self._under_policy(message, message.get_boundary)
        collected, fields = self._parts, self._fields
        if message.preamble is not None:
            self._write_ascii(message.preamble)
            collected.append(b"\r\n")
        if sub == "signed":
            # The signature covers the header fields of the parts in their present form, so these
            # fields must not be folded again.
            self._fields = Fields(fields.policy.clone(max_line_length=0), fields.source)
        delimiters, spans = [], []
        for part in parts:
            delimiters.append(len(collected))
            collected.append(b"")
            self.write(part, depth + 1)
            spans.append((delimiters[-1] + 1, len(collected)))
        self._fields = fields
        delimiters.append(len(collected))
        collected.append(b"")
        if message.epilogue is not None:
            self._write_ascii(message.epilogue)
        if boundary:
            delimit(collected, delimiters, boundary)
        else:
            self._unbounded.append(Unbounded(message, fields, first_field, delimiters, spans))

    def _write_ascii(self, text: Any) -> None:
        if type(text) is not str or not text.isascii():
            raise _Unknown
        self._write_text(text)
