"""Progress files: they show which rows may have been sent by a process that was killed.

The progress file of a lease has one byte for each row. The compiled engine
(`src/engine/progress.rs`) writes this byte before it passes the terminator of the row's message to
the kernel, and again when the row has an outcome. So after `kill -9`, only the rows that were on
the wire are UNKNOWN. The file is not necessary for a correct journal: if the file is missing or
does not belong to the lease, all granted rows without an outcome are UNKNOWN.

The file consists of a header, which is a line of JSON, and of the bytes:

    0        not sent
    1        may have been sent
    1 + n    has an outcome: the number n of a `RowStatus`

The name of the file contains the token of the lease's owner. The owner holds a lock on the file
until its process ends. A reader uses the file only if it gets the lock, and if the header contains
this lease and the boot id of the running system. The boot id is necessary, because the kernel keeps
the bytes that a killed process has written, but may lose them in a power failure.
"""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from rapidsmtp import _backend
from rapidsmtp.campaign.model import Lease, RowStatus
from rapidsmtp.campaign.owners import lock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NOT_SENT = 0
_BEGUN = 1
# A row with one of these statuses was not accepted, and waits for another pass.
_WAITING = (RowStatus.DEFERRED, RowStatus.RETURNED)


class LeaseProgress:
    """The progress file of a lease, for the engine of this process.

    Args:
        path: The path of the file.
        header: The header.
        rows: The number of rows.

    Attributes:
        file: The object that the engine uses to write the file.

    Raises:
        OSError: The file cannot be created, or exists.
    """

    def __init__(self, path: str, header: bytes, rows: int) -> None:
        self._path = Path(path)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        self._descriptor = os.open(path, flags, 0o600)
        try:
            if not lock(self._descriptor, waits=False):
                raise BlockingIOError(errno.EAGAIN, "another process holds the lock", path)
            # The file gets its full length here. So the engine can write its bytes even if the disk
            # becomes full.
            with open(self._descriptor, "wb", closefd=False) as file:
                file.write(header + bytes(rows))
            kind = _backend.templates().ProgressFile
            self.file: _backend.ProgressFile = kind(path, len(header), rows)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Delete the file, because every row has an outcome in the journal."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        self.close()

    def close(self) -> None:
        """Release the lock. A recovery needs the file, so it is not deleted."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def create(journal: str, incarnation: str, owner: str, lease: Lease) -> LeaseProgress | None:
    """Create the progress file of a lease of this process.

    Args:
        journal: The path of the journal.
        incarnation: The random id of the journal.
        owner: The name of the owner of the lease.
        lease: The lease.

    Returns:
        The file; None if the pure-Python backend is used, the system has no boot id, or the file
        cannot be created.
    """
    header = _header(incarnation, lease)
    if header is None or _backend.templates().ProgressFile is None:
        return None
    try:
        return LeaseProgress(_path(journal, owner, lease), header, lease.count)
    except OSError:
        return None


def read(journal: str, incarnation: str, owner: str, lease: Lease) -> dict[int, int]:
    """Return the states of a lease's rows from the progress file of a dead owner.

    Args:
        journal: The path of the journal.
        incarnation: The random id of the journal.
        owner: The name of the owner.
        lease: The lease of the owner.

    Returns:
        By row: 0 if the row was not accepted and waits; otherwise the number of a `RowStatus`.
        Empty if the file is missing, belongs to another lease, or may still be written.
    """
    header = _header(incarnation, lease)
    if header is None:
        return {}
    try:
        with Path(_path(journal, owner, lease)).open("r+b") as file:
            # An owner that was stopped, or made no exchange for too long, still holds the lock. It
            # may continue and send its granted rows.
            data = file.read() if lock(file.fileno(), waits=False) else b""
    except OSError:
        return {}
    if not data.startswith(header) or len(data) != len(header) + lease.count:
        return {}
    return {lease.first + place: _status(byte) for place, byte in enumerate(data[len(header) :])}


def _status(byte: int) -> int:
    if byte == _NOT_SENT:
        return 0
    try:
        status = RowStatus(byte - _BEGUN)
    except ValueError:
        status = RowStatus.UNKNOWN
    return 0 if status in _WAITING else int(status)


def _header(incarnation: str, lease: Lease) -> bytes | None:
    try:
        boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    fields: dict[str, Any] = {
        "format": "rapidsmtp progress 1",
        "boot": boot_id,
        "journal": incarnation,
        "campaign": lease.campaign,
        "chunk": lease.chunk,
        "epoch": lease.epoch,
        "first": lease.first,
        "rows": lease.count,
    }
    return json.dumps(fields).encode("ascii") + b"\n"


def _path(journal: str, owner: str, lease: Lease) -> str:
    token = owner.rpartition(":")[2]
    return f"{journal}-progress-{token}-{lease.chunk}"
