"""Outages of the client: it is stopped, or it lacks descriptors or memory, or its clock jumps."""

import signal
import time
from pathlib import Path

import pytest

from outages.harness import (
    Plan,
    check,
    connections,
    record,
    seconds,
    wait_for_the_middle,
)
from outages.servers import Exim, HoldingPostfix
from outages.stage import Stage
from real_servers import RealServer


def plan_for(server: RealServer, port: str = "plain", **options: object) -> Plan:
    url = f"smtp://127.0.0.1:{server.ports[port]}?starttls=off"
    return Plan(url, count=300, hold=250, options=options)


@pytest.mark.parametrize("kind", [HoldingPostfix, Exim], ids=lambda kind: kind.name)
def test_a_stopped_client_continues(stage: Stage, kind: type[RealServer]) -> None:
    """The server closes all connections while the client is stopped, because its limit is 2 s."""
    server = stage.server(kind)
    plan = plan_for(server, "short timeout", max_attempts=100)
    client = stage.client(plan)
    wait_for_the_middle(client, server)
    client.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds(3.0))
    client.process.send_signal(signal.SIGCONT)
    client.go()
    result = client.finish(60 + seconds(3.0))
    check(result, record(server, plan), plan, unknown=connections(server))
    assert result.error is None
    assert result.numbers("accepted", "unknown") == set(range(plan.count))


@pytest.mark.parametrize("descriptors", [0, 3, 8, 20])
def test_a_lack_of_descriptors_loses_no_message(stage: Stage, descriptors: int) -> None:
    server = stage.server(Exim)
    plan = plan_for(server, connections=30, max_attempts=3)
    plan.hold, plan.descriptors, plan.clock_speed = None, descriptors, 50.0
    result = stage.client(plan).finish()
    check(result, record(server, plan), plan)
    if result.error is None:
        assert result.numbers("accepted") == set(range(plan.count))
    elif result.outcomes:
        assert result.numbers("accepted", "not attempted", "deferred")
    if descriptors == 20:
        assert result.error is None
    if descriptors == 0:
        assert "Too many open files" in str(result.error)


class LargeExim(Exim):
    size_limit = 200_000_000


def test_attachments_of_100_mb_need_bounded_memory(stage: Stage) -> None:
    """The address space is enough for four copies of a message, and three messages are sent."""
    server = stage.server(LargeExim)
    plan = plan_for(server, connections=1, queue_size=1)
    plan.count, plan.hold, plan.size, plan.memory = 3, None, 100_000_000, 600_000_000
    result = stage.client(plan).finish()
    check(result, record(server, plan), plan)
    assert result.numbers("accepted") == set(range(plan.count))


def test_a_lack_of_memory_hides_no_outcome(stage: Stage) -> None:
    """The program has memory for one message, and raises MemoryError at the next one."""
    server = stage.server(LargeExim)
    plan = plan_for(server, connections=2, queue_size=2)
    plan.count, plan.hold, plan.size, plan.memory = 8, None, 100_000_000, 400_000_000
    client = stage.client(plan)
    result = client.finish(allow_failure=True)
    check(result, record(server, plan), plan, complete=False)
    assert result.status == 1
    assert "MemoryError" in client.errors()
    assert result.numbers("accepted") == set(record(server, plan))


@pytest.mark.parametrize("jump", ["+3600", "-3600", "+315360000"])
def test_a_jump_of_the_clock_delays_no_message(stage: Stage, jump: str) -> None:
    """The clock jumps while the rate limit makes the client wait before each message.

    libfaketime changes the clock of the compiled backend. For the pure-Python backend, the client
    replaces `time.time`, because libfaketime also affects the waits of Python's locks.
    """
    server = stage.server(Exim)
    clock = server.folder / "clock"
    clock.write_text("+0\n")
    environment = {}
    if stage.backend == "rust":
        libraries = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        if not libraries:
            pytest.skip("libfaketime is not installed; .ci/run installs it")
        environment = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            # CLOCK_MONOTONIC never jumps on a real system.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    plan = plan_for(server, rate=60)
    plan.count, plan.hold = 120, 80
    plan.clock = None if environment else str(clock)
    client = stage.client(plan, **environment)
    wait_for_the_middle(client, server)
    clock.write_text(f"{jump}\n")
    client.go()
    result = client.finish()
    check(result, record(server, plan), plan)
    assert result.error is None
    assert result.numbers("accepted") == set(range(plan.count))
