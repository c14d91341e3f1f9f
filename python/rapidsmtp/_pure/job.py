"""One message until its final outcome: the recipients of each transaction, and their outcomes.

The engine retries recipients, never whole messages. A message is not sent again to a recipient that
has received it. It is not sent again to a recipient that may have received it, unless the caller
sets `resend_unknown`. The module `retry` has the table of the next steps.
"""

from collections import defaultdict
from typing import Any, NamedTuple

from rapidsmtp._pure import retry
from rapidsmtp._pure.envelope import Envelope
from rapidsmtp._pure.outcome import (
    ACCEPTED,
    INVALID,
    NOT_ATTEMPTED,
    UNKNOWN,
    MessageOutcome,
    RecipientOutcome,
)
from rapidsmtp._pure.rate_controller import Evidence, RateController
from rapidsmtp._pure.reply import Reply
from rapidsmtp._pure.retry import Attempts, RetryPolicy

DOUBTFUL = "doubtful"
"""The step of a deferred recipient whose refusal may concern the relay."""


class Settlement(NamedTuple):
    """The data that is necessary to settle an attempt."""

    now: float
    policy: RetryPolicy
    used: bool  # whether the connection carried a message before
    others: bool  # whether the relay processed messages on other open connections
    rate_controller: RateController
    random: float  # from 0 to 1


class NextStep(NamedTuple):
    """The next step of a job, and what the attempt shows about the relay."""

    outcome: MessageOutcome | None  # the final outcome; None for a retry
    delay: float = 0.0  # the time until the job returns to the inbox, in seconds
    last: bool = False  # whether the job returns to the end of the inbox
    close_connection: bool = False  # the connection accepts no more messages
    close_surplus: bool = False  # the same, because the relay allows fewer connections
    stop: tuple[str, Reply] | None = None  # the phase and the reply of a refusal of every message
    limit_recipients: int | None = None  # the maximum number of recipients in one transaction


class Job:
    """A message without a final outcome. A recipient is an index into its recipients."""

    def __init__(self, message: Any, outbox: Any, envelope: Envelope) -> None:
        self.message = message  # the object that the caller submitted
        self.outbox = outbox
        self.envelope = envelope
        self.current: list[int] = []  # the recipients of the transaction in flight
        # The recipients of the next transactions, and those to retry after a backoff. A recipient
        # that is in none of the three lists is finished.
        self._pending = list(range(len(envelope.recipients)))
        self._deferred: list[int] = []
        # The last outcome of each recipient. It is reported if no further attempt follows.
        self._outcomes: dict[int, RecipientOutcome] = {}
        self._attempts = Attempts()
        self._started_at: float | None = None
        self._attempt_at = 0.0
        self._reply: Reply | None = None

    def begin(self, now: float, limit: int, domains: int | None) -> None:
        """Choose at most `limit` recipients, in at most `domains` domains (RFC 9422 4.3)."""
        self._attempt_at = now
        if self._started_at is None:
            self._started_at = now
        if not self._pending:
            self._pending, self._deferred = sorted(self._deferred), []
        rest: list[int] = []
        seen: set[str] = set()
        for index in self._pending:
            domain = self.envelope.recipients[index].rpartition("@")[2].lower()
            fits_domains = domains is None or domain in seen or len(seen) < domains
            if len(self.current) < max(1, limit) and fits_domains:
                self.current.append(index)
                seen.add(domain)
            else:
                rest.append(index)
        self._pending = rest

    def reject(self, reason: str, settlement: Settlement) -> NextStep:
        """Finish the current recipients as invalid, because the relay lacks a capability."""
        invalid = RecipientOutcome(INVALID, "mail", None, reason)
        steps = defaultdict(dict, {retry.FINISH: dict.fromkeys(self.current, invalid)})
        self._weigh(Evidence.NOTHING, settlement)
        return self._next_step(steps, settlement, concerns_relay=False)

    def settle(self, outcome: MessageOutcome, settlement: Settlement) -> NextStep:
        """Apply the outcome of the transaction in flight."""
        self._reply = outcome.reply or self._reply
        steps: dict[str, dict[int, RecipientOutcome]] = defaultdict(dict)
        evidence = Evidence.NOTHING
        accepted = 0  # the number of recipients that RCPT accepted
        limit = None  # their number at the first 452
        for index, each in zip(self.current, outcome.recipients, strict=True):
            step, shown = retry.decide(
                each,
                after_accepted=accepted > 0,
                used=settlement.used,
                others=settlement.others,
                resend_unknown=settlement.policy.resend_unknown,
            )
            if step == retry.DEFER and shown >= Evidence.LATER:
                step = DOUBTFUL
            if step == retry.NEXT_TRANSACTION and limit is None:
                limit = accepted
            steps[step][index] = each
            evidence = max(evidence, shown)
            accepted += each.phase != "rcpt"
        stops = ((each.phase, each.reply) for each in steps[retry.STOP].values() if each.reply)
        concerns_relay = self._weigh(evidence, settlement)
        return self._next_step(steps, settlement, concerns_relay=concerns_relay)._replace(
            close_connection=bool(steps[retry.CLOSE_CONNECTION]),
            close_surplus=bool(steps[retry.CLOSE_SURPLUS]),
            stop=next(stops, None),
            # 452 may also mean a full mailbox. If the relay accepted a further recipient after the
            # 452, this 452 did not mean a limit.
            limit_recipients=limit if limit == accepted else None,
        )

    def _weigh(self, evidence: Evidence, settlement: Settlement) -> bool:
        """Record what an attempt shows, and return whether a refusal concerns the relay."""
        controller, attempts = settlement.rate_controller, self._attempts
        concerns_relay = controller.settled(
            settlement.now,
            self._attempt_at,
            evidence,
            attempts.throttled,
            attempts.accepted_before,
            attempts.refusals_before,
        )
        if concerns_relay:
            attempts.count_throttled(controller.accepted, controller.refusals)
        return concerns_relay

    def give_up(self, reason: str, now: float) -> MessageOutcome:
        """Return the outcome without a further attempt. `reason` is for recipients without any."""
        unsent = RecipientOutcome(NOT_ATTEMPTED, "connect", None, reason)
        addresses = self.message.recipients
        recipients = [self._outcomes.get(index, unsent) for index in range(len(addresses))]
        seconds = 0.0 if self._started_at is None else now - self._started_at
        return MessageOutcome(recipients, self._reply, addresses, self._attempts.count, seconds)

    def _next_step(
        self,
        steps: dict[str, dict[int, RecipientOutcome]],
        settlement: Settlement,
        *,
        concerns_relay: bool,
    ) -> NextStep:
        self.current = []
        attempts, policy = self._attempts, settlement.policy
        doubtful = steps[DOUBTFUL]
        self._record(steps[retry.FINISH] | steps[retry.DEFER] | doubtful)
        # The relay would refuse every message, so the recipient itself was not attempted.
        stopped = steps[retry.STOP].items()
        self._record({index: each._replace(status=NOT_ATTEMPTED) for index, each in stopped})
        self._pending += steps[retry.NEXT_TRANSACTION] | steps[retry.CLOSE_SURPLUS]
        self._deferred += steps[retry.DEFER]
        (self._pending if concerns_relay else self._deferred).extend(doubtful)
        before = attempts.count
        returned = steps[retry.RETURN] | steps[retry.CLOSE_CONNECTION]
        if returned and attempts.count_return(policy, used=settlement.used):
            self._pending += returned
        else:
            self._record(returned)
        if self._pending:
            self._pending.sort()
            return NextStep(None, last=concerns_relay)
        if attempts.count == before:
            attempts.count_attempt(policy)
        delay = attempts.delay(policy, settlement.random)
        if self._deferred and delay is not None:
            return NextStep(None, delay)
        return NextStep(self.give_up("", settlement.now))

    def _record(self, outcomes: dict[int, RecipientOutcome]) -> None:
        for index, outcome in outcomes.items():
            earlier = self._outcomes.get(index)
            # An attempt with an unknown outcome may have delivered the message. So a later refusal
            # does not replace that outcome.
            if earlier is None or earlier.status != UNKNOWN or outcome.status == ACCEPTED:
                self._outcomes[index] = outcome
