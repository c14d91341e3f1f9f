"""EHLO and AUTH of `Sender` with unusual relays, on both backends."""

import base64
import contextlib
import hmac
import ssl
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import trustme

from rapidsmtp import TLS, RelayError, Status
from senders import commands, message, messages, send, send_and_stop, sender_to, wait_for, wires
from server import HANG_UP, TIMEOUT, Connection, Reply, Server, SMTPScript

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.usefixtures("fast_clock")]

LOGIN: dict[str, Any] = {
    "login": "user:pencil@",
    "query": "?starttls=off",
    "allow_plaintext_auth": True,
    "connections": 1,
}
CHALLENGE = b"334 PDEuMkBzZXJ2ZXIuZXhhbXBsZT4="
USER, PASSWORD, PLAIN = (base64.b64encode(each) for each in (b"user", b"pencil", b"\0user\0pencil"))
MECHANISM_CODES = (500, 501, 502, 504, 534, 538, 553)


def named(mechanism: str) -> dict[str, Any]:
    return LOGIN | {"query": f"?starttls=off&auth={mechanism.lower()}"}


def auth_lines(server: Server, place: int = 0) -> list[bytes]:
    """Return the lines of a connection between EHLO and MAIL or QUIT."""
    lines = wires(server)[place].split(b"\r\n")[1:]
    ends = (b"mail", b"quit", b"")
    return lines[: next(at for at, line in enumerate(lines) if line[:4].lower() in ends)]


def accepted(script: SMTPScript, **settings: Any) -> list[bytes]:
    """Send a message, and return the lines of the login."""
    with Server(script) as server:
        outcomes = send(sender_to(server, **LOGIN | settings), messages(1))
        assert [each.status for each in outcomes] == [Status.ACCEPTED]
        assert len(server.connections) == 1
        return auth_lines(server)


def refused(script: SMTPScript, **settings: Any) -> tuple[list[bytes], str]:
    """Try to send a message; return the lines of the login on each connection, and the error."""
    with Server(script) as server:
        outcomes, error = send_and_stop(sender_to(server, **LOGIN | settings), messages(2))
        assert {each.status for each in outcomes} <= {Status.NOT_ATTEMPTED}
        assert commands(server, b"MAIL") == 0
        lines = [line for place in range(len(wires(server))) for line in auth_lines(server, place)]
        return lines, str(error).replace(str(server.port), "PORT")


# A refusal of the mechanism


@pytest.mark.parametrize("code", MECHANISM_CODES)
def test_after_a_refused_mechanism_the_next_one_is_used(code: int) -> None:
    refusal = b"%d 5.7.4 not this one" % code
    script = SMTPScript(["AUTH LOGIN CRAM-MD5 PLAIN"], {"auth": [refusal]})
    assert accepted(script) == [b"AUTH CRAM-MD5", b"AUTH PLAIN " + PLAIN]
    replies = {"auth": [refusal, refusal, b"334 UGFzc3dvcmQ6"]}
    lines = accepted(SMTPScript(["AUTH LOGIN CRAM-MD5 PLAIN"], replies))
    assert lines == [b"AUTH CRAM-MD5", b"AUTH PLAIN " + PLAIN, b"AUTH LOGIN " + USER, PASSWORD]


@pytest.mark.parametrize("code", MECHANISM_CODES)
def test_a_mechanism_may_be_refused_after_its_challenge(code: int) -> None:
    refusal = b"%d too weak for this user" % code
    script = SMTPScript(["AUTH CRAM-MD5 PLAIN"], {"auth": [CHALLENGE], "response": [refusal]})
    lines = accepted(script)
    assert [lines[0], lines[2]] == [b"AUTH CRAM-MD5", b"AUTH PLAIN " + PLAIN]


def test_over_tls_the_next_mechanism_is_the_next_of_the_order_for_tls(
    server_tls: ssl.SSLContext, authority: trustme.CA
) -> None:
    script = SMTPScript(
        ["AUTH CRAM-MD5 LOGIN PLAIN"], {"auth": [b"504 5.5.4 no", b"534 5.7.9 weak", CHALLENGE]}
    )
    with Server(script, tls=server_tls) as server:
        settings = LOGIN | {"query": "", "tls": TLS(ca_file=authority.cert_pem.bytes())}
        outcomes = send(sender_to(server, "smtps", **settings), messages(1))
        assert [each.status for each in outcomes] == [Status.ACCEPTED]
        lines = auth_lines(server)
    assert lines[:3] == [b"AUTH PLAIN " + PLAIN, b"AUTH LOGIN " + USER, b"AUTH CRAM-MD5"]


@pytest.mark.parametrize(
    "refusal",
    [
        b"535 5.7.8 wrong",
        b"535 wrong",
        b"535 5.7.4 no",
        b"501 5.7.8 wrong",
        b"534 5.7.8 wrong",
        b"530 5.7.0 first STARTTLS",
        b"550 5.7.1 blocked",
        b"554 5.7.1 no",
    ],
)
@pytest.mark.parametrize("challenged", [False, True])
def test_after_any_other_refusal_no_mechanism_is_tried(refusal: bytes, challenged: bool) -> None:
    replies: dict[str, Sequence[Reply]] = {"auth": [refusal]}
    if challenged:
        replies = {"auth": [CHALLENGE], "response": [refusal]}
    lines, error = refused(SMTPScript(["AUTH CRAM-MD5 PLAIN LOGIN"], replies))
    assert [line for line in lines if line.startswith(b"AUTH")] == [b"AUTH CRAM-MD5"]
    assert error == f"relay 127.0.0.1:PORT refused the login: {refusal.decode()}"


def test_a_refusal_of_the_second_mechanism_is_final() -> None:
    replies = {"auth": [b"504 5.5.4 no", b"535 5.7.8 wrong"]}
    lines, error = refused(SMTPScript(["AUTH CRAM-MD5 PLAIN LOGIN"], replies))
    assert lines == [b"AUTH CRAM-MD5", b"AUTH PLAIN " + PLAIN]
    assert error == "relay 127.0.0.1:PORT refused the login: 535 5.7.8 wrong"


def test_the_last_reply_is_reported_if_all_mechanisms_are_refused() -> None:
    replies = {"auth": [b"504 5.5.4 first", b"538 5.7.11 second", b"534 5.7.9 third"]}
    lines, error = refused(SMTPScript(["AUTH CRAM-MD5 PLAIN LOGIN"], replies))
    assert lines == [b"AUTH CRAM-MD5", b"AUTH PLAIN " + PLAIN, b"AUTH LOGIN " + USER]
    assert error == "relay 127.0.0.1:PORT refused the login: 534 5.7.9 third"


@pytest.mark.parametrize("code", MECHANISM_CODES)
def test_no_other_mechanism_than_the_named_one_is_used(code: int) -> None:
    script = SMTPScript(["AUTH CRAM-MD5 PLAIN LOGIN"], {"auth": b"%d 5.5.4 no" % code})
    lines, error = refused(script, **named("PLAIN"))
    assert lines == [b"AUTH PLAIN " + PLAIN]
    assert error == f"relay 127.0.0.1:PORT refused the login: {code} 5.5.4 no"


def test_a_temporary_refusal_is_retried_on_another_connection() -> None:
    served: list[int] = []

    def reply(line: bytes) -> bytes:
        served.append(len(served))
        replies = [b"504 5.5.4 no", b"454 4.7.0 later", b"504 5.5.4 no", b"235 2.7.0 welcome"]
        return replies[served[-1]]

    with Server(SMTPScript(["AUTH CRAM-MD5 PLAIN"], {"auth": reply})) as server:
        outcomes = send(sender_to(server, **LOGIN), messages(1))
        assert [each.status for each in outcomes] == [Status.ACCEPTED]
        assert len(server.connections) == 2


def test_the_refusal_is_reported_if_the_relay_then_closes_the_connection() -> None:
    script = SMTPScript(["AUTH CRAM-MD5 PLAIN"], {"auth": [b"504 5.5.4 no", HANG_UP]})
    _, error = refused(script)
    assert error.endswith(", after AUTH CRAM-MD5 was refused: 504 5.5.4 no")


def test_the_password_is_read_once_for_all_mechanisms() -> None:
    asked: list[str] = []

    def password() -> str:
        asked.append("pencil")
        return asked[-1]

    replies = {"auth": [b"504 no", b"504 no", b"334 UGFzc3dvcmQ6"]}
    script = SMTPScript(["AUTH CRAM-MD5 PLAIN LOGIN"], replies)
    lines = accepted(script, login="user@", password=password)
    assert lines[1:] == [b"AUTH PLAIN " + PLAIN, b"AUTH LOGIN " + USER, PASSWORD]
    assert len(asked) == 1


# LOGIN without an initial response


def prompt(line: bytes) -> bytes:
    """Return the reply of a relay that knows no initial response."""
    if len(line.split()) > 2:
        return b"501 5.5.2 Syntax: AUTH mechanism"
    return {b"AUTH LOGIN": b"334 VXNlcm5hbWU6", USER: b"334 UGFzc3dvcmQ6"}.get(line, b"235 welcome")


@pytest.mark.parametrize("settings", [LOGIN, named("LOGIN")])
def test_login_is_tried_without_an_initial_response(settings: dict[str, Any]) -> None:
    script = SMTPScript(["AUTH LOGIN"], {"auth": prompt, "response": prompt})
    lines = accepted(script, **settings)
    assert lines == [b"AUTH LOGIN " + USER, b"AUTH LOGIN", USER, PASSWORD]


def test_each_form_of_login_is_tried_once() -> None:
    script = SMTPScript(["AUTH PLAIN LOGIN"], {"auth": b"501 5.5.4 no"})
    lines, error = refused(script)
    assert lines == [b"AUTH PLAIN " + PLAIN, b"AUTH LOGIN " + USER, b"AUTH LOGIN"]
    assert error == "relay 127.0.0.1:PORT refused the login: 501 5.5.4 no"


def test_a_501_to_the_password_is_a_refusal_of_the_mechanism() -> None:
    replies: dict[str, Any] = {"auth": b"334 UGFzc3dvcmQ6", "response": b"501 5.5.2 no"}
    lines, error = refused(SMTPScript(["AUTH LOGIN"], replies))
    assert lines == [b"AUTH LOGIN " + USER, PASSWORD]
    assert error == "relay 127.0.0.1:PORT refused the login: 501 5.5.2 no"


# Challenges that the mechanism does not use

PROMPTS = [
    b"334",
    b"334 ",
    b"334 Username:",
    b"334 VXNlcm5hbWU6 Please enter your name",
    b"334 VXNlcm5hbWU",
    b"334 !?*",
    b"334 Benutzername f\xfcr Sie",
    b"334-VXNlcm5hbWU6\r\n334 go on",
    b"334 dXNlcm5hbWU6",
    b"334 VVNFUk5BTUU6",
]


@pytest.mark.parametrize("challenge", PROMPTS)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "login"])
def test_a_prompt_is_ignored(mechanism: str, challenge: bytes) -> None:
    def reply(line: bytes) -> bytes:
        return b"235 2.7.0 welcome" if line.endswith((PLAIN, PASSWORD)) else challenge

    accepted(SMTPScript([f"AUTH {mechanism}"], {"auth": reply, "response": reply}))


@pytest.mark.parametrize(
    "challenge",
    [
        b'334 {"status":"400","schemes":"Bearer"}',
        b'334-{"status":"400",\r\n334 "schemes":"Bearer"}',
        b"334 eyJzdGF0dXMiOiI0MDAifQ== invalid token",
        b"334",
    ],
)
@pytest.mark.parametrize(
    ("mechanism", "acknowledgement"), [("XOAUTH2", b""), ("OAUTHBEARER", b"AQ==")]
)
def test_an_error_in_a_challenge_does_not_hide_the_refusal(
    mechanism: str, acknowledgement: bytes, challenge: bytes
) -> None:
    replies = {"auth": challenge, "response": b"535 5.7.8 the token has expired"}
    with Server(SMTPScript([f"AUTH {mechanism}"], replies)) as server:
        _, error = send_and_stop(sender_to(server, **named(mechanism)), messages(1))
        assert str(error).endswith("refused the login: 535 5.7.8 the token has expired")
        assert error.reply == (535, b"5.7.8 the token has expired")
        [wire] = wires(server)
        assert wire.split(b"\r\n")[2] == acknowledgement


@pytest.mark.parametrize(
    "challenge",
    [b"334 Challenge:", b"334 PDE+ more", b"334 PDE", b"334-PDE+\r\n334 PDE+", b"334 PDF="],
)
@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_cram_md5_and_scram_need_base64(mechanism: str, challenge: bytes) -> None:
    script = SMTPScript([f"AUTH {mechanism} PLAIN"], {"auth": challenge})
    lines, error = refused(script)
    assert b"AUTH PLAIN" not in b"".join(lines)
    assert error == ("relay 127.0.0.1:PORT: login failed: the server's challenge is not base64")


# The proof of the server in SCRAM


def server_first(line: bytes) -> bytes:
    nonce = base64.b64decode(line.split()[-1]).partition(b",r=")[2]
    return b"334 " + base64.b64encode(b"r=%bserver,s=c2FsdA==,i=4096" % nonce)


@pytest.mark.parametrize("code", [235, 250, 252, 354, 503])
@pytest.mark.parametrize("after", ["AUTH", "the proof"])
@pytest.mark.parametrize(
    "mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"]
)
def test_scram_needs_the_signature_of_the_server(
    server_tls: ssl.SSLContext, authority: trustme.CA, mechanism: str, after: str, code: int
) -> None:
    final = b"%d 2.7.0 welcome" % code
    replies: dict[str, Reply] = {"auth": final}
    if after == "the proof":
        replies = {"auth": server_first, "response": final}
    with Server(SMTPScript([f"AUTH {mechanism} PLAIN LOGIN"], replies), tls=server_tls) as server:
        settings = LOGIN | {
            "query": f"?auth={mechanism.lower()}",
            "tls": TLS(ca_file=authority.cert_pem.bytes()),
        }
        _, error = send_and_stop(sender_to(server, "smtps", **settings), messages(1))
        assert commands(server, b"MAIL") == commands(server, b"AUTH PLAIN") == 0
        if code in (235, 503):
            assert str(error).endswith("the relay did not prove that it knows the password")
            assert len(server.connections) == 1


@pytest.mark.parametrize("code", [235, 503])
def test_a_server_without_the_proof_gets_no_weaker_mechanism(code: int) -> None:
    script = SMTPScript(["AUTH SCRAM-SHA-256 CRAM-MD5 PLAIN"], {"auth": b"%d welcome" % code})
    lines, _ = refused(script)
    assert len(lines) == 1 and lines[0].startswith(b"AUTH SCRAM-SHA-256 ")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"])
def test_503_is_a_success_of_the_other_mechanisms(mechanism: str) -> None:
    """RFC 4954 section 4: a 503 to AUTH means that the client is already authenticated."""
    script = SMTPScript([f"AUTH {mechanism}"], {"auth": b"503 5.5.1 already authenticated"})
    assert len(accepted(script, **named(mechanism))) == 1


def test_a_number_of_iterations_above_the_maximum_is_refused() -> None:
    def many(line: bytes) -> bytes:
        nonce = base64.b64decode(line.split()[-1]).partition(b",r=")[2]
        return b"334 " + base64.b64encode(b"r=%bserver,s=c2FsdA==,i=1000001" % nonce)

    _, error = refused(SMTPScript(["AUTH SCRAM-SHA-256"], {"auth": many}))
    reason = "login failed: the server's iteration count is not between 4096 and 1000000"
    assert error == f"relay 127.0.0.1:PORT: {reason}"


# A Python without MD5, such as in FIPS mode


@pytest.fixture
def without_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    original = hmac.new

    def new(key: bytes, msg: Any = None, digestmod: Any = "") -> Any:
        if digestmod == "md5":
            raise ValueError("[digital envelope routines] unsupported")
        return original(key, msg, digestmod)

    monkeypatch.setattr(hmac, "new", new)


@pytest.mark.usefixtures("without_md5")
def test_without_md5_another_mechanism_is_used(backend: str) -> None:
    def auth(line: bytes) -> bytes:
        return CHALLENGE if line == b"AUTH CRAM-MD5" else b"235 2.7.0 welcome"

    script = SMTPScript(["AUTH CRAM-MD5 PLAIN"], {"auth": auth})
    # The compiled backend has its own MD5.
    expected = b"AUTH CRAM-MD5" if backend == "rust" else b"AUTH PLAIN " + PLAIN
    assert accepted(script)[0] == expected


@pytest.mark.usefixtures("without_md5")
@pytest.mark.parametrize("settings", [LOGIN, named("CRAM-MD5")])
def test_without_md5_and_another_mechanism_the_reason_is_reported(
    backend: str, settings: dict[str, Any]
) -> None:
    script = SMTPScript(["AUTH CRAM-MD5"], {"auth": CHALLENGE})
    if backend == "rust":
        assert accepted(script, **settings)[0] == b"AUTH CRAM-MD5"
        return
    lines, error = refused(script, **settings)
    reason = "CRAM-MD5 needs MD5, which this Python does not provide"
    assert (lines, error) == ([], f"relay 127.0.0.1:PORT: login failed: {reason}")


# The reply to EHLO


@pytest.mark.parametrize("code", [200, 220, 251, 252, 299, 300, 354, 500, 502, 550, 599])
def test_another_reply_than_250_to_ehlo_leads_to_helo(code: int) -> None:
    reply = b"%d-relay.example\r\n%d PIPELINING" % (code, code)
    with Server(SMTPScript((), {"ehlo": reply})) as server:
        outcomes = send(sender_to(server, connections=1), messages(3))
        assert {each.status for each in outcomes} == {Status.ACCEPTED}
        [wire] = wires(server)
        assert wire.startswith(b"EHLO client.example\r\nHELO client.example\r\nmail ")
        # No capability is known, so no command is pipelined.
        assert b"size=" not in wire.lower()
        assert all(flight.count(b"\r\n") == 1 for flight in server.connections[0].flights[:4])


@pytest.mark.parametrize("code", [250, 251, 220])
def test_any_2yz_to_helo_is_positive(code: int) -> None:
    replies = {"ehlo": b"502 what", "helo": b"%d relay.example" % code}
    with Server(SMTPScript((), replies)) as server:
        outcomes = send(sender_to(server), messages(1))
        assert [each.status for each in outcomes] == [Status.ACCEPTED]


@pytest.mark.parametrize("code", [220, 251, 252])
def test_a_2yz_to_lhlo_lists_no_capabilities(code: int) -> None:
    reply = b"%d-relay.example\r\n%d PIPELINING" % (code, code)
    with Server(SMTPScript((), {"lhlo": reply}, lmtp=True)) as server:
        outcomes = send(sender_to(server, "lmtp", connections=1), messages(1))
        assert [each.status for each in outcomes] == [Status.ACCEPTED]
        assert b"HELO" not in wires(server)[0]


@pytest.mark.parametrize("code", [220, 251])
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (LOGIN, "the relay does not support AUTH with a password; it supports none"),
        ({"query": "?starttls=required"}, "the relay does not support STARTTLS, which is required"),
    ],
)
def test_a_2yz_to_ehlo_has_no_extension_that_the_sender_needs(
    code: int, settings: dict[str, Any], text: str
) -> None:
    reply = b"%d-relay.example\r\n%d-STARTTLS\r\n%d AUTH PLAIN" % (code, code, code)
    with Server(SMTPScript((), {"ehlo": reply})) as server:
        _, error = send_and_stop(sender_to(server, **settings), messages(1))
        assert str(error) == f"relay 127.0.0.1:{server.port}: {text}"
        assert commands(server, b"HELO") == commands(server, b"MAIL") == 0


@pytest.mark.parametrize("reply", [b"421 4.3.2 bye", b"451 4.3.0 later"])
def test_a_4yz_to_ehlo_does_not_lead_to_helo(reply: bytes) -> None:
    with Server(SMTPScript((), {"ehlo": reply})) as server:
        with sender_to(server, connections=1) as sender, contextlib.suppress(RelayError):
            list(sender.send(messages(1)))
        assert commands(server, b"HELO") == 0


def test_a_high_number_of_iterations_blocks_no_other_connection() -> None:
    """The second connection computes a million iterations. The first one sends meanwhile."""
    events: list[str] = []
    held: list[bytes] = []  # the messages whose reply follows the challenge on the other connection
    challenged = threading.Event()

    def send_mail(connection: Connection) -> None:
        connection.line()
        connection.send(b"235 ok\r\n")
        while (line := connection.line().lower()) != b"quit":
            connection.send(b"354 go on\r\n" if line == b"data" else b"250 ok\r\n")
            if line == b"data":
                subject = connection.message().partition(b"\r\n")[0]
                # The first message shows that the relay works. The others cause a connection.
                if subject != b"Subject: 0":
                    held.append(subject)
                    assert challenged.wait(TIMEOUT)
                connection.send(b"250 2.0.0 ok\r\n")

    def challenge(connection: Connection) -> None:
        connection.sock.settimeout(120)
        nonce = base64.b64decode(connection.line().split()[2]).partition(b"r=")[2]
        text = b"r=%bmore,s=c2FsdA==,i=1000000" % nonce
        connection.send(b"334 " + base64.b64encode(text) + b"\r\n")
        challenged.set()
        connection.line()
        events.append("proof")
        connection.send(b"535 5.7.8 no\r\n")

    def script(connection: Connection) -> None:
        is_first = connection is server.connections[0]
        connection.send(b"220 ready\r\n")
        connection.line()
        mechanism = b"PLAIN" if is_first else b"SCRAM-SHA-256"
        connection.send(b"250-relay.example\r\n250 AUTH " + mechanism + b"\r\n")
        (send_mail if is_first else challenge)(connection)

    login = LOGIN | {"connections": 2, "max_attempts": 1}
    with Server(script) as server, sender_to(server, **login) as sender:
        for number in range(8):
            subject = f"Subject: {number}"
            future = sender.submit(message(number, f"{subject}\r\n\r\nx\r\n".encode()))
            future.add_done_callback(lambda _, subject=subject: events.append(subject))
        wait_for(lambda: "proof" in events, seconds=120)
    assert events.index(held[0].decode()) < events.index("proof")
