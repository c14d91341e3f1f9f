"""Fixtures that every test shares; first of all, the halves of the core.

A test that asks for `core` runs once on each half, and so does a test of a face that asks for
`half`. A missing compiled half is a failure, unless `--without-rust` says aloud that it is not
wanted.
"""

import importlib
import ssl
from collections.abc import Iterator
from types import ModuleType

import pytest
import trustme

import blocking
import comparison
import rapidsmtp
from rapidsmtp import _core
from real_servers import Exim, Postfix, RealServer, Unavailable


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-rust", action="store_true", help="deselect the compiled half of every test"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--without-rust"):
        return
    unwanted = [item for item in items if item.get_closest_marker("rust")]
    config.hook.pytest_deselected(items=unwanted)
    items[:] = [item for item in items if item not in unwanted]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "rust: needs the compiled half of the core")


@pytest.fixture(params=[pytest.param("rust", marks=pytest.mark.rust), "python"])
def half(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the half of the core that all of rapidsmtp uses during the test."""
    before = _core.implementation
    _core.use(request.param)
    yield request.param
    _core.use(before)


@pytest.fixture(params=["drop-in", "aio"])
def face(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The face that `comparison.compare` lays beside smtplib during the test."""
    ours = blocking if request.param == "aio" else rapidsmtp
    monkeypatch.setattr(comparison, "faces", [ours])
    return str(request.param)


@pytest.fixture
def core(half: str) -> ModuleType:
    """The half of the core under test, as a module."""
    return importlib.import_module("rapidsmtp._native" if half == "rust" else "rapidsmtp._pure")


# Throw-away certificates, and the real servers: for the files of tests that ask for them.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module", params=[Postfix, Exim], ids=lambda kind: kind.name)
def real_server(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    """Postfix or Exim, as Debian packs them; a skip says why one cannot be started."""
    try:
        server = request.param()
        server.start()
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield server
    server.close()
