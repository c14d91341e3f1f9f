"""The rate controller: the configured rate, and the limits learned from the relay's replies.

The rate decreases by multiplication and increases by addition, as TCP's congestion window does
(AIMD). With this rule, two senders that share a relay converge to equal shares (Chiu and Jain,
1989). The caller passes the time to each function, in seconds of one monotonic clock. No function
here waits. During a hold-off, no message may start.

    the relay                     the controller
    asks for a lower rate         starts a hold-off of 1 s. If the relay asks again before it
                                  accepts a message, the next hold-off is twice as long, up to 60 s.
                                  The controller also decreases the rate, but only once a second.
                                  The new rate is 80 % of the number of messages that the relay
                                  accepted in the last second.
    has not asked for a lower     increases the rate each second by 10 % of the decreased rate. When
    rate for 10 s                 the rate is four times the rate before the decrease, the
                                  controller removes the rate limit.
    refuses a connection          allows only as many connections as are open, and one more after
                                  each minute.
    ends two successive           allows this number of messages on a connection. After every tenth
    connections after the same    connection that carried this number, the controller allows one
    number of messages            message more. It does not do so if the relay stated the limit.
"""

from collections import deque

MIN_RATE = 0.1
"""The minimum rate, in messages per second. At this rate, an overloaded relay gets one message in
10 s."""

DEFAULT_RATE = 1.0
"""The rate after the first decrease if the relay has accepted no message yet, in messages per
second."""

MAX_HOLD_OFF = 60.0
"""The maximum duration of a hold-off, in seconds."""

DECREASE_INTERVAL = 1.0
"""The minimum time between two decreases, in seconds. One event at the relay often causes
throttling replies on several connections. These replies together must decrease the rate only
once."""

INCREASE_DELAY = 10.0
"""The time between the last throttling reply and the first increase, in seconds."""

INCREASE = 0.1
"""The fraction of the decreased rate that is added to the rate each second."""

REMOVE_ABOVE = 4.0
"""The rate limit is removed when the rate reaches this multiple of the rate before the decrease."""

CONNECTION_INTERVAL = 60.0
"""The time after which one more connection is allowed, in seconds."""

SPEED_WINDOW = 5.0
"""The period over which `per_second` is measured, in seconds."""

CONNECTIONS_PER_PROBE = 10
"""The number of connections that must carry the learned maximum number of messages before this
maximum increases by one."""


class RateController:
    """The limits of one relay.

    Attributes:
        messages_per_connection: The maximum number of messages on one connection; None without a
            limit.
        recipients_per_message: The maximum number of recipients in a transaction, learned from a
            refusal; None before such a refusal.
    """

    def __init__(
        self,
        rate: float | None = None,
        connections: int = 1,
        messages_per_connection: int | None = None,
    ) -> None:
        """Start with the configured limits.

        Args:
            rate: The maximum rate, in messages per second, or None.
            connections: The maximum number of open connections.
            messages_per_connection: The maximum number of messages on one connection, or None.
        """
        self.messages_per_connection = messages_per_connection
        self.recipients_per_message: int | None = None
        self._configured_rate = rate
        self._configured_connections = connections
        self._decreased_rate: float | None = None
        self._rate_before = 0.0
        self._decreased_at = 0.0
        self._throttled_at = 0.0
        self._hold_off = 0.0
        self._held_off_until = 0.0
        self._accepted_since_hold_off = True
        self._tokens = 1.0
        self._refilled_at: float | None = None
        self._connections = connections
        self._connections_at = 0.0
        self._configured_messages = messages_per_connection
        self._last_connection_messages = 0
        self._limit_is_stated = False
        self._filled_connections = 0
        self._accepted: deque[tuple[float, int]] = deque()

    # Pacing

    def rate(self, now: float) -> float | None:
        """Return the rate limit at this time, in messages per second; None without a limit."""
        learned = self._learned_rate(now)
        rates = [rate for rate in (self._configured_rate, learned) if rate is not None]
        return min(rates) if rates else None

    def wait(self, now: float) -> float:
        """Return the time until the next message may start, in seconds."""
        held_off = max(0.0, self._held_off_until - now)
        rate = self.rate(now)
        if rate is None:
            return held_off
        self._refill(now, rate)
        return max(held_off, (1 - self._tokens) / rate if self._tokens < 1 else 0.0)

    def start(self, now: float) -> None:
        """Count a message whose sending starts. With a rate limit, this message uses one token."""
        rate = self.rate(now)
        if rate is not None:
            self._refill(now, rate)
            self._tokens -= 1

    def _refill(self, now: float, rate: float) -> None:
        """Add tokens for the time since the last call.

        The maximum is the number of tokens that the rate adds in 0.1 s. If this number is below
        one, the maximum is one token.
        """
        if self._refilled_at is not None:
            tokens = self._tokens + (now - self._refilled_at) * rate
            # A small amount is added. Otherwise rounding could give slightly less than one token,
            # and a message that is due would wait.
            self._tokens = min(max(1.0, rate / 10), tokens + 1e-9)
        self._refilled_at = now

    # Throttling

    def accepted(self, now: float) -> None:
        """Count a message that the relay accepted."""
        self._accepted_since_hold_off = True
        last = self._accepted[-1] if self._accepted else None
        if last is not None and now - last[0] < 0.01:
            self._accepted[-1] = (last[0], last[1] + 1)
        else:
            self._accepted.append((now, 1))
            self._forget_old(now)

    def per_second(self, now: float) -> float:
        """Return the number of accepted messages per second, measured over `SPEED_WINDOW`."""
        return self._accepted_within(SPEED_WINDOW, now) / SPEED_WINDOW

    def decrease(self, now: float) -> None:
        """React to a reply that asks for a lower rate."""
        if now >= self._held_off_until:
            again = not self._accepted_since_hold_off
            self._hold_off = (
                min(MAX_HOLD_OFF, 2 * self._hold_off) if again and self._hold_off else 1.0
            )
            self._held_off_until = now + self._hold_off
            self._accepted_since_hold_off = False
        if self._decreased_rate is None or now - self._decreased_at >= DECREASE_INTERVAL:
            self._decrease_rate(now)
        self._throttled_at = now

    def _decrease_rate(self, now: float) -> None:
        accepted = self._accepted_within(1.0, now)
        current = self.rate(now)
        if accepted:
            before, after = float(accepted), 0.8 * accepted
        elif current is not None:
            before, after = current, current / 2
        else:
            before, after = DEFAULT_RATE, DEFAULT_RATE
        if current is not None:
            after = min(after, current)
        self._rate_before, self._decreased_rate = before, max(MIN_RATE, after)
        self._decreased_at = now

    def _learned_rate(self, now: float) -> float | None:
        if self._decreased_rate is None:
            return None
        seconds = max(0.0, now - self._throttled_at - INCREASE_DELAY)
        rate = self._decreased_rate * (1 + INCREASE * seconds)
        if rate >= REMOVE_ABOVE * self._rate_before:
            self._decreased_rate = None
            return None
        return rate

    def _accepted_within(self, seconds: float, now: float) -> int:
        return sum(count for at, count in self._accepted if at > now - seconds)

    def _forget_old(self, now: float) -> None:
        while self._accepted[0][0] < now - SPEED_WINDOW:
            self._accepted.popleft()

    # Connections

    def allowed_connections(self, now: float) -> int:
        """Return the maximum number of open connections at this time."""
        more = int((now - self._connections_at) / CONNECTION_INTERVAL)
        return min(self._configured_connections, self._connections + max(0, more))

    def connection_refused(self, now: float, open_connections: int) -> None:
        """React to a connection that the relay refused.

        Args:
            now: The time.
            open_connections: The number of connections that are still open.
        """
        self._connections = min(self._configured_connections, max(1, open_connections))
        self._connections_at = now

    def connection_ended(self, messages: int, *, full: bool = False) -> None:
        """React to a connection that the relay ended.

        Args:
            messages: The number of messages that the connection carried.
            full: Whether the relay stated that `messages` is the maximum number.
        """
        if messages >= 1 and (full or messages == self._last_connection_messages):
            configured = self._configured_messages
            self.messages_per_connection = (
                messages if configured is None else min(configured, messages)
            )
            self._limit_is_stated = full
            self._filled_connections = 0
        self._last_connection_messages = messages

    def connection_filled(self) -> None:
        """Count a connection that carried the maximum number of messages and ended with QUIT.

        If the relay did not state the limit, the learned limit may be too low. So the learned limit
        is raised by one message after `CONNECTIONS_PER_PROBE` such connections.
        """
        known, configured = self.messages_per_connection, self._configured_messages
        if known is not None and known != configured and not self._limit_is_stated:
            self._filled_connections += 1
            if self._filled_connections % CONNECTIONS_PER_PROBE == 0:
                self.messages_per_connection = known + 1

    def limit_recipients(self, accepted: int) -> None:
        """Set the maximum number of recipients in one transaction."""
        self.recipients_per_message = max(1, accepted)
