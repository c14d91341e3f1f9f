"""The end of connections: an unneeded connection sends QUIT soon (RFC 5321 section 4.1.1.10).

A connection is opened only if no idle connection can send the next message.
"""

import dataclasses
import ssl
import threading
import time
from collections.abc import Callable

import pytest

from rapidsmtp import TLS, RelayError, Sender, Status
from senders import LIMITS, commands, message, messages, send, sender_to, wait_for, wires
from server import Connection, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

Script = Callable[[Connection], None]


def held_back(command: str, release: threading.Event, **options: object) -> tuple[Script, list]:
    """Return a script whose second connection waits for `release` before its reply to a command."""
    lock, seen, waits = threading.Lock(), [], []

    def wait(line: bytes) -> bytes:
        waits.append(line)
        release.wait(3)
        return b""

    def script(connection: Connection) -> None:
        with lock:
            seen.append(connection)
            second = len(seen) == 2
        usual = SMTPScript(("PIPELINING", "STARTTLS"), **options)  # type: ignore[arg-type]
        if not second:
            return usual(connection)
        replies = usual.replies

        def reply(line: bytes) -> bytes:
            wait(line)
            return {
                "greeting": b"220 server.example",
                "ehlo": b"250-server.example\r\n250-PIPELINING\r\n250 STARTTLS",
                "starttls": b"220 go on",
            }[command]

        usual.replies = {**replies, command: reply}
        return usual(connection)

    return script, waits


@pytest.mark.parametrize("command", ["greeting", "ehlo", "starttls"])
def test_a_connection_that_opens_too_late_is_closed(
    command: str, server_tls: ssl.SSLContext, authority: object
) -> None:
    release = threading.Event()
    script, waits = held_back(command, release, tls=server_tls)
    tls = TLS(ca_file=authority.cert_pem.bytes())  # type: ignore[attr-defined]
    with Server(script) as server:
        query = "?starttls=required" if command == "starttls" else "?starttls=off"
        limits = dataclasses.replace(LIMITS, quit=3)
        sender = sender_to(server, connections=2, query=query, tls=tls, timeouts=limits)
        outcomes = []
        for outcome in sender.send(messages(300)):
            outcomes.append(outcome)
            if len(outcomes) == 1:
                wait_for(lambda: waits)
        assert {each.status for each in outcomes} == {Status.ACCEPTED}
        threading.Timer(0.2, release.set).start()
        sender.close()
        wait_for(lambda: all(each.over.is_set() for each in server.connections))
        assert len(server.connections) == 2
        assert [wire.upper().endswith(b"QUIT\r\n") for wire in wires(server)] == [True, True]
        assert b"MAIL" not in wires(server)[1].upper()


def test_a_slow_greeting_does_not_delay_other_connections(backend: str) -> None:
    release = threading.Event()
    script, waits = held_back("greeting", release)
    with Server(script) as server:
        sender = sender_to(server, connections=2, query="?starttls=off")
        outcomes = sender.send(messages(300))
        next(outcomes)
        wait_for(lambda: waits)
        assert all(each.status is Status.ACCEPTED for each in outcomes)
        start = time.monotonic()
        sender.close()
        # `close` must not wait for the greeting, whose time limit is 300 s. It may wait for the
        # replies to QUIT, whose time limit is 0.5 s.
        assert time.monotonic() - start < 30
        release.set()


def test_an_idle_connection_is_used_for_the_next_message() -> None:
    with Server(SMTPScript(("PIPELINING",))) as server, sender_to(server, connections=4) as sender:
        for number in range(60):
            assert sender.submit(message(number)).result(5).status is Status.ACCEPTED
            if number % 3 == 0:
                time.sleep(0.002)
        assert sender.stats().connected == 1
    assert len(server.connections) == 1


def test_idle_connections_are_closed() -> None:
    """A 530 to MAIL stops the sender. Its idle connections then send QUIT at once."""
    said = threading.Event()

    def mail(line: bytes) -> bytes:
        if b"s99@" in line:
            said.set()
            return b"530 5.7.0 log in"
        time.sleep(0.05)
        return b"250 ok"

    with Server(SMTPScript(("PIPELINING",), {"mail": mail})) as server:
        sender: Sender = sender_to(server, connections=2)
        assert len(list(sender.send(messages(40)))) == 40
        assert sender.stats().connections == 2
        with pytest.raises(RelayError):
            list(sender.send([message(99)]))
        assert said.is_set()
        wait_for(lambda: all(each.over.is_set() for each in server.connections))
        assert commands(server, b"QUIT") == 2
        sender.close()


def test_quit_does_not_delay_busy_connections() -> None:
    with Server(SMTPScript(("PIPELINING",))) as server:
        assert len(send(sender_to(server, connections=3), messages(200))) == 200
        wait_for(lambda: all(each.over.is_set() for each in server.connections))
        assert all(wire.upper().endswith(b"QUIT\r\n") for wire in wires(server))
