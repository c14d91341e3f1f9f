"""The backlog: errands that may begin, and errands that wait for their next attempt."""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Iterator

from rapidsmtp._pure.job import Errand


class Backlog:
    """Errands in the order in which they are to be made.

    Attributes:
        ready: those that may begin.
    """

    def __init__(self) -> None:
        self.ready: deque[Errand] = deque()
        self._waiting: list[tuple[float, int, Errand]] = []
        self._order = itertools.count()

    def wait_until(self, due: float, errand: Errand) -> None:
        """Keep an errand until its time has come."""
        heapq.heappush(self._waiting, (due, next(self._order), errand))

    def wake(self, now: float) -> None:
        """Make those ready whose time has come."""
        while self._waiting and self._waiting[0][0] <= now:
            self.ready.append(heapq.heappop(self._waiting)[2])

    @property
    def next_due(self) -> float | None:
        """When the next of those that wait may begin; None where none waits."""
        return self._waiting[0][0] if self._waiting else None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_empty(self) -> bool:
        return not self.ready and not self._waiting

    def drain(self) -> Iterator[Errand]:
        """Take all that there is."""
        while self.ready:
            yield self.ready.popleft()
        while self._waiting:
            yield heapq.heappop(self._waiting)[2]


def backoff(settings: tuple[float, float, float], attempts: int) -> float:
    """Seconds until the next attempt: exponential, with full jitter.

    Senders that were turned away together must not come back together.

    Args:
        settings: base, factor and maximum.
        attempts: how many there were, at least one.
    """
    base, factor, maximum = settings
    try:
        longest = min(maximum, base * factor ** (attempts - 1))
    except OverflowError:
        longest = maximum
    return random.uniform(0, longest)
