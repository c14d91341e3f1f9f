"""Connection reuse: limits, the end of idle connections, threads, fork and exit."""

import gc
import os
import smtplib
import sys
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import processes
import rapidsmtp
from rapidsmtp._smtp import kept
from rapidsmtp.testing import Sink
from reusing import EXTENSIONS, MAIL, SETUP, Clock, connect, new_store, program, send, wires
from server import TIMEOUT, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def store(clock: Clock) -> Iterator[kept.Store]:
    with new_store(clock) as store:
        yield store


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(SMTPScript(EXTENSIONS)) as running:
        yield running


def has_ended(server: Server, place: int) -> bool:
    """Return whether QUIT was the last command of a connection. Wait for its end."""
    return server.wire(place).endswith(b"quit\r\n")


# Limits


def test_an_idle_connection_ends_with_quit(server: Server, clock: Clock, store: kept.Store) -> None:
    program(server)
    clock.now += 29
    store.end_expired()
    program(server)
    assert len(server.connections) == 1
    clock.now += 31
    store.end_expired()
    assert has_ended(server, 0)
    program(server)
    assert len(server.connections) == 2


def test_the_next_use_of_the_store_ends_idle_connections(server: Server, clock: Clock) -> None:
    program(server)
    clock.now += 31
    program(server, "other")
    assert has_ended(server, 0)


def test_an_unused_connection_gets_no_more_time(
    server: Server, clock: Clock, store: kept.Store
) -> None:
    program(server)
    clock.now += 20
    client = connect(server)
    client.quit()
    client = connect(server)
    client.login("other", "secret")
    client.quit()
    clock.now += 11
    store.end_expired()
    assert has_ended(server, 0)
    assert len(server.connections) == 2


def test_the_time_of_each_client_applies(server: Server, clock: Clock, store: kept.Store) -> None:
    program(server, reuse=100)
    program(server, reuse=5)
    clock.now += 6
    store.end_expired()
    assert has_ended(server, 0)


def test_a_connection_is_used_for_ten_minutes(server: Server, clock: Clock) -> None:
    for _ in range(21):
        program(server)
        clock.now += 29
    assert len(server.connections) == 1
    program(server)
    assert has_ended(server, 0)
    assert len(server.connections) == 2
    program(server, reuse=10_000)
    clock.now += 599
    client = connect(server)
    client.login("user", "secret of user")
    clock.now += 2
    send(client)
    client.quit()
    assert has_ended(server, 1)
    assert rapidsmtp.reuse_stats().refused == {"age": 1}


def test_a_connection_is_used_for_a_hundred_messages(server: Server) -> None:
    for _ in range(101):
        program(server)
    assert has_ended(server, 0)
    assert [wire.count("mail") for wire in wires(server)] == [100, 1]


def bodies(server: Server) -> list[int]:
    """Return the number of messages on each connection."""
    return [bytes(each.received).count(b"\r\n.\r\n") for each in server.connections]


FULL = b"421 4.7.0 Too many messages on this connection"


def test_a_421_teaches_the_number_of_messages() -> None:
    with Server(SMTPScript(EXTENSIONS, {"mail": [b"250 ok"] * 3 + [FULL]})) as server:
        for _ in range(10):
            program(server)
        assert bodies(server) == [3, 3, 3, 1]
        # Only the first connection met the limit. The client ended the others in time.
        assert [wire.count("quit") for wire in wires(server)] == [0, 1, 1, 0]
        assert rapidsmtp.reuse_stats().refused == {"lost": 1, "messages": 2}


def test_a_421_while_idle_teaches_the_number_of_messages(store: kept.Store) -> None:
    with Server(SMTPScript(EXTENSIONS)) as server:
        program(server)
        program(server)
        record = store._idle[0]
        record.sock.settimeout(TIMEOUT)
        server.connections[0].send(FULL + b"\r\n")
        record.sock.recv(1, 2)
        record.sock.settimeout(0)
        for _ in range(4):
            program(server)
        assert bodies(server) == [2, 2, 2]


def test_another_421_teaches_nothing() -> None:
    replies = {"mail": [b"250 ok", b"421 4.3.2 shutting down"]}
    script = iter([SMTPScript(EXTENSIONS, replies), SMTPScript(EXTENSIONS)])
    with Server(lambda connection: next(script)(connection)) as server:
        for _ in range(5):
            program(server)
        assert bodies(server) == [1, 4]


def together(server: Server, count: int, user: str = "user") -> None:
    """Have `count` clients with connections at the same time."""
    clients = [connect(server) for _ in range(count)]
    for client in clients:
        client.login(user, "secret")
        send(client)
    for client in clients:
        client.quit()


def test_four_connections_with_the_same_steps_are_kept(server: Server) -> None:
    together(server, 6)
    assert [wire.count("quit") for wire in wires(server)] == [1, 1, 0, 0, 0, 0]
    assert rapidsmtp.reuse_stats().refused == {"too many idle connections": 2}
    together(server, 4)
    assert len(server.connections) == 6


def test_thirty_two_connections_are_kept(server: Server, store: kept.Store) -> None:
    for number in range(9):
        together(server, 4, f"user {number}")
    assert len(store._idle) == 32
    assert [wire.count("quit") for wire in wires(server)] == [1] * 4 + [0] * 32


def test_a_client_of_another_thread_does_not_get_a_used_connection(server: Server) -> None:
    program(server)
    first, second = connect(server), connect(server)
    assert first.sock is not second.sock
    assert len(server.connections) == 2
    first.quit()
    second.quit()


# The thread


def test_a_thread_ends_idle_connections(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = kept.Store()
    monkeypatch.setattr(kept, "store", store)
    before = set(threading.enumerate())
    program(server, reuse=30)
    (thread,) = set(threading.enumerate()) - before - set(server._threads)
    assert thread.daemon and thread.name == "rapidsmtp reuse"
    program(server, "other", reuse=0.01)
    assert has_ended(server, 1)
    assert not server.connections[0].over.is_set()
    store.end_all()
    assert has_ended(server, 0)
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    program(server, reuse=0.01)
    assert has_ended(server, 2)


@pytest.mark.parametrize(
    ("name", "asked", "patched"),
    [
        ("gevent.monkey", "is_module_patched", ("socket",)),
        ("eventlet.patcher", "is_monkey_patched", ("socket",)),
    ],
)
def test_no_native_thread_uses_patched_sockets(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str, asked: str, patched: Any
) -> None:
    module = types.ModuleType(name)
    setattr(module, asked, lambda each: each in patched)
    monkeypatch.setitem(sys.modules, name, module)
    clock = Clock()
    store = kept.Store(clock)
    monkeypatch.setattr(kept, "store", store)
    before = threading.active_count()
    program(server)
    assert threading.active_count() <= before + 1  # the server's thread for the connection
    assert store._thread is None
    clock.now += 31
    program(server, "other")
    assert has_ended(server, 0)
    store.end_all()


# Threads and identities


@pytest.mark.rust
@pytest.mark.parametrize("count", [10_000])
def test_each_message_arrives_under_its_own_user(
    count: int, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(kept, "store", kept.Store())
    credentials = {"a": "secret of a", "b": "secret of b"}
    extensions = ["PIPELINING", "AUTH PLAIN"]

    def work(user: str | None) -> None:
        for number in range(count // 4):
            # Each thread also acts for the other user now and then, and without a login.
            each = user
            if number % 10 == 9:
                each = {"a": "b", "b": "a"}[user or "a"]
            client = rapidsmtp.SMTP(sink.host, sink.port, "client.example", 30, reuse=30)
            client.login(each, credentials[each or "a"])
            client.sendmail(f"{each}@example.com", "r@example.com", b"Subject: x\r\n\r\n")
            client.quit()

    with Sink(extensions, credentials=credentials) as sink:
        with ThreadPoolExecutor(4) as threads:
            for future in [threads.submit(work, user) for user in "abab"]:
                future.result()
        kept.store.end_all()
        messages = sink.messages
        assert len(messages) == count
        assert all(message.sender == f"{message.user}@example.com" for message in messages)
        stats = rapidsmtp.reuse_stats()
        assert sink.counts["authentications"] == sink.counts["connections"] < count / 10
        assert stats.taken > count * 0.9


def test_a_mix_of_users_and_no_login(store: kept.Store) -> None:
    """A server without required login records who sent each message."""
    with Server(SMTPScript(EXTENSIONS)) as server:

        def work(seed: int) -> None:
            for number in range(60):
                user = ["a", "b", None][(seed + number * number) % 3]
                client = connect(server)
                if user:
                    client.login(user, f"secret of {user}")
                client.sendmail(f"{user}@example.com", "r@example.com", b"x")
                client.quit()

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
        store.end_all()
        for connection in server.connections:
            received = bytes(connection.received)
            senders = {line for line in received.lower().split(b"\r\n") if line.startswith(b"mail")}
            assert len(senders) == 1
            logins = received.count(b"AUTH")
            assert logins == (0 if b"<none@" in next(iter(senders)) else 1)
            # PLAIN, LOGIN or CRAM-MD5: the user is not readable in each of them. Each connection
            # has one login, and messages of one sender.


# Fork


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def in_child(work: Any) -> int:
    """Run a function in a forked child, and return the exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_has_no_connection_of_the_parent(server: Server, store: kept.Store) -> None:
    program(server)
    descriptor = store._idle[0].sock.fileno()

    def work() -> int:
        try:
            os.fstat(descriptor)
            return 2
        except OSError:
            pass
        assert rapidsmtp.reuse_stats() == {"kept": 0, "taken": 0, "refused": {}}
        gc.collect()
        program(server)
        program(server)
        store.end_all()
        return 0

    assert in_child(work) == 0
    assert has_ended(server, 1)
    assert wires(server)[1] == [*SETUP, *MAIL * 2, "quit"]
    program(server)
    assert wires(server)[0] == SETUP + MAIL * 2


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_connection_in_use_is_not_kept_after_a_fork(server: Server) -> None:
    client = connect(server)
    client.login("user", "secret of user")
    send(client)
    in_child(lambda: 0)
    client.quit()
    assert has_ended(server, 0)
    assert rapidsmtp.reuse_stats().refused == {"fork": 1}


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_does_not_use_a_connection_that_was_taken_over(server: Server) -> None:
    program(server)
    client = connect(server)
    client.login("user", "secret of user")

    def work() -> int:
        send(client)
        client.quit()
        return 0

    assert in_child(work) == 0
    assert wires(server)[0] == SETUP + MAIL
    send(client)
    client.quit()
    assert has_ended(server, 0)
    assert [wire.count("mail") for wire in wires(server)] == [1, 1, 1]


@needs_fork
def test_a_fork_without_hooks_is_noticed(server: Server, store: kept.Store) -> None:
    program(server)
    record = store._idle[0]
    store._process = -1  # as if another process had filled the store
    program(server)
    assert record.sock.fileno() == -1
    assert len(server.connections) == 2


# Exceptions of signal handlers


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_exception_in_quit_leaves_no_connection_to_two_clients(
    server: Server, store: kept.Store, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    put = store.put

    def interrupted(*args: Any) -> None:
        if when == "after":
            put(*args)
        raise KeyboardInterrupt

    client = connect(server)
    send(client)
    with monkeypatch.context() as patch:
        patch.setattr(store, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.quit()
    assert client.sock is None
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.quit()
    first, second = connect(server), connect(server)
    assert first.sock is not second.sock
    first.close()
    second.close()


@pytest.mark.parametrize("step", ["another connection", "a fresh connection"])
def test_an_exception_in_a_step_leaves_no_connection_to_two_clients(
    server: Server, store: kept.Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    program(server, "one")
    if step == "another connection":
        first = connect(server)
        first.login("two", "secret of two")
        first.quit()
        program(server, "one")
    put_back = store.put_back

    def interrupted(*args: Any) -> None:
        put_back(*args)
        raise KeyboardInterrupt

    client = connect(server)
    with monkeypatch.context() as patch:
        patch.setattr(store, "put_back", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.login("two", "secret of two")
    client.close()
    before = len(server.connections)
    program(server, "one")
    assert len(server.connections) == before


# Exit

PROGRAM = """
import sys
import rapidsmtp
host, port, users = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(users):
    client = rapidsmtp.SMTP(host, port, "client.example", 5, reuse=30)
    client.login(f"user {number}", "secret")
    client.sendmail("a@example.com", "b@example.com", b"x")
    client.quit()
assert rapidsmtp.reuse_stats().kept == users
"""


def run_program(server: Server, users: int, text: str = PROGRAM) -> Any:
    return processes.run(
        [sys.executable, "-c", text, server.host, str(server.port), str(users)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_all_connections_end_with_quit_at_exit(server: Server) -> None:
    done = run_program(server, 5)
    assert (done.returncode, done.stderr) == (0, "")
    for place in range(5):
        assert has_ended(server, place)


def test_the_exit_does_not_wait_for_silent_servers() -> None:
    over = threading.Event()

    def silent(_: bytes) -> bytes:
        over.wait(30)
        return b"221 bye"

    with Server(SMTPScript(EXTENSIONS, {"quit": silent})) as server:
        text = PROGRAM + "import atexit, time\nstart = time.monotonic()\n"
        text = (
            "import atexit, time\natexit.register(lambda: print(time.monotonic() - start))\n" + text
        )
        done = run_program(server, 5, text)
        assert done.returncode == 0, done.stderr
        assert 0.9 < float(done.stdout) < 3
        over.set()


WORK_OF_CHILD = """
import multiprocessing
def work():
    client = rapidsmtp.SMTP(host, port, "client.example", 5, reuse=30)
    client.ehlo()
    client.quit()
process = multiprocessing.get_context("fork").Process(target=work)
process.start()
process.join()
assert process.exitcode == 0
"""


@needs_fork
def test_the_exit_of_a_child_of_multiprocessing(server: Server) -> None:
    done = run_program(server, 1, PROGRAM + WORK_OF_CHILD)
    assert done.returncode == 0, done.stderr
    assert has_ended(server, 0) and has_ended(server, 1)
    assert wires(server) == [[*SETUP, *MAIL, "quit"], ["ehlo", "quit"]]
