"""The rate controller: the limits of one relay, learned from what the relay does.

The modules have no I/O and no clock. The caller passes the time to each method, in seconds of one
monotonic clock. `src/rate_controller.rs` makes the same computations in the same order, so both
backends get the same numbers.

    module              subject
    evidence            what the results of attempts show; the refusals that state no reason
    learned_rate        the interval of the relay's rate, and the growth between two refusals
    pace                the time between two messages at the rate
    hold_off            the pauses while the relay accepts no message
    connection_limits   the number of connections, and the wait for the next one
    message_limit       the messages on one connection
    stall               the end of the engine if the relay accepts nothing

A refusal decreases the rate only if it concerns the relay, and not one message:

    refusal                                     concerns
    a limit or an overload ("throttling",       the relay from the second message on; the message
    4.3.2)                                      alone if the relay accepts the others meanwhile
    any other temporary refusal                 the message, unless many of them are evidence for
    ("try again later")                         the relay; see `evidence`
"""

from rapidsmtp._pure.rate_controller.connection_limits import ConnectionLimits
from rapidsmtp._pure.rate_controller.evidence import Evidence, LaterRefusals, TrialState
from rapidsmtp._pure.rate_controller.hold_off import HoldOff
from rapidsmtp._pure.rate_controller.learned_rate import DECREASE, LearnedRate
from rapidsmtp._pure.rate_controller.message_limit import MessageLimit
from rapidsmtp._pure.rate_controller.pace import BURST, LEARNED_BURST, Meter, Pace
from rapidsmtp._pure.rate_controller.stall import StallDetector

__all__ = ["Evidence", "RateController"]

OTHERS = 16
"""The number of other messages that the relay accepts between two refusals of one message, if these
refusals concern only this message."""

WARNING = 64
"""The number of accepted messages after which the first refusal of a message is forgotten."""

CONTRADICTION = 0.9
"""A refusal below this fraction of the lower bound contradicts the result of a trial."""


class RateController:
    """The limits of one relay.

    Attributes:
        accepted: The number of messages that the relay accepted.
        refusals: The number of refusals that concern the relay.
    """

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
        self.refusals = 0
        self._warned_at: int | None = None  # the value of `accepted` at the last refusal
        self._patient = patient
        self._rate = LearnedRate(rate)
        self._pace = Pace()
        self._meter = Meter()
        self._hold_off = HoldOff()
        self._later = LaterRefusals()
        self._connections = ConnectionLimits(connections)
        self._messages = MessageLimit(messages_per_connection)
        self._stall = StallDetector()

    # The rate

    def rate(self, now: float) -> float | None:
        """Return the maximum rate at this time, in messages per second; None for no limit."""
        return self._rate.at(now)

    def wait(self, now: float) -> float:
        """Return the time until the next message may start, in seconds."""
        wait = self._hold_off.wait(now)
        rate = self._rate.at(now)
        if rate is None or self._hold_off.is_waiting_for_probe:
            return wait
        return max(wait, self._pace.wait(now, rate, self._burst))

    @property
    def is_probing(self) -> bool:
        """Whether a message is a probe, so that the other messages wait for its result."""
        return self._hold_off.is_probing

    def start(self, now: float) -> None:
        """Count a message whose sending starts. `settled` records its result."""
        if self._pace.start(now, self._rate.at(now), self._burst):
            self._rate.paused(now)
        self._hold_off.message_started()

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
        self._hold_off.message_settled()
        if evidence == Evidence.ACCEPTED:
            self.accepted += 1
            self._stall.accepted()
            self._rate.accepted()
            self._meter.count(now)
            self._weigh(now, started, 0)
        elif evidence == Evidence.LATER:
            self._weigh(now, started, 1)
        if evidence in (Evidence.ACCEPTED, Evidence.REFUSED):
            self._works(now)
            return False
        earlier = (throttled, accepted_before, refusals_before)
        if not self._concerns_relay(now, evidence, earlier):
            return False
        self.refusals += 1
        self._stall.refused(now, by_limit=True)
        # A message that started before the decrease reports the same event.
        if started >= self._rate.decreased_at and self._is_confirmed(now, evidence):
            self._decrease(now, evidence)
        return True

    def _works(self, now: float) -> None:
        """Record that the relay processes messages."""
        self._later.end_run()
        self._hold_off.end()
        self._stall.works()
        self._connections.works()
        self._rate.works(now)

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
        return self._is_rate(now) or self._later.concern_relay(now)

    def _is_rate(self, now: float) -> bool:
        """Return whether a trial has shown that the rate causes a refusal "later" at this time."""
        rate = self._rate.at(now)
        is_proven = rate is not None and rate < CONTRADICTION * self._rate.low
        return self._later.rate_is_cause and not (is_proven and self._rate.is_tested)

    def _is_confirmed(self, now: float, evidence: Evidence) -> bool:
        """Return whether a refusal is evidence for a limit.

        The first refusal at a proven rate may have another reason. So a second one must follow.
        """
        warned_at, self._warned_at = self._warned_at, self.accepted
        if evidence == Evidence.LATER:
            return True
        rate = self._rate.at(now)
        if self._rate.known is not None and rate is not None and rate >= self._rate.low:
            return True
        return warned_at is not None and self.accepted - warned_at <= WARNING

    def _decrease(self, now: float, evidence: Evidence) -> None:
        if evidence != Evidence.LATER:
            self._later.cancel_trial()
        elif not self._is_rate(now):
            self._later.start_trial()
        if self._rate.is_tested:
            per_second = self._meter.per_second(now)
            self._rate.decrease(now, per_second, in_trial=self._later.is_trial)
            self._pace_decrease(now)
            return
        self._rate.held(now)
        # The last hold-off ends when `is_stalled` becomes true, so that one more message is tried.
        shortest, longest = self._rate.hold_off, self._stall.time_left(now)
        self._pace.hold(self._hold_off.start(now, shortest, longest))

    def _weigh(self, now: float, started: float, refusals: int) -> None:
        """Count a refusal "later" (`refusals` is 1) or an acceptance (0), also in a trial."""
        self._later.count(refusals)
        if not self._rate.is_tested or started < self._rate.decreased_at:
            return
        may_decrease = now > self._rate.decreased_at
        state = self._later.count_in_trial(now, refusals, may_decrease=may_decrease)
        if state == TrialState.RATE_IS_CAUSE:
            self._rate.confirm(now)
        elif state == TrialState.NEXT_STEP:
            self._rate.decrease_in_trial(now)
            self._pace_decrease(now)
        elif state == TrialState.RATE_IS_NOT_CAUSE:
            self._rate.remove()

    def _pace_decrease(self, now: float) -> None:
        rate = DECREASE / self._rate.seconds_per_message
        self._pace.decrease(now, rate, self._rate.retry_wait)

    @property
    def _burst(self) -> float:
        return BURST if self._rate.known is None else LEARNED_BURST

    def per_second(self, now: float) -> float:
        """Return the number of accepted messages per second, measured over a second or more."""
        return self._meter.per_second(now)

    # The connections

    def allowed_connections(self, now: float) -> int:
        """Return the maximum number of open connections at this time."""
        return self._connections.allowed(now)

    def may_connect(self, now: float, proven: int, unproven: int) -> bool:
        """Return whether one more connection may be opened.

        Args:
            now: The time.
            proven: The number of connections on which the relay has accepted a message.
            unproven: The number of the other connections, also of those that are not ready yet.
        """
        return self._connections.may_open(now, proven, unproven)

    def connection_opened(self, now: float) -> None:
        """Record that the engine opens a connection."""
        self._connections.opened(now)

    def connect_wait(self, now: float) -> float:
        """Return the time until the next connection may be opened after a failure, in seconds."""
        return self._connections.wait(now)

    def connection_proven(self, proven: int) -> None:
        """Record that the relay accepted the first message on a connection.

        Args:
            proven: The number of proven connections, with this one.
        """
        self._connections.proven(proven)

    def connection_refused(self, now: float, others: int, *, by_rate: bool) -> None:
        """Record that the relay refused a connection while others are open.

        Args:
            now: The time.
            others: The number of the other open connections, 1 or more.
            by_rate: Whether the relay stated a rate or an overload, and no number of connections.
        """
        self._connections.refused(now, others, self.accepted, by_rate=by_rate)

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
        self._stall.refused(now, by_limit=by_limit)
        longest = self._stall.time_left(now)
        self._connections.failed(now, pause, random, self.accepted, longest)

    def connection_ended(self, now: float, opened: float, messages: int, *, stated: bool) -> None:
        """Learn the maximum number of messages per connection from a connection's end.

        Args:
            now: The time.
            opened: The time at which the connection was opened.
            messages: The number of messages that the connection carried.
            stated: Whether the relay stated the limit.
        """
        self._messages.ended(now, opened, messages, stated=stated)

    def connection_filled(self) -> None:
        """Count a connection that carried the learned maximum number of messages."""
        self._messages.filled()

    @property
    def messages_per_connection(self) -> int | None:
        """The maximum number of messages on one connection; None if there is no limit."""
        return self._messages.messages

    # The progress

    def refusing_for(self, now: float) -> float:
        """Return the time for which the relay has refused every message, in seconds."""
        return self._stall.refusing_for(now)

    def is_stalled(self, now: float) -> bool:
        """Return whether the engine must stop, because the relay accepts no message.

        The caller asks after a refusal or a failure, and only if no message is in flight.
        """
        return self._stall.is_stalled(now)

    def resume(self) -> None:
        """Forget the failures, because the caller restarted the engine."""
        self._later.end_run()
        self._hold_off.end()
        self._stall.works()
        self._connections.resume()
