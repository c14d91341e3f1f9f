"""The same calls of smtplib and rapidsmtp, to a test server with injected faults."""

import smtplib
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

import rapidsmtp
from comparison import Session, compare
from rapidsmtp.testing import Fault, Sink

SENDER = "sender@example.com"
MESSAGE = b"Subject: x\r\n\r\n.body\r\nwithout a line end"
WITHOUT_PIPELINING = ["SIZE 100000", "8BITMIME", "SMTPUTF8"]

FAULTS: dict[str, dict[str, Any]] = {
    "deferred": {"reply": "450 4.2.0 later"},
    "refused": {"reply": "550-5.1.1 no\r\n550 5.1.1 really"},
    "closed": {"close": "orderly"},
    "refused and closed": {"reply": "554 5.3.2 gone", "close": "orderly"},
    "late": {"delay": 0.02},
}

pytestmark = [pytest.mark.usefixtures("backend", "face"), pytest.mark.rust]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module", params=[None, WITHOUT_PIPELINING], ids=["pipelining", "without"])
def extensions(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module", params=["SMTP", "STARTTLS", "SMTP_SSL", "LMTP", "LMTP unix"])
def way(
    request: pytest.FixtureRequest,
    extensions: list[str] | None,
    authority: trustme.CA,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Sink]]:
    certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    tls: Any = {"STARTTLS": "starttls", "SMTP_SSL": "implicit"}.get(request.param)
    settings: dict[str, Any] = {"tls": tls, "certificate": certificate} if tls else {}
    if request.param.endswith("unix"):
        settings["path"] = tmp_path_factory.mktemp("sink") / "socket"
    lmtp = request.param.startswith("LMTP")
    with Sink(extensions, lmtp=lmtp, wire=True, **settings) as sink:
        yield request.param, sink


def connect(session: Session, way: tuple[str, Sink], context: ssl.SSLContext) -> None:
    name, sink = way
    kind = {"STARTTLS": "SMTP", "LMTP unix": "LMTP"}.get(name, name)
    named = {"context": context} if kind == "SMTP_SSL" else {}
    session.connect(kind, sink.path or sink.host, sink.port, **named)
    if name == "STARTTLS":
        session.call("starttls", context=context)


def test_messages_are_sent_as_by_smtplib(way: tuple[str, Sink], client_tls: ssl.SSLContext) -> None:
    # LMTP has one recipient, because smtplib reads only one reply to a message (see
    # test_differences.py).
    count = 1 if way[0].startswith("LMTP") else 60

    def scenario(session: Session) -> None:
        connect(session, way, client_tls)
        for message in (MESSAGE, "str\nwith bare\rline ends\n", b"", b"x" * 70_000):
            recipients = [f"to{place}@example.com" for place in range(count)]
            session.call("sendmail", SENDER, recipients, message, ["BODY=8BITMIME"])
        session.call("noop")
        session.call("quit")

    way[1].reset()
    compare(scenario, lambda: way[1].wire[-1])
    messages = way[1].messages
    assert len(messages) == 8
    assert [each.data for each in messages[:4]] == [each.data for each in messages[4:]]
    assert messages[4].data == MESSAGE + b"\r\n"


@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN", "CRAM-MD5", "CRAM-MD5 PLAIN LOGIN"])
@pytest.mark.parametrize("password", ["right", "wrong"])
@pytest.mark.parametrize("initial", [True, False])
def test_a_login_works_as_in_smtplib(mechanisms: str, password: str, initial: bool) -> None:
    def scenario(session: Session) -> None:
        session.connect("SMTP", sink.host, sink.port)
        # The server refuses this message with 530, because the client has not logged in yet.
        session.call("sendmail", SENDER, "one@example.com", MESSAGE)
        session.call("login", "user", password, initial_response_ok=initial)
        session.call("sendmail", SENDER, "one@example.com", MESSAGE)
        session.call("quit")

    with Sink([f"AUTH {mechanisms}"], credentials={"user": "right"}) as sink:
        compare(scenario)
        assert [each.user for each in sink.messages] == ["user"] * 2 * (password == "right")


@pytest.mark.parametrize(("at", "commands"), [("mail", 8), ("rcpt", 11)])
def test_commands_are_written_alone_after_a_refusal(at: str, commands: int) -> None:
    """After a refusal, the client writes MAIL, RCPT and DATA in separate flights.

    A refusal within one flight would cause several errors, and servers close a connection after too
    many errors.
    """
    fault = Fault(at, reply="550 5.7.1 no", times=3)
    with (
        Sink(["PIPELINING"], faults=[fault], wire=True) as sink,
        rapidsmtp.SMTP(sink.host, sink.port, "client.example") as client,
    ):
        for _ in range(3):
            with pytest.raises(smtplib.SMTPException):
                client.sendmail(SENDER, "one@example.com", MESSAGE)
        refused = sink.wire[-1].count(b"\r\n") - 1  # without EHLO
        assert client.sendmail(SENDER, "one@example.com", MESSAGE) == {}
        assert client.sendmail(SENDER, "one@example.com", MESSAGE) == {}
    # The sink may not have recorded the last RSET yet. In this case, `refused` is one command too
    # low.
    assert refused in (commands, commands - 1)


@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelining", "without"])
@pytest.mark.parametrize(
    ("at", "what"),
    [
        pytest.param(at, what, id=f"{at}-{name}")
        for at in ("connect", "ehlo", "mail", "rcpt", "data", "body", "quit")
        for name, what in FAULTS.items()
        # A refused DATA is omitted, because smtplib sends no RSET after it (see
        # test_differences.py).
        if at != "data" or "reply" not in what
    ],
)
def test_faults_are_reported_as_by_smtplib(
    extensions: list[str], at: str, what: dict[str, Any]
) -> None:
    """The results and the exceptions are equal.

    The bytes are not compared, because with pipelining the client sends more commands.
    """

    def scenario(session: Session) -> None:
        # The session with the first module has used up the faults. The reset activates them again
        # for the second module.
        sink.reset()
        session.connect("SMTP", sink.host, sink.port)
        if session.client is None:
            return
        for _ in range(2):
            session.call("sendmail", SENDER, ["one@example.com", "two@example.com"], MESSAGE)
        session.call("quit")

    fault = Fault(at, occurrence=1 if at in ("rcpt", "ehlo") else None, times=1, **what)
    with Sink(extensions, faults=[fault]) as sink:
        compare(scenario)
