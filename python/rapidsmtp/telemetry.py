"""OpenTelemetry spans and metrics, for programs that call `instrument`.

`instrument` wraps the methods that send: `SMTP.sendmail` of the drop-in and of `rapidsmtp.aio`,
and `send`, `send_all` and `submit` of `Sender`. A program that does not call `instrument` has no
overhead. The names of spans and metrics follow OpenTelemetry's semantic conventions for messaging.
No attribute contains an address or a subject. No attribute contains the text of a reply either,
because a reply may quote an address or a subject.

    spans     `send HOST`, of kind CLIENT: one for each call of `sendmail`, `submit`, `send` and
              `send_all`. The spans of `send` and `send_all` also have the number of messages
    metrics   `messaging.client.operation.duration` (s), `messaging.client.sent.messages`,
              `rapidsmtp.sender.messages` by state, `rapidsmtp.sender.connections`
"""

import functools
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rapidsmtp import aio
from rapidsmtp._bulk import lifecycle
from rapidsmtp._bulk.lifecycle import OpenSender
from rapidsmtp._bulk.sender_core import SenderCore
from rapidsmtp._models.outcome import Outcome, Status
from rapidsmtp._smtp import client

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import Span, Tracer, TracerProvider

__all__ = ["instrument", "uninstrument"]

# The bucket boundaries, in seconds, that the semantic conventions recommend.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_STATES = ("queued", "in_flight", "waiting")

_originals: list[tuple[type, str, Any]] = []
"""The wrapped methods as (class, name, original method); empty while not instrumented."""


def instrument(
    tracer_provider: "TracerProvider | None" = None,
    meter_provider: "MeterProvider | None" = None,
) -> None:
    """Record spans and metrics of all messages sent after this call. A second call has no effect.

    Args:
        tracer_provider: The provider for spans; None for the global one.
        meter_provider: The provider for metrics; None for the global one.

    Raises:
        ImportError: `opentelemetry-api` is not installed.
    """
    if _originals:
        return
    try:
        from opentelemetry import metrics, trace
    except ImportError:
        raise ImportError(
            "rapidsmtp.telemetry needs opentelemetry-api: pip install 'rapidsmtp[telemetry]'"
        ) from None
    observer = _Observer(
        trace.get_tracer("rapidsmtp", tracer_provider=tracer_provider),
        metrics.get_meter("rapidsmtp", meter_provider=meter_provider),
    )
    _wrap(client.SMTP, "sendmail", observer.blocking_sendmail)
    _wrap(aio.SMTP, "sendmail", observer.async_sendmail)
    _wrap(SenderCore, "send_batches", observer.send_batches)
    _wrap(SenderCore, "submit", observer.submit)


def uninstrument() -> None:
    """Stop recording, and restore the wrapped methods."""
    while _originals:
        owner, name, method = _originals.pop()
        setattr(owner, name, method)


def _wrap(owner: type, name: str, wrapper: Callable[[Any], Any]) -> None:
    method = vars(owner)[name]
    _originals.append((owner, name, method))
    setattr(owner, name, functools.wraps(method)(wrapper(method)))


class _Operation:
    """One span, and the values that are added to the metrics when the span ends."""

    def __init__(self, observer: "_Observer", attributes: dict[str, Any], start: float) -> None:
        self._observer = observer
        self._attributes = attributes
        self._start = start
        self._statuses: Counter[str] = Counter()
        self._error = ""
        name = f"send {attributes.get('messaging.destination.name', '')}".strip()
        self.span: Span = observer.span(name, attributes, start)

    def count(self, status: str, messages: int = 1) -> None:
        """Count messages with a status."""
        self._statuses[status] += messages

    def count_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        """Count outcomes by their status."""
        self._statuses.update(each.status.name.lower() for each in outcomes)

    def fail(self, error: BaseException) -> None:
        """Record the class of an exception.

        The text of the exception is not recorded, because the text may contain addresses.
        """
        self._error = type(error).__qualname__

    def end(self, batch: bool = False) -> None:
        """End the span and update the metrics.

        Args:
            batch: Whether the span covers a call of `send` or `send_all` instead of one message.
        """
        from opentelemetry.trace import StatusCode

        accepted = Status.ACCEPTED.name.lower()
        failures = [each for each in self._statuses if each != accepted]
        error = self._error or (failures[0] if len(failures) == 1 and not batch else "")
        if batch:
            self.span.set_attribute("messaging.batch.message_count", self._statuses.total())
            for status, count in self._statuses.items():
                self.span.set_attribute(f"rapidsmtp.{status}", count)
        if error:
            self.span.set_attribute("error.type", error)
            self.span.set_status(StatusCode.ERROR)
        self.span.end()
        for status, count in self._statuses.items():
            error_type = {} if status == accepted else {"error.type": self._error or status}
            self._observer.sent.add(count, {**self._attributes, **error_type})
        error_type = {"error.type": error} if error else {}
        seconds = time.monotonic() - self._start
        self._observer.duration.record(seconds, {**self._attributes, **error_type})


class _Observer:
    """The OpenTelemetry instruments, and the wrappers for the methods that send."""

    def __init__(self, tracer: "Tracer", meter: "Meter") -> None:
        self._tracer = tracer
        self.duration = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="Duration of sending, from the call to the last reply.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self.sent = meter.create_counter(
            "messaging.client.sent.messages",
            unit="{message}",
            description="Messages that were sent or failed.",
        )
        meter.create_observable_up_down_counter(
            "rapidsmtp.sender.messages",
            [self._observe_messages],
            unit="{message}",
            description="Messages without an outcome in a Sender, by state.",
        )
        meter.create_observable_up_down_counter(
            "rapidsmtp.sender.connections",
            [self._observe_connections],
            unit="{connection}",
            description="Open connections of a Sender.",
        )

    def span(self, name: str, attributes: dict[str, Any], start: float) -> "Span":
        """Start a span as a child of the current span.

        Args:
            name: The span's name.
            attributes: The span's attributes.
            start: The time when the span started, by `time.monotonic`, in seconds.
        """
        from opentelemetry.trace import SpanKind

        start_time = time.time_ns() - int((time.monotonic() - start) * 1e9)
        return self._tracer.start_span(
            name, kind=SpanKind.CLIENT, attributes=attributes, start_time=start_time
        )

    def blocking_sendmail(self, sendmail: Any) -> Any:
        """Wrap `sendmail` of the drop-in."""

        def observed(client: Any, *args: Any, **named: Any) -> Any:
            with self._observed_message(client):
                return sendmail(client, *args, **named)

        return observed

    def async_sendmail(self, sendmail: Callable[..., Awaitable[Any]]) -> Any:
        """Wrap `sendmail` of `rapidsmtp.aio`."""

        async def observed(client: Any, *args: Any, **named: Any) -> Any:
            with self._observed_message(client):
                return await sendmail(client, *args, **named)

        return observed

    def send_batches(self, method: Callable[..., Generator[deque[Outcome], None, None]]) -> Any:
        """Wrap `send_batches`, which `send` and `send_all` of `Sender` call."""

        def observed(sender: SenderCore, messages: Any) -> Generator[deque[Outcome], None, None]:
            operation = _Operation(self, _attributes_of(sender), time.monotonic())
            batches = method(sender, messages)
            try:
                for batch in batches:
                    operation.count_outcomes(batch)
                    yield batch
            except GeneratorExit:
                raise
            except BaseException as error:
                operation.fail(error)
                raise
            finally:
                batches.close()
                operation.end(batch=True)

        return observed

    def submit(self, method: Callable[..., "Future[Outcome] | None"]) -> Any:
        """Wrap `submit` of a sender."""

        def observed(sender: SenderCore, message: Any, wait: bool) -> "Future[Outcome] | None":
            start = time.monotonic()
            future = method(sender, message, wait)
            # `None` means that the queue is full. The caller submits the message again later, so
            # this call is not recorded.
            if future is None:
                return None
            operation = _Operation(self, _attributes_of(sender), start)

            def end(future: "Future[Outcome]") -> None:
                operation.count_outcomes([future.result()])
                operation.end()

            future.add_done_callback(end)
            return future

        return observed

    @contextmanager
    def _observed_message(self, client: Any) -> Generator[None, None, None]:
        from opentelemetry import trace

        operation = _Operation(self, _attributes(*_peer_of(client)), time.monotonic())
        try:
            with trace.use_span(
                operation.span, record_exception=False, set_status_on_exception=False
            ):
                yield
        except BaseException as error:
            operation.fail(error)
            operation.count("refused")
            raise
        else:
            operation.count("accepted")
        finally:
            operation.end()

    def _observe_messages(self, _: "CallbackOptions") -> "Iterable[Observation]":
        from opentelemetry.metrics import Observation

        for sender in lifecycle.senders() if _originals else ():
            stats, attributes = sender.stats(), _attributes_of(sender)
            for state in _STATES:
                yield Observation(getattr(stats, state), {**attributes, "state": state})

    def _observe_connections(self, _: "CallbackOptions") -> "Iterable[Observation]":
        from opentelemetry.metrics import Observation

        for sender in lifecycle.senders() if _originals else ():
            yield Observation(sender.stats().connections, _attributes_of(sender))


def _attributes(host: str, port: int | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.system": "smtp",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    }
    if host:
        # In the semantic conventions, the destination is usually a named queue. SMTP has no named
        # queues, so the destination is the relay's name. The span's name also contains the relay's
        # name.
        attributes["messaging.destination.name"] = attributes["server.address"] = host
    if port:
        attributes["server.port"] = port
    return attributes


def _attributes_of(sender: OpenSender) -> dict[str, Any]:
    relay = sender.relay
    return _attributes(relay.host or relay.path, relay.port if relay.host else None)


def _peer_of(client: Any) -> tuple[str, int | None]:
    host: str = getattr(client, "_host", "")
    try:
        peer = client.sock.getpeername()
    except (AttributeError, OSError):
        return host, None
    return host, peer[1] if isinstance(peer, tuple) else None
