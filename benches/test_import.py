"""The CPU time of `import rapidsmtp`, compared with `import smtplib`.

Each import runs in its own process. The CPU time of an interpreter that imports neither module is
subtracted, so the result contains only the import. The three programs run in turns, because the
speed of the machine varies. Python has cached the bytecode of the modules, as after an
installation.
"""

import os
import statistics
import subprocess
import sys
from typing import Any

import pytest

RUNS = 30
MAXIMUM_RATIO = 1.5
"""The maximum CPU time of `import rapidsmtp`, relative to `import smtplib`."""

PROGRAMS = {"bare": "pass", "smtplib": "import smtplib", "rapidsmtp": "import rapidsmtp"}


def cpu_seconds(program: str, backend: str) -> float:
    """Run a program and return the CPU time of its process, in seconds."""
    environment = os.environ | {"RAPIDSMTP_CORE": backend}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not count a child's CPU time")
@pytest.mark.parametrize("backend", ["rust", "python"])
def test_import(benchmark: Any, backend: str) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}

    def take_turns() -> None:
        for name, program in PROGRAMS.items():
            seconds[name].append(cpu_seconds(program, backend))

    benchmark.pedantic(take_turns, rounds=RUNS, warmup_rounds=1)
    median = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    own, other = (median[name] - median["bare"] for name in ("rapidsmtp", "smtplib"))
    benchmark.extra_info.update(
        backend=backend,
        microseconds=round(own * 1e6, 2),
        smtplib_microseconds=round(other * 1e6, 2),
        ratio=round(other / own, 2),
        cpu_microseconds=round(own * 1e6, 2),
        smtplib_cpu_microseconds=round(other * 1e6, 2),
    )
    if backend == "rust":
        assert own / other <= MAXIMUM_RATIO
