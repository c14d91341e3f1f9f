"""`rapidsmtp demo`: a newsletter to all subscribers, by smtplib and the ways that we have.

Three ways go from a row of the list to an accepted message: smtplib with an EmailMessage for each
subscriber, the drop-in with the same EmailMessages, and `Template` with `Sender`. They send to
the same server in turns of a block each, so that none has the quieter machine.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import rapidsmtp
from rapidsmtp.cli import display
from rapidsmtp.cli.composition import from_file
from rapidsmtp.cli.contenders import Contender, newsletter_contenders
from rapidsmtp.cli.letter import Letter
from rapidsmtp.cli.listing import Listing, load
from rapidsmtp.cli.sameness import all_same
from rapidsmtp.cli.serving import server, server_name
from rapidsmtp.cli.usage import (
    INTERRUPTED,
    NOT_ALL_ACCEPTED,
    Commands,
    UsageError,
    add_command,
    positive,
)
from rapidsmtp.message import Message

# Few enough that all meet the same machine, enough that a `Sender` gets going.
_BLOCK = 100
# Seconds for each way: who is slow sends less, and a demonstration is not waited for longer.
_SECONDS = 3.5
# So many messages are compared, out of so many rows at the beginning of the list.
_COMPARED, _ROWS = 5, 100

Row = Mapping[str, Any]


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "demo",
        "send a newsletter to a server of its own, by smtplib and by rapidsmtp",
        "rapidsmtp demo --limit 200",
    )
    parser.add_argument("--template", metavar="FILE.eml", help="instead of the example")
    parser.add_argument("--to", metavar="FILE.csv", help="instead of the example")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N lines")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    parser.set_defaults(command=demo)


def demo(options: argparse.Namespace) -> int:
    """Compare what is delivered, send by all, and print the table."""
    template = options.template or _example("newsletter.eml")
    to = options.to or _example("subscribers.csv")
    with load(from_file(template), to) as listing:
        letter = Letter(template)
        sample, octets = _sample(listing, to)

        def ways(url: str) -> list[Contender]:
            return newsletter_contenders(url, letter, listing.template)

        same = all_same(ways, sample)
        rows = list(islice(listing.rows(), options.limit))
        with server() as url:
            stream = sys.stderr if options.json else sys.stdout
            print(f"server: {server_name()} at {url}, in a process of its own", file=stream)
            stream.flush()
            senders = ways(url)
            interrupted = _send(rows, sample[:1], senders)
    if options.json:
        known = {"subscribers": len(rows), "octets": octets, "interrupted": interrupted}
        print(display.as_json({**known, **_as_dict(senders, len(sample), same)}))
    else:
        title = f"{len(rows)} subscribers, a message of {octets / 1000:.0f} KB for each"
        _print(f"{title}, interrupted" if interrupted else title, senders)
        print(_comparison(len(sample), same))
    if interrupted:
        return INTERRUPTED
    well = all(sender.accepted and not sender.refused for sender in senders)
    return 0 if same and well else NOT_ALL_ACCEPTED


def _sample(listing: Listing, to: str) -> tuple[list[Row], int]:
    """A few rows that make messages, and the size of one of them."""
    rows: list[Row] = list(islice(listing.rows(), _ROWS))
    made = list(zip(rows, listing.template.merge(rows), strict=True))
    good = [(row, item) for row, item in made if isinstance(item, Message)]
    if not good:
        raise UsageError(f"{to}: none of its first rows makes a message")
    step = max(1, len(good) // _COMPARED)
    return [row for row, _ in good[::step]][:_COMPARED], len(good[0][1].data)


def _send(rows: Sequence[Row], first: Sequence[Row], senders: Sequence[Contender]) -> bool:
    """Send all of it by each, or as much of it as there is time for.

    Returns:
        Whether Ctrl-C ended it; the senders have counted what was accepted by then.
    """
    try:
        for sender in senders:
            # One beside the others, which opens the connection.
            sender.send(first)
            sender.forget()
        with display.progress([sender.name for sender in senders], len(rows)) as bars:
            turns = list(zip(senders, bars, strict=True))
            for start in range(0, len(rows), _BLOCK):
                for sender, bar in turns:
                    before = sender.accepted + sender.refused
                    sender.send_until(
                        time.perf_counter() + _SECONDS - sender.seconds,
                        rows[start : start + _BLOCK],
                    )
                    bar.advance(sender.accepted + sender.refused - before)
                # Each goes first as often as the others.
                turns.append(turns.pop(0))
    except KeyboardInterrupt:
        return True
    finally:
        for sender in senders:
            sender.close()
    return False


def _print(title: str, senders: Sequence[Contender]) -> None:
    slowest = senders[0].per_second
    rows = [
        [
            sender.name,
            f"{sender.accepted}",
            f"{sender.refused}",
            f"{sender.seconds:.3f}",
            f"{sender.per_second:.0f}" if sender.seconds else "-",
            f"{sender.per_second / slowest:.1f}" if slowest else "-",
        ]
        for sender in senders
    ]
    print(f"rapidsmtp ({rapidsmtp.implementation})")
    display.table(title, ["", "sent", "refused", "seconds", "a second", "times smtplib"], rows)
    composing = " and ".join(
        f"{sender.composing:.3f}" for sender in senders if sender.composing is not None
    )
    print(
        "Timed: from a row of the list to the server's 250, one connection each, in turns\n"
        f"of {_BLOCK} and for {_SECONDS:g} seconds at the most. smtplib and the drop-in: Jinja2\n"
        "and an EmailMessage for each row, send_message(). Template: merge() and send().\n"
        f"Of the first two's seconds {composing} went into making the messages."
    )


def _comparison(compared: int, same: bool) -> str:
    verdict = "the same" if same else "NOT the same"
    return f"Compared: {verdict} header fields and texts in {compared} messages of each way."


def _as_dict(senders: Sequence[Contender], compared: int, same: bool) -> dict[str, Any]:
    slowest = senders[0].per_second
    return {
        "implementation": rapidsmtp.implementation,
        "compared": compared,
        "same": same,
        "ways": [
            {
                "name": sender.name,
                "accepted": sender.accepted,
                "refused": sender.refused,
                "seconds": round(sender.seconds, 4),
                "composing": None if sender.composing is None else round(sender.composing, 4),
                "per_second": round(sender.per_second, 1),
                "ratio": round(sender.per_second / slowest, 2) if slowest else None,
            }
            for sender in senders
        ],
    }


def _example(name: str) -> str:
    """An example's path: the wheels carry them; examples/ in the source tree points to them."""
    return str(Path(__file__).with_name(name))
