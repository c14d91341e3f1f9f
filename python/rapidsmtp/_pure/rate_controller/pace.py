"""The pace: the messages start at a rate. The meter: the rate of the accepted messages."""

from math import inf

METER = 1.0
"""The minimum time over which a rate is measured, in seconds."""

PAUSE = 2.0
"""If no message starts for this time although one may start, the engine has nothing to send, in
seconds."""

BURST = 0.1
"""The maximum burst at a configured rate, as the time in which the rate allows as many messages, in
seconds. The maximum prevents a burst after a pause."""

LEARNED_BURST = 0.01
"""The same for a learned rate, in seconds. The relay may accept no burst."""


class Pace:
    """A token bucket: each message takes a token."""

    def __init__(self) -> None:
        self._tokens = 1.0
        self._refilled_at = 0.0
        self._next_start = -inf  # the time from which the next message may start

    def wait(self, now: float, rate: float, burst: float) -> float:
        """Return the time until the bucket has a token, in seconds.

        Args:
            now: The time.
            rate: The rate, in messages per second.
            burst: The maximum burst, as a time in seconds.
        """
        self._refill(now, rate, burst)
        return (1.0 - self._tokens) / rate if self._tokens < 1.0 else 0.0

    def start(self, now: float, rate: float | None, burst: float) -> bool:
        """Take a token. Return whether the engine had no message to send before this one."""
        was_idle = now - self._next_start > PAUSE
        self._next_start = now
        if rate is not None:
            self._refill(now, rate, burst)
            self._tokens -= 1.0
            self._next_start = now + max(0.0, 1.0 - self._tokens) / rate
        return was_idle

    def decrease(self, now: float, rate: float, wait: float) -> None:
        """Decrease the rate to `rate`, and let the next message start after `wait` seconds."""
        self._tokens = 1.0 - wait * rate
        self._refilled_at = now
        # `wait` may be longer than `PAUSE`. Such a wait does not mean that the engine is idle.
        self._next_start = now + wait

    def hold(self, until: float) -> None:
        """Record that no message starts before a time."""
        self._next_start = until

    def _refill(self, now: float, rate: float, burst: float) -> None:
        # Without the small amount, rounding could leave slightly less than one token.
        tokens = self._tokens + (now - self._refilled_at) * rate + 1e-9
        self._tokens = min(max(1.0, rate * burst), tokens)
        self._refilled_at = now


class Meter:
    """A counter of the events in the last second."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._current = 0
        self._last = 0.0  # the rate in the previous interval

    def count(self, now: float) -> None:
        """Count an event."""
        if self._start is None:
            self._start = now
        since = now - self._start
        if since >= METER:
            self._last = self._current / since
            self._current = 0
            self._start = now
        self._current += 1

    def per_second(self, now: float) -> float:
        """Return the number of events per second, measured over a second or more."""
        if self._start is None:
            return 0.0
        since = now - self._start
        if since >= METER or self._last == 0.0:
            return self._current / max(since, METER)
        return self._last
