"""`rapidsmtp send`: a template, a list of recipients, a relay."""

import argparse
import contextlib
import csv
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rapidsmtp.cli import display
from rapidsmtp.cli import options as shared
from rapidsmtp.cli.listing import Listing, load
from rapidsmtp.cli.summary import Summary
from rapidsmtp.cli.usage import (
    INTERRUPTED,
    NOT_ALL_ACCEPTED,
    Commands,
    UsageError,
    add_command,
    positive,
)
from rapidsmtp.errors import RelayError
from rapidsmtp.message import Message
from rapidsmtp.outcome import Outcome
from rapidsmtp.sender import Sender

# What is under way at Ctrl-C is given so long to be answered, in seconds: an answer now is worth
# more than a message of which nobody knows whether it was delivered. The report takes the rest of
# the second that Ctrl-C may take.
_GRACE = 0.6


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "send",
        "merge a template with a list and send the messages",
        "rapidsmtp send --relay smtp://user@relay.example:587 \\\n"
        "      --template newsletter.eml --to subscribers.csv --rate 600/min",
    )
    parser.add_argument(
        "--relay",
        required=True,
        metavar="URL",
        help="smtp://, smtps://, lmtp://host:port or lmtp:///path; ?starttls=required, "
        "opportunistic or off; &auth=xoauth2 or another mechanism; the password or token may be "
        "in RAPIDSMTP_PASSWORD",
    )
    parser.add_argument("--template", required=True, metavar="FILE.eml", help="the message")
    parser.add_argument(
        "--to", required=True, metavar="FILE.csv", help="one line a recipient; - is stdin"
    )
    parser.add_argument("--encoding", default="utf-8-sig", help="of the CSV file")
    parser.add_argument("--tag", metavar="COLUMN", help="what to call a line in the report")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N lines")
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
    parser.set_defaults(command=send)


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


def send(options: argparse.Namespace) -> int:
    """Check everything, then connect, then send."""
    with contextlib.ExitStack() as stack:
        trace = _trace(options.trace, stack)
        sender = _sender(options, trace)
        stack.callback(sender.close, _GRACE)
        files = (options.template, options.to, options.encoding, options.tag)
        listing = stack.enter_context(load(*files))
        total = min(listing.total, options.limit or listing.total)
        with Summary(sender.relay, total, options.json, options.not_accepted) as summary:
            interrupted = _deliver(sender, listing, options.tag, summary)
        summary.print_fault()
        if interrupted:
            return INTERRUPTED
        return 0 if summary.all_accepted else NOT_ALL_ACCEPTED


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


def _trace(path: str | None, stack: contextlib.ExitStack) -> Callable[[str], object] | None:
    if path is None:
        return None
    try:
        file = stack.enter_context(
            Path(path).open("w", encoding="utf-8", buffering=1)  # noqa: SIM115  (closed there)
        )
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    return lambda line: file.write(f"{line}\n")


def _deliver(sender: Sender, listing: Listing, tag: str | None, summary: Summary) -> bool:
    """Send it, and tell what has become of it.

    Returns:
        Whether Ctrl-C ended it.

    Raises:
        RelayError: There never was a connection.
    """
    numbered = _Numbered(listing.template.merge(islice(listing.rows(), summary.total), tag))
    with _Interruption(sender) as interruption:
        error = _send(sender, numbered, summary)
        if isinstance(error, RuntimeError) and not interruption.happened:
            raise error
        sender.close(_GRACE if interruption.happened else None)
    if interruption.happened:
        summary.stopped = "interrupted"
    elif error is not None:
        summary.stopped = str(error)
    with contextlib.suppress(OSError, ValueError, csv.Error, KeyboardInterrupt):
        summary.add_untaken(islice(listing.rows(), summary.total), numbered.taken, tag)
    stats = sender.stats()
    if isinstance(error, RelayError) and not stats.connected and not interruption.happened:
        raise error
    summary.print(connections=stats.connected, pipelining=stats.governor.pipelining)
    return interruption.happened


def _send(sender: Sender, numbered: "_Numbered", summary: Summary) -> Exception | None:
    """Send it.

    Returns:
        What ended it too early: the relay, the list, which can fail half-way, or Ctrl-C, which
        closes the sender. What has become of the others is told all the same.
    """
    with display.progress(["sending"], summary.total) as (bar,):
        try:
            for outcome in sender.send(numbered):
                summary.add(numbered.row_of(outcome), outcome)
                bar.advance()
        except (RelayError, OSError, ValueError, csv.Error, RuntimeError) as error:
            return error
    return None


class _Numbered:
    """Messages on their way, and the row that each is of: outcomes come in any order."""

    def __init__(self, items: Iterable[Message | Outcome]) -> None:
        self.taken = 0
        self._items = items
        self._rows: dict[int, int] = {}

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self.taken += 1
            # A sender holds what it has taken until its outcome, so that no other gets its id.
            self._rows[id(item)] = self.taken
            yield item

    def row_of(self, outcome: Outcome) -> int:
        """The row; to be asked once."""
        item = outcome if outcome.message is None else outcome.message
        return self._rows.pop(id(item))


class _Interruption:
    """Within this Ctrl-C closes the sender, whose outcomes still come; the second one at once.

    Attributes:
        happened: Whether there was a Ctrl-C.
    """

    def __init__(self, sender: Sender) -> None:
        self.happened = False
        self._sender = sender
        self._before: Any = None
        # Its `put` may interrupt itself, as a signal's handler must be able to.
        self._wishes: queue.SimpleQueue[float | None] = queue.SimpleQueue()

    def __enter__(self) -> "_Interruption":
        ours = threading.current_thread() is threading.main_thread()
        # What was told to ignore Ctrl-C (nohup, a shell's background) goes on doing so.
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            threading.Thread(target=self._close, name="rapidsmtp Ctrl-C", daemon=True).start()
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        self._wishes.put(None)

    def _handle(self, *_: object) -> None:
        self._wishes.put(0.0 if self.happened else _GRACE)
        self.happened = True

    def _close(self) -> None:
        while (wish := self._wishes.get()) is not None:
            threading.Thread(target=self._sender.close, args=[wish], daemon=True).start()
