"""The same calls to smtplib and to rapidsmtp before Postfix and Exim, where they are installed.

What they return and raise is compared, and what the servers got; and after each test the server's
log must hold no complaint about the client's manners (RFC 2920 3.1: the groups' order and ends).
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
from rapidsmtp import _core
from real_servers import COMPLAINT, RealServer

SENDER = "sender@example.com"
MESSAGE = b"Subject: x\r\n\r\n.body\r\n..\r\nend\r\n"
pytestmark = pytest.mark.usefixtures("half")


@pytest.fixture
def server(real_server: RealServer) -> Iterator[RealServer]:
    """The server, whose log must hold no complaint when the test is over."""
    before = len(real_server.settled_log())
    yield real_server
    complaints = [
        line for line in real_server.settled_log()[before:].splitlines() if COMPLAINT.search(line)
    ]
    assert not complaints


def connected(server: RealServer, port: str, scenario: Scenario) -> Scenario:
    """A scenario between connecting and QUIT."""

    def run(session: Session) -> None:
        session.connect("SMTP", "127.0.0.1", server.ports[port])
        scenario(session)
        session.call("quit")

    return run


def outcomes(record: list[Any]) -> list[Any]:
    return [outcome for outcome, _ in record]


def addresses(count: int, refused: tuple[int, ...] = ()) -> list[str]:
    """Recipients whose mail goes nowhere; those at the given places are refused."""
    return [
        f"{'refused' if place in refused else 'to'}{place}@discard.example"
        for place in range(count)
    ]


@pytest.mark.parametrize("count", [1, 8, 9, 50, 150, 1000])
def test_recipients(server: RealServer, count: int) -> None:
    refused = {place for place in (0, 7, 8, 120, count - 1) if 0 < place < count or count > 1}
    recipients = addresses(count, tuple(refused))

    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, recipients, MESSAGE)
        session.call("sendmail", SENDER, addresses(count), MESSAGE)

    record = outcomes(compare(connected(server, "plain", scenario)))
    assert set(record[1][1]) == {each for each in recipients if each.startswith("refused")}
    assert record[2] == ("returned", {})


def test_all_recipients_refused(server: RealServer) -> None:
    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, addresses(3, (0, 1, 2)), MESSAGE)
        session.call("sendmail", SENDER, addresses(3), MESSAGE)

    record = outcomes(compare(connected(server, "plain", scenario)))
    assert record[1][1] is smtplib.SMTPRecipientsRefused
    assert record[2] == ("returned", {})


def test_hard_error_limit(real_server: RealServer) -> None:
    """Postfix says 421 in the middle of the recipients, behind more of them."""

    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, addresses(40, tuple(range(3, 30))), MESSAGE)
        session.call("noop")

    record = outcomes(compare(connected(real_server, "harsh", scenario)))
    if real_server.name == "Postfix":
        assert record[1][1] is smtplib.SMTPRecipientsRefused


@pytest.mark.parametrize("count", [1, 50])
def test_sender_refused(server: RealServer, count: int) -> None:
    """Postfix punishes the tenth error and each after it with a second's sleep."""

    def scenario(session: Session) -> None:
        session.call("sendmail", "refused@example.com", addresses(count), MESSAGE)
        session.call("sendmail", SENDER, addresses(count), MESSAGE)

    start = time.monotonic()
    record = outcomes(compare(connected(server, "plain", scenario)))
    assert time.monotonic() - start < 3
    assert record[1][1] is smtplib.SMTPSenderRefused
    assert record[2] == ("returned", {})


def test_larger_than_size(server: RealServer) -> None:
    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, addresses(50), MESSAGE + b"x" * 100_000)
        session.call("sendmail", SENDER, addresses(50), MESSAGE)

    record = outcomes(compare(connected(server, "harsh", scenario)))
    assert record[1][1] is smtplib.SMTPSenderRefused
    assert record[2] == ("returned", {})


def test_smtputf8(server: RealServer) -> None:
    message = EmailMessage()
    message["From"], message["To"] = "Jürgen <jürgen@example.com>", "zoë@discard.example"
    message["Subject"] = "größer"
    message.set_content("straße\n")
    utf8 = ["SMTPUTF8", "BODY=8BITMIME"]

    def scenario(session: Session) -> None:
        session.call("send_message", message)
        session.call("sendmail", "jürgen@example.com", ["zoë@discard.example"], MESSAGE, utf8)
        session.call("sendmail", "jürgen@example.com", ["zoë@discard.example"], MESSAGE)

    # smtplib's command_encoding stays utf-8 after the first: hence without the state.
    record = outcomes(
        compare_one_by_one(server, scenario, calls=3),
    )
    assert record[0] == record[1] == ("returned", {})


def compare_one_by_one(server: RealServer, scenario: Scenario, calls: int) -> list[Any]:
    """Each call of a scenario on a connection of its own; the outcomes alone are compared."""
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
    """A session that makes one of the calls alone."""

    def __init__(self, module: Any, wanted: int) -> None:
        super().__init__(module)
        self._wanted = wanted

    def call(self, name: str, *args: Any, **named: Any) -> None:
        if self._wanted == 0:
            super().call(name, *args, **named)
        self._wanted -= 1


@pytest.mark.parametrize("kind", ["STARTTLS", "SMTP_SSL"])
def test_tls(server: RealServer, kind: str) -> None:
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


def test_200_mails_on_a_connection(server: RealServer) -> None:
    def scenario(session: Session) -> None:
        for _ in range(200):
            session.call("sendmail", SENDER, addresses(2), MESSAGE)

    record = outcomes(compare(connected(server, "plain", scenario)))
    assert record[1:-1] == [("returned", {})] * 200


def test_connection_with_a_limit_of_messages(real_server: RealServer) -> None:
    """Exim says 421 to the sixth MAIL; Postfix knows no such limit."""

    def scenario(session: Session) -> None:
        for _ in range(7):
            session.call("sendmail", SENDER, addresses(3), MESSAGE)

    compare(connected(real_server, "harsh", scenario))


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
def test_messages(server: RealServer, name: str) -> None:
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
    """A message without the header fields that the server has put on it."""
    return re.sub(rb"(?m)\A(?:[\w-]+: .*\n(?:[ \t].*\n)*)*", b"", message)


def test_bare_line_ends(server: RealServer) -> None:
    """smtplib lets them out; ours become CRLF, and no server can be led to see an end of data."""
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
def test_message_refused(server: RealServer, port: str) -> None:
    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, addresses(9, (1,)), MESSAGE)

    record = outcomes(compare(connected(server, port, scenario)))
    assert record[1][1] is smtplib.SMTPDataError
    with rapidsmtp.SMTP("127.0.0.1", server.ports[port]) as client:
        for _ in range(3):  # the connection stays of use
            with pytest.raises(smtplib.SMTPDataError):
                client.sendmail(SENDER, addresses(9, (1,)), MESSAGE)


@pytest.mark.parametrize("refused", ["sender", "recipients", "body"])
def test_many_refused(real_server: RealServer, refused: str) -> None:
    """Servers count errors: each refused mail may cost no more of them than with smtplib."""
    port = real_server.ports["no body" if refused == "body" else "plain"]
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
    assert time.monotonic() - start < 1.5  # Postfix sleeps a second from the tenth error on


def test_idle(real_server: RealServer) -> None:
    """The server has said 421 and closed while nobody was looking."""
    half = _core.implementation
    clients = [
        module.SMTP("127.0.0.1", real_server.ports["impatient"], "client.example")
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
        assert client.connect("127.0.0.1", real_server.ports["impatient"])[0] == 220
        client.ehlo()
        assert client.sendmail(SENDER, addresses(recipients), MESSAGE) == {}
        client.quit()
    assert seen[0] == seen[1] == seen[2], half


def test_restart(real_server: RealServer) -> None:
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
