"""Outages of the network between a client and a real server: slow, lossy and dead links."""

from pathlib import Path

import pytest

from outages.harness import Plan, check, connections, record, wait_for_the_middle
from outages.servers import Exim
from outages.spaces import Link, Space, flow, run
from outages.stage import Stage
from real_servers import RealServer

SHORT = {
    **dict.fromkeys(("connect", "greeting", "command", "mail", "rcpt", "data", "block"), 1.0),
    "body": 1.0,
    "quit": 0.1,
}
"""Time limits in seconds. They are shorter than the time after which TCP gives up a connection."""


@pytest.fixture
def spaces(stage: Stage) -> tuple[Space, Space]:
    return stage.space(network=True), stage.space(network=True)


@pytest.fixture
def link(stage: Stage, spaces: tuple[Space, Space]) -> Link:
    return stage.link(*spaces)


@pytest.fixture
def server(stage: Stage, spaces: tuple[Space, Space], link: Link) -> RealServer:
    return stage.server(Exim, spaces[1], address=link.SERVER)


def plan_for(server: RealServer, host: str = Link.SERVER, **options: object) -> Plan:
    return Plan(f"smtp://{host}:{server.ports['plain']}?starttls=off", options=options)


@pytest.mark.parametrize(
    "faults",
    [
        {"delay": 0.15},
        {"delay": 0.005, "loss": 0.03},
        {"delay": 0.01, "reordered": 0.3},
        {"delay": 0.02, "reordered": 0.2, "loss": 0.02},
    ],
    ids=["delay", "loss", "reordering", "all"],
)
def test_a_bad_link_loses_and_doubles_no_message(
    stage: Stage, spaces: tuple[Space, Space], link: Link, server: RealServer, faults: dict
) -> None:
    for name, value in faults.items():
        setattr(link, name, value)
    plan = plan_for(server, connections=8)
    plan.count = 40
    result = stage.client(plan, spaces[0]).finish()
    check(result, record(server, plan), plan)
    assert result.error is None
    assert result.numbers("accepted") == set(range(plan.count))


def test_half_open_connections_are_replaced(
    stage: Stage, spaces: tuple[Space, Space], link: Link, server: RealServer
) -> None:
    """A router forgets all connections and drops their packets. New connections work."""
    plan = plan_for(server, timeouts=SHORT, max_attempts=100)
    plan.hold = 150
    client = stage.client(plan, spaces[0])
    wait_for_the_middle(client, server)
    forgotten = frozenset(link.flows)
    link.dropped = lambda packet: flow(packet) in forgotten
    client.go()
    result = client.finish()
    check(result, record(server, plan), plan, unknown=connections(server))
    assert result.error is None
    assert result.numbers("accepted", "unknown") == set(range(plan.count))


def test_a_dead_link_ends_the_sender(
    stage: Stage, spaces: tuple[Space, Space], link: Link, server: RealServer
) -> None:
    plan = plan_for(server, timeouts=SHORT, max_attempts=2)
    plan.hold, plan.clock_speed = 150, 50.0
    client = stage.client(plan, spaces[0])
    wait_for_the_middle(client, server)
    link.dropped = lambda packet: True
    client.go()
    result = client.finish()
    check(result, record(server, plan), plan, unknown=connections(server))
    assert result.error is not None
    assert result.numbers("not attempted", "deferred")


@pytest.mark.parametrize("dead", ["dropped", "refused"])
def test_a_dead_ipv6_address_does_not_hide_the_ipv4_address(
    stage: Stage, spaces: tuple[Space, Space], link: Link, server: RealServer, dead: str
) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    # The server listens on the IPv4 address only, so its system refuses connections over IPv6.
    six: list[bytes] = []

    def is_dropped(packet: bytes) -> bool:
        if packet[0] >> 4 == 6 and packet[6] == 6:
            six.append(packet)
            return dead == "dropped"
        return False

    link.dropped = is_dropped
    hosts = server.folder / "hosts"
    hosts.write_text(f"{link.SERVER6} relay.example\n{link.SERVER} relay.example\n")
    spaces[0].call(run, "mount", "--bind", hosts, "/etc/hosts")
    # The attempts for the addresses overlap, so this limit of the dead address delays nothing.
    plan = plan_for(server, "relay.example", timeouts={"connect": 600.0})
    plan.count = 40
    result = stage.client(plan, spaces[0]).finish()
    check(result, record(server, plan), plan)
    assert six, "the client tried no IPv6 address"
    assert result.numbers("accepted") == set(range(plan.count))
