"""The class `Campaign`: create a journal, send what is due, and ask or correct the journal."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rapidsmtp._compose.recipients_list import Duplicates, ListOptions
from rapidsmtp._compose.template import Signers, Template
from rapidsmtp._models.relay_url import Password
from rapidsmtp._models.settings import messages_per_second
from rapidsmtp.campaign.chunk_rows import ID_FIELD
from rapidsmtp.campaign.clock import CampaignClock
from rapidsmtp.campaign.creating import check_settings, create_journal, template_of
from rapidsmtp.campaign.loading import open_source
from rapidsmtp.campaign.model import CampaignSettings, RowResult
from rapidsmtp.campaign.opened import OpenJournal, signatures
from rapidsmtp.campaign.overview import CampaignStatus, status_of
from rapidsmtp.campaign.owners import Owner
from rapidsmtp.campaign.pacing import Budgets, window_of
from rapidsmtp.campaign.relays import parse_relays
from rapidsmtp.campaign.running import Run
from rapidsmtp.campaign.sqlite import SqliteDatabase

Rows = str | os.PathLike[str] | Iterable[Any]


class Campaign:
    """A list of recipients, a message, and the journal of what became of each recipient.

    A recipient is sent to at most once, unless the program says otherwise. After a crash, each
    recipient has one status. Where nobody can know it, it is UNKNOWN.

    Campaigns are created by `create`, and opened by `open`. A campaign is a context manager.

    Attributes:
        id: The campaign's id: 16 hexadecimal digits.
        name: The campaign's name.
        path: The path of the journal.
        settings: The settings.
    """

    id: str
    name: str
    path: str
    settings: CampaignSettings
    _opened: OpenJournal

    def __init__(self) -> None:
        raise TypeError("create a campaign with Campaign.create, or open it with Campaign.open")

    @classmethod
    def create(
        cls,
        journal: str | os.PathLike[str],
        template: Template | str | os.PathLike[str] | bytes,
        rows: Rows,
        *,
        relays: str | Sequence[str] | Mapping[str, int],
        name: str | None = None,
        key: str | None = None,
        duplicates: Duplicates = "first",
        rate: float | str | None = None,
        per_day: Sequence[int] = (),
        between: str | None = None,
        zone: str | None = None,
        start_at: datetime | None = None,
        retry_for: float = 86400,
        retry_delays: Sequence[float] = (900, 3600, 14400),
        on_unknown: Literal["report", "resend"] = "report",
        idempotency_header: str | None = None,
        connections: int = 4,
        sender: Mapping[str, Any] | None = None,
        list_options: Mapping[str, Any] | None = None,
        password: Password | None = None,
        dkim: Signers = (),
        options: Mapping[str, Any] | None = None,
        clock: CampaignClock | None = None,
    ) -> "Campaign":
        """Create a journal with a message and a list. Nothing is sent before `run`.

        The journal contains the message and the list, so the files may be changed or deleted
        afterwards. It never contains a password or a private key.

        Args:
            journal: The path of the journal's file. It must not exist.
            template: The message: a `Template`, the path of a message file, or its bytes.
            rows: The list: the path of a CSV file or a workbook, or an iterable of mappings.
            relays: The URLs of the relays. A URL may end with `;weight=2`; a mapping gives the
                weights by URL.
            name: The campaign's name; the default is the name of the file.
            key: The column that identifies a row; the default is the recipients' addresses.
            duplicates: What to do with a row whose key occurs in an earlier row: "first" (the row
                is SUPPRESSED), "all" (every row is sent) or "error".
            rate: The maximum number of messages per second for each relay, or a text such as
                "600/min". It holds for all runs of the journal together.
            per_day: The maximum number of messages on the first, the second, … day. The last number
                holds for all further days.
            between: The time of the day in which messages are sent, such as "08:00-20:00".
            zone: The time zone of `between` and `per_day`, such as "Europe/Berlin"; the default is
                UTC.
            start_at: The time before which nothing is sent. A time without a zone is in `zone`.
            retry_for: The time after the first pass in which a deferred recipient is tried again,
                in seconds.
            retry_delays: The waits before these passes, in seconds. The last one stays.
            on_unknown: "report" UNKNOWN recipients, or "resend" the same bytes.
            idempotency_header: The name of a header field with a key for each row. Relays that
                support such a header accept a repeated message only once, such as
                "Resend-Idempotency-Key".
            connections: The number of connections to each relay.
            sender: Further arguments of `Sender`, such as `{"window": 16}`.
            list_options: Arguments of `Template.merge_csv` for a file: `encoding`, `delimiter`,
                `sheet`, `columns` and `recipient`.
            password: As in `open`.
            dkim: As in `open`. A `Template` brings its own signers.
            options: As in `open`.
            clock: As in `open`.

        Raises:
            ValueError: A setting is wrong, the list is malformed, or it has a repeated key although
                `duplicates` is "error".
            FileExistsError: The journal exists.
            OSError: A file cannot be read or written.
        """
        clock = clock or CampaignClock()
        relay_list = parse_relays(relays)
        template = template_of(template, dkim)
        window = window_of(between, zone, start_at)
        settings = CampaignSettings(
            rate=messages_per_second(rate),
            per_day=tuple(per_day),
            between=window.between,
            zone=window.zone,
            start_at=window.start_at,
            retry_delays=tuple(retry_delays),
            retry_for=retry_for,
            on_unknown=on_unknown,
            idempotency_header=idempotency_header,
            duplicates=duplicates,
            connections=connections,
            sender=dict(sender or {}),
            dkim=signatures(template._dkim),
        )
        check_settings(settings)
        path = os.fspath(journal)
        urls = [(url, weight) for url, weight, _ in relay_list]
        options_of_list = ListOptions(
            **(list_options or {}), duplicates="all", compares=False, provided=(ID_FIELD,)
        )
        source = open_source(template, rows, key=key, options=options_of_list)
        database = create_journal(
            path, name or Path(path).stem, template, source, settings, urls, clock.now()
        )
        passwords = {url: secret for url, _, secret in relay_list if secret}
        return cls._of(OpenJournal(database, passwords, password, template._dkim, options, clock))

    @classmethod
    def open(
        cls,
        journal: str | os.PathLike[str],
        *,
        password: Password | None = None,
        dkim: Signers = (),
        options: Mapping[str, Any] | None = None,
        older_copy: bool = False,
        clock: CampaignClock | None = None,
    ) -> "Campaign":
        """Open a journal.

        Args:
            journal: The path of the journal's file.
            password: The password for the relays, or a function that returns it. If None, the
                environment variable `RAPIDSMTP_PASSWORD` is used.
            dkim: The signers. They must be those with which the campaign was created. They are
                needed by `run` only.
            options: Arguments of `Sender` that are not in the journal: `tls`, `proxy`, `trace`,
                `source_address`, `local_hostname`.
            older_copy: Whether to open a journal that is an older copy. Rows that may have been
                sent since become UNKNOWN.
            clock: The clock; for tests.

        Raises:
            JournalError: The file is no journal, is an older copy, or was not loaded to its end.
            FileNotFoundError: There is no such file.
        """
        database = SqliteDatabase(os.fspath(journal), older_copy=older_copy)
        try:
            clock = clock or CampaignClock()
            return cls._of(OpenJournal(database, {}, password, dkim, options, clock))
        except BaseException:
            database.close()
            raise

    @classmethod
    def _of(cls, opened: OpenJournal) -> "Campaign":
        campaign = cls.__new__(cls)
        campaign._opened = opened
        campaign.id, campaign.name = opened.id, opened.name
        campaign.path, campaign.settings = opened.database.path, opened.settings
        return campaign

    # Running

    def run(self, *, wait: bool = True) -> Iterator[RowResult]:
        """Send what is due, and yield each outcome after it is durable in the journal.

        Several processes may run the same journal. Ctrl-C, `break` and `stop` end the run in order:
        every row that was begun gets its outcome.

        Args:
            wait: Whether to wait for rows that are due later, and for relays that are away.

        Raises:
            JournalError: The journal cannot be written, or the signers are not those of `create`.
            ValueError: A relay's URL needs a password.
        """
        opened = self._opened
        opened.check_writable()
        template, lines = opened.template(), opened.lines()
        owner = Owner(self.path)
        opened.stop.clear()
        try:
            budgets = Budgets(opened.journal, self.settings, self.id, opened.clock)
            run = Run(opened, owner.name, template, lines, budgets.pacer)
            yield from run.results(wait=wait)
        finally:
            owner.close()

    def stop(self) -> None:
        """End `run` in order, from another thread or a signal handler."""
        self._opened.stop.set()

    # Asking

    def status(self) -> CampaignStatus:
        """Return the status. It is read from the counts of the chunks."""
        opened = self._opened
        has_header = self.settings.idempotency_header is not None
        return status_of(opened.journal, opened.is_dead, has_idempotency_header=has_header)

    # The state

    def pause(self, reason: str = "paused by the user") -> None:
        """Stop granting rows, in every process that runs the campaign."""
        self._opened.set_state("paused", reason, ("ready", "running"))

    def resume(self) -> None:
        """Permit grants again. `run` sends."""
        self._opened.set_state("ready", None, ("paused",))

    def abort(self, reason: str = "aborted by the user") -> None:
        """Grant no more rows, for good. `resume` does not undo this method."""
        self._opened.set_state("aborted", reason, ("ready", "running", "paused"))

    def close(self) -> None:
        """Close the journal."""
        self._opened.database.close()

    def __enter__(self) -> "Campaign":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Campaign {self.name!r} {self.id} in {self.path}>"


Campaign.__module__ = "rapidsmtp"
