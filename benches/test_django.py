"""rapidsmtp's Django backend compared with Django's own backend, on the installed Django.

The benchmarks use two kinds of messages. Messages of the class `Composed`, below, are composed
before the measurement. All other messages are composed while they are sent, so the measurement
includes the time for composing. In
`test_send_messages`, Django's backend uses one open connection. rapidsmtp's backend uses the
connections of its sender.
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
    """A message that several rounds send, and that is composed only once."""

    def message(self, **keywords):
        if not hasattr(self, "_composed"):
            self._composed = super().message(**keywords)
        return self._composed


def make_messages(kind: type[EmailMessage]) -> list[EmailMessage]:
    made = [kind(f"Hello {n}", BODY, None, [f"user{n}@example.org"]) for n in range(COUNT)]
    if kind is Composed:
        policy = {"policy": email.policy.SMTP} if django.VERSION >= (6,) else {}
        for each in made:
            each.message(**policy)
    return made


def make_backend(kind: type, **options: object) -> smtp.EmailBackend:
    with warnings.catch_warnings():
        # Django 6.1 warns if MAILERS is not set.
        warnings.simplefilter("ignore")
        return kind(host="127.0.0.1", **options)


@pytest.fixture(autouse=True)
def _own_senders() -> Iterator[None]:
    senders.close_all()
    yield
    senders.close_all()


@pytest.mark.parametrize("kind", [EmailMessage, Composed])
def test_send_messages(compare, benchmark, backend, sink, kind):
    """Send a thousand messages in one call. Django's backend has an open connection."""
    messages = make_messages(kind)
    django_backend, rapidsmtp_backend = (
        make_backend(each, port=sink) for each in (smtp.EmailBackend, EmailBackend)
    )

    def send(one: smtp.EmailBackend) -> None:
        assert one.send_messages(messages) == COUNT

    with django_backend:
        compare(lambda: send(django_backend), lambda: send(rapidsmtp_backend), calls=1)
    benchmark.extra_info["django"] = django.__version__


@pytest.mark.parametrize("calls", ["one-call", "one-call-per-message"])
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("kind", [EmailMessage, Composed])
def test_django_connects_for_each_message(compare, benchmark, backend, kind, tls, calls):
    """Send each message in a call of its own, so that Django's backend connects for each message.

    Each connection uses TLS and AUTH. rapidsmtp's backend keeps its connections between calls. Each
    backend sends all messages in one call, or each message in a separate call.
    """
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    trusted = authority.cert_pem.bytes()
    context = ssl.create_default_context(cadata=trusted.decode())
    messages = make_messages(kind)[:FEW]
    with Sink(tls=tls, certificate=issued, credentials={"user": "secret"}, store=False) as server:
        options = {
            "port": server.port,
            "username": "user",
            "password": "secret",
            "use_tls": tls == "starttls",
            "use_ssl": tls == "implicit",
        }

        def by_django() -> None:
            for each in messages:
                one = make_backend(smtp.EmailBackend, **options)
                one.ssl_context = context
                assert one.send_messages([each]) == 1

        def by_rapidsmtp() -> None:
            for batch in [messages] if calls == "one-call" else [[each] for each in messages]:
                one = make_backend(EmailBackend, **options, tls=TLS(ca_file=trusted))
                assert one.send_messages(batch) == len(batch)

        compare(by_django, by_rapidsmtp, calls=1)
    benchmark.extra_info["django"] = django.__version__
