"""Connection reuse: the steps that a client must ask for, and what a program can observe."""

import gc
import io
import smtplib
import socket
import ssl
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from typing import Any
from unittest import mock

import pytest

import rapidsmtp
from rapidsmtp import auth
from rapidsmtp._smtp import kept
from reusing import EXTENSIONS, MAIL, MESSAGE, SETUP, connect, new_store, program, send, wires
from server import HANG_UP, TIMEOUT, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(autouse=True)
def store() -> Iterator[kept.Store]:
    with new_store() as store:
        yield store


@pytest.fixture(params=[EXTENSIONS, EXTENSIONS[1:]], ids=["pipelining", "without"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(SMTPScript(request.param)) as running:
        yield running


@pytest.fixture
def usual_server() -> Iterator[Server]:
    with Server(SMTPScript(EXTENSIONS)) as running:
        yield running


# Rule 1: the whole sequence, no more and no less


def test_the_same_steps_take_over_the_connection(server: Server, store: kept.Store) -> None:
    for _ in range(3):
        program(server)
    assert wires(server) == [SETUP + MAIL * 3]
    assert rapidsmtp.reuse_stats() == {"kept": 3, "taken": 2, "refused": {}}


def test_reuse_is_off_by_default(server: Server) -> None:
    for _ in range(2):
        program(server, reuse=False)
        assert server.wire().endswith(b"quit\r\n")
    assert len(server.connections) == 2


def test_a_client_without_login_sends_nothing_over_a_logged_in_connection(server: Server) -> None:
    program(server)
    program(server, None)
    assert wires(server) == [SETUP + MAIL, ["ehlo", *MAIL]]
    program(server)
    program(server, None)
    assert wires(server) == [SETUP + MAIL * 2, ["ehlo", *MAIL * 2]]


def test_a_client_that_logs_in_uses_no_connection_without_login(server: Server) -> None:
    program(server, None)
    program(server)
    assert wires(server) == [["ehlo", *MAIL], SETUP + MAIL]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("other", [("user", "b"), ("other", "a"), ("usera", "")])
def test_another_login_uses_another_connection(mechanism: str, other: tuple[str, str]) -> None:
    replies: dict[str, Any] = {}
    if mechanism == "CRAM-MD5":
        replies["auth"] = b"334 " + b"PDEyM0BleGFtcGxlPg=="
    elif mechanism == "LOGIN":
        replies["auth"] = b"334 UGFzc3dvcmQ6"
    with Server(SMTPScript([f"AUTH {mechanism}"], replies)) as server:
        for login in (("user", "a"), ("user", "a"), other, ("user", "a"), other):
            client = connect(server)
            client.login(*login)
            send(client)
            client.quit()
        assert [wire.count("mail") for wire in wires(server)] == [3, 2]
        first, second = (bytes(each.received) for each in server.connections)
        assert first.count(b"AUTH") == second.count(b"AUTH") == 1
        assert first.split(b"mail")[0] != second.split(b"mail")[0]


@pytest.mark.parametrize(
    "other",
    [
        {"local_hostname": "other.example"},
        {"source_address": ("127.0.0.1", 0)},
        {"cls": type("Sub", (rapidsmtp.SMTP,), {})},
    ],
    ids=["name", "source", "class"],
)
def test_other_arguments_use_another_connection(server: Server, other: dict[str, Any]) -> None:
    program(server)
    program(server, **other)
    program(server)
    assert [wire.count("mail") for wire in wires(server)] == [2, 1]


def test_another_order_of_steps_opens_a_connection(server: Server) -> None:
    def helo(client: Any) -> None:
        client.helo()
        client.ehlo()

    def ehlo(client: Any) -> None:
        client.ehlo()
        client.helo()

    for order in (helo, ehlo, helo):
        client = connect(server)
        order(client)
        send(client)
        client.quit()
    assert [wire[:2] for wire in wires(server)] == [["helo", "ehlo"], ["ehlo", "helo"]]
    assert [wire.count("mail") for wire in wires(server)] == [2, 1]


def test_the_secret_is_in_no_object_of_the_store(server: Server, store: kept.Store) -> None:
    program(server)
    seen, waiting = set(), [store]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type(sys)):
            continue
        seen.add(id(each))
        assert not (isinstance(each, (str, bytes)) and "secret of" in str(each)), each
        if not isinstance(each, type) and not callable(each):
            waiting += gc.get_referents(each)
    assert len(seen) > 30


# Rule 3: a step that differs


def test_steps_are_repeated_on_a_fresh_connection(usual_server: Server) -> None:
    program(usual_server)
    client = connect(usual_server)
    assert client.ehlo()[0] == 250
    assert len(usual_server.connections) == 1
    assert client.verify("one@example.com") == (252, b"2.1.5 perhaps")
    client.login("user", "secret of user")
    send(client)
    client.quit()
    assert usual_server.wire().count(b"quit") == 1
    assert wires(usual_server)[1] == ["ehlo", "vrfy", "auth", *MAIL, "quit"]
    program(usual_server)
    assert wires(usual_server)[0] == SETUP + MAIL * 2


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.noop(),
        lambda client: client.rset(),
        lambda client: client.help(),
        lambda client: client.expn("list"),
        lambda client: client.docmd("NOOP"),
        lambda client: client.mail("a@example.com"),
        lambda client: (client.putcmd("noop"), client.getreply()),
        lambda client: (client.send("noop\r\n"), client.getreply()),
    ],
)
@pytest.mark.parametrize("login", [True, False])
def test_a_command_outside_the_steps_is_sent_on_a_fresh_connection(
    usual_server: Server, call: Any, login: bool
) -> None:
    program(usual_server)
    client = connect(usual_server)
    if login:
        client.login("user", "secret of user")
    call(client)
    client.quit()
    assert usual_server.wire().endswith(b"quit\r\n")
    first, second = wires(usual_server)
    assert first == SETUP + MAIL
    assert second[:-2] == (SETUP if login else [])


def test_a_refused_login_is_the_real_one() -> None:
    def reply(line: bytes) -> bytes:
        return b"235 ok" if line.endswith(b"AHVzZXIAc2VjcmV0IG9mIHVzZXI=") else b"535 5.7.8 no"

    with Server(SMTPScript(["AUTH PLAIN"], {"auth": reply})) as server:
        program(server)
        for number in (1, 2):
            client = connect(server)
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("user", "wrong")
            client.quit()
            assert server.wire().endswith(b"quit\r\n")
            assert len(server.connections) == 1 + number
        program(server)
        assert wires(server) == [SETUP + MAIL * 2, [*SETUP, "quit"], [*SETUP, "quit"]]
    assert rapidsmtp.reuse_stats().refused == {"a step differs": 2, "refused login": 2}


def test_two_logins_are_not_kept() -> None:
    with Server(SMTPScript(["AUTH PLAIN"], {"auth": [b"535 no", b"235 ok"]})) as server:
        client = connect(server)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("other", "wrong")
        client.login("user", "secret")
        send(client)
        client.quit()
        assert server.wire().endswith(b"quit\r\n")


def test_a_refused_mechanism_is_part_of_the_steps() -> None:
    replies = {"auth": [b"504 5.5.4 not this one", b"235 2.7.0 ok"]}
    with Server(SMTPScript(["AUTH PLAIN LOGIN"], replies)) as server:
        for _ in range(3):
            program(server)
        assert wires(server) == [["ehlo", "auth", "auth", *MAIL * 3]]


def test_other_replies_on_the_fresh_connection_reach_the_program() -> None:
    second = [b"250-server.example\r\n250-AUTH PLAIN\r\n250 SIZE 77"]
    first = [b"250-server.example\r\n250-AUTH PLAIN\r\n250 SIZE 55"]
    replies = iter([first, second])

    def script(connection: Any) -> None:
        SMTPScript((), {"ehlo": next(replies)})(connection)

    with Server(script) as server:
        program(server)
        client = connect(server)
        client.ehlo()
        assert client.esmtp_features["size"] == "55"
        client.login("other", "secret")
        assert client.esmtp_features["size"] == "77"
        assert client.ehlo_resp == b"server.example\nAUTH PLAIN\nSIZE 77"
        client.close()


@pytest.mark.parametrize(
    ("greeting", "error"),
    [(b"421 4.3.2 too busy", smtplib.SMTPConnectError), (HANG_UP, smtplib.SMTPServerDisconnected)],
)
def test_a_failed_step_on_the_fresh_connection_is_an_error(greeting: bytes, error: Any) -> None:
    greetings = iter([b"220 ready", greeting])

    def script(connection: Any) -> None:
        SMTPScript(EXTENSIONS, {"greeting": next(greetings)})(connection)

    with Server(script) as server:
        program(server)
        client = connect(server)
        with pytest.raises(error) as caught:
            send(client)
        assert caught.value.body_sent is False
        assert client.sock is None
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.noop()


def test_changed_capabilities_survive_a_fresh_connection(usual_server: Server) -> None:
    program(usual_server)
    client = connect(usual_server)
    client.ehlo()
    client.esmtp_features["auth"] = "LOGIN"
    client.login("user", "secret of user")
    assert client.esmtp_features["auth"] == "LOGIN"
    assert b"AUTH LOGIN" in usual_server.connections[1].received
    client.close()


# Rule 4: only healthy connections


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ({"rcpt": [b"250 ok", b"550 no"]}, "error"),
        ({"message": b"554 no"}, "error"),
        ({"mail": b"550 no"}, "error"),
        ({"data": b"451 later"}, "error"),
    ],
)
def test_after_an_error_the_connection_is_not_kept(replies: Any, reason: str) -> None:
    with Server(SMTPScript(EXTENSIONS, replies)) as server:
        client = connect(server)
        with suppress(smtplib.SMTPException):
            client.sendmail("a@example.com", ["b@example.com", "c@example.com"], MESSAGE)
        assert client.quit() == (221, b"2.0.0 bye")
        assert server.wire().endswith(b"quit\r\n")
    assert rapidsmtp.reuse_stats() == {"kept": 0, "taken": 0, "refused": {reason: 1}}


def test_after_an_error_and_a_success_the_connection_is_kept() -> None:
    with Server(SMTPScript(EXTENSIONS, {"mail": [b"550 no"]})) as server:
        client = connect(server)
        with pytest.raises(smtplib.SMTPSenderRefused):
            send(client)
        send(client)
        client.quit()
        assert rapidsmtp.reuse_stats().kept == 1


def test_an_open_transaction_is_not_kept(usual_server: Server) -> None:
    client = connect(usual_server)
    client.ehlo()
    client.mail("a@example.com")
    client.quit()
    assert usual_server.wire().endswith(b"quit\r\n")


@pytest.mark.parametrize("surplus", [b"250 surplus\r\n", b"421 4.4.2 idle\r\n"])
def test_an_unread_reply_is_not_kept(surplus: bytes) -> None:
    with Server(SMTPScript(EXTENSIONS)) as server:
        client = connect(server)
        send(client)
        server.connections[0].send(surplus)
        client.sock.recv(1, socket.MSG_PEEK)
        assert client.quit() == (int(surplus[:3]), surplus[4:-2])
        assert server.wire().endswith(b"quit\r\n")
        assert rapidsmtp.reuse_stats().refused == {"unread reply": 1}


def test_an_exception_in_the_with_block_ends_the_connection(usual_server: Server) -> None:
    with pytest.raises(KeyError), connect(usual_server) as client:
        send(client)
        raise KeyError
    assert usual_server.wire().endswith(b"QUIT\r\n")


@pytest.mark.parametrize(
    ("bytes_while_idle", "reason"),
    [
        (b"421 4.4.2 idle too long\r\n", "lost"),
        (b"250 what?\r\n", "unread reply"),
        (HANG_UP, "lost"),
    ],
)
@pytest.mark.parametrize("when", ["before connect", "before the message"])
def test_a_lost_connection_is_found_before_its_use(
    server: Server, bytes_while_idle: bytes, reason: str, when: str
) -> None:
    client = connect(server)
    kept_socket = client.sock
    client.login("user", "secret of user")
    send(client)
    client.quit()
    if when == "before the message":
        client = connect(server)
        client.login("user", "secret of user")
    if bytes_while_idle:
        server.connections[0].send(bytes_while_idle)
    else:
        server.connections[0].sock.shutdown(socket.SHUT_RDWR)
    kept_socket.settimeout(TIMEOUT)
    kept_socket.recv(1, socket.MSG_PEEK)
    if when == "before connect":
        kept_socket.settimeout(0)
        client = connect(server)
        client.login("user", "secret of user")
    send(client)
    client.quit()
    assert wires(server) == [SETUP + MAIL] * 2
    assert rapidsmtp.reuse_stats().refused[reason] >= 1


LATE_ENDS: dict[str, Any] = {
    "eof at mail": {"mail": [b"250 ok", HANG_UP]},
    "421 at mail": {"mail": [b"250 ok", b"421 4.4.2 timeout"]},
    "eof at rcpt": {"rcpt": [b"250 ok", HANG_UP]},
    "421 at rcpt": {"rcpt": [b"250 ok", b"421 4.3.2 shutting down"]},
    "eof at data": {"data": [b"354 go on", HANG_UP]},
    "421 at data": {"data": [b"354 go on", b"421 4.3.2 shutting down"]},
}


@pytest.mark.parametrize("extensions", [EXTENSIONS, EXTENSIONS[1:]], ids=["pipelining", "without"])
@pytest.mark.parametrize("end", LATE_ENDS)
def test_a_message_is_sent_once_on_a_fresh_connection(end: str, extensions: Any) -> None:
    with Server(SMTPScript(extensions, LATE_ENDS[end])) as server:
        program(server)
        client = connect(server)
        client.login("user", "secret of user")
        assert send(client).reply.text == b"2.0.0 queued as 1234"
        client.quit()
        assert [bytes(each.received).count(b"\r\n.\r\n") for each in server.connections] == [1, 1]
        assert wires(server)[1] == SETUP + MAIL


@pytest.mark.parametrize("extensions", [EXTENSIONS, EXTENSIONS[1:]], ids=["pipelining", "without"])
@pytest.mark.parametrize("reply", [HANG_UP, b"421 4.3.0 lost", b"554 no", b"xyz"])
def test_a_message_is_never_sent_again_after_its_terminator(reply: bytes, extensions: Any) -> None:
    with Server(SMTPScript(extensions, {"message": [b"250 ok", reply]})) as server:
        program(server)
        client = connect(server)
        client.login("user", "secret of user")
        with pytest.raises(smtplib.SMTPException) as caught:
            send(client)
        assert getattr(caught.value, "body_sent", True)
        assert len(server.connections) == 1
        assert bytes(server.connections[0].received).count(b"\r\n.\r\n") == 2


def test_only_the_first_message_is_sent_again() -> None:
    with Server(SMTPScript(EXTENSIONS, {"mail": [b"250 ok", b"250 ok", HANG_UP]})) as server:
        program(server)
        client = connect(server)
        client.login("user", "secret of user")
        send(client)
        with pytest.raises(smtplib.SMTPServerDisconnected) as caught:
            send(client)
        assert caught.value.body_sent is False
        assert len(server.connections) == 1


@pytest.mark.parametrize("reply", [b"550 no", b"450 later", b"xyz"])
def test_a_refusal_is_not_retried(reply: bytes) -> None:
    with Server(SMTPScript(EXTENSIONS, {"mail": [b"250 ok", reply]})) as server:
        program(server)
        client = connect(server)
        client.login("user", "secret of user")
        with pytest.raises(smtplib.SMTPException):
            send(client)
        assert len(server.connections) == 1
        client.close()


def test_a_time_limit_is_not_retried() -> None:
    over = threading.Event()

    def wait(_: bytes) -> bytes:
        over.wait(TIMEOUT)
        return b"250 ok"

    with Server(SMTPScript(EXTENSIONS, {"mail": [b"250 ok", wait]})) as server:
        program(server)
        client = connect(server, timeout=0.05)
        client.login("user", "secret of user")
        with pytest.raises(smtplib.SMTPServerDisconnected):
            send(client)
        assert len(server.connections) == 1
        over.set()


def test_the_server_restarts_in_between() -> None:
    with Server(SMTPScript(EXTENSIONS)) as server:
        port = server.port
        program(server)
    with pytest.raises(ConnectionRefusedError):
        program(server)
    again = Server(SMTPScript(EXTENSIONS))
    again._listener.close()
    again._listener = socket.create_server(("127.0.0.1", port))
    again.port = port
    with again:
        program(again)
        program(again)
        assert wires(again) == [SETUP + MAIL * 2]


# Rule 5: replaced methods, debug output, audit events, the socket

REPLACED = ("connect", "ehlo", "helo", "starttls", "login", "auth", "quit", "close")


def spying(name: str, calls: list[str]) -> Any:
    original = getattr(rapidsmtp.SMTP, name)

    def method(self: Any, *args: Any, **named: Any) -> Any:
        calls.append(name)
        return original(self, *args, **named)

    return method


@pytest.mark.parametrize("place", ["subclass", "class", "instance"])
@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_method_excludes_reuse(
    usual_server: Server, name: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    method = spying(name, calls)
    cls: Any = rapidsmtp.SMTP
    program(usual_server)
    if place == "subclass":
        cls = type("Sub", (cls,), {name: method})
    elif place == "class":
        monkeypatch.setattr(cls, name, method)
    for number in (1, 2):
        client = connect(usual_server, cls)
        if place == "instance":
            setattr(client, name, method.__get__(client))
        client.ehlo()
        client.login("user", "secret of user")
        send(client)
        client.quit()
        assert usual_server.wire().endswith(b"quit\r\n")
        assert len(usual_server.connections) == 1 + number
    assert bool(calls) == (
        name not in ("helo", "starttls") and (name, place) != ("connect", "instance")
    )


def test_a_class_that_replaces_other_methods_reuses_connections(usual_server: Server) -> None:
    class Logging(rapidsmtp.SMTP):
        def send_message(self, *args: Any, **named: Any) -> Any:
            return super().send_message(*args, **named)

    program(usual_server, cls=Logging)
    program(usual_server, cls=Logging)
    assert len(usual_server.connections) == 1


def test_debug_output_excludes_reuse(usual_server: Server) -> None:
    program(usual_server)
    client = connect(usual_server)
    client.ehlo()
    client.set_debuglevel(1)
    with redirect_stderr(io.StringIO()) as output:
        client.login("user", "secret of user")
        send(client)
        client.quit()
    assert usual_server.wire().endswith(b"quit\r\n")
    assert wires(usual_server)[1] == [*SETUP, *MAIL, "quit"]
    lines = output.getvalue().splitlines()
    assert lines[0].startswith("send: 'AUTH CRAM-MD5") and "send: 'quit\\r\\n'" in lines
    assert wires(usual_server)[0] == SETUP + MAIL


def audit_events(server: Server, run: Any) -> list[Any]:
    found: list[Any] = []
    is_open = [True]

    def hook(name: str, args: Any) -> None:
        if is_open and name.startswith("smtplib."):
            found.append((name, args[1:]))

    sys.addaudithook(hook)
    run(server)
    is_open.clear()
    return found


def test_audit_events_are_the_same(server: Server) -> None:
    def by_hand(server: Server) -> None:
        with connect(server) as client:
            client.ehlo()
            client.login("user", "secret of user")
            send(client)

    for run in (program, by_hand):
        first, second = audit_events(server, run), audit_events(server, run)
        assert second == first
        assert first[0] == ("smtplib.connect", (server.host, server.port))
        assert first[-1][0] == "smtplib.send" and first[-1][1][0].lower() == b"quit\r\n"
    # A login of another user repeats EHLO, but the events are those of a client without reuse.
    different = audit_events(server, lambda server: program(server, "other"))
    assert different == audit_events(server, lambda server: program(server, "other", reuse=False))


def state(client: Any) -> dict[str, Any]:
    names = ("helo_resp", "ehlo_resp", "esmtp_features", "does_esmtp", "command_encoding", "user")
    found = {name: getattr(client, name, "absent") for name in names}
    found["sock"] = type(client.sock)
    found["file"] = type(client.file)
    return {**found, "timeout": client.sock and client.sock.gettimeout()}


def test_the_state_is_the_same_after_each_step(server_tls: ssl.SSLContext, backend: str) -> None:
    def steps(server: Server) -> Iterator[Any]:
        client = connect(server, timeout=TIMEOUT + len(server.connections))
        yield None
        client_state = [state(client)]
        for call in (
            lambda: client.ehlo(),
            lambda: client.starttls(),
            lambda: client.ehlo("client.example"),
            lambda: client.login("user", "secret"),
            lambda: send(client),
            lambda: client.quit(),
        ):
            result = call()
            client_state.append({**state(client), "code": result and result[0]})
        yield client_state

    with Server(SMTPScript(EXTENSIONS, tls=server_tls)) as server:
        first, second = list(steps(server))[1], list(steps(server))[1]
        assert len(server.connections) == 1
    for theirs, ours in zip(first, second, strict=True):
        limit = ours.pop("timeout")
        assert limit in (None, TIMEOUT + 1)
        theirs.pop("timeout")
        assert ours == theirs


def test_a_client_is_closed_after_quit(usual_server: Server) -> None:
    program(usual_server)
    client = program(usual_server)
    assert (client.sock, client.file, client.ehlo_resp, client.does_esmtp) == (None,) * 3 + (False,)
    for call in (client.noop, lambda: send(client), client.quit):
        with pytest.raises(smtplib.SMTPServerDisconnected, match="please run connect"):
            call()
    assert client.connect(usual_server.host, usual_server.port)[0] == 220
    client.login("user", "secret of user")
    send(client)
    client.quit()
    assert wires(usual_server) == [SETUP + MAIL * 3]


def test_a_client_without_references_is_destroyed_at_once(usual_server: Server) -> None:
    program(usual_server)
    client = connect(usual_server)
    client.login("user", "secret of user")
    dead = weakref.ref(client)
    with pytest.warns(ResourceWarning):
        gc.disable()
        del client
        gc.enable()
        assert dead() is None
        gc.collect()
    assert usual_server.connections[0].over.wait(TIMEOUT)
    assert wires(usual_server) == [SETUP + MAIL]


def test_a_closed_client_closes_the_connection(usual_server: Server) -> None:
    program(usual_server)
    client = connect(usual_server)
    client.close()
    assert usual_server.connections[0].over.wait(TIMEOUT)
    program(usual_server)
    assert len(usual_server.connections) == 2


def test_a_socket_of_the_program_is_used(usual_server: Server) -> None:
    program(usual_server)
    client = connect(usual_server)
    client.sock = socket.create_connection((usual_server.host, usual_server.port), TIMEOUT)
    client.file = None
    assert client.getreply()[0] == 220
    send(client)
    client.quit()
    assert usual_server.wire(1).endswith(b"quit\r\n")
    assert wires(usual_server)[0] == SETUP + MAIL


def test_a_replaced_socket_module_excludes_reuse(usual_server: Server) -> None:
    program(usual_server)
    module = mock.Mock(wraps=socket)
    module.create_connection = lambda *args: socket.create_connection(*args)
    with mock.patch("smtplib.socket", module):
        program(usual_server)
        program(usual_server)
    assert len(usual_server.connections) == 3
    assert rapidsmtp.reuse_stats().refused == {"replaced socket": 2}


@pytest.mark.parametrize("name", ["socket", "getaddrinfo"])
def test_a_replaced_function_of_socket_excludes_reuse(usual_server: Server, name: str) -> None:
    """Programs set `socket.socket` to the class of a proxy, as with PySocks."""

    class Socket(socket.socket):
        pass

    def getaddrinfo(*args: Any, **named: Any) -> Any:
        return original(*args, **named)

    original = socket.getaddrinfo
    program(usual_server)
    with mock.patch.object(socket, name, {"socket": Socket, "getaddrinfo": getaddrinfo}[name]):
        client = connect(usual_server)
        assert isinstance(client.sock, Socket) is (name == "socket")
        client.close()
    assert len(usual_server.connections) == 2


def test_a_time_limit_of_zero_is_an_error(usual_server: Server) -> None:
    program(usual_server)
    with pytest.raises(ValueError, match="Non-blocking"):
        connect(usual_server, timeout=0)


# Auth objects


class Token:
    """An auth object for XOAUTH2 that counts its calls."""

    def __init__(self, token: str) -> None:
        self.token, self.calls = token, 0

    def __call__(self, challenge: Any = None) -> Any:
        self.calls += 1
        return f"user=user\1auth=Bearer {self.token}\1\1" if challenge is None else ""


def test_an_initial_response_is_compared() -> None:
    with Server(SMTPScript(["AUTH XOAUTH2"])) as server:
        for token in ("a", "a", "b", "a"):
            client = connect(server)
            client.ehlo()
            authobject = Token(token)
            client.auth("XOAUTH2", authobject)
            send(client)
            client.quit()
            assert authobject.calls == 1
        assert [wire.count("mail") for wire in wires(server)] == [3, 1]


def test_responses_to_challenges_cannot_be_compared() -> None:
    replies = {"auth": b"334 Y2hhbGxlbmdl"}
    with Server(SMTPScript(["AUTH XOAUTH2 CRAM-MD5"], replies)) as server:
        for authobject, mechanism in (
            (Token("a"), "XOAUTH2"),
            (lambda challenge=None: None if challenge is None else "response", "CRAM-MD5"),
            (auth.CramMD5("user", "secret"), "CRAM-MD5"),
        ):
            client = connect(server)
            client.ehlo()
            client.auth(mechanism, authobject)
            send(client)
            client.quit()
            assert server.wire().endswith(b"quit\r\n")
    assert rapidsmtp.reuse_stats().refused == {"login that cannot be compared": 3}


def test_an_auth_command_of_the_program_is_not_kept() -> None:
    with Server(SMTPScript(["AUTH XOAUTH2"])) as server:
        for _ in range(2):
            client = connect(server)
            client.ehlo()
            assert client.docmd("AUTH", "XOAUTH2 abcd")[0] == 235
            send(client)
            client.quit()
            assert server.wire().endswith(b"quit\r\n")
        program(server, None)
        assert wires(server)[2] == ["ehlo", *MAIL]


def test_a_socket_that_the_program_sets_after_connect_is_not_kept(usual_server: Server) -> None:
    with Server(SMTPScript(EXTENSIONS)) as other:
        client = connect(usual_server)
        client.sock = socket.create_connection((other.host, other.port), TIMEOUT)
        client.file = None
        assert client.getreply()[0] == 220
        send(client)
        client.quit()
        assert other.wire().endswith(b"quit\r\n")
    assert rapidsmtp.reuse_stats().refused == {"replaced socket": 1}


def test_a_time_limit_of_the_program_survives_a_fresh_connection(usual_server: Server) -> None:
    program(usual_server)
    client = connect(usual_server)
    client.sock.settimeout(3.5)
    client.login("other", "secret")
    assert client.sock.gettimeout() == 3.5
    client.quit()
    client = connect(usual_server, timeout=2.5)
    assert client.sock.gettimeout() == 2.5
    client.close()


def test_a_signal_handler_may_send_mail(usual_server: Server, store: kept.Store) -> None:
    """A signal handler runs in the thread that has the lock of the store."""
    program(usual_server)
    with store._lock:
        program(usual_server)
    assert len(usual_server.connections) == 1
