"""The commands that change a campaign, or write its rows to a file."""

import argparse
import sys
from pathlib import Path

from rapidsmtp._compose.recipients_list import excluded_addresses
from rapidsmtp.cli import display
from rapidsmtp.cli.campaign.opening import journal_errors, opened
from rapidsmtp.cli.campaign.status_text import statuses
from rapidsmtp.cli.files import check_files
from rapidsmtp.cli.usage import UsageError

_MAX_LINES = 5


def pause(options: argparse.Namespace) -> int:
    """Pause a campaign."""
    with opened(options) as campaign, journal_errors(options.journal):
        campaign.pause(options.reason or "paused by the user")
        display.show(f"{options.journal}: paused; runs end after the messages under way")
    return 0


def resume(options: argparse.Namespace) -> int:
    """Permit a campaign to send again."""
    with opened(options) as campaign, journal_errors(options.journal):
        campaign.resume()
        display.show(
            f"{options.journal}: ready; send with rapidsmtp campaign run {options.journal}"
        )
    return 0


def abort(options: argparse.Namespace) -> int:
    """Abort a campaign."""
    with opened(options) as campaign, journal_errors(options.journal):
        campaign.abort(options.reason or "aborted by the user")
        display.show(f"{options.journal}: aborted; the rows that wait are not sent")
    return 0


def settle(options: argparse.Namespace) -> int:
    """Settle the UNKNOWN recipients."""
    if options.accepted is None and not (options.rest_not_sent or options.resend):
        raise UsageError("one of --accepted, --rest-not-sent and --resend is needed")
    if options.resend and options.rest_not_sent:
        raise UsageError("--resend cannot be combined with --rest-not-sent")
    accepted = [] if options.accepted is None else _lines(options.accepted)
    with opened(options) as campaign, journal_errors(options.journal):
        report = campaign.settle(
            accepted=accepted, rest_not_sent=options.rest_not_sent, resend=options.resend
        )
        display.table(
            options.journal,
            ["", ""],
            [
                ["accepted now", f"{report.accepted}"],
                ["waiting again", f"{report.waiting}"],
                ["still unknown", f"{campaign.status().unknown}"],
                ["lines without an unknown recipient", f"{len(report.unmatched)}"],
            ],
        )
        for line in report.unmatched[:_MAX_LINES]:
            display.notice(f"{options.accepted}: {line!r} names no unknown recipient")
        if len(report.unmatched) > _MAX_LINES:
            display.notice(f"and {len(report.unmatched) - _MAX_LINES} more such lines")
    return 0


def retry(options: argparse.Namespace) -> int:
    """Make recipients wait for another attempt."""
    found = statuses(options.status)
    with opened(options) as campaign, journal_errors(options.journal):
        since = None if options.since is None else options.since.astimezone()
        count = campaign.retry(status=found, code=options.code, since=since)
        display.show(f"{options.journal}: {count} recipients wait again")
    return 0


def add(options: argparse.Namespace) -> int:
    """Append the new rows of a list."""
    given = {name: getattr(options, name) for name in ("encoding", "delimiter", "sheet")}
    with opened(options) as campaign, journal_errors(options.to):
        report = campaign.add(
            options.to, list_options={name: value for name, value in given.items() if value}
        )
        display.table(
            options.journal,
            ["", ""],
            [
                ["new rows", f"{report.new}"],
                ["rows that were there", f"{report.known}"],
                ["rows that were there with other values", f"{report.changed}"],
            ],
        )
    return 0


def suppress(options: argparse.Namespace) -> int:
    """Add addresses to the suppression list."""
    with opened(options) as campaign, journal_errors(options.addresses):
        count = campaign.suppress(
            excluded_addresses(options.addresses, None), reason=options.reason
        )
        display.show(f"{options.journal}: new suppressed addresses: {count}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write rows with their outcomes to a CSV file."""
    found = None if options.status is None else statuses(options.status)
    _check_output(options)
    with opened(options) as campaign, journal_errors(options.output):
        count = campaign.export(options.output, status=found)
        display.show(f"{options.output}: {count} rows")
    return 0


def report(options: argparse.Namespace) -> int:
    """Write the report page."""
    _check_output(options)
    with opened(options) as campaign, journal_errors(options.output):
        try:
            campaign.report(options.output)
        except ImportError as error:
            raise UsageError(str(error)) from None
        display.show(options.output)
    return 0


def _check_output(options: argparse.Namespace) -> None:
    check_files(options)
    if options.output == "-":
        raise UsageError("--output -: the standard output is not supported; name a file")
    path = Path(options.output)
    if path.is_file() and not options.overwrite:
        raise UsageError(f"--output {path}: the file exists; use --overwrite to replace it")


def _lines(path: str) -> list[str]:
    """Return the lines of a file that are not empty."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    text = data.decode("utf-8-sig", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]
