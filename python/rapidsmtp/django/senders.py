"""The senders of a process: one for each configuration, kept for later web requests.

Each sender keeps its connections open, so that later web requests can use them. If the settings
change (rotated credentials, `override_settings`), the new configuration gets a new sender, and the
old sender is closed as soon as no thread sends through it.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

from rapidsmtp._bulk.sender import Sender

MAX_SENDERS = 8
"""The maximum number of senders. Above it, the least recently used sender is removed.

A project usually has one or two configurations.
"""


class SharedSender:
    """A context manager that returns a shared sender and counts the threads that use it."""

    __slots__ = ("is_retired", "sender", "users")

    def __init__(self, sender: Sender) -> None:
        self.sender: Sender = sender
        self.users: int = 0
        self.is_retired: bool = False

    def __enter__(self) -> Sender:
        return self.sender

    def __exit__(self, *_: object) -> None:
        with _lock:
            self.users -= 1
            if self.is_retired:
                _retire([self])


_senders: OrderedDict[Hashable, SharedSender] = OrderedDict()
_lock = threading.Lock()


def borrow(settings: Mapping[str, Any], version: Hashable = None) -> SharedSender:
    """Return the sender of a configuration. The first call creates the sender.

    Args:
        settings: The arguments of `Sender`.
        version: A value that distinguishes configurations with equal settings. For example, the
            settings name certificate files by their paths, and `version` contains the times at
            which the files were changed.

    Returns:
        A context manager that the caller must enter to get the sender.

    Raises:
        TypeError: A setting has the wrong type, or it is not hashable, so it cannot identify a
            sender.
        ValueError: A setting is wrong.
        RuntimeError: The program has replaced `socket.socket`, as for `Sender`.
        OSError: A certificate cannot be read.
    """
    key = (version, *sorted(settings.items()))
    with _lock:
        shared = _senders.get(key)
        if shared is None:
            shared = _senders[key] = SharedSender(Sender(**settings))
        _senders.move_to_end(key)
        shared.users += 1
        _retire([_senders.popitem(last=False)[1] for _ in range(len(_senders) - MAX_SENDERS)])
    return shared


def close_all() -> None:
    """Remove all senders. Each sender is closed as soon as no thread uses it."""
    with _lock:
        retired = list(_senders.values())
        _senders.clear()
        _retire(retired)


def _retire(retired: list[SharedSender]) -> None:
    for shared in retired:
        shared.is_retired = True
        if shared.users <= 0:
            # Close the sender in another thread. The current thread holds the lock, and other
            # threads would wait for the lock until the relay replies to QUIT. This may take
            # seconds.
            close = shared.sender.close
            threading.Thread(target=close, name="rapidsmtp ending", daemon=True).start()


def _after_fork_in_child() -> None:
    """Reset the lock and the counts, because the parent's threads do not exist in the child."""
    global _lock
    _lock = threading.Lock()
    # The senders remain usable, because each `Sender` resets itself after a fork.
    for shared in _senders.values():
        shared.users = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
