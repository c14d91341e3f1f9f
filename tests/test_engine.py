"""The door of the engine, opened directly: what goes over the wire, and what is told of it."""

import base64
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trustme

from rapidsmtp.delivery import path
from rapidsmtp.message import Message
from server import Connection, Dialogue, Server

HALVES = ["rust", "python"]

LIMIT = 5.0
PIPELINING = ("PIPELINING", "ENHANCEDSTATUSCODES")
SECONDS = ("connect", "tls", "greeting", "command", "mail", "rcpt", "data", "block", "body")
BODY = b"Subject: hi\r\n\r\nhello\r\n"


@pytest.fixture
def half(half: str) -> str:
    if half not in HALVES:
        pytest.skip("this half has no engine yet")
    return half


@pytest.fixture
def engine(core: ModuleType) -> Iterator[Callable[..., Any]]:
    """Makes engines, and closes them."""
    made = []

    def make(server: Server | None = None, **settings: Any) -> Any:
        if server is not None:
            settings = {"host": server.host, "port": server.port, **settings}
        made.append(core.Engine(**{**DEFAULTS, **settings}))
        return made[-1]

    yield make
    for each in made:
        each.close(0.0)


DEFAULTS: dict[str, Any] = {
    "scheme": "smtp",
    "host": "127.0.0.1",
    "port": 25,
    "path": None,
    "local_hostname": "client.example",
    "source_address": None,
    "starttls": "off",
    "verify": True,
    "ca": None,
    "certificate": None,
    "key": None,
    "server_hostname": None,
    "minimum_version": "1.2",
    "user": None,
    "mechanism": None,
    "password": None,
    "ask_password": False,
    "allow_plaintext_auth": False,
    "connections": 1,
    "pipelining": "transaction",
    "window": 8,
    "rate": None,
    "max_messages_per_connection": None,
    "max_recipients": 100,
    "max_attempts": 3,
    "backoff": (0.01, 2.0, 0.05),
    "resend_unknown": False,
    "timeouts": {**dict.fromkeys(SECONDS, 2.0), "quit": 1.0, "idle": 5.0, "age": 60.0},
    "queue_size": 1000,
    "queue_bytes": 1 << 26,
    "window_bytes": 1 << 22,
    "trace": False,
    "path_of": path,
}


def message(number: int = 0, *recipients: str, data: bytes = BODY, **options: Any) -> Message:
    to = recipients or (f"to{number}@example.org",)
    return Message(f"from{number}@example.org", to, data, tag=number, **options)


def taken(engine: Any, channel: int, limit: int, wait: float) -> list[tuple[Any, Any]]:
    decided: list[tuple[Any, Any]] = []
    assert engine.take(channel, decided, limit, wait) == len(decided)
    return decided


def send(engine: Any, *messages: Message) -> list[Any]:
    """The results, in the order of the messages."""
    channel = engine.channel()
    assert engine.offer(channel, list(messages), LIMIT) == len(messages)
    results: dict[int, Any] = {}
    until = time.monotonic() + LIMIT
    while engine.undecided(channel) and time.monotonic() < until:
        results |= {id(one): result for one, result in taken(engine, channel, 100, 0.5)}
    assert set(results) == {id(one) for one in messages}
    return [results[id(one)] for one in messages]


def statuses(result: Any) -> list[str]:
    return [status for status, *_ in result.details()[1]]


# What goes over the wire


def test_flights_where_pipelining_is_offered(engine: Any) -> None:
    with Server(Dialogue(PIPELINING, patient=True)) as server:
        (result,) = send(engine(server), message(0, "a@example.org", "b@example.org"))
        envelope = (
            b"mail FROM:<from0@example.org>\r\nrcpt TO:<a@example.org>\r\n"
            b"rcpt TO:<b@example.org>\r\ndata\r\n"
        )
        assert server.connections[0].flights[1:] == [envelope, BODY + b".\r\n"]
    status, recipients, reply, phase, attempts, seconds, reason = result.details()
    assert (status, phase, attempts, reason) == ("ACCEPTED", "body", 1, "")
    assert recipients == [("ACCEPTED", 250, "2.0.0", "2.0.0 queued as 1234")] * 2
    assert reply == (250, b"2.0.0 queued as 1234")
    assert 0 < seconds < LIMIT


@pytest.mark.parametrize(
    ("offered", "mode"), [((), "transaction"), (PIPELINING, "off")], ids=["not offered", "off"]
)
def test_one_command_a_flight(engine: Any, offered: tuple[str, ...], mode: str) -> None:
    with Server(Dialogue(offered, patient=True)) as server:
        door = engine(server, pipelining=mode)
        send(door, message(0, "a@example.org", "b@example.org"))
        assert [flight.split(b" ")[0] for flight in server.connections[0].flights] == [
            b"EHLO",
            b"mail",
            b"rcpt",
            b"rcpt",
            b"data\r\n",
            b"Subject:",
        ]
        assert door.stats()["pipelining"] == "off"


def test_parameters_of_mail(engine: Any) -> None:
    with Server(Dialogue((*PIPELINING, "SIZE 1000", "8BITMIME", "SMTPUTF8", "DSN"))) as server:
        data = b"Subject: \xc3\xa4\r\n\r\n"
        mail = message(0, "ä@example.org", data=data, mail_options=["RET=HDRS"])
        (result,) = send(engine(server), mail)
        assert result.status == "ACCEPTED"
        line = bytes(server.connections[0].received).split(b"\r\n")[1]
    assert line == b"mail FROM:<from0@example.org> size=%d RET=HDRS BODY=8BITMIME SMTPUTF8" % len(
        data
    )


@pytest.mark.parametrize(
    "mail",
    [
        message(0, data=b"\xe4\r\n"),
        message(0, "ä@example.org"),
        message(0, mail_options=["ENVID=1"]),
        message(0, rcpt_options=["NOTIFY=NEVER"]),
        message(0, data=b"x" * 2000),
    ],
    ids=["8bit", "utf8", "dsn", "dsn of a recipient", "size"],
)
def test_what_the_relay_does_not_offer(engine: Any, mail: Message) -> None:
    with Server(Dialogue((*PIPELINING, "SIZE 1000"))) as server:
        bad, good = send(engine(server), mail, message(1))
        assert bad.status == "INVALID"
        assert bad.details()[3] == "mail"
        assert good.status == "ACCEPTED"


@pytest.mark.parametrize("address", ["a\r\nRSET@example.org", "a\0@example.org"])
def test_what_cannot_be_encoded_is_never_sent(engine: Any, address: str) -> None:
    with Server(Dialogue(PIPELINING)) as server:
        (result,) = send(engine(server), message(0, address))
        assert (result.status, result.details()[3]) == ("INVALID", "build")
        assert server.connections == []


def test_connections_are_replaced(engine: Any) -> None:
    with Server(Dialogue(PIPELINING)) as server:
        send(engine(server, max_messages_per_connection=2), *map(message, range(5)))
        assert [bytes(each.received).count(b"mail ") for each in server.connections] == [2, 2, 1]
        assert server.wire(0).endswith(b"QUIT\r\n")


def test_too_many_recipients_are_split(engine: Any) -> None:
    with Server(Dialogue(("PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=100"))) as server:
        (result,) = send(engine(server), message(0, *(f"{n}@example.org" for n in range(5))))
        assert statuses(result) == ["ACCEPTED"] * 5
        assert bytes(server.connections[0].received).count(b"mail ") == 3


def test_lmtp_over_a_unix_socket(engine: Any, tmp_path: Path) -> None:
    place = str(tmp_path / "lmtp")
    replies = {"message": [b"250 2.0.0 one", b"550 5.2.2 full"]}
    with Server(Dialogue(PIPELINING, replies, lmtp=True), path=place):
        door = engine(scheme="lmtp", host="", port=0, path=place)
        (result,) = send(door, message(0, "a@example.org", "b@example.org"))
    assert result.status == "PARTIAL"
    assert result.details()[1] == [
        ("ACCEPTED", 250, "2.0.0", "2.0.0 one"),
        ("REFUSED", 550, "5.2.2", "5.2.2 full"),
    ]


# Fates


def test_only_the_deferred_are_tried_again(engine: Any) -> None:
    replies = {"rcpt": [b"250 ok", b"450 4.2.0 later", b"550 5.1.1 nobody", b"250 ok"]}
    with Server(Dialogue(PIPELINING, replies)) as server:
        (result,) = send(engine(server), message(0, "a@b.org", "c@d.org", "e@f.org"))
        wire = bytes(server.connections[0].received)
    assert statuses(result) == ["ACCEPTED", "ACCEPTED", "REFUSED"]
    assert (result.status, result.details()[4]) == ("PARTIAL", 2)
    assert (wire.count(b"<a@b.org>"), wire.count(b"<c@d.org>"), wire.count(b"<e@f.org>")) == (
        1,
        2,
        1,
    )


def test_deferred_after_the_attempts(engine: Any) -> None:
    with Server(Dialogue(PIPELINING, {"mail": lambda _: b"450 4.2.0 later"})) as server:
        (result,) = send(engine(server), message())
    status, recipients, _, phase, attempts, _, reason = result.details()
    assert (status, phase, attempts, reason) == ("DEFERRED", "mail", 3, "450 4.2.0 later")
    assert recipients == [("DEFERRED", 450, "4.2.0", "4.2.0 later")]


def test_the_remainder_goes_at_once(engine: Any) -> None:
    replies = {"rcpt": [b"250 ok", b"250 ok", b"452 4.5.3 too many", b"452 4.5.3 too many"]}
    with Server(Dialogue(PIPELINING, replies)) as server:
        door = engine(server)
        (result,) = send(door, message(0, *(f"{n}@example.org" for n in range(4))))
        assert (result.status, result.details()[4]) == ("ACCEPTED", 1)
        assert door.stats()["recipients_per_message"] == 2


def ends_after_the_message(connection: Connection) -> None:
    connection.send(b"220 hi\r\n")
    for reply in (b"250-x\r\n250 PIPELINING", b"250 ok", b"250 ok", b"354 go"):
        connection.line()
        connection.send(reply + b"\r\n")
    connection.message()
    connection.send(b"250 2.0.0 que")  # a reply that is cut off is none


def test_no_reply_to_the_message_is_unknown_and_never_sent_again(engine: Any) -> None:
    with Server(ends_after_the_message) as server:
        (result,) = send(engine(server), message())
        assert (result.status, result.details()[3]) == ("UNKNOWN", "body")
        assert len(server.connections) == 1


def test_unknown_is_sent_again_where_that_is_wanted(engine: Any) -> None:
    with Server(ends_after_the_message) as server:
        (result,) = send(engine(server, resend_unknown=True), message())
        assert (result.status, result.details()[4]) == ("UNKNOWN", 3)
        assert len(server.connections) == 3


def test_a_relay_that_stops_reading_is_heard(engine: Any) -> None:
    """It says 421 in the middle of the message, which is so not executed, and is sent again."""
    first = threading.Event()

    def script(connection: Connection) -> None:
        if first.is_set():
            Dialogue(PIPELINING)(connection)
            return
        first.set()
        connection.send(b"220 hi\r\n")
        for reply in (b"250-x\r\n250 PIPELINING", b"250 ok", b"250 ok", b"354 go"):
            connection.line()
            connection.send(reply + b"\r\n")
        connection.send(b"421 4.3.0 enough\r\n")
        time.sleep(0.5)

    with Server(script) as server:
        (result,) = send(engine(server), message(data=b"x" * 78 * 100_000))
        assert (result.status, result.details()[4]) == ("ACCEPTED", 1)
        assert len(server.connections) == 2


def test_a_reply_that_does_not_come_ends_the_connection(engine: Any) -> None:
    def script(connection: Connection) -> None:
        Dialogue(PIPELINING, {"message": lambda _: time.sleep(1) or b"250 late"})(connection)

    with Server(script) as server:
        timeouts = {**DEFAULTS["timeouts"], "body": 0.2}
        (result,) = send(engine(server, timeouts=timeouts), message())
    assert result.status == "UNKNOWN"
    assert "no reply in 0.2 seconds" in result.details()[6]


# The end of it all


def test_a_relay_that_will_not_have_us(engine: Any) -> None:
    with Server(Dialogue(PIPELINING, {"mail": lambda _: b"530 5.7.0 log in"})) as server:
        door = engine(server)
        results = send(door, *map(message, range(20)))
        assert {each.status for each in results} == {"NOT_ATTEMPTED"}
        assert bytes(server.connections[0].received).count(b"mail ") == 1
        line, code, text = door.error()
        assert (code, text) == (530, b"5.7.0 log in")
        assert "would not have us: 530 5.7.0 log in" in line
        assert [each.status for each in send(door, message())] == ["NOT_ATTEMPTED"]


def test_a_dead_relay_stops_it_until_it_is_restarted(engine: Any) -> None:
    with Server(Dialogue(PIPELINING)) as server:
        port = server.port
    door = engine(host="127.0.0.1", port=port)
    (result,) = send(door, message())
    assert (result.status, result.details()[3:5]) == ("NOT_ATTEMPTED", ("connect", 0))
    door.restart()
    assert door.error() is not None, "not so soon"
    time.sleep(1.1)
    door.restart()
    assert door.error() is None


def test_close_decides_everything(engine: Any) -> None:
    def script(connection: Connection) -> None:
        Dialogue(PIPELINING, {"message": lambda _: time.sleep(2) or b"250 late"})(connection)

    with Server(script) as server:
        door = engine(server)
        channel = door.channel()
        door.offer(channel, [message(number) for number in range(3)], LIMIT)
        time.sleep(0.3)
        start = time.monotonic()
        door.close(0.1)
        assert time.monotonic() - start < 1.5
        told = [result.status for _, result in taken(door, channel, 10, 0.0)]
        assert sorted(told) == ["NOT_ATTEMPTED", "NOT_ATTEMPTED", "UNKNOWN"]
        door.close(None)
        assert [each.status for each in send(door, message())] == ["NOT_ATTEMPTED"]
        assert door.descriptors() == []


def test_a_full_queue_waits(engine: Any) -> None:
    with Server(Dialogue(PIPELINING)) as server:
        door = engine(server, queue_size=2)
        channel = door.channel()
        messages = [message(number) for number in range(5)]
        assert door.offer(channel, messages, 0.0) == 2
        assert [each.tag for each in messages] == [2, 3, 4]
        assert len(taken(door, channel, 1, LIMIT)) == 1
        assert door.undecided(channel) == 1


def test_the_rate_is_kept(engine: Any) -> None:
    with Server(Dialogue(PIPELINING)) as server:
        start = time.monotonic()
        send(engine(server, rate=10.0, connections=3), *map(message, range(6)))
        assert 0.45 < time.monotonic() - start < 2


# Security


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


LOGIN = {"user": "user", "password": "secret", "starttls": "required"}


def test_starttls_and_a_login(engine: Any, tls: ssl.SSLContext, authority: trustme.CA) -> None:
    with Server(Dialogue(("STARTTLS", "AUTH PLAIN", *PIPELINING), tls=tls)) as server:
        door = engine(server, ca=authority.cert_pem.bytes(), trace=True, **LOGIN)
        (result,) = send(door, message())
        assert result.status == "ACCEPTED"
        told = " ".join(str(line) for what, line in door.attend(0.0) if what == "trace")
        response = base64.b64encode(b"\0user\0secret").decode()
        assert response.encode() in bytes(server.connections[0].received)
        assert "C: AUTH PLAIN ***" in told
        assert response not in told
        assert BODY.decode() not in told


def test_a_certificate_that_is_not_trusted(engine: Any, tls: ssl.SSLContext) -> None:
    with Server(Dialogue(("STARTTLS", "AUTH PLAIN"), tls=tls)) as server:
        door = engine(server, **LOGIN)
        (result,) = send(door, message())
        assert result.status == "NOT_ATTEMPTED"
        assert "is not trusted" in door.error()[0]
        time.sleep(1.1)
        door.restart()
        assert door.error() is not None, "for good"


def test_clear_text_behind_the_220_of_starttls(engine: Any, tls: ssl.SSLContext) -> None:
    replies = {"starttls": b"220 go\r\n250 injected"}
    with Server(Dialogue(("STARTTLS", "AUTH PLAIN"), replies)) as server:
        door = engine(server, **LOGIN)
        assert send(door, message())[0].status == "NOT_ATTEMPTED"
        assert "clear text" in door.error()[0]
        assert b"AUTH" not in server.wire()


@pytest.mark.parametrize("offered", [(), ("AUTH PLAIN",)], ids=["", "auth"])
def test_no_login_without_tls(engine: Any, offered: tuple[str, ...]) -> None:
    with Server(Dialogue(offered)) as server:
        for starttls in ("required", "opportunistic", "off"):
            door = engine(server, **{**LOGIN, "starttls": starttls})
            assert send(door, message())[0].status == "NOT_ATTEMPTED"
        assert all(b"AUTH" not in each.received for each in server.connections)


def test_a_wrong_password_is_tried_once(engine: Any) -> None:
    with Server(Dialogue(("AUTH PLAIN LOGIN",), {"auth": b"535 5.7.8 no"})) as server:
        settings = {**LOGIN, "starttls": "off", "allow_plaintext_auth": True, "connections": 4}
        door = engine(server, **settings)
        results = send(door, *map(message, range(50)))
        assert {each.status for each in results} == {"NOT_ATTEMPTED"}
        assert sum(each.received.count(b"AUTH") for each in server.connections) == 1
        assert door.error()[1] == 535


def test_the_password_is_asked_for(engine: Any) -> None:
    with Server(Dialogue(("AUTH PLAIN",))) as server:
        settings = {**LOGIN, "starttls": "off", "allow_plaintext_auth": True}
        door = engine(server, **{**settings, "password": None, "ask_password": True})
        channel = door.channel()
        door.offer(channel, [message()], LIMIT)
        assert door.error() is None
        if door.attend(LIMIT) == [("password", None)]:
            door.password(None, "the vault is shut")
        ((_, result),) = taken(door, channel, 1, LIMIT)
        assert result.status == "NOT_ATTEMPTED"
