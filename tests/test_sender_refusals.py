"""The next step of `Sender` after the texts of providers, with scripted servers.

The tests of the module `diagnosis` cover the texts. The tests here show what follows from them.
"""

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from rapidsmtp import Backoff, Message, Outcome, Status
from senders import CONTENT, commands, message, messages, send, send_and_stop, sender_to, wait_for
from server import Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

OK = b"250 2.0.0 ok"
PIPELINING = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES")
LOG_IN = {"login": "user:secret@", "query": "?starttls=off", "allow_plaintext_auth": True}
PHASES = ["mail", "rcpt", "data", "message"]


def serve(replies: dict[str, Any], *capabilities: str, **settings: Any) -> Server:
    return Server(SMTPScript(capabilities or PIPELINING, replies, **settings))


def once(phase: str, reply: bytes, times: int = 1) -> dict[str, Callable[[object], bytes]]:
    """Return the replies of a relay that refuses once, or a few times, in a phase, then accepts."""
    replies = iter([reply] * times)
    usual = b"354 go on" if phase == "data" else OK
    return {phase: lambda _: next(replies, usual)}


def statuses(outcomes: list[Outcome]) -> set[Status]:
    return {outcome.status for outcome in outcomes}


# A limit of the account is used up: the sender stops, and states when the relay may accept again


@pytest.mark.parametrize("pipelining", ["off", "stream"])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (b"550 5.4.5 Daily user sending limit exceeded.", 86400.0),
        (b"454 Throttling failure: Daily message quota exceeded.", 86400.0),
        (b"451 4.7.1 hourly limit exceeded", 3600.0),
        (b"451 4.7.1 hourly limit exceeded, try again in 5 minutes", 300.0),
        (b"550 5.7.1 monthly limit exceeded", None),
        (b"554 5.7.1 your account is suspended", None),
    ],
)
def test_a_used_up_limit_of_the_account_stops_the_sender(
    reply: bytes, seconds: float | None, phase: str, pipelining: str
) -> None:
    with serve({phase: reply}) as server:
        sender = sender_to(server, connections=1, pipelining=pipelining)
        outcomes, error = send_and_stop(sender, messages(100))
        # In stream mode, the transactions in flight are more than one.
        assert commands(server, b"MAIL") < 100
        assert pipelining == "stream" or commands(server, b"MAIL") == 1
    text = reply.decode()
    assert str(error) == f"relay 127.0.0.1:{server.port} accepts no more mail for now: {text}"
    assert error.reply == (int(reply[:3]), reply[4:])
    assert error.retry_after == seconds
    assert statuses(outcomes) == {Status.NOT_ATTEMPTED}
    assert any(outcome.reason == text for outcome in outcomes), (
        "the refused message keeps its reply"
    )


def test_the_messages_before_the_limit_are_accepted() -> None:
    replies = iter([OK] * 5)
    limit = b"550 5.4.5 Daily user sending limit exceeded."
    with serve({"message": lambda _: next(replies, limit)}) as server:
        outcomes, error = send_and_stop(sender_to(server, connections=1), messages(20))
    counts = [outcome.status for outcome in outcomes]
    assert counts.count(Status.ACCEPTED) == 5
    assert counts.count(Status.NOT_ATTEMPTED) == 15
    assert error.retry_after == 86400


@pytest.mark.parametrize(
    ("replies", "settings"),
    [
        ({"greeting": b"450 4.7.1 daily sending quota exceeded"}, {}),
        ({"ehlo": b"450 4.7.1 daily sending quota exceeded"}, {}),
        ({"auth": b"454 4.7.0 daily sending quota exceeded"}, LOG_IN),
    ],
    ids=["greeting", "ehlo", "auth"],
)
def test_a_used_up_limit_before_the_first_message_stops_the_sender(
    replies: dict[str, Any], settings: dict[str, Any]
) -> None:
    with serve(replies, "AUTH PLAIN") as server:
        outcomes, error = send_and_stop(sender_to(server, **settings), messages(30))
        assert len(server.connections) == 1
    assert "accepts no more mail for now: 45" in str(error)
    assert error.retry_after == 86400
    assert statuses(outcomes) == {Status.NOT_ATTEMPTED}


def test_other_stops_state_a_time_only_if_the_reply_does() -> None:
    for text, seconds in ((b"530 5.7.0 log in", None), (b"530 try again in 2 hours", 7200.0)):
        with serve({"mail": text}) as server:
            _, error = send_and_stop(sender_to(server), messages(3))
        assert "rejected the session: 530" in str(error)
        assert error.retry_after == seconds


def test_the_time_survives_pickling() -> None:
    with serve({"mail": b"550 5.4.5 Daily user sending limit exceeded."}) as server:
        _, error = send_and_stop(sender_to(server), messages(1))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reply, again.retry_after) == (str(error), error.reply, 86400)


# A full mailbox concerns one recipient


@pytest.mark.parametrize(
    "reply",
    [
        b"452 4.2.2 over quota",
        b"552 5.2.2 The email account is over its quota",
        b"452 4.2.2 daily quota of the mailbox exceeded",
        b"450 4.2.1 The user you are trying to contact is receiving mail too quickly.",
        b"550 5.2.1 The user you are trying to contact is receiving mail at a rate that is limited",
    ],
)
@pytest.mark.parametrize("scheme", ["smtp", "lmtp"])
def test_a_mailbox_over_its_quota_concerns_its_recipient(reply: bytes, scheme: str) -> None:
    replies = iter([OK, reply, OK])
    point = "message" if scheme == "lmtp" else "rcpt"
    with serve({point: lambda _: next(replies, OK)}, lmtp=scheme == "lmtp") as server:
        sender = sender_to(server, scheme, connections=1, max_attempts=1)
        recipients = [f"r{number}@example.com" for number in range(3)]
        first, second = send(sender, [Message("s@example.com", recipients, CONTENT), message()])
        assert sender.stats().relay_limits.rate is None
    expected = Status.DEFERRED if reply.startswith(b"4") else Status.REFUSED
    results = [each.status for each in first.recipients.values()]
    assert results == [Status.ACCEPTED, expected, Status.ACCEPTED]
    assert second.status is Status.ACCEPTED


# A refusal without a stated cause does not lower the rate


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    "reply",
    [
        b"451 4.7.1 Try again later",
        b"451 4.3.0 Temporary server error. Please try again later",
        b"452 4.3.1 Insufficient system storage",
        b"451",
    ],
)
def test_one_deferred_message_does_not_lower_the_rate(reply: bytes, phase: str) -> None:
    with serve(once(phase, reply)) as server:
        sender = sender_to(server, connections=1, max_attempts=2)
        outcomes = send(sender, messages(10))
        assert statuses(outcomes) == {Status.ACCEPTED}
        assert sorted(outcome.attempts for outcome in outcomes) == [1] * 9 + [2]
        assert sender.stats().relay_limits.rate is None
        assert len(server.connections) == 1


# Limits of the relay: the message is not concerned, so the attempt is not counted


@pytest.mark.usefixtures("fast_clock")
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    "reply",
    [
        b"421 4.7.0 Too many concurrent SMTP connections",
        b"452 4.3.2 Too many simultaneous connections",
        b"451 4.7.1 Too many sessions from your host",
    ],
)
def test_too_many_connections_count_no_attempt(reply: bytes, phase: str) -> None:
    with serve(once(phase, reply)) as server:
        sender = sender_to(server, connections=1, max_attempts=2)
        outcomes = send(sender, messages(10))
        assert statuses(outcomes) == {Status.ACCEPTED}
        assert {outcome.attempts for outcome in outcomes} == {1}
        assert sender.stats().relay_limits.messages_per_connection is None


@pytest.mark.usefixtures("fast_clock")
@pytest.mark.parametrize(
    "reply",
    [
        b"450 4.7.1 Error: too much mail from 127.0.0.1",
        b"451 Sender rate overlimit - 101.5 / 1h",
        b"450 4.7.1 too many messages, slow down",
        b"421 4.7.28 Gmail has detected an unusual rate of mail",
        b"451 4.7.500 Server busy. Please try again later",
    ],
)
@pytest.mark.parametrize("times", [1, 2])
def test_the_second_text_about_the_rate_decreases_the_rate(reply: bytes, times: int) -> None:
    with serve(once("mail", reply, times)) as server:
        sender = sender_to(server, connections=1, max_attempts=2)
        outcomes = send(sender, messages(5))
        assert statuses(outcomes) == {Status.ACCEPTED}
        assert {outcome.attempts for outcome in outcomes} == {1}
        # One refusal can concern one message, so it decreases no rate.
        assert (sender.stats().relay_limits.rate is not None) == (times == 2)


# The counters


@pytest.mark.parametrize("phase", PHASES)
def test_the_counters_state_the_refusal_and_the_next_attempt(phase: str) -> None:
    with serve({phase: lambda _: b"450 4.2.0 later"}) as server:
        sender = sender_to(server, backoff=Backoff(base=300.0), max_attempts=2)
        sender.submit(message())
        wait_for(lambda: sender.stats().waiting and sender.stats().refusal)
        stats = sender.stats()
        assert stats.refusal == "450 4.2.0 later"
        assert 0 < stats.next_attempt <= 300
        sender.close(0)


def test_the_counters_state_no_refusal_of_a_relay_that_accepts() -> None:
    with serve({"rcpt": [b"450 4.2.0 later"]}) as server, sender_to(server) as sender:
        outcomes = [each.status for each in sender.send(messages(2))]
        assert outcomes == [Status.ACCEPTED] * 2
        stats = sender.stats()
        assert (stats.refusing_for, stats.refusal, stats.next_attempt) == (0.0, None, 0.0)


@pytest.mark.usefixtures("fast_clock")
def test_the_counters_state_the_failure_of_a_connection() -> None:
    greetings = iter([b"220 ready"])
    replies = {"greeting": lambda _: next(greetings, b"421 4.3.2 busy"), "mail": [b"421 4.4.2 bye"]}
    with serve(replies) as server:
        sender = sender_to(server, connections=1, max_attempts=99)
        sender.submit(message())
        wait_for(lambda: "4.3.2 busy" in (sender.stats().refusal or ""))
        sender.close(0)
