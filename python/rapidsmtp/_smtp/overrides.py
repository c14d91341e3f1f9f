"""The methods of a client, and the modules of smtplib, that a program may replace.

Methods: a program may replace methods of `rapidsmtp.SMTP`, of smtplib's own class, of a subclass or
of a client. smtplib's class counts, because the program, or a library that sends mail through a
proxy, may have changed this class before it imported rapidsmtp. This module finds a replacement in
the dictionaries of the classes and compares it by identity. Attributes of functions do not show a
replacement: `functools.wraps` copies `__module__`, and a wrapper of wrapt is equal to its function.

Modules: programs that use a proxy, and many tests, set `smtplib.socket` or `smtplib.ssl` to another
object. After `install()`, the code of rapidsmtp runs instead of smtplib's, so rapidsmtp must use
the program's object. Otherwise it would connect without the proxy.
"""

import functools
import smtplib
import socket as _socket
import ssl as _ssl
from collections.abc import Callable
from operator import is_
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, TypeAlias

import rapidsmtp as _package
from rapidsmtp._smtp.state import reuse_seconds

_Entries: TypeAlias = MappingProxyType[str, Any]

ABSENT: Any = object()
"""The entry of a class that has none of this name."""

known: dict[type, dict[str, Any]] = {}
"""The entries of each class that are not replacements: rapidsmtp's and smtplib's own."""

_ours: dict[type, type] = {}
"""smtplib's own classes, each with rapidsmtp's class of the same name."""

_copied: set[type] = set()
"""The base classes whose methods `SMTP` has in its own dictionary."""

# smtplib's own classes


def _own_class(name: str, base: type) -> type:
    cls = getattr(smtplib, name)
    if isinstance(cls, type) and cls.__module__ == "smtplib":
        return cls
    classes: list[type] = base.__subclasses__()
    found = [each for each in classes if each.__module__ == "smtplib"]
    return next(each for each in found if each.__name__ == name)


# A program may have bound another class or a mock to these names before it imported rapidsmtp.
OWN_SMTP = _own_class("SMTP", object)
OWN_SMTP_SSL = _own_class("SMTP_SSL", OWN_SMTP)
OWN_LMTP = _own_class("LMTP", OWN_SMTP)


def base_class(own: type) -> Any:
    """Return the base class for rapidsmtp's class: the class that the program has bound, if any.

    Args:
        own: smtplib's own class of the same name.
    """
    bound = getattr(smtplib, own.__name__)
    return bound if isinstance(bound, type) and issubclass(bound, own) else own


def is_own_method(cls: type, name: str, value: object) -> bool:
    """Return whether an entry of smtplib's own class is smtplib's method.

    A program may have replaced the method before it imported rapidsmtp.
    """
    if not isinstance(value, FunctionType):
        return False
    original = "verify" if name == "vrfy" else name
    qualified_name = f"{cls.__name__}.{original}"
    return value.__globals__ is vars(smtplib) and value.__code__.co_qualname == qualified_name


for _class in (OWN_SMTP, OWN_SMTP_SSL, OWN_LMTP):
    known[_class] = {
        name: value for name, value in vars(_class).items() if is_own_method(_class, name, value)
    }

# A fast check

# CPython 3.11 and 3.12 set this flag of a class when they look up an attribute of the class, and
# clear it when the class or one of its base classes is changed (`PyType_Modified`).
_VALID_VERSION_TAG = 1 << 19


def _flag_shows_changes() -> bool:
    base = type("_Base", (), {})
    leaf = type("_Leaf", (base,), {})
    getattr(leaf, "name", None)
    was_set = leaf.__flags__ & _VALID_VERSION_TAG
    base.name = None  # type: ignore[attr-defined]
    return bool(was_set) and not leaf.__flags__ & _VALID_VERSION_TAG


_SHOWS_CHANGES = _flag_shows_changes()


class _Watch:
    """A fast check that no method is replaced in rapidsmtp's and smtplib's classes.

    Each message needs this check, and looking up all methods would take a tenth of the time of a
    small message. `leaf` is a class that inherits from all these classes and has no other use. So
    its flag shows whether one of them was changed since the last complete check.
    """

    def __init__(self) -> None:
        self.leaf: type = object
        self.methods: frozenset[str] = frozenset()
        self.is_checked = False
        self.is_unreplaced = False
        self._last: object = None  # the last check that has begun

    def watch(self, leaf: type) -> None:
        """Watch the base classes of a class."""
        self.leaf = leaf
        entries = [entry for cls in self._classes() for entry in known.get(cls, {}).items()]
        self.methods = frozenset(name for name, value in entries if isinstance(value, FunctionType))

    def _classes(self) -> tuple[type, ...]:
        return self.leaf.__mro__[1:-1]

    def check(self) -> bool:
        """Check all methods."""
        # Other threads see no earlier result, and no result that a later check may contradict.
        self._last = check = object()
        self.is_unreplaced = False
        # The flag is set before the check, so that a change during the check clears the flag.
        getattr(self.leaf, "sendmail", None)
        self.is_checked = True
        result = all(map(self._is_unreplaced, self._classes()))
        if self._last is check:
            self.is_unreplaced = result
        return result

    def _is_unreplaced(self, cls: type) -> bool:
        entries, originals = vars(cls), known.get(cls)
        if originals is None or not entries.keys() & self.methods <= originals.keys():
            return False
        return all(map(is_, map(entries.get, originals), originals.values()))


_watch = _Watch()
_exact: set[type] = set()
"""The classes of clients whose methods `_watch` checks completely."""


def watch(*classes: type) -> None:
    """Watch rapidsmtp's classes and their base classes. Called after `follow`."""
    _watch.watch(type("_Leaf", classes, {}))
    _exact.update(cls for cls in _watch.leaf.__mro__ if cls in _ours.values())


def unreplaced() -> bool:
    """Return whether no method is replaced in a class of rapidsmtp or smtplib."""
    if _watch.is_checked and _watch.leaf.__flags__ & _VALID_VERSION_TAG:
        return _watch.is_unreplaced
    return _watch.check()


# Methods


def register(*classes: type) -> None:
    """Record the entries of rapidsmtp's classes. Called after the definition of the classes."""
    known.update({cls: dict(vars(cls)) for cls in classes})


def follow(ours: Any, own: type) -> None:
    """Let the methods of rapidsmtp's class call replaced methods of smtplib's own class.

    Args:
        ours: The class of rapidsmtp.
        own: The class of smtplib with the same name.
    """
    _ours[own] = ours
    classes = ours.__mro__
    first = next(place for place, cls in enumerate(classes) if not is_ours(cls))
    bases = classes[first : classes.index(OWN_SMTP) + 1]
    # The proxies of `vars` show later changes.
    ours._smtplib_entries = tuple((vars(cls).get, known.get(cls, {}).get) for cls in bases)
    if own is OWN_SMTP:
        # Copies in the class itself, so that `is_original` need not search the base classes.
        for name, value in [each for cls in classes[1:first] for each in vars(cls).items()]:
            if name not in vars(ours) and isinstance(value, FunctionType) and name in vars(own):
                setattr(ours, name, value)
        _copied.update(classes[1:first])
    for name, value in list(vars(ours).items()):
        if isinstance(value, FunctionType) and name in vars(own):
            setattr(ours, name, _following(name, value, own))
    register(*(cls for cls in classes[:first] if cls not in known))


def is_ours(cls: type) -> bool:
    """Return whether a class is a part of rapidsmtp."""
    return cls.__module__.partition(".")[0] == "rapidsmtp"


def _following(name: str, function: Callable[..., Any], own: type) -> Callable[..., Any]:
    # `SMTP_SSL.__init__` calls `SMTP.__init__`, so it must not call a replaced `SMTP.__init__`.
    single = None if own is OWN_SMTP else ((vars(own).get, known[own].get),)

    @functools.wraps(function)
    def method(self: Any, *args: Any, **named: Any) -> Any:
        if _SHOWS_CHANGES and unreplaced():
            return function(self, *args, **named)
        for entry_of, original_of in single or self._smtplib_entries:
            entry = entry_of(name, ABSENT)
            if entry is not original_of(name, ABSENT) and entry is not ABSENT:
                return call_replacement(self, name, entry, function, args, named)
        return function(self, *args, **named)

    return method


def call_replacement(
    client: Any,
    name: str,
    entry: Any,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    named: dict[str, Any],
) -> Any:
    """Call the replacement of a method, which is in another class than the called method.

    If a method of rapidsmtp was called, the replacement is in a class of smtplib, or the other way
    round. The replacement usually calls the method that it has replaced. This inner call must run
    `function`, and not the replacement again.

    Args:
        client: The client.
        name: The name of the method.
        entry: The replacement, as it is in the dictionary of the class.
        function: The method of rapidsmtp.
        args: The positional arguments.
        named: The keyword arguments.
    """
    running = client.__dict__.setdefault("_running_replacements", set())
    if name in running:
        return function(client, *args, **named)
    running.add(name)
    # smtplib's `__init__` does not accept these arguments.
    pipelining = named.pop("pipelining", None) if name == "__init__" else None
    reuse = named.pop("reuse", False) if name == "__init__" else False
    if reuse is not False:
        client._reuse = reuse_seconds(reuse)
    try:
        bind = getattr(type(entry), "__get__", None)
        method = entry if bind is None else bind(entry, client, type(client))
        return method(*args, **named)
    finally:
        running.discard(name)
        if pipelining is not None:
            client.pipelining = pipelining


def is_original(client: Any, *names: str) -> bool:
    """Return whether calls of these methods of a client run only rapidsmtp's own code."""
    if not client.__dict__.keys().isdisjoint(names):
        return False
    if _SHOWS_CHANGES and type(client) in _exact and unreplaced():
        return True
    known_classes, other_classes = _entries_of(type(client).__mro__, names)
    for entries in other_classes:
        if "__getattribute__" in entries or not entries.keys().isdisjoint(names):
            return False
    for entry_of, originals in known_classes:
        if not all(map(is_, map(entry_of, names), originals)):
            return False
    return True


def set_original(cls: type, name: str, value: Any) -> None:
    """Record an entry of a class that is not a replacement; `ABSENT` for no entry."""
    if value is ABSENT:
        known[cls].pop(name, None)
    else:
        known[cls][name] = value
    _entries_of.cache_clear()
    _watch.is_checked = False


# The proxies of `vars` show later changes, so these need no invalidation.
@functools.lru_cache(maxsize=64)
def _entries_of(
    classes: tuple[type, ...], names: tuple[str, ...]
) -> tuple[list[tuple[Callable[[str], Any], list[Any]]], list[_Entries]]:
    """Return what `is_original` compares.

    Returns:
        For each known class, the function that returns an entry, and the originals for `names`; and
        the entries of all other classes.
    """
    last = classes.index(OWN_SMTP) if OWN_SMTP in classes else len(classes) - 2
    classes = classes[: last + 1]
    if not any(map(is_ours, classes)):
        # The object of smtplib's class is older than `install`.
        ours = next(_ours[cls] for cls in classes if cls in _ours)
        classes += tuple(cls for cls in ours.__mro__ if is_ours(cls))
    return (
        [
            (vars(cls).get, list(map(known[cls].get, names)))
            for cls in classes
            if cls in known and cls not in _copied
        ],
        [vars(cls) for cls in classes if cls not in known],
    )


_DETERMINING_REUSE = (
    *("__exit__", "_get_socket", "auth", "auth_cram_md5", "auth_login", "auth_plain", "close"),
    *("connect", "data", "docmd", "ehlo", "ehlo_or_helo_if_needed", "getreply", "helo", "login"),
    *("mail", "putcmd", "quit", "rcpt", "rset", "send", "starttls"),
)
"""The methods that open, negotiate, use and end a connection. If a program has replaced one of
them, its connections are not reused, because the replacement must run."""


def has_replaced_method(client: Any) -> bool:
    """Return whether a program has replaced a method that determines the reuse of connections."""
    return not is_original(client, *_DETERMINING_REUSE)


def has_own_method(client: Any) -> bool:
    """Return whether the client itself, not its class, has such a method."""
    return not client.__dict__.keys().isdisjoint(_DETERMINING_REUSE)


# Modules


def socket() -> Any:
    """Return `rapidsmtp.socket` if a program replaced it, else `smtplib.socket`."""
    return _current("socket", _socket)


def ssl() -> Any:
    """Return `rapidsmtp.ssl` if a program replaced it, else `smtplib.ssl`."""
    return _current("ssl", _ssl)


def _current(name: str, original: ModuleType) -> Any:
    module = getattr(_package, name)
    return getattr(smtplib, name, module) if module is original else module
