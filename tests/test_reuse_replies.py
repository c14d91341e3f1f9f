"""Each reply to a message on a kept connection gives the result that it gives on a fresh one."""

import itertools
import smtplib
from collections.abc import Iterator
from typing import Any

import pytest

import rapidsmtp
from comparison import STATE, details_of
from rapidsmtp._smtp import kept
from reusing import MESSAGE, connect, new_store
from server import HANG_UP, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

RECIPIENTS = ["one@example.com", "two@example.com"]
USUAL = {
    "mail": [b"250 2.1.0 ok"],
    "rcpt": [b"250 2.1.5 ok", b"250 2.1.5 ok"],
    "data": [b"354 go on"],
    "message": [b"250 2.0.0 queued", b"250 2.0.0 queued"],
}
PLACES = [("mail", 0), ("rcpt", 0), ("rcpt", 1), ("data", 0), ("message", 0), ("message", 1)]
REPLIES = [
    *(b"250 planned", b"251 planned", b"252 planned", b"354 planned", b"421 planned"),
    *(b"450 planned", b"550 planned", b"220 planned", b"what?", b"250-one\r\n250 two"),
    *(b"250-one\r\n550 two", HANG_UP),
]


@pytest.fixture(autouse=True)
def store() -> Iterator[kept.Store]:
    with new_store() as store:
        yield store


def outcome_of(client: Any, server: Server) -> Any:
    """Send a message, and return the result and the state of the client."""
    try:
        refused = client.sendmail("sender@example.com", RECIPIENTS, MESSAGE)
        result: Any = ("returned", dict(refused), refused.reply, refused.accepted)
    except Exception as error:
        sent = {name: getattr(error, name, None) for name in ("body_sent", "accepted")}
        result = ("raised", type(error), error.args, details_of(error), sent)
    state = {name: getattr(client, name) for name in STATE}
    state |= {"sock": state["sock"] is None, "file": state["file"] is None}
    return result, state


def is_end_before_the_message(place: str, reply: bytes) -> bool:
    return place != "message" and (reply == HANG_UP or reply.startswith(b"421"))


@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("extensions", [("PIPELINING", "SIZE"), ("SIZE",)], ids=["pipe", "plain"])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]}{place[1]}")
def test_each_reply_has_the_same_result(place: Any, extensions: Any, lmtp: bool) -> None:
    command, number = place
    if command == "message" and number and not lmtp:
        pytest.skip("SMTP has one reply to the message")
    for reply in REPLIES:
        planned = {name: list(replies) for name, replies in USUAL.items()}
        planned["message"] = planned["message"][: 2 if lmtp else 1]
        usual = {name: list(replies) for name, replies in planned.items()}
        planned[command][number] = reply
        cls = rapidsmtp.LMTP if lmtp else rapidsmtp.SMTP
        with Server(SMTPScript(extensions, planned, lmtp=lmtp)) as server:
            client = connect(server, cls, reuse=0)
            expected = outcome_of(client, server)
            client.close()
        both = {name: usual[name] + planned[name] for name in usual}
        with Server(SMTPScript(extensions, both, lmtp=lmtp)) as server:
            client = connect(server, cls)
            success = outcome_of(client, server)
            assert success[0][0] == "returned"
            client.quit()
            client = connect(server, cls)
            client.ehlo()
            assert "reused" in repr(client)
            found = outcome_of(client, server)
            if is_end_before_the_message(command, reply):
                assert found == success, reply
                assert len(server.connections) == 2
                assert [bytes(each.received).count(b".\r\n") for each in server.connections] == [
                    1,
                    1,
                ]
            else:
                assert found == expected, reply
                assert len(server.connections) == 1
            was_clean = found[0][:2] == ("returned", {}) and client.sock is not None
            if client.sock is not None:
                kept_before = rapidsmtp.reuse_stats().kept
                client.quit()
                assert (rapidsmtp.reuse_stats().kept > kept_before) == was_clean
            rapidsmtp.install(reuse=0)
            rapidsmtp.uninstall()


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()], ids=["pipelining", "without"])
def test_the_message_is_sent_at_most_once_for_each_pair_of_replies(extensions: Any) -> None:
    """A relay that ends the first two connections in any way gets the message at most once."""
    ends = {"mail": HANG_UP, "rcpt": b"421 4.3.2 down", "data": HANG_UP, "message": HANG_UP}
    for first, second in itertools.product(ends, ends):
        plans = iter([{first: [USUAL[first][0], ends[first]]}, {second: [ends[second]]}])
        is_sent = "message" in (first, second)

        def script(connection: Any, plans: Any = plans) -> None:
            SMTPScript(extensions, next(plans))(connection)

        with Server(script) as server:
            client = connect(server)
            client.sendmail("sender@example.com", RECIPIENTS[0], MESSAGE)
            client.quit()
            client = connect(server)
            with pytest.raises(smtplib.SMTPException) as caught:
                client.sendmail("sender@example.com", RECIPIENTS[0], MESSAGE)
            bodies = [bytes(each.received).count(b"\r\n.\r\n") for each in server.connections]
            assert sum(bodies) == 1 + is_sent
            assert getattr(caught.value, "body_sent", False) == is_sent
            assert len(server.connections) == (1 if first == "message" else 2)
