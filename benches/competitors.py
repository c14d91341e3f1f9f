"""Functions that send many messages with rapidsmtp, smtplib, aiosmtplib or Postfix's smtp-source.

Each function `by_…` takes a port, a message and a number of messages, and returns the time per
message. The measurement starts after the connections are open, and ends when all messages are
accepted. Only in `by_smtp_source`, the measurement also includes the opening of the connections.
"""

import asyncio
import shutil
import smtplib
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rapidsmtp import Message, Sender, Status, aio

SENDER, RECIPIENT = "sender@example.com", "recipient@discard.example"

SMALL = b"Subject: small\r\n\r\n" + b"A line of a small message.\r\n" * 10
LARGE = b"Subject: newsletter\r\n\r\n" + (
    b"A line of the newsletter, as long as the lines of newsletters are: seventy-six.\r\n" * 470
)


@dataclass(frozen=True)
class Spent:
    """The wall time for one message, and the CPU time of this process for it, in seconds."""

    wall: float
    cpu: float


def spend(work: Callable[[], object], count: int) -> Spent:
    """Measure the time of `work`, and divide the time by the number of messages."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)


def by_sender(port: int, data: bytes, count: int, **settings: Any) -> Spent:
    """Send with rapidsmtp's `Sender`, over connections that are open before the measurement."""
    messages = [Message(SENDER, [RECIPIENT], data) for _ in range(count)]
    with Sender(f"smtp://127.0.0.1:{port}?starttls=off", **settings) as sender:
        # These messages are not measured. They make the `Sender` open its connections before the
        # measurement.
        sender.send_all(messages[: 4 * settings.get("connections", 4)])

        def work() -> None:
            report = sender.send_all(messages)
            assert report.counts == {Status.ACCEPTED: count}, report

        return spend(work, count)


def by_smtplib(port: int, data: bytes, count: int, connections: int = 1) -> Spent:
    """Call `sendmail` of smtplib in a loop, with one thread for each connection."""
    clients = [smtplib.SMTP("127.0.0.1", port) for _ in range(connections)]
    for client in clients:
        client.ehlo()

    def loop(client: smtplib.SMTP) -> None:
        for _ in range(count // connections):
            client.sendmail(SENDER, [RECIPIENT], data)

    def work() -> None:
        if connections == 1:
            return loop(clients[0])
        with ThreadPoolExecutor(connections) as threads:
            list(threads.map(loop, clients))

    spent = spend(work, count)
    for client in clients:
        client.quit()
    return spent


def by_aiosmtplib(port: int, data: bytes, count: int, connections: int = 2) -> Spent:
    """Send with aiosmtplib, with one task for each connection.

    Raises:
        ImportError: aiosmtplib is not installed.
    """
    import aiosmtplib

    async def loop(client: Any) -> None:
        for _ in range(count // connections):
            await client.sendmail(SENDER, [RECIPIENT], data)

    async def run() -> Spent:
        clients = [
            aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False)
            for _ in range(connections)
        ]
        for client in clients:
            await client.connect()
            await client.ehlo()
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*map(loop, clients))
        spent = Spent((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)
        for client in clients:
            await client.quit()
        return spent

    return asyncio.run(run())


def by_aio(port: int, data: bytes, count: int) -> Spent:
    """Send with rapidsmtp's `aio.SMTP` over one connection."""

    async def run() -> Spent:
        async with aio.SMTP("127.0.0.1", port, start_tls=False) as client:
            await client.ehlo()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(count):
                await client.sendmail(SENDER, [RECIPIENT], data)
            return Spent((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)

    return asyncio.run(run())


def by_aio_sender(port: int, data: bytes, count: int, **settings: Any) -> Spent:
    """Send with rapidsmtp's `aio.Sender` over open connections, and read each outcome."""
    messages = [Message(SENDER, [RECIPIENT], data) for _ in range(count)]

    async def run() -> Spent:
        async with aio.Sender(f"smtp://127.0.0.1:{port}?starttls=off", **settings) as sender:
            await sender.send_all(messages[: 4 * settings.get("connections", 4)])
            wall, cpu = time.perf_counter(), time.process_time()
            async for outcome in sender.send(messages):
                assert outcome.status is Status.ACCEPTED
            return Spent((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)

    return asyncio.run(run())


def by_sender_loop(port: int, data: bytes, count: int, **settings: Any) -> Spent:
    """Send with rapidsmtp's `Sender` over open connections, and read each outcome."""
    messages = [Message(SENDER, [RECIPIENT], data) for _ in range(count)]
    with Sender(f"smtp://127.0.0.1:{port}?starttls=off", **settings) as sender:
        sender.send_all(messages[: 4 * settings.get("connections", 4)])

        def work() -> None:
            for outcome in sender.send(messages):
                assert outcome.status is Status.ACCEPTED

        return spend(work, count)


def smtp_source() -> str | None:
    """Return the path of smtp-source, Postfix's load generator; None if it is not installed."""
    return shutil.which("smtp-source") or shutil.which("smtp-source", path="/usr/sbin")


def by_smtp_source(port: int, data: bytes, count: int, connections: int = 2) -> Spent:
    """Send with smtp-source, which is written in C.

    smtp-source generates its own messages. They are as long as `data`.
    """
    program = smtp_source()
    assert program is not None
    command = [program, "-d", "-s", str(connections), "-m", str(count), "-l", str(len(data))]
    command += ["-f", SENDER, "-t", RECIPIENT, f"inet:127.0.0.1:{port}"]
    return spend(lambda: subprocess.run(command, check=True, capture_output=True), count)


def by_bare_loop(port: int, data: bytes, count: int, connections: int = 2) -> Spent:
    """Send with socket calls only, which write the same flights as stream mode.

    This client parses no replies, so its time is nearly the time of the kernel and the sink.
    """
    envelope = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode()
    flight = data + b".\r\n" + envelope
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    for each in sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for line in (b"", b"EHLO client.example\r\n", envelope):
            each.sendall(line)
            each.recv(4096)

    def work() -> None:
        for _ in range(count // connections):
            for each in sockets:
                each.sendall(flight)
            for each in sockets:
                while b"354" not in each.recv(65536):
                    pass

    spent = spend(work, count)
    for each in sockets:
        each.close()
    return spent
