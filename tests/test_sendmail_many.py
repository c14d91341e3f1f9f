"""`SMTP.sendmail_many`: many messages over one connection, each with one outcome."""

from email.message import EmailMessage
from typing import Any

import pytest

import rapidsmtp
from rapidsmtp import Message, Outcome, Status
from server import HANG_UP, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

MESSAGES = [
    Message("s@example.com", [f"r{number}@example.com"], b"x", tag=number) for number in range(5)
]


@pytest.fixture(params=[True, False], ids=["pipelined", "sequential"])
def extensions(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return ("PIPELINING",) if request.param else ()


def sent(messages: Any, extensions: tuple[str, ...], **replies: Any) -> list[Outcome]:
    with Server(SMTPScript(extensions, replies=replies)) as server:
        with rapidsmtp.SMTP(server.host, server.port) as client:
            outcomes = client.sendmail_many(messages)
        assert len(server.connections) == 1
        return outcomes


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status.name for outcome in outcomes]


def test_outcomes_are_in_the_order_of_the_messages(extensions: tuple[str, ...]) -> None:
    outcomes = sent(iter(MESSAGES), extensions)
    assert [outcome.tag for outcome in outcomes] == [0, 1, 2, 3, 4]
    for outcome in outcomes:
        assert outcome.status is Status.ACCEPTED and outcome.attempts == 1
        assert outcome.reply == (250, b"2.0.0 queued as 1234") and outcome.phase == "body"


@pytest.mark.parametrize(
    ("at", "phase"), [("mail", "mail"), ("rcpt", "rcpt"), ("data", "data"), ("message", "data")]
)
def test_a_refusal_does_not_stop_the_next_message(
    extensions: tuple[str, ...], at: str, phase: str
) -> None:
    usual = b"354 go on" if at == "data" else b"250 ok"
    replies = [usual, b"550 5.7.1 no", b"450 4.2.1 later", usual]
    outcomes = sent(MESSAGES[:4], extensions, **{at: replies})
    assert statuses(outcomes) == ["ACCEPTED", "REFUSED", "DEFERRED", "ACCEPTED"]
    assert (outcomes[1].phase, outcomes[1].reason) == (phase, "550 5.7.1 no")
    assert outcomes[1].recipients["r1@example.com"].enhanced_status == "5.7.1"


def test_recipients_may_have_different_results(extensions: tuple[str, ...]) -> None:
    message = ("a@example.com", ["b@example.com", "c@example.com"], b"x")
    (outcome,) = sent([message], extensions, rcpt=[b"250 ok", b"550 no"])
    assert outcome.status is Status.PARTIAL
    assert [each.status.name for each in outcome.recipients.values()] == ["ACCEPTED", "REFUSED"]


def test_a_connection_lost_after_the_body_leaves_the_message_unknown(
    extensions: tuple[str, ...],
) -> None:
    outcomes = sent(MESSAGES, extensions, message=[b"250 ok", HANG_UP])
    expected = ["ACCEPTED", "UNKNOWN", "NOT_ATTEMPTED", "NOT_ATTEMPTED", "NOT_ATTEMPTED"]
    assert statuses(outcomes) == expected
    assert outcomes[2].reason == "the connection was lost" and outcomes[2].attempts == 0


@pytest.mark.parametrize("at", ["mail", "rcpt", "data"])
def test_a_connection_lost_before_the_body_leaves_the_message_unsent(
    extensions: tuple[str, ...], at: str
) -> None:
    usual = b"354 go on" if at == "data" else b"250 ok"
    outcomes = sent(MESSAGES[:3], extensions, **{at: [usual, HANG_UP]})
    assert statuses(outcomes) == ["ACCEPTED", "NOT_ATTEMPTED", "NOT_ATTEMPTED"]


def test_after_a_421_no_message_is_attempted(extensions: tuple[str, ...]) -> None:
    message = ("a@example.com", ["b@example.com", "c@example.com", "d@example.com"], b"x")
    outcomes = sent([message, MESSAGES[0]], extensions, rcpt=[b"250 ok", b"421 4.3.2 bye"])
    assert outcomes[1].status is Status.NOT_ATTEMPTED
    assert list(outcomes[0].recipients) == ["b@example.com", "c@example.com", "d@example.com"]
    assert outcomes[0].recipients["c@example.com"].code == 421
    assert Status.ACCEPTED not in {each.status for each in outcomes[0].recipients.values()}


def test_invalid_elements_have_invalid_outcomes(extensions: tuple[str, ...]) -> None:
    email = EmailMessage()
    email["From"], email["To"] = "a@example.com", "b@example.com"
    eight_bit = Message("a@example.com", ["b@example.com"], b"x", mail_options=["BODY=8BITMIME"])
    international = Message("a@example.com", ["b@example.com"], b"x", mail_options=["SMTPUTF8"])
    smuggled = Message("a@example.com", ["b@example.com>\r\nDATA"], b"x")
    passed = Outcome("row", None, Status.INVALID, phase="build", reason="the field is missing")
    outcomes = sent(
        [7, email, eight_bit, international, smuggled, passed, *MESSAGES[:1]], extensions
    )
    assert statuses(outcomes) == ["INVALID", "ACCEPTED", *["INVALID"] * 4, "ACCEPTED"]
    assert all(each.reason for each in outcomes if each.status is Status.INVALID)


def test_a_client_without_a_connection_raises() -> None:
    outcomes = rapidsmtp.SMTP().sendmail_many(MESSAGES[:2])
    assert statuses(outcomes) == ["NOT_ATTEMPTED"] * 2


def test_lmtp_recipients_may_have_different_results(extensions: tuple[str, ...]) -> None:
    script = SMTPScript(extensions, replies={"message": [b"250 ok", b"550 5.2.2 full"]}, lmtp=True)
    message = ("a@example.com", ["b@example.com", "c@example.com"], b"x")
    with Server(script) as server, rapidsmtp.LMTP(server.host, server.port) as client:
        (outcome,) = client.sendmail_many([message])
    assert outcome.status is Status.PARTIAL
    assert outcome.recipients["c@example.com"].code == 550
