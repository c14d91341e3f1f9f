"""The judge is judged: a server that is spoken to by hand, and lies that must be seen."""

import contextlib
import re
import select
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from rapidsmtp import Message, Outcome, RecipientResult, Status
from truth.check import Judge, repaired
from truth.plan import Plan
from truth.record import Record
from truth.server import FaultyServer

OFFERS = ("PIPELINING", "CHUNKING", "8BITMIME")
PAUSE = 0.02
"""Seconds of silence after which a server has said all."""

CONTENT = b"X-Number: 1\r\n\r\n.dot\r\n"


def speak(server: FaultyServer, *flights: bytes) -> bytes:
    """What a server says to flights, each sent when it has answered the one before."""
    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        said = client.recv(65536)
        for flight in flights:
            client.sendall(flight)
            answer = client.recv(65536)
            while answer and select.select([client], [], [], PAUSE)[0]:
                answer += (more := client.recv(65536))
                if not more:
                    break
            said += answer
    server.settle()
    return re.sub(rb" #\d+#", b"", said)


def codes(said: bytes) -> list[int]:
    return [int(line[:3]) for line in said.splitlines() if line[3:4] == b" "]


def envelope(number: int, *recipients: str, kind: str = "ok") -> bytes:
    names = recipients or (f"{kind}-{number}@x.example",)
    lines = [f"MAIL FROM:<s{number}@x.example>", *(f"RCPT TO:<{name}>" for name in names)]
    return "".join(f"{line}\r\n" for line in lines).encode()


def bdat(number: int, kind: str = "ok") -> bytes:
    content = b"X-Number: %d\r\n\r\nMAIL FROM:<smuggled@x.example>\r\n" % number
    chunk = b"BDAT %d LAST\r\n%s" % (len(content), content)
    return b"RSET\r\n" + envelope(number, kind=kind) + chunk


def test_a_window_is_executed_in_order_and_refused_chunks_are_discarded() -> None:
    with FaultyServer(Plan(1, extensions=OFFERS, patient=True)) as server:
        window = bdat(1) + bdat(2, "never") + bdat(3)
        said = speak(server, b"EHLO x\r\n", window, b"QUIT\r\n")
    ok = [250, 250, 250, 250]
    assert codes(said) == [220, 250, *ok, 250, 250, 550, 503, *ok, 221]
    assert [each.sender for each in server.record.deliveries] == ["s1@x.example", "s3@x.example"]
    assert not server.record.violations
    assert server.record.connections[0].terminators == 3


@pytest.mark.parametrize(
    ("discards", "chunk", "said"),
    [
        (True, b"QUIT\r\n", [503, 250]),
        (False, b"QUIT\r\n", [503, 221]),
        # Why the discard test may not use a chunk that is answered with 250.
        (False, b"NOOP\r\n", [503, 250, 250]),
    ],
)
def test_the_discard_test_has_something_to_find(
    discards: bool, chunk: bytes, said: list[int]
) -> None:
    with FaultyServer(Plan(1, extensions=OFFERS, discards=discards)) as server:
        answers = speak(server, b"EHLO x\r\n", b"BDAT 6 LAST\r\n" + chunk + b"RSET\r\n")
    assert codes(answers)[2:] == said


def test_chunks_read_as_commands_are_seen() -> None:
    with FaultyServer(Plan(1, extensions=OFFERS, discards=False)) as server:
        speak(server, b"EHLO x\r\n", bdat(2, "never"), b"QUIT\r\n")
    sent = [Message("s2@x.example", ["never-2@x.example"], CONTENT)]
    problems = Judge(server.record, sent, []).problems_found()
    assert any("smuggled" in problem for problem in problems)


def test_pipelining_that_was_not_offered_is_a_violation() -> None:
    with FaultyServer(Plan(1)) as server:
        speak(server, b"EHLO x\r\n", envelope(1) + b"DATA\r\n", CONTENT + b".\r\n")
        assert server.record.violations


def mailed(plan: Plan, *recipients: str) -> Record:
    """The record of a server that was sent one message, the usual way."""
    body = CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    with FaultyServer(plan) as server, contextlib.suppress(OSError):
        speak(server, b"EHLO x\r\n", envelope(1, *recipients), b"DATA\r\n", body, b"QUIT\r\n")
    return server.record


MESSAGE = Message("s1@x.example", ["ok-1@x.example", "never-1@x.example"], CONTENT, tag=1)


def honest(record: Record) -> Outcome:
    """The true outcome of `MESSAGE`."""
    refusal = next(each for each in record.replies if each.code == 550)
    final = next(each for each in record.replies if each.command == "body")
    results = {
        "ok-1@x.example": RecipientResult(Status.ACCEPTED, 250, None, f"ok #{final.number}#"),
        "never-1@x.example": RecipientResult(Status.REFUSED, 550, None, f"no #{refusal.number}#"),
    }
    return Outcome(1, MESSAGE, Status.PARTIAL, results)


@pytest.fixture
def record() -> Record:
    return mailed(Plan(1, extensions=OFFERS), *MESSAGE.recipients)


def test_the_truth_passes(record: Record) -> None:
    assert Judge(record, [MESSAGE], [honest(record)]).problems_found() == []


def with_result(recipient: str, **changes: object) -> Callable[[Outcome], list[Outcome]]:
    def lie(true: Outcome) -> list[Outcome]:
        results = dict(true.recipients)
        results[recipient] = results[recipient]._replace(**changes)
        return [replace(true, recipients=results)]

    return lie


ONE, OTHER = MESSAGE.recipients
LIES = {
    "no outcome": lambda true: [],
    "two outcomes": lambda true: [true, true],
    "another tag": lambda true: [replace(true, tag=2)],
    "a recipient is missing": lambda true: [replace(true, recipients={ONE: true.recipients[ONE]})],
    "as a whole": lambda true: [replace(true, status=Status.ACCEPTED)],
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


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_is_seen(lie: Callable[[Outcome], list[Outcome]], record: Record) -> None:
    assert Judge(record, [MESSAGE], lie(honest(record))).problems_found()


def test_what_was_delivered_twice_or_wrongly_is_seen(record: Record) -> None:
    true = honest(record)
    [delivery] = record.deliveries
    for wrong in (
        delivery,
        replace(delivery, content=b"another's"),
        replace(delivery, sender="s2@x.example"),
        replace(delivery, recipient="ok-2@x.example"),
    ):
        record.deliveries = [wrong, delivery] if wrong is delivery else [wrong]
        assert Judge(record, [MESSAGE], [true]).problems_found()


@pytest.mark.parametrize("fault", ["close after", "reset after", "malformed after", "cut"])
def test_accepted_without_a_whole_reply_is_a_lie(fault: str) -> None:
    record = Record()
    for seed in range(200):
        plan = Plan(seed, extensions=OFFERS, probability=0.3, losses=1, faults=(fault,))
        record = mailed(plan, ONE)
        if record.deliveries and not record.deliveries[0].reply.valid:
            break
    reply = record.deliveries[0].reply
    results = {ONE: RecipientResult(Status.ACCEPTED, 250, None, f"ok #{reply.number}#")}
    message = replace(MESSAGE, recipients=[ONE])
    outcome = Outcome(1, message, Status.ACCEPTED, results)
    assert Judge(record, [message], [outcome]).problems_found()
    results = {ONE: RecipientResult(Status.UNKNOWN, None, None, "lost")}
    outcome = Outcome(1, message, Status.UNKNOWN, results)
    assert Judge(record, [message], [outcome]).problems_found() == []


def test_repair() -> None:
    assert repaired(b"a\nb\rc\r\n\r") == b"a\r\nb\r\nc\r\n\r\n"
    assert repaired(b"") == b"\r\n"
