"""`install()` replaces smtplib's classes for the process; `uninstall()` restores them."""

import logging
import logging.handlers
import os
import smtplib
import socket
import ssl
import sys
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import trustme

import processes
import rapidsmtp
from server import TIMEOUT, Server, SMTPScript

# The original classes of smtplib. They represent imports that a program executes before it calls
# install().
ImportedSMTP: Any = smtplib.SMTP
ImportedSSL: Any = smtplib.SMTP_SSL
ImportedLMTP: Any = smtplib.LMTP
CLASSES = (ImportedSMTP, ImportedSSL, ImportedLMTP)


class Subclass(ImportedSMTP):  # type: ignore[misc]
    """A class defined before install(). Its additional method does not affect pipelining."""

    def greet(self) -> Any:
        return self.ehlo()[1]


class ReplacingSubclass(ImportedSMTP):  # type: ignore[misc]
    """A class defined before install(). Pipelined sending would not call its replaced method."""

    def rcpt(self, recip: str, options: Any = ()) -> Any:
        self.named = [*getattr(self, "named", []), recip]
        return super().rcpt(recip, options)


SENDER = "sender@example.com"
RECIPIENTS = ["one@example.com", "two@example.com"]
MESSAGE = b"Subject: x\r\n\r\nbody\r\n"

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(autouse=True)
def always_uninstalled() -> Iterator[None]:
    before = snapshot()
    yield
    rapidsmtp.uninstall()
    assert snapshot() == before


def snapshot() -> list[dict[str, Any]]:
    owners: list[Any] = [smtplib, *CLASSES]
    return [dict(vars(owner)) for owner in owners]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(SMTPScript(["PIPELINING"], waits_for_pause=True)) as running:
        yield running


def round_trips(server: Server) -> int:
    server.wire()
    return len(server.connections[-1].flights)


def send_by(cls: Any, server: Server, **arguments: Any) -> int:
    """Send one message to two recipients. Return the number of round trips, with EHLO and QUIT."""
    with cls(
        server.host, server.port, local_hostname="client.example", timeout=TIMEOUT, **arguments
    ) as client:
        assert client.sendmail(SENDER, RECIPIENTS, MESSAGE) == {}
    return round_trips(server)


FAST, SLOW = 1 + 2 + 1, 1 + 5 + 1


def test_install_replaces_the_names_and_uninstall_restores_them() -> None:
    before = snapshot()
    rapidsmtp.install()
    assert (smtplib.SMTP, smtplib.SMTP_SSL, smtplib.LMTP) == (
        rapidsmtp.SMTP,
        rapidsmtp.SMTP_SSL,
        rapidsmtp.LMTP,
    )
    rapidsmtp.uninstall()
    assert (smtplib.SMTP, smtplib.SMTP_SSL, smtplib.LMTP) == CLASSES
    assert snapshot() == before


def test_a_second_call_has_no_effect() -> None:
    before = snapshot()
    rapidsmtp.install()
    installed = snapshot()
    rapidsmtp.install()
    assert snapshot() == installed
    rapidsmtp.uninstall()
    assert snapshot() == before
    rapidsmtp.uninstall()
    assert snapshot() == before


class SSLSubclass(ImportedSSL):  # type: ignore[misc]
    """A class defined before install()."""


class LMTPSubclass(ImportedLMTP):  # type: ignore[misc]
    """A class defined before install()."""


class Mixin:
    """A class that has nothing to do with smtplib."""


class MixedSubclass(Mixin, Subclass):
    """An indirect subclass with another base class, defined before install()."""


class OursSubclass(rapidsmtp.SMTP):
    """A subclass of rapidsmtp's class, defined before install()."""


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (ImportedSMTP, "SMTP"),
        (ImportedSSL, "SMTP_SSL"),
        (ImportedLMTP, "LMTP"),
        (Subclass, "SMTP"),
        (MixedSubclass, "SMTP"),
        (SSLSubclass, "SMTP_SSL"),
        (LMTPSubclass, "LMTP"),
        (OursSubclass, "SMTP"),
        (rapidsmtp.SMTP_SSL, "SMTP_SSL"),
        (rapidsmtp.LMTP, "LMTP"),
    ],
)
def test_new_objects_are_instances_of_the_classes_in_smtplib(cls: Any, name: str) -> None:
    imported = getattr(smtplib, name)
    bases = cls.__bases__
    old = cls()
    rapidsmtp.install()
    for each in (imported, getattr(smtplib, name), ImportedSMTP, smtplib.SMTP):
        assert isinstance(cls(), each)
    if cls not in CLASSES:
        for each in (imported, getattr(smtplib, name), ImportedSMTP, smtplib.SMTP):
            assert issubclass(cls, each)
            assert isinstance(old, each)
        assert type(cls()) is cls
    rapidsmtp.uninstall()
    assert cls.__bases__ == bases
    assert isinstance(cls(), getattr(smtplib, name))


def test_a_class_whose_base_class_cannot_be_changed_uses_pipelining(server: Server) -> None:
    class Strict(type):
        def __setattr__(cls, name: str, value: Any) -> None:
            raise TypeError("this class is final")

    class Final(ImportedSMTP, metaclass=Strict):  # type: ignore[misc]
        pass

    rapidsmtp.install()
    assert not isinstance(Final(), smtplib.SMTP)
    assert send_by(Final, server) == FAST


@pytest.mark.parametrize("cls", [ImportedSMTP, Subclass])
def test_classes_imported_before_install_use_pipelining(server: Server, cls: Any) -> None:
    assert send_by(cls, server) == SLOW
    rapidsmtp.install()
    assert send_by(cls, server) == FAST
    assert send_by(smtplib.SMTP, server) == FAST
    rapidsmtp.uninstall()
    assert send_by(cls, server) == SLOW


def test_a_subclass_that_replaces_a_method_does_not_use_pipelining(server: Server) -> None:
    rapidsmtp.install()
    with ReplacingSubclass(server.host, server.port, "client.example", TIMEOUT) as client:
        assert client.sendmail(SENDER, RECIPIENTS, MESSAGE) == {}
        assert client.named == RECIPIENTS
    assert round_trips(server) == SLOW


def test_a_subclass_defined_while_installed_works_after_uninstall(server: Server) -> None:
    rapidsmtp.install()

    class Later(smtplib.SMTP):
        pass

    class LaterStill(ImportedSMTP):  # type: ignore[misc]
        pass

    assert send_by(Later, server) == send_by(LaterStill, server) == FAST
    rapidsmtp.uninstall()
    # `Later` is a subclass of rapidsmtp's class, so uninstall() does not change it.
    assert send_by(Later, server) == FAST
    assert send_by(LaterStill, server) == SLOW


def test_an_instance_works_during_install_and_after_uninstall(server: Server) -> None:
    client = ImportedSMTP(server.host, server.port, "client.example", TIMEOUT)
    assert client.sendmail(SENDER, RECIPIENTS, MESSAGE) == {}
    rapidsmtp.install()
    assert client.sendmail(SENDER, RECIPIENTS, MESSAGE) == {}
    client.ehlo()
    assert client.sendmail(SENDER, RECIPIENTS, MESSAGE).accepted == RECIPIENTS
    assert client.help() == b"ask somebody else"
    rapidsmtp.uninstall()
    assert client.sendmail(SENDER, RECIPIENTS, MESSAGE) == {}
    assert client.quit()[0] == 221


def test_classes_imported_before_install_accept_the_arguments_of_rapidsmtp(server: Server) -> None:
    rapidsmtp.install()
    assert send_by(ImportedSMTP, server, pipelining=False) == SLOW


def test_an_lmtp_class_imported_before_install_reads_all_replies(tmp_path: Path) -> None:
    finals = [b"250 ok", b"450 later"] * 2
    path = str(tmp_path / "lmtp")
    with Server(SMTPScript(["PIPELINING"], {"message": finals}, lmtp=True), path=path) as server:
        rapidsmtp.install()
        with ImportedLMTP(path, local_hostname="client.example", timeout=TIMEOUT) as client:
            refused = client.sendmail(SENDER, RECIPIENTS, MESSAGE)
            assert refused == {RECIPIENTS[1]: (450, b"later")}
            assert client.noop()[0] == 250
        assert server.wire().startswith(b"lhlo ")
    with (
        Server(SMTPScript(["PIPELINING"], {"message": finals}, lmtp=True)) as server,
        ImportedLMTP(server.host, server.port, "client.example", timeout=TIMEOUT) as client,
    ):
        assert client.sendmail(SENDER, RECIPIENTS, MESSAGE) == refused


@pytest.mark.parametrize("name", ["send", "getreply", "rcpt", "sendmail", "close", "auth_plain"])
def test_a_method_patched_before_install_is_not_replaced(
    server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    original = getattr(ImportedSMTP, name)

    def patched(self: Any, *args: Any, **named: Any) -> Any:
        calls.append(name)
        return original(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(ImportedSMTP, name, patched)
        rapidsmtp.install()
        assert vars(ImportedSMTP)[name] is patched
        if name == "auth_plain":
            client = ImportedSMTP()
            client.user = client.password = "x"
            assert client.auth_plain() == "\0x\0x"
        else:
            send_by(ImportedSMTP, server)
        rapidsmtp.uninstall()
        assert vars(ImportedSMTP)[name] is patched
    assert calls


@pytest.mark.parametrize("cls", [ImportedSMTP, rapidsmtp.SMTP])
def test_a_method_patched_while_installed_is_called(
    server: Server, monkeypatch: pytest.MonkeyPatch, cls: Any
) -> None:
    rapidsmtp.install()
    original = cls.rcpt
    calls: list[str] = []

    def patched(self: Any, recip: str, options: Any = ()) -> Any:
        calls.append(recip)
        return original(self, recip, options)

    with monkeypatch.context() as patch:
        patch.setattr(cls, "rcpt", patched)
        assert send_by(cls, server) == SLOW
    assert calls == RECIPIENTS


@pytest.mark.parametrize("cls", [rapidsmtp.SMTP_SSL, ImportedSSL])
def test_install_can_verify_certificates_of_smtps(server_tls: ssl.SSLContext, cls: Any) -> None:
    with Server(SMTPScript(["PIPELINING"], waits_for_pause=True), tls=server_tls) as server:
        rapidsmtp.install()
        # Like smtplib, install() without arguments does not verify certificates.
        assert send_by(cls, server) == FAST
        rapidsmtp.uninstall()
        rapidsmtp.install(verify=True)
        with pytest.raises(ssl.SSLCertVerificationError):
            cls(server.host, server.port, timeout=TIMEOUT)
        assert send_by(cls, server, context=trusting_nothing()) == FAST
        rapidsmtp.uninstall()
        assert send_by(cls, server) == (SLOW if cls is ImportedSSL else FAST)


def trusting_nothing() -> ssl.SSLContext:
    """Return TLS settings without verification, as a caller may pass them."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def start_tls(cls: Any, server: Server, **arguments: Any) -> Any:
    client = cls(server.host, server.port, timeout=TIMEOUT)
    try:
        return client.starttls(**arguments)
    finally:
        client.close()


@pytest.mark.parametrize("cls", [rapidsmtp.SMTP, ImportedSMTP, Subclass])
def test_install_can_verify_certificates_of_starttls(server_tls: ssl.SSLContext, cls: Any) -> None:

    with Server(SMTPScript(["STARTTLS"], tls=server_tls)) as server:
        rapidsmtp.install()
        assert start_tls(cls, server)[0] == 220
        rapidsmtp.uninstall()
        rapidsmtp.install(verify=True)
        with pytest.raises(ssl.SSLCertVerificationError):
            start_tls(cls, server)
        assert start_tls(cls, server, context=trusting_nothing())[0] == 220


def test_verify_can_be_changed_by_another_install(server_tls: ssl.SSLContext) -> None:
    with Server(SMTPScript(), tls=server_tls) as server:
        rapidsmtp.install()
        rapidsmtp.install(verify=True)
        with pytest.raises(ssl.SSLCertVerificationError):
            ImportedSSL(server.host, server.port, timeout=TIMEOUT)
        rapidsmtp.install(verify=False)
        ImportedSSL(server.host, server.port, timeout=TIMEOUT).close()


def test_a_certificate_of_a_trusted_authority_is_accepted(
    server_tls: ssl.SSLContext,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    rapidsmtp.install(verify=True)
    with Server(SMTPScript(["PIPELINING"], waits_for_pause=True), tls=server_tls) as server:
        assert send_by(ImportedSSL, server) == FAST
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            ImportedSSL("localhost", server.port, timeout=TIMEOUT)


def test_the_smtp_handler_of_logging_works(server: Server) -> None:
    rapidsmtp.install()
    handler = logging.handlers.SMTPHandler(
        (server.host, server.port), SENDER, RECIPIENTS, "trouble", timeout=TIMEOUT
    )
    handler.emit(logging.LogRecord("name", logging.ERROR, __file__, 1, "it broke", (), None))
    wire = server.wire()
    assert b"Subject: trouble\r\n" in wire
    assert b"\r\n\r\nit broke\r\n.\r\n" in wire
    assert round_trips(server) == FAST


def test_send_message_of_a_class_imported_before_install_works(server: Server) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = SENDER, RECIPIENTS[0], RECIPIENTS[1]
    rapidsmtp.install()
    with ImportedSMTP(server.host, server.port, timeout=TIMEOUT) as client:
        assert client.send_message(message).accepted == RECIPIENTS
    assert b"Bcc" not in server.wire()


@pytest.mark.parametrize("name", ["SMTP", "ImportedSMTP"])
def test_a_proxy_that_replaces_smtplibs_socket_is_used(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[Any] = []

    def create_connection(address: Any, *others: Any) -> socket.socket:
        asked.append(address)
        return socket.create_connection((server.host, server.port), *others)

    proxy = mock.Mock(wraps=socket)
    proxy.create_connection = create_connection
    rapidsmtp.install()
    monkeypatch.setattr(smtplib, "socket", proxy)
    cls: Any = smtplib.SMTP if name == "SMTP" else ImportedSMTP
    with cls("far.example", 25, "client.example", timeout=TIMEOUT) as client:
        assert client.sendmail(SENDER, RECIPIENTS, MESSAGE) == {}
    assert asked == [("far.example", 25)]


PROGRAM = """
from smtplib import SMTP
import smtplib, sys
assert SMTP is smtplib.SMTP, "a class of before"
assert SMTP.__module__ == "rapidsmtp", SMTP.__module__
with SMTP(sys.argv[1], int(sys.argv[2]), "client.example", timeout=5) as client:
    print(client.sendmail("sender@example.com", ["one@example.com"], "body").reply.code)
"""


@pytest.mark.parametrize("way", ["script", "module"])
def test_a_program_run_by_rapidsmtp(server: Server, tmp_path: Path, way: str, backend: str) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    program = ["program.py"] if way == "script" else ["-m", "program"]
    run = processes.run(
        [sys.executable, "-m", "rapidsmtp", "run", *program, server.host, str(server.port)],
        cwd=tmp_path,
        env={**environment(), "RAPIDSMTP_CORE": backend},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "250\n", "")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(rapidsmtp.__file__).parent.parent)}


def test_another_install_leaves_verification_on(backend: str) -> None:
    from rapidsmtp._smtp import contexts

    rapidsmtp.install(verify=True)
    try:
        rapidsmtp.install()
        assert contexts.verify_by_default
        rapidsmtp.install(verify=False)
        assert not contexts.verify_by_default
    finally:
        rapidsmtp.uninstall()
