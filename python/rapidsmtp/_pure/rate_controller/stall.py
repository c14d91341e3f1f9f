"""The detection of a stall: a relay that accepts no message for some time stops the engine."""

STALLED = 45.0
"""The time without an acceptance after which a relay counts as dead, in seconds."""

STALLED_BY_LIMIT = 150.0
"""The same for a relay that accepted messages before and states a limit, in seconds. A limit for
each minute ends within this time."""

FORGET = 75.0
"""The time without a refusal after which earlier refusals do not count, in seconds. It is longer
than the longest hold-off."""


class StallDetector:
    """The time for which the relay has refused every message and connection."""

    def __init__(self) -> None:
        self._has_accepted = False
        self._refusing_since: float | None = None
        self._refused_at = 0.0
        self._refuses_by_limit = False

    def accepted(self) -> None:
        """Record that the relay accepted a message."""
        self._has_accepted = True

    def works(self) -> None:
        """Forget the refusals, because the relay processes messages or the engine restarts."""
        self._refusing_since = None

    def refused(self, now: float, *, by_limit: bool) -> None:
        """Record a refusal that concerns the relay, or a failed connection.

        Args:
            now: The time.
            by_limit: Whether the relay stated a limit or an overload.
        """
        # After a long time without a refusal, the engine had nothing to send.
        if self._refusing_since is None or now - self._refused_at > FORGET:
            self._refusing_since = now
        self._refused_at = now
        self._refuses_by_limit = by_limit

    def refusing_for(self, now: float) -> float:
        """Return the time for which the relay has refused every message, in seconds."""
        return 0.0 if self._refusing_since is None else now - self._refusing_since

    def is_stalled(self, now: float) -> bool:
        """Return whether the relay counts as dead."""
        return self._refusing_since is not None and self.time_left(now) <= 0.0

    def time_left(self, now: float) -> float:
        """Return the time until the relay can count as dead, in seconds."""
        by_limit = self._refuses_by_limit and self._has_accepted
        return (STALLED_BY_LIMIT if by_limit else STALLED) - self.refusing_for(now)
