"""Relays that close the connection, send nothing, or reply too early, before a message was sent.

A proxy without a server accepts the TCP connection and then closes it or sends nothing. Each
exception states that no message was sent, and each message is NOT_ATTEMPTED.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

import rapidsmtp
from rapidsmtp import Message, Outcome, Status, aio
from server import Connection, Server

pytestmark = pytest.mark.usefixtures("backend")

MAIL = ("a@example.com", ["b@example.com", "c@example.com"], b"Subject: x\r\n\r\nbody\r\n")
BEFORE_MAIL = ("greeting", "part of a greeting", "hello")
STAGES = (*BEFORE_MAIL, "starttls", "handshake", "mail", "rcpt", "data")


@pytest.fixture(params=["drop-in", "methods", "aio"])
def face(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "methods":
        monkeypatch.setattr("rapidsmtp._smtp.flights.applies", lambda *_: False)
    return str(request.param)


def relay(stage: str, way: str, extension: bytes) -> Callable[[Connection], None]:
    """Return the script of a relay that stops at the given stage.

    Args:
        stage: The reply that the relay does not send.
        way: "closed", "reset" or "silent".
        extension: A keyword of the reply to EHLO.
    """

    def script(connection: Connection) -> None:
        with contextlib.suppress(EOFError):
            talk(connection)
        if way == "silent":
            connection.rest()
        if way == "reset":
            linger = struct.pack("ii", 1, 0)
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def talk(connection: Connection) -> None:
        if stage == "part of a greeting":
            connection.send(b"22")
        if stage in BEFORE_MAIL[:2]:
            return
        connection.send(b"220 ready\r\n")
        connection.line()
        if stage == "hello":
            return
        connection.send(b"250-server.example\r\n250 " + extension + b"\r\n")
        connection.line()
        for command in ("mail", "rcpt", "rcpt", "data") if stage in ("rcpt", "data") else ():
            if command == stage:
                return
            connection.send(b"250 ok\r\n")
            connection.line()
        if stage == "handshake":
            connection.send(b"220 go on\r\n")

    return script


async def send_async(server: Server, way: str, **options: Any) -> Any:
    client = aio.SMTP(server.host, server.port, timeout=0.2 if way == "silent" else 20, **options)
    await client.connect()
    return await client.sendmail(*MAIL)


def send_blocking(server: Server, way: str) -> Any:
    limit = 0.2 if way == "silent" else 20
    return rapidsmtp.SMTP(server.host, server.port, timeout=limit).sendmail(*MAIL)


@pytest.mark.parametrize("extension", [b"PIPELINING", b"HELP"], ids=["pipelined", "sequential"])
@pytest.mark.parametrize("way", ["closed", "reset", "silent"])
@pytest.mark.parametrize("stage", [*BEFORE_MAIL, "mail", "rcpt", "data"])
def test_an_exception_before_the_body_says_that_nothing_was_sent(
    face: str, stage: str, way: str, extension: bytes
) -> None:
    with Server(relay(stage, way, extension)) as server, pytest.raises(OSError) as caught:
        if face == "aio":
            asyncio.run(send_async(server, way, start_tls=False))
        else:
            send_blocking(server, way)
    error: Any = caught.value
    # A reset may arrive while the client still connects. This is no exception of SMTP.
    if isinstance(error, rapidsmtp.SMTPException):
        assert (error.body_sent, error.accepted, error.recipients) == (False, [], {})
    else:
        assert way == "reset" and isinstance(error, ConnectionError)


@pytest.mark.parametrize("way", ["closed", "reset", "silent"])
@pytest.mark.parametrize("stage", ["starttls", "handshake"])
@pytest.mark.parametrize("start_tls", [True, None])
def test_a_failed_starttls_says_that_nothing_was_sent(
    stage: str, way: str, start_tls: bool | None
) -> None:
    with Server(relay(stage, way, b"STARTTLS")) as server, pytest.raises(OSError) as caught:
        asyncio.run(send_async(server, way, start_tls=start_tls))
    assert vars(caught.value)["body_sent"] is False


@pytest.mark.parametrize("way", ["closed", "reset", "silent"])
@pytest.mark.parametrize("stage", STAGES)
def test_many_messages_are_not_attempted(stage: str, way: str) -> None:
    async def main(server: Server) -> list[Outcome]:
        client = aio.SMTP(server.host, server.port, timeout=0.2 if way == "silent" else 20)
        with contextlib.suppress(OSError):
            await client.connect()
        return await client.sendmail_many([Message(*MAIL)] * 3)

    extension = b"STARTTLS" if stage in ("starttls", "handshake") else b"PIPELINING"
    with Server(relay(stage, way, extension)) as server:
        outcomes = asyncio.run(main(server))
    assert [outcome.status for outcome in outcomes] == [Status.NOT_ATTEMPTED] * 3
    assert all(outcome.reason for outcome in outcomes)


@pytest.mark.parametrize("way", ["closed", "silent"])
def test_a_single_message_of_aio_is_not_begun(way: str) -> None:
    async def main(server: Server) -> Any:
        limit = 0.2 if way == "silent" else 20
        return await aio.send(
            MAIL[2],
            sender=MAIL[0],
            recipients=MAIL[1],
            hostname=server.host,
            port=server.port,
            timeout=limit,
        )

    with (
        Server(relay("greeting", way, b"HELP")) as server,
        pytest.raises(rapidsmtp.SMTPServerDisconnected) as caught,
    ):
        asyncio.run(main(server))
    assert vars(caught.value)["body_sent"] is False


@pytest.mark.parametrize("extension", [b"PIPELINING", b"HELP"], ids=["pipelined", "sequential"])
@pytest.mark.parametrize("early", [b"250 2.0.0 queued", b"354 go on", b"552 5.3.4 too large"])
def test_a_reply_during_a_large_message_does_not_accept_it(
    face: str, extension: bytes, early: bytes
) -> None:
    # The message is larger than all buffers of the system between the client and the server.
    message = b"x" * 998 + b"\r\n"
    message *= 20_000

    tail = bytearray()

    def script(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        connection.line()
        connection.send(b"250-server.example\r\n250 " + extension + b"\r\n")
        for reply in (b"250 ok", b"250 ok", b"354 go on"):
            connection.line()
            connection.send(reply + b"\r\n")
        connection.sock.recv(1000)
        connection.send(early + b"\r\n")
        while b"\r\n.\r\n" not in tail and (data := connection.sock.recv(1 << 20)):
            tail[:] = (tail + data)[-50:]

    async def main(server: Server) -> list[Outcome]:
        async with aio.SMTP(server.host, server.port, start_tls=False) as client:
            return await client.sendmail_many([(MAIL[0], MAIL[1][:1], message)])

    with Server(script) as server:
        if face == "aio":
            (outcome,) = asyncio.run(main(server))
        else:
            client = rapidsmtp.SMTP(server.host, server.port, timeout=20)
            (outcome,) = client.sendmail_many([(MAIL[0], MAIL[1][:1], message)])
            client.close()
        server.wire()
    if early.startswith(b"5"):
        assert (outcome.status, outcome.reason) == (Status.REFUSED, early.decode())
        return
    assert outcome.status is Status.NOT_ATTEMPTED
    assert f"unexpected reply: {early.decode()}" in outcome.reason
    assert b"\r\n.\r\n" not in tail
