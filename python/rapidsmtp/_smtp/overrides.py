"""Everything of a client, its socket and smtplib's modules that a program may replace.

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
from types import FunctionType, ModuleType
from typing import Any

import rapidsmtp as _package

ABSENT: Any = object()
"""The entry of a class that has none of this name."""

known: dict[type, dict[str, Any]] = {}
"""The entries of each class that are not replacements: rapidsmtp's and smtplib's own."""

# smtplib's own classes


def _own_class(name: str, base: type) -> type:
    cls = getattr(smtplib, name)
    if isinstance(cls, type) and cls.__module__ == "smtplib":
        return cls
    found = [each for each in base.__subclasses__() if each.__module__ == "smtplib"]
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


def is_own_method(name: str, value: object) -> bool:
    """Return whether an entry of smtplib's own class is smtplib's method.

    A program may have replaced the method before it imported rapidsmtp.
    """
    if not isinstance(value, FunctionType):
        return False
    original = "verify" if name == "vrfy" else name
    return value.__globals__ is vars(smtplib) and value.__code__.co_name == original


for _class in (OWN_SMTP, OWN_SMTP_SSL, OWN_LMTP):
    known[_class] = {name: each for name, each in vars(_class).items() if is_own_method(name, each)}

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
    classes = ours.__mro__
    first = next(place for place, cls in enumerate(classes) if not is_ours(cls))
    ours._smtplib_classes = classes[first : classes.index(OWN_SMTP) + 1]
    for cls in classes[:first]:
        if cls not in known:
            for name, value in list(vars(cls).items()):
                if isinstance(value, FunctionType) and name in vars(own):
                    setattr(cls, name, _following(name, value, own))
            register(cls)


def is_ours(cls: type) -> bool:
    """Return whether a class is a part of rapidsmtp."""
    return cls.__module__.partition(".")[0] == "rapidsmtp"


def _following(name: str, function: Callable[..., Any], own: type) -> Callable[..., Any]:
    # `SMTP_SSL.__init__` calls `SMTP.__init__`, so it must not call a replaced `SMTP.__init__`.
    single = None if own is OWN_SMTP else (own,)

    @functools.wraps(function)
    def method(self: Any, *args: Any, **named: Any) -> Any:
        for cls in single or getattr(self, "_smtplib_classes", ()):
            entry = vars(cls).get(name, ABSENT)
            if entry is not ABSENT and (cls not in known or entry is not known[cls].get(name)):
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
    """Call the replacement of a method, which is in the other one of rapidsmtp's and smtplib's class.

    The replacement usually calls the method that it has replaced. This inner call must run
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
    try:
        bind = getattr(type(entry), "__get__", None)
        method = entry if bind is None else bind(entry, client, type(client))
        return method(*args, **named)
    finally:
        running.discard(name)


def is_original(client: Any, *names: str) -> bool:
    """Return whether calls of these methods of a client run only rapidsmtp's own code."""
    if not client.__dict__.keys().isdisjoint(names):
        return False
    for cls in type(client).__mro__:
        if cls is object:
            break
        entries = vars(cls)
        originals = known.get(cls)
        if originals is None:
            if "__getattribute__" in entries or not entries.keys().isdisjoint(names):
                return False
            continue
        for name in names:
            if entries.get(name, ABSENT) is not originals.get(name, ABSENT):
                return False
        if cls is OWN_SMTP:
            break
    return True


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
