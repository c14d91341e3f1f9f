"""Limits of relays with the real engines of both backends, against scripted servers.

`test_relay_models.py` has more models, without sockets.
"""

import threading
import time
from collections import Counter

import pytest

from rapidsmtp import Status
from senders import message, messages, send, send_and_stop, sender_to
from server import TIMEOUT, Connection, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

EXTENSIONS = ("PIPELINING",)
OK = b"250 2.0.0 ok"


def is_first(seen: Counter[bytes], line: bytes) -> bool:
    seen[line] += 1
    return seen[line] == 1


@pytest.mark.parametrize("phase", ["mail", "rcpt"])
@pytest.mark.parametrize(
    "refusal", [b"451 4.7.1 Try again later", b"450 4.2.0 Greylisted, try again later"]
)
def test_greylisting_of_some_messages_delays_no_other_message(phase: str, refusal: bytes) -> None:
    seen: Counter[bytes] = Counter()

    def reply(line: bytes) -> bytes:
        is_listed = b"7@" in line
        return refusal if is_listed and is_first(seen, line) else OK

    with Server(SMTPScript(EXTENSIONS, {phase: reply})) as server:
        sender = sender_to(server, connections=4)
        outcomes = send(sender, messages(300))
        assert Counter(outcome.status for outcome in outcomes) == {Status.ACCEPTED: 300}
        assert sender.stats().relay_limits.rate is None, "the rate is not the cause"
        assert Counter(outcome.attempts for outcome in outcomes) == {1: 270, 2: 30}


@pytest.mark.parametrize("code", [421, 451, 454])
@pytest.mark.parametrize("phase", ["greeting", "mail", "rcpt", "data", "message"])
@pytest.mark.parametrize(("limit", "connections"), [(1, 4), (3, 8)])
def test_a_limit_of_connections_is_learned(
    limit: int, connections: int, phase: str, code: int
) -> None:
    """The relay states the limit at some command. No message is lost, and none is attempted twice.

    The connections that the relay serves stay in use.
    """
    lock = threading.Lock()
    served: set[int] = set()
    refused: list[int] = []
    reply = b"%d 4.3.2 Too many concurrent SMTP connections" % code

    def script(connection: Connection) -> None:
        with lock:
            serves = len(served) < limit
            (served.add if serves else refused.append)(id(connection))
        # A slow relay: the sender uses all connections that it has.
        replies = {"message": lambda _: time.sleep(0.002) or OK} if serves else {phase: reply}
        try:
            SMTPScript(EXTENSIONS, replies)(connection)
        finally:
            with lock:
                served.discard(id(connection))

    with Server(script) as server:
        sender = sender_to(server, connections=connections)
        outcomes = send(sender, messages(400))
        assert Counter(outcome.status for outcome in outcomes) == {Status.ACCEPTED: 400}
        assert {outcome.attempts for outcome in outcomes} == {1}
        assert len(refused) <= connections - limit + 1
        assert sender.stats().relay_limits.messages_per_connection is None


@pytest.mark.parametrize(
    "line",
    [
        b"454 Throttling failure: Maximum sending rate exceeded",
        b"450 4.7.1 Error: too much mail from 127.0.0.1",
    ],
)
def test_a_rate_is_learned(line: bytes) -> None:
    """The relay accepts 300 messages per second, in bursts of 30."""
    rate, burst = 300, 30
    lock = threading.Lock()
    state = {"tokens": float(burst), "at": time.monotonic()}
    refusals: list[float] = []

    def reply(_: bytes) -> bytes:
        with lock:
            now = time.monotonic()
            state["tokens"] = min(burst, state["tokens"] + (now - state["at"]) * rate)
            state["at"] = now
            if state["tokens"] < 1:
                refusals.append(now)
                return line
            state["tokens"] -= 1
            return OK

    with Server(SMTPScript(EXTENSIONS, {"mail": reply})) as server:
        sender = sender_to(server, connections=2, max_attempts=2)
        outcomes = send(sender, messages(900))
        assert Counter(outcome.status for outcome in outcomes) == {Status.ACCEPTED: 900}
        assert {outcome.attempts for outcome in outcomes} == {1}
        # A sender that ignored the limit would be refused thousands of times.
        assert len(refusals) < 60
        # The relay accepted the burst in much less than a second. This burst is not its rate.
        learned = sender.stats().relay_limits.rate
        assert learned is None or learned > rate / 2


@pytest.mark.parametrize("phase", ["greeting", "helo", "mail", "rcpt", "data", "message"])
@pytest.mark.parametrize(
    "line", [b"421 4.3.2 try later", b"451 4.7.1 Try again later", b"454 4.7.0 Throttling failure"]
)
def test_with_one_attempt_the_first_refusal_is_reported_at_once(phase: str, line: bytes) -> None:
    """A web request does not wait for a relay that refuses its message."""
    name = "ehlo" if phase == "helo" else phase
    with Server(SMTPScript(EXTENSIONS, {name: line})) as server:
        with sender_to(server, connections=2, max_attempts=1) as sender:
            outcome = sender.submit(message(0)).result(TIMEOUT)
            assert outcome.status in (Status.DEFERRED, Status.NOT_ATTEMPTED)
            assert line.decode()[4:] in outcome.reason or line.decode()[10:] in outcome.reason
        assert len(server.connections) <= 2


@pytest.mark.usefixtures("fast_clock")
@pytest.mark.parametrize(
    "line", [b"421 4.3.2 System not accepting", b"454 4.7.0 Throttling failure"]
)
def test_a_relay_that_accepts_nothing_stops_the_sender(line: bytes) -> None:

    with Server(SMTPScript(EXTENSIONS, {"mail": line})) as server:
        outcomes, error = send_and_stop(sender_to(server, connections=4), messages(50))
        assert Status.ACCEPTED not in {outcome.status for outcome in outcomes}
        assert line.decode()[4:] in str(error)
        assert len(server.connections) < 40
