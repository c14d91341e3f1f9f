"""Direct calls of the engine's interface: the bytes on the wire, and the outcomes."""

import base64
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trustme

from rapidsmtp._compose.address import smtp_path
from rapidsmtp._models.message import Message
from rapidsmtp._models.settings import Backoff, EngineSettings, Timeouts
from server import Connection, Server, SMTPScript

BACKENDS = ["rust", "python"]

LIMIT = 5.0
PIPELINING = ("PIPELINING", "ENHANCEDSTATUSCODES")
SECONDS = ("connect", "tls", "greeting", "command", "mail", "rcpt", "data", "block", "body")
TIMEOUTS = Timeouts(**dict.fromkeys(SECONDS, 2.0), quit=1.0, idle=5.0, age=60.0)
BODY = b"Subject: hi\r\n\r\nhello\r\n"


@pytest.fixture
def backend(backend: str) -> str:
    if backend not in BACKENDS:
        pytest.skip("this backend has no engine")
    return backend


@pytest.fixture
def make_engine(core: ModuleType) -> Iterator[Callable[..., Any]]:
    """Return a function that creates engines, and close the engines at the end."""
    made = []

    def make(server: Server | None = None, **settings: Any) -> Any:
        if server is not None:
            settings = {"host": server.host, "port": server.port, **settings}
        made.append(core.Engine(EngineSettings(**{**DEFAULTS, **settings}), smtp_path))
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
    "genuine_sockets": False,
    "proxy": None,
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
    "backoff": Backoff(0.01, 2.0, 0.05),
    "resend_unknown": False,
    "timeouts": TIMEOUTS,
    "queue_size": 1000,
    "queue_bytes": 1 << 26,
    "window_bytes": 1 << 22,
    "trace": False,
    "clock_speed": 1.0,
}


def message(number: int = 0, *recipients: str, data: bytes = BODY, **options: Any) -> Message:
    to = recipients or (f"to{number}@example.org",)
    return Message(f"from{number}@example.org", to, data, tag=number, **options)


def taken_outcomes(engine: Any, outbox: int, limit: int, wait: float) -> list[tuple[Any, Any]]:
    finished: list[tuple[Any, Any]] = []
    assert engine.take(outbox, finished, limit, wait) == len(finished)
    return finished


def send(engine: Any, *messages: Message) -> list[Any]:
    """Send messages, and return their outcomes in the order of the messages."""
    outbox = engine.open_outbox()
    assert engine.submit(outbox, list(messages), LIMIT) == len(messages)
    outcomes: dict[int, Any] = {}
    until = time.monotonic() + LIMIT
    while engine.pending(outbox) and time.monotonic() < until:
        outcomes |= {id(one): outcome for one, outcome in taken_outcomes(engine, outbox, 100, 0.5)}
    assert set(outcomes) == {id(one) for one in messages}
    return [outcomes[id(one)] for one in messages]


def statuses(result: Any) -> list[str]:
    return [status for status, *_ in result.details()[1]]


def test_a_signal_handler_may_call_the_engine_in_the_middle_of_submit(core: ModuleType) -> None:
    """Signal handlers and destructors run in the middle of a call, in the same thread."""

    class Interrupting:
        recipients, data, mail_options, rcpt_options = ("to@example.org",), BODY, (), ()

        @property
        def sender(self) -> str:
            assert engine.stats()["taken"] == engine.pending(outbox) == 0
            other = engine.open_outbox()
            assert engine.submit(other, [message()], 0.0) == 1
            return "from@example.org"

    with Server(SMTPScript(PIPELINING)) as server:
        settings = {**DEFAULTS, "host": server.host, "port": server.port}
        engine = core.Engine(EngineSettings(**settings), smtp_path)
        outbox = engine.open_outbox()
        submit = threading.Thread(
            target=engine.submit, args=(outbox, [Interrupting()], 0.0), daemon=True
        )
        submit.start()
        submit.join(LIMIT)
        assert not submit.is_alive()
        engine.close(LIMIT)
        stats = engine.stats()
        assert stats["taken"] == stats["accepted"] == 2


# The bytes on the wire


def test_a_pipelined_message_has_two_flights(make_engine: Any) -> None:
    with Server(SMTPScript(PIPELINING, waits_for_pause=True)) as server:
        (result,) = send(make_engine(server), message(0, "a@example.org", "b@example.org"))
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
    ("extensions", "mode"), [((), "transaction"), (PIPELINING, "off")], ids=["not supported", "off"]
)
def test_a_sequential_flight_has_one_command(
    make_engine: Any, extensions: tuple[str, ...], mode: str
) -> None:
    with Server(SMTPScript(extensions, waits_for_pause=True)) as server:
        engine = make_engine(server, pipelining=mode)
        send(engine, message(0, "a@example.org", "b@example.org"))
        assert [flight.split(b" ")[0] for flight in server.connections[0].flights] == [
            b"EHLO",
            b"mail",
            b"rcpt",
            b"rcpt",
            b"data\r\n",
            b"Subject:",
        ]
        assert engine.stats()["pipelining"] == "off"


def test_the_parameters_of_mail_are_sent(make_engine: Any) -> None:
    with Server(SMTPScript((*PIPELINING, "SIZE 1000", "8BITMIME", "SMTPUTF8", "DSN"))) as server:
        data = b"Subject: \xc3\xa4\r\n\r\n"
        mail = message(0, "ä@example.org", data=data, mail_options=["RET=HDRS"])
        (result,) = send(make_engine(server), mail)
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
def test_a_message_that_needs_a_missing_capability_is_invalid(
    make_engine: Any, mail: Message
) -> None:
    with Server(SMTPScript((*PIPELINING, "SIZE 1000"))) as server:
        bad, good = send(make_engine(server), mail, message(1))
        assert bad.status == "INVALID"
        assert bad.details()[3] == "mail"
        assert good.status == "ACCEPTED"


@pytest.mark.parametrize("address", ["a\r\nRSET@example.org", "a\0@example.org"])
def test_an_invalid_address_is_never_sent(make_engine: Any, address: str) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        (result,) = send(make_engine(server), message(0, address))
        assert (result.status, result.details()[3]) == ("INVALID", "build")
        assert server.connections == []


def test_connections_are_replaced(make_engine: Any) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        send(make_engine(server, max_messages_per_connection=2), *map(message, range(5)))
        assert [bytes(each.received).count(b"mail ") for each in server.connections] == [2, 2, 1]
        assert server.wire(0).endswith(b"QUIT\r\n")


def test_too_many_recipients_are_split(make_engine: Any) -> None:
    with Server(SMTPScript(("PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=100"))) as server:
        (result,) = send(make_engine(server), message(0, *(f"{n}@example.org" for n in range(5))))
        assert statuses(result) == ["ACCEPTED"] * 5
        assert bytes(server.connections[0].received).count(b"mail ") == 3


def test_lmtp_works_over_a_unix_socket(make_engine: Any, tmp_path: Path) -> None:
    place = str(tmp_path / "lmtp")
    replies = {"message": [b"250 2.0.0 one", b"550 5.2.2 full"]}
    with Server(SMTPScript(PIPELINING, replies, lmtp=True), path=place):
        engine = make_engine(scheme="lmtp", host="", port=0, path=place)
        (result,) = send(engine, message(0, "a@example.org", "b@example.org"))
    assert result.status == "PARTIAL"
    assert result.details()[1] == [
        ("ACCEPTED", 250, "2.0.0", "2.0.0 one"),
        ("REFUSED", 550, "5.2.2", "5.2.2 full"),
    ]


# Outcomes


def test_only_deferred_recipients_are_retried(make_engine: Any) -> None:
    replies = {"rcpt": [b"250 ok", b"450 4.2.0 later", b"550 5.1.1 nobody", b"250 ok"]}
    with Server(SMTPScript(PIPELINING, replies)) as server:
        (result,) = send(make_engine(server), message(0, "a@b.org", "c@d.org", "e@f.org"))
        wire = bytes(server.connections[0].received)
    assert statuses(result) == ["ACCEPTED", "ACCEPTED", "REFUSED"]
    assert (result.status, result.details()[4]) == ("PARTIAL", 2)
    assert (wire.count(b"<a@b.org>"), wire.count(b"<c@d.org>"), wire.count(b"<e@f.org>")) == (
        1,
        2,
        1,
    )


def test_a_message_is_deferred_after_the_last_attempt(make_engine: Any) -> None:
    with Server(SMTPScript(PIPELINING, {"mail": lambda _: b"450 4.2.0 later"})) as server:
        (result,) = send(make_engine(server), message())
    status, recipients, _, phase, attempts, _, reason = result.details()
    assert (status, phase, attempts, reason) == ("DEFERRED", "mail", 3, "450 4.2.0 later")
    assert recipients == [("DEFERRED", 450, "4.2.0", "4.2.0 later")]


def test_recipients_above_the_limit_are_sent_at_once(make_engine: Any) -> None:
    replies = {"rcpt": [b"250 ok", b"250 ok", b"452 4.5.3 too many", b"452 4.5.3 too many"]}
    with Server(SMTPScript(PIPELINING, replies)) as server:
        engine = make_engine(server)
        (result,) = send(engine, message(0, *(f"{n}@example.org" for n in range(4))))
        assert (result.status, result.details()[4]) == ("ACCEPTED", 1)
        assert engine.stats()["recipients_per_message"] == 2


def ends_after_the_message(connection: Connection) -> None:
    connection.send(b"220 hi\r\n")
    for reply in (b"250-x\r\n250 PIPELINING", b"250 ok", b"250 ok", b"354 go"):
        connection.line()
        connection.send(reply + b"\r\n")
    connection.message()
    # The connection ends within the final reply, so this reply is invalid.
    connection.send(b"250 2.0.0 que")


def test_without_a_final_reply_the_message_is_unknown_and_not_resent(make_engine: Any) -> None:
    with Server(ends_after_the_message) as server:
        (result,) = send(make_engine(server), message())
        assert (result.status, result.details()[3]) == ("UNKNOWN", "body")
        assert len(server.connections) == 1


def test_an_unknown_message_is_resent_if_configured(make_engine: Any) -> None:
    with Server(ends_after_the_message) as server:
        (result,) = send(make_engine(server, resend_unknown=True), message())
        assert (result.status, result.details()[4]) == ("UNKNOWN", 3)
        assert len(server.connections) == 3


def test_a_reply_of_a_relay_that_stops_reading_is_read(make_engine: Any) -> None:
    """The engine reads a 421 that arrives during the message, and resends the message.

    The 421 means that the relay did not accept the message.
    """
    first = threading.Event()

    def script(connection: Connection) -> None:
        if first.is_set():
            SMTPScript(PIPELINING)(connection)
            return
        first.set()
        connection.send(b"220 hi\r\n")
        for reply in (b"250-x\r\n250 PIPELINING", b"250 ok", b"250 ok", b"354 go"):
            connection.line()
            connection.send(reply + b"\r\n")
        connection.send(b"421 4.3.0 enough\r\n")
        connection.wait_for_end()

    with Server(script) as server:
        (result,) = send(make_engine(server), message(data=b"x" * 78 * 100_000))
        assert (result.status, result.details()[4]) == ("ACCEPTED", 1)
        assert len(server.connections) == 2


def test_a_missing_reply_ends_the_connection(make_engine: Any) -> None:
    def script(connection: Connection) -> None:
        SMTPScript(PIPELINING, {"message": lambda _: time.sleep(1) or b"250 late"})(connection)

    with Server(script) as server:
        timeouts = replace(TIMEOUTS, body=0.2)
        (result,) = send(make_engine(server, timeouts=timeouts), message())
    assert result.status == "UNKNOWN"
    assert "no reply in 0.2 seconds" in result.details()[6]


# Stop and close


def test_a_relay_that_rejects_the_session_stops_the_engine(make_engine: Any) -> None:
    with Server(SMTPScript(PIPELINING, {"mail": lambda _: b"530 5.7.0 log in"})) as server:
        engine = make_engine(server)
        results = send(engine, *map(message, range(20)))
        assert {each.status for each in results} == {"NOT_ATTEMPTED"}
        assert bytes(server.connections[0].received).count(b"mail ") == 1
        line, *rest = engine.error()
        assert rest == [530, b"5.7.0 log in", None, False]
        assert "rejected the session: 530 5.7.0 log in" in line
        assert [each.status for each in send(engine, message())] == ["NOT_ATTEMPTED"]


def test_an_unreachable_relay_stops_the_engine_until_restart(make_engine: Any) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        port = server.port
    engine = make_engine(host="127.0.0.1", port=port)
    (result,) = send(engine, message())
    assert (result.status, result.details()[3:5]) == ("NOT_ATTEMPTED", ("connect", 0))
    engine.restart()
    assert engine.error() is not None, "a stop lasts at least a second"
    time.sleep(1.1)
    engine.restart()
    assert engine.error() is None


def test_close_gives_every_message_an_outcome(make_engine: Any) -> None:
    release = threading.Event()
    received = threading.Event()

    def late(_: bytes) -> bytes:
        received.set()
        release.wait(60)
        return b"250 late"

    with Server(SMTPScript(PIPELINING, {"message": late})) as server:
        engine = make_engine(server)
        outbox = engine.open_outbox()
        engine.submit(outbox, [message(number) for number in range(3)], LIMIT)
        assert received.wait(LIMIT)
        start = time.monotonic()
        engine.close(0.1)
        assert time.monotonic() - start < 30
        decided = [result.status for _, result in taken_outcomes(engine, outbox, 10, 0.0)]
        assert sorted(decided) == ["NOT_ATTEMPTED", "NOT_ATTEMPTED", "UNKNOWN"]
        engine.close(None)
        assert [each.status for each in send(engine, message())] == ["NOT_ATTEMPTED"]
        assert engine.descriptors() == []
        release.set()


def test_a_full_queue_accepts_no_more_messages(make_engine: Any) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        engine = make_engine(server, queue_size=2)
        outbox = engine.open_outbox()
        messages = [message(number) for number in range(5)]
        assert engine.submit(outbox, messages, 0.0) == 2
        assert [each.tag for each in messages] == [2, 3, 4]
        assert len(taken_outcomes(engine, outbox, 1, LIMIT)) == 1
        assert engine.pending(outbox) == 1


def test_the_rate_is_not_exceeded(make_engine: Any) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        start = time.monotonic()
        send(make_engine(server, rate=10.0, connections=3), *map(message, range(6)))
        assert time.monotonic() - start > 0.45


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


def test_a_login_after_starttls_works(
    make_engine: Any, tls: ssl.SSLContext, authority: trustme.CA
) -> None:
    with Server(SMTPScript(("STARTTLS", "AUTH PLAIN", *PIPELINING), tls=tls)) as server:
        engine = make_engine(server, ca=authority.cert_pem.bytes(), trace=True, **LOGIN)
        (result,) = send(engine, message())
        assert result.status == "ACCEPTED"
        trace = " ".join(str(line) for what, line in engine.requests(0.0) if what == "trace")
        response = base64.b64encode(b"\0user\0secret").decode()
        assert response.encode() in bytes(server.connections[0].received)
        assert "C: AUTH PLAIN ***" in trace
        assert response not in trace
        assert BODY.decode() not in trace


def test_an_untrusted_certificate_stops_the_engine(make_engine: Any, tls: ssl.SSLContext) -> None:
    with Server(SMTPScript(("STARTTLS", "AUTH PLAIN"), tls=tls)) as server:
        engine = make_engine(server, **LOGIN)
        (result,) = send(engine, message())
        assert result.status == "NOT_ATTEMPTED"
        assert "is not trusted" in engine.error()[0]
        assert engine.error()[1:] == (None, b"", None, True)
        time.sleep(1.1)
        engine.restart()
        assert engine.error() is not None, "the stop is permanent"


def test_clear_text_after_the_220_to_starttls_is_refused(
    make_engine: Any, tls: ssl.SSLContext
) -> None:
    replies = {"starttls": b"220 go\r\n250 injected"}
    with Server(SMTPScript(("STARTTLS", "AUTH PLAIN"), replies)) as server:
        engine = make_engine(server, **LOGIN)
        assert send(engine, message())[0].status == "NOT_ATTEMPTED"
        assert "clear text" in engine.error()[0]
        assert b"AUTH" not in server.wire()


@pytest.mark.parametrize("extensions", [(), ("AUTH PLAIN",)], ids=["", "auth"])
def test_a_login_without_tls_is_refused(make_engine: Any, extensions: tuple[str, ...]) -> None:
    with Server(SMTPScript(extensions)) as server:
        for starttls in ("required", "opportunistic", "off"):
            engine = make_engine(server, **{**LOGIN, "starttls": starttls})
            assert send(engine, message())[0].status == "NOT_ATTEMPTED"
        assert all(b"AUTH" not in each.received for each in server.connections)


def test_a_wrong_password_is_tried_once(make_engine: Any) -> None:
    with Server(SMTPScript(("AUTH PLAIN LOGIN",), {"auth": b"535 5.7.8 no"})) as server:
        settings = {**LOGIN, "starttls": "off", "allow_plaintext_auth": True, "connections": 4}
        engine = make_engine(server, **settings)
        results = send(engine, *map(message, range(50)))
        assert {each.status for each in results} == {"NOT_ATTEMPTED"}
        assert sum(each.received.count(b"AUTH") for each in server.connections) == 1
        assert engine.error()[1:] == (535, b"5.7.8 no", None, True)


def test_the_password_is_requested(make_engine: Any) -> None:
    with Server(SMTPScript(("AUTH PLAIN",))) as server:
        settings = {**LOGIN, "starttls": "off", "allow_plaintext_auth": True}
        engine = make_engine(server, **{**settings, "password": None, "ask_password": True})
        outbox = engine.open_outbox()
        engine.submit(outbox, [message()], LIMIT)
        assert engine.error() is None
        if engine.requests(LIMIT) == [("password", None)]:
            engine.answer_password(None, "the vault is shut")
        ((_, result),) = taken_outcomes(engine, outbox, 1, LIMIT)
        assert result.status == "NOT_ATTEMPTED"
