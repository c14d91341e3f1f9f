"""Tests of the outcome checker and of the faulty server, with false outcomes and raw sockets."""

import contextlib
import re
import select
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from rapidsmtp import Message, Outcome, RecipientResult, Status
from truth.check import OutcomeChecker, repaired
from truth.plan import Plan
from truth.record import Record
from truth.server import FaultyServer

CAPABILITIES = ("PIPELINING", "CHUNKING", "8BITMIME")
PAUSE = 0.02
"""Seconds without input after which the server is assumed to have replied to everything."""

CONTENT = b"X-Number: 1\r\n\r\n.dot\r\n"


def talk(server: FaultyServer, *flights: bytes) -> bytes:
    """Send flights, each after the replies to the previous flight, and return all replies."""
    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        replies = client.recv(65536)
        for flight in flights:
            client.sendall(flight)
            reply = client.recv(65536)
            while reply and select.select([client], [], [], PAUSE)[0]:
                reply += (more := client.recv(65536))
                if not more:
                    break
            replies += reply
    server.settle()
    return re.sub(rb" #\d+#", b"", replies)


def codes(replies: bytes) -> list[int]:
    return [int(line[:3]) for line in replies.splitlines() if line[3:4] == b" "]


def envelope(number: int, *recipients: str, kind: str = "ok") -> bytes:
    names = recipients or (f"{kind}-{number}@x.example",)
    lines = [f"MAIL FROM:<s{number}@x.example>", *(f"RCPT TO:<{name}>" for name in names)]
    return "".join(f"{line}\r\n" for line in lines).encode()


def bdat(number: int, kind: str = "ok") -> bytes:
    content = b"X-Number: %d\r\n\r\nMAIL FROM:<smuggled@x.example>\r\n" % number
    chunk = b"BDAT %d LAST\r\n%s" % (len(content), content)
    return b"RSET\r\n" + envelope(number, kind=kind) + chunk


def test_a_window_is_executed_in_order_and_refused_chunks_are_discarded() -> None:
    with FaultyServer(Plan(1, extensions=CAPABILITIES, holds_replies=True)) as server:
        window = bdat(1) + bdat(2, "never") + bdat(3)
        replies = talk(server, b"EHLO x\r\n", window, b"QUIT\r\n")
    ok = [250, 250, 250, 250]
    assert codes(replies) == [220, 250, *ok, 250, 250, 550, 503, *ok, 221]
    assert [each.sender for each in server.record.deliveries] == ["s1@x.example", "s3@x.example"]
    assert not server.record.violations
    assert server.record.connections[0].terminators == 3


@pytest.mark.parametrize(
    ("discards", "chunk", "replies"),
    [
        (True, b"QUIT\r\n", [503, 250]),
        (False, b"QUIT\r\n", [503, 221]),
        # A chunk with NOOP is no discard test. After the 503, every server sends a 250: a correct
        # server replies to RSET, and a server that executes the chunk replies to NOOP first.
        (False, b"NOOP\r\n", [503, 250, 250]),
    ],
)
def test_refused_chunks_are_discarded_or_read_as_commands(
    discards: bool, chunk: bytes, replies: list[int]
) -> None:
    with FaultyServer(Plan(1, extensions=CAPABILITIES, discards=discards)) as server:
        answers = talk(server, b"EHLO x\r\n", b"BDAT 6 LAST\r\n" + chunk + b"RSET\r\n")
    assert codes(answers)[2:] == replies


def test_chunks_read_as_commands_are_detected() -> None:
    with FaultyServer(Plan(1, extensions=CAPABILITIES, discards=False)) as server:
        talk(server, b"EHLO x\r\n", bdat(2, "never"), b"QUIT\r\n")
    sent = [Message("s2@x.example", ["never-2@x.example"], CONTENT)]
    problems = OutcomeChecker(server.record, sent, []).problems_found()
    assert any("smuggled" in problem for problem in problems)


def test_pipelining_without_the_capability_is_a_violation() -> None:
    with FaultyServer(Plan(1)) as server:
        talk(server, b"EHLO x\r\n", envelope(1) + b"DATA\r\n", CONTENT + b".\r\n")
        assert server.record.violations


def mailed(plan: Plan, *recipients: str) -> Record:
    """Send one message with DATA and return the server's record."""
    body = CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    with FaultyServer(plan) as server, contextlib.suppress(OSError):
        talk(server, b"EHLO x\r\n", envelope(1, *recipients), b"DATA\r\n", body, b"QUIT\r\n")
    return server.record


MESSAGE = Message("s1@x.example", ["ok-1@x.example", "never-1@x.example"], CONTENT, tag=1)


def correct(record: Record) -> Outcome:
    """Return the correct outcome of `MESSAGE`."""
    refusal = next(each for each in record.replies if each.code == 550)
    final = next(each for each in record.replies if each.command == "body")
    results = {
        "ok-1@x.example": RecipientResult(Status.ACCEPTED, 250, None, f"ok #{final.number}#"),
        "never-1@x.example": RecipientResult(Status.REFUSED, 550, None, f"no #{refusal.number}#"),
    }
    return Outcome(1, MESSAGE, Status.PARTIAL, results)


@pytest.fixture
def record() -> Record:
    return mailed(Plan(1, extensions=CAPABILITIES), *MESSAGE.recipients)


def test_a_correct_outcome_passes(record: Record) -> None:
    assert OutcomeChecker(record, [MESSAGE], [correct(record)]).problems_found() == []


def with_result(recipient: str, **changes: object) -> Callable[[Outcome], list[Outcome]]:
    def falsify(outcome: Outcome) -> list[Outcome]:
        results = dict(outcome.recipients)
        results[recipient] = results[recipient]._replace(**changes)
        return [replace(outcome, recipients=results)]

    return falsify


ONE, OTHER = MESSAGE.recipients
FALSE_OUTCOMES = {
    "no outcome": lambda outcome: [],
    "two outcomes": lambda outcome: [outcome, outcome],
    "another tag": lambda outcome: [replace(outcome, tag=2)],
    "a recipient is missing": lambda outcome: [
        replace(outcome, recipients={ONE: outcome.recipients[ONE]})
    ],
    "as a whole": lambda outcome: [replace(outcome, status=Status.ACCEPTED)],
    "accepted, and was not": with_result(OTHER, status=Status.ACCEPTED, code=250),
    "unknown, and is known": with_result(ONE, status=Status.UNKNOWN, code=None),
    "unknown, and was refused": with_result(OTHER, status=Status.UNKNOWN, code=None),
    "refused, and was executed": with_result(ONE, status=Status.REFUSED, code=550),
    "not attempted, and was executed": with_result(ONE, status=Status.NOT_ATTEMPTED, code=None),
    "deferred by a 5yz": with_result(OTHER, status=Status.DEFERRED),
    "another's reply": with_result(ONE, text="ok #1#"),
    "no reply at all": with_result(OTHER, text="no"),
    "another code": with_result(OTHER, code=551),
}


@pytest.mark.parametrize("falsify", FALSE_OUTCOMES.values(), ids=FALSE_OUTCOMES)
def test_a_false_outcome_is_detected(
    falsify: Callable[[Outcome], list[Outcome]], record: Record
) -> None:
    assert OutcomeChecker(record, [MESSAGE], falsify(correct(record))).problems_found()


def test_double_and_wrong_deliveries_are_detected(record: Record) -> None:
    outcome = correct(record)
    [delivery] = record.deliveries
    for wrong in (
        delivery,
        replace(delivery, content=b"another's"),
        replace(delivery, sender="s2@x.example"),
        replace(delivery, recipient="ok-2@x.example"),
    ):
        record.deliveries = [wrong, delivery] if wrong is delivery else [wrong]
        assert OutcomeChecker(record, [MESSAGE], [outcome]).problems_found()


@pytest.mark.parametrize("fault", ["close after", "reset after", "malformed after", "cut"])
def test_accepted_without_a_complete_reply_is_detected(fault: str) -> None:
    record = Record()
    for seed in range(200):
        plan = Plan(seed, extensions=CAPABILITIES, probability=0.3, losses=1, faults=(fault,))
        record = mailed(plan, ONE)
        if record.deliveries and not record.deliveries[0].reply.valid:
            break
    reply = record.deliveries[0].reply
    results = {ONE: RecipientResult(Status.ACCEPTED, 250, None, f"ok #{reply.number}#")}
    message = replace(MESSAGE, recipients=[ONE])
    outcome = Outcome(1, message, Status.ACCEPTED, results)
    assert OutcomeChecker(record, [message], [outcome]).problems_found()
    results = {ONE: RecipientResult(Status.UNKNOWN, None, None, "lost")}
    outcome = Outcome(1, message, Status.UNKNOWN, results)
    assert OutcomeChecker(record, [message], [outcome]).problems_found() == []


def test_bodies_are_repaired_for_the_comparison() -> None:
    assert repaired(b"a\nb\rc\r\n\r") == b"a\r\nb\r\nc\r\n\r\n"
    assert repaired(b"") == b"\r\n"
