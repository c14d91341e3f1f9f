"""Our Django backend beside Django's own, on the Django that is installed; both take turns.

"Composed" messages were made into email.message objects before the clock runs: Django's own
composition is the same work for both (from 6.0 on 0.6 ms a message, before that 0.04 ms), and
whoever sends waits for it. One connection that is open on their side; ours has the few that the
sender keeps.
"""

import email.policy
import ssl
import warnings
from collections.abc import Iterator

import django
import pytest
import trustme
from django.conf import settings

if not settings.configured:
    settings.configure(
        DEFAULT_FROM_EMAIL="News <news@example.com>",
        EMAIL_BACKEND="rapidsmtp.django.EmailBackend",
        SECRET_KEY="bench",
    )
    django.setup()

from django.core.mail import EmailMessage
from django.core.mail.backends import smtp

from rapidsmtp import TLS
from rapidsmtp.django import EmailBackend, senders
from rapidsmtp.testing import Sink

COUNT = 1000
FEW = 100
BODY = "A line of a message that a site sends to its users.\n" * 6

pytestmark = pytest.mark.filterwarnings("ignore")


class Composed(EmailMessage):
    """A message that is composed once."""

    def message(self, **keywords):
        if not hasattr(self, "_composed"):
            self._composed = super().message(**keywords)
        return self._composed


def letters(kind: type[EmailMessage]) -> list[EmailMessage]:
    made = [kind(f"Hello {n}", BODY, None, [f"user{n}@example.org"]) for n in range(COUNT)]
    if kind is Composed:
        policy = {"policy": email.policy.SMTP} if django.VERSION >= (6,) else {}
        for each in made:
            each.message(**policy)
    return made


def backend(kind: type, **options: object) -> smtp.EmailBackend:
    with warnings.catch_warnings():
        # Django 6.1 wants MAILERS.
        warnings.simplefilter("ignore")
        return kind(host="127.0.0.1", **options)


@pytest.fixture(autouse=True)
def _own_senders() -> Iterator[None]:
    senders.close_all()
    yield
    senders.close_all()


@pytest.mark.parametrize("kind", [EmailMessage, Composed])
def test_send_messages(compare, benchmark, half, sink, kind):
    """A thousand messages by one call; their connection is open."""
    made = letters(kind)
    theirs, ours = (backend(each, port=sink) for each in (smtp.EmailBackend, EmailBackend))

    def send(one: smtp.EmailBackend) -> None:
        assert one.send_messages(made) == COUNT

    with theirs:
        compare(lambda: send(theirs), lambda: send(ours), calls=1)
    benchmark.extra_info["django"] = django.__version__


@pytest.mark.parametrize("ours_by", ["one-call", "a-call-each"])
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("kind", [EmailMessage, Composed])
def test_where_theirs_connects_for_each(compare, benchmark, half, kind, tls, ours_by):
    """TLS and AUTH for each message there; ours go by one call, or by a call for each as well."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    trusted = authority.cert_pem.bytes()
    context = ssl.create_default_context(cadata=trusted.decode())
    made = letters(kind)[:FEW]
    with Sink(tls=tls, certificate=issued, credentials={"user": "secret"}, store=False) as server:
        options = {
            "port": server.port,
            "username": "user",
            "password": "secret",
            "use_tls": tls == "starttls",
            "use_ssl": tls == "implicit",
        }

        def theirs() -> None:
            for each in made:
                one = backend(smtp.EmailBackend, **options)
                one.ssl_context = context
                assert one.send_messages([each]) == 1

        def ours() -> None:
            for batch in [made] if ours_by == "one-call" else [[each] for each in made]:
                one = backend(EmailBackend, **options, tls=TLS(ca_file=trusted))
                assert one.send_messages(batch) == len(batch)

        compare(theirs, ours, calls=1)
    benchmark.extra_info["django"] = django.__version__
