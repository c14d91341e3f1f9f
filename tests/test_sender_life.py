"""A `Sender` and its process: Ctrl-C, fork, interpreter exit, and garbage collection.

Most tests run a program in a separate process. The URL of the relay is the program's argument.
"""

import gc
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import processes
import rapidsmtp
from rapidsmtp import Message, Sender, Status
from rapidsmtp._bulk.batching import Batches
from senders import wait_for
from server import TIMEOUT, Server, SMTPScript

EXTENSIONS = ("PIPELINING", "8BITMIME")
PROCESS = 20.0
"""The time limit of a process that a test starts, in seconds."""

PREAMBLE = """
    import os, signal, sys, threading, time
    from rapidsmtp import Message, RelayError, Sender, Status
    url = sys.argv[1]
    def numbered(count, start=0):
        for number in range(start, start + count):
            yield Message("s@example.com", [f"r{number}@example.com"], b"x", tag=number)
"""

Run = Callable[..., "subprocess.Popen[str]"]


def url(server: Server) -> str:
    return f"smtp://{server.host}:{server.port}"


def received(server: Server) -> bytes:
    return b"".join(bytes(each.received) for each in server.connections)


def bodies(server: Server) -> int:
    return received(server).count(b"\r\n.\r\n")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(SMTPScript(EXTENSIONS)) as server:
        yield server


@pytest.fixture
def silent() -> Iterator[Server]:
    """Start a server that delays its reply to each body for a minute, or until the test ends."""
    ended = threading.Event()

    def message(body: bytes) -> bytes:
        ended.wait(60)
        return b"250 ok"

    with Server(SMTPScript(EXTENSIONS, replies={"message": message})) as server:
        yield server
        ended.set()


@pytest.fixture
def run(backend: str, tmp_path: Path) -> Iterator[Run]:
    """Return a function that starts a program with the backend under test."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, server: Server, *arguments: str) -> "subprocess.Popen[str]":
        file = tmp_path / "program.py"
        file.write_text(textwrap.dedent(PREAMBLE) + textwrap.dedent(program))
        package = str(Path(rapidsmtp.__file__).parent.parent)
        started.append(
            processes.start(
                [sys.executable, "-X", "faulthandler", file, url(server), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "RAPIDSMTP_CORE": backend, "PYTHONPATH": package},
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: "subprocess.Popen[str]", status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=PROCESS)
    assert process.returncode == status, err
    return out.strip(), err.strip()


# Ctrl-C


class Full:
    """An engine whose queue is full."""

    def open_outbox(self) -> int:
        return 1

    def submit(self, outbox: int, messages: list[object], wait: float) -> int:
        return 0

    def take(self, outbox: int, into: list[object], limit: int, wait: float) -> int:
        return 0

    def pending(self, outbox: int) -> int:
        return 0

    def error(self) -> None:
        return None


def test_a_message_that_a_full_queue_never_accepted_is_reported() -> None:
    messages = [Message("s@example.com", [f"r{n}@example.com"], b"x", tag=n) for n in range(3)]
    batches = Batches(Full(), messages, 10, lambda _: None)
    batches.advance()
    batches.stop_taking()
    batches.submit_all(time.monotonic() + 0.05)
    assert not batches.is_submitted
    batches.abandon("closed")
    outcomes = list(batches.remaining())
    assert [each.tag for each in outcomes] == [0, 1, 2]
    assert {each.status for each in outcomes} == {Status.NOT_ATTEMPTED}
    assert batches.is_over and batches.is_submitted


UNTIL_INTERRUPTED = """
    how = sys.argv[2]
    outcomes = []
    sender = Sender(url, connections=2)
    try:
        with sender:
            if how == "send":
                for outcome in sender.send(numbered(1_000_000)):
                    outcomes.append(outcome)
            elif how == "send_all":
                sender.send_all(numbered(1_000_000))
            else:
                futures = [sender.submit(each) for each in numbered(100)]
                outcomes = [future.result() for future in futures]
    except KeyboardInterrupt as error:
        report, stats = sender.close(), sender.stats()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("how", ["send", "send_all"])
def test_control_c_at_any_moment_loses_no_outcome(run: Run, how: str) -> None:
    """Ctrl-C loses no outcome, except one that is being returned.

    No message is sent twice.
    """
    program = f"""{UNTIL_INTERRUPTED}
        more = error.report.total if how == "send_all" else len(outcomes)
        print(stats.taken - report.total - more)
    """
    for turn in range(4):
        with Server(SMTPScript(EXTENSIONS)) as server:
            process = run(program, server, how)
            wait_for(lambda: bodies(server) > 0)
            time.sleep(0.03 * turn)
            process.send_signal(signal.SIGINT)
            out, _ = ended(process)
            assert int(out) in ((0, 1) if how == "send" else (0,))
            recipients = re.findall(rb"(?i)rcpt to:<(r\d+)@", received(server))
            assert len(set(recipients)) == len(recipients) > 0


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("how", ["send", "send_all", "submit"])
def test_control_c_does_not_wait_for_replies(run: Run, silent: Server, how: str) -> None:
    program = f"""{UNTIL_INTERRUPTED}
        if how == "submit":
            assert all(future.done() for future in futures)
            count = len(futures)
        else:
            count = len(outcomes) + report.total
        decided = stats.accepted + stats.unknown + stats.not_attempted
        assert count == stats.taken == decided, (count, report, stats)
        print(stats.unknown, stats.queued, stats.in_flight)
    """
    process = run(program, silent, how)
    wait_for(lambda: bodies(silent) == 2)
    time.sleep(0.1)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, _ = ended(process)
    # A wait for the replies to all messages would take longer than 30 seconds.
    assert time.monotonic() - start < 30
    assert out == "2 0 0"


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_control_c_without_a_with_block_ends_the_process(run: Run, silent: Server) -> None:
    process = run("list(Sender(url, connections=1).send(numbered(50)))", silent)
    wait_for(lambda: bodies(silent) == 1)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PROCESS)
    assert time.monotonic() - start < 30
    assert "KeyboardInterrupt" in err and "rapidsmtp: at exit" in err


# The end of the interpreter


def test_exit_without_close_sends_all_messages(run: Run, server: Server) -> None:
    process = run(
        """
        sender = Sender(url)
        outcomes = sender.send(numbered(200))
        print(next(outcomes).status.name)
        """,
        server,
    )
    out, err = ended(process)
    assert (out, err) == ("ACCEPTED", "")
    assert bodies(server) >= 1
    for number in range(bodies(server)):
        assert received(server).count(b"<r%d@example.com>" % number) == 1


def test_exit_with_pending_futures_calls_their_callbacks(run: Run, server: Server) -> None:
    process = run(
        """
        sender = Sender(url)
        for message in numbered(200):
            sender.submit(message).add_done_callback(lambda each: print(each.result().tag))
        """,
        server,
    )
    out, err = ended(process)
    assert sorted(map(int, out.split())) == list(range(200)) and err == ""
    assert bodies(server) == 200


def test_exit_reports_unsent_messages(run: Run, silent: Server) -> None:
    process = run(
        """
        from rapidsmtp._bulk import lifecycle
        lifecycle._AT_EXIT = 0.3
        sender = Sender(url, connections=1)
        for message in numbered(10):
            sender.submit(message)
        time.sleep(0.5)
        """,
        silent,
    )
    _, err = ended(process)
    name = f"127.0.0.1:{silent.port}"
    lost = f"rapidsmtp: at exit, 9 messages were not sent to {name}"
    assert err == f"{lost} and 1 may have been delivered"


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="3.12 starts no thread after the main thread has ended"
)
def test_exit_waits_for_a_thread_that_sends_with_a_trace(run: Run, server: Server) -> None:
    process = run(
        """
        sender = Sender(url, trace=lambda line: None)
        def work():
            print(sender.send_all(numbered(50)).accepted)
        threading.Thread(target=work).start()
        """,
        server,
    )
    assert ended(process) == ("50", "")


def test_exit_does_not_wait_for_a_daemon_thread(run: Run, server: Server) -> None:
    process = run(
        """
        sender = Sender(url)
        def work():
            sender.send_all(numbered(10_000_000))
        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.5)
        """,
        server,
    )
    _, err = ended(process)
    # The line about unsent messages is the only permitted output. A thread that prints a traceback
    # at the exit of the interpreter may abort the process.
    assert err.count("\n") <= 1 and "Traceback" not in err and "Fatal" not in err


# Fork


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")


@needs_fork
def test_a_child_starts_a_new_engine(run: Run, server: Server) -> None:
    process = run(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        sender = Sender(url, connections=1)
        assert sender.send_all(numbered(3)).accepted == 3
        pending = sender.submit(next(numbered(1, 100)))
        pending.result()
        before = sender._core.descriptors()
        child = os.fork()
        if not child:
            signal.alarm(10)
            status = 1
            try:
                for descriptor in before:
                    try:
                        os.fstat(descriptor)
                    except OSError:
                        continue
                    raise AssertionError("an inherited socket is open")
                assert sender.stats().taken == 0
                assert sender.send_all(numbered(5, 10)).accepted == 5
                assert sender.submit(next(numbered(1, 200))).result(5).tag == 200
                sender.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert sender.send_all(numbered(3, 20)).accepted == 3
        sender.close()
        print(sender.stats().accepted, sender.stats().connected)
        """,
        server,
    )
    assert ended(process) == ("7 1", "")
    assert len(server.connections) == 2 and bodies(server) == 13


@needs_fork
def test_a_child_ends_without_the_threads_of_its_parent(run: Run, server: Server) -> None:
    """The child process ends without waiting for a thread of its parent.

    Destructors and exit handlers run in the child.
    """
    process = run(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        sender = Sender(url, trace=lambda line: None)
        futures = [sender.submit(each) for each in numbered(20)]
        child = os.fork()
        if not child:
            signal.alarm(10)
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print(sum(future.result().status is Status.ACCEPTED for future in futures))
        """,
        server,
    )
    assert ended(process) == ("20", "")
    assert bodies(server) == 20


@needs_fork
def test_a_fork_during_a_send_does_not_disturb_the_parent(run: Run, server: Server) -> None:
    process = run(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        sender = Sender(url)
        outcomes = sender.send(numbered(500))
        taken = [next(outcomes)]
        child = os.fork()
        if not child:
            signal.alarm(10)
            try:
                list(outcomes)
            except RuntimeError as error:
                os._exit(7 if "forked" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        taken += outcomes
        print(len(taken))
        """,
        server,
    )
    assert ended(process) == ("500", "")
    assert bodies(server) == 500


# The garbage collector


@pytest.mark.usefixtures("backend")
def test_a_dropped_sender_closes_its_connections(server: Server) -> None:
    sender = Sender(url(server))
    sender.send_all([Message("a@example.com", ["b@example.com"], b"x")])
    with pytest.warns(ResourceWarning, match="unclosed <Sender smtp://127.0.0.1"):
        del sender
        gc.collect()
    wait_for(lambda: all(each.over.is_set() for each in server.connections))
    assert b"QUIT\r\n" in received(server).upper()


@pytest.mark.usefixtures("backend")
def test_the_messages_of_a_dropped_sender_are_sent(server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        futures = [
            Sender(url(server)).submit(Message("a@example.com", [f"r{number}@x.example"], b"x"))
            for number in range(10)
        ]
        assert {each.result(TIMEOUT).status for each in futures} == {Status.ACCEPTED}
        gc.collect()


@pytest.mark.usefixtures("backend")
def test_no_thread_remains(server: Server) -> None:
    before = set(threading.enumerate())
    with Sender(url(server), trace=lambda line: None) as sender:
        sender.send_all(Message("a@example.com", ["b@example.com"], b"x") for _ in range(10))
        sender.submit(Message("a@example.com", ["b@example.com"], b"x")).result(TIMEOUT)

    def ours() -> list[str]:
        return [
            thread.name
            for thread in set(threading.enumerate()) - before
            if "rapidsmtp" in thread.name
        ]

    wait_for(lambda: not ours())
