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
from operator import itemgetter
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, ClassVar, TypeAlias

import rapidsmtp as _package
from rapidsmtp import _backend
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
        # Copies in the class itself, so that `Methods` need not search the base classes.
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


class Methods:
    """Methods of a client, to check that a call of them runs only rapidsmtp's own code.

    Each message needs this check. So all methods of a class are read and compared in one step.

    Args:
        *names: The names of the methods.
    """

    _all: ClassVar[list["Methods"]] = []

    def __init__(self, *names: str) -> None:
        self._names = names
        self._classes: dict[type, _Originals] = {}
        Methods._all.append(self)

    def is_own(self, client: Any) -> bool:
        """Return whether the client itself, not its class, has one of the methods."""
        return _backend.has_any(client.__dict__, self._names)

    def are_original(self, client: Any) -> bool:
        """Return whether no method is replaced in the client and in its classes."""
        if self.is_own(client):
            return False
        cls = type(client)
        originals = self._classes.get(cls)
        if originals is None or originals.classes is not cls.__mro__:
            if len(self._classes) >= _MAX_CLASSES:
                self._classes.clear()
            originals = self._classes[cls] = _Originals(cls.__mro__, frozenset(self._names))
        return originals.are_present()

    @classmethod
    def forget(cls) -> None:
        """Forget all originals, because one of them has changed."""
        for each in cls._all:
            each._classes.clear()


_MAX_CLASSES = 64
"""The maximum number of classes of clients for which a `Methods` stores the originals."""


class _Originals:
    """The entries of a client's classes for some names, as they are without replacements.

    If the classes are those of rapidsmtp and smtplib, and CPython shows changes of a class by a
    flag, the flag of a probe replaces most comparisons. The probe is a class that inherits from all
    these classes and has no other use.

    Args:
        classes: The class of the client and its base classes.
        names: The names of the methods.

    Attributes:
        classes: The argument.
    """

    def __init__(self, classes: tuple[type, ...], names: frozenset[str]) -> None:
        self.classes = classes
        last = classes.index(OWN_SMTP) if OWN_SMTP in classes else len(classes) - 2
        checked = classes[: last + 1]
        if not any(map(is_ours, checked)):
            # The object of smtplib's class is older than `install`.
            ours = next(_ours[cls] for cls in checked if cls in _ours)
            checked += tuple(cls for cls in ours.__mro__ if is_ours(cls))
        # The proxies of `vars` show later changes.
        self._present: list[tuple[_Entries, Callable[[_Entries], Any], tuple[Any, ...]]] = []
        self._absent: list[tuple[_Entries, frozenset[str]]] = []
        for cls in checked:
            if cls in _copied:
                continue
            originals = known.get(cls)
            if originals is None:
                self._absent.append((vars(cls), names | {"__getattribute__"}))
                continue
            if present := sorted(names & originals.keys()):
                # `itemgetter` with one name returns no tuple, so the first name is given twice.
                values_of = itemgetter(present[0], *present)
                self._present.append((vars(cls), values_of, values_of(originals)))
            if missing := names - originals.keys():
                self._absent.append((vars(cls), missing))
        # A class of the program may run any code when a class is derived from it.
        self._is_watched = _SHOWS_CHANGES and set(checked) <= known.keys() & set(classes)
        self._probe: type | None = None

    def are_present(self) -> bool:
        """Return whether the classes have these entries, and no others with these names."""
        probe = self._probe
        if probe is not None and probe.__flags__ & _VALID_VERSION_TAG:
            return True
        return self._compare() and self._watch()

    def _watch(self) -> bool:
        """Compare again, and watch the classes for later changes. Return the result."""
        if not self._is_watched:
            return True
        # The flag of the probe is set before the comparison, so that a change by another thread
        # during the comparison clears the flag.
        probe = type("_Probe", (self.classes[0],), {})
        getattr(probe, "sendmail", None)
        self._is_watched = bool(probe.__flags__ & _VALID_VERSION_TAG)
        result = self._compare()
        self._probe = probe if result and self._is_watched else None
        return result

    def _compare(self) -> bool:
        for entries, names in self._absent:
            if not entries.keys().isdisjoint(names):
                return False
        try:
            for entries, values_of, originals in self._present:
                if not _backend.are_same(values_of(entries), originals):
                    return False
        except KeyError:  # the program has deleted a method
            return False
        return True


def set_original(cls: type, name: str, value: Any) -> None:
    """Record an entry of a class that is not a replacement; `ABSENT` for no entry."""
    if value is ABSENT:
        known[cls].pop(name, None)
    else:
        known[cls][name] = value
    Methods.forget()


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
