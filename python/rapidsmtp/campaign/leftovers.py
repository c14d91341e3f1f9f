"""Remove the files of killed processes beside a journal.

A process that sends has a file `J-run-<token>` (see `owners`), and a file
`J-progress-<token>-<chunk>` for each lease (see `progress`). A killed process does not delete them.
They are needed until a recovery has ended the leases of the process.
"""

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.owners import lock, run_file

_END = re.compile(r"-(?:run-([0-9a-f]{8})|progress-([0-9a-f]{8})-[0-9]+)")


def remove_leftovers(journal: Journal) -> None:
    """Remove the files of dead processes that have no lease. Files that cannot be removed stay.

    Args:
        journal: The journal. It must be writable.
    """
    path = Path(journal.database.place)
    for token, progress_files in _tokens(path).items():
        # `Owner` locks its file, and then checks that the file still exists. So no process can
        # begin to send under this token while the lock is held here.
        with _locked(run_file(str(path), token)) as run:
            # The lock shows that the process is dead, so it gets no further lease after this check.
            if run is not None and not _has_lease(journal, token):
                for file in progress_files:
                    with _locked(file) as progress:
                        _remove(progress)
                _remove(run)


def _tokens(path: Path) -> dict[str, list[Path]]:
    """Return the tokens of the processes with files beside a journal, and their progress files."""
    found: dict[str, list[Path]] = defaultdict(list)
    for each in path.parent.iterdir():
        match = _END.fullmatch(each.name.removeprefix(path.name))
        if match is not None and each.name != match[0]:
            found[match[1] or match[2]] += [each] if match[2] else []
    return found


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Path | None]:
    """Yield the path of a file while this process holds its lock; None if that is not possible.

    A file that does not exist cannot be locked by another process, so its path is yielded.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield path
        return
    except OSError:
        yield None
        return
    try:
        yield path if lock(descriptor, waits=False) else None
    finally:
        os.close(descriptor)


def _remove(path: Path | None) -> None:
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink()


def _has_lease(journal: Journal, token: str) -> bool:
    found = journal.database.execute(
        "SELECT 1 FROM lease WHERE state = 'leased' AND owner LIKE ? LIMIT 1", (f"%:{token}",)
    ).fetchone()
    return found is not None
