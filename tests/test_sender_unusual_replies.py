"""Relays that send unusual replies, or send replies at unusual moments, on both backends."""

import base64
import contextlib
import dataclasses
import socket
import threading
import time
from typing import Any

import pytest

from rapidsmtp import Message, RelayError, Status
from senders import CONTENT, LIMITS, message, messages, send_and_stop, sender_to, wires
from server import HANG_UP, Raw, Reply, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

OK = b"250 2.0.0 ok"


def serve(replies: dict[str, Any] | None = None, *capabilities: str) -> Server:
    return Server(SMTPScript(capabilities or ("PIPELINING",), replies or {}))


@pytest.mark.parametrize("pipelining", ["off", "transaction", "stream"])
def test_an_unexpected_line_is_not_the_start_of_the_next_reply(pipelining: str) -> None:
    replies = {"data": Raw(b"354 go\r\n2"), "message": b"550 5.7.1 spam"}
    with serve(replies) as server:
        sender = sender_to(server, pipelining=pipelining, max_attempts=1, connections=1)
        with sender:
            (outcome,) = sender.send(messages(1))
    assert outcome.status is Status.NOT_ATTEMPTED


@pytest.mark.parametrize("code", [b"200", b"252"])
def test_any_2yz_accepts_a_recipient(code: bytes) -> None:
    with serve({"rcpt": code + b" perhaps", "data": b"354 go on"}) as server:
        with sender_to(server) as sender:
            report = sender.send_all(messages(20))
        assert report.counts == {Status.ACCEPTED: 20}


@pytest.mark.usefixtures("fast_clock")
@pytest.mark.parametrize("reply", [b"2500 ok", b"250x ok", b"250-a\r\n250xb"])
@pytest.mark.parametrize("point", ["mail", "rcpt", "message"])
def test_a_fourth_character_is_no_part_of_a_code(point: str, reply: bytes) -> None:
    with serve({point: reply}) as server:
        sender = sender_to(server, connections=1, max_attempts=1)
        outcomes = []
        with sender, contextlib.suppress(RelayError):
            outcomes.extend(sender.send(messages(1)))
    expected = Status.UNKNOWN if point == "message" else Status.NOT_ATTEMPTED
    assert [each.status for each in outcomes] == [expected]


@pytest.mark.usefixtures("fast_clock")
@pytest.mark.parametrize("text", [b"999 beyond", b"600 x", b"150 wait", b"099 x"])
@pytest.mark.parametrize("command", ["greeting", "ehlo"])
def test_a_code_outside_2yz_to_5yz_loses_only_its_connection(command: str, text: bytes) -> None:
    usual = {"greeting": b"220 relay.example", "ehlo": b"250 relay.example"}[command]
    replies = iter([text])
    with (
        serve({command: lambda _: next(replies, usual)}) as server,
        sender_to(server, connections=1) as sender,
    ):
        (outcome,) = sender.send(messages(1))
    assert outcome.status is Status.ACCEPTED
    assert b"HELO" not in b"".join(wires(server))


USUAL = {"mail": b"250 ok", "rcpt": b"250 ok", "data": b"354 go on", "message": OK}


@pytest.mark.parametrize("pipelining", ["off", "transaction", "stream"])
@pytest.mark.parametrize("command", USUAL)
@pytest.mark.parametrize(
    "text", ["221 x", "252 x", "354 x", "600 x", "250 x\r\n250 x", "354 x\r\n250 x"]
)
def test_a_message_is_accepted_only_by_the_reply_to_it(
    pipelining: str, command: str, text: str
) -> None:
    """The relay sends an unusual reply to the first use of one command."""
    accepted: list[bytes] = []
    uses: list[bytes] = []

    def reply(line: bytes) -> bytes:
        uses.append(line)
        return text.encode() if len(uses) == 1 else USUAL[command]

    def accept(content: bytes) -> bytes:
        answer = reply(content) if command == "message" else OK
        if answer.startswith(b"2"):
            accepted.append(content.split(b"\r\n")[0])
        return answer

    given = [message(number, b"Subject: %d\r\n\r\nx\r\n" % number) for number in range(3)]
    with serve({command: reply, "message": accept}) as server:
        sender = sender_to(server, pipelining=pipelining, connections=1)
        outcomes = []
        with sender, contextlib.suppress(RelayError):
            outcomes.extend(sender.send(given))
    assert len(outcomes) == 3
    for outcome in outcomes:
        assert outcome.message is not None
        copies = accepted.count(outcome.message.data.split(b"\r\n")[0])
        assert copies == 1 or outcome.status is not Status.ACCEPTED
        assert copies == 0 or outcome.status in (Status.ACCEPTED, Status.UNKNOWN)


@pytest.mark.parametrize("pipelining", ["off", "transaction"])
@pytest.mark.parametrize("rset", [b"250 ok", b"252 perhaps"])
def test_any_2yz_to_rset_keeps_the_connection(pipelining: str, rset: bytes) -> None:
    with serve({"rcpt": [b"550 5.1.1 no"], "rset": rset}) as server:
        with sender_to(server, pipelining=pipelining, connections=1) as sender:
            statuses = [outcome.status for outcome in sender.send(messages(2))]
        assert statuses == [Status.REFUSED, Status.ACCEPTED]
        assert len(server.connections) == 1


@pytest.mark.parametrize("replies", [{"data": b"250 ok"}, {"rcpt": b"350 what"}])
def test_invalid_replies_cause_no_flood_of_connections(replies: dict[str, bytes]) -> None:
    with serve(replies) as server:
        send_and_stop(sender_to(server, connections=4), messages(100))
        assert len(server.connections) < 25


def test_a_late_password_is_not_used_for_the_next_request() -> None:
    tokens: list[str] = []
    said: list[str] = []

    def password() -> str:
        tokens.append(token := f"token{len(tokens)}")
        if len(tokens) == 1:
            time.sleep(2)
        return token

    def auth(line: bytes) -> bytes:
        said.append(base64.b64decode(line.split()[2]).split(b"\0")[2].decode())
        return b"235 ok"

    with serve({"auth": auth}, "PIPELINING", "AUTH PLAIN") as server:
        limits = dataclasses.replace(LIMITS, command=1)
        login = {"login": "u@", "query": "?starttls=off", "allow_plaintext_auth": True}
        with sender_to(server, password=password, timeouts=limits, **login) as sender:
            with pytest.raises(RelayError, match="no answer in time"):
                list(sender.send(messages(1)))
            # The password function returns the late password during this sleep.
            time.sleep(1.5)
            (outcome,) = sender.send(messages(1))
            assert outcome.status is Status.ACCEPTED
    assert said == ["token1"]


def test_a_connection_closed_while_idle_sets_no_limit_of_messages() -> None:
    def accept(line: bytes) -> bytes:
        sock = server.connections[-1].sock
        threading.Timer(1.6, sock.shutdown, [socket.SHUT_RDWR]).start()
        return OK

    with serve({"message": accept}) as server, sender_to(server, connections=1) as sender:
        for _ in range(2):
            assert sender.submit(message()).result(5).status is Status.ACCEPTED
            time.sleep(2)
        assert sender.stats().relay_limits.messages_per_connection is None


def test_a_rejection_during_the_body_is_read() -> None:
    def refuse(line: bytes) -> bytes:
        connection = server.connections[-1]
        connection.send(b"354 go on\r\n")
        connection.sock.recv(100_000)
        connection.send(b"552 5.3.4 too big\r\n")
        return HANG_UP

    large = (b"x" * 70 + b"\r\n") * 60_000
    # The reset and the reply may arrive in either order, so the test sends ten messages.
    for _ in range(10):
        with serve({"data": refuse}) as server, sender_to(server, connections=1) as sender:
            (outcome,) = sender.send([message(content=large)])
            assert (outcome.status, outcome.reason[:9]) == (Status.REFUSED, "552 5.3.4")
            assert len(server.connections) == 1


def test_an_invalid_reply_during_the_body_over_lmtp_is_no_delivery() -> None:
    def reply(line: bytes) -> bytes:
        connection = server.connections[-1]
        if len(server.connections) > 1:
            return b"354 go on"
        connection.send(b"354 go on\r\n")
        connection.sock.recv(100_000)
        connection.send(b"25x no code\r\n")
        return HANG_UP

    large = (b"x" * 70 + b"\r\n") * 60_000
    # The reset and the reply may arrive in either order, so the test sends three messages.
    for _ in range(3):
        script = SMTPScript(("PIPELINING",), {"data": reply}, lmtp=True)
        with Server(script) as server, sender_to(server, "lmtp", connections=1) as sender:
            (outcome,) = sender.send([message(content=large)])
            assert outcome.status is Status.ACCEPTED
            assert len(server.connections) == 2


def test_a_slow_callback_does_not_delay_the_end() -> None:
    with serve() as server:
        sender = sender_to(server)
        future = sender.submit(message())
        release = threading.Event()
        future.add_done_callback(lambda _: release.wait(60))
        assert future.result(30).status is Status.ACCEPTED
        start = time.monotonic()
        sender.close(0.2)
        assert time.monotonic() - start < 30
        release.set()


@pytest.mark.parametrize(
    ("option", "capabilities"),
    [
        ("BODY=BINARYMIME", ("PIPELINING", "BINARYMIME", "CHUNKING", "8BITMIME")),
        ("BODY=8BITMIME", ("PIPELINING",)),
        ("body=8bitmime", ("PIPELINING",)),
    ],
)
def test_unsupported_parameters_are_not_sent(option: str, capabilities: tuple[str, ...]) -> None:
    with serve({}, *capabilities) as server, sender_to(server) as sender:
        given = Message("a@example.com", ["b@example.com"], CONTENT, mail_options=[option])
        (outcome,) = sender.send([given])
        assert outcome.status is Status.INVALID and "does not support" in outcome.reason
        assert b"MAIL" not in b"".join(wires(server)).upper()


@pytest.mark.parametrize("option", [[], ["BODY=7BIT"]])
def test_eight_bits_need_8bitmime(option: list[str]) -> None:
    with serve() as server, sender_to(server) as sender:
        given = Message("a@example.com", ["b@example.com"], b"\xe4\r\n", mail_options=option)
        (outcome,) = sender.send([given])
        assert outcome.status is Status.INVALID and "8BITMIME" in outcome.reason


def test_the_size_of_the_caller_is_used() -> None:
    with serve({}, "PIPELINING", "SIZE 1000") as server, sender_to(server) as sender:
        given = Message("a@example.com", ["b@example.com"], CONTENT, mail_options=["SIZE=50"])
        (outcome,) = sender.send([given])
        assert outcome.status is Status.ACCEPTED
        assert b"".join(wires(server)).upper().count(b"SIZE=") == 1


def test_the_reported_attempts_do_not_exceed_the_maximum() -> None:
    with serve({"mail": b"421 4.0.0 bye"}) as server:
        sender = sender_to(server, max_attempts=1, connections=1)
        outcomes = []
        with sender, contextlib.suppress(RelayError):
            outcomes.extend(sender.send(messages(1)))
        assert [each.attempts for each in outcomes] == [1]


@pytest.mark.parametrize(
    ("replies", "settings"),
    [
        ({"ehlo": b"550 what"}, {}),
        (
            {"auth": b"503 you are in"},
            {"login": "u:secret@", "query": "?starttls=off", "allow_plaintext_auth": True},
        ),
    ],
)
def test_a_550_to_ehlo_or_a_503_to_auth_does_not_stop_the_sender(
    replies: dict[str, Reply], settings: dict[str, Any]
) -> None:
    with serve(replies, "AUTH PLAIN") as server, sender_to(server, **settings) as sender:
        (outcome,) = sender.send(messages(1))
        assert outcome.status is Status.ACCEPTED


def test_no_connection_is_opened_before_its_message_may_be_sent() -> None:
    limits = dataclasses.replace(LIMITS, idle=0.2)
    with serve() as server, sender_to(server, rate=1, connections=4, timeouts=limits) as sender:
        assert sender.send_all(messages(3)).counts == {Status.ACCEPTED: 3}
        # The sender opens about one connection for each message. On a busy machine, it may open one
        # or two more.
        assert len(server.connections) <= 8
