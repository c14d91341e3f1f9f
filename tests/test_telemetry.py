"""Spans and metrics, read by OpenTelemetry's own SDK."""

import asyncio
import smtplib
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import processes
import rapidsmtp
from rapidsmtp import (
    Message,
    RelayError,
    Sender,
    aio,
    telemetry,
)
from rapidsmtp._smtp import client
from rapidsmtp.testing import Fault, Sink

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.rust]
MAIL = ("secret@example.com", ["hidden@example.com"], b"Subject: private\r\n\r\n")


class Observed:
    """The recorded spans and metrics."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])
        self.tracer = self.provider.get_tracer("test")

    @property
    def spans(self) -> list[Any]:
        return list(self.exporter.get_finished_spans())

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        data = self._reader.get_metrics_data()
        metrics = [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]
        return [
            (dict(point.attributes), point) for each in metrics for point in each.data.data_points
        ]


ORIGINAL_SENDMAIL = client.SMTP.sendmail


@pytest.fixture
def observed() -> Iterator[Observed]:
    observed = Observed()
    telemetry.instrument(observed.provider, observed.meters)
    yield observed
    telemetry.uninstrument()


def base(sink: Sink) -> dict[str, Any]:
    return {
        "messaging.system": "smtp",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": sink.host,
        "server.address": sink.host,
        "server.port": sink.port,
    }


def test_a_message_of_the_drop_in_has_a_span(observed: Observed) -> None:
    with Sink() as sink, rapidsmtp.SMTP(sink.host, sink.port) as smtp:
        with observed.tracer.start_as_current_span("job") as job:
            smtp.sendmail(*MAIL)
        span, _ = observed.spans
        assert (span.name, span.kind) == (f"send {sink.host}", SpanKind.CLIENT)
        assert span.parent.span_id == job.get_span_context().span_id
        assert span.status.status_code is StatusCode.UNSET
        assert dict(span.attributes) == base(sink)
        ((attributes, point),) = observed.points("messaging.client.sent.messages")
        assert (attributes, point.value) == (base(sink), 1)
        ((attributes, point),) = observed.points("messaging.client.operation.duration")
        assert attributes == base(sink) and point.count == 1 and 0 < point.sum < 10


def test_a_refusal_is_recorded_without_personal_data(observed: Observed) -> None:
    with (
        Sink(faults=[Fault("rcpt", reply="550 5.1.1 <hidden@example.com> unknown")]) as sink,
        rapidsmtp.SMTP(sink.host, sink.port) as smtp,
        pytest.raises(smtplib.SMTPRecipientsRefused),
    ):
        smtp.sendmail(*MAIL)
    (span,) = observed.spans
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "SMTPRecipientsRefused"
    shown = f"{span.name} {dict(span.attributes)} {span.events} {span.status.description}"
    assert not any(word in shown for word in ("hidden", "secret@", "private", "unknown"))
    ((attributes, _),) = observed.points("messaging.client.sent.messages")
    assert attributes["error.type"] == "SMTPRecipientsRefused"


def test_asyncio_classes_have_spans(observed: Observed) -> None:
    async def main(sink: Sink) -> None:
        async with aio.SMTP(sink.host, sink.port) as smtp:
            await smtp.sendmail(*MAIL)
        async with aio.Sender(sink.url) as sender:
            with observed.tracer.start_as_current_span("job"):
                assert [each async for each in sender.send([MAIL, MAIL])]
                await sender.submit(MAIL)

    with Sink() as sink:
        asyncio.run(main(sink))
    by_name = {span.context.span_id: span for span in observed.spans}
    job = next(span for span in by_name.values() if span.name == "job")
    counts = [span.attributes.get("messaging.batch.message_count") for span in by_name.values()]
    assert sorted(counts, key=str) == [2, None, None, None]
    inside = [span for span in by_name.values() if span.parent is not None]
    assert len(inside) == 2 and {span.parent.span_id for span in inside} == {job.context.span_id}


def test_many_messages_have_one_span(observed: Observed) -> None:
    messages = [Message("a@x.org", [f"{n}@x.org"], b"x", tag=n) for n in range(300)]
    faults = [Fault("rcpt", address="7@x.org", reply="550 no")]
    with Sink(faults=faults) as sink, Sender(sink.url) as sender:
        assert sender.send_all(messages).accepted == 299
        (span,) = observed.spans
        assert dict(span.attributes) == base(sink) | {
            "messaging.batch.message_count": 300,
            "rapidsmtp.accepted": 299,
            "rapidsmtp.refused": 1,
        }
        points = observed.points("messaging.client.sent.messages")
        assert {(each.get("error.type"), point.value) for each, point in points} == {
            (None, 299),
            ("refused", 1),
        }
        states = observed.points("rapidsmtp.sender.messages")
        mine = [each for each, _ in states if each["server.port"] == sink.port]
        assert {each["state"] for each in mine} == {"queued", "in_flight", "waiting"}
        assert observed.points("rapidsmtp.sender.connections")


def test_a_relay_that_rejects_the_session_is_an_error(observed: Observed) -> None:
    with (
        Sink(faults=[Fault("mail", reply="530 5.7.0 log in")]) as sink,
        Sender(sink.url) as sender,
        pytest.raises(RelayError),
    ):
        list(sender.send([MAIL]))
    (span,) = observed.spans
    assert span.attributes["error.type"] == "RelayError"
    assert span.attributes["rapidsmtp.not_attempted"] == 1


def test_a_break_is_not_a_failure(observed: Observed) -> None:
    with Sink() as sink, Sender(sink.url) as sender:
        for _ in sender.send(MAIL for _ in range(5)):
            break
    (span,) = observed.spans
    assert "error.type" not in span.attributes


def test_instrument_and_uninstrument_can_be_called_twice(observed: Observed) -> None:
    # The fixture has already called `instrument`. This second call must not duplicate spans.
    telemetry.instrument()
    with Sink() as sink, rapidsmtp.SMTP(sink.host, sink.port) as smtp:
        smtp.sendmail(*MAIL)
        telemetry.uninstrument()
        telemetry.uninstrument()
        smtp.sendmail(*MAIL)
    assert len(observed.spans) == 1
    assert client.SMTP.sendmail is ORIGINAL_SENDMAIL


def test_without_opentelemetry_the_error_names_the_package() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from rapidsmtp import telemetry\n"
        "try: telemetry.instrument()\n"
        "except ImportError as error: print(error)"
    )
    done = processes.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'rapidsmtp[telemetry]'" in done.stdout, done
