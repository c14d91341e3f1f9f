"""Fixtures that every test shares; first of all, the halves of the core.

A test that asks for `core` runs once on each half, and so does a test of a face that asks for
`half`. A missing compiled half is a failure, unless `--without-rust` says aloud that it is not
wanted.
"""

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from rapidsmtp import _core


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


@pytest.fixture
def core(half: str) -> ModuleType:
    """The half of the core under test, as a module."""
    return importlib.import_module("rapidsmtp._native" if half == "rust" else "rapidsmtp._pure")
