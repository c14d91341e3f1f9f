"""`rapidsmtp bench`: smtplib beside the ways that we have, on the machine that it is run on."""

import argparse
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby, product
from typing import Any, TypeVar

import rapidsmtp
from rapidsmtp import delivery
from rapidsmtp.cli import display
from rapidsmtp.cli import options as shared
from rapidsmtp.cli.contenders import Contender, contenders
from rapidsmtp.cli.files import emptied, opened
from rapidsmtp.cli.measure import ROUNDS, Mailing, Measurement, Work, counted, timed
from rapidsmtp.cli.plot import plot
from rapidsmtp.cli.serving import server, server_name
from rapidsmtp.cli.usage import (
    INTERRUPTED,
    NOT_ALL_ACCEPTED,
    Commands,
    UsageError,
    add_command,
    positive,
)
from rapidsmtp.relay import parse_relay

_Value = TypeVar("_Value")

_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1000, "m": 1_000_000, "mb": 1_000_000}
_SIZE = re.compile(r"(\d{1,9})\s*([a-z]{0,2})", re.ASCII | re.IGNORECASE)
# A header alone is almost as large as the one, and the other fits into a sender's queue.
_SMALLEST, _LARGEST = 300, 50_000_000
# What RFC 5321 section 4.5.3.1.8 asks every server to take in one transaction.
_MOST_RECIPIENTS = 100
# Trial turns, in which a contender finds its pace, take about so many turns.
_TRIAL = 2


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "bench",
        "measure smtplib and rapidsmtp on this machine",
        "rapidsmtp bench --sizes 38KB --latency 0,20ms --plot bench.svg\n"
        "  rapidsmtp bench --relay smtp://localhost --to me@example.com --messages 200",
    )
    parser.add_argument(
        "--sizes", type=_list_of(_size), metavar="A,B", help="of a message (default 300,38KB)"
    )
    parser.add_argument(
        "--recipients",
        type=_list_of(_recipients),
        metavar="A,B",
        help="of a message (default 1,10)",
    )
    parser.add_argument(
        "--latency",
        type=_list_of(shared.duration),
        metavar="A,B",
        help="simulated, one way (default 0,20ms)",
    )
    parser.add_argument(
        "--pipelining",
        type=_list_of(_mode),
        metavar="A,B",
        help=f"modes of Sender: {', '.join(shared.PIPELINING)} "
        "(default stream,window, or auto with --relay)",
    )
    shared.add_connections(parser, default=4)
    parser.add_argument(
        "--window", type=positive, default=64, metavar="N", help="transactions (default 64)"
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=30.0, metavar="N", help="in all, about (default 30)"
    )
    _add_relay(parser)
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw them")
    parser.set_defaults(command=bench)


def _add_relay(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "against a server of yours", "in the place of one that the command starts for itself"
    )
    group.add_argument("--relay", metavar="URL", help="smtp:// or smtps://")
    group.add_argument("--to", metavar="ADDRESS", help="who gets it all")
    group.add_argument("--sender", metavar="ADDRESS", help="from whom (default: the same)")
    group.add_argument(
        "--messages", type=positive, metavar="N", help="how many each way of sending sends, a size"
    )
    shared.add_tls(group)


def bench(options: argparse.Namespace) -> int:
    """Measure, and print the table."""
    _check(options)
    modes = _modes(options)
    works = _works(options)
    found: list[Measurement] = []
    with _plot_file(options.plot) as write_plot:
        with_relay = options.relay is not None
        name = parse_relay(options.relay).name if with_relay else server_name()
        about = _about(name, options.connections)
        _say(options, about)
        run = _against_relay if with_relay else _against_server
        try:
            run(options, modes, works, found)
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        refused = sum(each.refused for each in found)
        if options.json:
            print(display.as_json(_as_dict(options, found, name, interrupted)))
        else:
            _print(found, refused)
        if found:
            write_plot(plot(found, about))
    if interrupted:
        print("rapidsmtp: interrupted", file=sys.stderr)
        return INTERRUPTED
    return NOT_ALL_ACCEPTED if refused else 0


def _check(options: argparse.Namespace) -> None:
    if options.relay is None:
        for name in ("to", "sender", "messages", "ca_file", "certificate"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} goes with --relay")
        return
    for name in ("to", "messages"):
        if getattr(options, name) is None:
            raise UsageError(f"--relay needs --{name}: a stated number of messages to an address")
    for name in ("recipients", "latency"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} is for the command's own server, not for --relay")
    if options.messages < 2:
        raise UsageError("--messages must be at least 2: the first opens the connection")
    for name in ("to", "sender"):
        address = getattr(options, name)
        try:
            if address is not None:
                delivery.path(address)
        except ValueError as error:
            raise UsageError(f"--{name}: {error}") from None
        if address is not None and not (address.isascii() and address.rpartition("@")[0]):
            raise UsageError(f"--{name}: {address!r} is no plain address")
    try:
        parse_relay(options.relay)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _modes(options: argparse.Namespace) -> list[str]:
    """The modes of `Sender`, as they will be in force on this half."""
    modes = options.pipelining or (["auto"] if options.relay else ["stream", "window"])
    if rapidsmtp.implementation == "python":
        modes = ["transaction" if mode in ("stream", "window") else mode for mode in modes]
    return list(dict.fromkeys(modes))


def _works(options: argparse.Namespace) -> list[Work]:
    sizes = options.sizes or [300, 38_000]
    if options.relay:
        return [Work(size) for size in sizes]
    latencies = options.latency or [0.0, 0.02]
    if server_name() == "aiosmtpd" and any(latencies):
        if options.latency:
            raise UsageError("--latency needs the compiled half, whose sink can wait")
        latencies = [0.0]
    return [
        Work(size, recipients, latency)
        for latency, size, recipients in product(latencies, sizes, options.recipients or [1, 10])
    ]


def _against_server(
    options: argparse.Namespace, modes: Sequence[str], works: Sequence[Work], found: list[Any]
) -> None:
    ways = 2 + len(modes)
    seconds = options.seconds / (len(works) * ways * (ROUNDS + _TRIAL))
    with display.progress(["measuring"], len(works) * ways * (ROUNDS + 1)) as (bar,):
        for latency, group in groupby(works, key=lambda work: work.latency):
            with server(latency) as url:
                for work in group:
                    to = [f"r{number}@example.com" for number in range(work.recipients)]
                    mailing = Mailing("bench@example.com", to, work.size)
                    with _ready(options, url, modes) as ready:
                        found += timed(work, ready, mailing, seconds, bar.advance)


def _against_relay(
    options: argparse.Namespace, modes: Sequence[str], works: Sequence[Work], found: list[Any]
) -> None:
    sender = options.sender or options.to
    ways = 2 + len(modes)
    total = options.messages * ways * len(works)
    sizes = " and ".join(str(work).partition(",")[0] for work in works)
    relay = parse_relay(options.relay).name
    _say(
        options,
        f"{total} messages of {sizes} go to {options.to} through {relay}, from {sender}:\n"
        f"{options.messages} of each size by each of {ways} ways to send",
    )
    turns = len(works) * ways * (min(ROUNDS, options.messages - 1) + 1)
    with display.progress(["measuring"], turns) as (bar,):
        for work in works:
            mailing = Mailing(sender, [options.to], work.size, different=None)
            with _ready(options, options.relay, modes) as ready:
                found += counted(work, ready, mailing, options.messages, bar.advance)


@contextmanager
def _ready(
    options: argparse.Namespace, url: str, modes: Sequence[str]
) -> Iterator[list[Contender]]:
    made = contenders(
        url,
        modes,
        connections=options.connections,
        window=options.window,
        tls=shared.tls_of(options) if options.relay else None,
        allow_plaintext_auth=options.allow_plaintext_auth,
    )
    try:
        yield made
    finally:
        for each in made:
            each.close()


@contextmanager
def _plot_file(path: str | None) -> Iterator[Callable[[str], object]]:
    """Open it before anything is measured: a path that is wrong is best known at once.

    What it holds stays until there is something in its place.
    """
    if path is None:
        yield lambda drawing: None
        return
    try:
        with opened(path) as file:
            yield lambda drawing: emptied(file).write(drawing)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _about(name: str, connections: int) -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return (
        f"rapidsmtp {rapidsmtp.__version__} ({rapidsmtp.implementation} half), {python}, "
        f"{_cpus()} CPUs; to {name}; Sender: up to {connections} connections"
    )


def _say(options: argparse.Namespace, line: str) -> None:
    stream = sys.stderr if options.json else sys.stdout
    print("\n".join(map(display.printable, line.split("\n"))), file=stream, flush=True)


def _print(found: Sequence[Measurement], refused: int) -> None:
    rows = []
    for work, group in groupby(found, key=lambda each: each.work):
        for number, each in enumerate(group):
            digits = 0 if each.per_second >= 100 else 1
            figures = [f"{each.per_second:.{digits}f}", f"{each.ratio:.1f}"]
            rows.append(["" if number else str(work), each.name, *figures])
    display.table(
        f"medians of up to {ROUNDS} turns each",
        ["work", "by", "messages a second", "times smtplib"],
        rows,
    )
    if rows:
        print(
            "smtplib and the drop-in send one sendmail() after the other over one connection,\n"
            "Sender.send() takes them all at once. The first connection is not counted."
        )
    if refused:
        print(f"{refused} messages were not accepted, and are not in the figures.")


def _as_dict(
    options: argparse.Namespace, found: Sequence[Measurement], name: str, interrupted: bool
) -> dict[str, Any]:
    return {
        "rapidsmtp": rapidsmtp.__version__,
        "half": rapidsmtp.implementation,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cpus": _cpus(),
        "server": name,
        "connections": options.connections,
        "window": options.window,
        "interrupted": interrupted,
        "results": [
            {
                "size": each.work.size,
                "recipients": each.work.recipients,
                "round_trip_seconds": 2 * each.work.latency,
                "by": each.name,
                "connections": each.connections,
                "messages": each.messages,
                "not_accepted": each.refused,
                "messages_per_second": round(each.per_second, 1),
                "turns": [round(rate, 1) for rate in each.rounds],
                "times_smtplib": round(each.ratio, 2),
            }
            for each in found
        ],
    }


def _list_of(one: Callable[[str], _Value]) -> Callable[[str], list[_Value]]:
    """Several with commas between them, for argparse."""
    return partial(_values, one)


def _values(one: Callable[[str], _Value], text: str) -> list[_Value]:
    return list(dict.fromkeys(one(part.strip()) for part in text.split(",")))


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: it must be like 300 or 38KB")
    size = int(match[1]) * _UNITS[match[2].lower()]
    if not _SMALLEST <= size <= _LARGEST:
        raise argparse.ArgumentTypeError(f"{text}: it must be from {_SMALLEST} bytes to 50 MB")
    return size


def _recipients(text: str) -> int:
    number = positive(text)
    if number > _MOST_RECIPIENTS:
        raise argparse.ArgumentTypeError(f"{text}: at most {_MOST_RECIPIENTS} recipients")
    return number


def _mode(text: str) -> str:
    if text not in shared.PIPELINING:
        names = ", ".join(shared.PIPELINING)
        raise argparse.ArgumentTypeError(f"{text!r} is no mode: it must be one of {names}")
    return text


def _seconds(text: str) -> float:
    seconds = shared.duration(text)
    if not seconds:
        raise argparse.ArgumentTypeError("it must be above 0")
    return seconds
