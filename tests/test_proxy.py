"""Sending through a SOCKS5 proxy or an HTTP proxy, and replaced sockets.

The relay's host name in these tests exists at the proxy only. So each test also shows that the
client does not resolve the name.
"""

import asyncio
import functools
import logging
import pickle
import socket
import ssl
import time
from dataclasses import replace
from typing import Any

import pytest
import trustme

from proxies import BOUND, CONNECTED, ConnectScript, SocksScript
from rapidsmtp import SMTP, TLS, RelayError, Sender, Status, aio
from rapidsmtp._models.proxy_url import parse_proxy
from rapidsmtp._models.relay_url import Relay
from rapidsmtp.logging import SMTPHandler
from senders import BACKOFF, CONTENT, LIMITS, message, messages, send, send_and_stop
from server import TIMEOUT, Connection, Script, Server, SMTPScript

RELAY = "relay.invalid"
SECRET = "a-very-secret-word"
NO_CONNECTION = "; check the host and the port in proxy="
STALLED = "; check the proxy, and the relay's host and port"
WRONG_PORT = "; check the scheme and the port in proxy="


def sender_through(
    server: Server, scheme: str, *, login: str = "", host: str = RELAY, **options: Any
) -> Sender:
    """Return a sender to port 587 of the relay, without STARTTLS unless `url` is given."""
    settings: dict[str, Any] = {
        "url": f"smtp://{host}:587?starttls=off",
        "proxy": f"{scheme}://{login}127.0.0.1:{server.port}",
        "timeouts": LIMITS,
        "backoff": BACKOFF,
        "local_hostname": "client.example",
        "connections": 1,
    }
    return Sender(**settings | options)


def failure(script: Script, scheme: str = "socks5", **options: Any) -> str:
    """Send through a proxy that makes no connection; return the text after the proxy's name."""
    with Server(script) as proxy:
        outcomes, error = send_and_stop(sender_through(proxy, scheme, **options), messages(2))
        assert {each.status for each in outcomes} == {Status.NOT_ATTEMPTED}
        name = f"127.0.0.1:{proxy.port}"
    relay = f"{options.get('host', RELAY)}:587"
    begin = f"cannot connect to {relay} through the proxy {name}: "
    assert str(error).startswith(begin), str(error)
    assert error.reply is None and SECRET not in str(error)
    return str(error).removeprefix(begin)


pytestmark = pytest.mark.usefixtures("backend")


# SOCKS5


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("bound", BOUND)
@pytest.mark.parametrize("split", [False, True])
def test_mail_passes_through_a_socks_proxy(scheme: str, bound: str, split: bool) -> None:
    with Server(SMTPScript(["PIPELINING"])) as relay:
        script = SocksScript({RELAY: relay.port}, bound=BOUND[bound], split=split)
        trace: list[str] = []
        with Server(script) as proxy:
            outcomes = send(sender_through(proxy, scheme, trace=trace.append), messages(3))
        assert {each.status for each in outcomes} == {Status.ACCEPTED}
        assert script.requests == [(3, RELAY, 587)]
    assert trace[0] == f"[1] connected to {RELAY}:587 through the proxy 127.0.0.1:{proxy.port}"


@pytest.mark.parametrize(
    ("host", "kind", "bare"),
    [
        ("192.0.2.1", 1, "192.0.2.1"),
        ("[2001:db8::1]", 4, "2001:db8::1"),
        ("RELAY.invalid", 3, "relay.invalid"),
        ("m\xfcnchen.invalid", 3, "xn--mnchen-3ya.invalid"),
    ],
)
def test_the_type_of_the_address(host: str, kind: int, bare: str) -> None:
    with Server(SMTPScript()) as relay:
        script = SocksScript({bare: relay.port})
        with Server(script) as proxy:
            [outcome] = send(sender_through(proxy, "socks5", host=host), [message()])
        assert outcome.status is Status.ACCEPTED
        assert script.requests == [(kind, bare, 587)]


def test_the_login_at_a_socks_proxy() -> None:
    with Server(SMTPScript()) as relay:
        script = SocksScript({RELAY: relay.port}, login=("us@r", SECRET))
        with Server(script) as proxy:
            [outcome] = send(
                sender_through(proxy, "socks5", login=f"us%40r:{SECRET}@"), [message()]
            )
        assert outcome.status is Status.ACCEPTED
        assert script.logins == [("us@r", SECRET)]


def test_the_password_of_the_proxy_may_be_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAPIDSMTP_PROXY_PASSWORD", SECRET)
    with Server(SMTPScript()) as relay:
        script = SocksScript({RELAY: relay.port}, login=("user", SECRET))
        with Server(script) as proxy:
            [outcome] = send(sender_through(proxy, "socks5", login="user@"), [message()])
    assert outcome.status is Status.ACCEPTED


def test_a_login_that_is_not_needed_is_not_sent() -> None:
    with Server(SMTPScript()) as relay:
        script = SocksScript({RELAY: relay.port})
        with Server(script) as proxy:
            send(sender_through(proxy, "socks5", login=f"user:{SECRET}@"), [message()])
    assert script.requests and not script.logins


REPLIES = {
    1: "the proxy reports a general failure (SOCKS reply 1); check the proxy's log",
    2: "the proxy's rules forbid this connection (SOCKS reply 2); "
    "permit the relay's host and port at the proxy",
    3: "the proxy has no route to the relay's network (SOCKS reply 3); "
    "check the relay's host and the proxy's network",
    4: "the proxy cannot reach the relay's host (SOCKS reply 4); check the relay's host",
    5: "the relay refused the proxy's connection (SOCKS reply 5); check the relay's host and port",
    6: "the proxy's connection to the relay expired (SOCKS reply 6); "
    "check the relay's host and the proxy's network",
    7: "the proxy does not support CONNECT (SOCKS reply 7); permit CONNECT at the proxy",
    8: "the proxy does not support this type of address (SOCKS reply 8); write the relay's host as "
    "a name instead of an address, or as an address instead of a name",
    9: "the proxy sent a reply code without a meaning (SOCKS reply 9); check the proxy's log",
    255: "the proxy sent a reply code without a meaning (SOCKS reply 255); check the proxy's log",
}


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "two bytes"])
@pytest.mark.parametrize("code", REPLIES)
def test_a_refusal_by_a_socks_proxy(code: int, complete: bool) -> None:
    rest = b"\x00" + BOUND["IPv4"] if complete else b""
    script = SocksScript(answers={"reply": bytes([5, code]) + rest})
    assert failure(script) == REPLIES[code]


CLOSED = (
    "the proxy closed the connection; check the scheme and the port in proxy=, or the proxy's log"
)
NOT_SOCKS = "the proxy's answer is not SOCKS5" + WRONG_PORT
NEEDS_LOGIN = "the proxy requires a login; write user:password@ before the host in proxy="
INVALID: list[tuple[str, bytes, str]] = [
    ("method", b"", CLOSED),
    ("method", b"\x05", CLOSED),
    ("method", b"\x04\x00", NOT_SOCKS),
    ("method", b"2", NOT_SOCKS),
    ("method", b"HTTP/1.1 400 Bad Request\r\n\r\n", NOT_SOCKS),
    ("method", b"\x05\x01", NOT_SOCKS),
    ("method", b"\x05\x02", NEEDS_LOGIN),
    ("method", b"\x05\xff", NEEDS_LOGIN),
    ("reply", b"", CLOSED),
    ("reply", b"\x05", CLOSED),
    ("reply", b"\x00\x5a\x00\x00\x00\x00\x00\x00", NOT_SOCKS),
    ("reply", b"\x05\x00\x00\x02abcdef", NOT_SOCKS),
    ("reply", b"\x05\x00\x00\x01abc", CLOSED),
    ("reply", b"\x05\x00\x00\x03", CLOSED),
    ("reply", b"\x05\x00\x00\x03\x10abc", CLOSED),
    ("reply", b"\x05\x00\x00\x04abcdefghijklmnopq", CLOSED),
]


@pytest.mark.parametrize(("step", "answer", "text"), INVALID)
def test_an_invalid_answer_of_a_socks_proxy(step: str, answer: bytes, text: str) -> None:
    def script(connection: Connection) -> None:
        # The answer before the last step ends the connection, so the client gets nothing more.
        if step == "method":
            connection.sock.recv(64)
            connection.send(answer)
        else:
            SocksScript(answers={"reply": answer})(connection)

    assert failure(script) == text


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (
            {"method": b"\x05\xff"},
            "the proxy supports no login by user and password; permit such a login at the proxy",
        ),
        ({}, "the proxy refused the login; check the user and the password in proxy="),
        (
            {"login": b"\x01\xff"},
            "the proxy refused the login; check the user and the password in proxy=",
        ),
        ({"login": b"\x05\x00"}, NOT_SOCKS),
        ({"login": b"\x01"}, CLOSED),
    ],
)
def test_a_refused_login_at_a_socks_proxy(answers: dict[str, bytes], text: str) -> None:
    def script(connection: Connection) -> None:
        if "method" in answers:
            connection.sock.recv(64)
            connection.send(answers["method"])
            return
        truncated = SocksScript(login=("user", "another"), answers=answers)
        if answers.get("login") == b"\x01":
            connection.sock.recv(64)
            connection.send(b"\x05\x02")
            connection.sock.recv(1024)
            connection.send(b"\x01")
            return
        truncated(connection)

    assert failure(script, login=f"user:{SECRET}@") == text


def test_a_refused_login_is_not_repeated() -> None:
    script = SocksScript(login=("user", "another"))
    with Server(script) as proxy:
        sender = sender_through(proxy, "socks5", login=f"user:{SECRET}@")
        with sender:
            for _ in range(2):
                with pytest.raises(RelayError, match="refused the login"):
                    list(sender.send(messages(2)))
        assert len(script.logins) == 1


# HTTP


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        CONNECTED,
        b"HTTP/1.0 200\r\n\r\n",
        b"HTTP/1.1 204 ok\nVia: x\n\n",
        b"HTTP/1.1 200 ok\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 102 wait\r\n\r\nHTTP/1.1 200 ok\r\n\r\n",
    ],
)
def test_mail_passes_through_an_http_proxy(answer: bytes, split: bool) -> None:
    with Server(SMTPScript(["PIPELINING"])) as relay:
        script = ConnectScript({RELAY: relay.port}, answer, split=split)
        with Server(script) as proxy:
            outcomes = send(sender_through(proxy, "http"), messages(3))
        assert {each.status for each in outcomes} == {Status.ACCEPTED}
    target = f"{RELAY}:587"
    assert script.requests == [f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()]


def test_the_login_at_an_http_proxy() -> None:
    with Server(SMTPScript()) as relay:
        script = ConnectScript({"2001:db8::1": relay.port})
        with Server(script) as proxy:
            sender = sender_through(proxy, "http", login="user:p%3Aw@", host="[2001:db8::1]")
            [outcome] = send(sender, [message()])
    assert outcome.status is Status.ACCEPTED
    assert script.requests == [
        b"CONNECT [2001:db8::1]:587 HTTP/1.1\r\nHost: [2001:db8::1]:587\r\n"
        b"Proxy-Authorization: Basic dXNlcjpwOnc=\r\n\r\n"
    ]


NOT_HTTP = "the proxy's answer is not HTTP" + WRONG_PORT
ANSWERS: list[tuple[bytes, str]] = [
    (b"", CLOSED),
    (b"HTTP/1.1 200 ok\r\n", CLOSED),
    (b"220 relay ESMTP\r\n", NOT_HTTP),
    (b"HTTP/2 200 ok\r\n\r\n", NOT_HTTP),
    (b"HTTP/1.1 2000 ok\r\n\r\n", NOT_HTTP),
    (b"HTTP/1.1 ok\r\n\r\n", NOT_HTTP),
    (b"\x05\x00", NOT_HTTP),
    (
        b"HTTP/1.1 403 For\x1b[31mbidden\r\nX: y\r\n\r\n",
        "the proxy refused the connection: 403 For\\x1b[31mbidden; "
        "permit CONNECT to port 587 at the proxy",
    ),
    (
        b"HTTP/1.1 301 Moved\r\nLocation: http://x\r\n\r\n",
        "the proxy refused the connection: 301 Moved; permit CONNECT to port 587 at the proxy",
    ),
    (
        b"HTTP/1.1 101 Switching\r\n\r\n",
        "the proxy refused the connection: 101 Switching; permit CONNECT to port 587 at the proxy",
    ),
    (
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        "the proxy cannot connect to the relay: 502 Bad Gateway; check the relay's host and port",
    ),
    (
        b"HTTP/1.1 407 \xc3\xa4\r\n\r\n",
        "the proxy requires a login: 407 \xe4; write user:password@ before the host in proxy=",
    ),
    (b"HTTP/1.1 200 ok\r\n" + b"X: y\r\n" * 4000, "the proxy's answer is too long" + WRONG_PORT),
    (
        b"HTTP/1.1 403 " + b"x" * 1000 + b"\r\n\r\n",
        f"the proxy refused the connection: 403 {'x' * 116}; "
        "permit CONNECT to port 587 at the proxy",
    ),
]


@pytest.mark.parametrize(("answer", "text"), ANSWERS, ids=[text for _, text in ANSWERS])
def test_a_refusal_by_an_http_proxy(answer: bytes, text: str) -> None:
    def script(connection: Connection) -> None:
        connection.line()
        connection.send(answer)
        connection.sock.shutdown(socket.SHUT_WR)
        connection.rest()

    assert failure(script, "http") == text


def test_a_refused_login_at_an_http_proxy() -> None:
    script = ConnectScript(answer=b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
    text = failure(script, "http", login=f"user:{SECRET}@")
    assert text == (
        "the proxy refused the login: 407 Proxy Authentication Required; "
        "check the user and the password in proxy="
    )


# Time limits, and proxies that cannot be reached


def silent(connection: Connection) -> None:
    connection.rest()


def dribbling(connection: Connection) -> None:
    connection.sock.recv(64)
    connection.send(b"HTTP/1.1 200 ")
    while True:
        connection.send(b"x")
        # The bytes arrive so often that a time limit for each read would never expire.
        time.sleep(0.05)


@pytest.mark.parametrize(("scheme", "script"), [("socks5", silent), ("http", dribbling)])
def test_the_time_limit_for_connecting_covers_the_dialogue(scheme: str, script: Script) -> None:
    start = time.monotonic()
    text = failure(script, scheme, timeouts=replace(LIMITS, connect=0.5))
    assert text == "timed out after 0.5 s" + STALLED
    assert time.monotonic() - start < 30


def test_a_proxy_that_cannot_be_reached() -> None:
    with Server(silent) as proxy:
        pass
    _, error = send_and_stop(sender_through(proxy, "socks5"), messages(1))
    name = f"127.0.0.1:{proxy.port}"
    assert str(error) == (
        f"cannot connect to the proxy {name}: Connection refused ({name}){NO_CONNECTION}"
    )
    sender = sender_through(proxy, "socks5", proxy="http://no-such-proxy.invalid:3128")
    _, error = send_and_stop(sender, messages(1))
    begin = 'cannot connect to the proxy no-such-proxy.invalid:3128: "no-such-proxy.invalid" does '
    assert str(error).startswith(begin) and str(error).endswith(NO_CONNECTION)


# TLS is with the relay


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_the_certificate_is_that_of_the_relay(scheme: str, authority: trustme.CA) -> None:
    for name, accepted in ((RELAY, True), ("127.0.0.1", False)):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name).configure_cert(context)
        smtp = SMTPScript(["STARTTLS"], tls=context)
        with Server(smtp, tls=context if scheme == "smtps" else None) as relay:
            # With implicit TLS, the relay sends no greeting before the handshake.
            script = SocksScript({RELAY: relay.port}, split=True)
            with Server(script) as proxy:
                query = "?starttls=required" if scheme == "smtp" else ""
                sender = sender_through(
                    proxy,
                    "socks5",
                    url=f"{scheme}://{RELAY}:587{query}",
                    tls=TLS(ca_file=authority.cert_pem.bytes()),
                )
                if accepted:
                    assert [each.status for each in send(sender, [message()])] == [Status.ACCEPTED]
                else:
                    _, error = send_and_stop(sender, messages(1))
                    assert f"the certificate of {RELAY} is not trusted" in str(error)


# The setting


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:1080",
        "socks4://host:1080",
        "https://host:3128",
        "socks5://",
        "socks5://host:0",
        "socks5://host:x",
        "socks5://host:99999",
        "socks5://host:1080/path",
        "socks5://host:1080?x=y",
        "socks5://ho st:1080",
        f"socks5://user:{SECRET}@",
        f"socks5://user:{SECRET}/x@host:1080",
        f"socks5://user:{SECRET}#x@host:1080",
        f"socks5://:{SECRET}@host:1080",
        f"socks5://{'u' * 256}:{SECRET}@host:1080",
        f"socks5://user:{SECRET}{'x' * 250}@host:1080",
        f"socks5://us\udc80er:{SECRET}@host:1080",
        f"http://us%3Aer:{SECRET}@host:3128",
        f"http://us%0D%0Aer:{SECRET}@host:3128",
        f"http://us\ner:{SECRET}@host:3128",
        f"socks5://us%00er:{SECRET}@host:1080",
        f"socks5://user:{SECRET}%7F@host:1080",
    ],
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="proxy=") as caught:
        Sender("smtp://mx.example", proxy=url)
    assert SECRET not in repr(caught.value) and caught.value.__cause__ is None


def test_a_url_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="proxy"):
        Sender("smtp://mx.example", proxy=b"socks5://host")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "relay",
    ["lmtp:///run/lmtp", f"smtp://{'a' * 256}", "smtp://[fe80::1%eth0]"],
)
def test_a_relay_that_no_proxy_can_reach_is_refused(relay: str) -> None:
    with pytest.raises(ValueError, match="proxy"):
        Sender(relay, proxy="socks5://127.0.0.1:1080")


def test_no_representation_contains_the_password() -> None:
    url = f"socks5://user:{SECRET}@127.0.0.1:1080"
    proxy = parse_proxy(url, Relay("smtp", RELAY, 25))
    with Sender(f"smtp://{RELAY}", proxy=url) as sender:
        assert SECRET not in f"{sender!r} {sender.stats()!r} {proxy!r}"
    for secret in (sender, proxy):
        with pytest.raises(TypeError):
            pickle.dumps(secret)


# The other faces


def test_the_asyncio_sender_uses_the_proxy() -> None:
    async def main(url: str) -> Status:
        relay = f"smtp://{RELAY}:587?starttls=off"
        async with aio.Sender(relay, timeouts=LIMITS, proxy=url) as sender:
            return (await sender.submit(message())).status

    with Server(SMTPScript()) as relay:
        script = SocksScript({RELAY: relay.port})
        with Server(script) as proxy:
            assert asyncio.run(main(f"socks5://127.0.0.1:{proxy.port}")) is Status.ACCEPTED
    assert script.requests == [(3, RELAY, 587)]


def test_the_logging_handler_uses_the_proxy() -> None:
    given = ((RELAY, 25), "app@example.com", ["ops@example.com"], "trouble")
    with Server(SMTPScript()) as relay:
        script = SocksScript({RELAY: relay.port})
        with Server(script) as proxy:
            handler = SMTPHandler(*given, proxy=f"socks5://127.0.0.1:{proxy.port}")
            handler.emit(logging.makeLogRecord({"msg": "hello"}))
            handler.close()
        assert b"hello" in relay.wire()
    assert script.requests == [(3, RELAY, 25)]
    with pytest.raises(ValueError, match="proxy="):
        SMTPHandler(*given, proxy=f"socks4://user:{SECRET}@host:1080")


# Replaced sockets


class Replacement(socket.socket):
    created = 0

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        Replacement.created += 1
        super().__init__(*arguments, **keywords)


@functools.wraps(socket.socket, updated=())
def wrapped(*arguments: Any, **keywords: Any) -> Any:
    return Replacement(*arguments, **keywords)


class Green(socket.socket):
    __module__ = "gevent._socket3"


@pytest.fixture(params=["class", "function", "method", "later"])
def replaced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    kind = str(request.param)
    if kind == "method":
        genuine = socket.socket.connect
        monkeypatch.setattr(socket.socket, "connect", lambda *given: genuine(*given))
    elif kind != "later":
        monkeypatch.setattr(socket, "socket", wrapped if kind == "function" else Replacement)
    return kind


@pytest.fixture
def relay_before(request: pytest.FixtureRequest) -> Any:
    """Start the relay before the fixture `replaced` replaces the class of its sockets."""
    with Server(SMTPScript()) as server:
        yield server


def test_a_replaced_socket_is_used_or_reported(
    relay_before: Server, replaced: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"smtp://127.0.0.1:{relay_before.port}"
    Replacement.created = 0
    if backend == "python":
        if replaced == "later":
            monkeypatch.setattr(socket, "socket", Replacement)
        with Sender(url) as sender:
            assert [each.status for each in sender.send([message()])] == [Status.ACCEPTED]
        assert bool(Replacement.created) == (replaced != "method")
        return
    if replaced == "later":
        with Sender(url) as sender:
            monkeypatch.setattr(socket, "socket", Replacement)
            for call in (lambda: list(sender.send([message()])), lambda: sender.submit(message())):
                with pytest.raises(RuntimeError, match='proxy="direct"'):
                    call()
    else:
        with pytest.raises(RuntimeError, match='proxy="socks5://host:port"'):
            Sender(url)
    assert not relay_before.connections


def test_the_drop_in_uses_a_replaced_socket(relay_before: Server, replaced: str) -> None:
    with SMTP("127.0.0.1", relay_before.port, "client.example", timeout=TIMEOUT) as client:
        assert client.sendmail("s@example.com", ["r@example.com"], CONTENT) == {}


@pytest.mark.parametrize("replaced", ["class"], indirect=True)
def test_a_chosen_proxy_permits_a_replaced_socket(relay_before: Server, replaced: str) -> None:
    url = f"smtp://127.0.0.1:{relay_before.port}"
    with Sender(url, proxy="direct") as sender:
        assert [each.status for each in sender.send([message()])] == [Status.ACCEPTED]
    Sender(url, proxy="socks5://127.0.0.1:1080").close()


def test_the_sockets_of_gevent_are_permitted(
    relay_before: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", Green)
    with Sender(f"smtp://127.0.0.1:{relay_before.port}") as sender:
        assert [each.status for each in sender.send([message()])] == [Status.ACCEPTED]
