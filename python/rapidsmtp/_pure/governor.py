"""The governor: what the relay takes, learned from what it says; it also holds the given rate.

Rates go down by multiplication and up by addition, as TCP's congestion window does, since two
senders that share a relay come to equal shares that way (Chiu and Jain). Time is given, in
seconds of one clock that never goes back; nothing here waits.

    the relay says        what follows
    slower                a pause of 1 s, twice as long each time that no mail was taken in
                          between, up to 60 s; and a rate of 80 % of what it took in the last
                          second, once a second at most
    nothing, for 10 s     the rate grows each second by a tenth of what it was cut to; at four
                          times what it was cut from it is forgotten
    no to a connection    no more of them than are open; one more each minute
    goodbye, twice after  so many messages on each connection; where it did not say in words that
    the same number       these are the most, one more each time that it took them all
"""

from collections import deque

MIN_RATE = 0.1
"""Messages a second: even a relay in trouble is asked again every ten seconds."""

UNKNOWN_RATE = 1.0
"""Messages a second after the first "slower" from a relay that has taken nothing yet."""

MAX_PAUSE = 60.0
"""Seconds of the longest pause."""

CUT_INTERVAL = 1.0
"""Seconds between two cuts: connections that hear "slower" together are one voice."""

CALM = 10.0
"""Seconds without "slower" after which the rate grows."""

GROWTH = 0.1
"""Of the rate that was cut to, each second."""

FORGET = 4.0
"""Times the rate that was cut from, where the rate is forgotten."""

CONNECTION_INTERVAL = 60.0
"""Seconds after which one more connection is tried."""

SPEED_WINDOW = 5.0
"""Seconds over which `per_second` is told."""

FILLED = 10
"""So many connections take what is believed to be the most, before one message more is tried."""


class Governor:
    """What one relay takes.

    Attributes:
        messages_per_connection: after so many a connection is replaced; None for no limit.
        recipients_per_message: the most recipients of a transaction that the relay took; None
            where it never refused one for their number.
    """

    def __init__(
        self,
        rate: float | None = None,
        connections: int = 1,
        messages_per_connection: int | None = None,
    ) -> None:
        """Begin knowing what is given.

        Args:
            rate: messages a second that are never exceeded, or None.
            connections: the most connections at once.
            messages_per_connection: the most messages on one, or None.
        """
        self.messages_per_connection = messages_per_connection
        self.recipients_per_message: int | None = None
        self._given_rate = rate
        self._given_connections = connections
        self._cut_to: float | None = None
        self._cut_from = 0.0
        self._cut_at = 0.0
        self._slower_at = 0.0
        self._pause = 0.0
        self._paused_until = 0.0
        self._taken_since_pause = True
        self._tokens = 1.0
        self._filled_at: float | None = None
        self._connections = connections
        self._connections_at = 0.0
        self._given_messages = messages_per_connection
        self._last_goodbye = 0
        self._told = False
        self._filled = 0
        self._accepted: deque[tuple[float, int]] = deque()

    # Pacing

    def rate(self, now: float) -> float | None:
        """Messages a second that may be started now; None without a limit."""
        learned = self._learned_rate(now)
        rates = [rate for rate in (self._given_rate, learned) if rate is not None]
        return min(rates) if rates else None

    def wait(self, now: float) -> float:
        """Seconds until the next message may be started; 0 for now."""
        paused = max(0.0, self._paused_until - now)
        rate = self.rate(now)
        if rate is None:
            return paused
        self._fill(now, rate)
        return max(paused, (1 - self._tokens) / rate if self._tokens < 1 else 0.0)

    def start(self, now: float) -> None:
        """A message is started: it takes a token, where there is a rate."""
        rate = self.rate(now)
        if rate is not None:
            self._fill(now, rate)
            self._tokens -= 1

    def _fill(self, now: float, rate: float) -> None:
        """Let tokens grow; more than a tenth of a second's worth are not saved up."""
        if self._filled_at is not None:
            grown = self._tokens + (now - self._filled_at) * rate
            # So near to one that only the clock's grain is missing.
            self._tokens = min(max(1.0, rate / 10), grown + 1e-9)
        self._filled_at = now

    # Speed

    def accept(self, now: float) -> None:
        """The relay took a message."""
        self._taken_since_pause = True
        last = self._accepted[-1] if self._accepted else None
        if last is not None and now - last[0] < 0.01:
            self._accepted[-1] = (last[0], last[1] + 1)
        else:
            self._accepted.append((now, 1))
            self._forget_old(now)

    def per_second(self, now: float) -> float:
        """Messages that the relay took, a second, over the last few."""
        return self._taken_within(SPEED_WINDOW, now) / SPEED_WINDOW

    def slower(self, now: float) -> None:
        """The relay wants less."""
        if now >= self._paused_until:
            again = not self._taken_since_pause
            self._pause = min(MAX_PAUSE, 2 * self._pause) if again and self._pause else 1.0
            self._paused_until = now + self._pause
            self._taken_since_pause = False
        if self._cut_to is None or now - self._cut_at >= CUT_INTERVAL:
            self._cut(now)
        self._slower_at = now

    def _cut(self, now: float) -> None:
        taken = self._taken_within(1.0, now)
        current = self.rate(now)
        if taken:
            before, after = float(taken), 0.8 * taken
        elif current is not None:
            before, after = current, current / 2
        else:
            before, after = UNKNOWN_RATE, UNKNOWN_RATE
        if current is not None:
            after = min(after, current)
        self._cut_from, self._cut_to = before, max(MIN_RATE, after)
        self._cut_at = now

    def _learned_rate(self, now: float) -> float | None:
        if self._cut_to is None:
            return None
        calm = max(0.0, now - self._slower_at - CALM)
        rate = self._cut_to * (1 + GROWTH * calm)
        if rate >= FORGET * self._cut_from:
            self._cut_to = None
            return None
        return rate

    def _taken_within(self, seconds: float, now: float) -> int:
        return sum(count for at, count in self._accepted if at > now - seconds)

    def _forget_old(self, now: float) -> None:
        while self._accepted[0][0] < now - SPEED_WINDOW:
            self._accepted.popleft()

    # Connections

    def allowed_connections(self, now: float) -> int:
        """How many connections may be open now."""
        more = int((now - self._connections_at) / CONNECTION_INTERVAL)
        return min(self._given_connections, self._connections + max(0, more))

    def refuse_connection(self, now: float, open_connections: int) -> None:
        """The relay took no further connection.

        Args:
            now: the time.
            open_connections: how many it keeps.
        """
        self._connections = min(self._given_connections, max(1, open_connections))
        self._connections_at = now

    def end_connection(self, messages: int, *, full: bool = False) -> None:
        """The relay ended a connection of its own accord.

        Args:
            messages: how many it took on it before.
            full: whether it said that this was too many.
        """
        if messages >= 1 and (full or messages == self._last_goodbye):
            given = self._given_messages
            self.messages_per_connection = messages if given is None else min(given, messages)
            self._told = full
            self._filled = 0
        self._last_goodbye = messages

    def fill_connection(self) -> None:
        """A connection carried all that it may, and the relay did not end it.

        Where that number is only believed, it may take more.
        """
        known, given = self.messages_per_connection, self._given_messages
        if known is not None and known != given and not self._told:
            self._filled += 1
            if self._filled % FILLED == 0:
                self.messages_per_connection = known + 1

    def limit_recipients(self, accepted: int) -> None:
        """The relay took so many recipients of a transaction and no more."""
        self.recipients_per_message = max(1, accepted)
