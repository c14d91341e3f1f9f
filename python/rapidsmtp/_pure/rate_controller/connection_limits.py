"""The limit of open connections, and the wait for the next connection.

A connection is proven when the relay has processed a message on it. At most one unproven connection
exists until the first proof, and then as many as there were proofs. If a proof takes long, one more
connection is allowed from time to time. So a relay with a limit refuses few connections. If the
relay refuses a connection, the number of other open connections becomes the limit. One more is
allowed after `CONNECTION_INTERVAL`. If the relay refuses this connection, the interval doubles. A
reply that states a rate is different: the cause may be the rate of the first message. So the number
stays, until the relay refuses two connections without a proof in between.

If no connection is open, the wait for the next one grows with the time since the first failure. So
connecting extends an outage by about a fifth of its length.
"""

from math import inf

CONNECTION_INTERVAL = 60.0
"""The time until one more connection is allowed, in seconds."""

MAX_CONNECTION_INTERVAL = 3600.0
"""The maximum of that time, in seconds."""

PROOF_WAIT = 1.0
"""The time after which one more connection is allowed although the last one is not proven, in
seconds. The relay may need much time for each message."""

MIN_RECONNECT = 0.1
"""The minimum wait between two attempts to connect, in seconds."""

RECONNECT = 0.2
"""The wait between two attempts to connect, as a fraction of the time since the first failure."""


class ConnectionLimits:
    """The number of connections that may be open, and the time of the next attempt to connect."""

    def __init__(self, configured: int) -> None:
        """Start with the configured maximum number of open connections."""
        self._configured = max(1, configured)
        self._allowed = self._configured
        self._allowed_at = 0.0
        self._interval = CONNECTION_INTERVAL
        # Whether the number was increased and no connection has proven the new number.
        self._is_raised = False
        self._proofs = 0
        self._proofs_at_refusal: int | None = None  # the last refusal that stated a rate
        self._opened_at = -inf
        self._allowed_before = self._allowed
        self._accepted_at_refusal: int | None = None
        self._failing_since: float | None = None
        self._connect_at = -inf

    def allowed(self, now: float) -> int:
        """Return the maximum number of open connections at this time."""
        is_due = now - self._allowed_at >= self._interval
        if is_due and self._allowed < self._configured:
            self._allowed += 1
            self._allowed_at = now
            self._is_raised = True
        return self._allowed

    def may_open(self, now: float, proven: int, unproven: int) -> bool:
        """Return whether one more connection may be opened."""
        return (
            now >= self._connect_at
            and (unproven < max(1, self._proofs) or now - self._opened_at >= PROOF_WAIT)
            and proven + unproven < self.allowed(now)
        )

    def opened(self, now: float) -> None:
        """Record that the engine opens a connection."""
        self._opened_at = now

    def wait(self, now: float) -> float:
        """Return the time until the next connection may be opened after a failure, in seconds."""
        return max(0.0, self._connect_at - now)

    def proven(self, proven: int) -> None:
        """Record that a connection is proven. `proven` is the number of proven connections."""
        self._proofs += 1
        self._allowed = max(self._allowed, min(proven, self._configured))
        if self._is_raised and proven >= self._allowed:
            self._is_raised = False
            self._interval = CONNECTION_INTERVAL

    def refused(self, now: float, others: int, accepted: int, *, by_rate: bool) -> None:
        """Record that the relay refused a connection while others are open.

        Args:
            now: The time.
            others: The number of the other open connections, 1 or more.
            accepted: The number of messages that the relay has accepted.
            by_rate: Whether the relay stated a rate or an overload, and no number of connections.
        """
        if by_rate and self._proofs != self._proofs_at_refusal:
            self._proofs_at_refusal = self._proofs
            return
        if self._accepted_at_refusal is None or accepted > self._accepted_at_refusal:
            self._accepted_at_refusal = accepted
            self._allowed_before = self._allowed
        self._allowed = max(1, min(others, self._configured))
        self._allowed_at = now
        if self._is_raised:
            self._is_raised = False
            self._interval = min(MAX_CONNECTION_INTERVAL, 2.0 * self._interval)

    def failed(
        self, now: float, pause: float, random: float, accepted: int, longest: float
    ) -> None:
        """Record that a connection failed or carried no message, while no other one is open.

        Args:
            now: The time.
            pause: The minimum wait before the next connection, in seconds.
            random: A random number from 0 to 1.
            accepted: The number of messages that the relay has accepted.
            longest: The time after which one more attempt must be made, in seconds.
        """
        self._proofs = 0
        if accepted == self._accepted_at_refusal:
            # No other connection has delivered since the relay refused one. So the cause is an
            # outage, and not the number of connections.
            self._allowed = self._allowed_before
            self._is_raised = False
        if self._failing_since is None:
            self._failing_since = now
        wait = max(MIN_RECONNECT, RECONNECT * (now - self._failing_since))
        wait = min(wait, max(MIN_RECONNECT, longest))
        # The random factor prevents that many senders connect at the same time.
        self._connect_at = now + max(wait * (0.8 + 0.4 * random), pause)

    def works(self) -> None:
        """Forget when connecting began to fail, because the relay processes messages."""
        self._failing_since = None

    def resume(self) -> None:
        """Forget the failures, because the caller restarted the engine."""
        self._failing_since = None
        self._connect_at = -inf
