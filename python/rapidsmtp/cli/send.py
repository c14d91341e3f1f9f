"""`rapidsmtp send`: a template, a list of recipients, a relay."""

import argparse
import contextlib
from collections.abc import Callable
from itertools import islice

from rapidsmtp.cli import advice, composition, limits, metrics
from rapidsmtp.cli import options as shared
from rapidsmtp.cli.delivering import GRACE, deliver
from rapidsmtp.cli.files import Trace, check_files
from rapidsmtp.cli.listing import Listing, load
from rapidsmtp.cli.rehearsal import rehearse
from rapidsmtp.cli.summary import Summary
from rapidsmtp.cli.usage import (
    INTERRUPTED,
    NOT_ALL_ACCEPTED,
    Commands,
    UsageError,
    add_command,
    positive,
)
from rapidsmtp.message import Message
from rapidsmtp.relay import parse_relay
from rapidsmtp.sender import Sender

# Among so many rows at the beginning of a list one is looked for that makes a message.
_SAMPLE_ROWS = 100


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "send",
        "merge a template with a list and send the messages",
        "rapidsmtp send --relay smtp://user@relay.example:587 \\\n"
        "      --template newsletter.eml --to subscribers.csv --rate 600/min\n"
        "  rapidsmtp send --from 'News <news@example.com>' --subject 'Hello {{ name }}' \\\n"
        "      --text news.txt --html news.html --attach agenda.pdf \\\n"
        "      --to subscribers.csv --preview 3",
    )
    parser.add_argument(
        "--relay",
        metavar="URL",
        help="smtp://, smtps://, lmtp://host:port or lmtp:///path; ?starttls=required, "
        "opportunistic or off; &auth=xoauth2 or another mechanism; the password or token may be "
        "in RAPIDSMTP_PASSWORD",
    )
    parser.add_argument(
        "--to", required=True, metavar="FILE.csv", help="one line a recipient; - is stdin"
    )
    parser.add_argument("--encoding", default="utf-8-sig", help="of the CSV file")
    parser.add_argument("--tag", metavar="COLUMN", help="what to call a line in the report")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N lines")
    composition.add_options(parser)
    _add_rehearsal(parser)
    _add_pace(parser)
    shared.add_tls(parser)
    parser.add_argument(
        "--timeout",
        type=positive,
        metavar="SECONDS",
        help="for the connection and for each reply (default: what RFC 5321 asks for)",
    )
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    parser.add_argument(
        "--not-accepted",
        metavar="FILE.csv",
        help="write a line for each recipient that was not accepted",
    )
    parser.add_argument(
        "--trace", metavar="FILE", help="write each command and reply, without secrets"
    )
    parser.add_argument(
        "--no-warnings",
        action="store_true",
        help="do not look for what bulk mail should have (List-Unsubscribe, a plain text, "
        "alignment) and for recipients that are there twice",
    )
    parser.set_defaults(command=send)


def _add_rehearsal(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "to see it before it is sent", "Neither opens a connection, so that they need no --relay."
    )
    group.add_argument(
        "--preview",
        type=positive,
        metavar="N",
        help="write the messages of the first N lines to .eml files, and list them",
    )
    group.add_argument("--preview-to", metavar="DIR", help="the folder for them (default preview/)")
    group.add_argument(
        "--overwrite", action="store_true", help="replace those of an earlier --preview"
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="make the messages of all lines, and tell which lines make none; status 0 if all do",
    )


def _add_pace(parser: argparse.ArgumentParser) -> None:
    shared.add_connections(parser, default=4)
    parser.add_argument(
        "--rate", type=shared.rate, metavar="N", help="messages a second at most, or 600/min"
    )
    parser.add_argument(
        "--pipelining",
        choices=shared.PIPELINING,
        default="auto",
        metavar="MODE",
        help=f"{', '.join(shared.PIPELINING)} (default auto: stream where the relay offers it)",
    )
    parser.add_argument(
        "--max-attempts",
        type=positive,
        default=3,
        metavar="N",
        help="how often to try what is refused for now (default 3)",
    )
    parser.add_argument(
        "--on-unknown",
        choices=("report", "resend"),
        default="report",
        help="what the relay may have taken without saying so: report it (default), or send it "
        "again at the risk of a second copy",
    )
    parser.add_argument(
        "--metrics-port",
        type=shared.port,
        metavar="N",
        help="serve figures for Prometheus on this port while it sends; 0 is any free one",
    )
    parser.add_argument(
        "--metrics-host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to serve them (default 127.0.0.1)",
    )


def send(options: argparse.Namespace) -> int:
    """Check everything, then connect, then send; or show what would be sent."""
    check_files(options)
    if options.preview is None and not options.dry_run:
        return _send(options)
    if options.relay is not None:
        try:
            parse_relay(options.relay)
        except ValueError as error:
            raise UsageError(str(error)) from None
    with _listing(options) as listing:
        return rehearse(options, listing, _list_warnings(options, listing))


def _send(options: argparse.Namespace) -> int:
    for name in ("preview_to", "overwrite"):
        if getattr(options, name):
            raise UsageError(f"--{name.replace('_', '-')} goes with --preview")
    if options.relay is None:
        raise UsageError("no --relay, which only --preview and --dry-run can do without")
    with contextlib.ExitStack() as stack:
        trace = Trace(options.trace) if options.trace is not None else None
        if trace is not None:
            stack.callback(trace.close)
        sender = _sender(options, trace)
        stack.callback(sender.close, GRACE)
        stack.enter_context(metrics.served(sender, options.metrics_host, options.metrics_port))
        listing = stack.enter_context(_listing(options))
        if trace is not None:
            trace.begin()
        warnings = _warnings(options, listing)
        total = min(listing.total, options.limit or listing.total)
        arguments = (sender.relay, total, options.json, options.not_accepted, warnings)
        with Summary(*arguments) as summary:
            if not options.json:
                advice.show(warnings)
            interrupted = deliver(sender, listing, options.tag, summary)
        summary.print_fault()
        if interrupted:
            return INTERRUPTED
        return 0 if summary.all_accepted else NOT_ALL_ACCEPTED


def _listing(options: argparse.Namespace) -> contextlib.AbstractContextManager[Listing]:
    composed = composition.composed(options)
    return load(composed, options.to, options.encoding, options.tag)


def _warnings(options: argparse.Namespace, listing: Listing) -> list[str]:
    if options.no_warnings:
        return []
    items = listing.template.merge(islice(listing.rows(), _SAMPLE_ROWS))
    sample = next((item for item in items if isinstance(item, Message)), None)
    found = []
    if sample is not None:
        relay, tls = parse_relay(options.relay), shared.tls_of(options)
        found = [*advice.of_message(sample), *limits.of_size(sample, relay, tls)]
    return found + _list_warnings(options, listing)


def _list_warnings(options: argparse.Namespace, listing: Listing) -> list[str]:
    if options.no_warnings:
        return []
    return advice.of_list(islice(listing.rows(), options.limit), listing.columns)


def _sender(options: argparse.Namespace, trace: Callable[[str], object] | None) -> Sender:
    tls = shared.tls_of(options)
    try:
        return Sender(
            options.relay,
            connections=options.connections,
            pipelining=options.pipelining,
            rate=options.rate,
            max_attempts=options.max_attempts,
            on_unknown=options.on_unknown,
            timeouts=shared.timeouts_of(options.timeout),
            tls=tls,
            allow_plaintext_auth=options.allow_plaintext_auth,
            trace=trace,
        )
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from None
