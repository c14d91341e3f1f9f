"""Helpers for the tests of `Sender` with scripted servers."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from rapidsmtp import (
    Backoff,
    Message,
    Outcome,
    RelayError,
    Sender,
    Timeouts,
)
from server import TIMEOUT, Server

LIMITS = Timeouts(
    connect=3, tls=3, greeting=3, command=3, mail=3, rcpt=3, data=3, block=3, body=3, quit=0.5
)
BACKOFF = Backoff(base=0.01, maximum=0.05)
CONTENT = b"Subject: x\r\n\r\nbody\r\n"


def sender_to(server: Server | int, scheme: str = "smtp", **options: Any) -> Sender:
    """Return a sender with short retry delays. `login` and `query` become parts of the URL."""
    login, query = options.pop("login", ""), options.pop("query", "")
    port = server if isinstance(server, int) else server.port
    settings: dict[str, Any] = {
        "timeouts": LIMITS,
        "backoff": BACKOFF,
        "local_hostname": "client.example",
    }
    url = f"{scheme}://{login}127.0.0.1:{port}{query}"
    return Sender(url, **settings | options)


def messages(count: int, content: bytes = CONTENT) -> list[Message]:
    return [message(number, content) for number in range(count)]


def message(number: int = 0, content: bytes = CONTENT, **options: Any) -> Message:
    return Message(f"s{number}@example.com", [f"r{number}@example.com"], content, **options)


def send(sender: Sender, given: Iterable[Message]) -> list[Outcome]:
    with sender:
        return list(sender.send(given))


def send_and_stop(sender: Sender, given: list[Message]) -> tuple[list[Outcome], RelayError]:
    """Send to a relay that rejects the session, and return the outcomes and the error."""
    outcomes: list[Outcome] = []
    start = time.monotonic()
    with sender:
        try:
            outcomes.extend(sender.send(given))
        except RelayError as error:
            # `extend` stores the outcomes that are yielded before the exception.
            assert time.monotonic() - start < 30, "the sender must stop without delay"
            return outcomes, error
    raise AssertionError(f"no RelayError, but {[str(each.status) for each in outcomes]}")


def wires(server: Server) -> list[bytes]:
    return [bytes(each.received) for each in server.connections]


def commands(server: Server, verb: bytes) -> int:
    """Return the number of received lines, on all connections, that begin with a verb."""
    lines = b"".join(wires(server)).upper().split(b"\r\n")
    return sum(line.startswith(verb) for line in lines)


def wait_for(condition: Callable[[], Any], seconds: float = TIMEOUT) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.005)
