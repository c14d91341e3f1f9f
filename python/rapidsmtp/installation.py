"""`install`: smtplib's classes become ours for the whole process.

The names in `smtplib` are changed. A class that somebody imported or subclassed before that is
smtplib's own; its methods are lent ours, so that it takes the fast way too and stays the class
that it is. A method which a program has replaced on it is left alone.
"""

import itertools
import smtplib
from types import FunctionType
from typing import Any

from rapidsmtp import client, tls

_NAMES = ("SMTP", "SMTP_SSL", "LMTP")
_ABSENT = object()

_before: list[tuple[Any, str, Any]] = []
"""What was changed: an owner, an attribute, and its value before; empty while not installed."""


def install(verify: bool | None = None) -> None:
    """Make `smtplib.SMTP`, `SMTP_SSL` and `LMTP` ours for the whole process; again is no harm.

    Args:
        verify: whether TLS settings that nobody gave verify certificates and host names, which
            smtplib's do not; it holds for this package's classes as well. None leaves it as it
            is: off, unless an earlier call has turned it on.
    """
    if verify is not None:
        tls.verify_by_default = verify
    if _before:
        return
    originals = {name: getattr(smtplib, name) for name in _NAMES}
    ours = [each for each in client.SMTP.__mro__ if each.__module__.startswith("rapidsmtp.")]
    for name, value in itertools.chain.from_iterable(vars(owner).items() for owner in ours):
        if not name.startswith("__") or name in ("__init__", "__enter__", "__exit__"):
            _lend(originals["SMTP"], name, value)
    _lend(originals["SMTP_SSL"], "__init__", vars(client.SMTP_SSL)["__init__"])
    for name in _NAMES:
        _change(smtplib, name, getattr(client, name))


def uninstall() -> None:
    """Give smtplib back what `install` changed."""
    tls.verify_by_default = False
    while _before:
        owner, name, value = _before.pop()
        if value is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, value)


def _lend(owner: type, name: str, value: Any) -> None:
    if owner.__module__ != "smtplib":  # another library was here first: its class stays its own
        return
    present = vars(owner).get(name, _ABSENT)
    theirs = isinstance(present, FunctionType) and present.__module__ != "smtplib"
    if not theirs and (present is _ABSENT or isinstance(value, FunctionType)):
        _change(owner, name, value)


def _change(owner: Any, name: str, value: Any) -> None:
    _before.append((owner, name, vars(owner).get(name, _ABSENT)))
    setattr(owner, name, value)
