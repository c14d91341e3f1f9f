"""Evidence: what the results of attempts show about the relay.

Some refusals state no reason ("try again later"). Such a refusal concerns the message, for example
because of greylisting. It concerns the relay after `RUN` of these refusals without an acceptance in
between, or if a trial shows that the rate is the cause.

A trial starts when the relay refuses more than `TRIAL_SHARE` of the messages. The rate is decreased
for some messages. If the relay then refuses fewer messages, the rate is the cause. If not, the
cause is for example greylisting, and the limit is removed.
"""

import enum
from math import inf


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


class TrialState(enum.Enum):
    """The state of a trial after a result."""

    CONTINUES = enum.auto()
    RATE_IS_CAUSE = enum.auto()
    """The relay refused fewer messages at the lower rate."""
    NEXT_STEP = enum.auto()
    """The trial continues at a lower rate."""
    RATE_IS_NOT_CAUSE = enum.auto()


class LaterRefusals:
    """The refusals "later" of all messages.

    Attributes:
        rate_is_cause: Whether a trial has shown that the rate causes these refusals.
    """

    def __init__(self) -> None:
        self.rate_is_cause = False
        self._run = 0
        self._share = 0.0
        self._trial: float | None = None  # the share of the refusals before the trial
        self._trial_at = -inf
        self._steps = 0
        self._results = 0
        self._refusals = 0

    @property
    def is_trial(self) -> bool:
        """Whether a trial is in progress."""
        return self._trial is not None

    def count(self, refusals: int) -> None:
        """Count the result of a message: 1 for a refusal "later", 0 for an acceptance."""
        self._run += refusals
        self._share += (refusals - self._share) / SHARE_RESULTS

    def end_run(self) -> None:
        """Record that the relay processes messages."""
        self._run = 0

    def concern_relay(self, now: float) -> bool:
        """Return whether the number of refusals shows that the cause is not the message."""
        is_share = self._share > TRIAL_SHARE and self._trial is None and now >= self._trial_at
        return self._run >= RUN or is_share

    def start_trial(self) -> None:
        """Start a trial, because the refusals concern the relay."""
        self.rate_is_cause = False
        self._trial = self._share
        self._steps = TRIAL_STEPS
        self._results = self._refusals = 0

    def cancel_trial(self) -> None:
        """End a trial without a result, because the relay states a limit."""
        self._trial = None

    def count_in_trial(self, now: float, refusals: int, *, may_decrease: bool) -> TrialState:
        """Count the result of a message that started at the rate of the trial.

        Args:
            now: The time.
            refusals: 1 for a refusal "later", 0 for an acceptance.
            may_decrease: Whether a lower rate is possible.
        """
        if self._trial is None:
            return TrialState.CONTINUES
        self._results += 1
        self._refusals += refusals
        if self._results < TRIAL_RESULTS:
            return TrialState.CONTINUES
        self._steps -= 1
        if TRIAL_DROP * self._refusals <= self._trial * TRIAL_RESULTS:
            self.rate_is_cause = True
            self._trial = None
            return TrialState.RATE_IS_CAUSE
        if self._steps > 0 and may_decrease:
            self._results = self._refusals = 0
            return TrialState.NEXT_STEP
        self.rate_is_cause = False
        self._trial = None
        self._share = 0.0
        self._trial_at = now + TRIAL_INTERVAL
        return TrialState.RATE_IS_NOT_CAUSE
