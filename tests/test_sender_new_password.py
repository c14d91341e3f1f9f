"""A `Sender` with a password function logs in again after the relay has refused the password."""

import asyncio
import base64
import time
from collections.abc import Callable
from typing import Any

import pytest

from rapidsmtp import RelayError, Sender, Status, aio
from senders import LIMITS, commands, message, messages, sender_to
from server import TIMEOUT, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

LOGIN: dict[str, Any] = {
    "login": "user@",
    "query": "?starttls=off",
    "allow_plaintext_auth": True,
    "connections": 1,
}


def relay(valid: Callable[[], str], refusal: bytes = b"535 5.7.8 wrong") -> Server:
    """Return a relay that accepts one password: the result of `valid` at the time of the login."""

    def auth(line: bytes) -> bytes:
        password = base64.b64decode(line.split()[-1]).rpartition(b"\0")[2].decode()
        return b"235 2.7.0 welcome" if password == valid() else refusal

    return Server(SMTPScript(["AUTH PLAIN"], {"auth": auth}))


def submit_until_accepted(sender: Sender) -> None:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            if sender.submit(message()).result(TIMEOUT).status is Status.ACCEPTED:
                return
        except RelayError:
            pass
        time.sleep(0.02)
    raise AssertionError("no message was accepted")


@pytest.mark.parametrize("refusal", [b"535 5.7.8 expired", b"534 5.7.9 no", b"550 5.7.1 no"])
def test_a_later_message_asks_for_the_password_again(refusal: bytes) -> None:
    asked: list[str] = []

    def password() -> str:
        asked.append("old" if not asked else "new")
        return asked[-1]

    with (
        relay(lambda: "new", refusal) as server,
        sender_to(server, password=password, **LOGIN) as s,
    ):
        report = s.send_all(messages(3))
        assert report.counts == {Status.NOT_ATTEMPTED: 3} and report.error is not None
        assert asked == ["old"]
        submit_until_accepted(s)
        assert s.send_all(messages(3)).accepted == 3
        assert asked[:2] == ["old", "new"] and commands(server, b"AUTH") == len(asked)


def test_a_password_that_changes_while_the_sender_is_idle() -> None:
    current = ["first"]
    with relay(lambda: current[0]) as server:
        options: dict[str, Any] = {"password": lambda: stale[0], "timeouts": LIMITS, **LOGIN}
        stale = ["first"]
        with sender_to(server, max_messages_per_connection=1, **options) as sender:
            assert sender.send_all(messages(1)).accepted == 1
            current[0] = "second"
            report = sender.send_all(messages(1))
            assert report.counts == {Status.NOT_ATTEMPTED: 1}
            stale[0] = "second"
            submit_until_accepted(sender)


def test_the_time_between_refused_logins_grows() -> None:
    asked: list[float] = []

    def password() -> str:
        asked.append(time.monotonic())
        return "wrong"

    with relay(lambda: "right") as server, sender_to(server, password=password, **LOGIN) as sender:
        deadline = time.monotonic() + TIMEOUT
        while len(asked) < 3 and time.monotonic() < deadline:
            with pytest.raises(RelayError, match=r"535 5\.7\.8 wrong"):
                for each in sender.send(messages(2)):
                    assert each.status is Status.NOT_ATTEMPTED
        assert len(asked) == commands(server, b"AUTH") == 3
    first, second, third = asked
    # 1 and 2 seconds, less the time between the call of the function and the refusal.
    assert second - first > 0.95 and third - second > 1.95


def test_a_text_is_not_tried_again() -> None:
    with relay(lambda: "right") as server, sender_to(server, password="wrong", **LOGIN) as sender:
        assert sender.send_all(messages(1)).error is not None
        deadline = time.monotonic() + 1.3
        while time.monotonic() < deadline:
            with pytest.raises(RelayError, match=r"535 5\.7\.8 wrong"):
                sender.submit(message())
        assert commands(server, b"AUTH") == 1


def test_the_asyncio_sender_asks_again() -> None:
    asked: list[str] = []

    def password() -> str:
        asked.append("old" if not asked else "new")
        return asked[-1]

    async def main(server: Server) -> None:
        url = f"smtp://user@127.0.0.1:{server.port}?starttls=off"
        options: Any = {"password": password, "allow_plaintext_auth": True, "timeouts": LIMITS}
        async with aio.Sender(url, **options) as sender, asyncio.timeout(TIMEOUT):
            assert (await sender.submit(message())).status is Status.NOT_ATTEMPTED
            while True:
                try:
                    outcome = await sender.submit(message())
                    break
                except RelayError:
                    await asyncio.sleep(0.02)
            assert outcome.status is Status.ACCEPTED

    with relay(lambda: "new") as server:
        asyncio.run(main(server))
    assert asked == ["old", "new"]
