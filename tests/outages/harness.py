"""Run `client.py`, and compare its outcomes with the record of the server."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import processes
from outages.client import content
from real_servers import Postfix, RealServer

LIMIT = 180.0
"""The maximum seconds of each wait. It only bounds a test that fails."""

CONNECTIONS = 4


def seconds(short: float) -> float:
    """Return the length of an outage: OUTAGE_SECONDS if it is set, or else a short time."""
    return float(os.environ.get("OUTAGE_SECONDS", short))


@dataclass
class Plan:
    """The argument of `client.py`.

    Attributes:
        url: The relay.
        count: The number of messages.
        hold: The number of the message before which the client pauses; None for no pause.
        size: The size of the messages in bytes.
        options: The options of `Sender`.
        clock_speed: The speed of the sender's clock for backoff, rates and hold-offs.
        descriptors: The number of descriptors that the client may open.
        memory: The address space that the client may allocate, in bytes.
        clock: A file with the seconds by which the client's `time.time` is ahead.
    """

    url: str
    count: int = 200
    hold: int | None = None
    size: int = 1000
    options: dict[str, Any] = field(default_factory=dict)
    clock_speed: float = 1.0
    descriptors: int | None = None
    memory: int | None = None
    clock: str | None = None


@dataclass
class Result:
    """The outcomes that the client printed.

    Attributes:
        outcomes: The number and the status of each outcome.
        reasons: The reason of each outcome, by the number of the message.
        error: The exception of the sender, as text.
        seconds: The duration of sending.
        status: The exit status of the process.
    """

    outcomes: list[tuple[int, str]]
    reasons: dict[int, str]
    error: str | None
    seconds: float
    status: int

    def numbers(self, *statuses: str) -> set[int]:
        return {number for number, status in self.outcomes if status in statuses}


class Client:
    """A running `client.py`."""

    def __init__(self, plan: Plan, backend: str, **environment: str) -> None:
        plan.options = {"connections": CONNECTIONS} | plan.options
        program = Path(__file__).with_name("client.py")
        paths = os.pathsep.join(each for each in sys.path if each)
        self.process = processes.start(
            [sys.executable, "-X", "faulthandler", "-P", str(program), json.dumps(asdict(plan))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"RAPIDSMTP_CORE": backend, "PYTHONPATH": paths} | environment,
        )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._events: list[dict[str, Any]] = []
        self._error_output = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def wait(self, event: str, count: int = 1, status: str | None = None) -> None:
        """Wait until the client has printed a number of events, optionally with a status."""
        deadline = time.monotonic() + LIMIT
        while (
            sum(
                each["event"] == event and status in (None, each.get("status"))
                for each in self._events
            )
            < count
        ):
            line = self._line(deadline)
            assert line is not None, f"the client ended: {self.errors()}"
            self._events.append(line)

    def _line(self, deadline: float) -> dict[str, Any] | None:
        """Return the next line of the client; None after its end."""
        try:
            return self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            # Python then prints the stacks of all threads of the client.
            self.process.send_signal(signal.SIGABRT)
            events = [f"{each}" for each in self._events[-5:]]
            raise AssertionError(f"no line after {events}: {self.errors()}") from None

    def go(self) -> None:
        """End the pause before the message `hold`."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def finish(self, limit: float = LIMIT, *, allow_failure: bool = False) -> Result:
        """Wait for the end of the client, and return its outcomes."""
        deadline = time.monotonic() + limit
        while (line := self._line(deadline)) is not None:
            self._events.append(line)
        status = self.process.wait(limit)
        outcomes = [each for each in self._events if each["event"] == "outcome"]
        end = next((each for each in self._events if each["event"] == "end"), {})
        assert allow_failure or (end and status == 0), f"status {status}: {self.errors()}"
        return Result(
            outcomes=[(each["number"], each["status"]) for each in outcomes],
            reasons={each["number"]: each["reason"] for each in outcomes},
            error=end.get("error"),
            seconds=end.get("seconds", 0.0),
            status=status,
        )

    def errors(self) -> str:
        """Wait for the end of the client, and return the end of its error output."""
        self.process.wait(LIMIT)
        assert self.process.stderr is not None
        return self.process.stderr.read().decode(errors="replace")[-5000:]

    def close(self) -> None:
        """Kill the client if it is still running."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def stop(server: RealServer) -> None:
    """Stop all processes of a server with SIGSTOP."""

    def are_stopped() -> bool:
        # A process that is not stopped yet may start another process.
        states = {each: _state(each) for each in server.process_ids()}
        for each in states:
            _signal(each, signal.SIGSTOP)
        return set(states.values()) <= {"T", "Z", ""}

    wait_until(are_stopped, "the server's processes do not stop")


def resume(server: RealServer) -> None:
    for each in server.process_ids():
        _signal(each, signal.SIGCONT)


def kill(server: RealServer) -> None:
    """Kill all processes of a server with SIGKILL, at the same time."""
    stop(server)
    for each in server.process_ids():
        _signal(each, signal.SIGKILL)
    server.stop()


def settle(server: RealServer) -> None:
    """Wait until the server has executed the commands of lost connections."""
    if isinstance(server, Postfix):
        server.settled_log()
        return
    # Exim has one process for each connection, and one process that accepts connections.
    first, *_ = server.process_ids()

    def are_closed() -> bool:
        return all(_state(each) in ("Z", "") for each in server.process_ids() if each != first)

    wait_until(are_closed, "connections remain open")


def _signal(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _state(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def wait_until(condition: Callable[[], Any], text: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, text
        time.sleep(0.01)


def wait_for_the_middle(client: Client, server: RealServer) -> None:
    """Wait until the server has accepted some of the messages before the pause of the client."""
    client.wait("held")
    wait_until(lambda: len(server.deliveries()) >= 5, "the server accepts no messages")


def connections(server: RealServer) -> int:
    """Return the number of connections in the server's log.

    Each connection can cause one unknown outcome.
    """
    return len(server.connected.findall(server.log()))


def check(
    result: Result,
    record: Counter[int],
    plan: Plan,
    *,
    unknown: int = 0,
    copies: bool = False,
    complete: bool = True,
) -> None:
    """Compare the outcomes with the server's record.

    Args:
        result: The outcomes.
        record: The number of copies of each message that the server accepted.
        plan: The plan of the client.
        unknown: The maximum number of messages with an unknown outcome.
        copies: Whether the sender may send a message again if its outcome is unknown.
        complete: Whether the client ended by itself, so that each message has an outcome.
    """
    counts = Counter(number for number, _ in result.outcomes)
    assert all(count == 1 for count in counts.values()), f"doubled outcomes: {counts}"
    if complete and not result.error:
        assert set(counts) == set(range(plan.count)), "lost messages"
    accepted = result.numbers("accepted")
    assert accepted <= set(record), f"accepted, but not on record: {accepted - set(record)}"
    others = set(counts) - accepted - result.numbers("unknown")
    assert not others & set(record), f"on record, but {result.outcomes}"
    assert len(result.numbers("unknown")) <= unknown, result.reasons
    if complete:
        assert set(record) <= set(counts), f"on record without an outcome: {set(record)}"
    if not copies:
        assert set(record.values()) <= {1}, f"doubled messages: {record}"


def record(server: RealServer, plan: Plan) -> Counter[int]:
    """Return the number of copies of each message that a server accepted.

    The function also compares the envelopes and the bodies.
    """
    found: Counter[int] = Counter()
    expected = content(0, plan.size).partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n")
    rest = expected.partition(b"\n")[2]
    for sender, recipient, body in server.deliveries():
        first, _, others = body.partition(b"\n")
        number = int(first.removeprefix(b"message "))
        assert (sender, recipient) == (f"s{number}@example.com", f"r{number}@example.com")
        assert others == rest, f"message {number} is incomplete"
        found[number] += 1
    return found
