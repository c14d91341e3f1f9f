"""Nothing in rapidsmtp blocks the green threads of gevent and eventlet.

Each test runs a process of its own, because gevent and eventlet replace functions of the standard
library.
"""

import http.client
import importlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import processes
import rapidsmtp

SECONDS = 60.0
is_312 = sys.version_info[:2] == (3, 12)
TESTS = Path(__file__).parent
SCENARIOS = [
    "drop_in",
    "kept_connections",
    "sender",
    "unclosed_sender",
    "template",
    "django",
    "logging_handler",
    "telemetry",
]


def environment(backend: str, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(rapidsmtp.__file__).parent.parent), str(TESTS)])
    return {**os.environ, "PYTHONPATH": path, "RAPIDSMTP_CORE": backend, **more}


def run(backend: str, hub: str, scenario: str, *early: str) -> str:
    pytest.importorskip(hub, reason=f"{hub} is not installed for this Python")
    done = processes.run(
        [sys.executable, "-W", "ignore", "green_programs.py", hub, scenario, *early],
        cwd=TESTS,
        env=environment(backend),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return str(done.stdout)


@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_other_green_threads_run_while_a_relay_is_slow(
    backend: str, hub: str, scenario: str
) -> None:
    if (backend, hub, scenario) == ("python", "gevent", "unclosed_sender") and is_312:
        pytest.skip("gevent on Python 3.12 runs no new green thread at the end of the interpreter")
    output = run(backend, hub, scenario)
    assert output.startswith("done\n")
    if scenario == "unclosed_sender":
        assert output == "done\n1 accepted at the end\n"


@pytest.mark.parametrize("hub", ["gevent", "eventlet"])
@pytest.mark.parametrize("scenario", ["drop_in", "kept_connections", "sender"])
def test_rapidsmtp_may_be_imported_before_the_green_threads_are_activated(
    backend: str, hub: str, scenario: str
) -> None:
    """`rapidsmtp run` imports rapidsmtp before it runs the program."""
    assert run(backend, hub, scenario, "rapidsmtp._bulk.sender") == "done\n"


def test_a_killed_green_thread_loses_no_message(backend: str) -> None:
    assert run(backend, "gevent", "killed") == "done\n"


Call = Callable[[str], str]


def check_waiting_calls(call: Call) -> None:
    """Send three messages at once, and check that the process answers other calls meanwhile."""
    ways = {"drop_in": "{}", "send": "accepted", "submit": "accepted"}
    with ThreadPoolExecutor(len(ways)) as threads:
        results = {way: threads.submit(call, way) for way in ways}
        deadline = time.monotonic() + SECONDS
        # `send` and `submit` may use the same connection, so the relay may read only two messages.
        while int(call("waiting")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not any(each.done() for each in results.values())
        assert call("release") == "released"
        assert {way: each.result(SECONDS) for way, each in results.items()} == ways


@pytest.fixture
def gunicorn(backend: str, tmp_path: Path) -> Iterator[Call]:
    """Start gunicorn with one gevent worker, and return a function for web requests."""
    for name in ("gunicorn", "gevent"):
        pytest.importorskip(name, reason=f"{name} is not installed for this Python")
    listener, log = tmp_path / "http", tmp_path / "log"

    def call(way: str) -> str:
        connection = http.client.HTTPConnection("localhost", timeout=SECONDS)
        deadline = time.monotonic() + SECONDS
        while True:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(SECONDS)
            try:
                connection.sock.connect(str(listener))
                break
            except OSError:
                connection.sock.close()
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        connection.request("GET", f"/{way}")
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        assert response.status == 200, body + log.read_text()
        return body

    command = ["gunicorn", "--worker-class", "gevent", "--no-control-socket"]
    with log.open("wb") as output:
        process = processes.start(
            [sys.executable, "-m", *command, "--bind", f"unix:{listener}",
             "green_programs:application"],
            cwd=TESTS, env=environment(backend), stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield call
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")
def test_a_gevent_worker_of_gunicorn_answers_while_a_relay_is_slow(gunicorn: Call) -> None:
    check_waiting_calls(gunicorn)


@pytest.fixture
def celery(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Start a worker of Celery with the gevent pool, and return a function that runs a task."""
    for name in ("celery", "gevent"):
        pytest.importorskip(name, reason=f"{name} is not installed for this Python")
    monkeypatch.setenv("GREEN_FOLDER", str(tmp_path))
    sys.modules.pop("green_celery", None)
    application: Any = importlib.import_module("green_celery")
    log = tmp_path / "log"
    command = ["celery", "--app", "green_celery", "worker", "--pool", "gevent"]
    with log.open("wb") as output:
        process = processes.start(
            [sys.executable, "-W", "ignore", "-m", *command, "--concurrency", "8",
             "--without-gossip", "--without-mingle", "--without-heartbeat"],
            cwd=TESTS,
            env=environment(backend, C_FORCE_ROOT="1"),
            stdout=output,
            stderr=output,
        )  # fmt: skip

    def call(way: str) -> str:
        try:
            return str(application.call.delay(way).get(SECONDS))
        except Exception as error:
            raise AssertionError(log.read_text()) from error

    try:
        yield call
    finally:
        process.terminate()
        process.wait(SECONDS)


def test_the_gevent_pool_of_celery_runs_tasks_while_a_relay_is_slow(celery: Call) -> None:
    check_waiting_calls(celery)
