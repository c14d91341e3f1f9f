"""`rapidsmtp demo`: the newsletter to all subscribers, by smtplib and the ways that we have.

All send the same ready messages to the same server, in turns of a block each, so that none has
the quieter machine. The merging is timed apart: it is the same work for all.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import rapidsmtp
from rapidsmtp.cli import display
from rapidsmtp.cli.composition import from_file
from rapidsmtp.cli.contenders import Contender, contenders
from rapidsmtp.cli.listing import Listing, load
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

_Item = TypeVar("_Item")
# Few enough that all meet the same machine, enough that a `Sender` gets going.
_BLOCK = 250
_WINDOW = 16


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
    parser.set_defaults(command=demo)


def demo(options: argparse.Namespace) -> int:
    """Merge, send by all, and print the table."""
    to = options.to or _example("subscribers.csv")
    with (
        load(from_file(options.template or _example("newsletter.eml")), to) as listing,
        server() as url,
    ):
        total = min(listing.total, options.limit or listing.total)
        print(f"server: {server_name()} at {url}, in a process of its own", flush=True)
        messages, merging = _merge(listing, total)
        if not messages:
            raise UsageError(f"{to}: no row of it makes a message")
        modes = ["stream", "window"] if rapidsmtp.implementation == "rust" else ["transaction"]
        senders = contenders(url, modes, window=_WINDOW)
        interrupted = _send(messages, senders)
    _print(senders, messages, merging, interrupted)
    if interrupted:
        return INTERRUPTED
    return 0 if all(each.accepted == total for each in senders) else NOT_ALL_ACCEPTED


def _merge(listing: Listing, total: int) -> tuple[list[Message], float]:
    messages: list[Message] = []
    rows = list(listing.rows())[:total]
    seconds = 0.0
    with display.progress(["merging"], total) as (bar,):
        for block in _blocks(rows):
            start = time.perf_counter()
            made = list(listing.template.merge(block))
            seconds += time.perf_counter() - start
            messages += [item for item in made if isinstance(item, Message)]
            bar.advance(len(block))
    return messages, seconds


def _send(messages: Sequence[Message], senders: Sequence[Contender]) -> bool:
    """Send all of it by each.

    Returns:
        Whether Ctrl-C ended it; the senders have counted what was accepted by then.
    """
    try:
        for sender in senders:
            # One beside the others, which opens the connection.
            sender.send(messages[:1])
            sender.forget()
        with display.progress([sender.name for sender in senders], len(messages)) as bars:
            turns = list(zip(senders, bars, strict=True))
            for block in _blocks(messages):
                for sender, bar in turns:
                    sender.send(block)
                    bar.advance(len(block))
                # Each goes first as often as the others.
                turns.append(turns.pop(0))
    except KeyboardInterrupt:
        return True
    finally:
        for sender in senders:
            sender.close()
    return False


def _blocks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), _BLOCK):
        yield items[start : start + _BLOCK]


def _print(
    senders: Sequence[Contender], messages: Sequence[Message], merging: float, interrupted: bool
) -> None:
    size = sum(len(message.data) for message in messages) / len(messages) / 1000
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
    title = f"{len(messages)} messages of {size:.0f} KB, one connection each"
    print(f"rapidsmtp ({rapidsmtp.implementation})")
    display.table(
        f"{title}, interrupted" if interrupted else title,
        ["", "sent", "refused", "seconds", "a second", "times smtplib"],
        rows,
    )
    print(
        "Timed: the sending of the same ready messages, sendmail() by sendmail() or by\n"
        f"Sender.send(), in turns of {_BLOCK}. Connecting is not counted, nor is the merging,\n"
        f"which is the same for all: it took {merging:.3f} seconds, once."
    )


def _example(name: str) -> str:
    """An example's path: the wheels carry them; examples/ in the source tree points to them."""
    return str(Path(__file__).with_name(name))
