"""The rate controller: the limits of one relay, learned from what the relay does.

The module has no I/O and no clock. The caller passes the time to each method, in seconds of one
monotonic clock. `src/rate_controller.rs` makes the same computations in the same order, so both
backends get the same numbers.

Rate
----
A refusal decreases the rate only if it concerns the relay, and not one message:

    refusal                                     concerns
    a limit or an overload ("throttling",       the relay from the second message on; the message
    4.3.2)                                      alone if the relay accepts the others meanwhile
    any other temporary refusal                 the message; but the relay after `RUN` of these
    ("try again later")                         refusals without an acceptance in between, or if a
                                                trial shows that the rate is the cause

A trial starts when the relay refuses more than `TRIAL_SHARE` of the messages. The rate is decreased
for some messages. If the relay then refuses fewer messages, the rate is the cause. If not, the
cause is for example greylisting, and the limit is removed.

After a decrease, the refusal of a message that had started before the decrease reports the same
event. This refusal decreases the rate no further (compare RFC 6582, TCP's fast recovery).

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

If the relay accepts no message after a decrease, a hold-off starts. Its first length is the time
for one message at the known rate. Each further refusal multiplies the length by `HOLD_OFF_GROWTH`,
up to `MAX_HOLD_OFF`. After a hold-off, one message is a probe, and the other messages wait for its
result.

Connections
-----------
A connection is proven when the relay has processed a message on it. At most one unproven connection
exists until the first proof, and then as many as there were proofs. If a proof takes long, one more
connection is allowed from time to time. So a relay with a limit refuses few connections. If the
relay refuses a connection, the number of other open connections becomes the limit. One more is
allowed after `CONNECTION_INTERVAL`. If the relay refuses this connection, the interval doubles. A
reply that states a rate is different: the cause may be the rate of the first message. So the number
stays, until the relay refuses two connections without a proof in between.

If no connection is open, the wait for the next one grows with the time since the first failure. So
connecting extends an outage by about a fifth of its length.

Progress
--------
A relay that accepts no message for some time stops the engine: see `is_stalled`.
"""

import enum
import math
from typing import Final


class Evidence(enum.IntEnum):
    """What the result of an attempt shows about the relay. A higher value is stronger evidence."""

    NOTHING = 0
    """The attempt shows nothing about the relay, for example because its connection was lost."""
    DEFERRED = 1
    """The relay refused the message temporarily, for a reason in the message or the recipient."""
    REFUSED = 2
    """The relay refused the message permanently."""
    LATER = 3
    """The relay refused the message temporarily, and the reply states no reason."""
    THROTTLED = 4
    """The relay refused the message, and the reply states a limit or an overload of the relay."""
    ACCEPTED = 5
    """The relay accepted the message for at least one recipient."""


RUN = 16
"""The number of refusals "later" in a row that concern the relay. With greylisting of half of the
messages, a run of this length has the probability 1/65536."""

SHARE_RESULTS = 64.0
"""The number of results over which the share of the refusals "later" is measured."""

TRIAL_SHARE = 0.2
"""The share of the refusals "later" above which a trial starts."""

TRIAL_RESULTS = 32
"""The number of results of a trial at one rate."""

TRIAL_STEPS = 2
"""The maximum number of rates in a trial. The second rate is lower than the first one."""

TRIAL_DROP = 4.0
"""A trial shows that the rate is the cause if the share of refusals falls by this factor."""

TRIAL_INTERVAL = 300.0
"""The time from a trial without this result to the next trial, in seconds."""

CONTRADICTION = 0.9
"""A refusal below this fraction of the lower bound contradicts the result of a trial."""

OTHERS = 16
"""The number of other messages that the relay accepts between two refusals of one message, if these
refusals concern only this message."""

WARNING = 64
"""The number of accepted messages after which the first refusal of a message is forgotten."""

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

MAX_PLATEAU = 90.0
"""The maximum of that time, in seconds, unless the minimum is longer."""

SHORT_PLATEAU = 2.0
"""The minimum of that time, if the interval is wide, in seconds."""

MAX_SHORT_PLATEAU = 30.0
"""If the interval is wide, that time is at least half of the time since the previous decrease. This
value is the maximum of this minimum, in seconds."""

SHORT_MESSAGES = 3.0
"""The minimum of that time, if the interval is wide, in messages at the known rate. In an interval
of half the width, it is twice as long, because the average of few messages is inexact."""

UNLIMITED = 8.0
"""The learned limit is removed when the rate reaches this multiple of the known rate."""

METER = 1.0
"""The minimum time over which a rate is measured, in seconds."""

PAUSE = 2.0
"""If no message starts for this time although one may start, the measurement of the rate starts
again, in seconds."""

MIN_HOLD_OFF = 0.05
"""The minimum length of a hold-off, in seconds."""

HOLD_OFF_GROWTH = 2.0
"""The length of a hold-off, as a multiple of the previous one."""

MAX_HOLD_OFF = 15.0
"""The maximum length of a hold-off, in seconds. A limit for each minute ends during a hold-off, and
the rest of this hold-off is lost."""

CONNECTION_INTERVAL = 60.0
"""The time until one more connection is allowed, in seconds."""

MAX_CONNECTION_INTERVAL = 3600.0
"""The maximum of that time, in seconds."""

CONNECTIONS_PER_PROBE = 10
"""The number of connections that must carry the learned maximum number of messages before this
maximum increases by one. Each failed increase doubles the number."""

PROOF_WAIT = 1.0
"""The time after which one more connection is allowed although the last one is not proven, in
seconds. The relay may need much time for each message."""

MIN_RECONNECT = 0.1
"""The minimum wait between two attempts to connect, in seconds."""

RECONNECT = 0.2
"""The wait between two attempts to connect, as a fraction of the time since the first failure."""

STALLED = 45.0
"""The time without an acceptance after which a relay counts as dead, in seconds."""

STALLED_BY_LIMIT = 150.0
"""The same for a relay that accepted messages before and states a limit, in seconds. A limit for
each minute ends within this time."""

FORGET = 75.0
"""The time without a refusal after which earlier refusals do not count, in seconds. It is longer
than the longest hold-off."""

NEVER: Final = float("-inf")


class RateController:
    """The limits of one relay."""

    def __init__(
        self,
        rate: float | None = None,
        connections: int = 1,
        messages_per_connection: int | None = None,
        *,
        patient: bool = True,
    ) -> None:
        """Start with the configured limits.

        Args:
            rate: The maximum rate, in messages per second; None for no limit.
            connections: The maximum number of open connections.
            messages_per_connection: The maximum number of messages on one connection, or None.
            patient: Whether messages may wait for the relay. If false (`max_attempts` is 1), no
                refusal delays a message.
        """
        self.accepted = 0
        self.refusals = 0  # that concern the relay
        self._warned_at: int | None = None
        self._configured_rate = rate
        self._patient = patient
        # The rate
        self._known: float | None = None
        self._low = 0.0  # the lower bound of the relay's rate
        self._plateau = PLATEAU
        self._event_at = 0.0
        self._decreased_at = NEVER
        self._grows_from = 0.0
        self._accepted_since_event = 0
        self._accepted_since_decrease = True
        self._busy_since = 0.0
        self._next_start = NEVER
        self._meter = _Meter()
        self._tokens = 1.0
        self._refilled_at = 0.0
        # The hold-off
        self._hold_off = 0.0
        self._held_off_until = NEVER
        self._is_probing = False
        self._probe_in_flight = False
        # The refusals "later"
        self._run = 0
        self._share = 0.0
        self._later_is_rate = False
        self._trial: float | None = None
        self._trial_at = NEVER
        self._trial_steps = 0
        self._trial_results = 0
        self._trial_refusals = 0
        # The connections
        self._configured_connections = max(1, connections)
        self._connections = max(1, connections)
        self._connections_at = 0.0
        self._connection_interval = CONNECTION_INTERVAL
        self._is_raised = False
        self._proofs = 0
        self._proofs_at_refusal: int | None = None
        self._opened_at = NEVER
        self._connections_before = self._connections
        self._accepted_at_refusal: int | None = None
        self._failing_since: float | None = None
        self._connect_at = NEVER
        # The messages per connection
        self._configured_messages = messages_per_connection
        self._learned_messages: int | None = None
        self._is_stated = False
        self._filled = 0
        self._probe_after = CONNECTIONS_PER_PROBE
        self._last_messages = 0
        self._ended_at = 0.0
        # The progress
        self._refusing_since: float | None = None
        self._refused_at = 0.0
        self._refuses_by_limit = False

    # The rate

    def rate(self, now: float) -> float | None:
        """Return the maximum rate at this time, in messages per second; None for no limit."""
        if self._known is None:
            return self._configured_rate
        x = (now - self._grows_from - self._plateau) / self._plateau
        growth = 1.0 + (1.0 - DECREASE) * (x * x * x * x * x)
        rate = max(MIN_RATE, self._known * growth)
        configured = self._configured_rate
        if growth >= UNLIMITED or (configured is not None and rate > configured):
            return configured
        return rate

    def wait(self, now: float) -> float:
        """Return the time until the next message may start, in seconds."""
        wait = max(0.0, self._held_off_until - now)
        if self._is_probing and self._probe_in_flight:
            # The caller asks again when the probe is settled, so the value matters little.
            return max(wait, METER)
        rate = self.rate(now)
        if rate is not None:
            self._refill(now, rate)
            if self._tokens < 1.0:
                wait = max(wait, (1.0 - self._tokens) / rate)
        return wait

    @property
    def is_probing(self) -> bool:
        """Whether a message is a probe, so that the other messages wait for its result."""
        return self._is_probing

    def start(self, now: float) -> None:
        """Count a message whose sending starts. `settled` records its result."""
        if now - self._next_start > PAUSE:
            # The engine had no message to send, so the relay could not accept one.
            self._busy_since = now
            self._accepted_since_event = 0
        self._next_start = now
        rate = self.rate(now)
        if rate is not None:
            self._refill(now, rate)
            self._tokens -= 1.0
            self._next_start = now + max(0.0, 1.0 - self._tokens) / rate
        self._probe_in_flight = self._is_probing

    def settled(
        self,
        now: float,
        started: float,
        evidence: Evidence,
        throttled: int = 0,
        accepted_before: int = 0,
        refusals_before: int = 0,
    ) -> bool:
        """Record the result of a message that `start` counted.

        Args:
            now: The time.
            started: The time at which the message started.
            evidence: What the result shows.
            throttled: The number of earlier refusals of this message that concerned the relay.
            accepted_before: The value of `accepted` at the last of these refusals.
            refusals_before: The value of `refusals` at the last of these refusals.

        Returns:
            Whether the refusal concerns the relay. If so, the message is not the cause, and the
            attempt does not count.
        """
        self._probe_in_flight = False
        if evidence == Evidence.ACCEPTED:
            self.accepted += 1
            self._accepted_since_event += 1
            self._meter.count(now)
            self._weigh(now, started, 0)
        elif evidence == Evidence.LATER:
            self._run += 1
            self._weigh(now, started, 1)
        if evidence in (Evidence.ACCEPTED, Evidence.REFUSED):
            self._works(now)
            return False
        earlier = (throttled, accepted_before, refusals_before)
        if not self._concerns_relay(now, evidence, earlier):
            return False
        self.refusals += 1
        self._refuses(now, by_limit=True)
        if started >= self._decreased_at and self._is_confirmed(now, evidence):
            self._decrease(now, evidence)
        return True

    def _works(self, now: float) -> None:
        """Record that the relay processes messages."""
        self._run = 0
        self._is_probing = False
        self._hold_off = 0.0
        self._held_off_until = NEVER
        self._refusing_since = self._failing_since = None
        if not self._accepted_since_decrease:
            self._accepted_since_decrease = True
            # The rate does not grow while the relay accepts nothing.
            self._grows_from = now

    def _is_confirmed(self, now: float, evidence: Evidence) -> bool:
        """Return whether a refusal is evidence for a limit.

        The first refusal at a proven rate may have another reason. So a second one must follow.
        """
        warned_at, self._warned_at = self._warned_at, self.accepted
        if evidence == Evidence.LATER:
            return True
        rate = self.rate(now)
        if self._known is not None and rate is not None and rate >= self._low:
            return True
        return warned_at is not None and self.accepted - warned_at <= WARNING

    def _concerns_relay(
        self, now: float, evidence: Evidence, earlier: tuple[int, int, int]
    ) -> bool:
        if not self._patient:
            return False
        if evidence == Evidence.THROTTLED:
            throttled, accepted_before, refusals_before = earlier
            is_alone = throttled > 0 and self.refusals == refusals_before
            return not is_alone or self.accepted - accepted_before < OTHERS
        if evidence != Evidence.LATER:
            return False
        if self._run >= RUN or self._is_rate(now):
            return True
        return self._share > TRIAL_SHARE and self._trial is None and now >= self._trial_at

    def _is_rate(self, now: float) -> bool:
        """Return whether a trial has shown that the rate causes a refusal "later" at this time."""
        rate = self.rate(now)
        is_proven = rate is not None and rate < CONTRADICTION * self._low
        return self._later_is_rate and not (is_proven and self._accepted_since_decrease)

    def _decrease(self, now: float, evidence: Evidence) -> None:
        if evidence != Evidence.LATER:
            self._trial = None
        elif not self._is_rate(now):
            self._later_is_rate = False
            self._trial = self._share
            self._trial_steps = TRIAL_STEPS
            self._trial_results = self._trial_refusals = 0
        if self._accepted_since_decrease:
            self._learn_rate(now)
            return
        self._decreased_at = self._grows_from = now
        shortest = 1.0 / (DEFAULT_RATE if self._known is None else self._known)
        hold_off = max(MIN_HOLD_OFF, shortest, HOLD_OFF_GROWTH * self._hold_off)
        self._hold_off = min(MAX_HOLD_OFF, hold_off)
        # The last hold-off ends when `is_stalled` becomes true, so that one more message is tried.
        self._held_off_until = now + min(self._hold_off, self._time_left(now))
        self._next_start = self._held_off_until
        self._is_probing = True

    def _learn_rate(self, now: float) -> None:
        rate = self.rate(now)
        since = now - max(self._event_at, self._busy_since)
        accepted = float(self._accepted_since_event)
        average = accepted / since if since > 0.0 else 0.0
        if self._known is None:
            # The bucket may have been full. So the average is an upper bound only.
            low = 0.0
            high = average if average > 0.0 else DEFAULT_RATE
            if rate is not None:
                high = min(high, rate)
            known = high
        else:
            high = max(self._known, self.per_second(now)) if rate is None else rate
            # The bucket may have contained a part of a token, hence one message less. If the engine
            # paused, the bucket was filled, and the average is no lower bound.
            is_bound = self._busy_since <= self._event_at and since > 0.0
            proven = max(0.0, accepted - 1.0) / since if is_bound else 0.0
            low = proven if high <= self._low else max(self._low, proven)
            if low > high:
                low = 0.0
            average = max(low, average)
            known = min(math.sqrt(average * high), STEP * average, high)
            if known <= 0.0:
                known = high / 2.0
        self._low = low
        self._set_known(now, known)
        if self._trial is not None:
            self._plateau = self._short_plateau(TRIAL_RESULTS)
        elif low >= NARROW * high:
            shortest = max(PLATEAU, self._short_plateau(PLATEAU_MESSAGES))
            longest = max(MAX_PLATEAU, shortest)
            self._plateau = min(longest, max(shortest, STEP * self._plateau))
        else:
            messages = SHORT_MESSAGES * high / (high - low)
            self._plateau = max(self._short_plateau(messages), min(MAX_SHORT_PLATEAU, since / 2.0))
        self._event_at = now
        self._accepted_since_event = 0
        self._accepted_since_decrease = False

    def _short_plateau(self, messages: float) -> float:
        """Return the time for a number of messages at the known rate, but at least the minimum."""
        return max(SHORT_PLATEAU, messages / (DEFAULT_RATE if self._known is None else self._known))

    def _set_known(self, now: float, known: float) -> None:
        self._known = max(MIN_RATE, known)
        self._decreased_at = self._grows_from = self._refilled_at = now
        self._tokens = min(self._tokens, 0.0)
        # A low rate is no pause of the engine.
        self._next_start = now + 1.0 / (DECREASE * self._known)

    def _weigh(self, now: float, started: float, refusals: int) -> None:
        """Update the share of the refusals "later", and the trial.

        Args:
            now: The time.
            started: The time at which the message started.
            refusals: 1 for a refusal "later", 0 for an acceptance.
        """
        self._share += (refusals - self._share) / SHARE_RESULTS
        if self._trial is None or not self._accepted_since_decrease or started < self._decreased_at:
            return
        self._trial_results += 1
        self._trial_refusals += refusals
        if self._trial_results < TRIAL_RESULTS:
            return
        self._trial_steps -= 1
        if TRIAL_DROP * self._trial_refusals <= self._trial * TRIAL_RESULTS:
            self._later_is_rate = True
            self._trial = None
            self._plateau = self._short_plateau(SHORT_MESSAGES)
            self._grows_from = now - self._plateau
        elif self._trial_steps > 0 and now > self._decreased_at:
            # The known rate may be too high, because relays accept a burst at any rate.
            self._set_known(now, self._accepted_since_event / (now - self._event_at))
            self._plateau = self._short_plateau(TRIAL_RESULTS)
            self._trial_results = self._trial_refusals = 0
        else:
            self._end_trial(now)

    def _end_trial(self, now: float) -> None:
        """Remove the limit, because the rate is not the cause of the refusals."""
        self._later_is_rate = False
        self._trial = self._known = None
        self._share = 0.0
        self._trial_at = now + TRIAL_INTERVAL

    def _refill(self, now: float, rate: float) -> None:
        """Add the tokens for the time since the last call.

        The maximum is the number of tokens that the rate adds in 0.1 s, but at least one. The
        maximum prevents a burst after a pause. For a learned rate, the time is 0.01 s, because the
        relay may accept no burst.
        """
        # Without the small amount, rounding could leave slightly less than one token.
        tokens = self._tokens + (now - self._refilled_at) * rate + 1e-9
        burst = rate / 10.0 if self._known is None else rate / 100.0
        self._tokens = min(max(1.0, burst), tokens)
        self._refilled_at = now

    def per_second(self, now: float) -> float:
        """Return the number of accepted messages per second, measured over a second or more."""
        return self._meter.per_second(now)

    # The connections

    def allowed_connections(self, now: float) -> int:
        """Return the maximum number of open connections at this time."""
        is_due = now - self._connections_at >= self._connection_interval
        if is_due and self._connections < self._configured_connections:
            self._connections += 1
            self._connections_at = now
            self._is_raised = True
        return self._connections

    def may_connect(self, now: float, proven: int, unproven: int) -> bool:
        """Return whether one more connection may be opened.

        Args:
            now: The time.
            proven: The number of connections on which the relay has accepted a message.
            unproven: The number of the other connections, also of those that are not ready yet.
        """
        return (
            now >= self._connect_at
            and (unproven < max(1, self._proofs) or now - self._opened_at >= PROOF_WAIT)
            and proven + unproven < self.allowed_connections(now)
        )

    def connection_opened(self, now: float) -> None:
        """Record that the engine opens a connection."""
        self._opened_at = now

    def connect_wait(self, now: float) -> float:
        """Return the time until the next connection may be opened after a failure, in seconds."""
        return max(0.0, self._connect_at - now)

    def connection_proven(self, proven: int) -> None:
        """Record that the relay accepted the first message on a connection.

        Args:
            proven: The number of proven connections, with this one.
        """
        self._proofs += 1
        self._connections = max(self._connections, min(proven, self._configured_connections))
        if self._is_raised and proven >= self._connections:
            self._is_raised = False
            self._connection_interval = CONNECTION_INTERVAL

    def connection_refused(self, now: float, others: int, *, by_rate: bool) -> None:
        """Record that the relay refused a connection while others are open.

        Args:
            now: The time.
            others: The number of the other open connections, 1 or more.
            by_rate: Whether the relay stated a rate or an overload, and no number of connections.
        """
        if by_rate and self._proofs != self._proofs_at_refusal:
            self._proofs_at_refusal = self._proofs
            return
        if self._accepted_at_refusal is None or self.accepted > self._accepted_at_refusal:
            self._accepted_at_refusal = self.accepted
            self._connections_before = self._connections
        self._connections = max(1, min(others, self._configured_connections))
        self._connections_at = now
        if self._is_raised:
            self._is_raised = False
            doubled = 2.0 * self._connection_interval
            self._connection_interval = min(MAX_CONNECTION_INTERVAL, doubled)

    def connection_failed(self, now: float, pause: float, random: float, *, by_limit: bool) -> None:
        """Record that a connection failed or carried no message, while no other one is open.

        Args:
            now: The time.
            pause: The minimum wait before the next connection, in seconds.
            random: A random number from 0 to 1.
            by_limit: Whether the relay stated a limit or an overload.
        """
        if not self._patient:
            return
        self._refuses(now, by_limit=by_limit)
        self._proofs = 0
        if self.accepted == self._accepted_at_refusal:
            # No other connection has delivered since the relay refused one. So the cause is an
            # outage, and not the number of connections.
            self._connections = self._connections_before
            self._is_raised = False
        if self._failing_since is None:
            self._failing_since = now
        wait = max(MIN_RECONNECT, RECONNECT * (now - self._failing_since))
        wait = min(wait, max(MIN_RECONNECT, self._time_left(now)))
        # The random factor prevents that many senders connect at the same time.
        self._connect_at = now + max(wait * (0.8 + 0.4 * random), pause)

    def connection_ended(self, now: float, opened: float, messages: int, *, stated: bool) -> None:
        """Learn the maximum number of messages per connection from a connection's end.

        Args:
            now: The time.
            opened: The time at which the connection was opened.
            messages: The number of messages that the connection carried.
            stated: Whether the relay stated the limit. If not, the limit is only an assumption:
                two connections ended after the same number of messages.
        """
        # An outage ends several connections at the same time. So only a later connection counts.
        is_later = opened >= self._ended_at
        is_equal = is_later and messages == self._last_messages
        if is_later:
            self._last_messages = messages
            self._ended_at = now
        if messages >= 1 and (stated or is_equal):
            # If the limit is the old one, the attempt to send one message more has failed.
            again = self._learned_messages in (messages, messages + 1)
            self._probe_after = 2 * self._probe_after if again else CONNECTIONS_PER_PROBE
            self._learned_messages = messages
            self._is_stated = stated
            self._filled = 0

    def connection_filled(self) -> None:
        """Count a connection that carried the learned maximum number of messages.

        A limit that the relay did not state may be too low. So such a limit increases by one from
        time to time.
        """
        if self._learned_messages is None or self._is_stated:
            return
        self._filled += 1
        if self._filled >= self._probe_after:
            self._learned_messages += 1
            self._filled = 0

    @property
    def messages_per_connection(self) -> int | None:
        """The maximum number of messages on one connection; None if there is no limit."""
        configured, learned = self._configured_messages, self._learned_messages
        if configured is None or learned is None:
            return configured if learned is None else learned
        return min(configured, learned)

    # The progress

    def refusing_for(self, now: float) -> float:
        """Return the time for which the relay has refused every message, in seconds."""
        return 0.0 if self._refusing_since is None else now - self._refusing_since

    def is_stalled(self, now: float) -> bool:
        """Return whether the engine must stop, because the relay accepts no message.

        The caller asks after a refusal or a failure, and only if no message is in flight.
        """
        return self._refusing_since is not None and self._time_left(now) <= 0.0

    def resume(self) -> None:
        """Forget the failures, because the caller restarted the engine."""
        self._refusing_since = self._failing_since = None
        self._connect_at = self._held_off_until = NEVER
        self._hold_off = 0.0
        self._is_probing = False
        self._run = 0

    def _time_left(self, now: float) -> float:
        """Return the time until `is_stalled` can become true, in seconds."""
        by_limit = self._refuses_by_limit and self.accepted > 0
        return (STALLED_BY_LIMIT if by_limit else STALLED) - self.refusing_for(now)

    def _refuses(self, now: float, *, by_limit: bool) -> None:
        # After a long time without a refusal, the engine had nothing to send.
        if self._refusing_since is None or now - self._refused_at > FORGET:
            self._refusing_since = now
        self._refused_at = now
        self._refuses_by_limit = by_limit


class _Meter:
    """A counter of the events in the last second."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._current = 0
        self._last = 0.0  # the rate in the previous interval

    def count(self, now: float) -> None:
        if self._start is None:
            self._start = now
        since = now - self._start
        if since >= METER:
            self._last = self._current / since
            self._current = 0
            self._start = now
        self._current += 1

    def per_second(self, now: float) -> float:
        if self._start is None:
            return 0.0
        since = now - self._start
        if since >= METER or self._last == 0.0:
            return self._current / max(since, METER)
        return self._last
