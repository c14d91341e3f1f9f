"""CPython's tests of smtplib, run with the drop-in: tests that pass with smtplib must pass here.

Each backend replaces smtplib in two ways: as a module and by `install()`. Each way runs with two
servers: the test server unchanged, and the test server with PIPELINING in its EHLO reply. The
baseline is smtplib itself with the same server. The tests are those of the interpreter that runs
pytest.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

import conformance
import processes
from conformance import Report, Setting

# These tests compare the whole EHLO reply. Every client fails them if the test server adds
# PIPELINING.
FIXED_TO_THE_SERVER = {
    "test.test_smtplib.DebuggingServerTests.testELHO",
    "test.test_smtplib.SMTPSimTests.testEHLO",
}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("test") is None
    or importlib.util.find_spec("test.test_smtplib") is None,
    reason="this interpreter comes without CPython's own test.test_smtplib",
)


@pytest.fixture(scope="module", params=[False, True], ids=["as-it-is", "pipelining"])
def pipelining(request: pytest.FixtureRequest) -> bool:
    """Return whether the test server supports PIPELINING."""
    return bool(request.param)


@pytest.fixture(scope="module")
def baseline(pipelining: bool, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Return the report of a run with smtplib itself."""
    setting = Setting(pipelining=pipelining)
    report = conformance.run(setting, tmp_path_factory.mktemp("baseline"))
    assert report.abort_reason == ""
    return report


def test_the_baseline_is_complete(baseline: Report, pipelining: bool) -> None:
    failed = {
        test: outcome
        for test, outcome in baseline.outcomes.items()
        if outcome not in (conformance.PASSED, conformance.SKIPPED)
    }
    assert set(failed) == (FIXED_TO_THE_SERVER if pipelining else set()), failed
    assert len(baseline.passed()) > 60


@pytest.mark.parametrize("backend", [pytest.param("rust", marks=pytest.mark.rust), "python"])
@pytest.mark.parametrize("install", [False, True], ids=["as-module", "install"])
def test_tests_that_pass_with_smtplib_pass_with_rapidsmtp(
    backend: str, install: bool, pipelining: bool, baseline: Report, tmp_path: Path
) -> None:
    setting = Setting("rapidsmtp", core=backend, install=install, pipelining=pipelining)
    report = conformance.run(setting, tmp_path)
    missed = [f"{test}: {outcome}" for test, outcome in report.missed(baseline).items()]
    if missed or report.abort_reason:
        pytest.fail("\n  ".join([report.abort_reason, *missed]), pytrace=False)
    # The client must use PIPELINING exactly if the server supports it. A flight is a read of the
    # server that contains several commands.
    assert (report.flights > 0) == pipelining


# Tests of the runner: a runner that reports every test as passed would hide all failures.


def replacement(folder: Path, name: str, body: str) -> Setting:
    """Write a module that is smtplib with the changes in `body`."""
    copied = "{name: value for name, value in vars(smtplib).items() if name[:2] != '__'}"
    text = f"import os, smtplib, time\nglobals().update({copied})\n{body}\n"
    (folder / f"{name}.py").write_text(text)
    return Setting(name)


def test_a_wrong_return_value_is_reported(tmp_path: Path) -> None:
    body = "class SMTP(SMTP):\n    def noop(self): return (251, super().noop()[1])"
    report = conformance.run(replacement(tmp_path, "wrong", body), tmp_path, path=str(tmp_path))
    noop = report.outcomes["test.test_smtplib.DebuggingServerTests.testNOOP"]
    assert noop.startswith("AssertionError")
    assert report.outcomes["test.test_smtplib.DebuggingServerTests.testRSET"] == conformance.PASSED


def test_a_crash_fails_only_one_test(tmp_path: Path) -> None:
    body = "class SMTP(SMTP):\n    def vrfy(self, address): os._exit(3)"
    report = conformance.run(replacement(tmp_path, "crash", body), tmp_path, path=str(tmp_path))
    assert report.abort_reason == ""
    crashed = {test for test, outcome in report.outcomes.items() if outcome == "it crashed or hung"}
    assert crashed == {
        "test.test_smtplib.DebuggingServerTests.testVRFY",
        "test.test_smtplib.SMTPSimTests.testVRFY",
    }
    assert "test.test_smtplib.SMTPSimTests.test_with_statement" in report.outcomes


def test_a_blocked_test_ends_at_the_time_limit_of_the_run(tmp_path: Path) -> None:
    body = "class SMTP(SMTP):\n    def __init__(self, *a, **k): time.sleep(60)"
    setting = replacement(tmp_path, "hang", body)
    report = conformance.run(setting, tmp_path, path=str(tmp_path), limit=3)
    assert report.abort_reason == "stopped after 3 seconds"
    assert "it crashed or hung" in report.outcomes.values()


def test_a_module_on_the_other_backend_is_rejected(tmp_path: Path) -> None:
    replacement(tmp_path, "other", "implementation = 'python'")
    report = conformance.run(Setting("other", core="rust"), tmp_path, path=str(tmp_path))
    assert "it runs on python, not on rust" in report.abort_reason


def test_an_install_without_effect_is_rejected(tmp_path: Path) -> None:
    replacement(tmp_path, "idle", "class SMTP(SMTP): pass\ndef install(): pass")
    report = conformance.run(Setting("idle", install=True), tmp_path, path=str(tmp_path))
    assert "after install() smtplib.SMTP is not idle's" in report.abort_reason


GLUED = """
import socket, threading, time
import conformance
from test import test_smtplib
conformance.add_pipelining(test_smtplib)
flights = conformance.count_flights(test_smtplib)
started, done = threading.Event(), threading.Event()
for kind in (test_smtplib.SimSMTPServer, test_smtplib.smtpd.SMTPServer):
    server = kind(("127.0.0.1", 0), ("nowhere", -1), decode_data=True)
    server.process_message = lambda *arguments, **more: None
    started.clear()
    done.clear()
    port = server.socket.getsockname()[1]
    arguments = (server, started, done)
    thread = threading.Thread(target=test_smtplib.debugging_server, args=arguments)
    thread.start()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        replies = client.makefile("rb")
        replies.readline()
        client.sendall(b"EHLO here\\r\\n")
        while not (line := replies.readline()).startswith(b"250 "):
            print(line.decode().strip())
        client.sendall(b"MAIL FROM:<a@b>\\r\\nRCPT TO:<c@d>\\r\\nRCPT TO\\r\\nDATA\\r\\n")
        codes = [replies.readline()[:3].decode() for _ in range(4)]
        client.sendall(b"Subject: x\\r\\n\\r\\n.\\r\\nQUIT\\r\\n")
        print(*codes, *[replies.readline()[:3].decode() for _ in range(2)])
    done.set()
    thread.join()
print(flights(), "flights")
"""


def test_the_server_supports_pipelining_and_receives_commands_together() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(conformance.__file__).parent)}
    said = processes.run(
        [sys.executable, "-W", "ignore", "-c", GLUED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.splitlines()
    assert said.count("250-PIPELINING") == 2
    assert said.count("250 250 501 354 250 221") == 2
    # Only flights of commands are counted. The message arrives in the DATA state, so it is not
    # counted.
    assert said[-1] == "2 flights"
