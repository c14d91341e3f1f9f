"""The class `Campaign`: create a journal, send the due rows, and read or correct outcomes."""

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from inspect import GEN_RUNNING, getgeneratorstate
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

from rapidsmtp._compose.recipients_list import Duplicates, ListOptions
from rapidsmtp._compose.template import Signers, Template, attachment_root_of
from rapidsmtp._models.outcome import Status
from rapidsmtp._models.relay_url import Password
from rapidsmtp._models.settings import messages_per_second
from rapidsmtp.campaign import states
from rapidsmtp.campaign.adding import AddReport, add
from rapidsmtp.campaign.chunk_rows import ID_FIELD
from rapidsmtp.campaign.clock import CampaignClock
from rapidsmtp.campaign.corrections import SettleReport, retry, settle
from rapidsmtp.campaign.creating import check_senders, check_settings, create_journal, template_of
from rapidsmtp.campaign.listing import export, results
from rapidsmtp.campaign.loading import open_source
from rapidsmtp.campaign.model import ROW_STATUS, CampaignSettings, RowResult, RowStatus
from rapidsmtp.campaign.older_copy import accept_older_copy
from rapidsmtp.campaign.opened import OpenJournal, signatures
from rapidsmtp.campaign.overview import CampaignStatus, status_of
from rapidsmtp.campaign.owners import Owner
from rapidsmtp.campaign.pacing import Budgets, window_of
from rapidsmtp.campaign.relays import Passwords, parse_relays
from rapidsmtp.campaign.report import write_report
from rapidsmtp.campaign.running import Run
from rapidsmtp.campaign.sqlite import SqliteDatabase

Rows = str | os.PathLike[str] | Iterable[Any]
Statuses = Status | Iterable[Status]


class Campaign:
    """A list of recipients, a message, and a journal with the outcome of each recipient.

    The message is sent to each recipient at most once, unless the program requests another attempt.
    After a crash, each recipient has one status. The status is UNKNOWN if the relay may have
    accepted the message and its reply was lost.

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
    _runs: WeakSet[Generator[RowResult, None, None]]

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
        suppress: Iterable[str] = (),
        password: Password | Mapping[str, Password] | None = None,
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
            retry_delays: The waits before the first, the second, … retry of deferred recipients, in
                seconds. The last wait holds for all further retries.
            on_unknown: "report" UNKNOWN recipients, or "resend" the same bytes.
            idempotency_header: The name of a header field with a key for each row. Relays that
                support such a header accept a repeated message only once, such as
                "Resend-Idempotency-Key".
            connections: The number of connections to each relay.
            sender: Further arguments of `Sender`, such as `{"window": 16}`.
            list_options: Arguments of `Template.merge_csv` for a file: `encoding`, `delimiter`,
                `sheet`, `columns` and `recipient`.
            suppress: Addresses to which nothing is sent, as in the method `suppress`.
            password: As in `open`.
            dkim: As in `open`. Not allowed with a `Template`, which has its own signers.
            options: As in `open`.
            clock: As in `open`.

        Raises:
            ValueError: A setting is wrong, the list is malformed, or it has a repeated key although
                `duplicates` is "error".
            FileExistsError: The journal exists.
            OSError: A file cannot be read or written.
        """
        _check_texts("suppress", suppress)
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
            attachment_root=attachment_root_of(template),
        )
        check_settings(settings)
        check_senders([url for url, _, _ in relay_list], settings)
        path = os.fspath(journal)
        urls = [(url, weight) for url, weight, _ in relay_list]
        options_of_list = ListOptions(
            **(list_options or {}), duplicates="all", compares=False, provided=(ID_FIELD,)
        )
        source = open_source(
            template, rows, key=key, options=options_of_list, relays=len(relay_list)
        )
        database = create_journal(
            path, name or Path(path).stem, template, source, settings, urls, suppress, clock.now()
        )
        secrets = {url: secret for url, _, secret in relay_list if secret}
        passwords = Passwords(password, secrets)
        return cls._of(OpenJournal(database, passwords, template._dkim, options, clock))

    @classmethod
    def open(
        cls,
        journal: str | os.PathLike[str],
        *,
        password: Password | Mapping[str, Password] | None = None,
        dkim: Signers = (),
        options: Mapping[str, Any] | None = None,
        older_copy: bool = False,
        clock: CampaignClock | None = None,
    ) -> "Campaign":
        """Open a journal.

        Args:
            journal: The path of the journal's file.
            password: The password for the relays, or a function that returns it. A mapping has a
                password or a function for each URL. If None, or for a relay that is not in the
                mapping, the environment variable `RAPIDSMTP_PASSWORD` is used.
            dkim: The signers, with the same domains, selectors and algorithms as in `create`. Only
                `run` needs them.
            options: Arguments of `Sender` that are not in the journal: `tls`, `proxy`, `trace`,
                `source_address`, `local_hostname`.
            older_copy: Whether to open an older copy of the journal. Rows that may have been sent
                after the copy was made become UNKNOWN.
            clock: The clock; for tests.

        Raises:
            JournalError: The file is no journal or an older copy, or its list is incomplete.
            FileNotFoundError: There is no such file.
        """
        database = SqliteDatabase(os.fspath(journal), older_copy=older_copy)
        try:
            clock = clock or CampaignClock()
            opened = OpenJournal(database, Passwords(password), dkim, options, clock)
            accept_older_copy(opened, database)
            opened.remove_leftovers()
            return cls._of(opened)
        except BaseException:
            database.close()
            raise

    @classmethod
    def _of(cls, opened: OpenJournal) -> "Campaign":
        campaign = cls.__new__(cls)
        campaign._opened = opened
        campaign._runs = WeakSet()
        campaign.id, campaign.name = opened.id, opened.name
        campaign.path, campaign.settings = opened.database.path, opened.settings
        return campaign

    # Running

    def run(self, *, wait: bool = True) -> Iterator[RowResult]:
        """Send the rows that are due. Yield each outcome after it is durable in the journal.

        Several processes may run the same journal. Ctrl-C, `break` and `stop` end the run
        gracefully: the journal gets the outcome of every row that was begun.

        Args:
            wait: Whether to wait for rows that are due later, and for relays that are away.

        Raises:
            JournalError: The journal cannot be written, or the signers are not those of `create`.
            ValueError: A relay's URL needs a password.
        """
        run = self._run(wait)
        self._runs.add(run)
        return run

    def _run(self, wait: bool) -> Generator[RowResult, None, None]:
        opened = self._opened
        opened.check_writable()
        template, lines = opened.template(), opened.lines()
        owner = Owner(opened.database.place)
        opened.stop.clear()
        opened.relays_of_run = lines
        try:
            budgets = Budgets(opened.journal, self.settings, self.id, opened.clock)
            run = Run(opened, owner.name, template, lines, budgets.pacer)
            yield from run.results(wait=wait)
        finally:
            opened.relays_of_run = ()
            owner.close()

    def stop(self) -> None:
        """End `run` gracefully, from another thread or a signal handler."""
        self._opened.stop.set()

    # Reading

    def status(self) -> CampaignStatus:
        """Return the status, from the counts of the chunks. No outcome is read."""
        opened = self._opened
        has_header = self.settings.idempotency_header is not None
        now = opened.clock.now()
        status = status_of(opened.journal, opened.is_dead, has_idempotency_header=has_header)
        opening = Budgets(opened.journal, self.settings, self.id, opened.clock).opens_at(now)
        if opening > now and (status.waiting or status.next_at is not None):
            status = replace(status, next_at=max(status.next_at or 0.0, opening / 1000))
        return status

    def rows(
        self, status: Statuses | None = None
    ) -> Iterator[tuple[dict[str, Any], RowResult | None]]:
        """Yield the rows of the list with the outcomes of their recipients, in order.

        Args:
            status: One `Status` or several; None for all rows. NOT_ATTEMPTED includes the rows that
                wait for their first pass.

        Yields:
            The values of the row by column, and the outcome of a recipient; None for a row without
            an outcome.
        """
        self._opened.recover()
        statuses, waiting = _stored(status)
        return results(self._opened, statuses, waiting=waiting)

    def export(self, path: str | os.PathLike[str], *, status: Statuses | None = None) -> int:
        """Write rows to a CSV file, with the columns of the list and the outcome.

        The file can be used as the list of another campaign.

        Args:
            path: The path of the file. An existing file is replaced.
            status: As in `rows`.

        Returns:
            The number of rows.

        Raises:
            ValueError: The path is that of the journal.
            OSError: The file cannot be written.
        """
        self._check_output(path)
        self._opened.recover()
        statuses, waiting = _stored(status)
        return export(self._opened, os.fspath(path), statuses, waiting=waiting)

    def _check_output(self, path: str | os.PathLike[str]) -> None:
        if Path(path).resolve() == Path(self._opened.database.place).resolve():
            raise ValueError(f"{os.fspath(path)} is the journal; use another file")

    # Corrections

    def settle(
        self, *, accepted: Iterable[str] = (), rest_not_sent: bool = False, resend: bool = False
    ) -> SettleReport:
        """Give UNKNOWN recipients another status, for example from the relay's log.

        Args:
            accepted: The Message-ID, the key or the address of each recipient that the relay has
                accepted. These recipients become ACCEPTED.
            rest_not_sent: Whether the relay has accepted none of the other UNKNOWN recipients. Then
                the message is sent to them again.
            resend: Whether to send the message again to the other UNKNOWN recipients, although the
                relay may have accepted it. The second copy has the same bytes.

        Raises:
            JournalError: The file is read-only, or the campaign was aborted.
            TypeError: `accepted` is a text and not a list of texts.
        """
        _check_texts("accepted", accepted)
        return settle(self._opened, accepted, rest_not_sent=rest_not_sent, resend=resend)

    def retry(
        self, *, status: Statuses, code: int | None = None, since: datetime | None = None
    ) -> int:
        """Make recipients with a final outcome wait again, and return their number.

        The next `run` sends the message to them.

        Args:
            status: One `Status` or several, except ACCEPTED and UNKNOWN.
            code: The code of the reply; None for any.
            since: The earliest time of the outcome; None for any.

        Raises:
            JournalError: The file is read-only, or the campaign was aborted.
            ValueError: The status is ACCEPTED or UNKNOWN.
        """
        statuses, _ = _stored(status)
        since_ms = None if since is None else int(since.timestamp() * 1000)
        return retry(self._opened, statuses or (), code, since_ms)

    def add(self, rows: Rows, *, list_options: Mapping[str, Any] | None = None) -> AddReport:
        """Append rows, except those whose key the campaign already has.

        Args:
            rows: As in `create`. A file must have the column names of the campaign's list.
            list_options: `encoding`, `delimiter` and `sheet`, as in `create`.

        Raises:
            JournalError: The file is read-only, or the campaign was aborted.
            ValueError: The list is malformed, or lacks a column.
        """
        return add(self._opened, rows, list_options or {})

    def suppress(self, addresses: Iterable[str], reason: str = "") -> int:
        """Send nothing more to some addresses. Rows with them become SUPPRESSED when they are due.

        The comparison ignores upper and lower case. A row is not sent if one of its recipients is
        suppressed.

        Args:
            addresses: The addresses.
            reason: The reason.

        Returns:
            The number of addresses that were not suppressed before.

        Raises:
            JournalError: The file is read-only.
            TypeError: `addresses` is a text and not a list of texts.
        """
        _check_texts("addresses", addresses)
        self._opened.check_writable()
        return self._opened.suppression.add(addresses, reason, self._opened.clock.now())

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write an HTML page with the figures of the campaign, without scripts.

        The page needs the extra `report`.

        Args:
            path: The path of the file. An older file is replaced.

        Raises:
            ImportError: matplotlib or Jinja2 is not installed.
            ValueError: The path is that of the journal.
            OSError: The file cannot be written.
        """
        self._check_output(path)
        opened = self._opened
        write_report(opened, self.status(), os.fspath(path), opened.clock.now() / 1000)

    # The state

    def pause(self, reason: str = "paused by the user") -> None:
        """Stop granting rows, in every process that runs the campaign."""
        self._opened.change_state(states.PAUSE, reason)

    def resume(self) -> None:
        """Permit grants again. Only `run` sends messages."""
        self._opened.change_state(states.RESUME)

    def abort(self, reason: str = "aborted by the user") -> None:
        """Stop granting rows permanently. `resume` does not undo this method."""
        self._opened.change_state(states.ABORT, reason)

    def close(self) -> None:
        """End suspended runs gracefully, and close the journal.

        Raises:
            RuntimeError: A run is active in another thread. Call `stop`, and wait until it ends.
        """
        if any(getgeneratorstate(run) == GEN_RUNNING for run in self._runs):
            raise RuntimeError(
                f"journal {self.path}: a run is under way in another thread; call stop(), and wait "
                "for its end before close()"
            )
        try:
            for run in list(self._runs):
                run.close()
        finally:
            self._opened.database.close()

    def __enter__(self) -> "Campaign":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Campaign {self.name!r} {self.id} in {self.path}>"


Campaign.__module__ = "rapidsmtp"


def _check_texts(name: str, texts: Iterable[str]) -> None:
    """Refuse one text as an argument, because each of its characters would count as a text."""
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"{name} is a text: pass a list of texts")


def _stored(status: Statuses | None) -> tuple[list[RowStatus] | None, bool]:
    """Return the stored statuses, and whether rows without an outcome are included."""
    if status is None:
        return None, True
    given = [status] if isinstance(status, str) else list(status)
    for each in given:
        if each not in ROW_STATUS:
            raise ValueError(f"status {each!r} is no status of a recipient")
    return [ROW_STATUS[Status(each)] for each in given], Status.NOT_ATTEMPTED in given
