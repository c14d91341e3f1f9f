"""Create a journal with a message and a list."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rapidsmtp._compose.template import Signers, Template
from rapidsmtp.campaign.chunk_rows import ID_FIELD
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.loading import Loader, Source, create_campaign
from rapidsmtp.campaign.model import CampaignSettings
from rapidsmtp.campaign.relays import has_user, sender_to
from rapidsmtp.campaign.sqlite import SqliteDatabase
from rapidsmtp.campaign.suppression import SuppressionList

# RFC 5322 section 2.2: the printable characters of ASCII except the colon.
_FIELD_NAME = re.compile("[!-9;-~]+")
_LONGEST = 10**10
"""The maximum duration in a setting, in seconds: about 300 years."""


def create_journal(
    path: str,
    name: str,
    template: Template,
    source: Source,
    settings: CampaignSettings,
    relays: Sequence[tuple[str, int]],
    suppressed: Iterable[str],
    now: int,
) -> SqliteDatabase:
    """Create a journal's file. After an error, the file is deleted.

    Args:
        path: The path of the file.
        name: The campaign's name.
        template: The message.
        source: The list.
        settings: The settings.
        relays: The URL without a password and the weight of each relay.
        suppressed: The addresses to which nothing is sent.
        now: The time, in milliseconds since 1970.

    Raises:
        FileExistsError: The file exists.
        ValueError: The list is malformed.
        OSError: The file cannot be written.
    """
    message = _source(template, settings)
    database = SqliteDatabase(path, create=True)
    try:
        number, _ = create_campaign(
            database,
            name=name,
            message=message,
            settings=settings.to_json(),
            columns=source.columns.to_json(),
            relays=relays,
            now=now,
        )
        finds = settings.duplicates != "all"
        loader = Loader(Journal(database, number), source.columns, finds_repeats=finds)
        loader.add(source)
        repeats = loader.find_repeats() if finds else 0
        if repeats and settings.duplicates == "error":
            raise ValueError(_repeated(loader, repeats))
        if repeats:
            loader.suppress_repeats(now)
        # The suppressed addresses are added before `finish` makes the campaign ready. If this
        # process is killed between these steps, the campaign cannot run without the addresses.
        SuppressionList(database).add(suppressed, "excluded by the program that created it", now)
        loader.finish()
    except BaseException:
        database.delete()
        raise
    return database


def template_of(template: Any, dkim: Signers) -> Template:
    """Return the template for the message that was passed to `Campaign.create`.

    Raises:
        ValueError: The message is wrong, or there are signers although the template has its own.
    """
    if not isinstance(template, Template):
        return Template.from_eml(template, dkim=dkim)
    if dkim:
        raise ValueError("dkim is given, but a Template has its own signers: pass dkim to it")
    return template


def check_settings(settings: CampaignSettings) -> None:
    """Check the settings that no other function checks.

    Raises:
        ValueError: A setting is wrong.
    """
    if settings.on_unknown not in ("report", "resend"):
        raise ValueError(f"on_unknown is {settings.on_unknown!r}: it must be report or resend")
    if settings.duplicates not in ("first", "all", "error"):
        raise ValueError(f"duplicates is {settings.duplicates!r}: it must be first, all or error")
    delays = settings.retry_delays
    if not delays or not all(0 < each <= _LONGEST for each in delays):
        raise ValueError(f"retry_delays must be one or more numbers above 0, up to {_LONGEST}")
    if not 0 <= settings.retry_for <= _LONGEST:
        raise ValueError(f"retry_for is {settings.retry_for}: it must be from 0 to {_LONGEST}")
    if any(not isinstance(number, int) or number < 1 for number in settings.per_day):
        raise ValueError("per_day must be whole numbers above 0")
    header = settings.idempotency_header
    if header is not None and not _FIELD_NAME.fullmatch(header):
        raise ValueError(
            f"idempotency_header is {header!r}: it must be the name of a header field, such as "
            "Resend-Idempotency-Key"
        )


def check_senders(urls: Sequence[str], settings: CampaignSettings) -> None:
    """Check the arguments of the senders when the journal is created, not only in a run.

    Args:
        urls: The URLs of the relays, without passwords.
        settings: The settings.

    Raises:
        ValueError: An argument is wrong.
        TypeError: An argument has a wrong name or type.
        OSError: A certificate cannot be read.
    """
    for url in urls:
        # The password may be unknown until the first run, so a placeholder is used.
        password = "unknown" if has_user(url) else None
        sender_to(url, password, settings, {}).close(0.0)


def _repeated(loader: Loader, count: int) -> str:
    row, earlier = next(loader.repeats())
    return (
        f"row {row} has the recipient of row {earlier}; {count} rows repeat a recipient; "
        'use duplicates="first" to send to the first one only'
    )


def _source(template: Template, settings: CampaignSettings) -> bytes:
    source = template.source()
    if settings.idempotency_header is not None:
        source = f"{settings.idempotency_header}: {{{{ {ID_FIELD} }}}}\r\n".encode() + source
    # This call raises an error if the name of the header field is wrong, or if the template already
    # has such a field.
    Template.from_eml(source, keep_headers=True, attachment_root=settings.attachment_root)
    return source
