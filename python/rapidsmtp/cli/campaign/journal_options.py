"""The options of `rapidsmtp send` for a campaign."""

import argparse

from rapidsmtp.cli.campaign.option_values import duration, moment, numbers

FOR_CAMPAIGNS = {
    "name": None,
    "key": None,
    "per_day": (),
    "between": None,
    "zone": None,
    "start_at": None,
    "retry_for": None,
    "idempotency_header": None,
    "no_wait": False,
}
"""The options of `send` that need --journal, with their default values."""


def add_journal(parser: argparse.ArgumentParser) -> None:
    """Add the options of `send` for a campaign."""
    group = parser.add_argument_group(
        "campaign",
        "With --journal, the mailing survives crashes: the journal contains the message, the list "
        "and the outcome of each recipient. The other options of this group need --journal.",
    )
    group.add_argument(
        "--journal",
        metavar="FILE",
        help="create this file, and keep the campaign in it; `rapidsmtp campaign run FILE` "
        "continues after a crash",
    )
    group.add_argument("--name", metavar="TEXT", help="name of the campaign (default: FILE)")
    group.add_argument(
        "--key",
        metavar="COLUMN",
        help="column that identifies a row (default: the recipients' addresses)",
    )
    group.add_argument(
        "--per-day",
        type=numbers,
        metavar="N,N",
        help="maximum number of messages on the first, the second, … day; the last number stays",
    )
    group.add_argument(
        "--between", metavar="TIMES", help="send only between two times, such as 08:00-20:00"
    )
    group.add_argument(
        "--zone",
        metavar="ZONE",
        help="time zone of the options above and below, such as Europe/Berlin (default UTC)",
    )
    group.add_argument(
        "--start-at",
        type=moment,
        metavar="TIME",
        help="send nothing before this time, such as 2030-05-17T08:00",
    )
    group.add_argument(
        "--retry-for",
        type=duration,
        metavar="TIME",
        help="time in which a deferred recipient is tried again, such as 24h (default) or 0",
    )
    group.add_argument(
        "--idempotency-header",
        metavar="NAME",
        help="header field with a key for each row, for relays that accept a repeated message only "
        "once, such as Resend-Idempotency-Key",
    )
    add_no_wait(group)
    parser.set_defaults(**FOR_CAMPAIGNS)


def add_no_wait(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the option that ends a run when no row is due."""
    parser.add_argument(
        "--no-wait",
        action="store_true",
        help="exit with status 3 instead of waiting for rows that are due later, and for relays "
        "that are away",
    )
