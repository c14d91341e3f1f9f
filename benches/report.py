"""The results of the benchmarks as text for the terminal and as a Markdown page.

A benchmark records one of three kinds of results in its `extra_info`: its times and their ratio to
smtplib's, the times per message of several competitors, or other facts.
"""

import ast
import os
import platform
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import rapidsmtp
from rapidsmtp import _backend

COMPETITORS = ("smtplib", "aiosmtplib", "smtp-source", "bare loop", "Sender", "rapidsmtp")

_HEAD = """\
<!-- `make bench` writes this page. The next run replaces it, so do not edit it by hand. -->
# Benchmarks

`make bench` writes this page. [Performance](concepts/performance.md) explains how the figures are \
measured and what they mean.

| date | CPU | Python | rapidsmtp | implementation |
| --- | --- | --- | --- | --- |
| {date} | {cpu} | {python} | {version} | {implementation} |

All figures are medians. rapidsmtp and its competitors ran in turns. "ratio" is \
the speed of rapidsmtp relative to the first program of the row. Each row is a test in `benches/`.
"""


def write_summary(benchmarks: list[Any], write: Callable[[str], None]) -> None:
    """Write the tables to the terminal.

    Args:
        benchmarks: The benchmarks of pytest-benchmark's session.
        write: The function that writes one line to the terminal.
    """
    for lines, key in ((_calls, "ratio"), (_bulk, "competitors"), (_facts, "facts")):
        rows = [each for each in benchmarks if key in each.extra_info]
        if rows:
            write("")
            for line in lines(rows):
                write(line)


def write_report(benchmarks: list[Any], file: Path) -> None:
    """Write the tables as a Markdown page, with one section for each module of benchmarks.

    Args:
        benchmarks: The benchmarks of pytest-benchmark's session.
        file: The page. An existing page is replaced.
    """
    page = [
        _HEAD.format(
            date=date.today().isoformat(),
            cpu=_cpu(),
            python=f"{platform.python_implementation()} {platform.python_version()}",
            version=rapidsmtp.__version__,
            implementation=_backend.implementation,
        )
    ]
    modules: dict[str, list[Any]] = {}
    for each in benchmarks:
        modules.setdefault(each.fullname.partition("::")[0], []).append(each)
    for path, rows in modules.items():
        tables = [
            "\n".join(lines(chosen)) + "\n"
            for lines, key in (
                (_calls_table, "ratio"),
                (_bulk_table, "competitors"),
                (_facts_table, "facts"),
            )
            if (chosen := [each for each in rows if key in each.extra_info])
        ]
        if tables:
            module = Path(path)
            page.append(
                f"## `{module.stem.removeprefix('test_')}`\n\n{_description(module.name)}\n"
            )
            page += tables
    file.write_text("\n".join(page), encoding="utf-8")


def _cpu() -> str:
    """Return the model and the number of CPUs."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
        model = next((value.strip() for name, _, value in lines if "model name" in name), model)
    return f"{model}, {os.cpu_count()} CPUs"


def _description(file: str) -> str:
    """Return the first paragraph of the docstring of a benchmark module."""
    module = ast.parse(Path(__file__).with_name(file).read_text(encoding="utf-8"))
    text = ast.get_docstring(module) or ""
    return " ".join(text.partition("\n\n")[0].split())


def _name(bench: Any) -> str:
    return bench.name.removeprefix("test_")


# Calls: benchmarks in which rapidsmtp and smtplib do the same work


def _calls(rows: list[Any]) -> Iterator[str]:
    yield (
        f"{'work':58} {'backend':7} {'smtplib':>10} {'rapidsmtp':>10} {'ratio':>7}"
        "   CPU: smtplib, rapidsmtp"
    )
    for bench in rows:
        info = bench.extra_info
        yield (
            f"{_name(bench):58} {info['backend']:7}"
            f" {info['smtplib_microseconds']:7.1f} us {info['microseconds']:7.1f} us"
            f" {info['ratio']:7.2f}   {info['smtplib_cpu_microseconds']:.1f},"
            f" {info['cpu_microseconds']:.1f} us"
        )


def _calls_table(rows: list[Any]) -> Iterator[str]:
    yield "| work | backend | smtplib | rapidsmtp | ratio |"
    yield "| --- | --- | --- | --- | --- |"
    for bench in rows:
        info = bench.extra_info
        yield (
            f"| {_cell(bench)} | {info['backend']} | {info['smtplib_microseconds']:,.1f} µs"
            f" | {info['microseconds']:,.1f} µs | {info['ratio']:.2f} |"
        )


# Bulk: the messages per second of each competitor. The ratio is the speed of rapidsmtp, relative to
# the first competitor of the row.


def _bulk(rows: list[Any]) -> Iterator[str]:
    columns = "".join(f" {name + '/s':>13}" for name in COMPETITORS)
    yield f"{'work':52}{columns} {'ratio':>7}   CPU per message: first, rapidsmtp"
    for bench in rows:
        rates, first, own = _rates(bench)
        yield (
            f"{_name(bench):52}"
            + "".join(f" {rate:>13}" for rate in rates)
            + f" {first['wall'] / own['wall']:7.1f}"
            + f"   {first['cpu'] * 1e6:.1f}, {own['cpu'] * 1e6:.1f} us"
        )


def _bulk_table(rows: list[Any]) -> Iterator[str]:
    yield f"| messages per second | backend | {' | '.join(COMPETITORS)} | ratio |"
    yield "|" + " --- |" * (len(COMPETITORS) + 3)
    for bench in rows:
        rates, first, own = _rates(bench)
        yield (
            f"| {_cell(bench)} | {bench.extra_info['backend']} | {' | '.join(rates)}"
            f" | {first['wall'] / own['wall']:.1f} |"
        )


def _rates(bench: Any) -> tuple[list[str], dict[str, float], dict[str, float]]:
    """Return the rates of all competitors, and the times of the first competitor and rapidsmtp."""
    times = bench.extra_info["competitors"]
    rates = [f"{1 / times[name]['wall']:,.0f}" if name in times else "" for name in COMPETITORS]
    first = next(times[name] for name in COMPETITORS if name in times)
    return rates, first, times["rapidsmtp"]


# Facts: benchmarks with other results, such as memory or round trips


def _facts(rows: list[Any]) -> Iterator[str]:
    for bench in rows:
        facts = ", ".join(f"{name}: {value:,}" for name, value in bench.extra_info["facts"].items())
        yield f"{_name(bench):52} {facts}"


def _facts_table(rows: list[Any]) -> Iterator[str]:
    yield "| work | measured | value |"
    yield "| --- | --- | --- |"
    for bench in rows:
        for name, value in bench.extra_info["facts"].items():
            yield f"| {_cell(bench)} | {name.replace('_', ' ')} | {value:,} |"


def _cell(bench: Any) -> str:
    """Return the name of a benchmark without its backend, which has its own column."""
    test, _, parameters = _name(bench).removesuffix("]").partition("[")
    rest = "-".join(each for each in parameters.split("-") if each not in ("rust", "python"))
    return f"`{test}[{rest}]`" if rest else f"`{test}`"
