"""The senders of a process: one for each configuration, kept from one request to the next.

A sender keeps its connections, so the second request that sends mail finds one open. The settings
may change under it (rotated credentials, `override_settings`): another configuration has another
sender, and one that is not wanted any more is closed as soon as nobody sends through it.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

from rapidsmtp.sender import Sender

MOST = 8
"""Configurations that are kept; a project has one or two, and tests have many."""


class Kept:
    """A sender that is lent: `with` counts who is sending through it."""

    __slots__ = ("sender", "unwanted", "users")

    def __init__(self, sender: Sender) -> None:
        self.sender: Sender = sender
        self.users: int = 0
        self.unwanted: bool = False

    def __enter__(self) -> Sender:
        return self.sender

    def __exit__(self, *_: object) -> None:
        with _lock:
            self.users -= 1
            if self.unwanted:
                _give_up([self])


_kept: OrderedDict[Hashable, Kept] = OrderedDict()
_lock = threading.Lock()


def borrow(settings: Mapping[str, Any], version: Hashable = None) -> Kept:
    """Lend the sender of a configuration; it is made when it is first asked for.

    Args:
        settings: The arguments of `Sender`.
        version: What else tells this configuration from others, such as the age of its files.

    Returns:
        A context manager that has to be entered, and gives the sender.

    Raises:
        TypeError: A setting has the wrong type, or cannot be compared.
        ValueError: A setting is wrong.
        OSError: A certificate cannot be read.
    """
    key = (version, *sorted(settings.items()))
    with _lock:
        kept = _kept.get(key)
        if kept is None:
            kept = _kept[key] = Kept(Sender(**settings))
        _kept.move_to_end(key)
        kept.users += 1
        _give_up([_kept.popitem(last=False)[1] for _ in range(len(_kept) - MOST)])
    return kept


def close_all() -> None:
    """Let go of all senders: each is closed once nobody sends through it."""
    with _lock:
        unwanted = list(_kept.values())
        _kept.clear()
        _give_up(unwanted)


def _give_up(unwanted: list[Kept]) -> None:
    for kept in unwanted:
        kept.unwanted = True
        if kept.users <= 0:
            # A relay may take seconds to answer QUIT, and the lock is held.
            threading.Thread(target=kept.sender.close, name="rapidsmtp ending", daemon=True).start()


def _after_fork_in_child() -> None:
    """The threads that held the lock or a sender are not here; senders begin anew themselves."""
    global _lock
    _lock = threading.Lock()
    for kept in _kept.values():
        kept.users = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
