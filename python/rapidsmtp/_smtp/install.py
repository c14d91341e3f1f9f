"""`install`: replace smtplib's classes with those of rapidsmtp, for the whole process.

`install` binds the names in `smtplib` to the classes of rapidsmtp. A program may have imported or
subclassed smtplib's own classes before it calls `install`. So `install` does three more things:

- It copies rapidsmtp's methods to smtplib's own classes. Existing objects then use pipelining too.
- It makes existing subclasses subclasses of rapidsmtp's classes, by changing `__bases__`. So they
  are subclasses of the new `smtplib.SMTP`.
- A new object of smtplib's own class gets rapidsmtp's class.

`install` does not change what a program has replaced: names in `smtplib`, and methods. A program
may also replace methods later, on rapidsmtp's class or on smtplib's own. Calls on objects of both
classes run the replacement: see `overrides`.
"""

import contextlib
import functools
import smtplib
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

from rapidsmtp._smtp import client, contexts, overrides, state
from rapidsmtp._smtp.overrides import ABSENT

_CLASSES: list[tuple[type, Any]] = [
    (overrides.OWN_SMTP, client.SMTP),
    (overrides.OWN_SMTP_SSL, client.SMTP_SSL),
    (overrides.OWN_LMTP, client.LMTP),
]
"""smtplib's own classes, each with rapidsmtp's class of the same name."""

_COPIED_SPECIAL = ("__init__", "__enter__", "__exit__", "__repr__")

_changes: list[tuple[Any, str, Any, Any]] = []
"""The changes as (owner, attribute, old value, new value); empty while not installed."""

_moved: list[tuple[type, type, type]] = []
"""The changed classes, each with its old and its new base class."""


def install(verify: bool | None = None, reuse: float | None = None) -> None:
    """Replace `smtplib.SMTP`, `SMTP_SSL` and `LMTP` with the classes of rapidsmtp.

    A second call changes only `verify` and `reuse`.

    Args:
        verify: Whether the default TLS settings verify certificates and host names. smtplib's
            default settings verify neither. The value also applies to the classes of rapidsmtp.
            None keeps the current value, which is False at first.
        reuse: The number of seconds for which `quit` keeps a connection for a later client with the
            same steps. True is 30 seconds, and False ends the reuse of connections. The value also
            applies to the classes of rapidsmtp. None keeps the current value. At first, this is the
            value of the environment variable `RAPIDSMTP_REUSE`, or no reuse.

    Raises:
        TypeError: `reuse` is not a number.
        ValueError: `reuse` is negative or above 1,000,000.
    """
    if reuse is not None:
        _set_reuse(reuse)
    if verify is not None:
        contexts.verify_by_default = verify
    if _changes:
        return
    attributes: dict[str, Any] = {}
    for cls in reversed([cls for cls in client.SMTP.__mro__ if overrides.is_ours(cls)]):
        attributes |= overrides.known[cls]
    for name, value in attributes.items():
        if not name.startswith("__") or name in _COPIED_SPECIAL:
            _copy_attribute(*_CLASSES[0], name, value)
    for own, ours in _CLASSES[1:]:
        _copy_attribute(own, ours, "__init__", overrides.known[ours]["__init__"])
    for own, ours in _CLASSES:
        subclasses: list[type] = own.__subclasses__()
        for cls in subclasses:
            if cls not in overrides.known and not issubclass(ours, cls):
                _move(cls, own, ours)
        if getattr(smtplib, own.__name__) is own:
            _change(smtplib, own.__name__, ours)


def uninstall() -> None:
    """Undo the changes of `install`. Replacements that the program made later remain."""
    contexts.verify_by_default = False
    _set_reuse(None)
    while _moved:
        _move_back(*_moved.pop())
    while _changes:
        owner, name, old, new = _changes.pop()
        if isinstance(owner, type):
            is_method = overrides.is_own_method(owner, name, old)
            overrides.set_original(owner, name, old if is_method else ABSENT)
        if vars(owner).get(name, ABSENT) is not new:
            continue
        if old is ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, old)


def _set_reuse(reuse: float | None) -> None:
    state.reuse_by_default = None if reuse is None else state.reuse_seconds(reuse)
    if state.reuse_by_default:
        # Imported here and not at the top, because most programs do not reuse connections.
        from rapidsmtp._smtp.tls_identity import observe

        observe()
    elif "rapidsmtp._smtp.kept" in sys.modules:
        from rapidsmtp._smtp import kept

        kept.store.end_all()


def _copy_attribute(own: type, ours: type, name: str, value: Any) -> None:
    present = vars(own).get(name, ABSENT)
    if present is not ABSENT and present is not overrides.known[own].get(name, ABSENT):
        return  # the program has replaced the attribute, or the attribute is not a method
    if isinstance(value, FunctionType) and present is not ABSENT:
        value = _installed(name, getattr(value, "__wrapped__", value), own, ours, present)
    _change(own, name, value)
    overrides.set_original(own, name, value)


def _installed(
    name: str, function: Callable[..., Any], own: type, ours: type, original: Callable[..., Any]
) -> Callable[..., Any]:
    """Return the method of smtplib's own class while rapidsmtp is installed.

    Args:
        name: The name of the method.
        function: The method of rapidsmtp.
        own: smtplib's own class.
        ours: The class of rapidsmtp.
        original: smtplib's method.
    """

    @functools.wraps(function)
    def method(self: Any, *args: Any, **named: Any) -> Any:
        if not _changes:  # a program has kept this method, and has called it after `uninstall`
            return original(self, *args, **named)
        if name == "__init__" and type(self) is own:
            self.__class__ = ours
        for cls in ours.__mro__:
            if not overrides.is_ours(cls):
                break
            entry = vars(cls).get(name, ABSENT)
            if entry is not ABSENT:
                if entry is overrides.known[cls].get(name, ABSENT):
                    break
                return overrides.call_replacement(self, name, entry, function, args, named)
        return function(self, *args, **named)

    return method


def _change(owner: Any, name: str, value: Any) -> None:
    _changes.append((owner, name, vars(owner).get(name, ABSENT), value))
    setattr(owner, name, value)


def _move(cls: Any, old: type, new: type) -> None:
    # A class can have a layout or an order of base classes that permits no change. Such a class
    # uses rapidsmtp's methods, but is no subclass of rapidsmtp's class.
    with contextlib.suppress(TypeError):
        cls.__bases__ = tuple(new if base is old else base for base in cls.__bases__)
        _moved.append((cls, old, new))


def _move_back(cls: Any, old: type, new: type) -> None:
    with contextlib.suppress(TypeError):
        cls.__bases__ = tuple(old if base is new else base for base in cls.__bases__)
