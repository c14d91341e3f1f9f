"""Fixtures that all tests share, such as the backend under test.

A test with the fixture `core` or `backend` runs once on each backend. A missing compiled backend is
a failure, unless the option `--without-rust` deselects its tests.
"""

import importlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import trustme

import blocking
import comparison
import rapidsmtp
from rapidsmtp import _backend
from real_servers import Exim, Postfix, RealServer, Unavailable, memory
from unpacked_servers import Dovecot, OpenSMTPD, Sendmail

# Tests that compare rapidsmtp with the interpreter's smtplib or email, or that replace parts of
# these modules. `make test` runs them on every interpreter.
DEPENDS_ON_STDLIB = {
    "test_client_differential.py",
    "test_client_replaced.py",
    "test_conformance.py",
    "test_differences.py",
    "test_green.py",
    "test_import.py",
    "test_installation.py",
    "test_lmtp.py",
    "test_order_of_failures.py",
    "test_reuse_programs.py",
    "test_replacements.py",
    "test_to_bytes.py",
}
# Other tests whose result may depend on the interpreter, because they use its asyncio, logging or
# packaging, or its version of Django. `make test` runs them on the oldest and the newest
# interpreter. All other tests test only rapidsmtp, whose extension is the same abi3 file on all
# interpreters. So `make test` runs them on one interpreter.
DEPENDS_ON_INTERPRETER = DEPENDS_ON_STDLIB | {
    "django_backend",
    "test_aio_client.py",
    "test_aio_sender.py",
    "test_auth_objects.py",
    "test_client_sink.py",
    "test_domains.py",
    "test_logging.py",
    "test_packaging.py",
    "test_pipelining.py",
    "test_readme.py",
    "test_reuse.py",
    "test_reuse_replies.py",
    "test_reuse_settings.py",
    "test_reuse_store.py",
    "test_reuse_tls.py",
    "test_security.py",
    "test_sendmail_many.py",
    "test_sender_life.py",
    "test_telemetry.py",
    "test_testing.py",
}
SELECTIONS = {"stdlib": DEPENDS_ON_STDLIB, "interpreter": DEPENDS_ON_INTERPRETER}
TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-rust", action="store_true", help="deselect the compiled backend of every test"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "rust: needs the compiled backend of the core")
    config.addinivalue_line("markers", "interpreter: may depend on the interpreter")
    config.addinivalue_line("markers", "stdlib: may depend on the interpreter's smtplib or email")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore files without a selected test, because the collection of all tests takes long."""
    names = SELECTIONS.get(config.getoption("markexpr"))
    is_selected = names is None or collection_path == TESTS or _is_in(collection_path, names)
    return None if is_selected else True


def _is_in(path: Path, names: set[str]) -> bool:
    inside = path.relative_to(TESTS).parts if path.is_relative_to(TESTS) else ()
    return bool(inside) and inside[0] in names


# This hook runs first, so that `-m` finds the markers.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker, names in SELECTIONS.items():
            if _is_in(item.path, names):
                item.add_marker(marker)
    if not config.getoption("--without-rust"):
        return
    unwanted = [item for item in items if item.get_closest_marker("rust")]
    config.hook.pytest_deselected(items=unwanted)
    items[:] = [item for item in items if item not in unwanted]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the duration of each test of an outage."""
    reports = [
        report
        for status in ("passed", "failed")
        for report in terminalreporter.getreports(status)
        if report.when == "call" and "outages/" in report.nodeid
    ]
    if reports:
        terminalreporter.section("outages")
    for report in reports:
        terminalreporter.line(f"{report.duration:6.1f} s  {report.nodeid.rpartition('::')[2]}")


@pytest.fixture(params=[pytest.param("rust", marks=pytest.mark.rust), "python"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Select the backend that rapidsmtp uses during the test, and return its name."""
    before = _backend.implementation
    _backend.use(request.param)
    yield request.param
    _backend.use(before)


@pytest.fixture(params=["drop-in", "aio"])
def face(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Select the client that `comparison.compare` compares with smtplib during the test."""
    ours = blocking if request.param == "aio" else rapidsmtp
    monkeypatch.setattr(comparison, "faces", [ours])
    return str(request.param)


@pytest.fixture
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the clock for backoff, rates and hold-offs of senders 50 times as fast as real time."""
    monkeypatch.setattr("rapidsmtp._bulk.sender.CLOCK_SPEED", 50.0)


@pytest.fixture
def core(backend: str) -> ModuleType:
    """Return the module of the backend under test."""
    return importlib.import_module("rapidsmtp._native" if backend == "rust" else "rapidsmtp._pure")


@pytest.fixture(params=["pipelined", "sequential", "methods"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return how `sendmail` of the drop-in sends a message.

    "pipelined" and "sequential" use the core, in flights or one command at a time. "methods" calls
    the methods of the client, as if the program had replaced one of them.
    """
    if request.param == "methods":
        monkeypatch.setattr("rapidsmtp._smtp.flights.applies", lambda *_: False)
    return str(request.param)


# Temporary certificates and real servers


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


REAL_SERVERS = [Postfix, Exim, OpenSMTPD, Sendmail, Dovecot]


@pytest.fixture(scope="module", params=REAL_SERVERS, ids=lambda kind: kind.name)
def real_server(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    """Start a server from the system's packages, or skip the test with the reason."""
    try:
        server = request.param(memory())
        server.start()
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield server
    server.close()
