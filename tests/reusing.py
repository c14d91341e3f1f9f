"""Helpers for the tests of connection reuse: a store of the test, and a program that sends mail."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import rapidsmtp
from rapidsmtp._smtp import kept
from server import TIMEOUT, Server

SENDER, RECIPIENT = "sender@example.com", "recipient@example.com"
MESSAGE = b"Subject: x\r\n\r\nbody\r\n"
SETUP = ["ehlo", "auth"]
MAIL = ["mail", "rcpt", "data"]
EXTENSIONS = ("PIPELINING", "SIZE", "AUTH PLAIN LOGIN CRAM-MD5", "STARTTLS")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def new_store(clock: Callable[[], float] | None = None) -> Iterator[kept.Store]:
    """Use a store of its own, without a thread, and end its connections at the end."""
    store = kept.Store(clock or Clock(), background=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "store", store)
        yield store
        store.end_all()


def connect(server: Server, cls: Any = None, **named: Any) -> Any:
    """Connect with reuse."""
    named = {"local_hostname": "client.example", "timeout": TIMEOUT, "reuse": 30, **named}
    return (cls or rapidsmtp.SMTP)(server.host, server.port, **named)


def send(client: Any) -> Any:
    return client.sendmail(SENDER, RECIPIENT, MESSAGE)


def program(server: Server, user: str | None = "user", **named: Any) -> Any:
    """Connect, log in, send a message and quit, as programs do. Return the client."""
    client = connect(server, **named)
    if user is not None:
        client.login(user, f"secret of {user}")
    send(client)
    assert client.quit()[0] == 221
    return client


def commands(wire: bytes) -> list[str]:
    """Return the verbs of a connection's commands, in lower case."""
    verbs: list[str] = []
    lines = iter(bytes(wire).split(b"\r\n"))
    for line in lines:
        verb = line.split(b" ")[0].decode().lower()
        if verb:
            verbs.append(verb)
        if verb == "data":
            # A refused DATA is followed by a command, not by a message. The tests use no such DATA.
            for _ in itertools.takewhile(lambda each: each != b".", lines):
                pass
    return verbs


def wires(server: Server) -> list[list[str]]:
    """Return the commands of each connection so far. The last reply of each was read."""
    return [commands(connection.received) for connection in server.connections]
