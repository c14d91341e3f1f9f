"""Messages written as `email.generator.BytesGenerator` writes them, octet for octet, and sooner.

The generator writes every part into a buffer of its own, copies it into its parent's and splits
every text into lines. Here a message is walked once; what is found are references to its texts
and its folded header fields, which the core makes one in a single allocation.

The walk changes nothing and knows the plain cases alone. Whatever else it meets (a class or a
policy with methods of its own, text that has to be encoded anew, a payload of the wrong type, a
tree without end, any exception) is written, or refused, by the generator itself, and the walk is
forgotten. Boundaries that are missing are made when the walk is over, in the generator's order:
they are random, and stay in the message.
"""

import email.generator
import email.message
import io
import re
from operator import attrgetter
from typing import Any

from rapidsmtp import _core
from rapidsmtp._boundary import Unbounded, delimit
from rapidsmtp._fields import Fields, machinery, source_of

_DEEPEST = 40
"""Messages within messages; the generator may meet the interpreter's limit in deeper ones."""

_PLAIN_TYPES = frozenset(("application", "audio", "font", "image", "model", "text", "video"))
"""Main types of which the generator writes the payload."""

_TYPE = re.compile(r"([a-z]+)/([a-z0-9.+-]+)(?=;|\Z)", re.ASCII | re.IGNORECASE)
_BOUNDARY = re.compile(r';\s*boundary=(?:"([\w\'+./:=-]+)"|([\w+.-]+))\Z', re.ASCII | re.IGNORECASE)
_FROM_LINE = re.compile(r"^From ", re.MULTILINE)
_MOST_TYPES = 256
"""Content types that are remembered; those with a boundary are not."""
_LONGEST_TYPE = 200
_ENCODINGS = frozenset(("7bit", "8bit", "base64", "binary", "quoted-printable"))

_ASKED_OF_MESSAGES = (
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
_methods = attrgetter(*_ASKED_OF_MESSAGES, "__getattribute__", "__setattr__")
_KNOWN_METHODS = _methods(email.message.Message)
_NAMES = frozenset((*_ASKED_OF_MESSAGES, "_write_headers"))

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


def _world() -> tuple[Any, ...]:
    """What this module imitates: where somebody has changed it, the generator goes its own way."""
    generator = email.generator.BytesGenerator
    names = len(vars(generator)), len(vars(email.generator.Generator))
    return _generator(generator), names, machinery()


def _is_genuine() -> bool:
    """Whether all of that is `email`'s own: it may have been changed before this was imported."""
    generator, _, imitated = _world()
    functions = (*generator, *imitated, *_KNOWN_METHODS)
    modules = [getattr(function, "__module__", None) for function in functions]
    return all(module is None or module.startswith("email.") for module in modules)


_KNOWN_WORLD = _world() if _is_genuine() else None


def to_bytes(message: "email.message.Message[Any, Any]", *, policy: Any = None) -> bytes:
    """Write a message with CRLF line ends.

    What comes is what `email.generator.BytesGenerator(file, policy=policy)` writes by
    `flatten(message, linesep="\\r\\n")`, octet for octet: `From ` at the start of a line is
    escaped unless a policy is given that does not ask for it, and a multipart without a boundary
    is given one.

    Args:
        message: An email.message object of any class.
        policy: An `email.policy` object; the message's own, if there is none.

    Returns:
        The message.

    Raises:
        Exception: What the generator raises.
    """
    walk = _walked(message, policy)
    if walk is not None:
        return walk.finish()
    with io.BytesIO() as file:
        generator = email.generator.BytesGenerator(file, policy=policy)
        generator.flatten(message, linesep="\r\n")
        return file.getvalue()


def _walked(message: Any, policy: Any) -> "_Walk | None":
    try:
        if _world() != _KNOWN_WORLD:
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
        # Whatever it is, the generator meets it too, and is the one to raise it.
        return None
    return walk


_types: dict[str, tuple[str, str, str | None]] = {}


def _is_known(kind: type) -> bool:
    """Whether a class of messages has the methods of `email.message.Message` alone."""
    return (
        _methods(kind) == _KNOWN_METHODS
        and not hasattr(kind, "_write_headers")
        and not hasattr(kind, "__getattr__")
    )


class _Unsure(Exception):
    """The generator has to be asked."""


class _Walk:
    """The pieces of a message, in the order of the wire."""

    __slots__ = ("_fields", "_known", "_mangle", "_pieces", "_unbounded")

    def __init__(self, fields: Fields, mangle: bool) -> None:
        self._fields = fields
        self._known: type | None = None
        self._mangle = mangle
        self._pieces: list[str | bytes] = []
        self._unbounded: list[Unbounded] = []

    def finish(self) -> bytes:
        """Make what boundaries are missing, and join."""
        for unbounded in self._unbounded:
            unbounded.bind(self._pieces)
        return _core.assemble(self._pieces)

    def write(self, message: Any, depth: int) -> None:
        """Note the pieces of a message, or of a part."""
        kind = type(message)
        if kind is not self._known and not _is_known(kind):
            raise _Unsure
        self._known = kind
        if depth > _DEEPEST or not _NAMES.isdisjoint(message.__dict__):
            raise _Unsure
        fields, pieces = self._fields, self._pieces
        headers = message._headers
        if type(headers) is not list:
            raise _Unsure
        content_type, first_field = None, len(pieces)
        for name, value in headers:
            lower = name.lower()
            if lower == "content-type" and content_type is None:
                content_type = value
            elif lower == "content-transfer-encoding":
                self._check_encoding(name, value)
            pieces.append(fields.fold(name, value))
        pieces.append(b"\r\n")
        main, sub, boundary = self._type_of(message, content_type)
        if main in _PLAIN_TYPES:
            self._write_text(message._payload)
        elif main == "multipart":
            self._write_parts(message, sub, boundary, first_field, depth)
        elif main == "message" and sub not in ("delivery-status", "delivery_status"):
            payload = message._payload
            if type(payload) is not list:
                raise _Unsure
            self.write(payload[0], depth + 1)
        else:
            raise _Unsure

    def _check_encoding(self, name: str, value: Any) -> None:
        """The generator looks at it, which is of no consequence if it can be looked at."""
        if type(value) is not str or value not in _ENCODINGS:
            str(self._fields.policy.header_fetch_parse(name, value)).lower()

    def _type_of(self, message: Any, content_type: Any) -> tuple[str, str, str | None]:
        """The types, and the boundary of a multipart: "" where it has none, None if unknown."""
        text = message._default_type if content_type is None else content_type
        known = _types.get(text) if isinstance(text, str) else None
        if known is not None:
            return known
        plain = _TYPE.match(text) if isinstance(text, str) else None
        if plain is None:
            main = self._asked(message, message.get_content_maintype)
            return main, self._asked(message, message.get_content_subtype), None
        main, sub = plain[1].lower(), plain[2].lower()
        end = plain.end()
        if main != "multipart" or end == len(text):
            found = main, sub, ""
            if len(_types) < _MOST_TYPES and len(text) < _LONGEST_TYPE:
                _types[str(text)] = found
            return found
        bounded = _BOUNDARY.match(text, end)
        return main, sub, bounded and (bounded[1] or bounded[2])

    def _asked(self, message: Any, method: Any) -> Any:
        """What a method of the message says while the generator writes it."""
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
            raise _Unsure
        if text.isascii():
            if self._mangle and _core.has_from_line(text):
                text = _FROM_LINE.sub(">From ", text)
            self._pieces.append(text)
            return
        if self._fields.policy.cte_type == "7bit" or (self._mangle and _FROM_LINE.search(text)):
            raise _Unsure
        self._pieces.append(_core.repair(text.encode("ascii", "surrogateescape")))

    def _write_parts(
        self, message: Any, sub: str, boundary: str | None, first_field: int, depth: int
    ) -> None:
        parts = message._payload
        if parts is None:
            parts = []
        if type(parts) is not list:
            raise _Unsure
        if boundary is None:
            boundary = self._asked(message, message.get_boundary)
        pieces, fields = self._pieces, self._fields
        if message.preamble is not None:
            self._write_ascii(message.preamble)
            pieces.append(b"\r\n")
        if sub == "signed":
            # The signature is over the fields as they are.
            self._fields = Fields(fields.policy.clone(max_line_length=0), fields.source)
        delimiters, spans = [], []
        for part in parts:
            delimiters.append(len(pieces))
            pieces.append(b"")
            self.write(part, depth + 1)
            spans.append((delimiters[-1] + 1, len(pieces)))
        self._fields = fields
        delimiters.append(len(pieces))
        pieces.append(b"")
        if message.epilogue is not None:
            self._write_ascii(message.epilogue)
        if boundary:
            delimit(pieces, delimiters, boundary)
        else:
            self._unbounded.append(Unbounded(message, fields, first_field, delimiters, spans))

    def _write_ascii(self, text: Any) -> None:
        if type(text) is not str or not text.isascii():
            raise _Unsure
        self._write_text(text)
