"""The TLS settings of a connection, and whether other settings are provably equal.

A client may take over a TLS connection only if its own settings would have made the same one.
Two settings are equal in three cases:

- No settings were given on both sides.
- Both are the same `SSLContext`, and nothing was changed in it since the handshake.
- Both are contexts of `ssl.SSLContext` itself, and they agree in everything. The attributes, the
  ciphers and the CA certificates can be read. Other settings, such as a client certificate, cannot
  be read. `observe` therefore notes the calls of all methods that change a context. Only contexts
  that were created after `observe` can be equal in this case.
"""

import functools
import hashlib
import os
import ssl as _ssl
import types
import weakref
from collections.abc import Callable
from typing import Any

from rapidsmtp._smtp import contexts, overrides

_Notes = list[tuple[str, bool]]
"""The calls that changed a context: the method, and whether its effect can be read."""

_notes: "weakref.WeakKeyDictionary[Any, _Notes]" = weakref.WeakKeyDictionary()
# The contexts whose creation was observed, so that no earlier call is missing in their notes.
_observed: "weakref.WeakSet[Any]" = weakref.WeakSet()

_GENUINE = _ssl.SSLContext
"""Python's own class. Some programs replace the name in `ssl`."""

_CHANGING = ("load_", "set_", "_load_", "_set_")
"""The prefixes of the methods that change a context."""

# `set_ciphers` changes the list of ciphers. `load_default_certs` and `set_default_verify_paths`
# read the certificates of the system and two environment variables, which are part of the note.
_READABLE = {"set_ciphers", "load_default_certs", "set_default_verify_paths"}


@functools.cache
def observe() -> None:
    """Note, from now on, the calls that change an `ssl.SSLContext`."""
    cls: Any = _GENUINE
    initialize = cls.__init__

    def __init__(self: Any, *args: Any, **named: Any) -> None:
        _observed.add(self)
        if initialize is not object.__init__:
            initialize(self, *args, **named)

    cls.__init__ = __init__
    for name in dir(cls):
        method = getattr(cls, name)
        if name.startswith(_CHANGING) and callable(method):
            setattr(cls, name, _noted(name, method))


def _noted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **named: Any) -> Any:
        note = name, name in _READABLE
        if name == "load_verify_locations":
            # OpenSSL reads the certificates of a directory during a handshake.
            folder = args[1] if len(args) > 1 else named.get("capath")
            note = name, folder is None
        elif name == "set_default_verify_paths":
            note = (
                f"{name} {os.environ.get('SSL_CERT_FILE')} {os.environ.get('SSL_CERT_DIR')}",
                True,
            )
        _notes.setdefault(self, []).append(note)
        return method(self, *args, **named)

    return call


class TLSIdentity:
    """The TLS settings of one connection, as they were before its handshake.

    Args:
        context: The settings that the program gave; None for the default settings.
    """

    __slots__ = ("_attributes", "_context", "_default", "_fingerprint")

    def __init__(self, context: Any) -> None:
        self._context = context
        self._fingerprint: Any = _ABSENT
        if context is None:
            module = overrides.ssl()
            make = module.create_default_context, module._create_stdlib_context, module.SSLContext
            self._default: Any = (contexts.verify_by_default, module, make, _certificate_paths())
        else:
            self._attributes = _snapshot_of(context)

    def read(self) -> None:
        """Read all settings, before the handshake. OpenSSL may add CA certificates during it."""
        if self._context is not None and self._fingerprint is _ABSENT:
            self._fingerprint = _fingerprint_of(self._context)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TLSIdentity):
            return NotImplemented
        if self._context is None or other._context is None:
            return self._context is other._context and bool(self._default == other._default)
        if self._context is other._context:
            return self._attributes is not None and self._attributes == other._attributes
        self.read()
        other.read()
        return self._fingerprint is not None and bool(self._fingerprint == other._fingerprint)

    __hash__ = None  # type: ignore[assignment]  # the settings are only compared


_ABSENT = object()


def _certificate_paths() -> tuple[str | None, ...]:
    """Return the environment variables that verifying default settings depend on."""
    if not contexts.verify_by_default:
        return ()
    return os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")


_KINDS = (types.GetSetDescriptorType, property)


_READABLE_ATTRIBUTES: tuple[Any, ...] = tuple(
    each for each in vars(_GENUINE.__mro__[-2]).values() if isinstance(each, _KINDS)
)
"""The descriptors of the C class below `ssl.SSLContext`."""


def _attributes_of(context: Any) -> tuple[Any, ...]:
    return tuple(each.__get__(context) for each in _READABLE_ATTRIBUTES)


def _snapshot_of(context: Any) -> tuple[Any, ...] | None:
    """Return what shows a later change of a context; None if the object is of an unknown kind."""
    if not isinstance(context, _GENUINE):
        return None
    notes = tuple(_notes.get(context, ()))
    own = () if type(context) is _GENUINE else (context.verify_mode, context.check_hostname)
    # Some classes keep a context of Python, and pass all calls to it.
    inner = [_snapshot_of(each) for each in vars(context).values() if isinstance(each, _GENUINE)]
    return _attributes_of(context), own, notes, dict(vars(context)), inner


def _fingerprint_of(context: Any) -> tuple[Any, ...] | None:
    """Return all settings; None if a setting cannot be read."""
    if type(context) is not _GENUINE or context not in _observed or vars(context):
        return None
    notes = _notes.get(context, ())
    if not all(readable for _, readable in notes):
        return None
    attributes = _attributes_of(context)
    if not all(isinstance(each, (int, bool, type(None))) for each in attributes):
        return None  # a callback, or a file for the keys of sessions
    counts = context.cert_store_stats()
    if counts["crl"] or counts["x509"] != counts["x509_ca"]:
        return None  # only the certificates of CAs can be read
    # The order of the calls does not matter, except that of the certificates, which are read.
    names = frozenset(name for name, _ in notes)
    certificates = hashlib.sha256(b"".join(context.get_ca_certs(binary_form=True))).digest()
    ciphers = tuple(each["name"] for each in context.get_ciphers())
    return attributes, names, ciphers, certificates
