"""The owners of leases: the runs that send rows, and whether they are alive.

Each run has a file `J-run-<token>` beside the journal, and holds a lock on it. The operating system
releases the lock when the process ends. So on the same host, a dead owner is found at once. An
owner on another host counts as dead if its last exchange is older than `SILENT_AFTER`. If such an
owner is alive after all, its granted rows become UNKNOWN, but no row is sent twice. A process that
is stopped (SIGSTOP) keeps its lock, and so does a forked child of a process.
"""

import contextlib
import errno
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

SILENT_AFTER = 60_000
"""The time without an exchange after which an owner on another host counts as dead, in
milliseconds."""


class Owner:
    """The owner of the leases of this run. It holds the lock that shows that the run is alive.

    Args:
        path: The path of the journal.

    Attributes:
        name: The name in the leases: `host:pid:token`, with a random token.
        path: The path of the locked file.
        descriptor: The descriptor of the locked file.
    """

    def __init__(self, path: str) -> None:
        token = secrets.token_hex(4)
        self.name: str = f"{socket.gethostname()}:{os.getpid()}:{token}"
        self.path: Path = run_file(path, token)
        self.descriptor: int = open_locked(self.path)

    def close(self) -> None:
        """Delete the file, and release the lock."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


def is_locked(path: str, owner: str) -> bool | None:
    """Return whether an owner holds its lock; None for an owner on another host.

    Args:
        path: The path of the journal.
        owner: The owner's name.
    """
    host, _, token = owner.split(":")
    if host != socket.gethostname():
        return None
    try:
        descriptor = os.open(run_file(path, token), os.O_RDWR)
    except OSError:
        return False
    try:
        return not lock(descriptor, waits=False)
    finally:
        os.close(descriptor)


def is_dead(path: str, owner: str, beat_at: int, now: int) -> bool:
    """Return whether an owner is dead.

    Args:
        path: The path of the journal.
        owner: The owner's name.
        beat_at: The time of the owner's last exchange, in milliseconds since 1970.
        now: The time, in milliseconds since 1970.
    """
    locked = is_locked(path, owner)
    return now - beat_at > SILENT_AFTER if locked is None else not locked


def run_file(path: str, token: str) -> Path:
    """Return the path of an owner's file.

    Args:
        path: The path of the journal.
        token: The last part of the owner's name.
    """
    return Path(f"{path}-run-{token}")


def open_locked(path: Path) -> int:
    """Create or open a file and lock it, and return its descriptor.

    The function waits while another process holds the lock. Before the file is locked, it looks
    like the file of a dead process. If another process removes it then, it is created again.

    Raises:
        OSError: The file cannot be created or locked.
    """
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        if not lock(descriptor, waits=True):
            os.close(descriptor)
            raise OSError(
                errno.ENOLCK, "cannot lock the file; put the journal on a local disk", str(path)
            )
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Hold the lock of a file until the `with` block ends."""
    descriptor = open_locked(path)
    try:
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int, *, waits: bool) -> bool:
    """Lock an open file until it is closed, and return whether this was possible.

    Args:
        descriptor: The descriptor of the file.
        waits: Whether to wait for another process that holds the lock.
    """
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if waits else msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
