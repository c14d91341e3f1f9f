"""The number of rows in a grant, and the times at which rows may be granted."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rapidsmtp.campaign.clock import CampaignClock
from rapidsmtp.campaign.model import OutcomeRecord

MIN_BLOCK, MAX_BLOCK = 16, 2048
_WINDOW = 8


class Pacer(NamedTuple):
    """The functions that limit the grants of a relay.

    Attributes:
        allowed: A function that returns the number of rows that may be granted now, at most the
            requested number, and the time of the next request, in milliseconds since 1970.
        take: A function that takes messages from the budgets, inside a transaction, and returns
            their number: all or 0.
        give_back: A function that returns the messages of granted rows whose outcomes are RETURNED
            to the budgets, inside a transaction. None if no budget needs them.
    """

    allowed: Callable[[int, int], tuple[int, int]]
    take: Callable[[int], int]
    give_back: Callable[[Sequence[OutcomeRecord]], None] | None = None


class Flow:
    """The rate at which rows get their outcomes, and the number of rows in a grant.

    Args:
        connections: The number of connections.
        clock: The clock.
    """

    def __init__(self, connections: int, clock: CampaignClock) -> None:
        self._base = 2 * connections * _WINDOW
        self._clock = clock
        self._exchange = 0.001  # the time of an exchange, in seconds
        self._rate = 0.0  # rows per second
        self._since = clock.monotonic()

    def block(self, seconds: float) -> int:
        """Return the number of rows for at least `seconds` seconds at the current rate."""
        size = int(self._rate * max(3 * self._exchange, seconds)) + self._base
        return max(MIN_BLOCK, min(MAX_BLOCK, size))

    def add_rows(self, count: int) -> None:
        """Update the rate with the number of rows that got their outcome now."""
        now = self._clock.monotonic()
        seconds = max(now - self._since, 1e-4)
        weight = min(1.0, seconds / 0.5)
        self._rate += weight * (count / seconds - self._rate)
        self._since = now

    def add_exchange(self, seconds: float) -> None:
        """Update the time of an exchange with the time that one exchange took."""
        self._exchange += 0.2 * (seconds - self._exchange)
