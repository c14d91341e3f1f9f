"""The subcommands of `rapidsmtp campaign`, and their options."""

import argparse
from collections.abc import Callable
from importlib import import_module

from rapidsmtp.cli import options as shared
from rapidsmtp.cli.campaign.journal_options import add_no_wait
from rapidsmtp.cli.campaign.option_values import duration, moment, names
from rapidsmtp.cli.usage import Commands, UsageError, add_command, positive


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "campaign",
        "continue, watch or correct a mailing that has a journal",
        "rapidsmtp campaign run news.campaign\n"
        "  rapidsmtp campaign status news.campaign --watch\n"
        "  rapidsmtp campaign export news.campaign --status unknown,refused -o rest.csv",
    )
    parser.set_defaults(command=_no_command, prog=parser.prog)
    inner = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_run(inner)
    _add_status(inner)
    _add_states(inner)
    _add_settle(inner)
    _add_retry(inner)
    _add_list_changes(inner)
    _add_export(inner)
    _add_report(inner)


def _no_command(options: argparse.Namespace) -> int:
    raise UsageError(
        "no command of campaign given; use run, status, pause, resume, abort, settle, retry, add, "
        f"suppress, export or report (see {options.prog} --help)"
    )


def _later(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """Return a function that imports a command only when it runs, so `--help` is fast."""

    def run(options: argparse.Namespace) -> int:
        command = getattr(import_module(f"rapidsmtp.cli.campaign.{module}"), function)
        status: int = command(options)
        return status

    return run


def _add(
    commands: Commands, name: str, summary: str, example: str, module: str
) -> argparse.ArgumentParser:
    example = f"rapidsmtp campaign {name} news.campaign{example and ' '}{example}"
    parser = add_command(commands, name, summary, example)
    parser.add_argument("journal", metavar="JOURNAL", help="file of --journal")
    parser.add_argument(
        "--older-copy",
        action="store_true",
        help="accept a journal that is an older copy; rows that may have been sent since become "
        "unknown",
    )
    parser.set_defaults(command=_later(module, name), prog=parser.prog)
    return parser


def _add_run(commands: Commands) -> None:
    parser = _add(
        commands, "run", "send the rows that wait, and go on after a crash", "", "sending"
    )
    add_no_wait(parser)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.add_argument(
        "--not-accepted",
        metavar="FILE.csv",
        help="write the rows that were not accepted, with the list's columns and the outcome",
    )
    parser.add_argument(
        "--dkim-key",
        metavar="FILE",
        help="private key of the campaign's DKIM signature; the journal does not contain it",
    )
    shared.add_tls(parser)
    parser.set_defaults(ca_file=None, certificate=None)
    parser.add_argument("--proxy", metavar="URL", help="connect through this proxy, as in send")
    parser.add_argument(
        "--timeout",
        type=shared.seconds,
        metavar="SECONDS",
        help="time limit for connecting and for each reply (default: that of send)",
    )
    parser.add_argument(
        "--trace", metavar="FILE", help="write each SMTP command and reply, without secrets"
    )


def _add_status(commands: Commands) -> None:
    parser = _add(
        commands, "status", "print the counts, the relays and the unknown rows", "--watch", "watch"
    )
    parser.add_argument("--json", action="store_true", help="print the status as one JSON object")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="print the status again and again, with the rate and the time left, until the "
        "campaign ends",
    )
    parser.add_argument(
        "--every",
        type=duration,
        default=None,
        metavar="TIME",
        help="time between two prints of --watch (default 2s)",
    )


def _add_states(commands: Commands) -> None:
    pause = _add(commands, "pause", "stop the sending, in every process", "", "changes")
    pause.add_argument("--reason", metavar="TEXT", help="reason to show in the status")
    _add(commands, "resume", "permit the sending again; `campaign run` sends", "", "changes")
    abort = _add(commands, "abort", "stop the sending for good", "", "changes")
    abort.add_argument("--reason", metavar="TEXT", help="reason to show in the status")


def _add_settle(commands: Commands) -> None:
    parser = _add(
        commands,
        "settle",
        "decide what became of the unknown recipients",
        "--accepted delivered.txt --rest-not-sent",
        "changes",
    )
    parser.add_argument(
        "--accepted",
        metavar="FILE",
        help="file with recipients that the relay accepted: a Message-ID, an address or a key in "
        "each line; - means standard input",
    )
    parser.add_argument(
        "--rest-not-sent",
        action="store_true",
        help="the other unknown recipients were not sent, so they wait again",
    )
    parser.add_argument(
        "--resend",
        action="store_true",
        help="all unknown recipients wait again, and get the same bytes; a recipient may get the "
        "message twice",
    )


def _add_retry(commands: Commands) -> None:
    parser = _add(
        commands,
        "retry",
        "send again to recipients that were not accepted",
        "--status refused --code 550",
        "changes",
    )
    parser.add_argument(
        "--status",
        type=names,
        required=True,
        metavar="A,B",
        help="statuses of the recipients: refused, deferred, invalid, suppressed",
    )
    parser.add_argument("--code", type=positive, metavar="N", help="only with this reply code")
    parser.add_argument(
        "--since", type=moment, metavar="TIME", help="only outcomes from this local time on"
    )


def _add_list_changes(commands: Commands) -> None:
    add = _add(commands, "add", "append the new rows of a list", "--to more.csv", "changes")
    add.add_argument("--to", required=True, metavar="FILE", help="recipients list; as in send")
    for name, example in (("encoding", "windows-1252"), ("delimiter", "tab"), ("sheet", "May")):
        add.add_argument(f"--{name}", metavar="TEXT", help=f"as in send, such as {example}")
    suppress = _add(
        commands, "suppress", "never send to some addresses", "unsubscribed.txt", "changes"
    )
    suppress.add_argument(
        "addresses",
        metavar="FILE",
        help="addresses: one in each line, or a CSV file with a column of addresses; - means "
        "standard input",
    )
    suppress.add_argument("--reason", default="", metavar="TEXT", help="reason to show")


def _add_export(commands: Commands) -> None:
    parser = _add(
        commands,
        "export",
        "write rows with the list's own columns and the outcome",
        "--status unknown,refused -o rest.csv",
        "changes",
    )
    parser.add_argument(
        "--status",
        type=names,
        metavar="A,B",
        help="statuses to write: accepted, refused, deferred, unknown, invalid, suppressed or "
        "waiting (default: all)",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE.csv", help="file to write; usable as --to"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _add_report(commands: Commands) -> None:
    parser = _add(
        commands, "report", "write an HTML page with figures", "--output report.html", "changes"
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE.html", help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
