"""`send --metrics-port`: what the `Sender` is doing, for Prometheus to fetch while it does it."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rapidsmtp.cli.usage import UsageError
from rapidsmtp.outcome import Status
from rapidsmtp.sender import Sender

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_GAUGES = {
    "queued": "Messages that wait for a connection.",
    "in_flight": "Messages under way on a connection.",
    "waiting": "Messages that wait to be tried again.",
    "connections": "Connections that are open.",
    "per_second": "Messages accepted a second, over the last seconds.",
}
_COUNTERS = {
    "taken": "Messages that were taken.",
    "retried": "Attempts after the first.",
    "bytes": "Octets written to sockets.",
    "connected": "Connections that were ever opened.",
}


class Collector:
    """Reads a sender's figures whenever somebody asks.

    Args:
        sender: The sender.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def collect(self) -> "Iterator[Metric]":
        """The figures of this moment, as `prometheus_client` wants them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        stats = self._sender.stats()
        outcomes = CounterMetricFamily(
            "rapidsmtp_outcomes", "Messages whose fate is decided, by status.", labels=["status"]
        )
        for status in Status:
            name = status.name.lower()
            outcomes.add_metric([name], getattr(stats, name))
        yield outcomes
        for name, what in _COUNTERS.items():
            yield CounterMetricFamily(f"rapidsmtp_{name}", what, getattr(stats, name))
        for name, what in _GAUGES.items():
            yield GaugeMetricFamily(f"rapidsmtp_{name}", what, getattr(stats, name))
        governor = stats.governor
        what = "Connections that the sender believes the relay allows."
        yield GaugeMetricFamily("rapidsmtp_allowed_connections", what, governor.connections)
        if governor.rate is not None:
            what = "Messages a second that the sender believes the relay allows."
            yield GaugeMetricFamily("rapidsmtp_allowed_per_second", what, governor.rate)


@contextlib.contextmanager
def served(sender: Sender, host: str, port: int | None) -> Iterator[None]:
    """Serve the figures of a sender while the block lasts.

    Args:
        sender: The sender.
        host: The address to listen on.
        port: The port; 0 for any free one, which is told on stderr; None to serve nothing.

    Raises:
        UsageError: The package is not installed, or the port cannot be had.
    """
    if port is None:
        yield
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise UsageError("--metrics-port needs prometheus-client: rapidsmtp[telemetry]") from None
    registry = CollectorRegistry()
    registry.register(Collector(sender))
    try:
        server: Any
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--metrics-port {port} on {host}: {reason}") from None
    shown = f"[{host}]" if ":" in host else host
    print(f"metrics: http://{shown}:{server.server_port}/metrics", file=sys.stderr)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
