"""`Sender` with `max_attempts=1`, and refusals of RSET, STARTTLS and EHLO, on both backends.

The clock of these senders does not advance fast: a sender that waits for a retry fails the test.
"""

import ssl
from typing import Any

import pytest
import trustme

from rapidsmtp import TLS, RelayError, Status
from senders import messages, sender_to
from server import HANG_UP, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

LOG_IN = {"login": "user:secret@", "query": "?starttls=off", "allow_plaintext_auth": True}
REPLIES = [
    b"421 4.3.2 bye",
    b"421 4.7.0 too many concurrent connections",
    b"450 4.7.1 too many messages, slow down",
    b"451 4.3.0 no",
    b"454 4.7.0 Throttling failure",
    b"500 5.5.1 what",
    b"554 5.5.0 no",
]
RELAY_REFUSES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "greeting": ((), {}),
    "ehlo": ((), {}),
    "starttls": (("STARTTLS",), {"query": "?starttls=required"}),
    "opportunistic": (("STARTTLS",), {"query": "?starttls=opportunistic"}),
    "auth": (("AUTH PLAIN",), LOG_IN),
}


@pytest.fixture(autouse=True)
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rapidsmtp._bulk.sender.CLOCK_SPEED", 0.001)


def send(server: Server, count: int = 1, **settings: Any) -> tuple[list[Any], str]:
    """Send messages; return their statuses, phases and reasons, and the text of the RelayError."""
    settings = {"connections": 1, "max_attempts": 1, "query": "?starttls=off"} | settings
    outcomes: list[Any] = []
    error = ""
    with sender_to(server, **settings) as sender:
        try:
            for each in sender.send(messages(count)):
                outcomes.append((each.status, each.phase, each.reason))
        except RelayError as stop:
            error = str(stop)
    return outcomes, error


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("point", RELAY_REFUSES)
def test_a_refusal_of_the_session_is_reported_at_once(point: str, reply: bytes) -> None:
    capabilities, settings = RELAY_REFUSES[point]
    name = "starttls" if point == "opportunistic" else point
    with Server(SMTPScript(capabilities, {name: reply, "helo": reply})) as server:
        outcomes, error = send(server, **settings)
        assert len(server.connections) == 1
    assert error.endswith(reply.decode())
    assert outcomes == [(Status.NOT_ATTEMPTED, "connect", error)]


@pytest.mark.parametrize("pipelining", ["off", "stream"])
@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("point", ["mail", "rcpt", "data", "message"])
def test_a_refusal_of_the_message_is_reported_at_once(
    point: str, reply: bytes, pipelining: str
) -> None:
    with Server(SMTPScript(("PIPELINING",), {point: reply})) as server:
        outcomes, error = send(server, pipelining=pipelining)
        assert len(server.connections) == 1
    status = Status.DEFERRED if reply.startswith(b"4") else Status.REFUSED
    phase = "body" if point == "message" else point
    assert (outcomes, error) == ([(status, phase, reply.decode())], "")


@pytest.mark.parametrize("command", ["mail", "rcpt", "data"])
def test_a_connection_lost_once_is_reported_at_once(command: str) -> None:
    with Server(SMTPScript(["PIPELINING"], {command: HANG_UP})) as server:
        outcomes, error = send(server)
    reason = "the connection was lost before the message was sent"
    assert outcomes == [(Status.NOT_ATTEMPTED, "connect", reason)] and not error
    assert len(server.connections) == 1


@pytest.mark.parametrize("reply", [b"421 4.4.2 bye", b"554 5.4.2 bye"])
@pytest.mark.parametrize("point", ["greeting", "ehlo"])
def test_a_reply_after_the_awaited_one_is_reported_at_once(point: str, reply: bytes) -> None:
    replies = {point: (b"220 ready" if point == "greeting" else b"250 hello") + b"\r\n" + reply}
    with Server(SMTPScript((), replies)) as server:
        outcomes, error = send(server)
        assert len(server.connections) == 1
    assert error.endswith(reply.decode())
    assert outcomes == [(Status.NOT_ATTEMPTED, "connect", error)]


@pytest.mark.parametrize("pipelining", ["off", "transaction", "stream"])
@pytest.mark.parametrize("max_attempts", [1, 2])
@pytest.mark.parametrize("reply", REPLIES)
def test_a_refused_rset_replaces_the_connection(
    reply: bytes, max_attempts: int, pipelining: str
) -> None:
    no = b"550 5.1.1 no"
    with Server(SMTPScript(("PIPELINING",), {"rcpt": [no], "rset": reply})) as server:
        outcomes, error = send(server, 3, pipelining=pipelining, max_attempts=max_attempts)
        assert len(server.connections) == 3
    assert (outcomes, error) == ([(Status.REFUSED, "rcpt", no.decode())] * 3, "")


@pytest.mark.parametrize("helo", [False, True])
@pytest.mark.parametrize("reply", REPLIES)
def test_a_refused_ehlo_after_starttls(
    reply: bytes, helo: bool, server_tls: ssl.SSLContext, authority: trustme.CA
) -> None:
    first = b"250-relay.example\r\n250 STARTTLS"
    replies: dict[str, Any] = {"ehlo": [first, reply]}
    if not helo:
        replies["helo"] = reply
    tls = TLS(ca_file=authority.cert_pem.bytes())
    with Server(SMTPScript((), replies, tls=server_tls)) as server:
        outcomes, error = send(server, query="?starttls=required", tls=tls)
        assert len(server.connections) == 1
    if helo and reply.startswith(b"5"):
        # RFC 5321 3.2: HELO follows the refusal of EHLO.
        assert (outcomes, error) == ([(Status.ACCEPTED, "body", "")], "")
    else:
        assert error.endswith(reply.decode())
        assert outcomes == [(Status.NOT_ATTEMPTED, "connect", error)]
