"""Real Django, of whichever version is first on the path; `make test` runs these tests twice.

The folder has another name than Django's package, which would be hidden by it.
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
# `make test` says which it has put in front, so that the newest is not taken for the oldest.
WANTED = os.environ.get("DJANGO", django.__version__)
assert WANTED.split(".")[:2] == django.__version__.split(".")[:2], django.__version__

if not settings.configured:
    settings.configure(
        USE_TZ=True,
        TIME_ZONE="UTC",
        DEFAULT_FROM_EMAIL="site@example.com",
        SECRET_KEY="tests",  # 4.2 asks for it where a receiver's failure is logged
    )
    django.setup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # From 6.1 on Django wants MAILERS, and most tests are about what all versions have.
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    version = django.__version__
    terminalreporter.write_line(f"the tests of the Django backend ran on Django {version}")


@pytest.fixture(autouse=True)
def _own_senders(half):
    """No test finds a sender of another one, least of all one of the other half."""
    senders.close_all()
    yield
    senders.close_all()


@pytest.fixture
def told():
    """What the signal tells: the subject of the message, and its outcome."""
    heard = []

    def hear(sender, backend, message, outcome, **_):
        heard.append((message.subject, outcome))

    outcome_known.connect(hear)
    yield heard
    outcome_known.disconnect(hear)


@pytest.fixture
def mail_to():
    """Settings for a server on this machine: `with mail_to(port, EMAIL_USE_TLS=True):`."""

    def settings_for(port, **more):
        backend = "rapidsmtp.django.EmailBackend"
        given = {"EMAIL_BACKEND": backend, "EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": port}
        return override_settings(**given | {"EMAIL_TIMEOUT": 5} | more)

    return settings_for
