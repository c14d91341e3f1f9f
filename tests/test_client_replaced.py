"""rapidsmtp, like smtplib, uses the methods, sockets and modules that a program replaces."""

import io
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

import rapidsmtp
from server import TIMEOUT, Server, SMTPScript

SENDER = "sender@example.com"
RECIPIENTS = ["one@example.com", "two@example.com"]
MESSAGE = b"Subject: x\r\n\r\n.body\r\n"
METHODS = ["send", "data", "getreply", "putcmd", "docmd", "rcpt", "mail", "rset", "ehlo"]

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(
    scope="module", params=[("PIPELINING", "SIZE"), ("SIZE",)], ids=["pipelining", "without"]
)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Start a server that refuses the second recipient and the third message."""
    replies = {
        "rcpt": [b"250 ok", b"550 no"],
        "message": [b"250 2.0.0 queued", b"554 5.6.0 no", b"250 2.0.0 queued"],
    }
    with Server(SMTPScript(request.param, replies)) as running:
        yield running


def spy(calls: list[Any], name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that records its arguments and calls the original."""

    def method(self: Any, *args: Any, **named: Any) -> Any:
        calls.append((name, args, named))
        return original(self, *args, **named)

    return method


def in_a_subclass(cls: type, names: list[str], calls: list[Any], _: Any) -> Callable[..., Any]:
    return type("Sub", (cls,), {name: spy(calls, name, getattr(cls, name)) for name in names})


def on_an_instance(cls: type, names: list[str], calls: list[Any], _: Any) -> Callable[..., Any]:
    def make(*args: Any, **named: Any) -> Any:
        client = cls(*args, **named)
        for name in names:
            method = spy(calls, name, getattr(cls, name))
            setattr(client, name, method.__get__(client))
        return client

    return make


def on_the_class(
    cls: type, names: list[str], calls: list[Any], patch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    for name in names:
        patch.setattr(cls, name, spy(calls, name, getattr(cls, name)))
    return cls


def in_a_mixin(cls: type, names: list[str], calls: list[Any], _: Any) -> Callable[..., Any]:
    mixin = type("Mixin", (), {name: spy(calls, name, getattr(cls, name)) for name in names})
    return type("Mixed", (mixin, cls), {})


PLACES = [in_a_subclass, on_an_instance, on_the_class, in_a_mixin]


def calls_of_a_session(
    module: ModuleType, server: Server, names: list[str], place: Any
) -> list[Any]:
    """Return the calls of replaced methods in a session with an accepted and a refused message."""
    calls: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        make = place(module.SMTP, names, calls, patch)
        client = make(server.host, server.port, "client.example", timeout=TIMEOUT)
        assert client.sendmail(SENDER, RECIPIENTS, MESSAGE) == {RECIPIENTS[1]: (550, b"no")}
        with pytest.raises(smtplib.SMTPDataError):
            client.sendmail(SENDER, RECIPIENTS[0], "Subject: text\n\nbody", ["BODY=8BITMIME"])
        client.helo()
        client.help()
        client.verify("one@example.com")
        client.expn("list")
        client.noop()
        client.quit()
    return calls


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", METHODS)
def test_a_replaced_method_is_called_as_by_smtplib(server: Server, name: str, place: Any) -> None:
    theirs = calls_of_a_session(smtplib, server, [name], place)
    assert theirs, "the session does not call the method"
    assert calls_of_a_session(rapidsmtp, server, [name], place) == theirs
    ours, wire = server.wire(-1), server.wire(-2)
    assert ours == wire


@pytest.mark.parametrize("place", PLACES)
def test_replaced_methods_are_called_in_the_same_order(server: Server, place: Any) -> None:
    theirs = calls_of_a_session(smtplib, server, METHODS, place)
    assert calls_of_a_session(rapidsmtp, server, METHODS, place) == theirs


def connect(server: Server, cls: Any = None) -> Any:
    return (cls or rapidsmtp.SMTP)(server.host, server.port, "client.example", timeout=TIMEOUT)


def test_a_replaced_data_gets_the_message_as_the_caller_gave_it(server: Server) -> None:
    given: list[object] = []

    class Sub(rapidsmtp.SMTP):
        def data(self, msg: Any) -> tuple[int, bytes]:
            given.append(msg)
            return 250, b"kept"

    message = b"Subject: x\n\n.bare\rline ends"
    with connect(server, Sub) as client:
        refused = client.sendmail(SENDER, RECIPIENTS[0], message)
        assert refused.reply == (250, b"kept")
    with connect(server, Sub) as client:
        # The client encodes a str before it calls the replaced method, as smtplib does.
        client.sendmail(SENDER, RECIPIENTS[0], "text\n.")
    assert given[0] is message
    assert given[1] == b"text\r\n."


def test_a_replaced_rcpt_gets_unchecked_addresses(server: Server) -> None:
    """`sendmail` passes each recipient unchecked to a replaced `rcpt`.

    In this test, each recipient is a tuple.
    """

    class Sub(rapidsmtp.SMTP):
        def rcpt(self, recip: Any, options: Any = ()) -> tuple[int, bytes]:
            return super().rcpt(f"{recip[0]}@{recip[1]}", options)

    with connect(server, Sub) as client:
        assert client.sendmail(SENDER, [("one", "example.com")], MESSAGE) == {}
    assert b"<one@example.com>" in server.wire()


def test_the_reply_of_a_replaced_getreply_is_used(server: Server) -> None:
    class Deaf(rapidsmtp.SMTP):
        def getreply(self) -> tuple[int, bytes]:
            code, text = super().getreply()
            return (code, text) if code != 550 else (250, b"so what")

    with connect(server, Deaf) as client:
        assert client.sendmail(SENDER, RECIPIENTS, MESSAGE) == {}


def test_an_overridden_get_socket_and_close_are_called(server: Server) -> None:
    calls: list[object] = []

    class Sub(rapidsmtp.SMTP):
        def _get_socket(self, host: str, port: int, timeout: float | None) -> Any:
            calls.append((host, port, timeout))
            return socket.create_connection((server.host, server.port), timeout)

        def close(self) -> None:
            calls.append("close")
            super().close()

    client = Sub("no.such.host.example", 25, "client.example", TIMEOUT)
    assert client.sendmail(SENDER, RECIPIENTS[0], MESSAGE) == {}
    client.quit()
    assert calls == [("no.such.host.example", 25, TIMEOUT), "close"]


def test_an_overridden_close_is_called_with_pipelining() -> None:
    closed: list[bool] = []

    class Sub(rapidsmtp.SMTP):
        def close(self) -> None:
            closed.append(True)
            super().close()

    with Server(SMTPScript(("PIPELINING",), {"message": b"421 going"})) as server:
        client = connect(server, Sub)
        with pytest.raises(rapidsmtp.SMTPDataError):
            client.sendmail(SENDER, RECIPIENTS[0], MESSAGE)
    assert closed


@pytest.mark.parametrize("module", [rapidsmtp, smtplib], ids=["rapidsmtp", "smtplib"])
def test_a_socket_assigned_without_connect_is_used(server: Server, module: ModuleType) -> None:
    client = module.SMTP(local_hostname="client.example")
    client.sock = socket.create_connection((server.host, server.port), TIMEOUT)
    assert client.getreply() == (220, b"server.example ready")
    assert client.sendmail(SENDER, RECIPIENTS[0], MESSAGE) == {}
    assert client.quit()[0] == 221
    assert server.wire().startswith(b"ehlo client.example\r\nmail ")


@pytest.mark.parametrize("attribute", ["helo_resp", "ehlo_resp"])
@pytest.mark.parametrize("module", [rapidsmtp, smtplib], ids=["rapidsmtp", "smtplib"])
def test_ehlo_is_not_sent_after_its_reply_was_assigned(
    server: Server, module: ModuleType, attribute: str
) -> None:
    with connect(server, module.SMTP) as client:
        setattr(client, attribute, b"250 server.example")
        assert client.sendmail(SENDER, RECIPIENTS[0], MESSAGE, ["BODY=8BITMIME"]) == {}
    wire = server.wire()
    assert wire[:5].lower() == b"mail "
    # The client has sent no EHLO, so it has no list of capabilities and sends no options.
    assert b"BODY" not in wire


def test_assigned_capabilities_are_used(server: Server) -> None:
    with connect(server) as client:
        client.ehlo()
        client.esmtp_features["size"] = "1000"
        client.esmtp_features.pop("pipelining", None)
        client.sendmail(SENDER, RECIPIENTS[0], MESSAGE)
    assert b" size=%d\r\n" % len(MESSAGE) in server.wire()


class AsciiOnly:
    """An object with only `encode`. smtplib calls only this method of an auth object's result."""

    def __init__(self, text: str) -> None:
        self._text = text

    def encode(self, encoding: str) -> bytes:
        assert encoding == "ascii"
        return self._text.encode(encoding)


@pytest.mark.parametrize("module", [rapidsmtp, smtplib], ids=["rapidsmtp", "smtplib"])
def test_auth_objects_may_return_any_object_with_encode(module: ModuleType) -> None:
    challenges: list[object] = []

    def authobject(*challenge: bytes) -> AsciiOnly:
        challenges.extend(challenge)
        return AsciiOnly("answer" if challenge else "first")

    with Server(SMTPScript(["AUTH X-OWN"], {"auth": b"334 cXVlc3Rpb24="})) as server:
        with connect(server, module.SMTP) as client:
            client.ehlo()
            assert client.auth("x-own", authobject) == (235, b"2.7.0 welcome")
        assert b"AUTH X-OWN Zmlyc3Q=\r\nYW5zd2Vy\r\n" in server.wire()
    assert challenges == [b"question"]


def test_login_calls_replaced_auth_methods() -> None:
    calls: list[str] = []

    class Sub(rapidsmtp.SMTP):
        def auth(self, mechanism: str, *args: Any, **named: Any) -> tuple[int, bytes]:
            calls.append(mechanism)
            return super().auth(mechanism, *args, **named)

        def auth_plain(self, challenge: Any = None) -> str:
            calls.append("auth_plain")
            return "own"

    with Server(SMTPScript(["AUTH LOGIN PLAIN"])) as server:
        with connect(server, Sub) as client:
            client.login("user", "password")
        assert b"AUTH PLAIN b3du\r\n" in server.wire()
    assert calls == ["PLAIN", "auth_plain"]


def test_send_message_calls_sendmail_with_five_positional_arguments(server: Server) -> None:
    calls: list[tuple[Any, ...]] = []

    class Sub(rapidsmtp.SMTP):
        def sendmail(self, *args: Any) -> Any:
            calls.append(args)

    message = EmailMessage()
    message["From"], message["To"] = SENDER, RECIPIENTS[0]
    with connect(server, Sub) as client:
        client.send_message(message, rcpt_options=["NOTIFY=NEVER"])
    flat = b"From: %s\r\nTo: %s\r\n\r\n" % (SENDER.encode(), RECIPIENTS[0].encode())
    assert calls == [(SENDER, [RECIPIENTS[0]], flat, (), ["NOTIFY=NEVER"])]


class BareSocket:
    """A socket with only the methods that smtplib calls, and with an invalid file descriptor."""

    def __init__(self, replies: bytes) -> None:
        self.sent = b""
        self.limits: list[object] = []
        self.closed = False
        self._replies = io.BytesIO(replies)

    def sendall(self, data: bytes) -> None:
        self.sent += bytes(data)

    def makefile(self, mode: str) -> "BareSocket":
        assert mode == "rb"
        return self

    def readline(self, limit: int) -> bytes:
        return self._replies.readline(limit)

    def settimeout(self, limit: object) -> None:
        self.limits.append(limit)

    def gettimeout(self) -> None:
        return None

    def fileno(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("owner", [rapidsmtp, smtplib])
@pytest.mark.parametrize("capability", [b"PIPELINING", b"SIZE"])
def test_a_replaced_socket_module_is_used(
    monkeypatch: pytest.MonkeyPatch, capability: bytes, owner: ModuleType
) -> None:
    bare = BareSocket(
        b"220 ready\r\n250-server\r\n250 " + capability + b"\r\n250 ok\r\n250 ok\r\n354 go on\r\n"
        # The reply `221 bye` has no line end, so only the end of the stream ends it.
        b"250 queued\r\n221 bye"
    )
    module = mock.Mock(wraps=socket)
    module.create_connection = mock.Mock(return_value=bare)
    module.getfqdn = lambda: "mocked.example"
    monkeypatch.setattr(owner, "socket", module)
    client = rapidsmtp.SMTP("server.example", 2525)
    module.create_connection.assert_called_once_with(
        ("server.example", 2525), vars(socket)["_GLOBAL_DEFAULT_TIMEOUT"], None
    )
    assert client.local_hostname == "mocked.example"
    assert client.sendmail(SENDER, RECIPIENTS[0], MESSAGE).reply == (250, b"queued")
    assert client.quit() == (221, b"bye")
    assert bare.sent.lower().startswith(b"ehlo mocked.example\r\nmail from:<sender@example.com>")
    assert bare.sent.endswith(b"\r\n\r\n..body\r\n.\r\nquit\r\n")
    assert bare.closed


def test_the_mock_socket_of_cpython_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_socket = pytest.importorskip("test.mock_socket")
    monkeypatch.setattr(rapidsmtp, "socket", mock_socket)
    mock_socket.reply_with(b"220 Hola mundo")
    client = rapidsmtp.SMTP("localhost", 2525, "client.example", timeout=30)
    assert client.sock.gettimeout() == 30
    client.close()
    assert client.sock is None


@pytest.mark.parametrize("owner", [rapidsmtp, smtplib])
def test_a_replaced_ssl_module_is_used(monkeypatch: pytest.MonkeyPatch, owner: ModuleType) -> None:
    module = mock.Mock(wraps=ssl)
    monkeypatch.setattr(owner, "ssl", module)
    module._create_stdlib_context = mock.Mock(return_value="settings")
    assert rapidsmtp.SMTP_SSL().context == "settings"


def test_a_module_replaced_on_the_package_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = mock.Mock(wraps=socket), mock.Mock(wraps=socket)
    monkeypatch.setattr(rapidsmtp, "socket", ours)
    monkeypatch.setattr(smtplib, "socket", theirs)
    ours.getfqdn = lambda: "ours.example"
    theirs.getfqdn = lambda: "theirs.example"
    assert rapidsmtp.SMTP().local_hostname == "ours.example"


def test_a_replaced_host_name_lookup_is_called_each_time() -> None:
    with mock.patch("socket.getfqdn", side_effect=["one.example", "two.example"]):
        names = [rapidsmtp.SMTP().local_hostname for _ in range(2)]
    assert names == ["one.example", "two.example"]
    assert rapidsmtp.SMTP().local_hostname == smtplib.SMTP().local_hostname


@pytest.mark.parametrize(
    ("name", "address", "greeting"),
    [
        ("my host.example", "192.0.2.1", b"ehlo [192.0.2.1]\r\n"),
        ("büro.example", "192.0.2.1", b"ehlo [192.0.2.1]\r\n"),
        # Python decodes a byte of the host name that is not valid in UTF-8 to a lone surrogate.
        ("b\udcffro.example", "192.0.2.1", b"ehlo [192.0.2.1]\r\n"),
        # A program may mock all functions of the socket module. Then the host's address is a mock
        # and not a str.
        ("host", mock.Mock(), b"ehlo [127.0.0.1]\r\n"),
    ],
)
def test_an_invalid_host_name_is_not_sent_in_ehlo(
    backend: str, server: Server, name: str, address: Any, greeting: bytes
) -> None:
    with (
        mock.patch("socket.getfqdn", return_value=name),
        mock.patch("socket.gethostbyname", return_value=address),
    ):
        client = rapidsmtp.SMTP(server.host, server.port, timeout=TIMEOUT)
    client.ehlo()
    client.close()
    assert server.wire() == greeting


@pytest.mark.parametrize(
    ("address", "greeting"),
    [("192.0.2.1", b"ehlo [192.0.2.1]\r\n"), (UnicodeError(), b"ehlo [127.0.0.1]\r\n")],
)
def test_a_host_name_that_is_not_decodable_is_not_sent_in_ehlo(
    backend: str, server: Server, address: Any, greeting: bytes
) -> None:
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    with (
        mock.patch("socket.getfqdn", side_effect=error),
        mock.patch("socket.gethostbyname", side_effect=[address]),
    ):
        client = rapidsmtp.SMTP(server.host, server.port, timeout=TIMEOUT)
    client.ehlo()
    client.close()
    assert server.wire() == greeting


def test_the_modules_that_smtplib_imports_are_names_of_the_package() -> None:
    assert rapidsmtp.socket.error is OSError
    for name in vars(smtplib):
        assert hasattr(rapidsmtp, name), name


def test_recipients_may_be_any_iterable_of_str_subclasses(way: str) -> None:
    class Header(str):
        """An address with an attribute, similar to `email.headerregistry.Address`."""

    address = Header("one@example.com")
    with Server(SMTPScript(("PIPELINING",), {"rcpt": [b"250 ok", b"550 no"]})) as server:
        client = rapidsmtp.SMTP(
            server.host, server.port, "client.example", TIMEOUT, pipelining=way == "pipelined"
        )
        refused = client.sendmail(Header(SENDER), {address: 1, "two@example.com": 2}, MESSAGE)
        assert refused == {"two@example.com": (550, b"no")}
        assert refused.accepted[0] is address
        with pytest.raises(rapidsmtp.SMTPRecipientsRefused) as caught:
            client.sendmail(SENDER, [], MESSAGE)
        assert caught.value.recipients == {}
        assert client.noop()[0] == 250
        client.close()
