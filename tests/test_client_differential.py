"""The same calls give equal results, exceptions, state and bytes in smtplib and in rapidsmtp.

The intended differences are in test_differences.py.
"""

import contextlib
import inspect
import io
import ipaddress
import re
import smtplib
import socket
import ssl
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme

import rapidsmtp
from comparison import Scenario, Session, compare
from recording_server import RecordingServer
from server import HANG_UP, TIMEOUT, Connection, Raw, Server, SMTPScript

SENDER = "sender@example.com"
PLAIN = b"Subject: x\r\n\r\nbody\r\n"
pytestmark = pytest.mark.usefixtures("backend", "face")
# A mark for tests of error texts that differ or are missing in asyncio. These tests use only the
# drop-in.
drop_in = pytest.mark.parametrize("face", ["drop-in"], indirect=True)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class Route:
    """A kind of server, and how to connect to it."""

    def __init__(
        self, recorder: RecordingServer, kind: str, tls: ssl.SSLContext, starttls: bool
    ) -> None:
        self.recorder, self.lmtp = recorder, kind == "LMTP"
        self._kind, self._tls, self._starttls = kind, tls, starttls

    def connect(self, session: Session) -> None:
        named = {"context": self._tls} if self._kind == "SMTP_SSL" else {}
        session.connect(self._kind, self.recorder.host, self.recorder.port, **named)
        if self._starttls:
            session.call("starttls", context=self._tls)

    def compare(self, scenario: Scenario, wire: bool = True) -> list[Any]:
        def connected(session: Session) -> None:
            self.connect(session)
            scenario(session)

        recorded = self.recorder.next_wire
        # Call `next_wire` even if the bytes are not compared, because it also waits for the end of
        # the connection.
        return compare(connected, recorded if wire else lambda: recorded() and b"")


SMTP_ROUTES = ["SMTP", "STARTTLS", "SMTP_SSL"]
ROUTES = [*SMTP_ROUTES, "LMTP", "LMTP unix"]


@pytest.fixture(scope="module", params=[("PIPELINING",), ()], ids=["supported", "not supported"])
def extensions(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module", params=ROUTES)
def way(
    request: pytest.FixtureRequest,
    extensions: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> Iterator[Route]:
    kind, starttls = request.param.split(" ")[0], request.param == "STARTTLS"
    path = str(tmp_path_factory.mktemp("lmtp") / "socket") if "unix" in request.param else None
    with RecordingServer(
        extensions,
        lmtp=kind == "LMTP",
        tls=server_tls if kind == "SMTP_SSL" else None,
        starttls=server_tls if starttls else None,
        path=path,
    ) as recorder:
        yield Route(recorder, "SMTP" if starttls else kind, client_tls, starttls)


MESSAGES = {
    "bytes": PLAIN,
    "bytearray": bytearray(PLAIN),
    "str": "Subject: x\r\n\r\nbody\r\n",
    "str with bare line ends": "Subject: x\n\nbody\rand\n.dot\n\n",
    "dots": b".\r\n..\r\n.dot\r\nx.\r\n.\r\n",
    "no final line end": b"Subject: x\r\n\r\nbody",
    "final CR in a str": "body\r",
    "a lone dot": b".",
    "empty": b"",
    "empty str": "",
    "line end alone": b"\r\n",
    "8 bit": "Subject: ü\r\n\r\nbödy\r\n".encode(),
    "long": b"0123456789" * 90 + b"\r\n." + (b"x" * 70 + b"\r\n.") * 3000,
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_message_is_sent_as_by_smtplib(way: Route, message: Any) -> None:
    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, ["one@example.com"], message)
        session.call("noop")
        session.call("quit")

    assert way.compare(scenario)[-1][0] == ("returned", (221, b"Bye"))


# LMTP is not compared: smtplib reads one reply for all recipients (see test_differences.py).
@pytest.mark.parametrize("way", SMTP_ROUTES, indirect=True)
@pytest.mark.parametrize("count", [1, 2, 8, 9, 50, 150])
def test_any_number_of_recipients_is_sent_as_by_smtplib(way: Route, count: int) -> None:
    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, [f"to{n}@example.com" for n in range(count)], PLAIN)
        mixed = ["later@example.com", "to@example.com", *["refused@example.com"] * (count - 1)]
        session.call("sendmail", SENDER, mixed, PLAIN)
        session.call("sendmail", SENDER, "alone@example.com", PLAIN)
        session.call("quit")

    way.compare(scenario)
    sender, recipients, content = way.recorder.handler.envelopes[-1]
    assert (sender, recipients, content) == (SENDER, ["alone@example.com"], PLAIN)


def test_refusals_are_reported_as_by_smtplib(way: Route) -> None:
    """The results and the exceptions are equal.

    The bytes differ, because rapidsmtp may send pipelined commands before it reads a refusal.
    """

    def scenario(session: Session) -> None:
        session.call("sendmail", "refused@example.com", ["one@example.com"], PLAIN)
        session.call("sendmail", SENDER, ["refused@example.com"], PLAIN)
        refused = [f"{word}{n}@example.com" for n in range(6) for word in ("refused", "later")]
        session.call("sendmail", SENDER, refused, PLAIN)
        session.call("sendmail", SENDER, ["one@example.com"], b"X-Refuse: y\r\n\r\n")
        session.call("sendmail", SENDER, ["one@example.com"], PLAIN)
        session.call("quit")

    record = way.compare(scenario, wire=False)
    kinds = [outcome[1] for outcome, _ in record if outcome[0] == "raised"]
    assert kinds[:2] == [smtplib.SMTPSenderRefused, smtplib.SMTPRecipientsRefused]


def test_options_are_sent_as_by_smtplib(way: Route) -> None:
    def scenario(session: Session) -> None:
        mail_options = ["BODY=8BITMIME", "SMTPUTF8"]
        session.call("sendmail", "jörg@example.com", ["zoë@example.com"], PLAIN, mail_options)
        # After a message with SMTPUTF8, smtplib keeps `command_encoding` until `rset`. So this call
        # resets it for the next messages.
        session.call("rset")
        session.call("sendmail", SENDER, ["one@example.com"], PLAIN, (), ["NOTIFY=NEVER"])
        session.call("sendmail", SENDER, ["one@example.com"], PLAIN, ["X-UNKNOWN=1"], ())
        session.call("noop")

    def without_encoding(scenario: Scenario) -> Scenario:
        def run(session: Session) -> None:
            scenario(session)
            for _, state in session.record:
                del state["command_encoding"]

        return run

    way.compare(without_encoding(scenario), wire=False)


def test_addresses_are_sent_as_by_smtplib(way: Route) -> None:
    def scenario(session: Session) -> None:
        for address in (
            "Name <one@example.com>",
            "<one@example.com>",
            '"quoted local"@example.com',
            '"a<b"@example.com',
            "one",
            "",
            "one@[127.0.0.1]",
            "(comment) one@example.com",
            "one@example.com (comment)",
            "foo bar@example.com",
        ):
            session.call("sendmail", address, ["one@example.com"], PLAIN)
            session.call("sendmail", SENDER, ["one@example.com", address][: 2 - way.lmtp], PLAIN)

    way.compare(scenario, wire=False)


@pytest.mark.parametrize("place", ["sender", "recipient", "option"])
def test_text_that_cannot_be_encoded_raises_as_in_smtplib(way: Route, place: str) -> None:
    """Both modules raise the same `UnicodeEncodeError`, which contains the whole command."""

    def scenario(session: Session) -> None:
        given = {"sender": SENDER, "recipient": "one@example.com", "option": "BODY=8BITMIME"}
        given[place] += "\u00fc"
        for method, arguments in (
            ("sendmail", (given["sender"], [given["recipient"]], PLAIN, [given["option"]])),
            ("mail", (given["sender"], [given["option"]])),
            ("rcpt", (given["recipient"],)),
        ):
            session.call(method, *arguments)
            # With an invalid recipient, smtplib fails after MAIL, so a transaction is open.
            session.call("rset")

    way.compare(scenario, wire=False)


def test_single_methods_work_as_in_smtplib(way: Route) -> None:
    def scenario(session: Session) -> None:
        session.call("ehlo", "other.example")
        session.call("has_extn", "Size")
        session.call("mail", SENDER, ["size=20"])
        session.call("rcpt", "one@example.com")
        session.call("data", PLAIN)
        session.call("mail", SENDER)
        session.call("rcpt", "refused@example.com")
        session.call("data", PLAIN)
        session.call("rset")
        session.call("vrfy", "Name <one@example.com>")
        session.call("expn", "list")
        session.call("help")
        session.call("help", "MAIL")
        session.call("docmd", "NOOP", "x")
        session.call("putcmd", "NOOP")
        session.call("getreply")
        session.call("helo")
        session.call("docmd", "BOGUS")
        session.call("quit")
        session.call("noop")
        session.call("quit")

    way.compare(scenario)


@pytest.mark.parametrize("way", ["SMTP"], indirect=True)
def test_a_local_host_name_may_be_any_object_with_a_text(way: Route) -> None:
    def scenario(session: Session) -> None:
        session.call("ehlo", ipaddress.ip_address("127.0.0.1"))
        session.client.local_hostname = ipaddress.ip_address("127.0.0.1")
        session.call("ehlo")
        session.call("helo")
        session.call("quit")

    way.compare(scenario)


# LMTP is omitted, because it has no HELO.
@pytest.mark.parametrize("way", SMTP_ROUTES, indirect=True)
def test_after_helo_no_options_are_sent(way: Route) -> None:
    def scenario(session: Session) -> None:
        session.call("helo")
        session.call("sendmail", SENDER, ["one@example.com"], PLAIN, ["SMTPUTF8"], ["NOTIFY=NEVER"])
        session.call("quit")

    way.compare(scenario)


def test_a_client_reconnects_as_in_smtplib(way: Route) -> None:
    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, ["one@example.com"], PLAIN)
        session.call("quit")
        session.call("sendmail", SENDER, ["one@example.com"], PLAIN)
        session.call("close")
        session.call("connect", way.recorder.host, way.recorder.port)
        session.call("sendmail", SENDER, ["one@example.com"], PLAIN)
        session.call("quit")

    def both_wires() -> bytes:
        return way.recorder.next_wire() + way.recorder.next_wire()

    def connected(session: Session) -> None:
        way.connect(session)
        scenario(session)

    compare(connected, both_wires)


def test_the_context_manager_works_as_in_smtplib(way: Route) -> None:
    def scenario(session: Session) -> None:
        def manage() -> Any:
            with session.client as client:
                assert client is session.client
                return client.sendmail(SENDER, "one@example.com", PLAIN)

        session.note(manage)
        session.note(manage)

    way.compare(scenario)


def email_message(**fields: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    message.set_content("Grüße\n.\nfrom here\n")
    return message


EMAIL_MESSAGES = {
    "plain": email_message(From="Me <me@example.com>", To="one@example.com", Subject="x"),
    "sender": email_message(
        Sender="sender@example.com", From="a@example.com, b@example.com", To="c@e.org"
    ),
    "bcc": email_message(From=SENDER, Bcc="hidden@example.com", Subject="ünï"),
    "resent": email_message(
        From=SENDER,
        To="first@example.com",
        Resent_Date="Thu, 1 Jan 1970 17:42:00 +0000",
        Resent_From="again@example.com",
        Resent_Sender="sent@example.com",
        Resent_Bcc="holy@example.com",
    ),
    "international": email_message(From="jörg@example.com", To="zoë@example.com", Subject="ü"),
    "no recipient": email_message(From=SENDER, Subject="x"),
    "no sender": email_message(To="one@example.com"),
}


@pytest.mark.parametrize("message", EMAIL_MESSAGES.values(), ids=EMAIL_MESSAGES)
def test_send_message_sends_as_by_smtplib(way: Route, message: EmailMessage) -> None:
    before = message.items(), message.get_content()

    def scenario(session: Session) -> None:
        session.call("send_message", message)
        session.record[-1][1].pop("command_encoding")

    way.compare(scenario)
    assert (message.items(), message.get_content()) == before


def test_send_message_uses_given_addresses_as_smtplib_does(way: Route) -> None:
    twice = email_message(From=SENDER, To="one@example.com")
    twice["Resent-Date"] = "Thu, 1 Jan 1970 17:42:00 +0000"
    twice["Resent-Date"] = "Thu, 1 Jan 1970 17:43:00 +0000"

    def scenario(session: Session) -> None:
        message = EMAIL_MESSAGES["plain"]
        session.call("send_message", message, "other@example.com", ["to@example.com"])
        session.call("send_message", message, to_addrs="to@example.com", mail_options=["SMTPUTF8"])
        session.record[-1][1].pop("command_encoding")
        session.call("send_message", twice)
        session.record[-1][1].pop("command_encoding")

    way.compare(scenario)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("initial", [True, False])
def test_auth_works_as_in_smtplib(way: Route, mechanism: str, initial: bool) -> None:
    def scenario(session: Session) -> None:
        session.call("ehlo")
        for password in ("wrong", "pass word"):
            session.client.user, session.client.password = "user", password
            authobject = getattr(session.client, "auth_" + mechanism.lower())
            session.call("auth", mechanism, authobject, initial_response_ok=initial)
        session.call("sendmail", SENDER, "one@example.com", PLAIN)
        session.call("quit")

    record = way.compare(scenario)
    assert ("returned", (235, b"2.7.0 Authentication successful")) in [
        outcome for outcome, _ in record
    ]


@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("password", ["pass word", "wrong"])
def test_login_works_as_in_smtplib(way: Route, initial: bool, password: str) -> None:
    def scenario(session: Session) -> None:
        session.call("login", "user", password, initial_response_ok=initial)
        session.call("login", "user", password, initial_response_ok=initial)

    way.compare(scenario)


def against(script: Callable[[Connection], None], scenario: Scenario, wire: bool = True) -> Any:
    """Compare both modules with a scripted server. `scenario` gets a connected client."""
    with Server(script) as server:

        def connected(session: Session) -> None:
            session.connect("SMTP", server.host, server.port)
            if session.client is not None:
                scenario(session)

        return compare(connected, server.wire if wire else None)


CHALLENGE = b"334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+"


def test_cram_md5_equals_the_example_of_the_rfc() -> None:
    def scenario(session: Session) -> None:
        session.call("login", "tim", "tanstaaftanstaaf")
        session.call("quit")

    with Server(SMTPScript(["AUTH CRAM-MD5 PLAIN"], {"auth": CHALLENGE})) as server:

        def connected(session: Session) -> None:
            session.connect("SMTP", server.host, server.port)
            scenario(session)

        compare(connected, server.wire)
        # The client sends the response of the example in RFC 2195 section 2.
        assert b"dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw\r\n" in server.wire()


@pytest.mark.parametrize(
    "capabilities",
    [
        ["AUTH CRAM-MD5 PLAIN LOGIN"],
        ["AUTH=LOGIN", "AUTH PLAIN"],
        ["AUTH=LOGIN PLAIN"],
        ["auth plain"],
        ["AUTH GSSAPI"],
        ["AUTH"],
        [],
    ],
)
@pytest.mark.parametrize("reply", [b"535 5.7.8 no", b"503 already", b"235 ok", b"454 later"])
def test_login_tries_one_mechanism_after_the_other(capabilities: list[str], reply: bytes) -> None:
    replies = {"auth": [b"334 Pg==", reply, reply], "response": [b"535 5.7.8 no"] + [reply] * 5}
    against(
        SMTPScript(capabilities, replies),
        lambda session: session.call("login", "user", "password"),
    )


GREETINGS = [
    b"220 ready",
    b"220-two\r\n220 lines",
    b"220",
    b"554 no service",
    b"421 busy",
    Raw(b"220 no line end"),
    Raw(b""),
    HANG_UP,
]


@pytest.mark.parametrize("greeting", GREETINGS)
def test_greetings_are_read_as_by_smtplib(greeting: bytes) -> None:
    def script(connection: Connection) -> None:
        connection.send(
            greeting if isinstance(greeting, Raw) or not greeting else greeting + b"\r\n"
        )
        if greeting.startswith(b"220") and not isinstance(greeting, Raw):
            # Read the EHLO. If unread bytes remained, closing the socket would reset the
            # connection.
            connection.line()

    against(script, lambda session: session.call("noop"), wire=False)


EHLO_REPLIES = [
    b"250 alone",
    b"250-server\r\n250-SIZE\r\n250 size 100",
    b"250-server\r\n250-SIZE=20\r\n250-X_Y z\r\n250- SPACE\r\n250-\r\n250 8BITMIME  a  b ",
    b"250-server\r\n250-SIZE 9 9\r\n250-auth plain\r\n250-AUTH=LOGIN\r\n250 AUTH\tLOGIN",
    b"250-s\xe4rver\r\n250 F\xfc 1",
    b"250-server\r\n250-SIZE " + b"9" * 30 + b"\r\n250 HELP",
    b"251 odd",
    b"500 what?",
    b"550-no\r\n550 really",
    HANG_UP,
]


@pytest.mark.parametrize("ehlo", EHLO_REPLIES)
@pytest.mark.parametrize("helo", [b"250 hello", b"500 no", HANG_UP])
def test_replies_to_ehlo_are_read_as_by_smtplib(ehlo: bytes, helo: bytes) -> None:
    def scenario(session: Session) -> None:
        session.call("ehlo_or_helo_if_needed")
        session.call("sendmail", SENDER, "one@example.com", PLAIN, ["BODY=8BITMIME"])
        session.call("starttls")
        session.call("quit")

    against(SMTPScript((), {"ehlo": ehlo, "helo": helo}), scenario)


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (command, reply)
        for command in ("mail", "rcpt", "data", "message", "rset")
        for reply in (b"421 4.3.2 going", b"550-no\r\n550 and no", b"450 later", b"250", HANG_UP)
        # After a 421 or a 2yz to DATA, the client closes the connection. This is an intended
        # difference: see test_differences.py.
        if (command, reply[:3]) not in (("data", b"421"), ("data", b"250"))
    ],
)
def test_replies_to_the_commands_of_a_transaction_are_read_as_by_smtplib(
    command: str, reply: bytes
) -> None:
    def scenario(session: Session) -> None:
        session.call("sendmail", SENDER, ["one@example.com", "two@example.com"], PLAIN)
        if command == "rset":
            session.call("rset")

    for extensions in ((), ("PIPELINING",)):
        against(SMTPScript(extensions, {command: reply}), scenario, wire=False)


# After a 421 to DATA, the client closes the connection. This is an intended difference from
# smtplib, so this table has no reply to RCPT.
EARLY = {
    "ehlo": b"250-server.example\r\n250 %s",
    "mail": b"250 ok%.0b",
    "data": b"354 go on%.0b",
}


@pytest.mark.parametrize("extension", [b"HELP", b"PIPELINING"])
@pytest.mark.parametrize("command", EARLY)
def test_an_early_421_is_the_reply_to_the_next_command_as_in_smtplib(
    command: str, extension: bytes
) -> None:
    def scenario(session: Session) -> None:
        session.call("ehlo")
        session.call("sendmail", SENDER, ["one@example.com"], PLAIN)

    reply = EARLY[command] % extension + b"\r\n421 4.3.2 going"
    # Only smtplib writes the commands that follow a 421.
    against(SMTPScript((extension.decode(),), {command: reply}), scenario, wire=False)


def test_a_refused_or_unsupported_starttls_raises_as_in_smtplib() -> None:
    for script in (
        SMTPScript(),
        SMTPScript(["STARTTLS"], {"starttls": b"454 4.7.0 not now"}),
        SMTPScript(["STARTTLS"], {"starttls": HANG_UP}),
    ):

        def scenario(session: Session) -> None:
            session.call("starttls")
            session.call("noop")

        against(script, scenario)


@drop_in
def test_hosts_and_ports_are_parsed_as_by_smtplib() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed_port = listener.getsockname()[1]

    def scenario(session: Session) -> None:
        for arguments in (
            ("127.0.0.1", closed_port),
            (f"127.0.0.1:{closed_port}",),
            ("127.0.0.1:http",),
            ("127.0.0.1:",),
            ("/nowhere/lmtp",),
        ):
            for kind in ("SMTP", "LMTP"):
                if (kind, arguments) != ("SMTP", ("/nowhere/lmtp",)):
                    session.connect(kind, *arguments)
        for kind in ("SMTP", "SMTP_SSL", "LMTP"):
            session.connect(kind, "127.0.0.1", closed_port, timeout=0)
            session.connect(kind)
            session.call("noop")
            session.call("sendmail", SENDER, "one@example.com", PLAIN)
            session.call("connect", "127.0.0.1", closed_port)
            session.call("close")
        session.connect("LMTP", "/nowhere/lmtp", timeout=0)

    compare(scenario)


def test_a_port_in_the_host_name_and_a_source_address_work_as_in_smtplib() -> None:
    with Server(SMTPScript()) as server:

        def scenario(session: Session) -> None:
            session.connect("SMTP", f"{server.host}:{server.port}")
            session.call("quit")
            session.connect("SMTP", source_address=("127.0.0.1", 0))
            session.call("connect", server.host, server.port)
            session.call("quit")
            session.call("connect", server.host, server.port, ("127.0.0.2", 0))
            session.note(lambda: session.client.sock.getsockname()[0])
            session.call("quit")

        compare(scenario)


def test_timeouts_work_as_in_smtplib() -> None:
    def silent(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        connection.rest()

    with Server(silent) as server:

        def scenario(session: Session) -> None:
            session.connect("SMTP", server.host, server.port, timeout=0.1)
            session.call("ehlo")
            session.call("noop")

        record = compare(scenario)
    assert record[1][0][1] is smtplib.SMTPServerDisconnected


def test_a_server_that_closes_without_a_greeting_raises_as_in_smtplib() -> None:
    with Server(Connection.rest) as server:
        compare(lambda session: session.connect("SMTP", server.host, server.port, timeout=0.1))


@drop_in
@pytest.mark.parametrize("level", [1, 2])
def test_the_debug_output_equals_that_of_smtplib(level: int) -> None:
    """The debug output of both modules is equal, except for the time of day."""

    def scenario(session: Session) -> None:
        output = io.StringIO()
        with contextlib.redirect_stderr(output):
            client = session.client = session.module.SMTP(
                timeout=TIMEOUT, local_hostname="c.example"
            )
            client.set_debuglevel(level)
            session.call("connect", server.host, server.port)
            session.call("sendmail", SENDER, ["one@example.com", "two@example.com"], PLAIN)
            session.call("send_message", EMAIL_MESSAGES["plain"])
            session.call("sendmail", "refused@example.com", ["one@example.com"], "text")
            session.call("help", "x")
            session.call("vrfy", "one")
            session.call("quit")
        session.record.append(re.sub(r"(?m)^\d\d:\d\d:\d\d\.\d+", "TIME", output.getvalue()))

    replies = {
        "rcpt": [b"550-no\r\n550 n\xf6", b"250 ok"],
        "mail": [b"250 ok", b"250 ok", b"550 no"],
    }
    with Server(SMTPScript(["PIPELINING", "SIZE 1000"], replies)) as server:
        output = compare(scenario, server.wire)[-1]
    assert output.startswith("TIME connect: to" if level == 2 else "connect: to")
    assert "reply: b'550 n\\xf6\\r\\n'" in output


@drop_in
def test_the_debug_output_of_the_other_classes_equals_that_of_smtplib(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    def scenario(session: Session) -> None:
        output = io.StringIO()
        with contextlib.redirect_stderr(output):
            smtps = session.module.SMTP_SSL(context=client_tls, local_hostname="client.example")
            smtps._host = secure.host
            lmtp = session.module.LMTP(local_hostname="client.example")
            for client, server in ((smtps, secure), (lmtp, local)):
                client.set_debuglevel(1)
                client.connect(server.host, server.port)
                client.sendmail(SENDER, "one@example.com", PLAIN)
                client.quit()
            with pytest.raises(OSError):
                lmtp.connect("/nowhere/lmtp")
        session.record.append(output.getvalue())

    path = str(tmp_path / "socket")
    script = SMTPScript(["SIZE"])
    with (
        Server(script, tls=server_tls) as secure,
        Server(SMTPScript(["SIZE"], lmtp=True), path=path) as local,
    ):
        compare(scenario)


def test_signatures_follow_the_running_python() -> None:

    for kind in ("SMTP", "SMTP_SSL", "LMTP"):
        theirs, ours = getattr(smtplib, kind), getattr(rapidsmtp, kind)
        for name in ("__init__", *(name for name in dir(theirs) if not name.startswith("_"))):
            if callable(getattr(theirs, name)):
                expected = inspect.signature(getattr(theirs, name)).parameters
                actual = inspect.signature(getattr(ours, name)).parameters
                shapes = [
                    [(each.name, each.kind, each.default) for each in parameters.values()]
                    for parameters in (expected, actual)
                ]
                shapes[1] = [each for each in shapes[1] if each[0] not in ("pipelining", "reuse")]
                assert shapes[1] == shapes[0], (kind, name)


if sys.version_info < (3, 12):

    @drop_in
    @pytest.mark.parametrize("given", [("key", "certificate"), ("", "certificate"), ("key", "")])
    @pytest.mark.parametrize("with_context", [False, True])
    @pytest.mark.parametrize("kind", ["SMTP", "SMTP_SSL"])
    def test_key_and_certificate_files_work_as_in_smtplib(
        authority: trustme.CA,
        server_tls: ssl.SSLContext,
        tmp_path: Path,
        kind: str,
        given: tuple[str, str],
        with_context: bool,
    ) -> None:
        issued = authority.issue_cert("client.example")
        paths = {"": None, "key": str(tmp_path / "key"), "certificate": str(tmp_path / "chain")}
        issued.private_key_pem.write_to_path(str(tmp_path / "key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / "chain"))
        named: dict[str, Any] = {"keyfile": paths[given[0]], "certfile": paths[given[1]]}
        if with_context:
            named["context"] = ssl._create_unverified_context()

        def scenario(session: Session) -> None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if kind == "SMTP_SSL":
                    session.connect("SMTP_SSL", server.host, server.port, **named)
                else:
                    session.connect("SMTP", server.host, server.port)
                    session.call("starttls", **named)
            session.record.append([(each.category, str(each.message)) for each in caught])
            # The warning shows the line of the caller, not a line of rapidsmtp or smtplib.
            session.record.append([Path(each.filename).name for each in caught])

        script = SMTPScript(["STARTTLS"], tls=server_tls)
        with Server(script, tls=server_tls if kind == "SMTP_SSL" else None) as server:
            compare(scenario)
