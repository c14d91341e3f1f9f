"""Fixtures of the tests with Django; `make test` runs these tests on two versions of Django.

The tests import the Django version that is first on Python's module path. The folder is not named
`django`, because it would hide Django's package.
"""

import os
from pathlib import Path

os.environ.setdefault("TZ", "UTC")

import django
import pytest
from django.conf import settings
from django.test import override_settings

from rapidsmtp.django import outcome_known, senders

HERE = Path(__file__).parent
# `make test` sets DJANGO to the expected version. The assertion fails if another version is first
# on the module path.
WANTED = os.environ.get("DJANGO", django.__version__)
assert WANTED.split(".")[:2] == django.__version__.split(".")[:2], django.__version__

if not settings.configured:
    settings.configure(
        USE_TZ=True,
        TIME_ZONE="UTC",
        DEFAULT_FROM_EMAIL="site@example.com",
        # Without a key, Django 4.2 cannot log the exceptions of signal receivers.
        SECRET_KEY="tests",
    )
    django.setup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Most tests use settings without MAILERS, because all versions accept such settings. Django 6.1
    # warns about such settings, so these warnings are ignored.
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    version = django.__version__
    terminalreporter.write_line(f"the tests of the Django backend ran on Django {version}")


@pytest.fixture(autouse=True)
def _own_senders(backend):
    """Close all senders, so that no test uses a sender of another test or backend."""
    senders.close_all()
    yield
    senders.close_all()


@pytest.fixture
def signalled():
    """Record the subject and the outcome of each call of the signal `outcome_known`."""
    calls = []

    def receive(sender, backend, message, outcome, **_):
        calls.append((message.subject, outcome))

    outcome_known.connect(receive)
    yield calls
    outcome_known.disconnect(receive)


@pytest.fixture
def mail_to():
    """Return a function that overrides settings: `with mail_to(port, EMAIL_USE_TLS=True):`."""

    def settings_for(port, **more):
        backend = "rapidsmtp.django.EmailBackend"
        given = {"EMAIL_BACKEND": backend, "EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": port}
        return override_settings(**given | {"EMAIL_TIMEOUT": 5} | more)

    return settings_for
