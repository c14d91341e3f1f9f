"""The pytest plugin with the fixture `smtp_sink`.

pytest loads this module at the start of each run, whether a test uses the fixture or not. So the
module is outside the package. If the module were in the package, pytest would import the whole
package at the start of each run. This import would slow down every run, and a compiled backend that
fails to load would stop every run.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rapidsmtp.testing import Sink

_MARKER = "smtp_sink"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `smtp_sink`, because `--strict-markers` refuses unknown markers."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(faults=..., latency=..., ...): arguments of rapidsmtp.testing.Sink for the "
        f"fixture {_MARKER}",
    )


@pytest.fixture
def smtp_sink(request: pytest.FixtureRequest) -> "Iterator[Sink]":
    """Run an SMTP server for one test: a `rapidsmtp.testing.Sink`.

    `@pytest.mark.smtp_sink(...)` takes the arguments of `Sink` by keyword. A marker of the test
    overrides a marker of the class. A marker of the class overrides a marker of the module.
    """
    from rapidsmtp import _backend
    from rapidsmtp.testing import Sink

    if _backend.native("Sink") is None:
        # The test fails and is not skipped, because users could mistake a skipped test for a passed
        # one.
        pytest.fail(
            "smtp_sink needs the compiled backend of rapidsmtp; only the pure-Python one is "
            "installed",
            pytrace=False,
        )
    with Sink(**_arguments(request.node)) as sink:
        yield sink


def _arguments(node: pytest.Item) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for marker in node.iter_markers(_MARKER):
        if marker.args:
            pytest.fail(f"the marker {_MARKER} takes keyword arguments only", pytrace=False)
        arguments = {**marker.kwargs, **arguments}
    return arguments
