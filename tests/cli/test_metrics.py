"""`rapidsmtp send --metrics-port`: metrics while messages are sent."""

import socket
import sys
import threading
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from commandline import ONCE, Command, Relays, ScriptedRelay, accept, one_line

FILES = ("--template", "message.eml", "--to", "list.csv")


def metrics(url: str) -> dict[str, float]:
    """Return the value of each metric at a URL. The key is the metric's name and its labels."""
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics(command: Command, relays: Relays) -> None:
    reached, looked_at = threading.Event(), threading.Event()

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line == "." and len(relay.bodies) >= 2:
            reached.set()
            assert looked_at.wait(30)
        return "550 5.7.1 no" if "bo@" in line else accept(relay, line)

    relay = relays(script)
    process = command.start("send", "--relay", relay.url, *FILES, *ONCE, "--metrics-port", "0")
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("metrics: http://127.0.0.1:") and line.endswith("/metrics\n")
    assert reached.wait(30)
    found = metrics(line.split()[1])
    # The engine reports outcomes in batches, so the metric may count the accepted message with a
    # delay.
    while not found["rapidsmtp_outcomes_total accepted"]:
        time.sleep(0.01)
        found = metrics(line.split()[1])
    looked_at.set()
    assert found["rapidsmtp_taken_total"] == 3
    assert found["rapidsmtp_outcomes_total accepted"] == 1
    assert found["rapidsmtp_in_flight"] >= 1 and found["rapidsmtp_connections"] == 1
    assert found["rapidsmtp_bytes_total"] > 0 and found["rapidsmtp_allowed_connections"] == 1
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    # The command has ended, so the metrics server must have ended too.
    with pytest.raises(OSError):
        metrics(line.split()[1])


def test_a_port_in_use(command: Command, relays: Relays) -> None:
    relay = relays()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        one_line(command.send(relay.url, "--metrics-port", port), f"--metrics-port {port}")
    assert relay.connections == 0


@pytest.mark.parametrize("port", ["x", "65536", "-1"])
def test_a_bad_port(command: Command, relays: Relays, port: str) -> None:
    result = command.send(relays().url, f"--metrics-port={port}")
    assert result.returncode == 2 and "is not a port number (0 to 65535)" in result.stderr


def test_without_the_package(
    command: Command, relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)  # importing it fails
    relay = relays()
    one_line(
        command.send(relay.url, "--metrics-port", "0"),
        "prometheus-client: pip install 'rapidsmtp[telemetry]'",
    )
    assert relay.connections == 0
