"""The database of a journal in one file: SQLite of the standard library.

The journal's statements use `?` for parameters. `SqliteDatabase` has the interface `Database`, and
a database of another kind only needs these methods.

Two files lie beside the journal `J`:

- `J-exchanges` has the number of the last write transaction and the highest granted row. The
  number of an older copy of the journal is lower, so such a copy is found. The file is written
  after each commit without fsync, so it is never ahead of the journal.
- `J-run-<owner>` exists while a process sends. The process holds a lock on the file, and the
  operating system releases the lock when the process ends, however it ends.
"""

import contextlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from rapidsmtp.campaign.model import JournalError, JournalUnavailable

VERSION = 1
SCHEMA = Path(__file__).parent / "schema"
_BUSY = 30.0


class Cursor(Protocol):
    """What the journal uses of a cursor."""

    @property
    def rowcount(self) -> int:
        """The number of rows that the statement changed."""

    def fetchone(self) -> Any:
        """Return the next row as a tuple, or None."""

    def fetchall(self) -> list[Any]:
        """Return the remaining rows."""


class Database(Protocol):
    """What the journal uses of a database."""

    path: str
    """The path of the file, or the URL without a password."""
    is_read_only: bool

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Run one statement."""

    def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> Cursor:
        """Run one statement for each of the parameters."""

    def transaction(self, granted_to: int = 0) -> contextlib.AbstractContextManager[None]:
        """Return a context: its statements are committed together and durably, or not at all.

        Args:
            granted_to: The highest row that the transaction grants, or 0.

        Raises:
            JournalUnavailable: The database cannot be written at present. Nothing was changed.
            JournalError: The database cannot be written. Nothing was changed.
        """

    def close(self) -> None:
        """Close the database."""


class SqliteDatabase:
    """A journal's file.

    Args:
        path: The path of the file.
        create: Whether to create the file. It must not exist.
        older_copy: Whether to open a journal that is older than the file `J-exchanges` says.

    Attributes:
        path: The path of the file.
        is_read_only: Whether the file cannot be written.
        granted_since: For an older copy: the highest row that was granted after the copy was made,
            or None.

    Raises:
        JournalError: The file is no journal, is an older copy, or has a newer version.
        OSError: The file cannot be opened.
    """

    def __init__(self, path: str, *, create: bool = False, older_copy: bool = False) -> None:
        self.path: str = path
        self.is_read_only: bool = False
        self.granted_since: int | None = None
        self._mark: int | None = None
        self._lock = threading.RLock()
        if create:
            # O_EXCL: two processes never create the same journal.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        elif not Path(path).exists():
            raise FileNotFoundError(f"journal {path}: there is no such file")
        else:
            folder = Path(path).absolute().parent
            self.is_read_only = not (os.access(path, os.W_OK) and os.access(folder, os.W_OK))
        self._connection = _connected(path, self.is_read_only)
        try:
            _set_pragmas(self._connection, path)
            if create:
                self._create()
            else:
                self._check(older_copy)
        except BaseException:
            self._connection.close()
            raise

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Run one statement."""
        with self._lock:
            return self._connection.execute(statement, parameters)

    def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> Cursor:
        """Run one statement for each of the parameters."""
        with self._lock:
            return self._connection.executemany(statement, parameters)

    @contextlib.contextmanager
    def transaction(self, granted_to: int = 0) -> Iterator[None]:
        """Return a context: its statements are committed together, or not at all.

        Raises:
            JournalUnavailable: The disk is full, or another process writes. Nothing was changed.
            JournalError: The file cannot be written. Nothing was changed.
        """
        with self._lock:
            try:
                self.execute("BEGIN IMMEDIATE")
                yield
                self.execute(
                    "UPDATE journal SET exchanges = exchanges + 1, granted_to = CASE WHEN "
                    "granted_to < ? THEN ? ELSE granted_to END",
                    (granted_to, granted_to),
                )
                number, highest = self.execute(
                    "SELECT exchanges, granted_to FROM journal"
                ).fetchone()
                self.execute("COMMIT")
            except BaseException as error:
                # A failed COMMIT (disk full) may leave the transaction open.
                if self._connection.in_transaction:
                    self.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise self._unwritable(error) from error
                raise
            self._write_mark(number, highest)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()
            if self._mark is not None:
                os.close(self._mark)
                self._mark = None

    def _unwritable(self, error: sqlite3.OperationalError) -> JournalError:
        # A full disk may get free again. After another error, such as one of fsync, a second
        # attempt could claim a durability that is not there.
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
            return JournalUnavailable(f"journal {self.path} cannot be written at present: {error}")
        return JournalError(f"journal {self.path} cannot be written: {error}; check the disk")

    def forget_newer(self) -> None:
        """Make this journal the newest one, although `J-exchanges` knows of a newer one."""
        with self._lock:
            words = self._read_mark()
            self._mark = self._open_mark()
            self.granted_since = None
            with self.transaction():
                newest = words[1] if words else 0
                self.execute("UPDATE journal SET exchanges = ?", (newest,))

    # Opening

    def _create(self) -> None:
        self.execute("PRAGMA journal_mode = WAL")
        script = (SCHEMA / "001.sql").read_text(encoding="utf-8")
        self._incarnation = secrets.token_hex(8)
        with self._lock:
            self.execute("BEGIN IMMEDIATE")
            for statement in statements_of(script):
                self.execute(statement)
            self.execute("INSERT INTO journal VALUES (?, ?, 0, 0)", (VERSION, self._incarnation))
            self.execute("COMMIT")
        self._mark = self._open_mark()
        self._write_mark(0, 0)

    def _check(self, older_copy: bool) -> None:
        try:
            row = self.execute("SELECT version, incarnation FROM journal").fetchone()
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{self.path} is not a journal of rapidsmtp: {error}") from None
        version, self._incarnation = row
        if version > VERSION:
            raise JournalError(
                f"journal {self.path} has version {version}; this rapidsmtp reads versions up to "
                f"{VERSION}: upgrade rapidsmtp"
            )
        if version < VERSION:
            self._upgrade(version)
        self._check_mark(older_copy)
        if not self.is_read_only and self.granted_since is None:
            self._mark = self._open_mark()

    def _upgrade(self, version: int) -> None:
        """Run the scripts of newer versions, after a copy of the file was made."""
        if self.is_read_only:
            raise JournalError(
                f"journal {self.path} has version {version} and must be upgraded, but the file is "
                "read-only: make it writable"
            )
        with contextlib.closing(sqlite3.connect(f"{self.path}.v{version}")) as copy:
            self._connection.backup(copy)
        with self._lock:
            self.execute("BEGIN IMMEDIATE")
            try:
                for number in range(version + 1, VERSION + 1):
                    script = (SCHEMA / f"{number:03}.sql").read_text(encoding="utf-8")
                    for statement in statements_of(script):
                        self.execute(statement)
                self.execute("UPDATE journal SET version = ?", (VERSION,))
                self.execute("COMMIT")
            except BaseException:
                self.execute("ROLLBACK")
                raise

    # The file J-exchanges

    def _open_mark(self) -> int:
        return os.open(f"{self.path}-exchanges", os.O_CREAT | os.O_RDWR, 0o600)

    def _write_mark(self, exchanges: int, granted_to: int) -> None:
        if self._mark is not None:
            text = f"{self._incarnation} {exchanges:20} {granted_to:20}\n"
            # If the disk is full, the file keeps its length, so this write needs no space.
            with contextlib.suppress(OSError):
                _write_at_start(self._mark, text.encode("ascii"))

    def _read_mark(self) -> tuple[str, int, int] | None:
        try:
            words = Path(f"{self.path}-exchanges").read_text(encoding="ascii").split()
            return words[0], int(words[1]), int(words[2])
        except (OSError, ValueError, IndexError):
            return None

    def _check_mark(self, older_copy: bool) -> None:
        # The file is read first, because another process may commit and write it at any time.
        words = self._read_mark()
        if words is None:
            return
        incarnation, last, granted_to = words
        (exchanges,) = self.execute("SELECT exchanges FROM journal").fetchone()
        if incarnation != self._incarnation or last <= exchanges:
            return
        if not older_copy:
            raise JournalError(
                f"journal {self.path} is an older copy: it has {exchanges} transactions, and "
                f"{self.path}-exchanges says {last}; put the newer file back, or use "
                "older_copy=True, which makes the rows UNKNOWN that were sent since, as far as "
                "the number of the last row shows them"
            )
        self.granted_since = granted_to


def statements_of(script: str) -> list[str]:
    """Return the statements of a script. `executescript` would commit a transaction."""
    lines = (line.partition("--")[0] for line in script.splitlines())
    return [each for each in "\n".join(lines).split(";") if each.strip()]


def _connected(path: str, is_read_only: bool) -> sqlite3.Connection:
    mode = "rw"
    if is_read_only:
        # Without a write-ahead log, SQLite would need to create one to read the file.
        mode = "ro" if Path(f"{path}-wal").exists() else "ro&immutable=1"
    return sqlite3.connect(
        f"{Path(path).absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY,
        isolation_level=None,
        check_same_thread=False,
    )


def _set_pragmas(connection: sqlite3.Connection, path: str) -> None:
    # FULL: each commit is durable. Deleted personal data is overwritten.
    try:
        for pragma in ("synchronous = FULL", "secure_delete = ON", "wal_autocheckpoint = 1000"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.DatabaseError as error:
        raise JournalError(f"{path} is not a journal of rapidsmtp: {error}") from None


def _write_at_start(descriptor: int, data: bytes) -> None:
    if hasattr(os, "pwrite"):
        os.pwrite(descriptor, data, 0)
    else:  # Windows
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, data)
