"""Handling of open senders at a `fork` and at the end of the interpreter.

The child of a `fork` inherits the parent's sockets but no threads. The child must not write to
these sockets or wait for the parent's threads. So the senders of the child start new engines, and
the child closes the inherited sockets without QUIT.
"""

import atexit
import contextlib
import os
import stat
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Protocol

from rapidsmtp._models.relay_url import Relay
from rapidsmtp._models.report import Report, Stats

if TYPE_CHECKING:
    from rapidsmtp import _backend

# The maximum time to close all open senders at the end of the interpreter, in seconds.
_AT_EXIT = 30.0
# The maximum time to close all open senders after Ctrl-C, in seconds.
_INTERRUPTED = 0.8


class OpenSender(Protocol):
    """The part of `SenderCore` that this module uses.

    Attributes:
        relay: The relay. If messages remain unsent at the end of the interpreter, the warning on
            stderr contains the relay's name.
        close_timeout: The time limit of `close` that the program has set, in seconds, or None.
    """

    relay: Relay
    close_timeout: float | None

    def stats(self) -> Stats:
        """Return the counters of the sender."""

    def close(self, timeout: float | None) -> Report:
        """Close the sender."""

    def descriptors(self) -> list[int]:
        """Return the file descriptors of the open sockets."""

    def reset_after_fork(self) -> object:
        """Drop the parent's state, and return the objects that the child must not destroy."""


class Closable(Protocol):
    """The part of `BackgroundThreads` that this module uses."""

    def close(self) -> None:
        """Wait until the last of the program's callbacks has returned."""


_open: "weakref.WeakSet[OpenSender]" = weakref.WeakSet()
_closing: set[threading.Thread] = set()
_is_exiting = False
# The parent's sockets at the time of the fork, as pairs of descriptor and inode. The child closes
# these sockets.
_sockets: list[tuple[int, int]] = []
# The parent's objects. The child keeps references to them, because their destructors would wait for
# threads that do not exist in the child.
_inherited: list[object] = []


def opened(sender: OpenSender) -> None:
    """Register an open sender, so that it is closed at the end of the interpreter."""
    _open.add(sender)


def senders() -> list[OpenSender]:
    """Return the senders that are open."""
    return list(_open)


def closed(sender: OpenSender) -> None:
    """Unregister a sender that was closed."""
    _open.discard(sender)


def at_exit(error: Exception) -> BaseException:
    """Return the exception to raise in a thread whose sender was closed.

    At the end of the interpreter, the exception for a daemon thread is SystemExit. It ends the
    thread without a traceback. Writing a traceback while stderr is being closed would abort the
    process.
    """
    return SystemExit() if _is_exiting and threading.current_thread().daemon else error


def close_in_background(
    engine: "_backend.Engine", threads: Closable, timeout: float | None
) -> None:
    """Send the remaining messages of a sender that was never closed, then close its engine.

    Args:
        engine: The engine.
        threads: The background threads of the sender.
        timeout: The time limit, in seconds; None for no limit.
    """

    def close() -> None:
        engine.close(timeout)
        threads.close()
        _closing.discard(thread)

    thread = threading.Thread(target=close, name="rapidsmtp closing", daemon=True)
    _closing.add(thread)
    thread.start()


def _before_fork() -> None:
    _sockets.clear()
    for sender in senders():
        for descriptor in sender.descriptors():
            with contextlib.suppress(OSError):
                _sockets.append((descriptor, os.fstat(descriptor).st_ino))


def _after_fork_in_child() -> None:
    for sender in senders():
        _inherited.append(sender.reset_after_fork())
    for descriptor, inode in _sockets:
        with contextlib.suppress(OSError):
            # Before the fork, another thread may have closed the socket and opened another file
            # with the same descriptor. The child must not close this file, so it compares the
            # inodes.
            found = os.fstat(descriptor)
            if found.st_ino == inode and stat.S_ISSOCK(found.st_mode):
                os.close(descriptor)
    _sockets.clear()
    _inherited.extend(_closing)
    _closing.clear()


def _at_exit() -> None:
    global _is_exiting
    _is_exiting = True
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    deadline = time.monotonic() + (_INTERRUPTED if interrupted else _AT_EXIT)
    for sender in senders():
        with contextlib.suppress(Exception, KeyboardInterrupt):
            before = sender.stats()
            left = max(0.0, deadline - time.monotonic())
            limit = sender.close_timeout
            sender.close(left if limit is None else min(left, limit))
            after = sender.stats()
            lost = after.not_attempted - before.not_attempted
            unknown = after.unknown - before.unknown
            if lost or unknown:
                print(
                    f"rapidsmtp: at exit, {lost} messages were not sent to {sender.relay.name}"
                    + (f" and {unknown} may have been delivered" if unknown else ""),
                    file=sys.stderr,
                )
    for thread in list(_closing):
        thread.join(max(0.0, deadline - time.monotonic()))


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
