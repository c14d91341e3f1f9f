"""CPython's own tests of smtplib, over the drop-in: what passes over smtplib passes over ours.

Each half of the core is put in smtplib's place twice over: as the module itself and by
`install()`, and each of these with the test server as it is and with PIPELINING in its reply to
EHLO. The baseline is smtplib itself under the same server. The tests are those of the interpreter
that runs pytest.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import conformance
from conformance import Report, Setting

# They compare the whole reply to EHLO, so over a server that offers more no client can pass them.
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
    """Whether the test server offers PIPELINING."""
    return bool(request.param)


@pytest.fixture(scope="module")
def baseline(pipelining: bool, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The run over smtplib itself."""
    setting = Setting(pipelining=pipelining)
    report = conformance.run(setting, tmp_path_factory.mktemp("baseline"))
    assert report.trouble == ""
    return report


def test_the_baseline_is_whole(baseline: Report, pipelining: bool) -> None:
    failed = {
        test: outcome
        for test, outcome in baseline.outcomes.items()
        if outcome not in (conformance.PASSED, conformance.SKIPPED)
    }
    assert set(failed) == (FIXED_TO_THE_SERVER if pipelining else set()), failed
    assert len(baseline.passed()) > 60


@pytest.mark.parametrize("half", [pytest.param("rust", marks=pytest.mark.rust), "python"])
@pytest.mark.parametrize("install", [False, True], ids=["as-module", "install"])
def test_what_passes_over_smtplib_passes_over_rapidsmtp(
    half: str, install: bool, pipelining: bool, baseline: Report, tmp_path: Path
) -> None:
    setting = Setting("rapidsmtp", core=half, install=install, pipelining=pipelining)
    report = conformance.run(setting, tmp_path)
    missed = [f"{test}: {outcome}" for test, outcome in report.missed(baseline).items()]
    if missed or report.trouble:
        pytest.fail("\n  ".join([report.trouble, *missed]), pytrace=False)
    # Where the server offers it, envelopes do go out in one flight; elsewhere never.
    assert (report.flights > 0) == pipelining


# The judge is judged as well: a runner that lets everything pass would be worse than none.


def stand_in(folder: Path, name: str, body: str) -> Setting:
    """Write a module that is smtplib but for `body`."""
    copied = "{name: value for name, value in vars(smtplib).items() if name[:2] != '__'}"
    text = f"import os, smtplib, time\nglobals().update({copied})\n{body}\n"
    (folder / f"{name}.py").write_text(text)
    return Setting(name)


def test_a_wrong_answer_is_seen(tmp_path: Path) -> None:
    body = "class SMTP(SMTP):\n    def noop(self): return (251, super().noop()[1])"
    report = conformance.run(stand_in(tmp_path, "wrong", body), tmp_path, path=str(tmp_path))
    noop = report.outcomes["test.test_smtplib.DebuggingServerTests.testNOOP"]
    assert noop.startswith("AssertionError")
    assert report.outcomes["test.test_smtplib.DebuggingServerTests.testRSET"] == conformance.PASSED


def test_a_crash_costs_one_test(tmp_path: Path) -> None:
    body = "class SMTP(SMTP):\n    def vrfy(self, address): os._exit(3)"
    report = conformance.run(stand_in(tmp_path, "crash", body), tmp_path, path=str(tmp_path))
    assert report.trouble == ""
    crashed = {test for test, outcome in report.outcomes.items() if outcome == "it crashed or hung"}
    assert crashed == {
        "test.test_smtplib.DebuggingServerTests.testVRFY",
        "test.test_smtplib.SMTPSimTests.testVRFY",
    }
    assert "test.test_smtplib.SMTPSimTests.test_with_statement" in report.outcomes


def test_a_hang_ends_with_the_run(tmp_path: Path) -> None:
    body = "class SMTP(SMTP):\n    def __init__(self, *a, **k): time.sleep(60)"
    setting = stand_in(tmp_path, "hang", body)
    report = conformance.run(setting, tmp_path, path=str(tmp_path), limit=3)
    assert report.trouble == "stopped after 3 seconds"
    assert "it crashed or hung" in report.outcomes.values()


def test_a_module_on_the_other_half_is_refused(tmp_path: Path) -> None:
    stand_in(tmp_path, "other", "implementation = 'python'")
    report = conformance.run(Setting("other", core="rust"), tmp_path, path=str(tmp_path))
    assert "it runs on python, not on rust" in report.trouble


def test_an_install_that_does_nothing_is_refused(tmp_path: Path) -> None:
    stand_in(tmp_path, "idle", "class SMTP(SMTP): pass\ndef install(): pass")
    report = conformance.run(Setting("idle", install=True), tmp_path, path=str(tmp_path))
    assert "after install() smtplib.SMTP is not idle's" in report.trouble


GLUED = """
import socket, threading, time
import conformance
from test import test_smtplib
conformance.offer_pipelining(test_smtplib)
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


def test_the_server_offers_pipelining_and_takes_commands_together() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(conformance.__file__).parent)}
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GLUED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.splitlines()
    assert said.count("250-PIPELINING") == 2
    assert said.count("250 250 501 354 250 221") == 2
    # Seen twice each: the envelope, and nothing of the message (it comes in the state of DATA).
    assert said[-1] == "2 flights"
