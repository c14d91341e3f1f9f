"""The options of `rapidsmtp bench` and `rapidsmtp demo`."""

import argparse
import re
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from rapidsmtp.cli import options as shared
from rapidsmtp.cli.usage import Commands, UsageError, add_command, positive

_Value = TypeVar("_Value")

_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1000, "m": 1_000_000, "mb": 1_000_000}
_SIZE = re.compile(r"(\d{1,9})\s*([a-z]{0,2})", re.ASCII | re.IGNORECASE)
# The minimum and maximum size of a message, in bytes. The minimum is enough for the header, which
# has almost 300 bytes. The queue of a sender has enough capacity for messages of the maximum size.
_SMALLEST, _LARGEST = 300, 50_000_000
# The maximum number of recipients of a message. RFC 5321 section 4.5.3.1.8: every server must
# accept 100 recipients in one transaction, so a message never needs a second transaction.
_MAX_RECIPIENTS = 100


def register_demo(commands: Commands) -> None:
    """Add the command `demo` to the parser."""
    parser = add_command(
        commands,
        "demo",
        "send a newsletter to a local server, with smtplib and with rapidsmtp",
        "rapidsmtp demo --limit 200",
    )
    parser.add_argument(
        "--template", metavar="FILE.eml", help="message file (default: an example newsletter)"
    )
    parser.add_argument(
        "--to", metavar="FILE", help="recipients list (default: example subscribers)"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="use only the first N rows")
    parser.add_argument(
        "--campaign",
        action="store_true",
        help="instead, send a campaign of 20,000 rows whose runs are killed at random moments, and "
        "compare the server's record with the journal",
    )
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    parser.set_defaults(command=_run_demo)


def register_bench(commands: Commands) -> None:
    """Add the command `bench` to the parser."""
    parser = add_command(
        commands,
        "bench",
        "measure smtplib and rapidsmtp on this machine",
        "rapidsmtp bench --sizes 38KB --latency 0,20ms --plot bench.svg\n"
        "  rapidsmtp bench --relay smtp://localhost --to me@example.com --messages 200",
    )
    parser.add_argument(
        "--sizes",
        type=_list_of(_size),
        metavar="A,B",
        help="sizes of the messages (default 300,38KB)",
    )
    parser.add_argument(
        "--recipients",
        type=_list_of(_recipients),
        metavar="A,B",
        help="numbers of recipients for each message (default 1,10)",
    )
    parser.add_argument(
        "--latency",
        type=_list_of(shared.duration),
        metavar="A,B",
        help="simulated delays in each direction (default 0,20ms)",
    )
    parser.add_argument(
        "--pipelining",
        type=_list_of(_mode),
        metavar="A,B",
        help=f"pipelining modes of Sender: {', '.join(shared.PIPELINING)} (default auto)",
    )
    shared.add_connections(parser, default=4)
    parser.add_argument(
        "--window",
        type=positive,
        default=64,
        metavar="N",
        help="maximum number of transactions in flight on a connection, with --pipelining window "
        "(default 64)",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=30.0,
        metavar="N",
        help="approximate duration of the whole measurement, in seconds (default 30)",
    )
    _add_relay(parser)
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    parser.add_argument("--plot", metavar="FILE.svg", help="write a bar chart")
    parser.set_defaults(command=_run_bench)


def _add_relay(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "your own server", "Without --relay, the command starts a local server."
    )
    group.add_argument("--relay", metavar="URL", help="URL of the server: smtp:// or smtps://")
    group.add_argument("--to", metavar="ADDRESS", help="recipient of all messages")
    group.add_argument(
        "--sender", metavar="ADDRESS", help="sender of all messages (default: the address of --to)"
    )
    group.add_argument(
        "--messages",
        type=positive,
        metavar="N",
        help="number of messages of each size for each competitor (minimum 2)",
    )
    shared.add_tls(group)


# The modules of the commands are imported only when a command runs, because they load `Sender` and
# `Template`.


def _run_demo(options: argparse.Namespace) -> int:
    if options.campaign:
        for name in ("template", "to"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name} cannot be combined with --campaign")
        from rapidsmtp.cli.bench.campaign_demo import campaign_demo

        return campaign_demo(options)
    from rapidsmtp.cli.bench.demo import demo

    return demo(options)


def _run_bench(options: argparse.Namespace) -> int:
    from rapidsmtp.cli.bench.command import bench

    return bench(options)


def _list_of(parse: Callable[[str], _Value]) -> Callable[[str], list[_Value]]:
    """Return a function for argparse that parses a list of values separated by commas."""
    return partial(_values, parse)


def _values(parse: Callable[[str], _Value], text: str) -> list[_Value]:
    return list(dict.fromkeys(parse(part.strip()) for part in text.split(",")))


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write it like 300 or 38KB")
    size = int(match[1]) * _UNITS[match[2].lower()]
    if not _SMALLEST <= size <= _LARGEST:
        raise argparse.ArgumentTypeError(f"{text}: a size must be from {_SMALLEST} bytes to 50 MB")
    return size


def _recipients(text: str) -> int:
    number = positive(text)
    if number > _MAX_RECIPIENTS:
        raise argparse.ArgumentTypeError(f"{text} is too large: the maximum is {_MAX_RECIPIENTS}")
    return number


def _mode(text: str) -> str:
    if text not in shared.PIPELINING:
        names = ", ".join(shared.PIPELINING)
        raise argparse.ArgumentTypeError(f"{text!r} is not a pipelining mode; use one of {names}")
    return text


def _seconds(text: str) -> float:
    seconds = shared.duration(text)
    if not seconds:
        raise argparse.ArgumentTypeError("the duration must be above 0")
    return seconds
