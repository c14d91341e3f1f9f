"""A program that connects, logs in, sends one message and quits: smtplib, and rapidsmtp with reuse.

The program is the same for both. It uses STARTTLS, TLS from the first byte, or no TLS. Its TLS
settings are the default settings, one context for all messages, or a new context for each message.
"""

import smtplib
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme

import rapidsmtp
from rapidsmtp.testing import Sink

EXTENSIONS = ["PIPELINING", "SIZE 10000000", "8BITMIME", "ENHANCEDSTATUSCODES", "AUTH PLAIN"]
MESSAGE = b"Subject: small\r\n\r\n" + b"A line of a small message.\r\n" * 10


@pytest.fixture(autouse=True)
def _reuse(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAPIDSMTP_REUSE", "30")
    rapidsmtp.install(reuse=30)
    rapidsmtp.uninstall()
    yield
    rapidsmtp.install(reuse=0)
    rapidsmtp.uninstall()


def program_of(
    module: Any, port: int, tls: str, context: Callable[[], ssl.SSLContext | None]
) -> Callable[[], None]:
    """Return the program, which sends one message."""

    def program() -> None:
        if tls == "implicit":
            client = module.SMTP_SSL("127.0.0.1", port, context=context())
        else:
            client = module.SMTP("127.0.0.1", port)
        if tls == "starttls":
            client.starttls(context=context())
        client.login("user", "secret")
        client.sendmail("sender@example.com", ["recipient@example.com"], MESSAGE)
        client.quit()

    return program


@pytest.mark.parametrize("round_trip", [0, 40], ids=["0-ms", "40-ms"])
@pytest.mark.parametrize("context", ["no-context", "one-context", "context-per-message"])
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_connect_for_each_message(compare, backend, tls, context, round_trip):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()

    def make() -> ssl.SSLContext:
        made = ssl.create_default_context()
        authority.configure_trust(made)
        return made

    kept = make()
    contexts = {
        "no-context": lambda: None,
        "one-context": lambda: kept,
        "context-per-message": make,
    }
    with Sink(
        tls=tls,
        certificate=certificate,
        credentials={"user": "secret"},
        extensions=EXTENSIONS,
        latency=round_trip / 2000,
        store=False,
    ) as sink:
        compare(
            program_of(smtplib, sink.port, tls, contexts[context]),
            program_of(rapidsmtp, sink.port, tls, contexts[context]),
            calls=1 if round_trip else 100,
        )


@pytest.mark.parametrize("round_trip", [0, 40], ids=["0-ms", "40-ms"])
def test_connect_for_each_message_without_tls(compare, backend, round_trip):
    with Sink(EXTENSIONS, round_trip / 2000, credentials={"user": "secret"}, store=False) as sink:
        compare(
            program_of(smtplib, sink.port, "", lambda: None),
            program_of(rapidsmtp, sink.port, "", lambda: None),
            calls=1 if round_trip else 100,
        )
