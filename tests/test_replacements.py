"""A program replaces methods and sockets, in every way and at every time.

The tests compare the calls of the replaced methods with those of smtplib. The server supports
PIPELINING, so rapidsmtp would send each message in one write if nothing was replaced.
"""

import functools
import io
import os
import smtplib
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import processes
import rapidsmtp
from comparison import Session, compare
from rapidsmtp._smtp import overrides
from server import TIMEOUT, Server, SMTPScript

SENDER, RECIPIENTS = "sender@example.com", ["one@example.com", "two@example.com"]
MESSAGE = b"Subject: x\r\n\r\nbody\r\n"
OWN_SMTP: Any = smtplib.SMTP
METHODS = [
    "__init__",
    "_get_socket",
    "connect",
    "ehlo",
    "ehlo_or_helo_if_needed",
    "sendmail",
    "mail",
    "rcpt",
    "data",
    "docmd",
    "putcmd",
    "send",
    "getreply",
    "quit",
    "close",
    "has_extn",
]

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(autouse=True)
def always_uninstalled() -> Iterator[None]:
    before = dict(vars(OWN_SMTP))
    yield
    rapidsmtp.uninstall()
    assert dict(vars(OWN_SMTP)) == before
    assert smtplib.SMTP is OWN_SMTP


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(SMTPScript(["PIPELINING"])) as running:
        yield running


Calls = list[str]
Way = Callable[[Any, str, Calls], Any]


def function(original: Any, name: str, calls: Calls) -> Any:
    def replacement(self: Any, *args: Any, **named: Any) -> Any:
        calls.append(name)
        return original(self, *args, **named)

    return replacement


def wrapped_function(original: Any, name: str, calls: Calls) -> Any:
    """A wrapper with the `__module__`, the name and the docstring of the original."""
    return functools.wraps(original)(function(original, name, calls))


def partial_method(original: Any, name: str, calls: Calls) -> Any:
    return functools.partialmethod(function(original, name, calls))


def property_with_a_function(original: Any, name: str, calls: Calls) -> Any:
    method = function(original, name, calls)
    return property(lambda self: functools.partial(method, self))


class Descriptor:
    """A descriptor that looks like the original if it is read from the class."""

    def __init__(self, original: Any, name: str, calls: Calls) -> None:
        self.original, self.method = original, function(original, name, calls)

    def __get__(self, client: Any, cls: Any = None) -> Any:
        return self.original if client is None else functools.partial(self.method, client)


def autospec(original: Any, name: str, calls: Calls) -> Any:
    method = function(original, name, calls)
    return mock.create_autospec(original, side_effect=lambda *args, **named: method(*args, **named))


def function_of_wrapt(original: Any, name: str, calls: Calls) -> Any:
    """A wrapper that is equal to the original and has the attributes of the original."""
    wrapt = pytest.importorskip("wrapt")

    def wrapper(wrapped: Any, client: Any, args: Any, named: Any) -> Any:
        calls.append(name)
        return wrapped(*args, **named)

    return wrapt.FunctionWrapper(original, wrapper)


WAYS: list[Way] = [
    function,
    wrapped_function,
    partial_method,
    property_with_a_function,
    Descriptor,
    autospec,
    function_of_wrapt,
]


def send_by(cls: Any, server: Server) -> None:
    client = cls(server.host, server.port, "client.example", timeout=TIMEOUT)
    # With one recipient, smtplib's LMTP client reads all replies.
    recipients = RECIPIENTS[: 1 if client.ehlo_msg == "lhlo" else 2]
    assert client.sendmail(SENDER, recipients, MESSAGE) == {}
    assert client.quit()[0] == 221


def calls_of(owner: Any, cls: Any, names: list[str], way: Way, server: Server) -> Calls:
    """Replace methods of `owner`, send a message with `cls`, and return the calls."""
    calls: Calls = []
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(owner, name, way(getattr(owner, name), name, calls))
        send_by(cls, server)
    return calls


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "owner", ["ours", "smtplib's", "ours, after install", "smtplib's, after install"]
)
def test_replaced_methods_are_called_as_by_smtplib(server: Server, owner: str, way: Way) -> None:
    theirs = calls_of(OWN_SMTP, OWN_SMTP, METHODS, way, server)
    assert {*theirs} == {*METHODS}
    if owner.endswith("install"):
        rapidsmtp.install()
    changed = rapidsmtp.SMTP if owner.startswith("ours") else OWN_SMTP
    for cls in (rapidsmtp.SMTP, *([OWN_SMTP] if owner.endswith("install") else [])):
        assert calls_of(changed, cls, METHODS, way, server) == theirs


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", METHODS)
def test_each_replaced_method_of_smtplibs_class_is_called(
    server: Server, name: str, way: Way
) -> None:
    theirs = calls_of(OWN_SMTP, OWN_SMTP, [name], way, server)
    assert calls_of(OWN_SMTP, rapidsmtp.SMTP, [name], way, server) == theirs
    assert calls_of(rapidsmtp.SMTP, rapidsmtp.SMTP, [name], way, server) == theirs


@pytest.mark.parametrize("way", WAYS)
def test_methods_replaced_before_install_stay_and_are_called(
    server: Server, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Calls = []
    with monkeypatch.context() as patch:
        replaced = {}
        for name in ("_get_socket", "rcpt", "send", "sendmail"):
            patch.setattr(OWN_SMTP, name, way(getattr(OWN_SMTP, name), name, calls))
            replaced[name] = vars(OWN_SMTP)[name]
        send_by(OWN_SMTP, server)
        theirs = calls.copy()
        rapidsmtp.install()
        assert {name: vars(OWN_SMTP)[name] for name in replaced} == replaced
        for cls in (smtplib.SMTP, OWN_SMTP, Early):
            calls.clear()
            send_by(cls, server)
            assert calls == theirs
        rapidsmtp.uninstall()
        assert {name: vars(OWN_SMTP)[name] for name in replaced} == replaced


@pytest.mark.parametrize("way", WAYS)
def test_methods_of_our_class_replaced_before_install_are_called_for_each_class(
    server: Server, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Calls = []
    old = OWN_SMTP(server.host, server.port, "client.example", timeout=TIMEOUT)
    with monkeypatch.context() as patch:
        for name in ("rcpt", "sendmail"):
            patch.setattr(rapidsmtp.SMTP, name, way(getattr(rapidsmtp.SMTP, name), name, calls))
        rapidsmtp.install()
        assert old.sendmail(SENDER, RECIPIENTS, MESSAGE) == {}
        theirs = ["sendmail", "rcpt", "rcpt"]
        assert calls == theirs
        for cls in (smtplib.SMTP, OWN_SMTP, Early):
            calls.clear()
            send_by(cls, server)
            assert calls == theirs
    calls.clear()
    assert old.sendmail(SENDER, RECIPIENTS, MESSAGE) == {}
    old.quit()
    assert calls == []


class Early(OWN_SMTP):  # type: ignore[misc]
    """A class that the program defined before `install`."""


class EarlyWithExplicitCalls(OWN_SMTP):  # type: ignore[misc]
    """A class that calls the methods of its base class by the name of this class."""

    def rcpt(self, recip: str, options: Any = ()) -> Any:
        return OWN_SMTP.rcpt(self, recip, options)


@pytest.mark.parametrize("cls", [OWN_SMTP, Early, EarlyWithExplicitCalls, rapidsmtp.SMTP])
@pytest.mark.parametrize("owners", ["smtplib.SMTP", "imported", "both"])
def test_a_method_replaced_after_install_is_called_for_each_class(
    server: Server, cls: Any, owners: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rapidsmtp.install()
    calls: Calls = []
    with monkeypatch.context() as patch:
        if owners != "imported":
            patch.setattr(smtplib.SMTP, "rcpt", function(smtplib.SMTP.rcpt, "late", calls))
        if owners != "smtplib.SMTP":
            patch.setattr(OWN_SMTP, "rcpt", function(OWN_SMTP.rcpt, "imported", calls))
        send_by(cls, server)
    expected = {"smtplib.SMTP": ["late"], "imported": ["imported"], "both": ["imported", "late"]}
    assert {*calls} == {*expected[owners]}
    assert [calls.count(name) for name in expected[owners]] == [2] * len(expected[owners])


def test_an_object_of_before_install_runs_a_method_replaced_later(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = OWN_SMTP(server.host, server.port, "client.example", timeout=TIMEOUT)
    rapidsmtp.install()
    calls: Calls = []
    with monkeypatch.context() as patch:
        patch.setattr(smtplib.SMTP, "rcpt", function(smtplib.SMTP.rcpt, "rcpt", calls))
        client.sendmail(SENDER, RECIPIENTS, MESSAGE)
    client.quit()
    assert calls == ["rcpt", "rcpt"]


def test_replacements_made_while_installed_remain_after_uninstall(server: Server) -> None:
    calls: Calls = []
    before = vars(OWN_SMTP)["rcpt"]
    rapidsmtp.install()
    installed = vars(OWN_SMTP)["rcpt"]
    OWN_SMTP.rcpt = replacement = function(OWN_SMTP.rcpt, "rcpt", calls)
    try:
        rapidsmtp.uninstall()
        assert vars(OWN_SMTP)["rcpt"] is replacement
        send_by(OWN_SMTP, server)
        assert calls == ["rcpt", "rcpt"]
        # A test that ends after `uninstall` may restore the method that was there before.
        OWN_SMTP.rcpt = installed
        send_by(OWN_SMTP, server)
    finally:
        OWN_SMTP.rcpt = before


@pytest.mark.parametrize("kind", ["SMTP_SSL", "LMTP"])
@pytest.mark.parametrize("install", [False, True])
@pytest.mark.parametrize("name", ["sendmail", "_get_socket", "connect", "__init__", "rcpt"])
def test_methods_of_the_other_classes_are_called_as_by_smtplib(
    server_tls: ssl.SSLContext, kind: str, name: str, install: bool
) -> None:
    tls = server_tls if kind == "SMTP_SSL" else None
    with Server(SMTPScript(["PIPELINING"], lmtp=kind == "LMTP"), tls=tls) as running:
        own = getattr(smtplib, kind)
        ours = getattr(rapidsmtp, kind)
        for changed, cls in ((own, own), (own, ours), (ours, ours)):
            if install and cls is ours:
                rapidsmtp.install()
            if cls is own:
                theirs = calls_of(own, own, [name], function, running)
                base = calls_of(OWN_SMTP, own, [name], function, running)
            assert calls_of(changed, cls, [name], function, running) == theirs
        assert calls_of(OWN_SMTP, ours, [name], function, running) == base


SOCKS = """
import smtplib, socket, sys
host, port, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def through_a_proxy(self, host, asked, timeout):
    return socket.create_connection((sys.argv[1], port), timeout)

def replace():
    smtplib.SMTP._get_socket = through_a_proxy

if when == "before import":
    replace()
from smtplib import SMTP as Imported
class Early(Imported): pass
import rapidsmtp
if when == "before install":
    replace()
rapidsmtp.install()
if when == "after install":
    replace()
for cls in (Imported, Early, smtplib.SMTP, rapidsmtp.SMTP):
    with cls("no.such.host.invalid", 25, "client.example", timeout=5) as client:
        assert client.sendmail("a@example.com", ["b@example.com"], "body") == {}
print("sent")
"""


@pytest.mark.parametrize("when", ["before import", "before install", "after install"])
def test_a_socks_recipe_is_used(server: Server, backend: str, when: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(rapidsmtp.__file__).parent.parent)}
    run = processes.run(
        [sys.executable, "-c", SOCKS, server.host, str(server.port), when],
        env={**environment, "RAPIDSMTP_CORE": backend},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "sent\n", "")


CLASS_BEFORE_IMPORT = """
import smtplib, sys
from unittest import mock
own = smtplib.SMTP
calls = []
class Replaced(own):
    def rcpt(self, *args):
        calls.append(args[0])
        return super().rcpt(*args)
if sys.argv[3] == "class":
    smtplib.SMTP = Replaced
    import rapidsmtp
    rapidsmtp.install()
    assert smtplib.SMTP is Replaced
else:
    with mock.patch("smtplib.SMTP"):
        import rapidsmtp
    rapidsmtp.install()
    assert smtplib.SMTP is rapidsmtp.SMTP
    assert issubclass(Replaced, rapidsmtp.SMTP)
for cls in (smtplib.SMTP, Replaced, rapidsmtp.SMTP):
    calls.clear()
    with cls(sys.argv[1], int(sys.argv[2]), "client.example", timeout=5) as client:
        assert client.sendmail("a@example.com", ["b@example.com"], "body") == {}
    assert calls == ["b@example.com"] or (sys.argv[3], cls) != ("class", smtplib.SMTP), calls
    assert not calls or issubclass(cls, Replaced), calls
rapidsmtp.uninstall()
assert smtplib.SMTP is (Replaced if sys.argv[3] == "class" else own)
print("sent")
"""


@pytest.mark.parametrize("kind", ["class", "mock"])
def test_a_class_bound_to_the_name_before_the_import(
    server: Server, backend: str, kind: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(rapidsmtp.__file__).parent.parent)}
    run = processes.run(
        [sys.executable, "-c", CLASS_BEFORE_IMPORT, server.host, str(server.port), kind],
        env={**environment, "RAPIDSMTP_CORE": backend},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "sent\n", "")


@pytest.mark.parametrize("name", ["debuglevel", "default_port", "ehlo_msg"])
def test_an_attribute_set_on_smtplibs_class_applies(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"debuglevel": 1, "default_port": 2525, "ehlo_msg": "xehlo"}[name]
    monkeypatch.setattr(OWN_SMTP, name, value)
    assert getattr(rapidsmtp.SMTP(), name) == value


def test_a_class_with_getattribute_gets_each_name(server: Server) -> None:
    names: dict[str, set[str]] = {}

    def watched(base: Any, found: set[str]) -> Any:
        class Watched(base):  # type: ignore[misc]
            def __getattribute__(self, name: str) -> Any:
                found.add(name)
                return super().__getattribute__(name)

        return Watched

    for label, base in (("theirs", OWN_SMTP), ("ours", rapidsmtp.SMTP)):
        names[label] = set()
        send_by(watched(base, names[label]), server)
    assert names["theirs"] & {*METHODS} <= names["ours"]


# Sockets and files


class Wrapper:
    """A socket with only the methods that smtplib calls. Its file is the file of a real socket."""

    def __init__(self, sock: Any) -> None:
        self._wrapped = sock
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)
        self._wrapped.sendall(data)

    def makefile(self, mode: str) -> Any:
        return self._wrapped.makefile(mode)

    def close(self) -> None:
        self._wrapped.close()


class WrapperWithRecv(Wrapper):
    def recv(self, size: int) -> bytes:
        data: bytes = self._wrapped.recv(size)
        return data


class Channel(WrapperWithRecv):
    """A socket like a channel of paramiko: its file has a class of its own."""

    def makefile(self, mode: str) -> Any:
        return LineFile(self)


class LineFile:
    """A file with only `readline` and `close`, which reads single bytes from a channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def readline(self, limit: int) -> bytes:
        line = b""
        while not line.endswith(b"\n") and len(line) < limit:
            byte = self._channel.recv(1)
            if not byte:
                break
            line += byte
        return line

    def close(self) -> None:
        pass


class BufferedChannel(Channel):
    """A socket whose file is the standard library's, over a stream of its own."""

    def makefile(self, mode: str) -> Any:
        return io.BufferedReader(Stream(self))


class Stream(io.RawIOBase):
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._channel.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Subclass(socket.socket):
    """A real socket that records what is sent and received."""

    def __init__(self, sock: socket.socket) -> None:
        limit = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.settimeout(limit)
        self.sent: list[bytes] = []

    def sendall(self, data: Any, *flags: int) -> None:  # type: ignore[override]
        assert type(data) is bytes
        self.sent.append(data)
        super().sendall(data)

    def recv_into(self, *args: Any) -> int:  # type: ignore[override]
        return super().recv_into(*args)


WRAPPERS = [Wrapper, WrapperWithRecv, Channel, BufferedChannel, Subclass]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("when", ["before the greeting", "after the greeting", "after EHLO"])
@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_wrapped_socket_works_as_in_smtplib(
    server: Server, wrapper: Any, when: str, size: int
) -> None:
    sent: list[list[bytes]] = []

    def scenario(session: Session) -> None:
        session.connect("SMTP")
        client = session.client
        sock = socket.create_connection((server.host, server.port), TIMEOUT)
        client.sock = wrapper(sock) if when == "before the greeting" else sock
        session.call("getreply")
        if when == "after EHLO":
            session.call("ehlo")
        if when != "before the greeting":
            client.sock, client.file = wrapper(client.sock), None
        sent.append(client.sock.sent)
        session.call("sendmail", SENDER, RECIPIENTS, MESSAGE)
        session.call("sendmail", SENDER, RECIPIENTS, (b"." + b"x" * 69 + b"\r\n") * (size // 72))
        session.call("rset")
        session.call("quit")

    compare(scenario, server.wire)
    theirs, ours = sent
    assert b"".join(ours).lower() == b"".join(theirs).lower()


@pytest.mark.parametrize("wrapper", [Wrapper, WrapperWithRecv, Channel, BufferedChannel])
def test_a_wrapped_tls_socket_works_as_in_smtplib(server_tls: ssl.SSLContext, wrapper: Any) -> None:
    def scenario(session: Session) -> None:
        session.connect("SMTP_SSL", running.host, running.port)
        session.client.sock, session.client.file = wrapper(session.client.sock), None
        session.call("sendmail", SENDER, RECIPIENTS, MESSAGE)
        session.call("quit")

    with Server(SMTPScript(["PIPELINING"]), tls=server_tls) as running:
        compare(scenario, running.wire)


@pytest.mark.parametrize("file", [LineFile, lambda sock: io.BufferedReader(Stream(sock))])
def test_an_assigned_file_is_read(server: Server, file: Any) -> None:
    def scenario(session: Session) -> None:
        session.connect("SMTP")
        session.client.sock = socket.create_connection((server.host, server.port), TIMEOUT)
        session.client.file = file(session.client.sock)
        session.call("getreply")
        session.call("sendmail", SENDER, RECIPIENTS, MESSAGE)
        session.call("quit")

    compare(scenario, server.wire)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_socket_that_fails_is_reported_as_by_smtplib(
    server: Server, wrapper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(data: bytes) -> None:
        raise BrokenPipeError("closed")

    def scenario(session: Session) -> None:
        session.connect("SMTP", server.host, server.port)
        session.call("ehlo")
        session.client.sock, session.client.file = wrapper(session.client.sock), None
        session.client.sock.sendall = fail
        session.call("sendmail", SENDER, RECIPIENTS, MESSAGE)

    compare(scenario)


def test_only_the_socket_of_a_file_is_read_without_waiting(server: Server) -> None:
    """The client looks for a reply that arrived too early only if this cannot wait."""
    with rapidsmtp.SMTP(server.host, server.port, "client.example", TIMEOUT) as client:
        client.file = io.BufferedReader(Stream(client.sock))  # type: ignore[arg-type]
        assert client.sendmail(SENDER, RECIPIENTS, MESSAGE) == {}


def test_a_socket_of_the_system_uses_pipelining(server: Server) -> None:
    with rapidsmtp.SMTP(server.host, server.port, "client.example", TIMEOUT) as client:
        client.sendmail(SENDER, RECIPIENTS, MESSAGE)
    flights = server.connections[-1].flights
    assert len(flights) < 6, flights


@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelining", "without"])
@pytest.mark.parametrize("messages", [0, 1])
def test_a_closed_socket_is_reported_as_by_smtplib(extensions: list[str], messages: int) -> None:
    def scenario(session: Session) -> None:
        with Server(SMTPScript(extensions)) as server:
            session.connect("SMTP", server.host, server.port)
            session.call("ehlo")
            for _ in range(messages):
                session.call("sendmail", SENDER, RECIPIENTS, MESSAGE)
            os.close(session.client.sock.detach())
            session.call("sendmail", SENDER, RECIPIENTS, MESSAGE)

    compare(scenario)


@pytest.mark.parametrize("comparison", [1, 2] if overrides._SHOWS_CHANGES else [1])
def test_a_replacement_during_a_check_is_found_by_the_next_check(
    server: Server, monkeypatch: pytest.MonkeyPatch, comparison: int
) -> None:
    """Another thread replaces a method at the end of a comparison."""
    compare_entries = overrides._Originals._compare
    comparisons: list[bool] = []

    def interrupted(originals: Any) -> bool:
        comparisons.append(compare_entries(originals))
        if len(comparisons) == comparison:
            monkeypatch.setattr(rapidsmtp.SMTP, "putcmd", lambda *_: None)
        return comparisons[-1]

    methods = overrides.Methods("putcmd")
    with rapidsmtp.SMTP(server.host, server.port, "client.example", TIMEOUT) as client:
        with monkeypatch.context() as patch:
            patch.setattr(overrides._Originals, "_compare", interrupted)
            methods.are_original(client)
        assert comparisons[comparison - 1]
        assert not methods.are_original(client)
        monkeypatch.undo()
        assert methods.are_original(client)


def test_a_deleted_method_is_no_original(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = overrides.Methods("putcmd")
    with rapidsmtp.SMTP(server.host, server.port, "client.example", TIMEOUT) as client:
        assert methods.are_original(client)
        with monkeypatch.context() as patch:
            patch.delattr(OWN_SMTP, "putcmd")
            assert not methods.are_original(client)
        assert methods.are_original(client)


def test_many_classes_of_clients_do_not_fill_the_memory(server: Server) -> None:
    methods = overrides.Methods("putcmd")
    with rapidsmtp.SMTP(server.host, server.port, "client.example", TIMEOUT) as client:
        for _ in range(200):
            client.__class__ = type("Derived", (rapidsmtp.SMTP,), {})
            assert methods.are_original(client)
    assert len(methods._classes) <= overrides._MAX_CLASSES
