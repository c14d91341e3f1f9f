"""`install`: replace smtplib's classes with those of rapidsmtp, for the whole process.

`install` binds the names in `smtplib` to the classes of rapidsmtp. A program may have imported or
subclassed smtplib's own classes before it calls `install`. So `install` also copies rapidsmtp's
methods to smtplib's own classes, and these classes then use pipelining too. `install` does not
change methods that a program has replaced.
"""

import itertools
import smtplib
from types import FunctionType
from typing import Any

from rapidsmtp._smtp import client, contexts

_NAMES = ("SMTP", "SMTP_SSL", "LMTP")
_ABSENT = object()

_originals: list[tuple[Any, str, Any]] = []
"""The changes as (owner, attribute, original value); empty while not installed."""


def install(verify: bool | None = None) -> None:
    """Replace `smtplib.SMTP`, `SMTP_SSL` and `LMTP` with the classes of rapidsmtp.

    A second call changes only `verify`.

    Args:
        verify: Whether the default TLS settings verify certificates and host names. smtplib's
            default settings verify neither. The value also applies to the classes of rapidsmtp.
            None keeps the current value, which is False at first.
    """
    if verify is not None:
        contexts.verify_by_default = verify
    if _originals:
        return
    originals = {name: getattr(smtplib, name) for name in _NAMES}
    sources = [each for each in client.SMTP.__mro__ if each.__module__.split(".")[0] == "rapidsmtp"]
    for name, value in itertools.chain.from_iterable(vars(source).items() for source in sources):
        if not name.startswith("__") or name in ("__init__", "__enter__", "__exit__"):
            _copy_attribute(originals["SMTP"], name, value)
    _copy_attribute(originals["SMTP_SSL"], "__init__", vars(client.SMTP_SSL)["__init__"])
    for name in _NAMES:
        _change(smtplib, name, getattr(client, name))


def uninstall() -> None:
    """Undo the changes of `install`."""
    contexts.verify_by_default = False
    while _originals:
        owner, name, value = _originals.pop()
        if value is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, value)


def _copy_attribute(owner: type, name: str, value: Any) -> None:
    if owner.__module__ != "smtplib":  # do not change a class of another library
        return
    present = vars(owner).get(name, _ABSENT)
    replaced = isinstance(present, FunctionType) and present.__module__ != "smtplib"
    if not replaced and (present is _ABSENT or isinstance(value, FunctionType)):
        _change(owner, name, value)


def _change(owner: Any, name: str, value: Any) -> None:
    _originals.append((owner, name, vars(owner).get(name, _ABSENT)))
    setattr(owner, name, value)
