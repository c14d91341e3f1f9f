"""`aio.SMTP` through a SOCKS5 proxy or an HTTP proxy, and with replaced names of `socket`."""

import asyncio
import functools
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme

from loops import run_on
from proxies import BOUND, CONNECTED, ConnectScript, SocksScript
from rapidsmtp import Sender, Status, aio
from senders import CONTENT, LIMITS, message, send_and_stop
from server import Connection, Script, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

RELAY = "relay.invalid"
SECRET = "a-very-secret-word"
MAIL = ("s@example.com", ["r@example.com"], CONTENT)
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return functools.partial(run_on, request.param)


def url(proxy: Server, scheme: str = "socks5", login: str = "") -> str:
    return f"{scheme}://{login}127.0.0.1:{proxy.port}"


async def send(proxy: str, host: str = RELAY, **options: Any) -> Any:
    settings: dict[str, Any] = {"start_tls": False, "timeout": 10.0, **options}
    async with aio.SMTP(host, 587, proxy=proxy, **settings) as client:
        return await client.sendmail(*MAIL)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("bound", BOUND)
def test_socks(run: Run, scheme: str, bound: str, split: bool) -> None:
    with Server(SMTPScript(["PIPELINING"])) as relay:
        script = SocksScript({RELAY: relay.port}, bound=BOUND[bound], split=split)
        with Server(script) as proxy:
            assert run(send(url(proxy, scheme))) == {}
        assert script.requests == [(3, RELAY, 587)]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("answer", [CONNECTED, b"HTTP/1.1 204 ok\nVia: x\n\n"])
def test_http(run: Run, answer: bytes, split: bool) -> None:
    with Server(SMTPScript(["PIPELINING"])) as relay:
        script = ConnectScript({RELAY: relay.port}, answer, split=split)
        with Server(script) as proxy:
            assert run(send(url(proxy, "http"))) == {}
    target = f"{RELAY}:587"
    assert script.requests == [f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()]


def test_the_login_is_percent_decoded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(SMTPScript()) as relay:
        script = SocksScript({RELAY: relay.port}, login=("us@r", "a:b/c"))
        with Server(script) as proxy:
            assert run(send(url(proxy, login="us%40r:a%3Ab%2Fc@"))) == {}
            monkeypatch.setenv("RAPIDSMTP_PROXY_PASSWORD", "a:b/c")
            assert run(send(url(proxy, login="us%40r@"))) == {}
        assert script.logins == [("us@r", "a:b/c")] * 2
        request = ConnectScript({"2001:db8::1": relay.port})
        with Server(request) as proxy:
            assert run(send(url(proxy, "http", "user:p%3Aw@"), "2001:db8::1")) == {}
    assert b"Proxy-Authorization: Basic dXNlcjpwOnc=\r\n" in request.requests[0]


def test_a_name_beyond_ascii(run: Run) -> None:
    with Server(SMTPScript()) as relay:
        script = SocksScript({"xn--mnchen-3ya.invalid": relay.port})
        with Server(script) as proxy:
            assert run(send(url(proxy), "m\xfcnchen.invalid")) == {}


@pytest.mark.parametrize("use_tls", [True, False], ids=["implicit", "starttls"])
@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_tls_is_with_the_server(
    run: Run, scheme: str, use_tls: bool, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options: Any = {"cert_bundle": tmp_path / "ca.pem", "use_tls": use_tls}
    options["start_tls"] = None if use_tls else True
    for name, accepted in ((RELAY, True), ("127.0.0.1", False)):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name).configure_cert(context)
        smtp = SMTPScript(["STARTTLS"], tls=context)
        with Server(smtp, tls=context if use_tls else None) as relay:
            kind: Any = SocksScript if scheme == "socks5" else ConnectScript
            # With implicit TLS, the server sends no greeting before the handshake.
            with Server(kind({RELAY: relay.port}, split=True)) as proxy:
                if accepted:
                    assert run(send(url(proxy, scheme), **options)) == {}
                else:
                    with pytest.raises(ssl.SSLCertVerificationError) as caught:
                        run(send(url(proxy, scheme), **options))
                    assert isinstance(caught.value, aio.SMTPException)


# Errors


def silent(connection: Connection) -> None:
    connection.rest()


def refusing(answer: bytes) -> Script:
    def script(connection: Connection) -> None:
        connection.line()
        connection.send(answer)
        connection.sock.shutdown(socket.SHUT_WR)
        connection.rest()

    return script


FAILURES: dict[str, tuple[str, str, Script]] = {
    **{
        f"SOCKS {code}": (
            "socks5",
            "",
            SocksScript(answers={"reply": bytes([5, code, 0]) + BOUND["IPv4"]}),
        )
        for code in (1, 2, 5, 9)
    },
    "login refused": ("socks5", f"user:{SECRET}@", SocksScript(login=("user", "another"))),
    "login required": ("socks5", "", SocksScript(login=("user", "another"))),
    "no SOCKS": ("socks5", "", lambda connection: connection.send(b"HTTP/1.1 400 no\r\n\r\n")),
    "closed": ("socks5", "", lambda connection: None),
    "403": ("http", "", refusing(b"HTTP/1.1 403 Forbidden\r\n\r\n")),
    "407": ("http", f"user:{SECRET}@", refusing(b"HTTP/1.1 407 no\r\n\r\n")),
    "502": ("http", "", refusing(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")),
    "no HTTP": ("http", "", refusing(b"220 relay ESMTP\r\n")),
    "too long": ("http", "", refusing(b"HTTP/1.1 200 ok\r\n" + b"X: y\r\n" * 4000)),
}


@pytest.mark.parametrize(("scheme", "login", "script"), FAILURES.values(), ids=FAILURES)
def test_the_errors_are_those_of_the_sender(
    run: Run, scheme: str, login: str, script: Script
) -> None:
    with Server(script) as proxy:
        with pytest.raises(aio.SMTPConnectError) as caught:
            run(send(url(proxy, scheme, login)))
        sender = Sender(
            f"smtp://{RELAY}:587?starttls=off",
            proxy=url(proxy, scheme, login),
            timeouts=LIMITS,
            connections=1,
        )
        _, error = send_and_stop(sender, [message()])
    assert str(caught.value) == str(error) and SECRET not in str(error)
    assert isinstance(caught.value, OSError) and caught.value.body_sent is False  # type: ignore[attr-defined]


def test_the_time_limit_covers_the_dialogue(run: Run) -> None:
    with Server(silent) as proxy:
        start = time.monotonic()
        with pytest.raises(aio.SMTPConnectTimeoutError) as caught:
            run(send(url(proxy), timeout=0.3))
        assert time.monotonic() - start < 15
        assert str(caught.value) == (
            f"cannot connect to {RELAY}:587 through the proxy 127.0.0.1:{proxy.port}: timed out "
            "after 0.3 s; check the proxy, and the relay's host and port"
        )


def test_a_proxy_that_cannot_be_reached(run: Run) -> None:
    with Server(silent) as proxy:
        pass
    with pytest.raises(ConnectionRefusedError) as caught:
        run(send(url(proxy)))
    name = f"127.0.0.1:{proxy.port}"
    assert str(caught.value) == (
        f"cannot connect to the proxy {name}: Connection refused ({name}); "
        "check the host and the port in proxy="
    )
    with pytest.raises(socket.gaierror, match=r'"no-such-proxy\.invalid" does not'):
        run(send("http://no-such-proxy.invalid:3128"))


@pytest.mark.parametrize(
    "wrong",
    ["", "socks4://host:1080", "socks5://host:0", f"socks5://user:{SECRET}/x@host:1080"],
)
def test_a_wrong_url(wrong: str) -> None:
    with pytest.raises(ValueError, match="proxy=") as caught:
        aio.SMTP("mx.example", proxy=wrong)
    assert SECRET not in repr(caught.value)
    with pytest.raises(TypeError, match="proxy"):
        aio.SMTP("mx.example", proxy=b"socks5://host")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unix socket"):
        aio.SMTP("/run/lmtp", proxy="socks5://host")
    with pytest.raises(ValueError, match="sock and proxy"):
        aio.SMTP(sock=socket.socket(), proxy="socks5://host")
    client = aio.SMTP("mx.example", proxy=f"socks5://user:{SECRET}@host:1080")
    assert SECRET not in f"{client!r} {client.options!r}"


# Replaced names of `socket`


@pytest.mark.parametrize("name", ["socket", "getaddrinfo", "create_connection"])
def test_a_replaced_name_is_used_or_reported(
    run: Run, name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    genuine = getattr(socket, name)

    @functools.wraps(genuine, updated=())
    def replaced(*arguments: Any, **keywords: Any) -> Any:
        used.append(name)
        return genuine(*arguments, **keywords)

    async def main(port: int, proxy: str | None) -> Any:
        async with aio.SMTP(
            "localhost", port, proxy=proxy, start_tls=False, local_hostname="me", timeout=10
        ) as client:
            used.clear()
            return await client.sendmail(*MAIL)

    is_asyncio = "asyncio" in request.node.name
    with Server(SMTPScript()) as relay:
        monkeypatch.setattr(socket, name, replaced)
        if is_asyncio and name != "create_connection":
            assert run(main(relay.port, None)) == {}
        else:
            with pytest.raises(RuntimeError, match=f"has replaced socket.{name} with .*proxy="):
                run(main(relay.port, None))
        assert run(main(relay.port, "direct")) == {}


def test_pysocks_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    base: Any = type("_BaseSocket", (socket.socket,), {"__module__": "socks"})
    replacement = type("socksocket", (base,), {"__module__": "socks"})
    monkeypatch.setattr(socket, "socket", replacement)
    with pytest.raises(RuntimeError, match=r"socks\.socksocket, which .* does not use"):
        run(aio.SMTP("127.0.0.1", 1).connect())


class Redirected(socket.socket):
    """A replacement that notes its connections."""

    connections: ClassVar[list[Any]] = []

    def connect(self, address: Any) -> None:
        self.connections.append(address)
        super().connect(address)

    def connect_ex(self, address: Any) -> int:
        self.connections.append(address)
        return super().connect_ex(address)


@pytest.mark.parametrize("through", ["direct", "socks5"])
def test_a_chosen_way_does_not_use_the_replacement(
    run: Run, through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(port: int, proxy: str) -> Any:
        async with aio.SMTP("127.0.0.1", port, proxy=proxy, start_tls=False) as client:
            return await client.sendmail(*MAIL)

    with Server(SMTPScript()) as relay, Server(SocksScript({"127.0.0.1": relay.port})) as proxy:
        chosen = url(proxy) if through == "socks5" else "direct"
        monkeypatch.setattr(socket, "socket", Redirected)
        Redirected.connections.clear()
        assert run(main(relay.port, chosen)) == {}
        with Sender(f"smtp://127.0.0.1:{relay.port}?starttls=off", proxy=chosen) as sender:
            assert [each.status for each in sender.send([message()])] == [Status.ACCEPTED]
        own = [each for each in Redirected.connections if each[1] != relay.port]
        # The script of the proxy connects to the relay, with the replacement.
        assert own == [] and len(Redirected.connections) == (2 if through == "socks5" else 0)


@pytest.mark.parametrize("name", ["getaddrinfo", "create_connection"])
def test_the_sender_reports_a_replaced_function(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = getattr(socket, name)

    @functools.wraps(genuine)
    def replaced(*arguments: Any, **keywords: Any) -> Any:
        return genuine(*arguments, **keywords)

    with Server(SMTPScript()) as relay:
        address = f"smtp://127.0.0.1:{relay.port}"
        monkeypatch.setattr(socket, name, replaced)
        if backend == "python" and name == "getaddrinfo":
            with Sender(address) as sender:
                assert [each.status for each in sender.send([message()])] == [Status.ACCEPTED]
        else:
            with pytest.raises(RuntimeError, match=f"has replaced socket.{name} with "):
                Sender(address)
            with pytest.raises(RuntimeError, match=f"has replaced socket.{name} with "):
                asyncio.run(open_sender(address))
        with Sender(address, proxy="direct") as sender:
            assert [each.status for each in sender.send([message()])] == [Status.ACCEPTED]


async def open_sender(address: str) -> None:
    async with aio.Sender(address):
        pass
