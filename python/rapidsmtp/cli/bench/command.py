"""`rapidsmtp bench`: measure smtplib and rapidsmtp on this machine."""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, product
from typing import Any

import rapidsmtp
from rapidsmtp import _backend
from rapidsmtp._compose.checked_address import checked_path
from rapidsmtp._models.relay_url import parse_relay
from rapidsmtp._models.settings import Pipelining
from rapidsmtp.cli import display
from rapidsmtp.cli import options as shared
from rapidsmtp.cli.bench.competitors import Competitor, message_competitors
from rapidsmtp.cli.bench.local_server import local_server, server_name
from rapidsmtp.cli.bench.measure import (
    ROUNDS,
    Measurement,
    MessageSource,
    Workload,
    measure_by_count,
    measure_by_time,
)
from rapidsmtp.cli.bench.plot import plot
from rapidsmtp.cli.files import open_for_writing, option, truncate
from rapidsmtp.cli.usage import INTERRUPTED, NOT_ALL_ACCEPTED, UsageError

# The approximate duration of the trial of a competitor, as a number of turns. The trial precedes
# the measured turns and finds how many messages the competitor can send in one turn.
_TRIAL = 2


def bench(options: argparse.Namespace) -> int:
    """Measure the competitors, and print the table.

    Args:
        options: The options of `bench`.

    Returns:
        The exit status.

    Raises:
        UsageError: An option is wrong, or the server is not reachable.
    """
    _check(options)
    modes = _modes(options)
    workloads = _workloads(options)
    found: list[Measurement] = []
    with _plot_file(options.plot) as write_plot:
        with_relay = options.relay is not None
        name = (
            parse_relay(options.relay, mechanisms=_backend.sasl_mechanisms()).name
            if with_relay
            else server_name()
        )
        conditions = _conditions(name)
        _print_notice(options, conditions)
        run = _against_relay if with_relay else _against_local_server
        try:
            run(options, modes, workloads, found)
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        refused = sum(each.refused for each in found)
        if options.json:
            display.show(display.as_json(_as_dict(options, found, name, interrupted)))
        else:
            _print(found, refused)
        if found:
            write_plot(plot(found, conditions))
    if interrupted:
        display.notice("interrupted")
        return INTERRUPTED
    return NOT_ALL_ACCEPTED if refused else 0


def _check(options: argparse.Namespace) -> None:
    if options.relay is None:
        for name in ("to", "sender", "messages", "ca_file", "certificate"):
            if getattr(options, name) is not None:
                raise UsageError(f"{option(name)} needs --relay")
        return
    for name, value in (("to", "ADDRESS"), ("messages", "N")):
        if getattr(options, name) is None:
            raise UsageError(f"--relay needs {option(name)} {value}")
    for name in ("recipients", "latency"):
        if getattr(options, name) is not None:
            raise UsageError(f"{option(name)} works with the local server only, not with --relay")
    if options.messages < 2:
        raise UsageError("--messages must be at least 2: the first message opens the connection")
    for name in ("to", "sender"):
        address = getattr(options, name)
        try:
            if address is not None:
                checked_path(address)
        except ValueError as error:
            raise UsageError(f"{option(name)}: {error}") from None
        if address is not None and not (address.isascii() and address.rpartition("@")[0]):
            raise UsageError(
                f"{option(name)}: {address!r} is not an ASCII address like me@example.com"
            )
    try:
        parse_relay(options.relay, mechanisms=_backend.sasl_mechanisms())
    except ValueError as error:
        raise UsageError(str(error)) from None


def _modes(options: argparse.Namespace) -> list[Pipelining]:
    """Return the pipelining modes to measure, each mode once.

    The pure-Python backend uses the mode "transaction" instead of "stream" and "window".
    """
    modes = options.pipelining or ["auto"]
    if _backend.implementation == "python":
        modes = ["transaction" if mode in ("stream", "window") else mode for mode in modes]
    return list(dict.fromkeys(modes))


def _workloads(options: argparse.Namespace) -> list[Workload]:
    sizes = options.sizes or [300, 38_000]
    if options.relay:
        return [Workload(size) for size in sizes]
    latencies = options.latency or [0.0, 0.02]
    if server_name() == "aiosmtpd" and any(latencies):
        if options.latency:
            raise UsageError("--latency needs the compiled backend: aiosmtpd cannot delay bytes")
        latencies = [0.0]
    return [
        Workload(size, recipients, latency)
        for latency, size, recipients in product(latencies, sizes, options.recipients or [1, 10])
    ]


def _against_local_server(
    options: argparse.Namespace,
    modes: Sequence[Pipelining],
    workloads: Sequence[Workload],
    found: list[Any],
) -> None:
    competitors = (4 if options.connections > 1 else 2) + len(modes)
    seconds = options.seconds / (len(workloads) * competitors * (ROUNDS + _TRIAL))
    steps = len(workloads) * competitors * (ROUNDS + 1)
    with display.progress(["measuring"], steps) as (bar,):
        for latency, group in groupby(workloads, key=lambda workload: workload.latency):
            with local_server(latency) as url:
                for workload in group:
                    to = [f"r{number}@example.com" for number in range(workload.recipients)]
                    source = MessageSource("bench@example.com", to, workload.size)
                    with _competitors(options, url, modes) as ready:
                        found += measure_by_time(workload, ready, source, seconds, bar.advance)


def _against_relay(
    options: argparse.Namespace,
    modes: Sequence[Pipelining],
    workloads: Sequence[Workload],
    found: list[Any],
) -> None:
    sender = options.sender or options.to
    competitors = (4 if options.connections > 1 else 2) + len(modes)
    total = options.messages * competitors * len(workloads)
    sizes = " and ".join(str(workload).partition(",")[0] for workload in workloads)
    relay = parse_relay(options.relay, mechanisms=_backend.sasl_mechanisms()).name
    _print_notice(
        options,
        f"sending {total} messages of {sizes} to {options.to} through {relay}, from {sender}:\n"
        f"{options.messages} of each size with each of {competitors} competitors",
    )
    steps = len(workloads) * competitors * (min(ROUNDS, options.messages - 1) + 1)
    with display.progress(["measuring"], steps) as (bar,):
        for workload in workloads:
            source = MessageSource(sender, [options.to], workload.size, distinct=None)
            with _competitors(options, options.relay, modes) as ready:
                found += measure_by_count(workload, ready, source, options.messages, bar.advance)


@contextmanager
def _competitors(
    options: argparse.Namespace, url: str, modes: Sequence[Pipelining]
) -> Iterator[list[Competitor]]:
    competitors = message_competitors(
        url,
        modes,
        connections=options.connections,
        window=options.window,
        tls=shared.tls_settings(options) if options.relay else None,
        allow_plaintext_auth=options.allow_plaintext_auth,
    )
    try:
        yield competitors
    finally:
        for each in competitors:
            each.close()


@contextmanager
def _plot_file(path: str | None) -> Iterator[Callable[[str], object]]:
    """Open the file of --plot, and yield a function that writes the drawing.

    The file is opened before the measurement, so that a wrong path is reported early. The previous
    content of the file stays until the new drawing is written.
    """
    if path is None:
        yield lambda drawing: None
        return
    try:
        with open_for_writing(path, "--plot", private=False) as file:
            yield lambda drawing: truncate(file).write(drawing)
    except OSError as error:
        raise UsageError(f"--plot {path}: {error.strerror}") from None


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _conditions(name: str) -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return (
        f"rapidsmtp {rapidsmtp.__version__} ({_backend.implementation} backend), {python}, "
        f"{_cpus()} CPUs; server: {name}"
    )


def _print_notice(options: argparse.Namespace, text: str) -> None:
    stream = sys.stderr if options.json else sys.stdout
    display.show(text, stream=stream)


def _print(found: Sequence[Measurement], refused: int) -> None:
    rows = []
    for workload, group in groupby(found, key=lambda each: each.workload):
        for number, each in enumerate(group):
            digits = 0 if each.per_second >= 100 else 1
            least, most = min(each.rounds, default=0.0), max(each.rounds, default=0.0)
            spread = f"{least:.{digits}f}\N{EN DASH}{most:.{digits}f}"
            figures = [f"{each.per_second:.{digits}f}", spread, f"{each.ratio:.1f}"]
            message = "" if number else str(workload)
            rows.append([message, each.name, str(each.connections), *figures])
    display.table(
        f"medians of up to {ROUNDS} turns each, and the slowest and the fastest turn",
        [
            "message",
            "by",
            "connections",
            "messages per second",
            "min\N{EN DASH}max",
            "times smtplib",
        ],
        rows,
    )
    if rows:
        display.show(
            "smtplib and the drop-in call sendmail() for one message after the other, over one\n"
            "connection or over one connection in each thread. Sender.send() receives all\n"
            'messages at once. "times smtplib" compares with smtplib over the same number of\n'
            "connections. The time to open the connections is not measured."
        )
    if refused:
        display.show(f"{refused} messages were not accepted; the table does not count them.")


def _as_dict(
    options: argparse.Namespace, found: Sequence[Measurement], name: str, interrupted: bool
) -> dict[str, Any]:
    return {
        "rapidsmtp": rapidsmtp.__version__,
        "backend": _backend.implementation,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cpus": _cpus(),
        "server": name,
        "connections": options.connections,
        "window": options.window,
        "interrupted": interrupted,
        "results": [
            {
                "size": each.workload.size,
                "recipients": each.workload.recipients,
                "round_trip_seconds": 2 * each.workload.latency,
                "by": each.name,
                "connections": each.connections,
                "messages": each.messages,
                "not_accepted": each.refused,
                "messages_per_second": round(each.per_second, 1),
                "turns": [round(rate, 1) for rate in each.rounds],
                "min": round(min(each.rounds, default=0.0), 1),
                "max": round(max(each.rounds, default=0.0), 1),
                "times_smtplib": round(each.ratio, 2),
            }
            for each in found
        ],
    }
