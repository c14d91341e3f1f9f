"""What the pure half of `Sender` does in its own way: threads, and the race to the relay."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from rapidsmtp import Status, Timeouts, _core
from rapidsmtp._pure.connect import interleave
from senders import messages, send, send_and_stop, sender_to
from server import Dialogue, Server

Allow = Callable[[int], None]


@pytest.fixture(autouse=True)
def pure() -> Iterator[None]:
    before = _core.implementation
    _core.use("python")
    yield
    _core.use(before)


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Allow:
    """Let the engine start so many threads, and no more: as when the interpreter ends (3.12)."""
    start = threading.Thread.start

    def allow(count: int) -> None:
        started: list[threading.Thread] = []

        def limited(thread: threading.Thread) -> None:
            if thread.name == "rapidsmtp":
                if len(started) >= count:
                    raise RuntimeError("can't create new thread at interpreter shutdown")
                started.append(thread)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)

    return allow


@pytest.mark.parametrize("count", [1, 2])
def test_the_threads_that_there_are_do_all_the_work(allow: Allow, count: int) -> None:
    allow(count)
    with Server(Dialogue(("PIPELINING",))) as server:
        outcomes = send(sender_to(server, connections=4), messages(50))
    assert {each.status for each in outcomes} == {Status.ACCEPTED}
    assert len(outcomes) == 50 and 1 <= len(server.connections) <= count


def test_where_there_is_no_thread_at_all(allow: Allow) -> None:
    allow(0)
    with Server(Dialogue(("PIPELINING",))) as server:
        outcomes = send(sender_to(server), messages(500))
        assert [each.status for each in outcomes] == [Status.ACCEPTED] * 500
        with sender_to(server, queue_size=2) as sender:
            assert sender.send_all(iter(messages(9))).accepted == 9


def test_where_there_is_no_thread_and_nobody_waits(allow: Allow) -> None:
    allow(0)
    with Server(Dialogue(("PIPELINING",))) as server:
        sender = sender_to(server)
        engine = sender._engine
        assert engine is not None
        channel = engine.channel()
        assert engine.offer(channel, messages(3), 0.0) == 3
        sender.close()
        decided: list = []
        engine.take(channel, decided, 9, 0.0)
        results = [result for _, result in decided]
    assert [each.status for each in results] == ["NOT_ATTEMPTED"] * 3
    assert "no thread to send with" in results[0].details()[-1]
    assert not server.connections


# The race to the relay (Happy Eyeballs, RFC 8305)

Resolves = Callable[..., None]


@pytest.fixture
def resolves(monkeypatch: pytest.MonkeyPatch) -> Resolves:
    """Let the relay's name have these addresses."""

    def resolves(*addresses: tuple[str, int]) -> None:
        found = [
            (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
            for address in addresses
            for host in address[:1]
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    return resolves


@pytest.fixture
def dead() -> Iterator[tuple[str, int]]:
    """An address that answers nothing: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        time.sleep(0.05)
        yield address


def closed() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()


def test_the_families_take_turns() -> None:
    six = [(10, 1, 6, (f"::{number}", 25)) for number in range(3)]
    four = [(2, 1, 6, (f"127.0.0.{number}", 25)) for number in range(2)]
    assert interleave([*six, *four, *six]) == [six[0], four[0], six[1], four[1], six[2]]
    assert interleave([*four, *six])[:2] == [four[0], six[0]]


def test_a_dead_address_costs_a_quarter_of_a_second(
    resolves: Resolves, dead: tuple[str, int]
) -> None:
    with Server(Dialogue(("PIPELINING",))) as server:
        resolves(dead, dead, (server.host, server.port))
        start = time.monotonic()
        outcomes = send(sender_to(server, connections=1), messages(1))
        assert outcomes[0].status is Status.ACCEPTED
        assert 0.24 < time.monotonic() - start < 1.5


def test_a_closed_address_costs_nothing(resolves: Resolves) -> None:
    with Server(Dialogue(("PIPELINING",))) as server:
        resolves(closed(), ("::1", closed()[1]), (server.host, server.port))
        start = time.monotonic()
        outcomes = send(sender_to(server, connections=1), messages(1))
        assert outcomes[0].status is Status.ACCEPTED
        assert time.monotonic() - start < 0.2


def test_where_all_are_closed_that_is_said(resolves: Resolves) -> None:
    resolves(closed(), ("::1", closed()[1]), closed())
    _, error = send_and_stop(sender_to(25), messages(1))
    assert "refused" in str(error).lower()


def test_the_time_limit_is_for_all_of_them(resolves: Resolves, dead: tuple[str, int]) -> None:
    resolves(dead, closed())
    start = time.monotonic()
    _, error = send_and_stop(sender_to(25, timeouts=Timeouts(connect=0.6)), messages(1))
    assert "in time" in str(error) and 0.5 < time.monotonic() - start < 2
