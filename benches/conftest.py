"""Fixtures of the benchmarks: a sink in its own process, CPU pinning, comparisons and the report.

The client waits twice for the sink while it sends one message. At the end of each wait, the kernel
wakes the client's thread. Client and sink share one CPU, so that the measurement does not include
the time to wake another CPU. The speed of the machine varies, so smtplib and rapidsmtp run in
turns: each round measures both. The ratio is computed from the median times of all rounds.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report import write_report, write_summary
from sinks import start_sink

from rapidsmtp import _backend

ROUNDS = 15
# The number of rounds in a benchmark whose rounds send many messages.
BULK_ROUNDS = 3


class Comparison:
    """A comparison of two competitors, which do the same work in turns."""

    def __init__(self, benchmark: Any) -> None:
        self._benchmark = benchmark

    def __call__(
        self,
        competitor: Callable[..., object],
        rapidsmtp: Callable[..., object],
        *,
        calls: int,
        make: Callable[[], object] | None = None,
    ) -> None:
        """Run the competitor and rapidsmtp in turns, and record the ratio of their times.

        Args:
            competitor: A function that does the work once, with smtplib or another competitor.
            rapidsmtp: A function that does the same work once, with rapidsmtp.
            calls: The number of calls of each competitor in one round.
            make: A function that creates the argument of each call, before the measurement.
        """
        wall: list[float] = []
        cpu: list[float] = []
        own_cpu: list[float] = []

        def make_arguments() -> list[tuple[object, ...]]:
            return [() if make is None else (make(),) for _ in range(calls)]

        def competitor_round() -> tuple[tuple[Any, ...], dict[str, Any]]:
            arguments = make_arguments()
            begin, cpu_begin = time.perf_counter(), time.process_time()
            for each in arguments:
                competitor(*each)
            wall.append((time.perf_counter() - begin) / calls)
            cpu.append((time.process_time() - cpu_begin) / calls)
            return (make_arguments(),), {}

        def rapidsmtp_round(arguments: list[tuple[object, ...]]) -> None:
            cpu_begin = time.process_time()
            for each in arguments:
                rapidsmtp(*each)
            own_cpu.append((time.process_time() - cpu_begin) / calls)

        self._benchmark.pedantic(
            rapidsmtp_round, setup=competitor_round, rounds=ROUNDS, warmup_rounds=1
        )
        own = self._benchmark.stats.stats.median / calls
        other = statistics.median(wall)
        self._benchmark.extra_info.update(
            backend=_backend.implementation,
            microseconds=round(own * 1e6, 2),
            smtplib_microseconds=round(other * 1e6, 2),
            ratio=round(other / own, 2),
            cpu_microseconds=round(statistics.median(own_cpu) * 1e6, 2),
            smtplib_cpu_microseconds=round(statistics.median(cpu) * 1e6, 2),
        )


@pytest.fixture(params=["rust", "python"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Select the backend that is measured, and return its name."""
    before = _backend.implementation
    _backend.use(request.param)
    yield request.param
    _backend.use(before)


@pytest.fixture
def compare(benchmark: Any) -> Comparison:
    return Comparison(benchmark)


@pytest.fixture(scope="session", autouse=True)
def pinned() -> Iterator[None]:
    """Pin client and sink to one CPU. The head of this file has the reason."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="session", autouse=True)
def collected() -> Iterator[None]:
    """Exclude pytest's own objects from garbage collections, because programs do not have them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def sink() -> Iterator[int]:
    """Start a sink that stores nothing, and return its port."""
    process, port = start_sink(0)
    yield port
    process.communicate("")


@pytest.fixture(scope="session")
def distant_sink() -> Iterator[int]:
    """Start a sink with a latency of 20 ms in each direction, and return its port."""
    process, port = start_sink(0.02)
    yield port
    process.communicate("")


# Many messages


@pytest.fixture(params=["1-CPU", "2-CPUs"])
def cpus(request: pytest.FixtureRequest, pinned: None) -> Iterator[str]:
    """Pin client and sink to one CPU, or to all CPUs."""
    if request.param == "1-CPU" or not hasattr(os, "sched_setaffinity"):
        yield request.param
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    yield request.param
    os.sched_setaffinity(0, before)


@pytest.fixture
def port(cpus: str) -> Iterator[int]:
    process, port = start_sink(0)
    yield port
    process.communicate("")


@pytest.fixture
def table(benchmark: Any) -> Callable[..., None]:
    """Return a function that runs competitors in turns and records their times per message."""

    def run(competitors: dict[str, Callable[[], Any]], *, rounds: int = BULK_ROUNDS) -> None:
        times: dict[str, list[Any]] = {name: [] for name in competitors}

        def turn() -> None:
            for name, competitor in competitors.items():
                times[name].append(competitor())

        benchmark.pedantic(turn, rounds=rounds)
        benchmark.extra_info["backend"] = _backend.implementation
        benchmark.extra_info["competitors"] = {
            name: {
                "wall": statistics.median(each.wall for each in spent),
                "cpu": statistics.median(each.cpu for each in spent),
            }
            for name, spent in times.items()
        }

    return run


# The report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-benchmarks",
        metavar="FILE",
        type=Path,
        help="write the results of the benchmarks to FILE, in Markdown",
    )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    benchmarks = list(getattr(session, "benchmarks", ()))
    write_summary(benchmarks, terminalreporter.write_line)
    file = config.getoption("--write-benchmarks")
    if file is None:
        return
    if not benchmarks:
        terminalreporter.write_line(f"{file} is not written: no benchmark ran")
        return
    write_report(benchmarks, file)
    terminalreporter.write_line(f"{file} is written")
