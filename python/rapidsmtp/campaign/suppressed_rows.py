"""The rows of a lease that are not sent, because an address is on the suppression list."""

from collections.abc import Sequence

from rapidsmtp.campaign.chunk_rows import ChunkRows
from rapidsmtp.campaign.model import Lease
from rapidsmtp.campaign.opened import OpenJournal


class SuppressedRows:
    """Finds the suppressed rows of a lease.

    Args:
        opened: The journal.
        lease: The lease.
    """

    def __init__(self, opened: OpenJournal, lease: Lease) -> None:
        self._opened, self._lease = opened, lease
        self._rows: ChunkRows | None = None

    def find(self, rows: Sequence[tuple[int, Sequence[int] | None]]) -> dict[int, list[str]]:
        """Return the suppressed rows, with the addresses for the outcomes of each row.

        Args:
            rows: The number of each row, and the parts to send; None for all parts.
        """
        if self._opened.suppression.is_empty:
            return {}
        if self._rows is None:
            self._rows = self._opened.rows_of(self._lease)
        addresses = {row: self._rows.addresses(row) for row, parts in rows if parts is None}
        # In a row that is tried again, some recipients may have accepted the message. Only the
        # recipients that are tried again can suppress the row.
        again = {row: parts for row, parts in rows if parts is not None}
        if again:
            for row, found in self._opened.parts_of(self._lease, list(again)).items():
                addresses[row] = [found[part] for part in again[row] if part < len(found)]
        hits = self._opened.suppression.hits(addresses)
        return {row: addresses[row] if row in again else [hit] for row, hit in hits.items()}
