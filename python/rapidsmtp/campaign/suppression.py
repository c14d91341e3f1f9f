"""The suppression list of a journal: addresses to which nothing is sent."""

from collections.abc import Iterable, Mapping, Sequence

from rapidsmtp.campaign.chunk_rows import compared_form
from rapidsmtp.campaign.database import Database

# SQLite before 3.32 permits 999 parameters.
_AT_ONCE = 500


class SuppressionList:
    """The suppression list.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def is_empty(self) -> bool:
        """Whether no address is suppressed."""
        found = self._database.execute("SELECT EXISTS (SELECT 1 FROM suppression)").fetchone()
        return not found[0]

    def add(self, addresses: Iterable[str], reason: str, now: int) -> int:
        """Add addresses, and return the number of new ones.

        Args:
            addresses: The addresses.
            reason: The reason.
            now: The time, in milliseconds since 1970.
        """
        with self._database.transaction():
            return self._database.executemany(
                "INSERT INTO suppression (address, reason, at) VALUES (?, ?, ?) "
                "ON CONFLICT (address) DO NOTHING",
                [(compared_form(each), reason, now) for each in addresses],
            ).rowcount

    def hits(self, rows: Mapping[int, Sequence[str]]) -> dict[int, str]:
        """Return the first suppressed address of each row that has one.

        Args:
            rows: The addresses of each row.
        """
        found = self._find(each for addresses in rows.values() for each in addresses)
        hits = {}
        for row, addresses in rows.items():
            hit = next((each for each in addresses if compared_form(each) in found), None)
            if hit is not None:
                hits[row] = hit
        return hits

    def _find(self, addresses: Iterable[str]) -> set[str]:
        """Return the addresses that are suppressed, in the form of `compared_form`."""
        wanted = sorted(set(map(compared_form, addresses)))
        found: set[str] = set()
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(some))
            rows = self._database.execute(
                f"SELECT address FROM suppression WHERE address IN ({marks})", some
            ).fetchall()
            found.update(address for (address,) in rows)
        return found
