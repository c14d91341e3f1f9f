"""Connection reuse with TLS: which TLS settings are equal."""

import gc
import select
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import trustme

import rapidsmtp
from rapidsmtp._smtp import contexts, kept, tls_identity
from reusing import EXTENSIONS, MAIL, SETUP, connect, new_store, program, send, wires
from server import TIMEOUT, Connection, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

WAYS = ["STARTTLS", "implicit"]
STARTTLS_SETUP = ["ehlo", "starttls", "ehlo", "auth"]


@pytest.fixture(autouse=True)
def store() -> Iterator[kept.Store]:
    with new_store() as store:
        yield store


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _observed() -> None:
    # The first client with reuse begins to observe the contexts that are created after it.
    rapidsmtp.install(reuse=30)
    rapidsmtp.uninstall()


@pytest.fixture
def server(way: str, server_tls: ssl.SSLContext) -> Iterator[Server]:
    if way == "STARTTLS":
        running = Server(SMTPScript(EXTENSIONS, tls=server_tls))
    else:
        running = Server(SMTPScript(EXTENSIONS), tls=server_tls)
    with running:
        yield running


def run(server: Server, context: ssl.SSLContext | None) -> Any:
    """Send a message with TLS settings, and return the client."""
    if server._tls is not None:
        named = {} if context is None else {"context": context}
        client = connect(server, rapidsmtp.SMTP_SSL, **named)
    else:
        client = connect(server)
        client.starttls() if context is None else client.starttls(context=context)
    client.login("user", "secret")
    assert isinstance(client.sock, ssl.SSLSocket)
    send(client)
    client.quit()
    return client


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


def count(server: Server) -> int:
    return len(server.connections)


# Equal settings


def test_no_context(server: Server, way: str) -> None:
    for _ in range(3):
        run(server, None)
    setup = STARTTLS_SETUP if way == "STARTTLS" else SETUP
    assert wires(server) == [setup + MAIL * 3]


def test_one_context(server: Server, authority: trustme.CA) -> None:
    context = trusting(authority)
    for _ in range(3):
        run(server, context)
    assert count(server) == 1


def test_a_default_context_for_each_message(server: Server, authority: trustme.CA) -> None:
    for _ in range(3):
        context = ssl.create_default_context()
        authority.configure_trust(context)
        run(server, context)
    assert count(server) == 1
    run(server, trusting(authority))
    assert count(server) == 2


def test_a_default_context_with_a_file_of_authorities(
    server: Server, authority: trustme.CA, tmp_path: Path
) -> None:
    file = tmp_path / "authorities.pem"
    authority.cert_pem.write_to_path(str(file))
    for _ in range(2):
        run(server, ssl.create_default_context(cafile=str(file)))
    assert count(server) == 1
    other = trustme.CA()
    other.cert_pem.write_to_path(str(file), append=True)
    run(server, ssl.create_default_context(cafile=str(file)))
    assert count(server) == 2


def test_equal_changes_that_can_be_read(server: Server, authority: trustme.CA) -> None:
    for number in (1, 2, 3):
        context = trusting(authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE+AESGCM")
        context.check_hostname = number < 3
        run(server, context)
    assert count(server) == 2


# Different settings

Change = Callable[[ssl.SSLContext, Path], object]

UNREADABLE: dict[str, Change] = {
    "client certificate": lambda context, folder: context.load_cert_chain(folder / "client.pem"),
    "keylog": lambda context, folder: setattr(context, "keylog_filename", str(folder / "keys")),
    "ALPN": lambda context, _: context.set_alpn_protocols(["smtp"]),
    "curve": lambda context, _: context.set_ecdh_curve("prime256v1"),
    "folder of authorities": lambda context, folder: context.load_verify_locations(None, folder),
    "attribute": lambda context, _: setattr(
        context, "sslsocket_class", type("S", (ssl.SSLSocket,), {})
    ),
    "certificate of a server": lambda context, folder: context.load_verify_locations(
        folder / "server.pem"
    ),
}
READABLE: dict[str, Change] = {
    "no verification": lambda context, _: (
        setattr(context, "check_hostname", False),
        setattr(context, "verify_mode", ssl.CERT_NONE),
    ),
    "no host name": lambda context, _: setattr(context, "check_hostname", False),
    "options": lambda context, _: setattr(context, "options", context.options | ssl.OP_NO_TICKET),
    "version": lambda context, _: setattr(context, "maximum_version", ssl.TLSVersion.TLSv1_2),
    "ciphers": lambda context, _: context.set_ciphers("ECDHE+AESGCM"),
    "flags": lambda context, _: setattr(context, "verify_flags", ssl.VERIFY_X509_STRICT),
    "post-handshake": lambda context, _: setattr(context, "post_handshake_auth", True),
    "other authority": lambda context, _: trustme.CA().configure_trust(context),
}


@pytest.fixture
def folder(tmp_path: Path, authority: trustme.CA) -> Path:
    issued = authority.issue_cert("client.example")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
    return tmp_path


@pytest.mark.parametrize("change", READABLE | UNREADABLE)
def test_a_changed_context_is_different(
    server: Server, authority: trustme.CA, folder: Path, change: str
) -> None:
    changes = READABLE | UNREADABLE
    run(server, trusting(authority))
    changed = trusting(authority)
    changes[change](changed, folder)
    run(server, changed)
    assert count(server) == 2
    run(server, trusting(authority))
    assert count(server) == 2


@pytest.mark.parametrize("change", UNREADABLE)
def test_contexts_that_cannot_be_read_are_different(
    server: Server, authority: trustme.CA, folder: Path, change: str
) -> None:
    for number in (1, 2):
        context = trusting(authority)
        UNREADABLE[change](context, folder)
        run(server, context)
        assert count(server) == number
    run(server, context)
    # A class of sockets of the program is not reused at all.
    assert count(server) == (3 if change == "attribute" else 2)


@pytest.mark.parametrize("change", READABLE | UNREADABLE)
def test_a_context_that_was_changed_after_the_handshake_is_different(
    server: Server, authority: trustme.CA, folder: Path, change: str
) -> None:
    context = trusting(authority)
    run(server, context)
    (READABLE | UNREADABLE)[change](context, folder)
    run(server, context)
    assert count(server) == 2


@pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated")
def test_a_context_with_a_callback_is_different(server: Server) -> None:
    def context(callback: Any) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS)
        made.sni_callback = callback
        return made

    run(server, context(None))
    run(server, context(None))
    assert count(server) == 1
    with_callback = context(lambda *_: None)
    run(server, with_callback)
    run(server, with_callback)
    assert count(server) == 2
    run(server, context(with_callback.sni_callback))
    assert count(server) == 3
    with_callback.sni_callback = lambda *_: None
    run(server, with_callback)
    assert count(server) == 4


def test_changed_default_settings_are_no_default_settings(server_tls: ssl.SSLContext) -> None:
    with Server(SMTPScript(EXTENSIONS), tls=server_tls) as server:
        client = run(server, None)
        client.context.verify_mode = ssl.CERT_REQUIRED
        with pytest.raises(ssl.SSLCertVerificationError):
            client.connect(server.host, server.port)


def test_a_context_inside_a_context_is_compared(
    server: Server, authority: trustme.CA, folder: Path
) -> None:
    class Outer(ssl.SSLContext):
        def __init__(self, _: Any) -> None:
            self.inner = trusting(authority)

        def wrap_socket(self, *args: Any, **named: Any) -> ssl.SSLSocket:
            return self.inner.wrap_socket(*args, **named)

        def load_cert_chain(self, *args: Any, **named: Any) -> None:
            self.inner.load_cert_chain(*args, **named)

    context = Outer(ssl.PROTOCOL_TLS_CLIENT)
    run(server, context)
    run(server, context)
    assert count(server) == 1
    context.load_cert_chain(folder / "client.pem")
    run(server, context)
    assert count(server) == 2


def test_all_attributes_of_a_class_with_another_base_class_are_compared(
    server: Server, authority: trustme.CA
) -> None:
    class Base:
        pass

    class Context(ssl.SSLContext, Base):
        pass

    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    run(server, context)
    run(server, context)
    assert count(server) == 1
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    run(server, context)
    assert count(server) == 2


def test_a_context_that_is_changed_before_a_fresh_connection_is_not_kept(
    server: Server, authority: trustme.CA
) -> None:
    context = trusting(authority)
    run(server, context)
    implicit = server._tls is not None
    client = connect(server, rapidsmtp.SMTP_SSL, context=context) if implicit else connect(server)
    if not implicit:
        client.starttls(context=context)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client.login("other", "secret")
    client.quit()
    assert server.wire(1).endswith(b"quit\r\n")


def test_an_encrypted_connection_without_references_is_closed_at_once(
    server: Server,
) -> None:
    run(server, None)
    implicit = server._tls is not None
    client = connect(server, rapidsmtp.SMTP_SSL) if implicit else connect(server)
    if not implicit:
        client.starttls()
    client.login("user", "secret")
    send(client)
    assert count(server) == 1
    ends = weakref.ref(client.sock)
    gc.collect()
    gc.disable()
    try:
        del client
        assert ends() is None
    finally:
        gc.enable()


def test_another_class_of_contexts_makes_other_default_settings() -> None:
    """Programs replace the class `ssl.SSLContext`, as with truststore."""
    before = tls_identity.TLSIdentity(None)
    assert before == tls_identity.TLSIdentity(None)
    with mock.patch.object(ssl, "SSLContext"):
        assert before != tls_identity.TLSIdentity(None)


def test_a_context_and_no_context_are_different(server: Server, authority: trustme.CA) -> None:
    run(server, None)
    run(server, trusting(authority))
    run(server, ssl._create_stdlib_context())
    assert count(server) == 3


def test_a_class_of_the_program_is_different(server: Server, authority: trustme.CA) -> None:
    class Context(ssl.SSLContext):
        pass

    for _ in range(2):
        context = Context(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        run(server, context)
    assert count(server) == 2


def test_defaults_that_verify_are_different(
    server: Server, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(server, None)
    monkeypatch.setattr(contexts, "verify_by_default", True)
    with pytest.raises(ssl.SSLError):
        run(server, None)
    file = tmp_path / "authorities.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    before = count(server)
    run(server, None)
    run(server, None)
    assert count(server) == before + 1
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ssl.SSLError):
        run(server, None)


def test_another_host_name_is_different(server: Server, authority: trustme.CA) -> None:
    run(server, None)
    client = rapidsmtp.SMTP_SSL if server._tls is not None else rapidsmtp.SMTP
    other = client("localhost", server.port, "client.example", timeout=TIMEOUT, reuse=30)
    other.close()
    assert count(server) == 2


def test_a_client_without_tls_uses_no_encrypted_connection(
    server_tls: ssl.SSLContext,
) -> None:
    with Server(SMTPScript(EXTENSIONS, tls=server_tls)) as server:
        run(server, None)
        client = connect(server)
        assert type(client.sock) is not ssl.SSLSocket
        client.login("user", "secret")
        send(client)
        client.quit()
        assert wires(server) == [STARTTLS_SETUP + MAIL, SETUP + MAIL]
        run(server, None)
        program(server)
        assert [wire.count("mail") for wire in wires(server)] == [2, 1, 1]


# The encrypted connection


def test_session_tickets_are_no_unexpected_reply(authority: trustme.CA) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 5
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Server(SMTPScript(EXTENSIONS), tls=context) as server:
        for _ in range(3):
            client = connect(server, rapidsmtp.SMTP_SSL)
            assert client.sock.version() == "TLSv1.3"
            client.login("user", "secret")
            client.quit()
        assert count(server) == 1


@pytest.mark.parametrize("surplus", [b"421 4.4.2 idle\r\n", b"250 what\r\n", b""])
def test_the_end_is_found_through_tls(way: str, surplus: bytes, server_tls: ssl.SSLContext) -> None:
    is_idle, connections = threading.Event(), iter([True, False])

    def script(connection: Connection) -> None:
        read = connection.line

        def line() -> bytes:
            if connection.received.endswith(b"\r\n.\r\n"):
                is_idle.wait(TIMEOUT)
                if surplus:
                    connection.send(surplus)
                raise EOFError
            return read()

        if next(connections):
            connection.line = line
        SMTPScript(EXTENSIONS, tls=None if way == "implicit" else server_tls)(connection)

    with Server(script, tls=server_tls if way == "implicit" else None) as server:
        client = connect(server, rapidsmtp.SMTP_SSL) if server._tls else connect(server)
        if not server._tls:
            client.starttls()
        client.login("user", "secret")
        send(client)
        sock = client.sock
        client.quit()
        assert rapidsmtp.reuse_stats().kept == 1
        is_idle.set()
        assert select.select([sock], [], [], TIMEOUT)[0]
        run(server, None)
        assert count(server) == 2


def test_a_message_is_sent_once_more_through_tls(server_tls: ssl.SSLContext) -> None:
    replies = {"mail": [b"250 ok", b""]}
    with Server(SMTPScript(EXTENSIONS, replies, tls=server_tls)) as server:
        run(server, None)
        run(server, None)
        assert wires(server)[1] == STARTTLS_SETUP + MAIL


def test_key_and_certificate_files_are_not_reused(
    server: Server, folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    try:
        for _ in range(2):
            if server._tls is not None:
                client = connect(server, rapidsmtp.SMTP_SSL, certfile=str(folder / "client.pem"))
            else:
                client = connect(server)
                client.starttls(certfile=str(folder / "client.pem"))
            send(client)
            client.quit()
    except TypeError:
        pytest.skip("Python 3.12 and later have no such arguments")
    assert count(server) == 2


def test_an_object_that_is_no_context_is_not_reused(server: Server) -> None:
    """Such an object has the method `wrap_socket`, but its TLS settings cannot be compared."""

    class Wrapper:
        __slots__ = ()

        def wrap_socket(self, sock: Any, server_hostname: str) -> ssl.SSLSocket:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return context.wrap_socket(sock, server_hostname=server_hostname)

    wrapper: Any = Wrapper()
    run(server, wrapper)
    run(server, wrapper)
    assert count(server) == 2
