"""What the benchmarks share: a sink in a process of its own, pinning, and the comparison.

Loopback with two waits a mail is bound by the kernel's wake-ups, so client and sink share one
CPU; and these machines are noisy, so smtplib and rapidsmtp take turns, round by round, and the
ratio is that of the medians.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sinks import start_sink

from rapidsmtp import _core

ROUNDS = 15
# Of those who send many messages each time.
TURNS = 3


class Comparison:
    """Times ours and smtplib's way of the same work in turns, and notes the ratio."""

    def __init__(self, benchmark: Any) -> None:
        self._benchmark = benchmark

    def __call__(
        self,
        theirs: Callable[..., object],
        ours: Callable[..., object],
        *,
        calls: int,
        make: Callable[[], object] | None = None,
    ) -> None:
        """Run both.

        Args:
            theirs: one piece of work, by smtplib or whoever is to be beaten.
            ours: the same by rapidsmtp.
            calls: pieces of work in a round.
            make: makes what both take, anew for each piece; the time that it takes is not counted.
        """
        wall: list[float] = []
        cpu: list[float] = []
        own_cpu: list[float] = []

        def taken() -> list[tuple[object, ...]]:
            return [() if make is None else (make(),) for _ in range(calls)]

        def their_round() -> tuple[tuple[Any, ...], dict[str, Any]]:
            arguments = taken()
            begin, cpu_begin = time.perf_counter(), time.process_time()
            for each in arguments:
                theirs(*each)
            wall.append((time.perf_counter() - begin) / calls)
            cpu.append((time.process_time() - cpu_begin) / calls)
            return (taken(),), {}

        def our_round(arguments: list[tuple[object, ...]]) -> None:
            cpu_begin = time.process_time()
            for each in arguments:
                ours(*each)
            own_cpu.append((time.process_time() - cpu_begin) / calls)

        self._benchmark.pedantic(our_round, setup=their_round, rounds=ROUNDS, warmup_rounds=1)
        own = self._benchmark.stats.stats.median / calls
        other = statistics.median(wall)
        self._benchmark.extra_info.update(
            half=_core.implementation,
            microseconds=round(own * 1e6, 2),
            smtplib_microseconds=round(other * 1e6, 2),
            ratio=round(other / own, 2),
            cpu_microseconds=round(statistics.median(own_cpu) * 1e6, 2),
            smtplib_cpu_microseconds=round(statistics.median(cpu) * 1e6, 2),
        )


@pytest.fixture(params=["rust", "python"])
def half(request: pytest.FixtureRequest) -> Iterator[str]:
    """The half of the core that is measured."""
    before = _core.implementation
    _core.use(request.param)
    yield request.param
    _core.use(before)


@pytest.fixture
def compare(benchmark: Any) -> Comparison:
    return Comparison(benchmark)


@pytest.fixture(scope="session", autouse=True)
def pinned() -> Iterator[None]:
    """Client and sink on one CPU: what is measured is work, not the waking of another CPU."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def sink() -> Iterator[int]:
    """The port of a sink that keeps nothing."""
    process, port = start_sink(0)
    yield port
    process.communicate("")


@pytest.fixture(scope="session")
def distant_sink() -> Iterator[int]:
    """The port of a sink that is 20 ms away, each way."""
    process, port = start_sink(0.02)
    yield port
    process.communicate("")


# Many messages


@pytest.fixture(params=["1-CPU", "2-CPUs"])
def cpus(request: pytest.FixtureRequest, pinned: None) -> Iterator[str]:
    """Client and sink together on one CPU, or on all of them."""
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
def table(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Runs rivals in turns and notes what each took for a message."""

    def run(rivals: dict[str, Callable[[], Any]], *, rounds: int = TURNS) -> None:
        taken: dict[str, list[Any]] = {name: [] for name in rivals}

        def turn() -> None:
            for name, rival in rivals.items():
                taken[name].append(rival())

        benchmark.pedantic(turn, rounds=rounds)
        benchmark.extra_info["rivals"] = {
            name: {
                "wall": statistics.median(each.wall for each in spent),
                "cpu": statistics.median(each.cpu for each in spent),
            }
            for name, spent in taken.items()
        }

    return run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The tables that people want to see: ratios first."""
    session = getattr(config, "_benchmarksession", None)
    write = terminalreporter.write_line
    for table, key in ((_calls, "ratio"), (_rivals, "rivals"), (_facts, "facts")):
        rows = [bench for bench in getattr(session, "benchmarks", ()) if key in bench.extra_info]
        if rows:
            write("")
            table(write, rows)


def _calls(write: Callable[[str], None], rows: list[Any]) -> None:
    write(
        f"{'work':58} {'half':7} {'smtplib':>10} {'rapidsmtp':>10} {'ratio':>7}"
        "   CPU: smtplib, ours"
    )
    for bench in rows:
        info = bench.extra_info
        write(
            f"{bench.name.removeprefix('test_'):58} {info['half']:7}"
            f" {info['smtplib_microseconds']:7.1f} us {info['microseconds']:7.1f} us"
            f" {info['ratio']:7.2f}   {info['smtplib_cpu_microseconds']:.1f},"
            f" {info['cpu_microseconds']:.1f} us"
        )


def _rivals(write: Callable[[str], None], rows: list[Any]) -> None:
    """Messages a second by each, and what the first is beaten by; CPU of the client alone."""
    names = ("smtplib", "aiosmtplib", "smtp-source", "bare loop", "Sender", "rapidsmtp")
    columns = "".join(f" {name + '/s':>13}" for name in names)
    write(f"{'work':52}{columns} {'ratio':>7}   CPU a message: theirs, ours")
    for bench in rows:
        rivals = bench.extra_info["rivals"]
        rates = (f"{1 / rivals[name]['wall']:13,.0f}" if name in rivals else "" for name in names)
        theirs = next(rivals[name] for name in names if name in rivals)
        ours = rivals["rapidsmtp"]
        write(
            f"{bench.name.removeprefix('test_'):52}"
            + "".join(f" {rate:>13}" for rate in rates)
            + f" {theirs['wall'] / ours['wall']:7.1f}"
            + f"   {theirs['cpu'] * 1e6:.1f}, {ours['cpu'] * 1e6:.1f} us"
        )


def _facts(write: Callable[[str], None], rows: list[Any]) -> None:
    for bench in rows:
        facts = ", ".join(f"{name}: {value:,}" for name, value in bench.extra_info["facts"].items())
        write(f"{bench.name.removeprefix('test_'):52} {facts}")
