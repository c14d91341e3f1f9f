"""Senders and the process that they live in: `fork`, and the interpreter's end.

A child of `fork` has its parent's sockets but none of its threads. It must not write to the one
nor wait for the other: its senders begin anew, and the inherited sockets are closed there without
a word.
"""

import atexit
import contextlib
import os
import stat
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rapidsmtp import _core
    from rapidsmtp.keeper import Keeper
    from rapidsmtp.sender import Sender

# Seconds that the interpreter's end may take for all senders that nobody has closed.
_AT_EXIT = 30.0
# And after Ctrl-C.
_INTERRUPTED = 0.8

_open: "weakref.WeakSet[Sender]" = weakref.WeakSet()
_ending: set[threading.Thread] = set()
_is_exiting = False
_sockets: list[tuple[int, int]] = []
# Of the parent: their threads are not here, so nothing may wait for them, a destructor included.
_inherited: list[object] = []


def opened(sender: "Sender") -> None:
    """Take note of a sender that needs an end."""
    _open.add(sender)


def senders() -> "list[Sender]":
    """Those that are open."""
    return list(_open)


def closed(sender: "Sender") -> None:
    """Its end has come."""
    _open.discard(sender)


def at_exit(error: Exception) -> BaseException:
    """What a thread is to be told, for which a sender has ended too early.

    At the interpreter's end a daemon's thread ends without a word. Its traceback could meet the
    end of stderr, for which Python aborts the whole process.
    """
    return SystemExit() if _is_exiting and threading.current_thread().daemon else error


def end(engine: "_core.Engine", keeper: "Keeper") -> None:
    """Close the engine of a sender that nobody holds any more, once it has sent everything."""

    def close() -> None:
        engine.close(None)
        keeper.close()
        _ending.discard(thread)

    thread = threading.Thread(target=close, name="rapidsmtp ending", daemon=True)
    _ending.add(thread)
    thread.start()


def _before_fork() -> None:
    _sockets.clear()
    for sender in senders():
        for descriptor in sender._descriptors():
            with contextlib.suppress(OSError):
                _sockets.append((descriptor, os.fstat(descriptor).st_ino))


def _after_fork_in_child() -> None:
    for sender in senders():
        _inherited.append(sender._begin_anew())
    for descriptor, inode in _sockets:
        with contextlib.suppress(OSError):
            # Another thread may have closed it just before, and opened something else.
            found = os.fstat(descriptor)
            if found.st_ino == inode and stat.S_ISSOCK(found.st_mode):
                os.close(descriptor)
    _sockets.clear()
    _inherited.extend(_ending)
    _ending.clear()


def _at_exit() -> None:
    global _is_exiting
    _is_exiting = True
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    deadline = time.monotonic() + (_INTERRUPTED if interrupted else _AT_EXIT)
    for sender in senders():
        with contextlib.suppress(Exception, KeyboardInterrupt):
            before = sender.stats()
            sender.close(max(0.0, deadline - time.monotonic()))
            after = sender.stats()
            lost = after.not_attempted - before.not_attempted
            unknown = after.unknown - before.unknown
            if lost or unknown:
                print(
                    f"rapidsmtp: at exit {lost} messages were not sent to {sender.relay}"
                    + (f", and {unknown} may have been" if unknown else ""),
                    file=sys.stderr,
                )
    for thread in list(_ending):
        thread.join(max(0.0, deadline - time.monotonic()))


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
