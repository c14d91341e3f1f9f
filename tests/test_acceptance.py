"""A message is reported as accepted only if the relay read it and replied with a success code."""

import itertools
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import relay_model
from rapidsmtp import Message, Outcome, Status
from relay_model import COMMANDS, USUAL, Plan, Relay

pytestmark = pytest.mark.usefixtures("backend")

CODES = (199, 200, 220, 221, 235, 250, 251, 252, 299, 300, 334, 354, 355, 421, 450, 500, 550, 600)
SURPLUS = (b"220 ready", b"250 ok", b"252 perhaps", b"354 go on", b"450 later", b"550 no", b"what?")


def send_by_methods(relay: Relay, messages: list[Message]) -> Any:
    with mock.patch("rapidsmtp._smtp.flights.applies", return_value=False):
        return relay_model.send_blocking(relay, messages)


SENDERS = {
    "drop-in": relay_model.send_blocking,
    "methods": send_by_methods,
    "aio": relay_model.send_async,
}


@pytest.fixture(params=SENDERS)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["pipelined", "sequential"])
def pipelining(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "pipelined")


def messages(*counts: int) -> list[Message]:
    """Return a message for each count of recipients. Each recipient occurs only once."""
    return [
        Message("s@example.com", [f"m{number}r{place}@example.com" for place in range(count)], b"x")
        for number, count in enumerate(counts)
    ]


def check(face: str, plan: Plan, *counts: int) -> list[Outcome]:
    """Send a message for each count of recipients, and compare the outcomes with the relay."""
    relay = Relay(plan)
    outcomes, is_open = SENDERS[face](relay, messages(*counts))
    for outcome in outcomes:
        for address, result in outcome.recipients.items():
            if result.status is Status.ACCEPTED:
                assert address in relay.accepted, (plan, outcome)
            elif address in relay.accepted:
                assert result.status is Status.UNKNOWN, (plan, outcome)
    assert not (is_open and relay.in_data), f"the relay still reads a message: {plan}"
    return outcomes


def test_messages_are_accepted(face: str, pipelining: bool) -> None:
    for lmtp in (False, True):
        outcomes = check(face, Plan(pipelining=pipelining, lmtp=lmtp), 1, 2, 12)
        assert [outcome.status for outcome in outcomes] == [Status.ACCEPTED] * 3


@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_own_success_codes(
    face: str, pipelining: bool, command: str, lmtp: bool
) -> None:
    for code, use in itertools.product(CODES, range(3)):
        reply = b"%d planned" % code
        replies = {command: [USUAL[command]] * use + [reply]}
        if command == "rset":
            replies["rcpt"] = [b"550 no"] * 2
        check(face, Plan(replies, pipelining=pipelining, lmtp=lmtp), 1, 2, 1)


@pytest.mark.parametrize("command", ["greeting", "ehlo", *COMMANDS])
@pytest.mark.parametrize("body", [b"250 queued", b"550 spam"])
def test_a_surplus_reply_accepts_no_message(
    face: str, pipelining: bool, command: str, body: bytes
) -> None:
    for surplus, use, lmtp in itertools.product(SURPLUS, range(3), (False, True)):
        replies = {"body": [body] * 4}
        if command == "rset":
            replies["rcpt"] = [b"550 no"] * 2
        plan = Plan(replies, (command, use, surplus), pipelining, lmtp)
        check(face, plan, 1, 2, 1)


@pytest.mark.parametrize(
    ("command", "code"), [("mail", 252), ("mail", 354), ("data", 221), ("data", 250), ("rcpt", 354)]
)
def test_a_message_that_was_not_sent_is_not_attempted(
    face: str, pipelining: bool, command: str, code: int
) -> None:
    plan = Plan({command: [b"%d planned" % code]}, pipelining=pipelining)
    first, second = check(face, plan, 1, 1)
    (result,) = first.recipients.values()
    assert (first.status, result.code) == (Status.NOT_ATTEMPTED, code)
    # After a 252 to MAIL, RSET returns the server to a known state, unless DATA was already sent.
    is_usable = code == 252 and (face == "methods" or not pipelining)
    assert second.status is (Status.ACCEPTED if is_usable else Status.NOT_ATTEMPTED)


@pytest.mark.parametrize("code", [199, 300, 354, 600])
def test_an_invalid_reply_to_the_message_leaves_it_unknown(
    face: str, pipelining: bool, code: int
) -> None:
    plan = Plan({"body": [b"%d planned" % code]}, pipelining=pipelining)
    first, second = check(face, plan, 1, 1)
    assert (first.status, second.status) == (Status.UNKNOWN, Status.NOT_ATTEMPTED)


def test_a_recipient_with_an_unclear_reply_is_unknown(face: str, pipelining: bool) -> None:
    plan = Plan({"rcpt": [b"250 ok", b"252 perhaps"]}, pipelining=pipelining)
    (outcome,) = check(face, plan, 2)
    statuses = [result.status for result in outcome.recipients.values()]
    assert statuses == [Status.ACCEPTED, Status.UNKNOWN]


@pytest.mark.parametrize("rset", [b"502 no", b"250 ok"])
def test_a_refused_rset_closes_the_connection(face: str, pipelining: bool, rset: bytes) -> None:
    plan = Plan({"rcpt": [b"550 no"], "rset": [rset]}, pipelining=pipelining)
    first, second = check(face, plan, 1, 1)
    assert first.status is Status.REFUSED
    expected = Status.ACCEPTED if rset.startswith(b"250") else Status.NOT_ATTEMPTED
    assert second.status is expected


replies = st.sampled_from([b"%d planned" % code for code in CODES] + [b"what?", b"250-a\r\n250 b"])
mostly_usual = st.just(None) | st.just(None) | st.just(None) | replies


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    planned = {
        command: [
            USUAL[command] if reply is None else reply
            for reply in draw(st.lists(mostly_usual, max_size=6))
        ]
        for command in COMMANDS
    }
    commands = st.sampled_from(["greeting", "ehlo", *COMMANDS])
    surplus = st.tuples(commands, st.integers(0, 3), st.sampled_from(SURPLUS))
    return Plan(
        planned,
        draw(st.none() | surplus),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.none() | st.integers(0, 600)),
        draw(st.none() | st.integers(0, 600)),
        draw(st.integers(1, 40) | st.just(65536)),
    )


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plan=plans(), counts=st.lists(st.integers(1, 4) | st.just(12), min_size=1, max_size=4))
def test_an_accepted_message_was_read_and_accepted(
    face: str, plan: Plan, counts: list[int]
) -> None:
    check(face, plan, *counts)
