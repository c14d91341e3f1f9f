"""Hold-offs: the pauses in which no message starts, because the relay accepts no message.

If the relay accepts no message after a decrease of the rate, a hold-off starts. Its first length is
the time for one message at the known rate. Each further refusal multiplies the length by
`HOLD_OFF_GROWTH`, up to `MAX_HOLD_OFF`. After a hold-off, one message is a probe, and the other
messages wait for its result.
"""

from math import inf

MIN_HOLD_OFF = 0.05
"""The minimum length of a hold-off, in seconds."""

HOLD_OFF_GROWTH = 2.0
"""The length of a hold-off, as a multiple of the previous one."""

MAX_HOLD_OFF = 15.0
"""The maximum length of a hold-off, in seconds. A limit for each minute ends during a hold-off, and
the rest of this hold-off is lost."""

PROBE_WAIT = 1.0
"""The wait while a probe is in flight, in seconds. The caller asks again when the probe is settled,
so the value matters little."""


class HoldOff:
    """The hold-off in progress, and the probe after it.

    Attributes:
        is_probing: Whether a message is a probe, so that the other messages wait for its result.
    """

    def __init__(self) -> None:
        self.is_probing = False
        self._probe_in_flight = False
        self._length = 0.0
        self._until = -inf

    def wait(self, now: float) -> float:
        """Return the time until the next message may start, in seconds."""
        wait = max(0.0, self._until - now)
        return max(wait, PROBE_WAIT) if self.is_waiting_for_probe else wait

    @property
    def is_waiting_for_probe(self) -> bool:
        """Whether a probe is in flight."""
        return self.is_probing and self._probe_in_flight

    def message_started(self) -> None:
        """Record that a message starts. It is the probe after a hold-off."""
        self._probe_in_flight = self.is_probing

    def message_settled(self) -> None:
        """Record that a message has a result."""
        self._probe_in_flight = False

    def start(self, now: float, shortest: float, longest: float) -> float:
        """Start a hold-off, and return its end.

        Args:
            now: The time.
            shortest: The minimum length, in seconds.
            longest: The time after which one more message must be tried, in seconds.
        """
        length = max(MIN_HOLD_OFF, shortest, HOLD_OFF_GROWTH * self._length)
        self._length = min(MAX_HOLD_OFF, length)
        self._until = now + min(self._length, longest)
        self.is_probing = True
        return self._until

    def end(self) -> None:
        """End the hold-off, because the relay processes messages or the engine restarts."""
        self.is_probing = False
        self._length = 0.0
        self._until = -inf
