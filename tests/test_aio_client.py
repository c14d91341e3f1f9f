"""Features of `aio.SMTP` that smtplib lacks: keywords, automatic TLS, cancellation, many tasks.

Other test files use the fixture `face` to compare the commands and results of `aio.SMTP` with those
of smtplib.
"""

import asyncio
import contextlib
import functools
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest
import trustme

from loops import run_on
from rapidsmtp import Status, aio, auth
from rapidsmtp.testing import Fault, Sink
from server import HANG_UP, Connection, Raw, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")
DATA = b"Subject: x\r\n\r\nbody\r\n"
MAIL = ("a@example.com", ["b@example.com"], DATA)
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Return a function that runs a coroutine, once for each kind of event loop."""
    return functools.partial(run_on, request.param)


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> bytes:
    return authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.bytes()


@pytest.fixture
def starttls_sink(certificate: bytes) -> Iterator[Sink]:
    with Sink(tls="starttls", certificate=certificate, credentials={"user": "secret"}) as sink:
        yield sink


def late(line: bytes) -> bytes:
    time.sleep(1.0)
    return b"250 at last"


def email_message() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "News <news@example.com>"
    message["To"] = "Anna <anna@example.com>"
    message["Bcc"] = "hidden@example.com"
    message["Subject"] = "Grüße"
    message.set_content("Dear Anna,\n.\n")
    return message


@pytest.mark.rust
def test_one_message_is_sent_as_by_aiosmtplib(run: Run) -> None:
    """`aiosmtplib.send` and `aio.send` get the same arguments, and send the same message."""
    received = []
    for module in (aiosmtplib, aio):
        with Sink() as sink:
            message = email_message()
            result = run(module.send(message, hostname=sink.host, port=sink.port))
            refused = result[0] if isinstance(result, tuple) else result
            assert refused == {}
            received += [(each.sender, each.recipients, each.data) for each in sink.messages]
    theirs, ours = received
    assert ours[:2] == (theirs[0], ["anna@example.com", "hidden@example.com"])
    assert sorted(theirs[1]) == sorted(ours[1])
    assert b"hidden" not in ours[2] and ours[2].rstrip() == theirs[2].rstrip()


REFUSALS: dict[str, list[Fault]] = {
    "nothing": [],
    "one recipient": [Fault("rcpt", occurrence=1, reply="550 5.1.1 no")],
    "all recipients": [Fault("rcpt", reply="550 5.1.1 no")],
    "sender": [Fault("mail", reply="553 5.1.8 no")],
    "DATA": [Fault("data", reply="554 5.5.1 no")],
    "message": [Fault("body", reply="552 5.3.4 no")],
    "greeting": [Fault("connect", reply="554 5.3.2 no")],
    "login": [Fault("auth", reply="535 5.7.8 no")],
}


@pytest.mark.rust
@pytest.mark.parametrize("extensions", [None, ["SIZE 1000"]], ids=["pipelining", "without"])
@pytest.mark.parametrize("faults", REFUSALS.values(), ids=REFUSALS)
def test_refusals_are_reported_as_by_aiosmtplib(
    run: Run, faults: list[Fault], extensions: list[str] | None
) -> None:
    """The exceptions of both modules have equal class names, codes and texts.

    The received messages are equal too.
    """
    seen = []
    for module, ours in ((aiosmtplib, {}), (aio, {"allow_plaintext_auth": True})):
        login = {"username": "u", "password": "p"} if faults and faults[0].at == "auth" else {}
        credentials = {"u": "p"} if login else None
        with Sink(extensions, faults=faults, credentials=credentials) as sink:
            place: Any = {"hostname": sink.host, "port": sink.port, **login, **ours}
            try:
                result = run(module.send(email_message(), **place))
            except smtplib.SMTPRecipientsRefused as error:
                said: Any = {key: value[0] for key, value in error.recipients.items()}
            except (smtplib.SMTPException, aiosmtplib.SMTPException) as error:
                codes: Any = error
                code = getattr(codes, "smtp_code", None) or getattr(codes, "code", None)
                if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
                    said = {each.recipient: each.code for each in error.recipients}
                else:
                    said = (type(error).__name__.replace("ConnectResponse", "Connect"), code)
            else:
                refused = result[0] if isinstance(result, tuple) else result
                said = {address: reply[0] for address, reply in refused.items()}
            seen.append((said, [sorted(each.recipients) for each in sink.messages]))
    assert seen[0] == seen[1]


@pytest.mark.rust
def test_bytes_need_an_envelope(run: Run) -> None:
    with Sink(faults=[Fault("rcpt", address="no@example.com", reply="550 5.1.1 no")]) as sink:
        place: Any = {"hostname": sink.host, "port": sink.port}
        to = ["b@example.com", "no@example.com"]
        refused = run(aio.send(DATA, sender="a@example.com", recipients=to, **place))
        assert refused == {"no@example.com": (550, b"5.1.1 no")}
        assert refused.accepted == ["b@example.com"] and refused.reply.code == 250
        with pytest.raises(ValueError, match="sender and recipients are required"):
            run(aio.send(DATA, sender="a@example.com", **place))
        assert sink.counts["connections"] == sink.counts["quit"] == 1


@pytest.mark.rust
@pytest.mark.parametrize("start_tls", [None, True])
def test_a_login_uses_starttls(
    run: Run, starttls_sink: Sink, ca_file: str, start_tls: bool | None
) -> None:
    keywords: Any = {"username": "user", "password": "secret", "cert_bundle": ca_file}
    sink = starttls_sink
    run(
        aio.send(
            email_message(), hostname=sink.host, port=sink.port, start_tls=start_tls, **keywords
        )
    )
    assert sink.messages[0].tls and sink.messages[0].user == "user"


@pytest.mark.rust
def test_starttls_is_automatic_and_verified(run: Run, certificate: bytes, ca_file: str) -> None:
    async def main(sink: Sink) -> None:
        place: Any = {"hostname": sink.host, "port": sink.port}
        await aio.send(email_message(), cert_bundle=ca_file, **place)
        await aio.send(email_message(), start_tls=False, **place)
        await aio.send(email_message(), validate_certs=False, **place)
        with pytest.raises(ssl.SSLCertVerificationError):
            await aio.send(email_message(), **place)

    with Sink(tls="starttls", certificate=certificate) as sink:
        run(main(sink))
        assert [each.tls for each in sink.messages] == [True, False, True]


@pytest.mark.rust
def test_the_order_of_calls_of_smtplib_works(run: Run, starttls_sink: Sink, ca_file: str) -> None:
    async def main(sink: Sink) -> None:
        context = ssl.create_default_context(cafile=ca_file)
        async with aio.SMTP(sink.host, sink.port) as client:
            await client.starttls(context=context)
            assert isinstance(client.sock, ssl.SSLObject)
            assert await client.login("user", "secret") == (235, b"2.7.0 Authentication successful")
            assert await client.sendmail(*MAIL) == {}

    run(main(starttls_sink))
    assert starttls_sink.messages[0].user == "user"


@pytest.mark.rust
def test_implicit_tls_is_verified(run: Run, certificate: bytes, ca_file: str) -> None:
    async def main(sink: Sink) -> None:
        context = ssl.create_default_context(cafile=ca_file)
        async with aio.SMTP_SSL(sink.host, sink.port, context=context) as client:
            await client.sendmail(*MAIL)
        await aio.send(
            email_message(), hostname=sink.host, port=sink.port, use_tls=True, tls_context=context
        )
        with pytest.raises(ssl.SSLCertVerificationError):
            await aio.SMTP_SSL(sink.host, sink.port).connect()

    with Sink(tls="implicit", certificate=certificate) as sink:
        run(main(sink))
        assert [each.tls for each in sink.messages] == [True, True]


@pytest.mark.rust
def test_a_login_in_clear_text_is_refused(run: Run) -> None:
    async def main(sink: Sink) -> None:
        named: Any = {"hostname": sink.host, "port": sink.port, "username": "u", "password": "p"}
        with pytest.raises(smtplib.SMTPNotSupportedError, match="clear text"):
            await aio.send(email_message(), **named)
        async with aio.SMTP(sink.host, sink.port) as client:
            with pytest.raises(smtplib.SMTPNotSupportedError, match="clear text"):
                await client.auth("PLAIN", auth.Plain("u", "p"))
        assert sink.counts["auth"] == 0
        await aio.send(email_message(), allow_plaintext_auth=True, **named)

    with Sink(credentials={"u": "p"}) as sink:
        run(main(sink))
        assert sink.messages[0].user == "u"


def test_a_wrong_password_is_sent_once(run: Run) -> None:
    async def main(server: Server) -> None:
        client = aio.SMTP(server.host, server.port, allow_plaintext_auth=True)
        await client.connect()
        with pytest.raises(smtplib.SMTPAuthenticationError):
            await client.login("user", "wrong")
        await client.quit()

    replies: Any = {"auth": [b"535 5.7.8 no", b"235 ok"]}
    with Server(SMTPScript(["AUTH PLAIN LOGIN"], replies)) as server:
        run(main(server))
        assert server.wire().count(b"AUTH") == 1


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_token_function_may_be_a_coroutine_function(run: Run, asynchronous: bool) -> None:
    async def fetch() -> str:
        await asyncio.sleep(0)
        return "token"

    async def main(server: Server) -> None:
        async with aio.SMTP(
            server.host,
            server.port,
            username="u@example.com",
            oauth_token_generator=fetch if asynchronous else lambda: "token",
            allow_plaintext_auth=True,
        ):
            pass

    with Server(SMTPScript(["AUTH XOAUTH2"])) as server:
        run(main(server))
        # user=u@example.com^Aauth=Bearer token^A^A
        assert b"AUTH XOAUTH2 dXNlcj11QGV4YW1wbGUuY29tAWF1dGg9QmVhcmVyIHRva2VuAQE=" in server.wire()


def test_an_auth_object_may_be_a_coroutine_function(run: Run) -> None:
    async def respond(challenge: bytes | None = None) -> str:
        await asyncio.sleep(0)
        return "\0user\0secret"

    async def main(server: Server) -> None:
        async with aio.SMTP(server.host, server.port, allow_plaintext_auth=True) as client:
            assert (await client.auth("PLAIN", respond))[0] == 235

    with Server(SMTPScript(["AUTH PLAIN"])) as server:
        run(main(server))
        assert b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n" in server.wire()
        # The client sends EHLO before AUTH. Servers reply 503 to an AUTH without an earlier EHLO.
        assert server.wire().startswith(b"ehlo ")


def test_port_587_requires_starttls(run: Run) -> None:
    async def main(server: Server) -> None:
        client = aio.SMTP(server.host, server.port)
        await client.connect()
        client.options = aio.ConnectionOptions(hostname=server.host, port=587)
        with pytest.raises(smtplib.SMTPNotSupportedError, match="port 587"):
            await client.sendmail(*MAIL)
        await client.quit()

    with Server(SMTPScript()) as server:
        run(main(server))
        assert b"MAIL" not in server.wire().upper()


def test_clear_text_after_the_220_is_refused(run: Run) -> None:
    async def main(server: Server) -> None:
        client = aio.SMTP(server.host, server.port)
        await client.connect()
        with pytest.raises(smtplib.SMTPException, match="clear text"):
            await client.starttls()
        assert client.sock is None

    replies = {"starttls": Raw(b"220 go on\r\n250 injected\r\n")}
    with Server(SMTPScript(["STARTTLS"], replies)) as server:
        run(main(server))


def test_an_unexpected_reply_closes_the_connection(run: Run) -> None:
    def script(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        connection.line()
        connection.send(b"250 hello\r\n451 4.4.2 idle for too long\r\n")
        connection.rest()

    async def main(server: Server) -> None:
        async with aio.SMTP(server.host, server.port) as client:
            await client.ehlo()
            with pytest.raises(smtplib.SMTPServerDisconnected, match="idle for too long") as caught:
                await client.sendmail(*MAIL)
            assert caught.value.body_sent is False
            assert not client.is_connected

    with Server(script) as server:
        run(main(server))


@pytest.mark.parametrize("end", [b"\r\n", b"\r\n421 2\r\n", b"", b"-1\r\n"])
def test_a_421_before_a_message_is_the_reply_to_mail(run: Run, end: bytes) -> None:
    """The server sends no line end, or only a part of the reply, before it closes the stream."""

    def script(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        connection.line()
        connection.send(b"250 hello\r\n421" + end)

    async def main(server: Server) -> None:
        async with aio.SMTP(server.host, server.port) as client:
            await client.ehlo()
            server.wire()
            with pytest.raises(smtplib.SMTPException) as caught:
                await client.sendmail(*MAIL)
            if end == b"-1\r\n":
                assert isinstance(caught.value, smtplib.SMTPServerDisconnected)
                assert caught.value.body_sent is False
            else:
                assert isinstance(caught.value, smtplib.SMTPSenderRefused)
                assert caught.value.smtp_code == 421
            assert not client.is_connected

    with Server(script) as server:
        run(main(server))


def test_a_message_is_not_written_after_a_421(run: Run) -> None:
    def script(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        connection.line()
        connection.send(b"250-hello\r\n250 PIPELINING\r\n")
        connection.line(), connection.line(), connection.line()
        connection.send(b"250 ok\r\n250 ok\r\n354 go on\r\n421 4.3.2 going\r\n")
        connection.rest()

    async def main(server: Server) -> None:
        async with aio.SMTP(server.host, server.port) as client:
            with pytest.raises(smtplib.SMTPDataError) as caught:
                await client.sendmail(*MAIL)
            assert caught.value.args == (421, b"4.3.2 going")
            assert caught.value.body_sent is False

    with Server(script) as server:
        run(main(server))
        assert server.wire().upper().endswith(b"DATA\r\n")


def test_a_reply_that_takes_too_long_closes_the_connection(run: Run) -> None:
    """The time limit applies to the whole reply. Bytes that arrive one by one do not extend it."""

    def script(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        connection.line()
        with contextlib.suppress(OSError):
            for byte in b"250 hello" * 20:
                connection.send(bytes([byte]))
                connection.over.wait(0.05)

    async def main(server: Server) -> None:
        client = aio.SMTP(server.host, server.port)
        await client.connect()
        client.timeout = 0.4
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
            await client.ehlo()
        assert client.sock is None

    with Server(script) as server:
        run(main(server))


@pytest.mark.parametrize("extensions", [b"PIPELINING", b"HELP"], ids=["pipelined", "sequential"])
@pytest.mark.parametrize("place", ["mail", "data", "message"])
def test_the_parts_of_a_reply_do_not_extend_the_time_limit(
    run: Run, place: str, extensions: bytes
) -> None:
    """The server sends a valid reply to one command, byte by byte, over two seconds."""

    def script(connection: Connection) -> None:
        def reply(command: str, text: bytes) -> None:
            if command != place:
                return connection.send(text + b"\r\n")
            for byte in text + b" slowly" * 6 + b"\r\n":
                connection.send(bytes([byte]))
                connection.over.wait(0.05)

        connection.send(b"220 ready\r\n")
        connection.line()
        connection.send(b"250-server.example\r\n250 " + extensions + b"\r\n")
        for command in ("mail", "rcpt", "data"):
            connection.line()
            reply(command, b"354 go on" if command == "data" else b"250 ok")
        connection.message()
        reply("message", b"250 queued")
        connection.rest()

    async def main(server: Server) -> None:
        client = aio.SMTP(server.host, server.port)
        await client.connect()
        await client.ehlo()
        client.timeout = 0.4
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out") as caught:
            await client.sendmail(*MAIL)
        error: Any = caught.value
        assert error.body_sent is (place == "message")
        assert client.sock is None

    with Server(script) as server:
        run(main(server))


@pytest.mark.parametrize("place", ["mail", "message"])
def test_a_transaction_that_takes_too_long_closes_the_connection(run: Run, place: str) -> None:
    async def main(server: Server) -> None:
        client = aio.SMTP(server.host, server.port)
        await client.connect()
        client.timeout = 0.4
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out") as caught:
            await client.sendmail(*MAIL)
        error: Any = caught.value
        assert error.body_sent is (place == "message")
        assert client.sock is None

    with Server(SMTPScript(["PIPELINING"], {place: late})) as server:
        run(main(server))


@pytest.mark.rust
@pytest.mark.parametrize("extensions", [None, []], ids=["pipelining", "without"])
@pytest.mark.parametrize("place", ["mail", "rcpt", "data", "body"])
def test_a_cancelled_message_closes_the_connection(run: Run, place: str, extensions: Any) -> None:
    """After a cancelled message, the client closes the connection.

    On an open connection, the server could read the next command as part of the message.
    """

    async def main(sink: Sink) -> None:
        client = aio.SMTP(sink.host, sink.port)
        await client.connect()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.sendmail(*MAIL)
        assert client.sock is None
        with pytest.raises(smtplib.SMTPServerDisconnected, match="connect"):
            await client.noop()
        await client.connect()
        assert await client.sendmail(*MAIL) == {}
        await client.quit()

    with Sink(extensions, faults=[Fault(place, delay=1.0, times=1)]) as sink:
        run(main(sink))


def test_a_cancelled_command_closes_the_connection(run: Run) -> None:
    async def main(server: Server) -> None:
        client = aio.SMTP(server.host, server.port)
        await client.connect()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.noop()
        assert client.sock is None

    with Server(SMTPScript([], {"noop": late})) as server:
        run(main(server))


@pytest.mark.rust
def test_many_tasks_can_share_one_connection(run: Run) -> None:
    async def main(sink: Sink) -> None:
        async with aio.SMTP(sink.host, sink.port) as client, asyncio.TaskGroup() as group:
            for number in range(50):
                data = b"Subject: %d\r\n\r\n" % number
                to = f"{number}@example.com"
                group.create_task(client.sendmail("a@example.com", to, data))
                group.create_task(client.noop())
                group.create_task(client.send_message(email_message()))

    with Sink() as sink:
        run(main(sink))
        small = [each for each in sink.messages if b"Dear" not in each.data]
        assert len(sink.messages) == 100 and sink.counts["noop"] == 50
        for each in small:
            assert each.data == b"Subject: %s\r\n\r\n" % each.recipients[0].split("@")[0].encode()


@pytest.mark.rust
def test_sendmail_many_returns_an_outcome_for_each_message(run: Run) -> None:
    async def main(sink: Sink) -> None:
        async with aio.SMTP(sink.host, sink.port) as client:
            outcomes = await client.sendmail_many(
                [MAIL, email_message(), ("a@x.org", "no@x.org", DATA)]
            )
        assert [each.status for each in outcomes] == [
            Status.ACCEPTED,
            Status.ACCEPTED,
            Status.REFUSED,
        ]

    with Sink(faults=[Fault("rcpt", address="no@x.org", reply="550 no")]) as sink:
        run(main(sink))


@pytest.mark.rust
def test_sockets_and_paths_may_replace_a_host_name(run: Run, tmp_path: Path) -> None:
    async def main(sink: Sink, lmtp: Sink) -> None:
        with pytest.raises(ValueError, match="exclude each other"):
            aio.SMTP(sink.host, sink.port, sock=socket.socket())
        await aio.send(email_message(), sock=socket.create_connection((sink.host, sink.port)))
        assert lmtp.path is not None
        for client in (aio.LMTP(lmtp.path), aio.LMTP(socket_path=lmtp.path)):
            async with client:
                to = ["a@example.com", "b@example.com"]
                assert (await client.sendmail("x@example.com", to, DATA)).accepted == to

    with Sink() as sink, Sink(lmtp=True, path=tmp_path / "lmtp") as lmtp:
        run(main(sink, lmtp))
        assert len(sink.messages) == 1 and len(lmtp.messages) == 2


@pytest.mark.rust
def test_the_arguments_of_connect_take_precedence_over_those_of_the_class(run: Run) -> None:
    async def main(sink: Sink) -> None:
        client = aio.SMTP("nowhere.invalid", 1, timeout=7.0)
        place = sink.host, sink.port
        sock = socket.create_connection(place)
        await client.connect(port=None, hostname=None, sock=sock, local_hostname="b.example.com")
        await client.ehlo()
        await client.connect(*place, timeout=3.0)
        await client.helo()
        await client.quit()
        assert (client.timeout, client.local_hostname) == (7.0, "b.example.com")
        # As in smtplib, `local_hostname` is set although no argument gives a host name.
        async with aio.SMTP(*place) as other:
            assert isinstance(other.local_hostname, str)
        with pytest.raises(ValueError):
            await client.connect(*place, local_hostname="two words")

    with Sink(wire=True) as sink:
        run(main(sink))
        assert sink.wire[0].startswith(b"ehlo b.example.com\r\n")
        assert sink.wire[1].startswith(b"helo b.example.com\r\n")


def test_the_time_limit_of_connect_applies_only_to_connecting(run: Run) -> None:
    def script(connection: Connection) -> None:
        connection.rest()

    async def main(server: Server) -> None:
        client = aio.SMTP(server.host, server.port)
        began = time.monotonic()
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
            # The connection must open within this time, even on a busy machine. Only the greeting
            # is missing.
            await client.connect(timeout=0.5)
        assert time.monotonic() - began < 30 and client.timeout == 60.0

    with Server(script) as server:
        run(main(server))


async def send_one(client: aio.SMTP) -> None:
    assert await client.sendmail("a@example.com", "b@example.com", b"x") == {}


def test_a_client_works_in_one_event_loop_after_the_other(run: Run) -> None:
    async def share(client: aio.SMTP) -> None:
        async def use() -> None:
            async with client:
                await send_one(client)

        # Several tasks wait for the lock of the client, so the lock belongs to this event loop.
        await asyncio.gather(*(use() for _ in range(3)))

    with Server(SMTPScript()) as server:
        client = aio.SMTP(server.host, server.port)
        for _ in range(3):
            run(share(client))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_connection_of_a_closed_event_loop_is_not_used(run: Run) -> None:
    async def connect(client: aio.SMTP) -> None:
        await client.connect()
        await send_one(client)

    async def enter(client: aio.SMTP) -> None:
        async with client:
            await send_one(client)

    async def send_without_connection(client: aio.SMTP) -> None:
        with pytest.raises(smtplib.SMTPServerDisconnected, match="connect") as caught:
            await send_one(client)
        assert caught.value.body_sent is False  # type: ignore[attr-defined]

    with Server(SMTPScript()) as server:
        client = aio.SMTP(server.host, server.port)
        for follow_up in (connect, enter, send_without_connection):
            run(connect(client))
            assert not client.is_connected
            run(follow_up(client))
            run(enter(client))


def test_a_client_is_not_used_in_two_event_loops_at_once(run: Run) -> None:
    with Server(SMTPScript()) as server:
        client = aio.SMTP(server.host, server.port)
        is_connected, is_refused = threading.Event(), threading.Event()

        async def hold() -> None:
            async with client:
                is_connected.set()
                await asyncio.to_thread(is_refused.wait, 20)
                await send_one(client)

        async def intrude() -> None:
            await asyncio.to_thread(is_connected.wait, 20)
            with pytest.raises(RuntimeError, match="one client for each event loop"):
                await send_one(client)

        thread = threading.Thread(target=lambda: asyncio.run(hold()))
        thread.start()
        try:
            run(intrude())
        finally:
            is_refused.set()
            thread.join(30)
        assert not thread.is_alive()
        assert server.wire().count(b"QUIT") == 1


@pytest.mark.parametrize("timeout", [0, 0.0, -1, float("nan"), float("-inf")])
def test_a_time_limit_is_above_zero(run: Run, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        aio.SMTP(timeout=timeout)

    async def main() -> None:
        with pytest.raises(ValueError, match="timeout"):
            await aio.SMTP("127.0.0.1", 1).connect(timeout=timeout)

    if timeout:  # in `connect`, 0 means the constructor's limit
        run(main())


@pytest.mark.parametrize("timeout", [1e300, float("inf")])
def test_a_time_limit_may_be_large(run: Run, timeout: float) -> None:
    async def main(server: Server) -> None:
        async with aio.SMTP(server.host, server.port, timeout=timeout) as client:
            assert await client.sendmail("a@example.com", "b@example.com", b"x") == {}

    with Server(SMTPScript(("PIPELINING",))) as server:
        run(main(server))


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.ehlo(),
        lambda client: client.helo(),
        lambda client: client.noop(),
        lambda client: client.starttls(),
        lambda client: client.login("user", "secret"),
        lambda client: client.sendmail(*MAIL),
        lambda client: client.send_message(email_message()),
        lambda client: client.quit(),
    ],
    ids=["ehlo", "helo", "noop", "starttls", "login", "sendmail", "send_message", "quit"],
)
def test_commands_without_a_connection_raise(run: Run, call: Callable[[aio.SMTP], Any]) -> None:
    async def main() -> None:
        with pytest.raises(smtplib.SMTPServerDisconnected, match="connect"):
            await call(aio.SMTP("nowhere.invalid"))

    run(main())


def test_starttls_is_not_used_inside_of_tls(
    run: Run, server_tls: ssl.SSLContext, ca_file: str
) -> None:
    """The client ignores STARTTLS in an EHLO reply inside TLS.

    RFC 3207 section 4.2: a server must not advertise STARTTLS inside TLS.
    """
    with Server(SMTPScript(["STARTTLS"]), tls=server_tls) as server:
        place: Any = {"hostname": server.host, "port": server.port, "cert_bundle": ca_file}
        assert run(aio.send(email_message(), use_tls=True, **place)) == {}
        assert b"STARTTLS" not in server.wire()


@pytest.mark.parametrize("missing", ["From", "To"])
def test_a_message_without_an_envelope_is_refused(run: Run, missing: str) -> None:
    message = email_message()
    del message["Bcc"], message[missing]
    with pytest.raises(ValueError, match=missing):
        run(aio.send(message, hostname="nowhere.invalid"))
    with pytest.raises(ValueError):
        run(aio.send(DATA, sender="a@example.com", hostname="nowhere.invalid"))
    with pytest.raises(ValueError):
        run(aio.send(DATA, recipients="a@example.com", hostname="nowhere.invalid"))


@pytest.mark.rust
def test_the_null_sender_is_accepted(run: Run) -> None:
    with Sink() as sink:
        for message in (email_message(), DATA):
            to = "b@example.com"
            run(aio.send(message, sender="", recipients=to, hostname=sink.host, port=sink.port))
        assert [each.sender for each in sink.messages] == ["", ""]


@pytest.mark.rust
@pytest.mark.parametrize(
    "fault",
    [
        Fault("quit", reply="500 what"),
        Fault("quit", reply="421 bye", close="orderly"),
        Fault("quit", reply=b"what?\r\n"),
    ],
    ids=["refused", "421", "nonsense"],
)
def test_an_error_of_quit_hides_no_result(run: Run, fault: Fault) -> None:
    """An error of QUIT replaces neither the result of a message nor the reason of a refusal."""
    with Sink(faults=[fault, Fault("rcpt", address="no@example.com", reply="550 no")]) as sink:
        place: Any = {"hostname": sink.host, "port": sink.port}
        assert run(aio.send(email_message(), **place)).accepted
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            run(aio.send(email_message(), recipients="no@example.com", **place))
        assert len(sink.messages) == 1


@pytest.mark.rust
def test_many_tasks_enter_one_client(run: Run) -> None:
    """The tasks share one connection, and the last task that exits sends QUIT."""

    async def main(sink: Sink) -> None:
        client = aio.SMTP(sink.host, sink.port)

        async def task(number: int) -> None:
            await asyncio.sleep(0.01 * number)
            async with client:
                for _ in range(3):
                    assert await client.sendmail(*MAIL) == {}
                    await asyncio.sleep(0.01)

        await asyncio.gather(*map(task, range(5)))
        assert not client.is_connected
        async with client, client:
            pass
        assert not client.is_connected

    with Sink() as sink:
        run(main(sink))
        assert len(sink.messages) == 15
        assert sink.counts["connections"] == sink.counts["quit"] == 2


@pytest.mark.rust
def test_credentials_may_be_bytes(run: Run) -> None:
    with Sink(["AUTH PLAIN"], credentials={"user": "secret"}) as sink:
        login: Any = {"username": b"user", "password": b"secret", "allow_plaintext_auth": True}
        run(aio.send(email_message(), hostname=sink.host, port=sink.port, **login))
        assert sink.messages[0].user == "user"


@pytest.mark.rust
@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "PLAIN", "LOGIN"])
def test_credentials_may_contain_characters_beyond_ascii(run: Run, mechanism: str) -> None:
    with Sink([f"AUTH {mechanism}"], credentials={"üser": "pässword"}) as sink:
        login: Any = {"username": "üser", "password": "pässword", "allow_plaintext_auth": True}
        run(aio.send(email_message(), hostname=sink.host, port=sink.port, **login))
        assert sink.messages[0].user == "üser"


@pytest.mark.rust
@pytest.mark.parametrize("source", [("", 0), ("127.0.0.1", 0)])
def test_source_addresses_are_accepted(run: Run, source: tuple[str, int]) -> None:
    """`("", 0)` is accepted, because in smtplib it means any address and port."""
    with Sink() as sink:
        place: Any = {"hostname": sink.host, "port": sink.port}
        assert run(aio.send(email_message(), source_address=source, **place)) == {}


@pytest.mark.rust
def test_a_large_message_arrives_unchanged(run: Run) -> None:
    data = b"Subject: x\r\n\r\n" + (b"." + b"x" * 70 + b"\r\n") * 200_000

    async def main(sink: Sink) -> None:
        async with aio.SMTP(sink.host, sink.port) as client:
            await client.sendmail("a@example.com", "b@example.com", data)

    with Sink() as sink:
        run(main(sink))
        assert sink.messages[0].data == data


def test_a_message_is_not_sent_if_the_server_closes_during_it(run: Run) -> None:
    """If the server closes the connection during the message, the error's `body_sent` is false.

    The server cannot accept a message that the client did not write completely.
    """

    def script(connection: Connection) -> None:
        for reply in (b"220 ready", b"250-x\r\n250 PIPELINING", b"250 ok", b"250 ok", b"354 go"):
            connection.send(reply + b"\r\n")
            if reply != b"354 go":
                connection.line()
        # With SO_LINGER and a time of zero, close() resets the connection. So the client cannot
        # write the whole message.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async def main(server: Server) -> None:
        client = aio.SMTP(server.host, server.port)
        await client.connect()
        with pytest.raises(smtplib.SMTPServerDisconnected) as caught:
            await client.sendmail("a@example.com", "b@example.com", b"x" * 50_000_000)
        assert caught.value.body_sent is False

    with Server(script) as server:
        run(main(server))


def test_a_refusal_during_the_message_is_reported(run: Run) -> None:
    """After a refusal during the message, the client raises the refusal and closes the connection.

    On an open connection, the server would read the rest of the message as commands.
    """
    over = threading.Event()

    def script(connection: Connection) -> None:
        for reply in (b"220 ready", b"250-x\r\n250 PIPELINING", b"250 ok", b"250 ok", b"354 go"):
            connection.send(reply + b"\r\n")
            if reply != b"354 go":
                connection.line()
        connection.line()
        connection.send(b"552 5.3.4 too much\r\n")
        over.wait(10)

    async def main(server: Server) -> None:
        client = aio.SMTP(server.host, server.port)
        await client.connect()
        await client.ehlo()
        client.timeout = 0.4
        with pytest.raises(smtplib.SMTPDataError, match="552"):
            await client.sendmail("a@example.com", "b@example.com", b"a line\r\n" * 6_000_000)
        assert client.sock is None
        over.set()

    with Server(script) as server:
        run(main(server))


@pytest.mark.parametrize("greeting", [b"554 no", b"421 busy", HANG_UP])
def test_an_invalid_greeting_closes_the_connection(run: Run, greeting: bytes) -> None:
    async def main(server: Server) -> None:
        client = aio.SMTP(server.host, server.port)
        kind = smtplib.SMTPConnectError if greeting else smtplib.SMTPServerDisconnected
        with pytest.raises(kind):
            await client.connect()
        assert client.sock is None

    with Server(SMTPScript([], {"greeting": greeting})) as server:
        run(main(server))


@pytest.mark.parametrize(
    "keywords",
    [
        {"use_tls": True, "start_tls": True},
        {"username": "u", "password": "p", "oauth_token_generator": str},
        {"password": "p"},
        {"oauth_token_generator": str},
        {"tls_context": ssl.create_default_context(), "client_cert": "x.pem"},
        {"client_key": "x.pem"},
        {"socket_path": "/x", "port": 25},
        {"socket_path": "/x", "use_tls": True},
        {"timeout": 0},
        {"local_hostname": "two words"},
        {"hostname": "x\r\ny"},
    ],
)
def test_options_that_exclude_each_other_are_refused(keywords: Any) -> None:
    with pytest.raises(ValueError):
        aio.SMTP(**keywords)


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="hostnam"):
        aio.SMTP(hostnam="x")


def test_a_repr_contains_no_secret() -> None:
    client = aio.SMTP("mail.example.com", username="me", password="hunter2")
    assert "hunter2" not in repr(client) + repr(client.options)
    assert repr(client) == "<aio.SMTP mail.example.com>"
