"""`Sender` with real servers: the outcomes are correct, and the servers log no complaints.

The tests compare the accepted messages with the outcomes, recipient by recipient. The server's log
must contain no complaint about the client. Each message has a unique sender and body, so that the
tests detect a reply or a body that belongs to another message.
"""

import time
from collections import Counter
from dataclasses import dataclass

import pytest

from rapidsmtp import (
    TLS,
    Message,
    Outcome,
    Sender,
    Status,
)
from real_servers import RealServer

COUNT, FEWER = 210, 70
"""The number of messages for Postfix and Exim, and for each other server."""

DELIVERY_SECONDS = 30.0
"""The time limit for the delivery of all messages, in seconds."""

LINES = b"A line of the newsletter, as long as the lines of newsletters are: seventy-six.\r\n" * 470
MODES = ("off", "transaction", "stream", "window")


@dataclass(frozen=True)
class Expected:
    """The expected outcome of a message."""

    status: Status
    phase: str
    refused: frozenset[str] = frozenset()


@pytest.fixture
def delivered_before(real_server: RealServer) -> list[tuple[str, str, bytes]]:
    return real_server.deliveries()


def body_of(number: int) -> bytes:
    """Return a body with dots at line starts. Every second body has no final line end."""
    body = b"message %d\r\n.\r\n..\r\n.x\r\n\r\n" % number
    if number % 5 == 0:
        body += b"." + LINES
    return body + (b"." if number % 2 else b"end\r\n")


def message_of(number: int, server: RealServer) -> tuple[Message, Expected]:
    """Return a message of the kind `number % 7`, and its expected outcome."""
    kind = number % 7
    if kind == 3 and "refused senders" in server.missing:
        kind = 0
    sender = f"{'refused' if kind == 3 else 'sender'}{number}@example.com"
    recipients = [f"to{number}@example.com"]
    expected = Expected(Status.ACCEPTED, "body")
    if kind == 1:
        recipients += [f"{place}-to{number}@example.com" for place in range(1, 12)]
    elif kind == 3:
        expected = Expected(Status.REFUSED, "mail", frozenset(recipients))
    elif kind == 4:
        recipients = [f"refused{number}@example.com"]
        expected = Expected(Status.REFUSED, "rcpt", frozenset(recipients))
    elif kind == 6:
        recipients = [f"refused{number}@example.com", *recipients, f"refused-{number}@example.com"]
        expected = Expected(Status.PARTIAL, "rcpt", frozenset((recipients[0], recipients[2])))
    content = b"Subject: %d\r\n\r\n%b" % (number, body_of(number))
    return Message(sender, recipients, content, tag=number), expected


def check(outcome: Outcome, expected: Expected) -> None:
    assert outcome.status is expected.status, outcome
    if expected.status is not Status.PARTIAL:
        assert outcome.phase == expected.phase
    refused = {
        address
        for address, result in outcome.recipients.items()
        if result.status is not Status.ACCEPTED
    }
    assert refused == expected.refused
    assert all(outcome.recipients[address].status is Status.REFUSED for address in refused)
    assert all(outcome.recipients[address].code in (550, 501) for address in refused)
    assert outcome.attempts == 1


def wait_for(real_server: RealServer, expected: Counter, before: Counter) -> Counter:
    """Wait until all expected deliveries are complete, and return the new deliveries."""
    deadline = time.monotonic() + DELIVERY_SECONDS
    while True:
        new = Counter(real_server.deliveries()) - before
        if new.total() >= expected.total() or time.monotonic() > deadline:
            return new
        time.sleep(0.1)


@pytest.mark.parametrize("starttls", ["off", "required"], ids=["TCP", "STARTTLS"])
@pytest.mark.parametrize("mode", MODES)
def test_outcomes_match_the_deliveries(backend, real_server, delivered_before, mode, starttls):
    if backend == "python" and mode in ("stream", "window"):
        pytest.skip("the pure-Python backend treats this mode as transaction")
    count = COUNT if real_server.name in ("Postfix", "Exim") else FEWER
    real_server.require(mode)
    if starttls == "required":
        real_server.require("starttls")
    before, log_before = Counter(delivered_before), len(real_server.settled_log())
    messages, expected = zip(
        *(message_of(number, real_server) for number in range(count)), strict=True
    )
    url = f"{real_server.scheme}://127.0.0.1:{real_server.ports['plain']}?starttls={starttls}"
    tls = TLS(ca_file=real_server.authority)
    with Sender(url, connections=2, pipelining=mode, tls=tls) as sender:
        outcomes = {outcome.tag: outcome for outcome in sender.send(messages)}
        stats = sender.stats()

    assert stats.relay_limits.pipelining == mode
    assert len(outcomes) == count
    for number, one in enumerate(expected):
        check(outcomes[number], one)
    accepted = Counter(
        (message.sender, address, body_of(message.tag).replace(b"\r\n", b"\n").rstrip(b"\n"))
        for message in messages
        for address, result in outcomes[message.tag].recipients.items()
        if result.status is Status.ACCEPTED
    )
    new = wait_for(real_server, accepted, before)
    # SMTP adds a line end to a body that has no final line end.
    delivered = Counter((sender, to, body.rstrip(b"\n")) for sender, to, body in new.elements())
    assert delivered == accepted
    log = real_server.settled_log()[log_before:].splitlines()
    assert [line for line in log if real_server.complaint.search(line)] == []
