"""The learned rate: the interval of the relay's rate, and the growth between two refusals.

A relay often limits the rate with a token bucket: each message takes a token, and the relay adds
tokens at its rate, up to its burst. A refusal shows that the bucket is empty. So each decrease
gives an interval for the relay's rate:

    bound   value                               reason
    lower   the average rate of the accepted    the bucket was empty at the last decrease, so the
            messages since the last decrease    relay has added a token for each of these messages
    upper   the rate at the refusal             a lower rate would have left tokens in the bucket

A small burst makes the upper bound exact, and a large burst makes the lower bound exact. The burst
is unknown, so the known rate is the geometric mean of the bounds, but at most `STEP` times the
average. A refusal soon after a decrease shows that the known rate is too high. It decreases the
upper bound and leaves the lower bound. A refusal below the lower bound shows that the relay's rate
has fallen, so the lower bound is measured again. At the first decrease the bucket may have been
full, so the average is only an upper bound.

After a decrease the rate starts below the known rate, returns to it, stays near it for some time
(the plateau), and then exceeds it more and more (compare RFC 9438, TCP CUBIC). While the interval
is wide, the plateau is short: the next refusal soon narrows the interval. While the interval is
narrow, each refusal makes the plateau longer by the factor `STEP`.

The first message after a decrease starts soon, because the next token is often nearly there. It
waits for the time of one message if the relay has needed much longer than this time after the
previous refusal, for example because it counts the messages in windows of time.

After a decrease, the refusal of a message that had started before the decrease reports the same
event. This refusal decreases the rate no further (compare RFC 6582, TCP's fast recovery).
"""

from math import inf, sqrt

DEFAULT_RATE = 1.0
"""The known rate before the first acceptance, in messages per second."""

MIN_RATE = 0.05
"""The minimum rate after a decrease, in messages per second."""

DECREASE = 0.85
"""The rate after a decrease, as a fraction of the known rate."""

STEP = 1.5
"""The known rate is at most this multiple of the average rate before a decrease. In a narrow
interval, each plateau is this multiple of the previous one."""

NARROW = 0.75
"""The interval of the relay's rate is narrow if the lower bound is at least this fraction of the
upper bound."""

PLATEAU = 10.0
"""The minimum time from a decrease until the rate reaches the known rate, if the interval is
narrow, in seconds."""

PLATEAU_MESSAGES = 20.0
"""The same minimum, in messages at the known rate. The longer of the two times counts."""

MAX_PLATEAU = 45.0
"""The maximum of that time in the first minutes, in seconds, unless the minimum is longer."""

PLATEAU_SHARE = 0.125
"""The maximum of that time later, as a fraction of the time since the limit was found."""

LONGEST_PLATEAU = 240.0
"""The maximum of that time at any time, in seconds, unless the minimum is longer."""

SHORT_PLATEAU = 2.0
"""The minimum of that time, if the interval is wide, in seconds."""

MAX_SHORT_PLATEAU = 30.0
"""If the interval is wide, that time is at least half of the time since the previous decrease. This
value is the maximum of this minimum, in seconds."""

SHORT_MESSAGES = 3.0
"""The minimum of that time, if the interval is wide, in messages at the known rate. In an interval
of half the width, it is twice as long, because the average of few messages is inexact."""

TRIAL_MESSAGES = 32.0
"""That time in a trial, in messages at the known rate."""

RETRY = 0.25
"""The wait after a decrease, as a fraction of the time for one message at the known rate. A relay
without bursts loses the tokens of a longer wait."""

MIN_RETRY = 0.05
"""The minimum of that wait, in seconds."""

UNLIMITED = 8.0
"""The learned limit is removed when the rate reaches this multiple of the known rate."""


class LearnedRate:
    """The rate that the relay allows, as far as it is known.

    Attributes:
        configured: The configured maximum rate, in messages per second; None for no limit.
        known: The known rate; None if the relay has shown no limit.
        low: The lower bound of the relay's rate.
        decreased_at: The time of the last decrease, also of the last hold-off.
        is_tested: Whether the relay has accepted a message since the last decrease.
    """

    def __init__(self, configured: float | None) -> None:
        self.configured = configured
        self.known: float | None = None
        self.low = 0.0
        self.decreased_at = -inf
        self.is_tested = True
        self._plateau = PLATEAU
        self._grows_from = 0.0
        self._event_at = 0.0
        self._accepted_since_event = 0
        self._busy_since = 0.0
        self._limited_since = 0.0
        self._tested_at = 0.0
        self._retries_soon = False

    def at(self, now: float) -> float | None:
        """Return the maximum rate at this time, in messages per second; None for no limit."""
        if self.known is None:
            return self.configured
        x = (now - self._grows_from - self._plateau) / self._plateau
        growth = 1.0 + (1.0 - DECREASE) * (x * x * x * x * x)
        rate = max(MIN_RATE, self.known * growth)
        if growth >= UNLIMITED or (self.configured is not None and rate > self.configured):
            return self.configured
        return rate

    @property
    def seconds_per_message(self) -> float:
        """The time for one message at the known rate."""
        return 1.0 / (DEFAULT_RATE if self.known is None else self.known)

    @property
    def retry_wait(self) -> float:
        """The time from a decrease to the next message, in seconds."""
        soon = max(MIN_RETRY, RETRY * self.seconds_per_message)
        wait = self.seconds_per_message / DECREASE
        return min(wait, soon) if self._retries_soon else wait

    @property
    def hold_off(self) -> float:
        """The length of the first hold-off, in seconds."""
        return self.retry_wait if self._retries_soon else self.seconds_per_message

    def paused(self, now: float) -> None:
        """Start the measurement again, because the engine had no message to send.

        The relay could not accept one in this time.
        """
        self._busy_since = now
        self._accepted_since_event = 0

    def accepted(self) -> None:
        """Count a message that the relay accepted."""
        self._accepted_since_event += 1

    def works(self, now: float) -> None:
        """Record that the relay processes messages at the decreased rate."""
        if not self.is_tested:
            self.is_tested = True
            self._tested_at = now
            # The rate does not grow while the relay accepts nothing.
            self._grows_from = now

    def held(self, now: float) -> None:
        """Record that a hold-off starts."""
        self.decreased_at = self._grows_from = now

    def decrease(self, now: float, per_second: float, *, in_trial: bool) -> None:
        """Decrease the rate after a refusal.

        Args:
            now: The time.
            per_second: The measured rate of the accepted messages.
            in_trial: Whether a trial is in progress.
        """
        rate = self.at(now)
        since = now - max(self._event_at, self._busy_since)
        accepted = float(self._accepted_since_event)
        average = accepted / since if since > 0.0 else 0.0
        if self.known is None:
            # The bucket may have been full. So the average is an upper bound only.
            self._limited_since = now
            low = 0.0
            high = average if average > 0.0 else DEFAULT_RATE
            if rate is not None:
                high = min(high, rate)
            known = high
        else:
            high = max(self.known, per_second) if rate is None else rate
            # The bucket may have contained a part of a token, hence one message less. If the engine
            # paused, the bucket was filled, and the average is no lower bound.
            is_bound = self._busy_since <= self._event_at and since > 0.0
            proven = max(0.0, accepted - 1.0) / since if is_bound else 0.0
            low = proven if high <= self.low else max(self.low, proven)
            if low > high:
                low = 0.0
            average = max(low, average)
            known = min(sqrt(average * high), STEP * average, high)
            if known <= 0.0:
                known = high / 2.0
        self.low = low
        self._set(now, known)
        # A window of time ends long after the refusal. In this case, a soon retry is refused too.
        waited = self._tested_at - self._event_at
        self._retries_soon = not in_trial and waited <= 2.0 * self.seconds_per_message
        self._plateau = self._next_plateau(low, high, since, in_trial=in_trial)
        self._event_at = now
        self._accepted_since_event = 0
        self.is_tested = False

    def _next_plateau(self, low: float, high: float, since: float, *, in_trial: bool) -> float:
        if in_trial:
            return self._time_for(TRIAL_MESSAGES)
        if low >= NARROW * high:
            shortest = max(PLATEAU, self._time_for(PLATEAU_MESSAGES))
            share = PLATEAU_SHARE * (self._event_at - self._limited_since)
            longest = max(min(max(MAX_PLATEAU, share), LONGEST_PLATEAU), shortest)
            return min(longest, max(shortest, STEP * self._plateau))
        shortest = self._time_for(SHORT_MESSAGES * high / (high - low))
        return max(shortest, min(MAX_SHORT_PLATEAU, since / 2.0))

    def decrease_in_trial(self, now: float) -> None:
        """Decrease the rate to the average, for the next step of a trial.

        The known rate may be too high, because relays accept a burst at any rate.
        """
        self._set(now, self._accepted_since_event / (now - self._event_at))
        self._plateau = self._time_for(TRIAL_MESSAGES)

    def confirm(self, now: float) -> None:
        """Let the rate grow from the known rate, because a trial has shown that it is the cause."""
        self._plateau = self._time_for(SHORT_MESSAGES)
        self._grows_from = now - self._plateau

    def remove(self) -> None:
        """Remove the learned limit."""
        self.known = None

    def _time_for(self, messages: float) -> float:
        """Return the time for a number of messages at the known rate, but at least the minimum."""
        return max(SHORT_PLATEAU, messages * self.seconds_per_message)

    def _set(self, now: float, known: float) -> None:
        self.known = max(MIN_RATE, known)
        self.decreased_at = self._grows_from = now
