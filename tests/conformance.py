"""Run CPython's tests of smtplib with another module instead of smtplib.

The tests are `test.test_smtplib` of the interpreter that runs this file. These tests define the
behaviour of smtplib, so a drop-in must pass them. They run in a separate process for two reasons:
the module is replaced before they are imported, and a blocked or crashed test must not end the
whole run.

`test_conformance.py` calls `run`, which executes this file as a script in that process.
"""

import faulthandler
import functools
import importlib
import json
import os
import subprocess
import sys
import time
import unittest
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import processes

SECONDS_PER_TEST = 30
SECONDS_PER_RUN = 240

PASSED = "passed"
SKIPPED = "skipped"


@dataclass(frozen=True)
class Setting:
    """The settings of a run: the module that replaces smtplib, and the way to replace it.

    Attributes:
        module: The name of the module. It is `smtplib` for the baseline.
        core: The backend that the module must use. It is empty for the baseline.
        install: Whether `install()` of the module is called. If false, the module itself replaces
            smtplib in `sys.modules`.
        pipelining: Whether every EHLO reply of the test server contains PIPELINING (RFC 2920).
    """

    module: str = "smtplib"
    core: str = ""
    install: bool = False
    pipelining: bool = False


@dataclass
class Report:
    """The results of a run.

    Attributes:
        outcomes: For each test id: `passed`, `skipped` or the text of the failure.
        flights: The number of reads in which the server received more than one command.
        abort_reason: The reason for an early end of the run. It is empty if every test has an
            outcome.
    """

    outcomes: dict[str, str] = field(default_factory=dict)
    flights: int = 0
    abort_reason: str = ""

    def passed(self) -> set[str]:
        """Return the ids of the tests that passed."""
        return {test for test, outcome in self.outcomes.items() if outcome == PASSED}

    def missed(self, baseline: "Report") -> dict[str, str]:
        """Return the tests that passed in the baseline but not in this run, with the reasons."""
        missed = sorted(baseline.passed() - self.passed())
        reasons = {test: self.outcomes[test] for test in missed if test in self.outcomes}
        if len(reasons) < len(missed):
            reasons[f"{len(missed) - len(reasons)} tests"] = "they did not run"
        return reasons


# The parent process starts the test processes and reads their logs.


def run(setting: Setting, folder: Path, path: str = "", limit: float = SECONDS_PER_RUN) -> Report:
    """Run all tests of `test.test_smtplib` under a setting.

    Args:
        setting: The module to test and the way to replace smtplib.
        folder: An empty folder for the logs.
        path: The folder of the module, if the module is not installed in this interpreter.
        limit: The time limit of the whole run, in seconds.
    """
    report = Report()
    deadline = time.monotonic() + limit
    while True:
        known = len(report.outcomes)
        log = folder / f"{known}.log"
        status = _process(setting, log, path, sorted(report.outcomes), deadline)
        ended = _read(log, report)
        if ended:
            return report
        if time.monotonic() >= deadline:
            report.abort_reason = f"stopped after {limit} seconds"
            return report
        if len(report.outcomes) == known:
            said = log.with_suffix(".txt").read_text(errors="replace").strip()
            report.abort_reason = f"exit status {status}: {said[-800:]}"
            return report


def _process(setting: Setting, log: Path, path: str, done: list[str], deadline: float) -> int:
    environment = {name: value for name, value in os.environ.items() if name[:6] != "PYTHON"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "RAPIDSMTP_CORE": setting.core or "auto"}
    if path:
        environment["PYTHONPATH"] = path
    arguments = json.dumps({"setting": asdict(setting), "log": str(log), "done": done})
    with log.with_suffix(".txt").open("wb") as output:
        process = processes.start(
            [sys.executable, __file__, arguments],
            cwd=log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            return process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return -1
        finally:
            process.kill()
            process.wait()


def _read(log: Path, report: Report) -> bool:
    """Add the log of a process to the report, and return whether the process ran to its end."""
    running = ""
    ended = False
    for line in log.read_text().splitlines() if log.exists() else ():
        match json.loads(line):
            case {"start": test}:
                running = test
            case {"test": test, "outcome": outcome}:
                report.outcomes[test] = outcome
                running = ""
            case {"flights": flights}:
                report.flights += flights
                ended = True
    if running:
        report.outcomes[running] = "it crashed or hung"
    return ended


# The test process.


class Recorder(unittest.TestResult):
    """A test result that writes each start and each outcome to the log before the test goes on."""

    def __init__(self, log: TextIO) -> None:
        super().__init__()
        self.log = log
        self.outcome = PASSED

    def write(self, **event: object) -> None:
        print(json.dumps(event), file=self.log, flush=True)

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.outcome = PASSED
        self.write(start=test.id())
        faulthandler.dump_traceback_later(SECONDS_PER_TEST, exit=True)

    def stopTest(self, test: unittest.TestCase) -> None:
        faulthandler.cancel_dump_traceback_later()
        self.write(test=test.id(), outcome=self.outcome)
        super().stopTest(test)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self.outcome = SKIPPED

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self.outcome = _error_line(err)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self.outcome = _error_line(err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.outcome = _error_line(err)


def _error_line(err: Any) -> str:
    return f"{err[0].__name__}: {str(err[1])[:500]}"


def replace_smtplib(setting: Setting) -> None:
    """Import the module under test and make `import smtplib` return it.

    Raises:
        RuntimeError: The module uses another backend, or `install()` did not replace smtplib's
            classes.
    """
    module = importlib.import_module(setting.module)
    if setting.core and module.implementation != setting.core:
        raise RuntimeError(f"it runs on {module.implementation}, not on {setting.core}")
    if not setting.install:
        sys.modules["smtplib"] = module
        return
    module.install()
    import smtplib

    for name in ("SMTP", "SMTP_SSL", "LMTP"):
        if getattr(smtplib, name) is not getattr(module, name):
            raise RuntimeError(f"after install() smtplib.{name} is not {setting.module}'s")


def add_pipelining(tests: ModuleType) -> None:
    """Add PIPELINING to the EHLO reply of every channel class of the test server."""
    channels = [tests.smtpd.SMTPChannel]
    channels += [each for each in vars(tests).values() if _is_channel(each, channels[0])]
    for channel in channels:
        if "smtp_EHLO" in vars(channel):
            channel.smtp_EHLO = _with_pipelining(channel.smtp_EHLO)


def _is_channel(value: object, channel: type) -> bool:
    return isinstance(value, type) and issubclass(value, channel) and value is not channel


def _with_pipelining(original: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    @functools.wraps(original)
    def smtp_EHLO(self: Any, argument: str) -> None:
        lines: list[str] = []
        self.push = lambda text: lines.extend(text.split("\r\n"))
        try:
            original(self, argument)
        finally:
            del self.push
        if lines[-1].startswith("250 "):
            lines.insert(-1, "250-PIPELINING")
        self.push("\r\n".join(lines))

    return smtp_EHLO


def count_flights(tests: ModuleType) -> Callable[[], int]:
    """Begin to count the reads that contain several commands; return a function for the count."""
    channel = tests.smtpd.SMTPChannel
    original = channel.recv
    flights = 0

    @functools.wraps(original)
    def recv(self: Any, size: int) -> bytes:
        nonlocal flights
        received: bytes = original(self, size)
        if self.smtp_state == self.COMMAND and received.count(b"\r\n") > 1:
            flights += 1
        return received

    channel.recv = recv
    return lambda: flights


def each_test(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from each_test(item)
        else:
            yield item


def main(setting: Setting, log: Path, done: set[str]) -> None:
    replace_smtplib(setting)
    # The tests import smtplib, so they are imported after the replacement. Their time limits are
    # those of `test.support`, such as `LOOPBACK_TIMEOUT`.
    tests = importlib.import_module("test.test_smtplib")
    if setting.pipelining:
        add_pipelining(tests)
    flights = count_flights(tests)
    everything = each_test(unittest.defaultTestLoader.loadTestsFromModule(tests))
    suite = unittest.TestSuite(test for test in everything if test.id() not in done)
    with log.open("w") as file:
        recorder = Recorder(file)
        suite.run(recorder)
        recorder.write(flights=flights())


if __name__ == "__main__":
    faulthandler.enable()
    given = json.loads(sys.argv[1])
    main(Setting(**given["setting"]), Path(given["log"]), set(given["done"]))
