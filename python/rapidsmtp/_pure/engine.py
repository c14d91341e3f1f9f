"""The pure-Python bulk engine. It has the compiled engine's interface, and threads of its own.

    callers              Engine ── queue: messages in, outcomes out
                           │         ▲
    connection threads   pool: waiting messages, learned limits, number of connections
                           ├── connection: sends messages through a session, one after the other
                           └── …

The first thread starts when the first message is submitted. After a `fork`, the child process
creates its own engine. Of the parent's engine, the child calls only `descriptors`.
"""

import math
import time
from collections.abc import Callable
from typing import Any

from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure import connection
from rapidsmtp._pure.diagnosis import retry_after
from rapidsmtp._pure.outcome import MessageOutcome, OutcomeTuple, outcome_tuples
from rapidsmtp._pure.pool import Pool
from rapidsmtp._pure.queue import EngineQueue

# The minimum time for which `close` waits for the replies to messages in flight, in seconds.
MIN_GRACE = 0.2
# The number of rows that are rendered together. They wait in memory until the queue has capacity.
ROWS = 16


class Engine:
    """An engine for one relay. The other methods of `EngineQueue` are also its methods."""

    def __init__(self, settings: EngineSettings, path_of: Callable[[str], str]) -> None:
        """Create an engine without threads. Raise ValueError if a certificate cannot be read.

        `path_of` returns the path for an address that is not plain, or raises ValueError.
        """
        self._settings = settings
        self._queue = queue = EngineQueue(settings, path_of)
        self._pool = Pool(settings, queue, connection.run)
        # The finished messages that `take_outcomes` is converting, by outbox.
        self._taken: dict[int, list[tuple[Any, MessageOutcome]]] = {}
        self.open_outbox = queue.open_outbox
        self.requests = queue.requests
        self.answer_password = queue.answer_password

    def submit(
        self, outbox: int, messages: list[Any], wait: float, limit: int | None = None
    ) -> int:
        """Submit messages (see `EngineQueue.submit`), and start threads to send them."""
        number = self._queue.submit(outbox, messages, wait, limit)
        with self._queue.lock:
            self._pool.open_connections()
        return number

    def take(self, outbox: int, into: list[Any], limit: int, wait: float) -> int:
        """Take finished messages (see `EngineQueue.take`)."""
        self._pool.borrow_thread()
        return self._queue.take(outbox, into, limit, wait)

    def submit_rows(self, outbox: int, rows: Any, limit: int, wait: float) -> int:
        """Submit up to `limit` rows of a `GrantedRows` object, as `submit` does for messages."""
        number = 0
        while number < limit:
            if not rows.messages:
                rows.render(min(ROWS, limit - number))
            if not rows.messages:
                break
            submitted = self.submit(outbox, rows.messages, wait, limit - number)
            if not submitted:
                break
            number, wait = number + submitted, 0.0
        return number

    def take_outcomes(
        self, outbox: int, into: list[OutcomeTuple], limit: int, wait: float, at_least: int = 1
    ) -> int:
        """Append the outcomes of finished messages to a list, as a tuple for each recipient.

        Args:
            outbox: The number of the outbox.
            into: The list. A tuple has the row (the tag of the message), the part, the number of
                the status, the code, the enhanced status code, the text, the address, the number of
                attempts and the time in milliseconds. The address is None if the message has one
                recipient and was accepted.
            limit: The maximum number of messages.
            wait: The maximum wait, in seconds.
            at_least: The number of messages to wait for, or all submitted ones if there are fewer.

        Returns:
            The number of messages.
        """
        # An exception of a signal handler must not lose an outcome. So the outcomes are in one of
        # the two lists at any time, and the last two statements contain no call.
        taken = self._taken.setdefault(outbox, [])
        self._queue.take(outbox, taken, limit, 0.0 if taken else wait, at_least)
        tuples = [each for message, outcome in taken for each in outcome_tuples(message, outcome)]
        number = len(taken)
        into += tuples
        self._taken[outbox] = []
        return number

    def pending(self, outbox: int) -> int:
        """Return the number of messages whose outcomes were not returned yet."""
        return self._queue.unclaimed(outbox) + len(self._taken.get(outbox, ()))

    def close_outbox(self, outbox: int) -> None:
        """Close an outbox (see `EngineQueue.close_outbox`)."""
        self._taken.pop(outbox, None)
        self._queue.close_outbox(outbox)

    def stats(self) -> dict[str, object]:
        """Return the counters, and the limits of the rate controller."""
        queue, pool = self._queue, self._pool
        rate_controller = pool.rate_controller
        with queue.lock:
            now = pool.clock.now()
            refusing_for = rate_controller.refusing_for(now)
            is_refused = refusing_for > 0 or bool(pool.waiting)
            return {
                **queue.counts,
                "taken": queue.taken,
                "queued": len(queue.inbox),
                "in_flight": pool.in_flight,
                "waiting": len(pool.waiting),
                "retried": pool.retried,
                "bytes": pool.bytes + sum(each.sent for each in pool.transports.copy()),
                "connections": pool.open,
                "connected": pool.connected,
                "refusing_for": refusing_for,
                "refusal": pool.last_refusal if is_refused else None,
                "next_attempt": pool.next_attempt(now) if is_refused else 0.0,
                "pipelining": pool.mode,
                "per_second": rate_controller.per_second(now),
                "rate": rate_controller.rate(now),
                "allowed_connections": rate_controller.allowed_connections(now),
                "messages_per_connection": rate_controller.messages_per_connection,
                "recipients_per_message": pool.max_recipients,
            }

    def error(self) -> tuple[str, int | None, bytes, float | None, bool] | None:
        """Return the reason why the engine has stopped; None if it has not stopped.

        The reason is followed by the code and the text of the relay's reply (None and empty without
        a reply), the seconds after which the relay may accept mail again (or None), and whether the
        stop is permanent.
        """
        stop = self._queue.stop
        if stop is None:
            return None
        if stop.reply is None:
            return stop.text, None, b"", None, stop.permanent
        return stop.text, *stop.reply, retry_after(*stop.reply), stop.permanent

    def restart(self) -> None:
        """Restart a stopped engine, unless the stop is permanent or too recent."""
        with self._queue.lock:
            stop = self._queue.stop
            if stop and not stop.permanent and time.monotonic() >= stop.restart_at:
                self._pool.resume()

    def descriptors(self) -> list[int]:
        """Return the descriptors of the open sockets, for the child after a fork."""
        # No lock is acquired. If another thread of the parent held the lock at the fork, the lock
        # would never be released in the child.
        return [transport.descriptor for transport in self._pool.transports.copy()]

    def close(self, wait: float | None, drained: bool = True) -> None:
        """Accept no more messages, and wait for the outcomes of the submitted messages.

        Args:
            wait: The time limit, in seconds, or None. After it, messages that have not started get
                the outcome "not attempted", and messages in flight "unknown".
            drained: Whether to send the queued messages within the time limit.
        """
        queue, pool = self._queue, self._pool
        end = math.inf if wait is None else time.monotonic() + wait
        with queue.lock:
            queue.closing = True
            pool.open_connections()  # an interrupt may have ended `submit` before it did this
            if not drained:
                pool.give_up()
            pool.wake_all()
            queue.callers.wait_for(lambda: not queue.pending, wait)
            pool.give_up()
            # RFC 5321 4.1.1.10: a client waits for the reply to QUIT.
            left = min(end - time.monotonic(), self._settings.timeouts.quit)
            queue.callers.wait_for(lambda: not pool.transports, max(MIN_GRACE, left))
            for transport in pool.transports.copy():
                transport.abort("the sender was closed")
            queue.callers.wait_for(lambda: not queue.pending, 1.0)
            queue.ended = True
            queue.callers.notify_all()
            queue.owner.notify_all()
