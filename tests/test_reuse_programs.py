"""Programs that connect for each message, unchanged: the standard library's handler and Django."""

import logging
import logging.handlers
import smtplib
import ssl
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest
import trustme
from django.conf import settings

import rapidsmtp
from rapidsmtp._smtp import kept
from rapidsmtp.testing import Sink
from reusing import new_store

if not settings.configured:
    settings.configure()

from django.core.mail import EmailMessage as DjangoMessage
from django.core.mail.backends import smtp as django_smtp

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.rust]

COUNT = 20
CREDENTIALS = {"user": "secret"}


@pytest.fixture(autouse=True)
def store() -> Iterator[kept.Store]:
    with new_store() as store:
        rapidsmtp.install(reuse=30)
        yield store
        rapidsmtp.uninstall()


@pytest.fixture(params=["starttls", "implicit"])
def sink(request: pytest.FixtureRequest, authority: trustme.CA) -> Iterator[Sink]:
    certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    with Sink(tls=request.param, certificate=certificate, credentials=CREDENTIALS) as sink:
        yield sink


def check(sink: Sink, subjects: list[str]) -> None:
    """Check that all messages came over one connection with one login."""
    counts = sink.counts
    assert [message["Subject"] for message in sink.messages] == subjects
    assert (counts["connections"], counts["tls_handshakes"], counts["authentications"]) == (1, 1, 1)
    assert rapidsmtp.reuse_stats() == {"kept": COUNT, "taken": COUNT - 1, "refused": {}}


@pytest.mark.filterwarnings("ignore:Directly creating EmailBackend")
def test_django(sink: Sink, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    is_implicit = sink.url.startswith("smtps")
    original = ssl.create_default_context

    def trusting(*args: Any, **named: Any) -> ssl.SSLContext:
        return original(*args, cadata=authority.cert_pem.bytes().decode(), **named)

    monkeypatch.setattr(ssl, "create_default_context", trusting)
    subjects = [f"Message {number}" for number in range(COUNT)]
    for subject in subjects:
        backend = django_smtp.EmailBackend(
            sink.host,
            sink.port,
            "user",
            "secret",
            use_tls=not is_implicit,
            use_ssl=is_implicit,
        )
        message = DjangoMessage(subject, "body", "a@example.com", ["b@example.com"])
        assert backend.send_messages([message]) == 1
    check(sink, subjects)


def test_the_handler_of_the_standard_library(authority: trustme.CA) -> None:
    certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    with Sink(tls="starttls", certificate=certificate, credentials=CREDENTIALS) as sink:
        handler = logging.handlers.SMTPHandler(
            (sink.host, sink.port), "a@example.com", "b@example.com", "x", ("user", "secret"), ()
        )
        logger = logging.Logger("app")
        logger.addHandler(handler)
        for number in range(COUNT):
            logger.error("trouble %d", number)
        check(sink, ["x"] * COUNT)


def test_a_handler_that_mails_the_records_of_reuse(authority: trustme.CA) -> None:
    with Sink() as sink:
        handler = logging.handlers.SMTPHandler(
            (sink.host, sink.port), "a@example.com", "b@example.com", "x"
        )
        kept.log.addHandler(handler)
        kept.log.setLevel(logging.DEBUG)
        try:
            with smtplib.SMTP(sink.host, sink.port) as client:
                client.sendmail("a@example.com", "b@example.com", b"Subject: first")
        finally:
            kept.log.setLevel(logging.NOTSET)
            kept.log.removeHandler(handler)
        # The record "kept …" is mailed. This mail causes no further records.
        assert [message["Subject"] for message in sink.messages] == ["first", "x"]


def send_with_yagmail_steps(sink: Sink, subject: str) -> None:
    """Send a message with the calls of yagmail, which greets before and after STARTTLS."""
    client = smtplib.SMTP(sink.host, sink.port)
    client.set_debuglevel(0)
    client.ehlo()
    client.starttls()
    client.ehlo()
    client.login("user", "secret")
    client.sendmail("a@example.com", ["b@example.com"], f"Subject: {subject}\n\nbody")
    client.quit()


def send_with_airflow_steps(sink: Sink, subject: str) -> None:
    """Send a message with the calls of Airflow's `send_email_smtp`."""
    connection = smtplib.SMTP(host=sink.host, port=sink.port, timeout=30)
    connection.starttls()
    connection.login("user", "secret")
    connection.sendmail("a@example.com", ["b@example.com"], f"Subject: {subject}\n\nbody")
    connection.quit()


def send_with_flask_mail_steps(sink: Sink, subject: str) -> None:
    """Send a message with the calls of Flask-Mail."""
    host = smtplib.SMTP(sink.host, sink.port)
    host.set_debuglevel(0)
    host.starttls()
    host.login("user", "secret")
    message = f"Subject: {subject}\n\nbody".encode()
    host.sendmail("a@example.com", ["b@example.com"], message, [], [])
    host.quit()


def send_with_redmail_steps(sink: Sink, subject: str) -> None:
    """Send a message with the calls of Red Mail, whose sender is a context manager."""
    client = smtplib.SMTP(host=sink.host, port=sink.port)
    client.starttls()
    client.login("user", "secret")
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com", subject
    client.send_message(message)
    client.quit()


@pytest.mark.parametrize(
    "send",
    [
        send_with_yagmail_steps,
        send_with_airflow_steps,
        send_with_flask_mail_steps,
        send_with_redmail_steps,
    ],
)
def test_the_steps_of_other_libraries(send: Any, authority: trustme.CA) -> None:
    certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    with Sink(tls="starttls", certificate=certificate, credentials=CREDENTIALS) as sink:
        subjects = [f"Message {number}" for number in range(COUNT)]
        for subject in subjects:
            send(sink, subject)
        check(sink, subjects)
