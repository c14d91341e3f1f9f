"""The security properties of the drop-in, which SECURITY.md lists."""

import base64
import contextlib
import hashlib
import hmac
import io
import ssl
import time
import traceback
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any

import pytest
import trustme

import rapidsmtp
import rapidsmtp.auth
from server import HANG_UP, TIMEOUT, Connection, Server, SMTPScript

SENDER = "sender@example.com"
ONE, TWO = "one@example.com", "two@example.com"
MESSAGE = b"Subject: x\r\n\r\nbody\r\n"
CONTROLS = ["\r\n", "\r", "\n", "\0", "\t", "\x0b", "\x1b", "\x7f", "\x85"]
INJECTED = [f"x{control}RSET" for control in CONTROLS]

pytestmark = pytest.mark.usefixtures("backend")


def connect(server: Server, way: str = "pipelined", **arguments: Any) -> rapidsmtp.SMTP:
    return rapidsmtp.SMTP(
        server.host,
        server.port,
        "client.example",
        TIMEOUT,
        pipelining=way == "pipelined",
        **arguments,
    )


@pytest.fixture
def server() -> Iterator[Server]:
    extensions = ("PIPELINING", "SMTPUTF8", "DSN", "SIZE")
    with Server(SMTPScript(extensions)) as running:
        yield running


def assert_nothing_sent(server: Server, client: rapidsmtp.SMTP, before: bytes = b"") -> None:
    """Check that the server has received only `before`, and that the connection is usable."""
    client.quit()
    assert server.wire() == before + b"quit\r\n"


EHLO = b"ehlo client.example\r\n"


@pytest.mark.parametrize("bad", INJECTED)
@pytest.mark.parametrize(
    "place", ["sender", "first", "second", "ninth", "mail option", "rcpt option"]
)
def test_control_characters_in_a_message_are_refused(
    server: Server, way: str, place: str, bad: str
) -> None:
    client = connect(server, way)
    client.ehlo()
    sender = f"{bad}@example.com" if place == "sender" else SENDER
    recipients = [f"to{n}@example.com" for n in range(10)]
    with contextlib.suppress(ValueError):
        recipients[["first", "second", "", "", "", "", "", "", "ninth"].index(place)] = (
            f"{bad}@example.com"
        )
    mail_options = [f"X={bad}"] if place == "mail option" else ["SMTPUTF8"]
    rcpt_options = [f"NOTIFY={bad}"] if place == "rcpt option" else []
    with pytest.raises(ValueError, match=r"prohibited (newline|control) characters"):
        client.sendmail(sender, recipients, MESSAGE, mail_options, rcpt_options)
    assert_nothing_sent(server, client, EHLO)


@pytest.mark.parametrize("bad", INJECTED)
def test_control_characters_in_single_commands_are_refused(server: Server, bad: str) -> None:
    client = connect(server)
    calls: list[Callable[[], object]] = [
        lambda: client.mail(f"{bad}@example.com"),
        lambda: client.rcpt(f"{bad}@example.com"),
        lambda: client.ehlo(bad),
        lambda: client.helo(bad),
        lambda: client.help(bad),
        lambda: client.docmd("noop", bad),
        lambda: client.docmd(bad),
        lambda: client.putcmd("noop", bad),
        lambda: client.verify(f"{bad}@example.com"),
        lambda: client.expn(bad),
        lambda: client.auth(f"X{bad}", lambda challenge=None: None),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="prohibited"):
            call()
    client.does_esmtp = True
    for step in (client.mail, client.rcpt):
        with pytest.raises(ValueError, match="prohibited"):
            step(ONE, [f"X={bad}"])
    assert_nothing_sent(server, client)


def test_control_characters_in_the_local_host_name_are_refused(server: Server) -> None:
    client = rapidsmtp.SMTP(server.host, server.port, "x\r\nMAIL FROM:<a@b>", TIMEOUT)
    with pytest.raises(ValueError, match="host name"):
        client.sendmail(SENDER, ONE, MESSAGE)
    client.local_hostname = "x\r\nQUIT"
    with pytest.raises(ValueError, match="prohibited newline characters"):
        client.sendmail(SENDER, ONE, MESSAGE)
    assert_nothing_sent(server, client)


@pytest.mark.parametrize("name", ["client.example SIZE=1", "a b"])
def test_an_ehlo_name_cannot_add_parameters(server: Server, name: str) -> None:
    client = connect(server)
    for hello in (client.ehlo, client.helo):
        with pytest.raises(ValueError, match="contains a space"):
            hello(name)
    client.local_hostname = name
    with pytest.raises(ValueError, match="contains a space"):
        client.sendmail(SENDER, ONE, MESSAGE)
    assert_nothing_sent(server, client)


SMUGGLING = [
    "x@y> NOTIFY=NEVER <z@w",
    "<x@y> NOTIFY=NEVER <z@w>",
    "x@y>NOTIFY=NEVER",
    '"x> NOTIFY=NEVER <"z@w',
    '"x@y> NOTIFY=NEVER <z@w',
    "x@y> NOTIFY=NEVER",
]


@pytest.mark.parametrize("address", SMUGGLING)
@pytest.mark.parametrize("place", ["sender", "first", "second"])
def test_an_address_cannot_add_parameters(
    server: Server, way: str, place: str, address: str
) -> None:
    """rapidsmtp refuses the address, or the server does not read any part of it as a parameter."""
    client = connect(server, way)
    sender = address if place == "sender" else SENDER
    recipients = {"first": [address, ONE], "second": [ONE, address]}.get(place, [ONE])
    try:
        client.sendmail(sender, recipients, MESSAGE)
    except ValueError:
        assert_nothing_sent(server, client, EHLO)
        return
    client.quit()
    for line in server.wire().split(b"data\r\n")[0].splitlines():
        if line[:4] in (b"mail", b"rcpt"):
            assert parameters(line) in (b"", b"size=%d" % len(MESSAGE)), line


def parameters(command: bytes) -> bytes:
    """Return the text after the path. A quoted bracket does not end the path (RFC 5321 4.1.2)."""
    quoted = escaped = False
    for place, byte in enumerate(command):
        if quoted and not escaped and byte == ord("\\"):
            escaped = True
            continue
        if byte == ord('"') and not escaped:
            quoted = not quoted
        elif byte == ord(">") and not quoted:
            return command[place + 1 :].strip()
        escaped = False
    raise AssertionError(f"no path in {command!r}")


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


INJECTION = b"250-server.example\r\n250 AUTH PLAIN\r\n"


def injecting(server_tls: ssl.SSLContext, pause: float) -> Callable[[Connection], None]:
    """Return a script that sends clear text after the 220, as a server or an attacker might."""

    def script(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        connection.line()
        connection.send(b"250-server.example\r\n250 STARTTLS\r\n")
        connection.line()
        if pause:
            connection.send(b"220 go on\r\n")
            time.sleep(pause)
            connection.send(INJECTION)
        else:
            connection.send(b"220 go on\r\n" + INJECTION)
        connection.start_tls(server_tls)
        connection.line()

    return script


def test_clear_text_in_one_segment_with_the_220_is_refused(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    with Server(injecting(server_tls, 0)) as server:
        client = connect(server)
        with pytest.raises(rapidsmtp.SMTPException, match="clear text"):
            client.starttls(context=client_tls)
        assert client.sock is None
        assert server.wire() == EHLO + b"STARTTLS\r\n"


def test_clear_text_a_moment_after_the_220_is_refused(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    with Server(injecting(server_tls, 0.05)) as server:
        client = connect(server)
        with pytest.raises((rapidsmtp.SMTPException, OSError)):
            client.starttls(context=client_tls)
        with pytest.raises(rapidsmtp.SMTPServerDisconnected):
            client.ehlo()
        assert client.sock is None


def test_clear_text_that_arrives_before_the_handshake_is_refused(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """The client refuses clear text that arrives in a separate segment before the handshake.

    The client's file has not read this clear text, so the text is still in the socket's receive
    buffer.
    """
    with Server(injecting(server_tls, 0.01)) as server:

        class Slow(rapidsmtp.SMTP):
            def getreply(self) -> tuple[int, bytes]:
                reply = super().getreply()
                if reply == (220, b"go on"):
                    time.sleep(0.15)
                return reply

        client = Slow(server.host, server.port, "client.example", TIMEOUT)
        with pytest.raises(rapidsmtp.SMTPException, match="clear text"):
            client.starttls(context=client_tls)
        assert client.sock is None


def test_starttls_does_not_change_the_time_limit(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    with Server(SMTPScript(["STARTTLS"], tls=server_tls)) as server, connect(server) as client:
        assert client.starttls(context=client_tls) == (220, b"2.0.0 go on")
        assert client.sock.gettimeout() == TIMEOUT
        assert client.noop()[0] == 250


def test_capabilities_are_discarded_after_tls(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    ehlo = [
        b"250-server.example\r\n250-PIPELINING\r\n250-AUTH PLAIN\r\n250 STARTTLS",
        b"250-server.example\r\n250 SIZE 1000",
    ]
    with Server(SMTPScript((), {"ehlo": ehlo}, tls=server_tls, waits_for_pause=True)) as server:
        with connect(server) as client:
            client.starttls(context=client_tls)
            assert client.esmtp_features == {}
            assert client.ehlo_resp is client.helo_resp is None
            assert not client.does_esmtp
            with pytest.raises(rapidsmtp.SMTPNotSupportedError):
                client.login("user", "secret")
            client.sendmail(SENDER, ONE, MESSAGE)
        assert b"AUTH" not in server.wire()
        # The EHLO reply after TLS has no PIPELINING, so the client sends each command in its own
        # flight.
        assert len(server.connections[0].flights) == 2 + 1 + 4 + 1


SMUGGLED_BODIES = {
    "bare LF": b"one\n.\nMAIL FROM:<a@b>",
    "LF dot CRLF": b"one\n.\r\nMAIL FROM:<a@b>",
    "CRLF dot LF": b"one\r\n.\nMAIL FROM:<a@b>",
    "bare CR": b"one\r.\rMAIL FROM:<a@b>",
    "CR dot CRLF": b"one\r.\r\nMAIL FROM:<a@b>",
    "CRLF dot CR": b"one\r\n.\rMAIL FROM:<a@b>",
    "LF LF": b"one\n\n.\r\r.\n\r.\r\n\n.",
    "at the start": b".\r\nMAIL FROM:<a@b>",
    "the real one": b"one\r\n.\r\nMAIL FROM:<a@b>\r\n",
    "at the end": b"one\r\n.\r\n",
    "final CR": b"one\r",
    "final LF": b"one\n",
    "empty": b"",
    "long": (b"x" * 8191 + b"\n.") * 20,
}


@pytest.mark.parametrize("kind", [bytes, str, bytearray])
@pytest.mark.parametrize("body", SMUGGLED_BODIES.values(), ids=SMUGGLED_BODIES)
def test_a_body_has_correct_line_ends_and_dots_and_one_terminator(
    way: str, body: bytes, kind: type
) -> None:
    message = body.decode() if kind is str else kind(body)
    with Server(SMTPScript(["PIPELINING"])) as server:
        with connect(server, way) as client:
            client.sendmail(SENDER, ONE, message)
            assert client.noop()[0] == 250
        wire = server.wire()
    sent = wire[wire.index(b"data\r\n") + 6 : wire.index(b"noop\r\n")]
    assert b"\r" not in sent.replace(b"\r\n", b"")
    assert b"\n" not in sent.replace(b"\r\n", b"")
    assert (b"\r\n" + sent).count(b"\r\n.\r\n") == 1
    assert sent.endswith(b".\r\n")
    lines = sent[:-3].split(b"\r\n")
    assert all(not line.startswith(b".") or line.startswith(b"..") for line in lines)
    unstuffed = b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)
    expected = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    if not expected.endswith(b"\r\n"):
        expected += b"\r\n"
    assert unstuffed == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"250 " + b"x" * 8200 + b"\r\n", (500, "Line too long.")),
        (b"250-x\r\n" * 512 + b"250 x\r\n", (500, "Reply too long.")),
        ((b"250-" + b"x" * 4000 + b"\r\n") * 17 + b"250 x\r\n", (500, "Reply too long.")),
        (b"x" * 100_000, (500, "Line too long.")),
    ],
    ids=["line", "lines", "bytes", "no line end"],
)
@pytest.mark.parametrize("command", ["mail", "rcpt", "message"])
def test_a_reply_beyond_the_limits_is_refused(
    way: str, command: str, reply: bytes, expected: tuple[int, str]
) -> None:
    def answer(line: bytes) -> bytes:
        return reply

    with Server(SMTPScript(["PIPELINING"], {command: answer})) as server:
        client = connect(server, way)
        with pytest.raises(rapidsmtp.SMTPResponseException) as caught:
            client.sendmail(SENDER, [ONE, TWO], MESSAGE)
        assert caught.value.args == expected
        assert client.sock is None


@pytest.mark.parametrize(
    "reply", [b"250-yes\r\n550 no", b"25 ok", b"what?", b"\xff\xfe\xfd ok", b""]
)
@pytest.mark.parametrize("command", ["ehlo", "noop", "quit"])
def test_an_invalid_reply_closes_the_connection(command: str, reply: bytes) -> None:
    with Server(SMTPScript((), {command: lambda line: reply + b"\r\n"})) as server:
        client = connect(server)
        with contextlib.suppress(rapidsmtp.SMTPServerDisconnected):
            assert client.docmd(command, "x")[0] == -1
        assert client.sock is None


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "LOGIN", "X-ANY"])
def test_the_sixth_challenge_is_refused(mechanism: str) -> None:
    rounds: list[bytes] = []

    def authobject(challenge: bytes | None = None) -> str | None:
        if challenge is not None:
            rounds.append(challenge)
        return None if challenge is None else "again"

    endless = SMTPScript([f"AUTH {mechanism}"], {"auth": b"334 Pg==", "response": b"334 Pg=="})
    with Server(endless) as server:
        client = connect(server)
        client.ehlo()
        with pytest.raises(rapidsmtp.SMTPException, match="infinite loop") as caught:
            client.auth(mechanism, authobject)
        assert "again" not in str(caught.value)
        client.close()
    # The client accepts five challenges and refuses the sixth challenge.
    assert len(rounds) <= 6


@pytest.mark.parametrize(
    "challenge", [b"334 ????", b"334 Pg", b"334 Pg=", b"334 Pg==\xff", b"334 =="]
)
def test_invalid_base64_in_a_challenge_is_refused(challenge: bytes) -> None:
    replies = {"auth": challenge, "response": b"501 ended"}
    with Server(SMTPScript(["AUTH CRAM-MD5"], replies)) as server:
        with connect(server) as client:
            client.ehlo()
            with pytest.raises(rapidsmtp.SMTPAuthenticationError):
                client.auth("CRAM-MD5", lambda challenge=None: challenge and "secret")
            # The client has cancelled the AUTH exchange and read the 501, so the next reply belongs
            # to NOOP.
            assert client.noop()[0] == 250
        assert b"AUTH CRAM-MD5\r\n*\r\nnoop\r\n" in server.wire()


def test_the_line_limit_in_auth_is_that_of_smtplib() -> None:
    largest = base64.b64encode(b"x" * 6138)
    assert len(b"334 \r\n" + largest) <= 8192 < len(b"334 \r\n" + largest) + 4
    seen: list[int] = []

    def authobject(challenge: bytes | None = None) -> str | None:
        seen.append(0 if challenge is None else len(challenge))
        return None if challenge is None else "answer"

    replies = {"auth": [b"334 " + largest, b"334 " + largest + b"AAAA"]}
    with Server(SMTPScript(["AUTH X"], replies)) as server:
        client = connect(server)
        client.ehlo()
        assert client.auth("X", authobject)[0] == 235
        with pytest.raises(rapidsmtp.SMTPResponseException, match="Line too long"):
            client.auth("X", authobject)
    assert seen == [0, 6138, 0]


@pytest.mark.parametrize("value", ["x\r\nBcc: victim@example.com", "x\nBcc: victim@example.com"])
def test_a_line_break_in_a_header_field_is_refused(value: str) -> None:
    """The email package refuses the line break when the field is assigned."""
    message = EmailMessage()
    with pytest.raises(ValueError, match="linefeed or carriage return"):
        message["Subject"] = value


def test_bcc_is_never_sent(way: str) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, ONE, "x"
    message["bCC"] = "Hidden <hidden@example.com>"
    message["Resent-Bcc"] = "resent@example.com"
    message.set_content("body\n")
    before = message.as_bytes()
    with Server(SMTPScript(["PIPELINING"])) as server:
        with connect(server, way) as client:
            client.send_message(message)
            client.sendmail(SENDER, ONE, message)
        wire = server.wire()
    envelope, *contents = wire.split(b"data\r\n")
    assert b"<hidden@example.com>" in envelope
    for content in contents:
        assert b"hidden" not in content.lower()
        assert b"bcc" not in content.lower()
    assert message.as_bytes() == before


SECRET = "s3cret-passw0rd"


def forms_of(secret: str) -> list[str]:
    """Return the secret and its encoded forms that a response to AUTH may contain."""
    forms = [secret, f"\0user\0{secret}"]
    encoded = [base64.b64encode(form.encode()).decode().rstrip("=") for form in forms]
    digest = hmac.new(secret.encode(), b"<challenge>", hashlib.md5).hexdigest()
    cram = base64.b64encode(f"user {digest}".encode()).decode().rstrip("=")
    return [secret, *encoded, digest, cram]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("final", [b"235 ok", b"535 5.7.8 no", HANG_UP])
def test_debug_output_reprs_and_exceptions_contain_no_secret(
    mechanism: str, initial: bool, level: int, final: bytes
) -> None:
    challenge = b"334 " + base64.b64encode(b"<challenge>")
    if mechanism == "LOGIN":
        auth, response = [challenge], [final if initial else challenge, final]
    elif mechanism == "PLAIN" and initial:
        auth, response = [final], []
    else:
        auth, response = [challenge], [final]
    output = io.StringIO()
    replies = {"auth": auth, "response": response}
    with Server(SMTPScript([f"AUTH {mechanism}"], replies)) as server:
        with contextlib.redirect_stderr(output):
            client = connect(server)
            client.set_debuglevel(level)
            try:
                client.login("user", SECRET, initial_response_ok=initial)
            except rapidsmtp.SMTPException:
                traceback.print_exc()
            print(repr(client), str(client), file=output)
            client.close()
        wire = server.wire().decode()
    text = output.getvalue()
    assert any(trace in wire for trace in forms_of(SECRET)), (
        "the secret was not sent, so the test proves nothing"
    )
    for trace in forms_of(SECRET):
        assert trace not in text
    assert "[redacted]" in text


def test_commands_after_auth_are_shown_again() -> None:
    output = io.StringIO()
    with Server(SMTPScript(["AUTH PLAIN"])) as server, contextlib.redirect_stderr(output):
        client = connect(server)
        client.set_debuglevel(1)
        client.login("user", SECRET)
        client.docmd("noop", "visible")
        client.close()
    assert "noop visible" in output.getvalue()


class Proving:
    """An auth object that is complete only after the server's signature, as in SCRAM."""

    complete = False

    def __call__(self, challenge: bytes | None = None) -> str | None:
        if challenge == b"proof":
            self.complete = True
            return ""
        return "first"


def test_a_235_without_the_servers_scram_signature_closes_the_connection() -> None:
    with Server(SMTPScript(["AUTH SCRAM-SHA-256"])) as server:
        client = connect(server)
        client.ehlo()
        with pytest.raises(rapidsmtp.SMTPAuthenticationError):
            client.auth("SCRAM-SHA-256", Proving())
        assert client.sock is None


def test_a_235_with_the_servers_scram_signature_is_accepted() -> None:
    proof = b"334 " + base64.b64encode(b"proof")
    script = SMTPScript(["AUTH SCRAM-SHA-256"], {"auth": proof})
    with Server(script) as server, connect(server) as client:
        client.ehlo()
        assert client.auth("SCRAM-SHA-256", Proving())[0] == 235


def test_replies_are_parsed_in_linear_time() -> None:
    """The client parses replies in linear time.

    The server sends many replies of the maximum length. If the time were quadratic in the length,
    parsing these replies would take minutes.
    """
    nasty = b"\r\n".join([b"250-" + b"AUTH= " * 18] * 511 + [b"250 " + b" " * 100])
    began = time.process_time()
    with (
        Server(SMTPScript((), {"ehlo": nasty, "noop": nasty})) as server,
        connect(server) as client,
    ):
        for _ in range(10):
            assert client.ehlo()[0] == 250
            assert client.noop()[0] == 250
    assert time.process_time() - began < 20


def test_a_read_that_times_out_closes_the_connection(way: str) -> None:
    """A read that times out closes the connection.

    On an open connection, the client could read the late reply as the reply to the next command.
    """

    def script(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        connection.line()
        connection.send(b"250-server.example\r\n250 PIPELINING\r\n")
        connection.rest()

    with Server(script) as server:
        client = connect(server, way)
        client.ehlo()
        client.sock.settimeout(0.1)
        with pytest.raises(rapidsmtp.SMTPServerDisconnected, match="timed out"):
            client.sendmail(SENDER, ONE, MESSAGE)
        assert client.sock is None


@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5"])
def test_a_password_that_is_not_ascii_is_not_in_the_error(backend: str, mechanism: str) -> None:
    with Server(SMTPScript([f"AUTH {mechanism}"], {"auth": [b"334 PDE+"]})) as server:
        client = rapidsmtp.SMTP(server.host, server.port, timeout=TIMEOUT)
        with pytest.raises(UnicodeEncodeError) as caught:
            client.login("user", "p\xe4sswort")
        client.close()
    error: BaseException | None = caught.value
    while error is not None:
        assert "sswort" not in repr(error)
        error = error.__context__


def test_external_needs_no_signature_of_the_server(backend: str) -> None:
    with Server(SMTPScript(["AUTH EXTERNAL"], {"auth": [b"235 2.7.0 welcome"]})) as server:
        client = rapidsmtp.SMTP(server.host, server.port, timeout=TIMEOUT)
        client.ehlo()
        assert client.auth("EXTERNAL", rapidsmtp.auth.External())[0] == 235
        client.close()
