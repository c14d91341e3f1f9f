"""The database of a journal in one file, with the standard library's module `sqlite3`.

`SqliteDatabase` implements `Database`, the interface that the statements use. Beside a journal `J`
are `J-exchanges` (see `exchange_mark`) and the files of the processes that send (see `owners` and
`progress`).
"""

import contextlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rapidsmtp.campaign import owners
from rapidsmtp.campaign.database import Cursor
from rapidsmtp.campaign.exchange_mark import Mark, MarkFile
from rapidsmtp.campaign.model import JournalError, JournalUnavailable

VERSION = 1
SCHEMA = Path(__file__).parent / "schema"
_BUSY = 30.0
_TEMPORARY = {
    sqlite3.SQLITE_FULL: "make space on the disk",
    sqlite3.SQLITE_BUSY: "another process writes to it",
}


class SqliteDatabase:
    """A journal's file.

    Args:
        path: The path of the file.
        create: Whether to create the file. It must not exist.
        older_copy: Whether to open a journal that, according to `J-exchanges`, is an older copy.

    Attributes:
        path: The path of the file, as it was given.
        place: The absolute path of the file.
        is_read_only: Whether the file cannot be written.
        granted_since: For an older copy: the highest row that was granted after the copy was made,
            or None.

    Raises:
        JournalError: The file is no journal, is an older copy, or has a newer version.
        OSError: The file cannot be opened.
    """

    def __init__(self, path: str, *, create: bool = False, older_copy: bool = False) -> None:
        self.path: str = path
        # The program may change its working folder later, so the path is made absolute.
        self.place: str = str(Path(path).absolute())
        self._process = os.getpid()
        self.is_read_only: bool = False
        self.granted_since: int | None = None
        self._mark = MarkFile(self.place)
        self._is_closed = False
        self._lock = threading.RLock()
        if create:
            # O_EXCL makes sure that two processes do not create the same journal.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        elif not Path(path).exists():
            raise FileNotFoundError(f"journal {path}: there is no such file")
        else:
            folder = Path(path).absolute().parent
            self.is_read_only = not (os.access(path, os.W_OK) and os.access(folder, os.W_OK))
        try:
            self._connection = _connected(path, self.is_read_only)
        except sqlite3.Error as error:
            raise self._no_journal(error) from None
        try:
            self._set_pragmas()
            if create:
                self._create()
            else:
                self._check(older_copy)
        except BaseException:
            if create:
                self.delete()
            else:
                self.close()
            raise

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Run one statement."""
        with self._lock:
            self._check_process()
            try:
                return _Cursor(self._connection.execute(statement, parameters), self._converted)
            except sqlite3.Error as error:
                raise self._converted(error) from error

    def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> Cursor:
        """Run one statement for each of the parameters."""
        with self._lock:
            self._check_process()
            try:
                return _Cursor(self._connection.executemany(statement, parameters), self._converted)
            except sqlite3.Error as error:
                raise self._converted(error) from error

    @contextlib.contextmanager
    def transaction(self, granted_to: int = 0) -> Iterator[None]:
        """Return a context whose statements are committed together, or not at all."""
        with self._lock:
            try:
                self.execute("BEGIN IMMEDIATE")
                yield
                self.execute(
                    "UPDATE journal SET exchanges = exchanges + 1, granted_to = CASE WHEN "
                    "granted_to < ? THEN ? ELSE granted_to END",
                    (granted_to, granted_to),
                )
                row = self.execute("SELECT exchanges, granted_to FROM journal").fetchone()
                self.execute("COMMIT")
            except BaseException:
                # A failed COMMIT (disk full) may leave the transaction open.
                if self._connection.in_transaction:
                    self.execute("ROLLBACK")
                raise
            self._mark.write(Mark(self._incarnation, *row))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Return a context that only one process can enter at a time. Others wait at its start."""
        path = Path(f"{self.place}-lock")
        with owners.locked_file(path):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the database."""
        if os.getpid() != self._process:  # a forked child must not close its parent's connection
            return
        with self._lock:
            self._is_closed = True
            self._connection.close()
            self._mark.close()

    def delete(self) -> None:
        """Close the database and delete its files, because its creation failed."""
        self.close()
        for end in ("", "-wal", "-shm", "-exchanges"):
            Path(self.place + end).unlink(missing_ok=True)

    def _check_process(self) -> None:
        # sqlite.org/howtocorrupt.html, 2.6: a connection must not be used after a fork.
        if os.getpid() != self._process:
            raise JournalError(
                f"journal {self.path} was opened before this process was forked; open it again"
            )

    def _converted(self, error: sqlite3.Error) -> JournalError:
        """Convert an error of SQLite to an error of the journal."""
        if self._is_closed:
            return JournalError(f"journal {self.path} is closed")
        # A full disk may get free space. After another error, for example of fsync, a second
        # attempt could succeed although the data is not durable. So such an error is permanent.
        if _code_of(error) in _TEMPORARY:
            return JournalUnavailable(
                f"journal {self.path} cannot be written at present: {error}; "
                f"{_TEMPORARY[_code_of(error)]}"
            )
        return JournalError(
            f"journal {self.path} cannot be read or written: {error}; check the disk"
        )

    def forget_newer(self) -> None:
        """Make this copy the current journal, although `J-exchanges` belongs to a newer journal."""
        with self._lock:
            mark = self._mark.read()
            self._mark.open()
            self.granted_since = None
            with self.transaction():
                newest = mark.exchanges if mark is not None else 0
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
        self._mark.open()
        self._mark.write(Mark(self._incarnation, 0, 0))

    def _set_pragmas(self) -> None:
        # With `synchronous = FULL`, each commit is durable. With `secure_delete`, SQLite overwrites
        # deleted personal data.
        try:
            for pragma in ("synchronous = FULL", "secure_delete = ON", "wal_autocheckpoint = 1000"):
                self._connection.execute(f"PRAGMA {pragma}")
        except sqlite3.DatabaseError as error:
            raise self._no_journal(error) from None

    def _no_journal(self, error: sqlite3.Error) -> JournalError:
        return JournalError(f"{self.path} is not a journal of rapidsmtp: {error}")

    def _check(self, older_copy: bool) -> None:
        try:
            row = self._connection.execute("SELECT version, incarnation FROM journal").fetchone()
        except sqlite3.DatabaseError as error:
            raise self._no_journal(error) from None
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
            self._mark.open()

    def _upgrade(self, version: int) -> None:
        """Copy the file, and then run the scripts of newer versions."""
        if self.is_read_only:
            raise JournalError(
                f"journal {self.path} has version {version} and must be upgraded, but the file is "
                "read-only: make it writable"
            )
        try:
            with contextlib.closing(sqlite3.connect(f"{self.path}.v{version}")) as copy:
                self._connection.backup(copy)
        except sqlite3.Error as error:
            raise self._converted(error) from error
        with self._lock:
            self.execute("BEGIN IMMEDIATE")
            try:
                # The version is read again, because another process may have upgraded the journal.
                (version,) = self.execute("SELECT version FROM journal").fetchone()
                for number in range(version + 1, VERSION + 1):
                    script = (SCHEMA / f"{number:03}.sql").read_text(encoding="utf-8")
                    for statement in statements_of(script):
                        self.execute(statement)
                self.execute("UPDATE journal SET version = ?", (VERSION,))
                self.execute("COMMIT")
            except BaseException:
                self.execute("ROLLBACK")
                raise

    def _check_mark(self, older_copy: bool) -> None:
        # The file is read before the number in the journal. If another process commits between
        # these reads, the journal has the higher number and does not look like an older copy.
        mark = self._mark.read()
        if mark is None or mark.incarnation != self._incarnation:
            return
        (exchanges,) = self.execute("SELECT exchanges FROM journal").fetchone()
        if mark.exchanges <= exchanges:
            return
        if not older_copy:
            raise JournalError(
                f"journal {self.path} is an older copy: it has {exchanges} transactions, and "
                f"{self._mark.path} says {mark.exchanges}; put the newer file back, or use "
                "older_copy=True, which makes the rows UNKNOWN that were sent since, as far as "
                "the number of the last row shows them"
            )
        self.granted_since = mark.granted_to


class _Cursor:
    """A cursor whose errors are those of the journal.

    Args:
        cursor: The cursor.
        converted: A function that converts an error of SQLite to an error of the journal.
    """

    def __init__(
        self, cursor: sqlite3.Cursor, converted: Callable[[sqlite3.Error], JournalError]
    ) -> None:
        self._cursor, self._converted = cursor, converted

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    def fetchone(self) -> Any:
        try:
            return self._cursor.fetchone()
        except sqlite3.Error as error:
            raise self._converted(error) from error

    def fetchall(self) -> list[Any]:
        try:
            return self._cursor.fetchall()
        except sqlite3.Error as error:
            raise self._converted(error) from error


def _code_of(error: sqlite3.Error) -> int:
    """Return the primary result code of an error; 0 for an error of the module `sqlite3` itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def statements_of(script: str) -> list[str]:
    """Return the statements of a script. `executescript` would commit a transaction."""
    lines = (line.partition("--")[0] for line in script.splitlines())
    return [each for each in "\n".join(lines).split(";") if each.strip()]


def _connected(path: str, is_read_only: bool) -> sqlite3.Connection:
    mode = "rw"
    if is_read_only:
        # If there is no write-ahead log, SQLite would have to create one to read the file. With
        # `immutable`, it does not.
        mode = "ro" if Path(f"{path}-wal").exists() else "ro&immutable=1"
    return sqlite3.connect(
        f"{Path(path).absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY,
        isolation_level=None,
        check_same_thread=False,
    )
