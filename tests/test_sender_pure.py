"""Parts of `Sender` in the pure-Python backend only: threads, and parallel connect attempts."""

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from rapidsmtp import Status, Timeouts, _backend
from rapidsmtp._compose.address import smtp_path
from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure.connect import interleave
from rapidsmtp._pure.envelope import Envelope
from rapidsmtp._pure.failure import ConnectionLost
from rapidsmtp._pure.job import Job
from rapidsmtp._pure.pool import Pool
from rapidsmtp._pure.queue import EngineQueue
from rapidsmtp._pure.transport import Transport
from senders import message, messages, send, send_and_stop, sender_to
from server import TIMEOUT, Connection, Server, SMTPScript
from test_engine import DEFAULTS

Allow = Callable[[int], None]


@pytest.fixture(autouse=True)
def pure() -> Iterator[None]:
    before = _backend.implementation
    _backend.use("python")
    yield
    _backend.use(before)


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Allow:
    """Return a function that limits the number of threads that the engine can start.

    Beyond the limit, starting a thread fails in the same way as at the exit of Python 3.12.
    """
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
def test_fewer_threads_than_connections_send_all_messages(allow: Allow, count: int) -> None:
    allow(count)
    with Server(SMTPScript(("PIPELINING",))) as server:
        outcomes = send(sender_to(server, connections=4), messages(50))
    assert {each.status for each in outcomes} == {Status.ACCEPTED}
    assert len(outcomes) == 50 and 1 <= len(server.connections) <= count


def test_without_any_thread_the_caller_sends(allow: Allow) -> None:
    allow(0)
    with Server(SMTPScript(("PIPELINING",))) as server:
        outcomes = send(sender_to(server), messages(500))
        assert [each.status for each in outcomes] == [Status.ACCEPTED] * 500
        with sender_to(server, queue_size=2) as sender:
            assert sender.send_all(iter(messages(9))).accepted == 9


def test_without_any_thread_and_caller_no_message_is_attempted(allow: Allow) -> None:
    allow(0)
    with Server(SMTPScript(("PIPELINING",))) as server:
        sender = sender_to(server)
        engine = sender._core._engine
        assert engine is not None
        outbox = engine.open_outbox()
        assert engine.submit(outbox, messages(3), 0.0) == 3
        sender.close()
        decided: list = []
        engine.take(outbox, decided, 9, 0.0)
        results = [result for _, result in decided]
    assert [each.status for each in results] == ["NOT_ATTEMPTED"] * 3
    assert "starting a thread failed" in results[0].details()[-1]
    assert not server.connections


def test_no_message_waits_for_a_thread_that_ends() -> None:
    """A message that arrives while a thread ends starts another thread."""
    found_no_work, submitted = threading.Event(), threading.Event()
    second = threading.Event()

    def run(pool: Pool) -> None:
        if found_no_work.is_set():
            second.set()
            return
        queue.inbox.clear()
        assert pool.wait_for_connection() is None
        found_no_work.set()
        submitted.wait(TIMEOUT)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = EngineSettings(**{**DEFAULTS, "port": listener.getsockname()[1]})
        queue = EngineQueue(settings, smtp_path)
        pool = Pool(settings, queue, run)
        for event in (found_no_work, second):
            with queue.lock:
                queue.inbox.append(Job(message(), None, Envelope(message(), smtp_path)))
                pool.open_connections()
            assert event.wait(TIMEOUT)
        submitted.set()


# Several addresses (Happy Eyeballs, RFC 8305)

Resolves = Callable[..., None]


@pytest.fixture
def resolves(monkeypatch: pytest.MonkeyPatch) -> Resolves:
    """Return a function that sets the addresses of the relay's name."""

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
    """Yield an address that accepts no connection, because the queue of its listener is full."""
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


def test_address_families_alternate() -> None:
    six = [(10, 1, 6, (f"::{number}", 25)) for number in range(3)]
    four = [(2, 1, 6, (f"127.0.0.{number}", 25)) for number in range(2)]
    assert interleave([*six, *four, *six]) == [six[0], four[0], six[1], four[1], six[2]]
    assert interleave([*four, *six])[:2] == [four[0], six[0]]


def test_a_dead_address_causes_a_wait_of_a_quarter_of_a_second(
    resolves: Resolves, dead: tuple[str, int]
) -> None:
    with Server(SMTPScript(("PIPELINING",))) as server:
        resolves(dead, dead, (server.host, server.port))
        start = time.monotonic()
        outcomes = send(sender_to(server, connections=1), messages(1))
        assert outcomes[0].status is Status.ACCEPTED
        assert time.monotonic() - start > 0.24


def test_a_closed_address_causes_no_wait(
    resolves: Resolves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapidsmtp._pure.connect.STAGGER", 60.0)
    with Server(SMTPScript(("PIPELINING",))) as server:
        resolves(closed(), ("::1", closed()[1]), (server.host, server.port))
        start = time.monotonic()
        outcomes = send(sender_to(server, connections=1), messages(1))
        assert outcomes[0].status is Status.ACCEPTED
        assert time.monotonic() - start < 30


def test_the_error_of_a_refused_connection_is_reported(resolves: Resolves) -> None:
    resolves(closed(), ("::1", closed()[1]), closed())
    _, error = send_and_stop(sender_to(25), messages(1))
    assert "refused" in str(error).lower()


def test_the_time_limit_covers_all_addresses(resolves: Resolves, dead: tuple[str, int]) -> None:
    resolves(dead, closed())
    start = time.monotonic()
    _, error = send_and_stop(sender_to(25, timeouts=Timeouts(connect=0.6)), messages(1))
    assert "timed out after 0.6 s" in str(error) and 0.5 < time.monotonic() - start < 30


def test_a_421_before_the_failed_write_of_a_command_is_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_written = threading.Event()
    write = Transport.write

    def fail(self: Transport, data: bytes, seconds: float, *, expect_silence: bool = False) -> None:
        if data.startswith(b"EHLO"):
            is_written.set()
            select.select([self.descriptor], [], [], TIMEOUT)
            raise ConnectionLost("Broken pipe")
        write(self, data, seconds, expect_silence=expect_silence)

    def script(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        is_written.wait(TIMEOUT)
        connection.send(b"421 4.3.2 going\r\n")

    monkeypatch.setattr(Transport, "write", fail)
    with Server(script) as server:
        _, error = send_and_stop(sender_to(server, max_attempts=1), messages(1))
    assert str(error).endswith(": 421 4.3.2 going")
