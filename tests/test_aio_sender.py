"""`aio.Sender`: it neither blocks the event loop nor loses an outcome.

It sends messages in the same way as the blocking sender, which has separate tests. These tests
cover only the parts that asyncio adds.
"""

import asyncio
import contextlib
import functools
import gc
import inspect
import itertools
import sys
import textwrap
import threading
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

import processes
import rapidsmtp
from loops import run_on
from rapidsmtp import Message, RelayError, Status, aio
from rapidsmtp.testing import Fault, Sink

pytestmark = [pytest.mark.usefixtures("backend"), pytest.mark.rust]
DATA = b"Subject: x\r\n\r\nbody\r\n"
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop", "debug"])
def run(request: pytest.FixtureRequest) -> Run:
    """Return a function that runs a coroutine, once for each kind of event loop."""
    return functools.partial(run_on, request.param)


def messages(count: int, start: int = 0) -> Iterator[Message]:
    for number in range(start, start + count):
        yield Message("a@example.com", ["b@example.com"], DATA, tag=number)


def test_a_synchronous_iterable_gives_an_outcome_for_each_message(run: Run) -> None:
    async def main(url: str) -> None:
        async with aio.Sender(url) as sender:
            outcomes = [outcome async for outcome in sender.send(messages(1000))]
            assert sorted(outcome.tag for outcome in outcomes) == list(range(1000))
            assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}
            assert sender.stats().accepted == 1000
            assert sender.relay == url.removeprefix("smtp://")

    with Sink() as sink:
        run(main(sink.url))
        assert sink.counts["messages"] == 1000


def test_an_asynchronous_iterable_gives_an_outcome_for_each_message(run: Run) -> None:
    async def source() -> AsyncIterator[Message]:
        for number, message in enumerate(messages(3000)):
            if number % 500 == 0:
                await asyncio.sleep(0.001)
            yield message

    async def main(url: str) -> None:
        async with aio.Sender(url, queue_size=100) as sender:
            tags = [outcome.tag async for outcome in sender.send(source())]
            assert sorted(tags) == list(range(3000))

    with Sink() as sink:
        run(main(sink.url))


def test_messages_are_sent_while_an_asynchronous_iterable_stalls(run: Run) -> None:
    async def main(url: str) -> None:
        accepted = asyncio.Event()

        async def source() -> AsyncIterator[Message]:
            yield from_one
            # Yield no further message before the outcome of the first message has arrived, because
            # only this outcome sets the event.
            await accepted.wait()
            yield from_two

        from_one, from_two = messages(2)
        async with aio.Sender(url) as sender:
            async for outcome in sender.send(source()):
                assert outcome.status is Status.ACCEPTED
                accepted.set()

    with Sink() as sink:
        run(main(sink.url))
        assert sink.counts["messages"] == 2


def test_iterables_are_read_only_as_fast_as_messages_are_sent(run: Run) -> None:
    taken = itertools.count()
    ahead = []

    def source() -> Iterator[Message]:
        for message in messages(2000):
            next(taken)
            yield message

    async def main(url: str) -> None:
        async with aio.Sender(url, queue_size=50) as sender:
            seen = 0
            async for _ in sender.send(source()):
                seen += 1
                ahead.append(int(repr(taken)[6:-1]) - seen)
                if seen % 100 == 0:
                    await asyncio.sleep(0.001)
            assert seen == 2000

    with Sink() as sink:
        run(main(sink.url))
    # The sender may read elements ahead, up to five times the queue's size. They are in the queue,
    # in two ready batches, in one batch that waits for capacity, and in the batch in use. No batch
    # has more messages than the queue holds.
    assert max(ahead) <= 5 * 50


def test_a_slow_iterable_does_not_block_the_loop() -> None:
    def source() -> Iterator[Message]:
        for message in messages(3):
            time.sleep(0.2)
            yield message

    async def main(url: str) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        clock = asyncio.create_task(tick())
        async with aio.Sender(url) as sender:
            assert len([outcome async for outcome in sender.send(source())]) == 3
        clock.cancel()
        assert ticks >= 10

    with Sink() as sink:
        asyncio.run(main(sink.url))


def test_many_tasks_may_call_submit(run: Run) -> None:
    async def main(url: str) -> None:
        async with aio.Sender(url, queue_size=20) as sender:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(sender.submit(each)) for each in messages(500)]
            assert [task.result().tag for task in tasks] == list(range(500))
            assert (await sender.submit("nonsense")).status is Status.INVALID

    with Sink() as sink:
        run(main(sink.url))
        assert sink.counts["messages"] == 500


def test_many_calls_of_send_may_run_at_once(run: Run) -> None:
    async def main(url: str) -> None:
        async with aio.Sender(url) as sender:

            async def send(part: int) -> list[Any]:
                return [o.tag async for o in sender.send(messages(300, part * 300))]

            parts = await asyncio.gather(*map(send, range(4)))
            for part, tags in enumerate(parts):
                assert sorted(tags) == list(range(part * 300, part * 300 + 300))

    with Sink() as sink:
        run(main(sink.url))


def test_send_all_reports_all_outcomes(run: Run) -> None:
    async def source() -> AsyncIterator[Any]:
        for message in messages(100):
            yield message
        yield "nonsense"

    async def main(url: str) -> None:
        async with aio.Sender(url) as sender:
            report = await sender.send_all(source())
            assert (report.accepted, report.counts[Status.INVALID]) == (100, 1)
            assert (await sender.send_all(list(messages(5)))).accepted == 5

    with Sink() as sink:
        run(main(sink.url))


@pytest.mark.parametrize("how", ["break", "cancel", "aclose"])
def test_no_outcome_is_lost_after_a_break_or_a_cancellation(run: Run, how: str) -> None:
    """Each message that the server received has one outcome: yielded, or in the final report."""

    async def main(url: str) -> Counter[int]:
        counts: Counter[int] = Counter()
        sender = aio.Sender(url, queue_size=200)

        async def consume() -> None:
            outcomes = sender.send(messages(100_000))
            async for outcome in outcomes:
                counts[outcome.tag] += 1
                if len(counts) == 300 and how == "break":
                    break
                if len(counts) == 300 and how == "aclose":
                    await outcomes.aclose()
            del outcomes

        task = asyncio.create_task(consume())
        if how == "cancel":
            while len(counts) < 300:
                await asyncio.sleep(0)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        report = await sender.close()
        received = len(counts)
        assert report.total == report.accepted
        assert received + report.total == sender.stats().accepted
        counts["total"] = received + report.total
        return counts

    with Sink(store=False) as sink:
        counts = run(main(sink.url))
        total = counts.pop("total")
        assert total == sink.counts["messages"] < 100_000
        assert set(counts.values()) == {1}


def test_iterating_may_continue_after_a_cancellation(run: Run) -> None:
    async def main(url: str) -> None:
        async with aio.Sender(url) as sender:
            outcomes = sender.send(messages(20))
            tags: list[int] = []
            while len(tags) < 20:
                with contextlib.suppress(TimeoutError):
                    tags.append((await asyncio.wait_for(anext(outcomes), 0.01)).tag)
            assert sorted(tags) == list(range(20))
            assert await anext(outcomes, None) is None

    with Sink(latency=0.03) as sink:
        run(main(sink.url))


def test_close_reports_a_cancelled_submit(run: Run) -> None:
    async def main(url: str) -> None:
        sender = aio.Sender(url, queue_size=4, connections=1)
        tasks = [asyncio.create_task(sender.submit(each)) for each in messages(12)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        report = await sender.close()
        stats = sender.stats()
        # The report also contains the messages that were still waiting for capacity when their
        # tasks were cancelled.
        late = report.counts[Status.NOT_ATTEMPTED]
        assert report.total == stats.taken == report.accepted + late == 12
        assert report.accepted >= 4

    with Sink(latency=0.05) as sink:
        run(main(sink.url))


def test_an_exception_of_the_iterable_comes_after_the_outcomes(run: Run) -> None:
    def source() -> Iterator[Message]:
        yield from messages(10)
        raise LookupError("no more")

    async def asynchronous() -> AsyncIterator[Message]:
        for message in messages(10):
            yield message
        raise LookupError("no more")

    async def main(url: str) -> None:
        async with aio.Sender(url) as sender:
            for make in (source, asynchronous):
                tags = []
                with pytest.raises(LookupError, match="no more"):
                    async for outcome in sender.send(make()):
                        tags.append(outcome.tag)
                assert sorted(tags) == list(range(10))
            with pytest.raises(LookupError) as caught:
                await sender.send_all(source())
            assert caught.value.report.accepted == 10

    with Sink() as sink:
        run(main(sink.url))


def test_each_element_of_an_asynchronous_iterable_has_one_outcome(run: Run) -> None:
    """Each element that was read has one outcome, also after a rejection or a cancellation."""
    taken: Counter[int] = Counter()

    async def source() -> AsyncIterator[Message]:
        for message in messages(10_000):
            taken[message.tag] += 1
            yield message

    async def refused(url: str) -> None:
        taken.clear()
        async with aio.Sender(url, queue_size=5) as sender:
            seen: Counter[int] = Counter()
            with pytest.raises(RelayError):
                async for outcome in sender.send(source()):
                    seen[outcome.tag] += 1
            assert seen == taken

    async def cancelled(url: str) -> None:
        taken.clear()
        sender = aio.Sender(url, queue_size=4, connections=1)
        others = [asyncio.create_task(sender.submit(each)) for each in messages(9, 20_000)]
        sending = asyncio.create_task(sender.send_all(source()))
        # Wait until the queue is full. Then one element that was read from the iterable waits for
        # capacity.
        await asyncio.sleep(0.1)
        for task in (sending, *others):
            task.cancel()
        await asyncio.gather(sending, *others, return_exceptions=True)
        report = await sender.close()
        assert report.total == sender.stats().taken == len(taken) + len(others)

    with Sink(faults=[Fault("mail", message=3, reply="530 5.7.0 log in first")]) as sink:
        run(refused(sink.url))
    with Sink(latency=0.05) as sink:
        run(cancelled(sink.url))


def test_the_error_of_a_used_up_limit_states_the_time(run: Run) -> None:
    async def main(url: str) -> None:
        async with aio.Sender(url) as sender:
            with pytest.raises(RelayError) as caught:
                async for _ in sender.send(list(messages(5))):
                    pass
            assert caught.value.retry_after == 3600
            report = await sender.send_all(list(messages(2)))
            assert report.error is not None and report.error.retry_after == 3600

    with Sink(faults=[Fault("rcpt", reply="451 4.7.1 Hourly limit exceeded")]) as sink:
        run(main(sink.url))


def test_a_relay_that_rejects_the_session_raises(run: Run) -> None:
    async def main(url: str) -> None:
        async with aio.Sender(url) as sender:
            statuses = []
            with pytest.raises(RelayError):
                async for outcome in sender.send(list(messages(5))):
                    statuses.append(outcome.status)
            assert statuses == [Status.NOT_ATTEMPTED] * 5
            with pytest.raises(RelayError):
                await sender.submit(next(messages(1)))
            report = await sender.send_all(list(messages(2)))
            assert report.error is not None

    with Sink(faults=[Fault("mail", reply="530 5.7.0 log in first")]) as sink:
        run(main(sink.url))


def test_a_closed_sender_refuses_messages(run: Run) -> None:
    async def main(url: str) -> None:
        sender = aio.Sender(url)
        assert repr(sender) == f"<aio.Sender {url}>"
        await sender.close()
        await sender.close()
        with pytest.raises(RuntimeError, match="closed"):
            sender.send([])
        with pytest.raises(RuntimeError, match="closed"):
            await sender.submit(next(messages(1)))
        with pytest.raises(TypeError):
            aio.Sender(url, connexions=3)

    with Sink() as sink:
        run(main(sink.url))


def test_a_single_message_is_refused_as_an_iterable(run: Run) -> None:
    async def main(url: str) -> None:
        async with aio.Sender(url) as sender:
            with pytest.raises(TypeError, match="send takes an iterable"):
                sender.send(next(messages(1)))
            with pytest.raises(TypeError, match="send_all takes an iterable"):
                await sender.send_all(b"x")

    with Sink() as sink:
        run(main(sink.url))


def test_a_sender_may_be_used_in_two_event_loops_in_turn() -> None:
    with Sink() as sink:
        sender = aio.Sender(sink.url)

        async def one() -> None:
            assert (await sender.submit(next(messages(1)))).status is Status.ACCEPTED
            assert (await sender.send_all(messages(3))).accepted == 3

        asyncio.run(one())
        asyncio.run(one())
        asyncio.run(sender.close())
        assert sink.counts["messages"] == 8


def test_the_settings_are_the_arguments_of_sender() -> None:
    ours = inspect.signature(rapidsmtp.Sender).parameters.values()
    named = {each.name for each in ours if each.kind is each.KEYWORD_ONLY}
    assert set(aio.SenderSettings.__annotations__) == named


def test_no_thread_or_task_remains(run: Run) -> None:
    async def main(url: str) -> None:
        async with aio.Sender(url) as sender:
            async for _ in sender.send(messages(500)):
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await sender.submit(next(messages(1)))

    with Sink() as sink, warnings.catch_warnings():
        warnings.simplefilter("error")
        run(main(sink.url))
        gc.collect()
    deadline = time.monotonic() + 10
    while any(t.name == "rapidsmtp aio" for t in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


def test_after_ctrl_c_every_message_has_an_outcome() -> None:
    program = """
        import asyncio, os, signal, sys, threading, time
        from rapidsmtp import Message, aio

        def messages():
            for number in range(10**7):
                yield Message("a@example.com", ["b@example.com"], b"x", tag=number)

        async def main():
            sender = aio.Sender(sys.argv[1], queue_size=500)
            seen = 0
            try:
                async with sender:
                    async for outcome in sender.send(messages()):
                        seen += 1
                        if seen == 1000:
                            os.kill(os.getpid(), signal.SIGINT)
            finally:
                report = await sender.close()
                stats = sender.stats()
                decided = stats.accepted + stats.not_attempted + stats.unknown
                print(seen + report.total == decided == stats.taken, stats.accepted)

        start = time.monotonic()
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted", time.monotonic() - start < 20)
    """
    with Sink(store=False) as sink:
        done = processes.run(
            [sys.executable, "-c", textwrap.dedent(program), sink.url],
            capture_output=True,
            text=True,
            timeout=60,
        )
        lines = done.stdout.split("\n")
        assert lines[1] == "interrupted True", done
        assert lines[0].startswith("True "), done
        # The server may have accepted more messages than the sender reports as accepted. If the
        # sender did not read the reply to a message, it reports UNKNOWN.
        assert int(lines[0].split()[1]) <= sink.counts["messages"]
    assert done.stderr == ""
