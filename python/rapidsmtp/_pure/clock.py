"""The pool's clock. It measures backoff, the rate, hold-offs and the time between connections.

The time limits of replies and of the network use real time, because the relay runs in real time. So
a test can run this clock faster than real time. An hour of backoff then passes in a second, but the
relay still has the full time limit for each reply.
"""

import time


class Clock:
    """A monotonic clock that runs at `speed` times the real speed."""

    def __init__(self, speed: float) -> None:
        self._origin = time.monotonic()
        self._speed = speed

    def now(self) -> float:
        """Return the time since the start of the clock, in seconds of this clock."""
        return (time.monotonic() - self._origin) * self._speed

    def real(self, seconds: float) -> float:
        """Return the real time, in seconds, in which this clock advances by `seconds`."""
        return seconds / self._speed
