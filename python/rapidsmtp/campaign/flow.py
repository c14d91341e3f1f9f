"""How many rows a grant has, and when rows may be granted."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rapidsmtp.campaign.clock import CampaignClock
from rapidsmtp.campaign.model import OutcomeRecord

MIN_BLOCK, MAX_BLOCK = 16, 2048
_WINDOW = 8


class Pacer(NamedTuple):
    """When and how many rows may be granted.

    Attributes:
        allowed: A function that returns how many rows may be granted now, of a wanted number, and
            the time at which to ask again, in milliseconds since 1970.
        take: A function that takes messages from the budgets, inside a transaction, and returns how
            many.
        give_back: A function that returns messages to the budgets, inside a transaction: those of
            granted rows whose outcomes are RETURNED. None if no budget needs them.
    """

    allowed: Callable[[int, int], tuple[int, int]]
    take: Callable[[int], int]
    give_back: Callable[[Sequence[OutcomeRecord]], None] | None = None


class Flow:
    """How fast rows get their outcomes through a relay, and how many rows a grant has.

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
        """Return the number of rows in a grant, which lasts for `seconds` seconds or longer."""
        size = int(self._rate * max(3 * self._exchange, seconds)) + self._base
        return max(MIN_BLOCK, min(MAX_BLOCK, size))

    def add_rows(self, count: int) -> None:
        """Count rows that got their outcome."""
        now = self._clock.monotonic()
        seconds = max(now - self._since, 1e-4)
        weight = min(1.0, seconds / 0.5)
        self._rate += weight * (count / seconds - self._rate)
        self._since = now

    def add_exchange(self, seconds: float) -> None:
        """Count an exchange that took this time."""
        self._exchange += 0.2 * (seconds - self._exchange)
