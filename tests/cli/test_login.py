"""Passwords and TLS: what a relay is shown, and where it ends."""

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from commandline import Command, Relay, accept, one_line


def test_no_password_in_clear_text(command: Command, relays: Callable[..., Relay]) -> None:
    relay = relays(accept, "AUTH=PLAIN")
    relay.greeting = relay.greeting.replace("AUTH=PLAIN", "AUTH PLAIN")
    host = relay.url[7:]
    one_line(command.send(f"smtp://user:geheim@{host}"), "no STARTTLS")
    one_line(command.send(f"smtp://user:geheim@{host}?starttls=off"), "clear text")
    one_line(command.send(f"smtp://user:geheim@{host}?starttls=opportunistic"), "clear text")
    assert not any(line.startswith("AUTH") for line in relay.lines)


def test_login_and_its_end_at_535(command: Command, relays: Callable[..., Relay]) -> None:
    def script(relay: Relay, line: str) -> str | None:
        return "535 5.7.8 no" if line.startswith("AUTH") else accept(relay, line)

    relay = relays(script)
    relay.greeting = relay.greeting.replace("250-relay", "250-relay\r\n250-AUTH LOGIN PLAIN")
    url = f"smtp://user@{relay.url[7:]}?starttls=off"
    command.environment["RAPIDSMTP_PASSWORD"] = "geheim"
    result = command.send(url, "--allow-plaintext-auth")
    one_line(result, "refused the login: 535 5.7.8 no")
    assert "geheim" not in result.stderr
    assert [line[:10] for line in relay.lines if line.startswith("AUTH")] == ["AUTH PLAIN"]


def test_an_untrusted_certificate_stops(command: Command, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                    connection.sendall(b"554 not today\r\n")
            except OSError:
                if listener.fileno() < 0:
                    return

    threading.Thread(target=serve, daemon=True).start()
    url = f"smtps://127.0.0.1:{listener.getsockname()[1]}"
    one_line(command.send(url), "is not trusted")
    # With its authority trusted the same server is heard.
    one_line(command.send(url, "--ca-file", "ca.pem"), "554 not today")
    listener.close()
