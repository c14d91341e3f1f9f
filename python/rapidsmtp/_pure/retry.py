"""The retry policy: the next step for each recipient of a transaction, and the count of attempts.

The module has no I/O and no clock. `src/retry.rs` makes the same decisions.

    result for a recipient                   next step                       evidence
    2yz to the body                          accepted                        accepted
    5yz                                      refused                         refused
    4yz because of message or recipient      deferred                        deferred
    4yz without a stated reason              deferred                        later
    a limit or an overload of the relay      deferred                        throttled
    too many open connections                returns to the queue if others
                                             are open, otherwise as above
    the connection is full or lost           returns to the queue            nothing
    452 after accepted recipients            in a further transaction        as deferred
    530, 535; a limit of the account         the engine stops                nothing
    no valid reply after the terminator      unknown; deferred if the caller nothing
                                             sets `resend_unknown`

If the rate controller decides that a refusal concerns the relay, a deferred recipient returns to
the queue, and the attempt does not count. The evidence of a message is the highest evidence of its
recipients.
"""

from typing import Final, NamedTuple

from rapidsmtp._models.settings import Backoff
from rapidsmtp._pure import diagnosis
from rapidsmtp._pure.outcome import (
    ACCEPTED,
    DEFERRED,
    UNKNOWN,
    RecipientOutcome,
    refusal_status,
)
from rapidsmtp._pure.rate_controller import Evidence
from rapidsmtp._pure.reply import Reply, enhanced_status

FINISH: Final = "finish"
"""The outcome is final."""
DEFER: Final = "defer"
"""The recipient is retried after a backoff, if attempts are left."""
RETURN: Final = "return"
"""The recipient returns to the queue, because the transaction was not executed."""
CLOSE_CONNECTION: Final = "close connection"
"""As `RETURN`, and the connection accepts no more messages."""
CLOSE_SURPLUS: Final = "close surplus"
"""As `RETURN`, because the relay allows fewer connections. The connection is closed."""
NEXT_TRANSACTION: Final = "next transaction"
"""The recipient is sent in a further transaction."""
STOP: Final = "stop"
"""The engine stops, because the relay would refuse every message."""

FREE_RETURNS = 3
"""The maximum number of returns to the queue that do not count as attempts. A message returns to
the queue if its transaction was not executed. The cause is usually the connection and not the
message."""

SHUTDOWN = 421
"""The code with which a relay ends a session (RFC 5321 3.8)."""

_TOO_MANY_RECIPIENTS = ("4.5.3", "4.3.1", "4.5.0")


class RetryPolicy(NamedTuple):
    """The settings that control the retries.

    Attributes:
        max_attempts: The maximum number of attempts, at least 1.
        backoff: The waits between attempts.
        resend_unknown: Whether the message is sent again to a recipient with an unknown outcome.
    """

    max_attempts: int
    backoff: Backoff
    resend_unknown: bool

    @property
    def is_patient(self) -> bool:
        """Whether a message may wait for the relay.

        A caller that allows only one attempt needs the first refusal at once.
        """
        return self.max_attempts > 1

    def delay(self, attempts: int, random: float) -> float:
        """Return the wait after `attempts` attempts (1 or more), in seconds.

        The wait is exponential with full jitter: `random`, from 0 to 1, is the fraction of the
        longest possible wait. A relay may refuse several senders at the same time, and the jitter
        makes their next attempts start at different times.
        """
        settings = self.backoff
        try:
            longest = min(settings.maximum, settings.base * settings.factor ** (attempts - 1))
        except OverflowError:
            longest = settings.maximum
        return longest * random


def decide(
    outcome: RecipientOutcome,
    *,
    after_accepted: bool,
    used: bool,
    others: bool,
    resend_unknown: bool,
) -> tuple[str, Evidence]:
    """Decide on a recipient of a transaction.

    Args:
        outcome: The outcome of the attempt.
        after_accepted: Whether the relay accepted an earlier recipient of the transaction.
        used: Whether the connection carried a message before.
        others: Whether the relay processed messages on other open connections.
        resend_unknown: Whether the message is sent again to a recipient with an unknown outcome.

    Returns:
        The next step, a constant of this module; the evidence for the rate controller.
    """
    if outcome.status == ACCEPTED:
        return FINISH, Evidence.ACCEPTED
    if outcome.status == UNKNOWN and resend_unknown:
        return DEFER, Evidence.NOTHING
    if outcome.not_executed:
        return RETURN, Evidence.NOTHING
    if outcome.reply is None:
        return FINISH, Evidence.NOTHING
    if after_accepted and outcome.phase == "rcpt" and _says_too_many_recipients(outcome.reply):
        return NEXT_TRANSACTION, Evidence.DEFERRED
    blame = _blame(outcome.phase, outcome.reply, outcome.status, used)
    if blame in (diagnosis.RELAY, diagnosis.QUOTA):
        return STOP, Evidence.NOTHING
    if blame == diagnosis.CONCURRENCY and others:
        return CLOSE_SURPLUS, Evidence.NOTHING
    if blame == diagnosis.CONNECTION:
        return CLOSE_CONNECTION, Evidence.NOTHING
    if outcome.status != DEFERRED:
        return FINISH, Evidence.REFUSED
    return DEFER, _EVIDENCE.get(blame, Evidence.DEFERRED)


def decide_reply(
    phase: str,
    reply: Reply | None,
    *,
    not_executed: bool,
    after_accepted: bool,
    used: bool,
    others: bool,
    resend_unknown: bool,
) -> tuple[str, int]:
    """Decide on a recipient whose attempt had this reply; see `decide`."""
    if reply is None:
        outcome = RecipientOutcome(UNKNOWN, phase, None, "", not_executed=not_executed)
    elif phase == "body" and reply[0] // 100 == 2:
        outcome = RecipientOutcome(ACCEPTED, phase, reply, "")
    else:
        status = refusal_status(reply[0], phase == "body")
        outcome = RecipientOutcome(status, phase, reply, "", not_executed=not_executed)
    return decide(
        outcome,
        after_accepted=after_accepted,
        used=used,
        others=others,
        resend_unknown=resend_unknown,
    )


_EVIDENCE = {
    diagnosis.CONCURRENCY: Evidence.THROTTLED,
    diagnosis.SLOWER: Evidence.THROTTLED,
    diagnosis.LATER: Evidence.LATER,
}


def _says_too_many_recipients(reply: Reply) -> bool:
    """Return whether a reply to RCPT means "too many recipients" (RFC 5321 4.5.3.1.10).

    A full mailbox gets 452 as well, but with its own enhanced status code (4.2.2, RFC 3463 3.3).
    """
    code, text = reply
    status = enhanced_status(code, text)
    return code == 452 if status is None else status in _TOO_MANY_RECIPIENTS


def _blame(phase: str, reply: Reply, status: str, used: bool) -> str:
    """Return the cause of a refusal.

    If the connection carried no earlier message, a reply "too many messages" cannot mean a limit of
    the connection. In that case, a 4yz reply with this text states a limit of the relay, and a 5yz
    reply refuses the message. The code 421 is an exception, because the relay closes the connection
    after a 421.
    """
    code, text = reply
    blame = diagnosis.diagnose(phase, code, text, enhanced_status(code, text))
    is_unused = not used and code != SHUTDOWN
    if blame == diagnosis.CONNECTION and is_unused and diagnosis.says_full(text):
        return diagnosis.SLOWER if status == DEFERRED else diagnosis.MESSAGE
    return blame


class Attempts:
    """The attempts to send one message.

    Attributes:
        count: The number of attempts that count against the maximum.
        throttled: The number of refusals that concerned the relay.
        accepted_before: The number of messages that the relay had accepted at the last one.
        refusals_before: The number of refusals of all messages at that time.
    """

    def __init__(self) -> None:
        self.count = 0
        self.throttled = 0
        self.accepted_before = 0
        self.refusals_before = 0
        self._returns = 0

    def count_throttled(self, accepted: int, refusals: int) -> None:
        """Count a refusal that concerns the relay.

        Args:
            accepted: The number of messages that the relay has accepted.
            refusals: The number of refusals that concerned the relay, with this one.
        """
        self.throttled += 1
        self.accepted_before = accepted
        self.refusals_before = refusals

    def count_attempt(self, policy: RetryPolicy) -> None:
        """Count an attempt.

        If a message needs several transactions, more than one of them may count. The count does not
        exceed the maximum.

        Args:
            policy: The retry policy.
        """
        self.count = min(self.count + 1, policy.max_attempts)

    def count_return(self, policy: RetryPolicy, *, used: bool) -> bool:
        """Count a transaction that was not executed.

        If only one attempt is allowed, a return is free only on a connection that carried a message
        before: the relay may have closed this connection as idle, or after a number of messages.

        Args:
            policy: The retry policy.
            used: Whether the connection carried a message before.

        Returns:
            Whether the message may be sent again at once.
        """
        self._returns += 1
        free = self._returns <= FREE_RETURNS and (policy.is_patient or used)
        if not free:
            self.count_attempt(policy)
        return free or self.count < policy.max_attempts

    def delay(self, policy: RetryPolicy, random: float) -> float | None:
        """Return the wait before the next attempt, in seconds; None if no attempt is left."""
        return policy.delay(self.count, random) if self.count < policy.max_attempts else None
