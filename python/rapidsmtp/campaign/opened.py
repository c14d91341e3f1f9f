"""An open journal with its campaign. All operations on a campaign use this object."""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from rapidsmtp import _backend
from rapidsmtp._compose.template import Signers, Template, compiled_of
from rapidsmtp.campaign import owners, progress
from rapidsmtp.campaign.chunk_rows import ChunkRows, engine_chunk
from rapidsmtp.campaign.clock import CampaignClock
from rapidsmtp.campaign.database import Database
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.leftovers import remove_leftovers
from rapidsmtp.campaign.model import (
    CampaignSettings,
    Columns,
    JournalError,
    JournalUnavailable,
    Lease,
)
from rapidsmtp.campaign.progress import LeaseProgress
from rapidsmtp.campaign.recovery import Recovery
from rapidsmtp.campaign.relays import Passwords, RelayLine
from rapidsmtp.campaign.results import RESEND_AFTER
from rapidsmtp.campaign.states import Transition
from rapidsmtp.campaign.suppression import SuppressionList


class OpenJournal:
    """An open journal with its campaign.

    Args:
        database: The database.
        passwords: The passwords of the relays.
        dkim: The signers.
        options: Arguments of `Sender` that are not in the journal.
        clock: The clock.

    Attributes:
        database: The database.
        journal: The journal.
        suppression: The suppression list.
        number: The number of the campaign in the journal.
        id: The campaign's id.
        name: The campaign's name.
        settings: The settings.
        columns: How to read the rows.
        clock: The clock.
        stop: The event that ends a run.
        notice: The reason why the run cannot write the journal at present, or "".
        relays_of_run: The relays of the run in this process; empty without a run.

    Raises:
        JournalError: The list in the journal is incomplete.
    """

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        dkim: Signers,
        options: Mapping[str, Any] | None,
        clock: CampaignClock,
    ) -> None:
        row = database.execute(
            "SELECT no, id, name, state, settings, columns FROM campaign ORDER BY no LIMIT 1"
        ).fetchone()
        if row is None or row[3] == "loading":
            raise JournalError(
                f"journal {database.path}: the list was not loaded to its end; delete the file and "
                "create it again"
            )
        self.database = database
        self.number: int = int(row[0])
        self.id: str = str(row[1])
        self.name: str = str(row[2])
        (self._incarnation,) = database.execute("SELECT incarnation FROM journal").fetchone()
        self.settings: CampaignSettings = CampaignSettings.from_json(row[4])
        self.columns: Columns = Columns.from_json(row[5])
        self.journal: Journal = Journal(database, self.number)
        self.suppression: SuppressionList = SuppressionList(database)
        self.clock = clock
        self.stop: threading.Event = threading.Event()
        self.notice: str = ""
        self.relays_of_run: Sequence[RelayLine] = ()
        self._passwords = passwords
        self._dkim = dkim
        self._options = dict(options or {})
        self._compiled: Any = None
        self._unsigned: Any = None

    def check_writable(self) -> None:
        """Check that the journal can be written.

        Raises:
            JournalError: The file is read-only.
        """
        if self.database.is_read_only:
            raise JournalError(
                f"journal {self.database.path} is read-only: make the file and its folder writable "
                "for this user"
            )

    def change_state(self, transition: Transition, reason: str | None = None) -> None:
        """Change the campaign's state.

        Args:
            transition: The transition.
            reason: The reason.

        Raises:
            JournalError: The campaign is in another state, or the file is read-only.
        """
        self.check_writable()
        with self.database.transaction():
            if not self.journal.change_state(transition, self.clock.now(), reason):
                raise JournalError(
                    f"journal {self.database.path}: the campaign is {self.journal.state()}; this "
                    f"needs a campaign that is {' or '.join(transition.earlier)}"
                )

    def is_dead(self, owner: str, beat_at: int) -> bool:
        """Return whether an owner of a lease is dead."""
        return owners.is_dead(self.database.place, owner, beat_at, self.clock.now())

    def recovery(self) -> Recovery:
        """Return the object that ends the leases of dead owners."""
        resend = RESEND_AFTER if self.settings.on_unknown == "resend" else None
        return Recovery(
            self.journal,
            self.is_dead,
            self.parts_of,
            self._read_progress,
            self.remove_leftovers,
            resend,
        )

    def recover(self) -> None:
        """End the leases of dead owners, if the journal can be written at present."""
        if not self.database.is_read_only:
            with contextlib.suppress(JournalUnavailable):
                self.recovery().run(self.clock.now())

    def create_progress(self, lease: Lease, owner: str) -> LeaseProgress | None:
        """Create the progress file of a lease of this process; None if this is not possible."""
        return progress.create(self.database.place, self._incarnation, owner, lease)

    def _read_progress(self, lease: Lease, owner: str) -> dict[int, int]:
        return progress.read(self.database.place, self._incarnation, owner, lease)

    def remove_leftovers(self) -> None:
        """Remove the files of dead owners without a lease, if the journal can be written."""
        if not self.database.is_read_only:
            remove_leftovers(self.journal)

    def rows_of(self, lease: Lease) -> ChunkRows:
        """Return the rows of a lease's chunk."""
        form, data = self.journal.chunk_rows(lease.chunk)
        return ChunkRows(self.columns, form, data, lease.first)

    def granted_rows(
        self, template: Any, lease: Lease, progress: "_backend.ProgressFile | None"
    ) -> "_backend.GrantedRows":
        """Return the rows of a lease's chunk for the engine. None of them is granted.

        Args:
            template: The compiled template.
            lease: The lease.
            progress: The progress file of the lease, or None.
        """
        form, data = self.journal.chunk_rows(lease.chunk)
        chunk = engine_chunk(self.columns, form, data, lease, self.id)
        rows: _backend.GrantedRows = _backend.templates().GrantedRows(template, chunk, progress)
        return rows

    def template(self) -> Any:
        """Return the compiled template, from the bytes in the journal.

        Raises:
            JournalError: The signers differ from the signers in the settings.
        """
        if self._compiled is None:
            given, stored = signatures(self._dkim), [list(each) for each in self.settings.dkim]
            if given != stored:
                raise JournalError(
                    f"journal {self.database.path}: the campaign signs with {_named(stored)}, and "
                    f"dkim= has {_named(given)}; pass the signers with which it was created"
                )
            self._compiled = self._template(self._dkim)
        return self._compiled

    def lines(self) -> list[RelayLine]:
        """Return the relays.

        Raises:
            ValueError: The password of a relay is missing.
        """
        return [
            RelayLine(
                number,
                url,
                weight,
                failures,
                self._passwords.of(url),
                self.settings,
                self._options,
            )
            for number, url, weight, failures in self.database.execute(
                "SELECT no, url, weight, failures FROM relay WHERE campaign = ? ORDER BY no",
                (self.number,),
            ).fetchall()
        ]

    def chunk_with(self, row: int) -> ChunkRows:
        """Return the rows of the chunk that contains a row."""
        (chunk,) = self.database.execute(
            "SELECT no FROM chunk WHERE campaign = ? AND first <= ? ORDER BY first DESC LIMIT 1",
            (self.number, row),
        ).fetchone()
        return self.rows_of(self.journal.find_lease(chunk))

    def parts_of(self, lease: Lease, rows: Sequence[int]) -> dict[int, list[str]]:
        """Return the recipients of rows, by row; [] for a row that makes no message."""
        if self._unsigned is None:
            # The recipients do not depend on the signatures. So this template has no signers, and
            # needs no private key.
            self._unsigned = self._template(())
        chunk = self.granted_rows(self._unsigned, lease, None)
        return {row: chunk.recipients(row) or [] for row in rows}

    def _template(self, dkim: Signers) -> Any:
        (message,) = self.database.execute(
            "SELECT message FROM campaign WHERE no = ?", (self.number,)
        ).fetchone()
        template = Template.from_eml(
            bytes(message),
            dkim=dkim,
            keep_headers=True,
            attachment_root=self.settings.attachment_root,
        )
        return compiled_of(template)


def signatures(dkim: Any) -> list[list[str]]:
    """Return the domain, the selector and the algorithm of each signer."""
    signers = dkim if isinstance(dkim, Sequence) else [dkim]
    return [[each.domain, each.selector, each.algorithm] for each in signers]


def _named(signers: Sequence[Sequence[str]]) -> str:
    return ", ".join(f"{selector}._domainkey.{domain}" for domain, selector, _ in signers) or "none"
