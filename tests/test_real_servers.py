"""The same calls of smtplib and rapidsmtp with real servers.

The tests compare the results and exceptions of the calls, and the messages at the servers. After
each test the server's log must contain no complaint about the client (RFC 2920 3.1: the order of
pipelined commands).
"""

import re
import smtplib
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest

import rapidsmtp
from comparison import Scenario, Session, compare
from rapidsmtp import _backend
from real_servers import RealServer

SENDER = "sender@example.com"
MESSAGE = b"Subject: x\r\n\r\n.body\r\n..\r\nend\r\n"
pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(autouse=True)
def smtp(real_server: RealServer) -> None:
    real_server.require("SMTP")


@pytest.fixture
def server(real_server: RealServer) -> Iterator[RealServer]:
    """Return the server, and check at the end of the test that its log contains no complaint."""
    before = len(real_server.settled_log())
    yield real_server
    complaints = [
        line
        for line in real_server.settled_log()[before:].splitlines()
        if real_server.complaint.search(line)
    ]
    assert not complaints


def connected(server: RealServer, port: str, scenario: Scenario) -> Scenario:
    """Return a scenario that connects, runs the given scenario, and sends QUIT."""

    def run(session: Session) -> None:
        session.connect("SMTP", "127.0.0.1", server.ports[port])
        scenario(session)
        session.call("quit")

    return run


def outcomes(record: list[Any]) -> list[Any]:
    return [outcome for outcome, _ in record]


def addresses(count: int, refused: tuple[int, ...] = ()) -> list[str]:
    """Return recipients whose mail is discarded. Those at the places in `refused` are refused."""
    return [
        f"{'refused' if place in refused else 'to'}{place}@discard.example"
        for place in range(count)
    ]


@pytest.mark.parametrize("count", [1, 8, 9, 50, 150, 1000])
def test_recipients_are_refused_as_with_smtplib(server: RealServer, count: int) -> None:
    refused = {place for place in (0, 7, 8, 120, count - 1) if 0 < place < count or count > 1}
    recipients = addresses(count, tuple(refused))

    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, recipients, MESSAGE)
        session.call("sendmail", SENDER, addresses(count), MESSAGE)

    record = outcomes(compare(connected(server, "plain", scenario)))
    assert set(record[1][1]) == {each for each in recipients if each.startswith("refused")}
    assert record[2] == ("returned", {})


def test_a_message_without_an_accepted_recipient_raises_as_with_smtplib(server: RealServer) -> None:
    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, addresses(3, (0, 1, 2)), MESSAGE)
        session.call("sendmail", SENDER, addresses(3), MESSAGE)

    record = outcomes(compare(connected(server, "plain", scenario)))
    assert record[1][1] is smtplib.SMTPRecipientsRefused
    assert record[2] == ("returned", {})


def test_the_hard_error_limit_is_reported_as_with_smtplib(real_server: RealServer) -> None:
    """smtplib and rapidsmtp report the refused recipients and the 421 in the same way.

    At its limit of errors, Postfix replies 421 to an RCPT. At this time, rapidsmtp has already sent
    the next RCPT commands.
    """

    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, addresses(40, tuple(range(3, 30))), MESSAGE)
        session.call("noop")

    record = outcomes(compare(connected(real_server, "strict", scenario)))
    if real_server.name == "Postfix":
        assert record[1][1] is smtplib.SMTPRecipientsRefused


@pytest.mark.parametrize("count", [1, 50])
def test_a_refused_sender_is_reported_as_with_smtplib(server: RealServer, count: int) -> None:
    """After a refused sender, Postfix does not delay its replies.

    From the tenth error on, Postfix delays each reply by 60 seconds. So rapidsmtp must cause fewer
    errors, although it sends RCPT together with the refused MAIL.
    """

    def scenario(session: Session) -> None:
        session.call("sendmail", "refused@example.com", addresses(count), MESSAGE)
        session.call("sendmail", SENDER, addresses(count), MESSAGE)

    start = time.monotonic()
    record = outcomes(compare(connected(server, "long error delay", scenario)))
    assert time.monotonic() - start < 50
    assert record[1][1] is smtplib.SMTPSenderRefused
    assert record[2] == ("returned", {})


def test_a_message_over_the_size_limit_is_reported_as_with_smtplib(server: RealServer) -> None:
    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, addresses(50), MESSAGE + b"x" * 100_000)
        session.call("sendmail", SENDER, addresses(50), MESSAGE)

    record = outcomes(compare(connected(server, "strict", scenario)))
    assert record[1][1] is smtplib.SMTPSenderRefused
    assert record[2] == ("returned", {})


def test_smtputf8_works_as_with_smtplib(server: RealServer) -> None:
    server.require("smtputf8")
    message = EmailMessage()
    message["From"], message["To"] = "Jürgen <jürgen@example.com>", "zoë@discard.example"
    message["Subject"] = "größer"
    message.set_content("straße\n")
    utf8 = ["SMTPUTF8", "BODY=8BITMIME"]

    def scenario(session: Session) -> None:
        session.call("send_message", message)
        session.call("sendmail", "jürgen@example.com", ["zoë@discard.example"], MESSAGE, utf8)
        session.call("sendmail", "jürgen@example.com", ["zoë@discard.example"], MESSAGE)

    # smtplib keeps the command_encoding utf-8 after the first call, so each call gets its own
    # client.
    record = outcomes(
        compare_one_by_one(server, scenario, calls=3),
    )
    assert record[0] == record[1] == ("returned", {})


def compare_one_by_one(server: RealServer, scenario: Scenario, calls: int) -> list[Any]:
    """Make each call of a scenario on its own connection, and compare only the outcomes."""
    runs: list[list[Any]] = []
    for module in (smtplib, rapidsmtp):
        record = []
        for wanted in range(calls):
            session = _Single(module, wanted)
            session.connect("SMTP", "127.0.0.1", server.ports["plain"])
            scenario(session)
            session.client.quit()
            record.append(session.record[1])
        runs.append(record)
    assert outcomes(runs[0]) == outcomes(runs[1])
    return runs[1]


class _Single(Session):
    """A session that makes only one of a scenario's calls."""

    def __init__(self, module: Any, wanted: int) -> None:
        super().__init__(module)
        self._wanted = wanted

    def call(self, name: str, *args: Any, **named: Any) -> None:
        if self._wanted == 0:
            super().call(name, *args, **named)
        self._wanted -= 1


@pytest.mark.parametrize("kind", ["STARTTLS", "SMTP_SSL"])
def test_tls_works_as_with_smtplib(server: RealServer, kind: str) -> None:
    context = ssl.create_default_context(cafile=str(server.certificate))
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def scenario(session: Session) -> None:
        if kind == "SMTP_SSL":
            session.connect("SMTP_SSL", "127.0.0.1", server.ports["tls"], context=context)
        else:
            session.connect("SMTP", "127.0.0.1", server.ports["plain"])
            session.call("starttls", context=context)
        session.call("sendmail", SENDER, addresses(50, (4, 40)), MESSAGE)
        session.call("sendmail", SENDER, addresses(2), MESSAGE + b"x" * 900 + b"\r\n" * 100_000)
        session.call("sendmail", "refused@example.com", addresses(9), MESSAGE)
        session.call("quit")

    compare(scenario)


def test_a_connection_can_send_200_messages(server: RealServer) -> None:
    def scenario(session: Session) -> None:
        for _ in range(200):
            session.call("sendmail", SENDER, addresses(2), MESSAGE)

    record = outcomes(compare(connected(server, "plain", scenario)))
    assert record[1:-1] == [("returned", {})] * 200


def test_a_limit_of_messages_is_reported_as_with_smtplib(real_server: RealServer) -> None:
    """smtplib and rapidsmtp report the 421 that Exim sends as the reply to the sixth MAIL.

    Postfix has no such limit.
    """

    def scenario(session: Session) -> None:
        for _ in range(7):
            session.call("sendmail", SENDER, addresses(3), MESSAGE)

    compare(connected(real_server, "strict", scenario))


MESSAGES = {
    "dots": b"Subject: x\r\n\r\n.\r\n..\r\n.x\r\n\r\n.\r\n",
    "text with LF": "Subject: x\n\n.\nbare\n..x",
    "no final line end": b"Subject: x\r\n\r\nx",
    "final CR": "Subject: x\n\nx\r",
    "no body": b"Subject: x\r\n",
    "empty": b"",
    "line end alone": b"\r\n",
    "dot alone": b".",
    "20 MB": b"Subject: x\r\n\r\n" + (b"." + b"x" * 70 + b"\r\n") * (20_000_000 // 73),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_arrives_as_with_smtplib(server: RealServer, name: str) -> None:
    server.require(name)
    message = MESSAGES[name]
    received = []

    def scenario(session: Session) -> None:
        known = Counter(server.messages())
        start = time.monotonic()
        session.connect("SMTP", "127.0.0.1", server.ports["plain"])
        session.call("sendmail", SENDER, "one@example.com", message)
        session.call("quit")
        while not (new := Counter(server.messages()) - known):
            assert time.monotonic() - start < 10, "the message does not arrive"
            time.sleep(0.01)
        received.append([text_of(each) for each in new.elements()])

    compare(scenario)
    assert received[0] == received[1]
    assert len(received[0]) == 1


def text_of(message: bytes) -> bytes:
    """Return a message without the header fields that the server added."""
    return re.sub(rb"(?m)\A(?:[\w-]+: .*\n(?:[ \t].*\n)*)*", b"", message)


def test_bare_line_ends_arrive_as_crlf(server: RealServer) -> None:
    """rapidsmtp writes CRLF for bare line ends, so that no server reads a false terminator."""
    known = Counter(server.messages())
    with rapidsmtp.SMTP("127.0.0.1", server.ports["plain"]) as client:
        client.sendmail(
            SENDER, "one@example.com", b"Subject: x\n\none\n.\ntwo\r.\rthree\r\n.\nfour"
        )
    deadline = time.monotonic() + 10
    while not (new := Counter(server.messages()) - known) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [text_of(each).lstrip(b"\n") for each in new.elements()] == [
        b"one\n.\ntwo\n.\nthree\n.\nfour\n"
    ]


@pytest.mark.parametrize("port", ["no data", "no body"])
def test_a_refused_message_is_reported_as_with_smtplib(server: RealServer, port: str) -> None:
    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, addresses(9, (1,)), MESSAGE)

    record = outcomes(compare(connected(server, port, scenario)))
    assert record[1][1] is smtplib.SMTPDataError
    with rapidsmtp.SMTP("127.0.0.1", server.ports[port]) as client:
        # The connection can be used again after each refusal.
        for _ in range(3):
            with pytest.raises(smtplib.SMTPDataError):
                client.sendmail(SENDER, addresses(9, (1,)), MESSAGE)


@pytest.mark.parametrize("refused", ["sender", "recipients", "body"])
def test_refused_messages_cause_no_more_errors_than_with_smtplib(
    real_server: RealServer, refused: str
) -> None:
    """Refused messages cause neither delayed replies nor a closed connection.

    After too many errors, servers delay their replies or close the connection. So rapidsmtp must
    not cause more errors than smtplib.
    """
    port = real_server.ports["no body" if refused == "body" else "long error delay"]
    start = time.monotonic()

    def scenario(session: Session) -> None:
        session.connect("SMTP", "127.0.0.1", port)
        sender = "refused@example.com" if refused == "sender" else SENDER
        recipients = addresses(1, (0,) if refused == "recipients" else ())
        for _ in range(7):
            session.call("sendmail", sender, recipients, MESSAGE)
        session.call("sendmail", SENDER, addresses(1), MESSAGE)
        session.call("quit")

    compare(scenario)
    # From the tenth error on, Postfix delays each reply by 60 seconds. No reply was delayed.
    assert time.monotonic() - start < 50


def test_a_connection_closed_while_idle_is_reported_as_with_smtplib(
    real_server: RealServer,
) -> None:
    """smtplib and rapidsmtp report a 421 that arrived on an idle connection in the same way."""
    backend = _backend.implementation
    clients = [
        module.SMTP("127.0.0.1", real_server.ports["short timeout"], "client.example")
        for module in (smtplib, rapidsmtp, rapidsmtp)
    ]
    for client in clients:
        client.ehlo()
    time.sleep(2.2)
    seen = []
    for client, recipients in zip(clients, (1, 1, 50), strict=True):
        with pytest.raises(smtplib.SMTPException) as caught:
            client.sendmail(SENDER, addresses(recipients), MESSAGE)
        seen.append((type(caught.value), caught.value.args, client.sock is None))
        assert client.connect("127.0.0.1", real_server.ports["short timeout"])[0] == 220
        client.ehlo()
        assert client.sendmail(SENDER, addresses(recipients), MESSAGE) == {}
        client.quit()
    assert seen[0] == seen[1] == seen[2], backend


def test_a_restart_of_the_server_is_reported_as_with_smtplib(real_server: RealServer) -> None:
    clients = [
        module.SMTP("127.0.0.1", real_server.ports["plain"], "client.example")
        for module in (smtplib, rapidsmtp, rapidsmtp)
    ]
    for client in clients:
        assert client.sendmail(SENDER, addresses(1), MESSAGE) == {}
    real_server.stop()
    real_server.start()
    seen = []
    for client, recipients in zip(clients, (1, 1, 50), strict=True):
        try:
            outcome: Any = client.sendmail(SENDER, addresses(recipients), MESSAGE)
        except smtplib.SMTPException as error:
            outcome = type(error), error.args
        seen.append((outcome, client.sock is None))
        client.close()
        client.connect("127.0.0.1", real_server.ports["plain"])
        client.ehlo()
        assert client.sendmail(SENDER, addresses(recipients), MESSAGE) == {}
        client.quit()
    assert seen[0] == seen[1] == seen[2]
