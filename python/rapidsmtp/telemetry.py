"""Spans and metrics of OpenTelemetry, for programs that ask for them.

`instrument` puts itself around what sends: `SMTP.sendmail` of the drop-in and of `rapidsmtp.aio`,
and `Sender`'s `send`, `send_all` and `submit`. Who does not call it pays nothing. The names are
those of the semantic conventions for messaging; no attribute holds an address, a subject or a
server's text, which may hold either.

    spans     `send HOST`, of kind CLIENT: one a mail, one a `submit`, and one a call of `send` or
              `send_all`, with the number of its messages
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

from rapidsmtp import aio, client, process
from rapidsmtp.outcome import Outcome, Status
from rapidsmtp.sender import Sender

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.trace import Span, Tracer, TracerProvider

__all__ = ["instrument", "uninstrument"]

# The boundaries that the conventions advise, in seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_STATES = ("queued", "in_flight", "waiting")

_before: list[tuple[type, str, Any]] = []
"""What was changed: a class, a method's name, and the method; empty while not instrumented."""


def instrument(
    tracer_provider: "TracerProvider | None" = None,
    meter_provider: "MeterProvider | None" = None,
) -> None:
    """Make spans and metrics of what is sent from now on; again is no harm.

    Args:
        tracer_provider: Where spans go; the process's own where it is None.
        meter_provider: Where metrics go, likewise.

    Raises:
        ImportError: `opentelemetry-api` is not installed.
    """
    if _before:
        return
    try:
        from opentelemetry import metrics, trace
    except ImportError:
        raise ImportError(
            "rapidsmtp.telemetry needs opentelemetry-api: pip install rapidsmtp[telemetry]"
        ) from None
    observer = _Observer(
        trace.get_tracer("rapidsmtp", tracer_provider=tracer_provider),
        metrics.get_meter("rapidsmtp", meter_provider=meter_provider),
    )
    _change(client.SMTP, "sendmail", observer.blocking)
    _change(aio.SMTP, "sendmail", observer.asynchronous)
    _change(Sender, "_rounds", observer.many)
    _change(Sender, "_submit", observer.one)


def uninstrument() -> None:
    """Stop it."""
    while _before:
        owner, name, method = _before.pop()
        setattr(owner, name, method)


def _change(owner: type, name: str, around: Callable[[Any], Any]) -> None:
    method = vars(owner)[name]
    _before.append((owner, name, method))
    setattr(owner, name, functools.wraps(method)(around(method)))


class _Operation:
    """One span, and what it adds to the metrics when it ends."""

    def __init__(self, observer: "_Observer", attributes: dict[str, Any], start: float) -> None:
        self._observer = observer
        self._attributes = attributes
        self._start = start
        self._statuses: Counter[str] = Counter()
        self._error = ""
        name = f"send {attributes.get('messaging.destination.name', '')}".strip()
        self.span: Span = observer.span(name, attributes, start)

    def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Count outcomes."""
        self._statuses.update(each.status.name.lower() for each in outcomes)

    def fail(self, error: BaseException) -> None:
        """Note why it ends; the name alone, since texts hold addresses."""
        self._error = type(error).__qualname__

    def end(self, batch: bool = False) -> None:
        """End the span, and count."""
        from opentelemetry.trace import StatusCode

        accepted = Status.ACCEPTED.name.lower()
        faults = [each for each in self._statuses if each != accepted]
        error = self._error or (faults[0] if len(faults) == 1 and not batch else "")
        if batch:
            self.span.set_attribute("messaging.batch.message_count", self._statuses.total())
            for status, count in self._statuses.items():
                self.span.set_attribute(f"rapidsmtp.{status}", count)
        if error:
            self.span.set_attribute("error.type", error)
            self.span.set_status(StatusCode.ERROR)
        self.span.end()
        for status, count in self._statuses.items():
            fault = {} if status == accepted else {"error.type": self._error or status}
            self._observer.sent.add(count, {**self._attributes, **fault})
        fault = {"error.type": error} if error else {}
        seconds = time.monotonic() - self._start
        self._observer.duration.record(seconds, {**self._attributes, **fault})


class _Observer:
    """What is put around the methods that send."""

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
            description="Messages that were sent, or could not be.",
        )
        meter.create_observable_up_down_counter(
            "rapidsmtp.sender.messages",
            [self._observe_messages],
            unit="{message}",
            description="Messages that a Sender has taken and that have no outcome yet, by state.",
        )
        meter.create_observable_up_down_counter(
            "rapidsmtp.sender.connections",
            [self._observe_connections],
            unit="{connection}",
            description="Connections of a Sender that are open.",
        )

    def span(self, name: str, attributes: dict[str, Any], start: float) -> "Span":
        """Begin a span, a child of the one that is current."""
        from opentelemetry.trace import SpanKind

        begun = time.time_ns() - int((time.monotonic() - start) * 1e9)
        return self._tracer.start_span(
            name, kind=SpanKind.CLIENT, attributes=attributes, start_time=begun
        )

    def blocking(self, sendmail: Any) -> Any:
        """Around the drop-in's `sendmail`."""

        def observed(client: Any, *args: Any, **named: Any) -> Any:
            with self._mail(client):
                return sendmail(client, *args, **named)

        return observed

    def asynchronous(self, sendmail: Callable[..., Awaitable[Any]]) -> Any:
        """Around that of `rapidsmtp.aio`."""

        async def observed(client: Any, *args: Any, **named: Any) -> Any:
            with self._mail(client):
                return await sendmail(client, *args, **named)

        return observed

    def many(self, rounds: Callable[..., Generator[deque[Outcome], None, None]]) -> Any:
        """Around one call of a Sender's `send` or `send_all`."""

        def observed(sender: Sender, messages: Any) -> Generator[deque[Outcome], None, None]:
            operation = _Operation(self, _attributes_of(sender), time.monotonic())
            inner = rounds(sender, messages)
            try:
                for told in inner:
                    operation.tell(told)
                    yield told
            except GeneratorExit:
                raise
            except BaseException as error:
                operation.fail(error)
                raise
            finally:
                inner.close()
                operation.end(batch=True)

        return observed

    def one(self, submit: Callable[..., "Future[Outcome] | None"]) -> Any:
        """Around one submitted message."""

        def observed(sender: Sender, message: Any, wait: bool) -> "Future[Outcome] | None":
            start = time.monotonic()
            future = submit(sender, message, wait)
            if future is None:  # it will be submitted again
                return None
            operation = _Operation(self, _attributes_of(sender), start)

            def end(future: "Future[Outcome]") -> None:
                operation.tell([future.result()])
                operation.end()

            future.add_done_callback(end)
            return future

        return observed

    @contextmanager
    def _mail(self, client: Any) -> Generator[None, None, None]:
        from opentelemetry import trace

        operation = _Operation(self, _attributes(*_peer_of(client)), time.monotonic())
        try:
            with trace.use_span(
                operation.span, record_exception=False, set_status_on_exception=False
            ):
                yield
        except BaseException as error:
            operation.fail(error)
            operation._statuses["refused"] += 1
            raise
        else:
            operation._statuses["accepted"] += 1
        finally:
            operation.end()

    def _observe_messages(self, _: "CallbackOptions") -> "Iterable[Observation]":
        from opentelemetry.metrics import Observation

        for sender in process.senders() if _before else ():
            stats, attributes = sender.stats(), _attributes_of(sender)
            for state in _STATES:
                yield Observation(getattr(stats, state), {**attributes, "state": state})

    def _observe_connections(self, _: "CallbackOptions") -> "Iterable[Observation]":
        from opentelemetry.metrics import Observation

        for sender in process.senders() if _before else ():
            yield Observation(sender.stats().connections, _attributes_of(sender))


def _attributes(host: str, port: int | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.system": "smtp",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    }
    if host:
        # Where a broker has no queues, the destination's name is the broker's: the span's name
        # is made of it.
        attributes["messaging.destination.name"] = attributes["server.address"] = host
    if port:
        attributes["server.port"] = port
    return attributes


def _attributes_of(sender: Sender) -> dict[str, Any]:
    relay = sender._relay
    return _attributes(relay.host or relay.path, relay.port if relay.host else None)


def _peer_of(client: Any) -> tuple[str, int | None]:
    host: str = getattr(client, "_host", "")
    try:
        peer = client.sock.getpeername()
    except (AttributeError, OSError):
        return host, None
    return host, peer[1] if isinstance(peer, tuple) else None
