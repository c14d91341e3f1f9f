"""Programs that were written for aiosmtplib run with `rapidsmtp.aio` in its place."""

import asyncio
import os
import pickle
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import aiosmtplib as original
import pytest
import trustme

import rapidsmtp
import rapidsmtp.aio as aiosmtplib
from server import HANG_UP, Connection, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")
NO_MAILBOX = b"550 5.1.1 no such mailbox"


def run(main: Any) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(20):
            return await main

    return asyncio.run(limited())


def message() -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "a@example.com", "b@example.com", "x"
    made.set_content("text\n")
    return made


def place(server: Server) -> dict[str, Any]:
    return {"hostname": server.host, "port": server.port, "timeout": 10}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(SMTPScript(["PIPELINING", "SIZE 1000000"])) as running:
        yield running


# Names


def test_every_public_name_of_aiosmtplib_exists() -> None:
    assert set(original.__all__) <= set(aiosmtplib.__all__)
    for name in ("api", "errors", "response", "smtp", "status", "typing"):
        theirs, ours = getattr(original, name, None), getattr(aiosmtplib, name)
        public = [each for each in getattr(theirs, "__all__", ()) if each[0] != "_"]
        missing = {each for each in public if not hasattr(ours, each)}
        assert missing <= {"Default", "SocketPathType"}
    assert aiosmtplib.api.DEFAULT_TIMEOUT == original.api.DEFAULT_TIMEOUT == 60
    assert {each.name: each.value for each in aiosmtplib.SMTPStatus} == {
        each.name: each.value for each in original.SMTPStatus
    }


EXCEPTIONS = sorted(name for name in original.__all__ if name not in ("SMTP", "send"))


@pytest.mark.parametrize("name", [each for each in EXCEPTIONS if "Status" not in each])
def test_an_exception_has_the_base_classes_of_aiosmtplib_and_of_smtplib(name: str) -> None:
    theirs, ours = getattr(original, name), getattr(aiosmtplib, name)
    if not isinstance(theirs, type) or not issubclass(theirs, BaseException):
        return
    bases = {each.__name__ for each in ours.__mro__}
    assert {each.__name__ for each in theirs.__mro__} <= bases
    assert issubclass(ours, smtplib.SMTPException)
    standard = {"SMTPNotSupported": "SMTPNotSupportedError", "SMTPConnectError": "SMTPException"}
    same = getattr(smtplib, standard.get(name, name), smtplib.SMTPException)
    assert issubclass(ours, same)


def test_a_reply_is_a_response_of_aiosmtplib(server: Server) -> None:
    async def main() -> Any:
        async with aiosmtplib.SMTP(**place(server)) as client:
            return await client.noop(), await client.sendmail("a@x.example", ["b@x.example"], "x")

    reply, refused = run(main())
    for each in (reply, refused.reply):
        assert type(each) is rapidsmtp.Reply is aiosmtplib.SMTPResponse
        code, text = each
        assert (each.code, each.message) == (code, text.decode())
        assert str(each) == f"{code} {text.decode()}" and each == (code, text)
    assert str(aiosmtplib.SMTPResponse(250, "ok")) == "250 ok"


def test_the_attributes_of_a_client(server: Server) -> None:
    async def main() -> None:
        client = aiosmtplib.SMTP(hostname=server.host, port=server.port, use_tls=False)
        assert client.is_ehlo_or_helo_needed and client.transport is None
        with pytest.raises(aiosmtplib.SMTPServerDisconnected):
            client.get_transport_info("peername")
        response = await client.connect(timeout=5)
        assert response.code == aiosmtplib.SMTPStatus.ready
        await client.ehlo(hostname="client.example", timeout=5)
        assert client.supports_extension("size") and client.supports_esmtp
        assert client.esmtp_extensions["size"] == "1000000"
        assert client.get_transport_info("peername")[1] == server.port == client.port
        assert (client.hostname, client.use_tls, client.validate_certs) == (
            server.host,
            False,
            True,
        )
        assert (await client.execute_command(b"NOOP")).code == 250
        keywords: Any = {"sender": "x@example.com", "recipients": ["y@example.com"], "timeout": 5}
        await client.send_message(message(), **keywords)
        await client.sendmail("a@x.example", "b@x.example", "x", mail_options=None, timeout=5)
        assert client.timeout == 60
        assert (await client.quit(timeout=5)).code == 221
        client.close()

    run(main())
    assert b"EHLO client.example" in server.wire() or b"ehlo client.example" in server.wire()
    assert b"<x@example.com>" in server.wire() and b"<y@example.com>" in server.wire()


def test_a_program_without_an_event_loop(server: Server) -> None:
    client = aiosmtplib.SMTP(**place(server))
    assert client.send_message_sync(message()) == {}
    assert client.sendmail_sync("a@x.example", ["b@x.example"], "x") == {}


# Exceptions: each is caught by the `except` clauses of aiosmtplib and of smtplib.


def raised(main: Any, *kinds: type[BaseException]) -> Any:
    """Return the exception of a coroutine, after the check that each class would catch it."""
    with pytest.raises(kinds[0]) as caught:
        run(main)
    assert all(isinstance(caught.value, each) for each in kinds)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value) and again.args == caught.value.args
    assert isinstance(caught.value, aiosmtplib.SMTPException)
    return caught.value


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return int(closed.getsockname()[1])


def test_a_refused_connection() -> None:
    error = raised(
        aiosmtplib.send(message(), hostname="127.0.0.1", port=free_port()),
        *(aiosmtplib.SMTPConnectError, ConnectionRefusedError),
    )
    assert error.body_sent is False and error.errno and error.message == str(error)
    assert isinstance(error.__cause__, ConnectionRefusedError)


def test_an_unknown_host() -> None:
    raised(
        aiosmtplib.send(message(), hostname="no.such.host.invalid"),
        *(aiosmtplib.SMTPConnectError, socket.gaierror),
    )


def test_a_greeting_that_does_not_arrive() -> None:
    with Server(lambda connection: connection.wait_for_end()) as server:
        kinds = (aiosmtplib.SMTPConnectTimeoutError, aiosmtplib.SMTPConnectError, TimeoutError)
        error = raised(aiosmtplib.SMTP(**{**place(server), "timeout": 0.2}).connect(), *kinds)
    assert str(error) == "Connection unexpectedly closed: timed out"
    assert isinstance(error, smtplib.SMTPServerDisconnected)


def test_a_connection_that_ends_before_the_greeting() -> None:
    with Server(lambda connection: None) as server:
        raised(
            aiosmtplib.SMTP(**place(server)).connect(),
            *(aiosmtplib.SMTPConnectError, smtplib.SMTPServerDisconnected),
        )


def test_a_greeting_that_is_a_refusal() -> None:
    with Server(SMTPScript([], {"greeting": b"554 5.3.2 closed"})) as server:
        error = raised(
            aiosmtplib.SMTP(**place(server)).connect(),
            *(aiosmtplib.SMTPConnectResponseError, aiosmtplib.SMTPConnectError),
            *(smtplib.SMTPConnectError, smtplib.SMTPResponseException),
        )
    assert (error.code, error.message) == (554, "5.3.2 closed")
    assert (error.smtp_code, error.smtp_error) == (554, b"5.3.2 closed")


@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelining", "without"])
@pytest.mark.parametrize("command", ["noop", "mail", "message"])
def test_a_reply_that_does_not_arrive(command: str, extensions: list[str]) -> None:
    def silent(connection: Connection) -> None:
        def wait(line: bytes) -> bytes:
            connection.wait_for_end()
            return HANG_UP

        SMTPScript(extensions, {command: wait})(connection)

    async def main(server: Server) -> None:
        client = aiosmtplib.SMTP(**place(server))
        await client.connect()
        if command == "noop":
            await client.noop(timeout=0.2)
        else:
            await client.send_message(message(), timeout=0.2)

    with Server(silent) as server:
        raised(
            main(server),
            *(aiosmtplib.SMTPReadTimeoutError, aiosmtplib.SMTPTimeoutError, TimeoutError),
            smtplib.SMTPServerDisconnected,
        )


def test_a_lost_connection() -> None:
    with Server(SMTPScript([], {"mail": HANG_UP})) as server:
        error = raised(
            aiosmtplib.send(message(), **place(server)),
            *(aiosmtplib.SMTPServerDisconnected, smtplib.SMTPServerDisconnected, ConnectionError),
        )
    assert error.body_sent is False


REFUSED = {
    "mail": (aiosmtplib.SMTPSenderRefused, smtplib.SMTPSenderRefused),
    "message": (aiosmtplib.SMTPDataError, smtplib.SMTPDataError),
    "ehlo": (aiosmtplib.SMTPHeloError, smtplib.SMTPHeloError),
}


@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelining", "without"])
@pytest.mark.parametrize("command", REFUSED)
def test_a_refusal(command: str, extensions: list[str]) -> None:
    replies: Any = {command: NO_MAILBOX, "helo": NO_MAILBOX}
    with Server(SMTPScript(extensions, replies)) as server:
        kinds = (*REFUSED[command], aiosmtplib.SMTPResponseException)
        error = raised(aiosmtplib.send(message(), **place(server)), *kinds)
    assert (error.code, error.message) == (550, "5.1.1 no such mailbox")


@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelining", "without"])
def test_refused_recipients(extensions: list[str]) -> None:
    with Server(SMTPScript(extensions, {"rcpt": NO_MAILBOX})) as server:
        error = raised(
            aiosmtplib.send(message(), **place(server)),
            *(aiosmtplib.SMTPRecipientsRefused, smtplib.SMTPRecipientsRefused),
        )
    assert error.recipients == {"b@example.com": (550, b"5.1.1 no such mailbox")}
    found = [(each.recipient, each.code, each.message) for each in error.recipients]
    assert found == [("b@example.com", 550, "5.1.1 no such mailbox")]
    assert error.recipients["b@example.com"].code == 550


def test_the_exception_for_one_recipient_can_be_created() -> None:
    error = aiosmtplib.SMTPRecipientRefused(550, "5.1.1 no", "b@example.com")
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert (each.code, each.message, each.recipient) == (550, "5.1.1 no", "b@example.com")
        assert isinstance(each, smtplib.SMTPResponseException)


def test_a_missing_capability(server: Server) -> None:
    error = raised(
        aiosmtplib.send(message(), start_tls=True, **place(server)),
        *(aiosmtplib.SMTPNotSupported, smtplib.SMTPNotSupportedError),
    )
    assert error.message == "STARTTLS extension not supported by server."


# TLS and login


@pytest.fixture
def tls_server(server_tls: ssl.SSLContext) -> Iterator[Server]:
    replies: Any = {"auth": b"235 ok"}
    script = SMTPScript(["STARTTLS", "AUTH PLAIN XOAUTH2"], replies, tls=server_tls)
    with Server(script) as running:
        yield running


def test_an_untrusted_certificate(tls_server: Server) -> None:
    async def main() -> None:
        client = aiosmtplib.SMTP(**place(tls_server), start_tls=False)
        await client.connect()
        await client.starttls()

    kinds = (aiosmtplib.SMTPServerDisconnected, ssl.SSLCertVerificationError)
    assert raised(main(), *kinds).verify_code
    raised(aiosmtplib.send(message(), start_tls=True, **place(tls_server)), *kinds)


def test_the_keywords_of_starttls(
    tls_server: Server, authority: trustme.CA, tmp_path: Path
) -> None:
    async def main() -> None:
        for keywords in (
            {"validate_certs": False},
            {"cert_bundle": str(tmp_path / "ca.pem")},
            {"tls_context": ssl.create_default_context(cafile=tmp_path / "ca.pem")},
            {"cert_bundle": str(tmp_path / "ca.pem"), "server_hostname": "127.0.0.1"},
        ):
            client = aiosmtplib.SMTP(**place(tls_server), start_tls=False)
            await client.connect()
            await client.starttls(timeout=5, **keywords)
            assert client.get_transport_info("sslcontext") is not None
            await client.ehlo()
            assert client.supported_auth_methods == ["plain"]
            await client.auth_xoauth2("user", "token")
            await client.login(b"user", b"secret", timeout=5)
            await client.quit()

    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    run(main())


# Libraries


FASTAPI_MAIL = """
import asyncio, sys
import rapidsmtp._backend
rapidsmtp._backend.use({backend!r})
import rapidsmtp.aio
sys.modules["aiosmtplib"] = rapidsmtp.aio
from fastapi_mail import ConnectionConfig, FastMail, MessageSchema, MessageType
from fastapi_mail.errors import ConnectionErrors
import aiosmtplib.errors
import fastapi_mail.connection
assert fastapi_mail.connection.aiosmtplib is rapidsmtp.aio
assert aiosmtplib.errors.SMTPConnectError is rapidsmtp.aio.SMTPConnectError
host, port, refused, ca = {arguments!r}
options = dict(MAIL_USERNAME="user", MAIL_PASSWORD="secret", MAIL_FROM="news@example.com",
    MAIL_SERVER=host, MAIL_STARTTLS=True, MAIL_SSL_TLS=False, CERT_BUNDLE=ca, TIMEOUT=10)
message = MessageSchema(subject="Hello", recipients=["a@example.org", "b@example.org"],
    body="<p>Hello</p>", subtype=MessageType.html)
async def main():
    await FastMail(ConnectionConfig(MAIL_PORT=port, **options)).send_message(message)
    try:
        await FastMail(ConnectionConfig(MAIL_PORT=refused, **options)).send_message(message)
    except ConnectionErrors as error:
        assert "refused" in str(error) or "Connect call failed" in str(error), error
    else:
        raise AssertionError("no exception")
asyncio.run(main())
"""


def test_fastapi_mail_sends_unedited(
    backend: str, tls_server: Server, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    arguments = (tls_server.host, tls_server.port, free_port(), str(tmp_path / "ca.pem"))
    program = FASTAPI_MAIL.format(backend=backend, arguments=arguments)
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    wire = tls_server.wire()
    assert b"<a@example.org>" in wire and b"<b@example.org>" in wire and b"PHA+SGVsbG88L3A+" in wire


# The examples in aiosmtplib's documentation, with another server


def test_the_documented_examples(
    tls_server: Server, server: Server, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    bundle = str(tmp_path / "ca.pem")
    plain = {"hostname": server.host, "port": server.port}
    secured = {"hostname": tls_server.host, "port": tls_server.port, "cert_bundle": bundle}

    async def send_one_message() -> None:
        await aiosmtplib.send(message(), **plain)
        await aiosmtplib.send(
            "Subject: x\r\n\r\nx", sender="a@x.example", recipients="b@x.example", **plain
        )

    async def connect_and_quit() -> None:
        client = aiosmtplib.SMTP(**plain)
        await client.connect()
        assert client.is_connected
        await client.quit()
        assert not client.is_connected

    async def context_manager() -> None:
        client = aiosmtplib.SMTP(**plain)
        async with client:
            await client.send_message(message())
        async with client:
            await client.sendmail("a@x.example", ["b@x.example"], "Subject: x\n\nHello")

    async def several_recipients() -> None:
        mail = message()
        mail.replace_header("To", "b@example.com, c@example.com")
        mail["Cc"] = "d@example.com"
        async with aiosmtplib.SMTP(**plain) as client:
            await client.send_message(mail)

    async def in_parallel() -> None:
        async with aiosmtplib.SMTP(**plain) as client:
            await asyncio.gather(*[client.send_message(message()) for _ in range(5)])

    async def starttls() -> None:
        client = aiosmtplib.SMTP(**secured, start_tls=False, use_tls=False)
        await client.connect()
        await client.starttls()
        await client.login("user", "pass")
        await client.send_message(message())
        await client.quit()
        await aiosmtplib.send(
            message(), **secured, start_tls=True, username="user", password="pass"
        )

    async def oauth() -> None:
        async def token() -> str:
            return "a token"

        assert isinstance(token, Callable)  # type: ignore[arg-type]  # SMTPTokenGenerator
        async with aiosmtplib.SMTP(
            **secured, username="user", oauth_token_generator=token
        ) as client:
            await client.send_message(message())
        with pytest.raises(ValueError, match="exclude each other"):
            aiosmtplib.SMTP(username="u", password="p", oauth_token_generator=token)

    for example in (
        *(send_one_message, connect_and_quit, context_manager, several_recipients, in_parallel),
        *(starttls, oauth),
    ):
        run(example())
    sent = b"".join(bytes(each.received) for each in server.connections)
    assert sent.count(b"\r\n.\r\n") == 10 and b"<d@example.com>" in sent
    secure = b"".join(bytes(each.received) for each in tls_server.connections)
    assert secure.count(b"\r\n.\r\n") == 3 and b"AUTH XOAUTH2 " in secure
