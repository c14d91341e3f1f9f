"""`send --metrics-port`: an HTTP server from which Prometheus reads the sender's counters."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rapidsmtp._bulk.sender import Sender
from rapidsmtp._models.outcome import SENDER_STATUSES
from rapidsmtp.cli import display
from rapidsmtp.cli.usage import UsageError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_GAUGES = {
    "queued": "Messages that wait for a connection.",
    "in_flight": "Messages being sent.",
    "waiting": "Messages that wait for a retry.",
    "connections": "Open connections.",
    "refusing_for": "Seconds for which the relay has refused every message.",
    "per_second": "Messages accepted per second, averaged over the last seconds.",
}
_COUNTERS = {
    "taken": "Messages submitted to the sender.",
    "retried": "Attempts after the first attempt of a message.",
    "bytes": "Bytes written to sockets.",
    "connected": "Connections opened.",
}


class StatsCollector:
    """A Prometheus collector that reads the counters of a sender at each scrape.

    Args:
        sender: The sender whose counters are read.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def collect(self) -> "Iterator[Metric]":
        """Yield the current values as metric families of `prometheus_client`."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        stats = self._sender.stats()
        outcomes = CounterMetricFamily(
            "rapidsmtp_outcomes", "Messages with an outcome, by status.", labels=["status"]
        )
        for status in SENDER_STATUSES:
            name = status.name.lower()
            outcomes.add_metric([name], getattr(stats, name))
        yield outcomes
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"rapidsmtp_{name}", text, getattr(stats, name))
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"rapidsmtp_{name}", text, getattr(stats, name))
        limits = stats.relay_limits
        text = "Connections that the relay allows, as estimated by the sender."
        yield GaugeMetricFamily("rapidsmtp_allowed_connections", text, limits.connections)
        if limits.rate is not None:
            text = "Messages per second that the relay allows, as estimated by the sender."
            yield GaugeMetricFamily("rapidsmtp_allowed_per_second", text, limits.rate)


@contextlib.contextmanager
def serve_metrics(sender: Sender, host: str, port: int | None) -> Iterator[None]:
    """Serve the counters of a sender over HTTP until the `with` block ends.

    Args:
        sender: The sender whose counters are served.
        host: The address to listen on.
        port: The port, or 0 for a free port. With None, no server is started. Otherwise the
            server's URL is printed to stderr.

    Raises:
        UsageError: prometheus-client is not installed, or the port is not available.
    """
    if port is None:
        yield
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise UsageError(
            "--metrics-port needs prometheus-client: pip install 'rapidsmtp[telemetry]'"
        ) from None
    registry = CollectorRegistry()
    registry.register(StatsCollector(sender))
    try:
        server: Any
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--metrics-port {port}, --metrics-host {host}: {reason}") from None
    shown = f"[{host}]" if ":" in host else host
    display.show(f"metrics: http://{shown}:{server.server_port}/metrics", stream=sys.stderr)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
