"""The interface between the SQL statements and the database of a journal.

The statements on the tables are in `journal`, `outcomes`, `states` and the modules that use them.
They are the same for every kind of database, and use `?` for parameters and only SQL that SQLite
3.24 and PostgreSQL have in common. A module for one kind of database, such as `sqlite`, has the
rest: how to open and create the database, transactions, durability, and errors. Only such a module
may import a driver, and only the modules that create or open a journal may import such a module.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Cursor(Protocol):
    """The members of a cursor that the statements use."""

    @property
    def rowcount(self) -> int:
        """The number of rows that the statement changed."""

    def fetchone(self) -> Any:
        """Return the next row as a tuple, or None."""

    def fetchall(self) -> list[Any]:
        """Return the remaining rows."""


class Database(Protocol):
    """The members of a database that the statements use.

    Each method raises `JournalUnavailable` if the database cannot be used at present, and
    `JournalError` for every other error of the database.
    """

    path: str
    """The path of the file as the user gave it, or the URL without a password; for messages."""
    place: str
    """The absolute path of the file. The names of the files beside it begin with this path."""
    is_read_only: bool

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Run one statement."""

    def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> Cursor:
        """Run one statement for each of the parameters."""

    def transaction(self, granted_to: int = 0) -> contextlib.AbstractContextManager[None]:
        """Return a context whose statements are committed together and durably, or not at all.

        A transaction cannot contain another one.

        Args:
            granted_to: The highest row that the transaction grants, or 0.
        """

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that only one process can enter at a time. Others wait at its start.

        Other processes may use the database meanwhile, outside of such a context.
        """

    def close(self) -> None:
        """Close the database."""
