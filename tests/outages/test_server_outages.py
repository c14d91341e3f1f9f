"""Outages of a real server: it is killed, stopped or reloaded, or its disk is full."""

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from outages.harness import (
    CONNECTIONS,
    Plan,
    check,
    kill,
    record,
    resume,
    seconds,
    settle,
    stop,
    wait_for_the_middle,
    wait_until,
)
from outages.servers import Exim, HoldingPostfix
from outages.spaces import run
from outages.stage import Stage
from real_servers import Postfix, RealServer, Unavailable

PATIENT = {
    # The wait for a restart of the server is limited by the test, not by the sender.
    "max_attempts": 100_000,
    "backoff": {"base": 0.05, "maximum": 0.2},
}

SHORT = {
    **dict.fromkeys(("greeting", "command", "mail", "rcpt", "data", "block", "body"), 1.0),
    "quit": 0.1,
}
"""Time limits in seconds."""

servers = pytest.mark.parametrize("kind", [HoldingPostfix, Exim], ids=lambda kind: kind.name)


def plan_for(server: RealServer, **options: object) -> Plan:
    url = f"smtp://{server.address}:{server.ports['plain']}?starttls=off"
    return Plan(url, count=500, hold=450, options=PATIENT | options)


def restart(server: RealServer) -> None:
    """Start a server again. Postfix does not start while it cannot repair its queue."""

    def starts() -> bool:
        with contextlib.suppress(Unavailable):
            server.start()
            return True
        return False

    wait_until(starts, "the server does not start again")


@servers
@pytest.mark.parametrize("on_unknown", ["report", "resend"])
def test_a_killed_server_loses_and_doubles_no_message(stage: Stage, kind, on_unknown) -> None:
    server = stage.server(kind)
    plan = plan_for(server, on_unknown=on_unknown)
    # With this speed, the sender waits 90 s for a server that starts slowly on a busy machine.
    plan.clock_speed = 0.5
    client = stage.client(plan)
    wait_for_the_middle(client, server)
    kill(server)
    client.go()
    restart(server)
    result = client.finish()
    resend = on_unknown == "resend"
    check(result, record(server, plan), plan, unknown=0 if resend else CONNECTIONS, copies=resend)
    assert result.error is None
    assert result.numbers("accepted", "unknown") == set(range(plan.count))


@servers
def test_a_stopped_server_delays_messages(stage: Stage, kind) -> None:
    server = stage.server(kind)
    plan = plan_for(server)
    client = stage.client(plan)
    wait_for_the_middle(client, server)
    stop(server)
    client.go()
    time.sleep(seconds(0.5))
    resume(server)
    result = client.finish()
    check(result, record(server, plan), plan)
    assert result.error is None
    assert result.numbers("accepted") == set(range(plan.count))


@servers
def test_a_server_stopped_beyond_the_time_limits_doubles_no_message(stage: Stage, kind) -> None:
    """After SIGCONT, the server executes the commands that the client had sent before."""
    server = stage.server(kind)
    plan = plan_for(server, timeouts=SHORT)
    client = stage.client(plan)
    wait_for_the_middle(client, server)
    stop(server)
    client.go()
    time.sleep(2.0)  # twice the time limits
    resume(server)
    result = client.finish()
    settle(server)
    check(result, record(server, plan), plan, unknown=plan.count)
    assert result.error is None
    assert result.numbers("accepted", "unknown") == set(range(plan.count))


def reload(server: RealServer) -> None:
    assert server.process is not None
    if isinstance(server, Postfix):
        run(server.program, "-c", server.settings, "reload")
    else:
        os.kill(server.process.pid, signal.SIGHUP)


@servers
def test_a_reload_of_the_server_affects_no_message(stage: Stage, kind) -> None:
    server = stage.server(kind)
    plan = plan_for(server)
    client = stage.client(plan)
    wait_for_the_middle(client, server)
    reload(server)
    client.go()
    result = client.finish()
    check(result, record(server, plan), plan)
    assert result.error is None
    assert result.numbers("accepted") == set(range(plan.count))


class SmallPostfix(HoldingPostfix):
    """Postfix, which refuses MAIL if the disk has no space for 1.5 times this size."""

    size_limit = 20_000


class BoldExim(Exim):
    """Exim, which does not check the space on the disk before it writes a message."""

    def configure(self) -> None:
        super().configure()
        file = self.folder / "exim.conf"
        file.write_text("check_spool_space = 0\ncheck_spool_inodes = 0\n" + file.read_text())


FULL = re.compile(r"Insufficient system storage|No space left on device|space shortage")


@pytest.mark.parametrize("recovers", [True, False], ids=["for a while", "for ever"])
@pytest.mark.parametrize("kind", [SmallPostfix, BoldExim], ids=lambda kind: kind.name)
def test_a_full_disk_loses_and_doubles_no_message(stage: Stage, kind, recovers) -> None:
    space = stage.space()

    def mount(server: RealServer) -> None:
        folder = spool(server)
        status = folder.stat()
        run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder)
        os.chown(folder, status.st_uid, status.st_gid)
        folder.chmod(status.st_mode)

    server = stage.server(kind, space, prepare=mount)
    # Without space for a queue file, Postfix sends no reply until there is space.
    plan = plan_for(server, **{} if recovers else {"max_attempts": 2, "timeouts": SHORT})
    if not recovers:
        # Each attempt without a reply takes a second. The engine may use one connection only.
        plan.count = plan.hold + 20
    plan.clock_speed = 50.0
    plan.options["backoff"] = {"base": 5.0, "maximum": 5.0}
    client = stage.client(plan)
    space.call(wait_for_the_middle, client, server)
    filler = spool(server) / "filler"
    space.call(fill, filler)
    client.go()
    wait_until(lambda: FULL.search(server.log()), "the disk is not full")
    if recovers:
        space.call(filler.unlink)
    result = client.finish()
    if not recovers:
        space.call(filler.unlink)
        space.call(settle, server)
    unknown = 0 if recovers else plan.count
    check(result, space.call(record, server, plan), plan, unknown=unknown)
    if recovers:
        assert result.error is None
        assert result.numbers("accepted") == set(range(plan.count))
    else:
        assert result.error or result.numbers("deferred")


def spool(server: RealServer) -> Path:
    return server.folder / ("queue" if isinstance(server, Postfix) else "spool")


def fill(filler: Path) -> None:
    """Fill a disk except for a few pages, so that some messages still fit."""
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], check=False, capture_output=True
    )
    os.truncate(filler, max(0, filler.stat().st_size - 3 * 4096))
