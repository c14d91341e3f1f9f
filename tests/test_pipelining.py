"""`sendmail` with pipelining (RFC 2920): the flights, and the unread bytes of the file."""

import signal
import smtplib
import socket
import sys
import time
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest

import rapidsmtp
from server import HANG_UP, TIMEOUT, Connection, Raw, Server, SMTPScript

SENDER = "sender@example.com"
MESSAGE = b"Subject: x\r\n\r\nbody\r\n"
PIPELINING = ("PIPELINING",)

pytestmark = pytest.mark.usefixtures("backend")

_audited: list[tuple[object, bytes]] | None = None


def _note(event: str, args: tuple[Any, ...]) -> None:
    if _audited is not None and event == "smtplib.send":
        _audited.append((args[0], bytes(args[1])))


# Python cannot remove an audit hook, so this module installs one hook for all its tests.
sys.addaudithook(_note)


@pytest.fixture
def audited() -> Iterator[list[tuple[object, bytes]]]:
    """Record the `smtplib.send` events of the test."""
    global _audited
    _audited = []
    yield _audited
    _audited = None


def connect(server: Server, **arguments: Any) -> rapidsmtp.SMTP:
    return rapidsmtp.SMTP(server.host, server.port, "client.example", TIMEOUT, **arguments)


def recipients(count: int) -> list[str]:
    return [f"recipient{place}@example.com" for place in range(count)]


def verbs(flight: bytes) -> list[str]:
    return [line[:4].decode().lower() for line in flight.splitlines()]


@pytest.mark.parametrize(
    ("count", "flights"),
    [
        (1, [["mail", "rcpt", "data"]]),
        (8, [["mail"] + ["rcpt"] * 8 + ["data"]]),
        (9, [["mail"] + ["rcpt"] * 8, ["rcpt", "data"]]),
        (50, [["mail"] + ["rcpt"] * 8, ["rcpt"] * 42 + ["data"]]),
        (108, [["mail"] + ["rcpt"] * 8, ["rcpt"] * 100 + ["data"]]),
        (109, [["mail"] + ["rcpt"] * 8, ["rcpt"] * 100, ["rcpt", "data"]]),
        (250, [["mail"] + ["rcpt"] * 8, ["rcpt"] * 100, ["rcpt"] * 100, ["rcpt"] * 42 + ["data"]]),
    ],
)
def test_a_message_has_the_expected_flights(
    audited: list[tuple[object, bytes]], count: int, flights: list[list[str]]
) -> None:
    with Server(SMTPScript(PIPELINING, waits_for_pause=True)) as server:
        with connect(server) as client:
            client.ehlo()
            audited.clear()
            assert client.sendmail(SENDER, recipients(count), MESSAGE) == {}
            events = list(audited)
        server.wire()
        # The slice omits the first flight, EHLO, and the last flight, QUIT.
        seen = server.connections[0].flights[1:-1]
    assert [verbs(flight) for flight in seen[:-1]] == flights
    assert seen[-1] == MESSAGE + b".\r\n"
    # Each write raises one audit event with the written bytes.
    assert events == [(client, flight) for flight in seen]


def test_without_pipelining_each_command_waits_for_its_reply(
    audited: list[tuple[object, bytes]],
) -> None:
    with Server(SMTPScript(("SIZE",), waits_for_pause=True)) as server:
        with connect(server) as client:
            client.ehlo()
            audited.clear()
            client.sendmail(SENDER, recipients(3), MESSAGE)
            assert [verbs(data)[0] for _, data in audited] == [
                "mail",
                *["rcpt"] * 3,
                "data",
                "subj",
            ]
        server.wire()
        assert len(server.connections[0].flights) == 1 + 6 + 1


@pytest.mark.parametrize("switch", ["argument", "debuglevel", "attribute"])
def test_pipelining_can_be_switched_off(switch: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(SMTPScript(PIPELINING, waits_for_pause=True)) as server:
        with connect(server, **{"pipelining": False} if switch == "argument" else {}) as client:
            if switch == "debuglevel":
                client.set_debuglevel(1)
            elif switch == "attribute":
                client.pipelining = False
            client.sendmail(SENDER, recipients(2), MESSAGE)
        server.wire()
        assert len(server.connections[0].flights) == 1 + 5 + 1


@pytest.mark.parametrize(
    ("limit", "alone"),
    [("SIZE 10", True), ("SIZE 1000", False), ("SIZE 0", False), ("SIZE", False)],
)
def test_mail_is_sent_alone_if_the_message_is_too_large(limit: str, alone: bool) -> None:
    refusal = b"552 5.3.4 too large" if alone else b"250 ok"
    script = SMTPScript(("PIPELINING", limit), {"mail": refusal}, waits_for_pause=True)
    with Server(script) as server:
        with connect(server) as client:
            if alone:
                with pytest.raises(rapidsmtp.SMTPSenderRefused) as caught:
                    client.sendmail(SENDER, recipients(2), MESSAGE)
                assert caught.value.args == (552, b"5.3.4 too large", SENDER)
            else:
                client.sendmail(SENDER, recipients(2), MESSAGE)
        server.wire()
        first = server.connections[0].flights[1]
    assert verbs(first) == (["mail"] if alone else ["mail", "rcpt", "rcpt", "data"])
    assert b"size=%d\r\n" % len(MESSAGE) in first


def test_a_message_over_an_unenforced_size_limit_is_sent() -> None:
    with Server(SMTPScript(("PIPELINING", "SIZE 10"), waits_for_pause=True)) as server:
        with connect(server) as client:
            assert client.sendmail(SENDER, recipients(2), MESSAGE) == {}
        server.wire()
        flights = server.connections[0].flights[1:-1]
    assert [verbs(flight) for flight in flights[:-1]] == [["mail"], ["rcpt", "rcpt", "data"]]


def test_an_unexpected_reply_stays_in_the_file() -> None:
    script = SMTPScript(PIPELINING, {"message": b"250 2.0.0 queued\r\n421 4.3.2 going"})
    with Server(script) as server:
        client = connect(server)
        refused = client.sendmail(SENDER, recipients(1), MESSAGE)
        assert refused.reply == (250, b"2.0.0 queued")
        assert client.getreply() == (421, b"4.3.2 going")
        client.close()


def test_a_surplus_reply_affects_only_the_next_message() -> None:
    script = SMTPScript(PIPELINING, {"message": [b"250 2.0.0 queued\r\n421 4.3.2 going"]})
    with Server(script) as server:
        client = connect(server)
        assert client.sendmail(SENDER, recipients(1), MESSAGE) == {}
        with pytest.raises(rapidsmtp.SMTPSenderRefused) as caught:
            client.sendmail(SENDER, recipients(1), MESSAGE)
        assert caught.value.args == (421, b"4.3.2 going", SENDER)
        assert client.sock is None


class BrokenAfter:
    """A real socket whose writes fail after a given number of successful writes."""

    def __init__(
        self, sock: socket.socket, writes: int, fault: BaseException | None = None
    ) -> None:
        self._sock = sock
        self._writes = writes
        self._fault = fault or BrokenPipeError()

    def sendall(self, data: bytes) -> None:
        if not self._writes:
            raise self._fault
        self._writes -= 1
        self._sock.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def break_writes(client: rapidsmtp.SMTP, after: int) -> None:
    client.sock = client._protocol.greeted_on = BrokenAfter(client.sock, after)


def test_a_421_that_arrived_before_a_failed_write_is_reported() -> None:
    def script(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        connection.line()
        connection.send(b"250-server.example\r\n250 PIPELINING\r\n")
        connection.line()
        connection.send(b"250 nothing done\r\n421 4.3.2 going\r\n")

    with Server(script) as server:
        client = connect(server)
        client.ehlo()
        client.noop()
        # `wire` waits for the end of the script, so the script has sent the 421.
        server.wire()
        break_writes(client, 0)
        with pytest.raises(rapidsmtp.SMTPSenderRefused) as caught:
            client.sendmail(SENDER, recipients(1), MESSAGE)
        assert caught.value.args == (421, b"4.3.2 going", SENDER)
        assert client.sock is None


def test_a_failed_write_without_a_reply_is_a_lost_connection(way: str) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        client = connect(server, pipelining=way == "pipelined")
        client.ehlo()
        break_writes(client, 0)
        with pytest.raises(rapidsmtp.SMTPServerDisconnected) as caught:
            client.sendmail(SENDER, recipients(1), MESSAGE)
        assert caught.value.args == ("Server not connected",)
        assert vars(caught.value)["body_sent"] is False
        assert client.sock is None


def test_a_body_that_cannot_be_written_is_not_sent(way: str) -> None:
    with Server(SMTPScript(PIPELINING)) as server:
        client = connect(server, pipelining=way == "pipelined")
        client.ehlo()
        break_writes(client, 1 if way == "pipelined" else 3)
        with pytest.raises(rapidsmtp.SMTPServerDisconnected) as caught:
            client.sendmail(SENDER, recipients(1), MESSAGE)
        assert vars(caught.value)["body_sent"] is False
        assert client.sock is None


def test_a_body_without_a_reply_may_have_been_accepted(way: str) -> None:
    with Server(SMTPScript(PIPELINING, {"message": HANG_UP})) as server:
        client = connect(server, pipelining=way == "pipelined")
        with pytest.raises(rapidsmtp.SMTPServerDisconnected) as caught:
            client.sendmail(SENDER, recipients(1), MESSAGE)
        assert vars(caught.value)["body_sent"] is True


@pytest.mark.parametrize("part", [b"250", b"250 2.0.0 que", b"250-a\r\n250 b"])
def test_a_part_of_a_reply_is_not_used_after_the_time_limit(way: str, part: bytes) -> None:
    with Server(SMTPScript(PIPELINING, {"message": Raw(part)})) as server:
        client = connect(server, pipelining=way == "pipelined")
        client.ehlo()
        client.sock.settimeout(0.2)
        with pytest.raises(rapidsmtp.SMTPServerDisconnected, match="timed out") as caught:
            client.sendmail(SENDER, recipients(1), MESSAGE)
        assert vars(caught.value)["body_sent"] is True
        assert client.sock is None


@pytest.mark.parametrize("mail", [b"250 ok", b"550 no"])
def test_command_encoding_lasts_for_one_message(way: str, mail: bytes) -> None:
    """The client resets `command_encoding` after each message.

    smtplib does not reset this attribute after an accepted message with SMTPUTF8.
    """
    with Server(SMTPScript(("PIPELINING", "SMTPUTF8"), {"mail": [mail]})) as server:
        with connect(server, pipelining=way == "pipelined") as client:
            try:
                client.sendmail("jörg@example.com", recipients(1), MESSAGE, ["SMTPUTF8"])
            except rapidsmtp.SMTPSenderRefused:
                assert mail == b"550 no"
            assert client.command_encoding == "ascii"
            with pytest.raises(UnicodeEncodeError):
                client.sendmail("jörg@example.com", recipients(1), MESSAGE)
        wire = server.wire()
    assert wire.count("<jörg@example.com>".encode()) == 1


def test_another_connection_may_have_fewer_capabilities() -> None:
    """The client does not use the capabilities of one server on the next connection."""
    with Server(SMTPScript(PIPELINING, waits_for_pause=True)) as server:
        client = connect(server)
        client.ehlo()
        client.close()
        client.connect(server.host, server.port)
        client.sendmail(SENDER, recipients(1), MESSAGE)
        client.quit()
        server.wire()
        assert [verbs(flight) for flight in server.connections[1].flights[:3]] == [
            ["mail"],
            ["rcpt"],
            ["data"],
        ]


def test_replies_may_be_split_at_any_byte() -> None:
    def script(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        connection.line()
        connection.send(b"250-server.example\r\n250 PIPELINING\r\n")
        for _ in range(4):
            connection.line()
        for byte in b"250 ok\r\n550-no\r\n550 one\r\n250 ok\r\n354 go on\r\n":
            connection.send(bytes([byte]))
        connection.message()
        connection.send(b"250 2.0.0 queued\r\n")

    with Server(script) as server:
        client = connect(server)
        one, two = recipients(2)
        refused = client.sendmail(SENDER, [one, two], MESSAGE)
        assert refused == {one: (550, b"no\none")}
        assert refused.accepted == [two]
        client.close()


def test_a_server_that_replies_before_it_reads_does_not_block_the_client() -> None:
    """The client reads the long replies while it writes, so the server's writes do not block."""
    long_reply = b"\r\n".join([b"250-" + b"x" * 500] * 3 + [b"250 ok"])
    with Server(SMTPScript(PIPELINING, {"rcpt": long_reply})) as server:
        with connect(server) as client:
            assert client.sendmail(SENDER, recipients(1000), MESSAGE) == {}
        assert server.wire().count(b"rcpt") == 1000


class Interrupted(BaseException):
    """An exception that any line may raise, such as Ctrl-C or the time limit of a task queue."""


@pytest.mark.parametrize("earlier", [0, 1])
@pytest.mark.parametrize("phase", ["waiting for replies", "before the body"])
def test_an_interrupted_message_closes_the_connection(phase: str, earlier: int) -> None:
    """An exception during a message closes the connection.

    On an open connection, the server could read the next command as part of the message, or the
    client could read an earlier reply as the reply to the next command.
    """

    def interrupt(*_: object) -> None:
        raise Interrupted

    reply = b"354 go on" if phase == "before the body" else slow
    with Server(SMTPScript(PIPELINING, {"data": [b"354 go on"] * earlier + [reply]})) as server:
        client = connect(server)
        client.ehlo()
        # The core reads the replies to later messages from the socket itself.
        for _ in range(earlier):
            client.sendmail(SENDER, recipients(2), MESSAGE)
        if phase == "before the body":
            client.sock = client._protocol.greeted_on = BrokenAfter(client.sock, 1, Interrupted())
            with pytest.raises(Interrupted):
                client.sendmail(SENDER, recipients(2), MESSAGE)
        else:
            before = signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            try:
                with pytest.raises(Interrupted):
                    client.sendmail(SENDER, recipients(2), MESSAGE)
            finally:
                signal.signal(signal.SIGALRM, before)
        assert client.sock is None
        assert server.wire().endswith(b"data\r\n")
        with pytest.raises(rapidsmtp.SMTPServerDisconnected):
            client.sendmail(SENDER, recipients(1), MESSAGE)


def slow(line: bytes) -> bytes:
    time.sleep(0.2)
    return b"354 go on"


def test_options_may_be_any_iterable(way: str) -> None:
    def options() -> Iterator[Any]:
        yield iter(["BODY=8BITMIME", "SMTPUTF8"])
        # As in smtplib, None instead of options means that RCPT has no options.
        yield None

    extensions = ("PIPELINING", "SIZE", "SMTPUTF8", "DSN")
    with Server(SMTPScript(extensions)) as server:
        with connect(server, pipelining=way == "pipelined") as client:
            client.sendmail("jörg@example.com", recipients(2), MESSAGE, *options())
            message = EmailMessage()
            message["Subject"] = "ü"
            client.sendmail(SENDER, recipients(2), message, *options())
        wire = server.wire()
    assert wire.count(b" size=") == wire.count(b" BODY=8BITMIME SMTPUTF8\r\n") == 2
    assert "Subject: ü\r\n".encode() in wire


@pytest.mark.parametrize("debuglevel", [0, 1])
def test_audit_events_without_pipelining_are_those_of_smtplib(
    audited: list[tuple[object, bytes]], debuglevel: int, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[list[bytes]] = []
    with Server(SMTPScript(("SIZE",))) as server:
        for module in (smtplib, rapidsmtp):
            audited.clear()
            client = module.SMTP(local_hostname="client.example", timeout=TIMEOUT)
            client.set_debuglevel(debuglevel)
            client.connect(server.host, server.port)
            client.sendmail(SENDER, recipients(2), MESSAGE)
            client.quit()
            assert {each for each, _ in audited} == {client}
            events.append([data for _, data in audited])
            assert b"".join(events[-1]) == server.wire()
    assert events[0] == events[1]


def test_options_of_rcpt_may_be_an_iterator(backend: str, way: str) -> None:
    with Server(SMTPScript(("PIPELINING", "DSN"))) as server:
        with connect(server, pipelining=way == "pipelined") as client:
            client.sendmail(SENDER, recipients(2), MESSAGE, (), iter(["NOTIFY=NEVER"]))
        assert server.wire().count(b"> NOTIFY=NEVER\r\n") == 2


def test_nothing_is_written_if_the_message_has_a_wrong_type(backend: str, way: str) -> None:
    with Server(SMTPScript(("PIPELINING", "SIZE"))) as server:
        client = connect(server, pipelining=way == "pipelined")
        with pytest.raises(TypeError):
            client.sendmail(SENDER, recipients(1), [b"x"])
        assert client.sendmail(SENDER, recipients(1), MESSAGE) == {}
        client.close()
        assert server.wire().lower().count(b"mail from:") == 1


def test_an_interrupted_sequential_message_closes_the_connection(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(SMTPScript(())) as server:
        client = connect(server)
        send = client.send

        def interrupted(line: Any) -> None:
            if isinstance(line, bytes):
                raise KeyboardInterrupt
            send(line)

        monkeypatch.setattr(client, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.sendmail(SENDER, recipients(1), MESSAGE)
        assert client.sock is None


def test_the_exception_without_a_connection_has_body_sent(backend: str) -> None:
    with pytest.raises(rapidsmtp.SMTPServerDisconnected) as caught:
        rapidsmtp.SMTP().sendmail(SENDER, recipients(1), MESSAGE)
    error: Any = caught.value
    assert (error.body_sent, error.accepted, error.recipients) == (False, [], {})


@pytest.mark.parametrize(
    ("failure", "body_sent"), [(TimeoutError("a signal's"), True), (BrokenPipeError(), False)]
)
def test_a_write_that_fails_after_the_last_byte_may_have_sent_the_body(
    backend: str, way: str, failure: OSError, body_sent: bool
) -> None:
    with Server(SMTPScript(("PIPELINING",), replies={"message": [HANG_UP]})) as server:
        client = connect(server, pipelining=way == "pipelined")
        client.ehlo()
        genuine = client.sock

        class Sock:
            def __getattr__(self, name: str) -> Any:
                return getattr(genuine, name)

            def sendall(self, data: bytes) -> None:
                genuine.sendall(data)
                if data.endswith(b"\r\n.\r\n"):
                    raise failure

        client.sock = client._protocol.greeted_on = Sock()
        with pytest.raises(rapidsmtp.SMTPServerDisconnected) as caught:
            client.sendmail(SENDER, recipients(1), MESSAGE)
        assert vars(caught.value)["body_sent"] is body_sent
        assert client.sock is None
