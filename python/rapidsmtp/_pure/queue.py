"""The queue of recipient groups, including the groups that wait for a retry."""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Iterator

from rapidsmtp._models.settings import Backoff
from rapidsmtp._pure.job import RecipientGroup


class MessageQueue:
    """The recipient groups, in the order in which they are sent.

    Attributes:
        ready: The groups that may start now.
    """

    def __init__(self) -> None:
        self.ready: deque[RecipientGroup] = deque()
        self._waiting: list[tuple[float, int, RecipientGroup]] = []
        self._order = itertools.count()

    def wait_until(self, due: float, group: RecipientGroup) -> None:
        """Keep a group until its retry is due."""
        heapq.heappush(self._waiting, (due, next(self._order), group))

    def move_due(self, now: float) -> None:
        """Move groups whose retry is due to `ready`."""
        while self._waiting and self._waiting[0][0] <= now:
            self.ready.append(heapq.heappop(self._waiting)[2])

    @property
    def next_due(self) -> float | None:
        """The time when the next retry is due; None if no group waits for a retry."""
        return self._waiting[0][0] if self._waiting else None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_empty(self) -> bool:
        return not self.ready and not self._waiting

    def drain(self) -> Iterator[RecipientGroup]:
        """Remove and yield all groups."""
        while self.ready:
            yield self.ready.popleft()
        while self._waiting:
            yield heapq.heappop(self._waiting)[2]


def backoff(settings: Backoff, attempts: int) -> float:
    """Return the time until the next attempt, in seconds: exponential backoff with full jitter.

    A relay may refuse several senders at the same time. The jitter makes their next attempts start
    at different times.

    Args:
        settings: The base, the factor and the maximum.
        attempts: The number of attempts so far; 1 or more.
    """
    try:
        maximum = min(settings.maximum, settings.base * settings.factor ** (attempts - 1))
    except OverflowError:
        maximum = settings.maximum
    return random.uniform(0, maximum)
