"""The pytest plugin: the fixture `smtp_sink`, without an import.

pytest loads this module at the start of each run where rapidsmtp is installed, whether a test asks
for the fixture or not. So it stands beside the package and not in it: importing the package would
cost every run a tenth of a second, and an extension that does not load would end it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rapidsmtp.testing import Sink

_MARKER = "smtp_sink"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, for `--strict-markers`."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(faults=..., latency=..., ...): what the fixture {_MARKER} gives to "
        "rapidsmtp.testing.Sink",
    )


@pytest.fixture
def smtp_sink(request: pytest.FixtureRequest) -> "Iterator[Sink]":
    """A running SMTP server, a `rapidsmtp.testing.Sink`, of this test's own.

    `@pytest.mark.smtp_sink(...)` takes the arguments of `Sink` by keyword; a marker of the test
    goes before that of its class, and that before the module's.
    """
    from rapidsmtp import _core
    from rapidsmtp.testing import Sink

    if _core.native("Sink") is None:
        # Not a skip: tests of mail that never run would look like tests that pass.
        pytest.fail(
            "smtp_sink needs the compiled half of rapidsmtp, and only the pure half is installed",
            pytrace=False,
        )
    with Sink(**_arguments(request.node)) as sink:
        yield sink


def _arguments(node: pytest.Item) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for marker in node.iter_markers(_MARKER):
        if marker.args:
            pytest.fail(f"the marker {_MARKER} takes keywords alone", pytrace=False)
        arguments = {**marker.kwargs, **arguments}
    return arguments
