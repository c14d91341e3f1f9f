"""`close_timeout`: a sender ends in time, and each message has the right status."""

import asyncio
import itertools
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

import processes
from rapidsmtp import Backoff, Outcome, Sender, Status, Timeouts, aio
from senders import message, messages, sender_to, wait_for, wires
from server import HANG_UP, Connection, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

# The limits of RFC 5321 are minutes. Only `close_timeout` ends these tests.
SETTINGS: dict[str, Any] = {
    "timeouts": Timeouts(quit=0.2),
    "backoff": Backoff(base=600, maximum=600),
    "connections": 1,
    "close_timeout": 0.3,
    "query": "?starttls=off",
}
SOON = 30.0
PLACES = {
    "greeting": Status.NOT_ATTEMPTED,
    "ehlo": Status.NOT_ATTEMPTED,
    "mail": Status.NOT_ATTEMPTED,
    "rcpt": Status.NOT_ATTEMPTED,
    "data": Status.NOT_ATTEMPTED,
    "message": Status.UNKNOWN,
}


def mute(command: str, extensions: list[str]) -> Callable[[Connection], None]:
    """Return a relay that sends no more replies from a command on."""

    def script(connection: Connection) -> None:
        def wait(line: bytes) -> bytes:
            connection.wait_for_end()
            return HANG_UP

        SMTPScript(extensions, {command: wait})(connection)

    return script


def deferring(extensions: list[str]) -> SMTPScript:
    return SMTPScript(extensions, {"rcpt": itertools.repeat(b"451 4.7.1 greylisted")})  # type: ignore[dict-item]


BOTH = pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelining", "without"])


@BOTH
@pytest.mark.parametrize(("place", "status"), PLACES.items(), ids=PLACES)
def test_a_mute_relay(place: str, status: Status, extensions: list[str]) -> None:
    with Server(mute(place, extensions)) as server:
        start = time.monotonic()
        with sender_to(server, **SETTINGS) as sender:
            futures = [sender.submit(each) for each in messages(3)]
            wait_for(lambda: server.connections)
        assert time.monotonic() - start < SOON
        outcomes = [each.result(0) for each in futures]
        assert [each.status for each in outcomes[1:]] == [Status.NOT_ATTEMPTED] * 2
        assert outcomes[0].status in (status, Status.NOT_ATTEMPTED)
        # The relay may have the message only if it has received the terminator.
        arrived = b"\r\n.\r\n" in server.wire()
        assert (outcomes[0].status is Status.UNKNOWN) == arrived
        assert all(each.reason for each in outcomes)


@BOTH
def test_a_message_whose_terminator_was_sent_is_unknown(extensions: list[str]) -> None:
    with Server(mute("message", extensions)) as server:
        with sender_to(server, **SETTINGS) as sender:
            future = sender.submit(message())
            wait_for(lambda: b"\r\n.\r\n" in b"".join(wires(server)))
        assert future.result(0).status is Status.UNKNOWN


@BOTH
def test_a_message_that_waits_for_a_retry_is_deferred(extensions: list[str]) -> None:
    with Server(deferring(extensions)) as server:
        with sender_to(server, **SETTINGS) as sender:
            future = sender.submit(message())
            wait_for(lambda: sender.stats().waiting)
        outcome = future.result(0)
        assert outcome.status is Status.DEFERRED
        [result] = outcome.recipients.values()
        assert (result.code, result.text) == (451, "4.7.1 greylisted")


def test_the_end_of_a_block_warns_of_outcomes_that_nobody_has_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(connection: Connection) -> None:
        def wait(line: bytes) -> bytes:
            connection.wait_for_end()
            return HANG_UP

        SMTPScript([], {"mail": [b"250 ok", wait]})(connection)

    with Server(script) as server, caplog.at_level(logging.WARNING, "rapidsmtp"):
        with sender_to(server, **SETTINGS) as sender:
            for outcome in sender.send(messages(5)):
                assert outcome.status is Status.ACCEPTED
                break
        report = sender.close()
        assert report.counts == {Status.NOT_ATTEMPTED: 4}
    [record] = caplog.records
    assert record.getMessage() == (
        f"relay 127.0.0.1:{server.port}: 4 messages were not accepted whose outcomes the program "
        "has not read; Sender.close returns them"
    )


def test_a_time_of_close_is_preferred() -> None:
    with Server(mute("mail", [])) as server:
        sender = sender_to(server, **{**SETTINGS, "close_timeout": None})
        future = sender.submit(message())
        wait_for(lambda: server.connections)
        sender.close(0.1)
        assert future.result(0).status is Status.NOT_ATTEMPTED


@pytest.mark.parametrize("place", ["mail", "message"])
def test_the_asyncio_sender(place: str) -> None:
    async def main(server: Server) -> list[Outcome]:
        url = f"smtp://127.0.0.1:{server.port}?starttls=off"
        settings = {name: value for name, value in SETTINGS.items() if name != "query"}
        outcomes: list[Outcome] = []

        async def send(sender: aio.Sender) -> None:
            outcomes.append(await sender.submit(message()))

        async with aio.Sender(url, **settings) as sender:
            task = asyncio.create_task(send(sender))
            awaited = b"\r\n.\r\n" if place == "message" else b"mail"
            while awaited not in b"".join(wires(server)):
                await asyncio.sleep(0.005)
        await task
        return outcomes

    with Server(mute(place, [])) as server:
        start = time.monotonic()
        [outcome] = asyncio.run(main(server))
        assert time.monotonic() - start < SOON
        assert outcome.status is PLACES[place]


AT_EXIT = """
import sys, time
from rapidsmtp import Message, Sender, _backend
_backend.use(sys.argv[2])
sender = Sender(sys.argv[1], close_timeout=0.2)
sender.submit(Message("a@example.com", ["b@example.com"], b"x"))
while not sender.stats().in_flight:
    time.sleep(0.005)
"""


def test_the_end_of_the_interpreter(backend: str) -> None:
    with Server(mute("mail", [])) as server:
        url = f"smtp://127.0.0.1:{server.port}?starttls=off"
        start = time.monotonic()
        ended = processes.run(
            [sys.executable, "-c", AT_EXIT, url, backend],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        # Without `close_timeout`, the limit is 30 seconds.
        assert time.monotonic() - start < 25
    assert f"at exit, 1 messages were not sent to 127.0.0.1:{server.port}" in ended.stderr


@pytest.mark.parametrize("wrong", [-1, float("nan"), 1e300])
def test_a_wrong_time(wrong: float) -> None:
    with pytest.raises(ValueError, match="close_timeout"):
        Sender("smtp://mx.example", close_timeout=wrong)
    with pytest.raises(TypeError, match="close_timeout"):
        Sender("smtp://mx.example", close_timeout="1")  # type: ignore[arg-type]
