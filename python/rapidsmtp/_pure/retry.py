"""The retry policy: the decision on each recipient of a finished transaction.

    the reply                                  the recipient
    2yz to the message                         is accepted
    5yz                                        is refused
    a limit of the account is used up          is not attempted, because the engine stops
    4yz                                        is retried later, with `max_attempts` attempts in all
    a reply that asks for a lower rate         returns to the queue, and the rate is decreased
    452 or 4.5.3 after accepted recipients     moves to another transaction, which starts at once
    421, "too many messages", an invalid       returns to the queue, because the transaction was
    reply, end of the stream                   not executed
    530, 534, 535, 538                         is not attempted, because the engine stops
    no valid reply after the terminator        is unknown

The module `diagnosis` classifies replies. If `Transaction.body_sent` is false, the terminator was
not sent. Then the relay cannot have accepted the message, and a retry cannot deliver it twice.
"""

from typing import NamedTuple

from rapidsmtp._pure import diagnosis
from rapidsmtp._pure.job import RecipientOutcome, outcome_of_reply
from rapidsmtp._pure.outcome import (
    ACCEPTED,
    DEFERRED,
    NOT_ATTEMPTED,
    REFUSED,
    UNKNOWN,
    recipient_status,
)
from rapidsmtp._pure.reply import MALFORMED, Reply, enhanced_status
from rapidsmtp._pure.session import FinishedTransaction
from rapidsmtp._pure.transaction import (
    DATA_REFUSED,
    RECIPIENTS_REFUSED,
    SENDER_REFUSED,
)

FINISHED = "finished"
DEFER = "defer"
RETURN = "return"
THROTTLE = "throttle"
REMAINDER = "remainder"
STOP = "stop"
QUOTA = "quota"
IN_DOUBT = "in doubt"

LOST = "the connection was lost again and again before the message was sent"

_TOO_MANY_RECIPIENTS = ("4.5.3", "4.3.1", "4.5.0")


class RetryDecision(NamedTuple):
    """The next step for a recipient.

    Attributes:
        action: The next step, a constant of this module.
        outcome: The recipient's outcome if no retry follows.
        reply: The reply on which the decision is based, or None.
    """

    action: str
    outcome: RecipientOutcome
    reply: Reply | None


def decide(finished: FinishedTransaction, count: int) -> list[RetryDecision]:
    """Decide on each recipient of a transaction.

    Args:
        finished: The transaction.
        count: The number of recipients in the transaction; 1 or more.

    Returns:
        A decision for each recipient, in the order of the recipients.
    """
    transaction = finished.transaction
    others = _of_unanswered(finished)
    if transaction.end == SENDER_REFUSED:
        return [others] * count
    refused = dict(transaction.refused)
    accepted = set(transaction.accepted)
    # With LMTP, `refused` may also contain recipients that RCPT accepted and that were refused
    # after the body. So the refusals by RCPT are listed separately.
    at_rcpt = finished.refused_before_body
    if at_rcpt is None:
        at_rcpt = frozenset(refused)
    decisions = []
    for index in range(count):
        reply = refused.get(index)
        if index in accepted:
            decisions.append(_accepted(transaction.lmtp_replies.get(index, transaction.reply)))
        elif reply is None or (reply[0] == MALFORMED and index in at_rcpt):
            decisions.append(others)
        elif index in at_rcpt:
            after_accepted = any(before not in at_rcpt for before in range(index))
            decisions.append(_of_rcpt(reply, after_accepted))
        elif reply[0] == MALFORMED:
            decisions.append(_unknown(finished.lost))
        else:
            decisions.append(_of_reply("body", reply))
    return decisions


def learned_limit(decisions: list[RetryDecision]) -> int | None:
    """Return the relay's maximum number of recipients in a transaction, if the replies show it.

    A relay also replies 452 if one mailbox is full. So a 452 shows a limit only if all later
    recipients of the transaction got a 452 too. The limit is then the number of recipients that
    were accepted before the first 452.
    """
    actions = [each.action for each in decisions]
    if REMAINDER not in actions:
        return None
    first = actions.index(REMAINDER)
    if set(actions[first:]) != {REMAINDER}:
        return None
    return sum(each.outcome.phase != "rcpt" for each in decisions[:first])


def on_unused_connection(decisions: list[RetryDecision]) -> list[RetryDecision]:
    """Correct the decisions of the first transaction on a connection.

    The connection has carried no message yet. So a reply such as "too many messages" refers to the
    sender, not to the connection. A recipient with such a reply does not return to the queue: after
    a 5yz the recipient is refused, and after a 4yz the rate is decreased. A 421 is not corrected,
    because it has ended the connection.
    """
    return [_on_unused_connection(each) for each in decisions]


def says_full(decisions: list[RetryDecision]) -> bool:
    """Return whether a refusal says that the connection carried its maximum number of messages."""
    return any(
        each.reply is not None
        and each.outcome.status != ACCEPTED
        and diagnosis.says_full(each.reply[1])
        for each in decisions
    )


def _on_unused_connection(each: RetryDecision) -> RetryDecision:
    if each.action != RETURN or each.reply is None or each.reply[0] == 421:
        return each
    if not diagnosis.says_full(each.reply[1]):
        return each
    return each._replace(action=FINISHED if each.outcome.status == REFUSED else THROTTLE)


def _accepted(reply: Reply | None) -> RetryDecision:
    outcome = outcome_of_reply(ACCEPTED, "body", reply or (250, b""))
    return RetryDecision(FINISHED, outcome, reply)


def _of_unanswered(finished: FinishedTransaction) -> RetryDecision:
    """Return the decision on recipients without a reply of their own."""
    transaction = finished.transaction
    reply = transaction.reply
    is_valid = reply is not None and reply[0] != MALFORMED
    if transaction.end == SENDER_REFUSED and reply is not None and is_valid:
        return _of_reply("mail", reply)
    if transaction.end == DATA_REFUSED and reply is not None and is_valid:
        phase = "data" if finished.refused_before_body is None else "body"
        return _of_reply(phase, reply)
    if transaction.end == RECIPIENTS_REFUSED and transaction.refused:
        last = transaction.refused[-1][1]
        # RFC 5321 3.8: a 421 in reply to one RCPT ends the session. So this 421 also applies to the
        # other recipients.
        if last[0] != MALFORMED:
            return _of_reply("rcpt", last)
    if transaction.body_sent:
        return _unknown(finished.lost)
    outcome = RecipientOutcome(NOT_ATTEMPTED, "connect", None, None, LOST)
    return RetryDecision(RETURN, outcome, None)


def _unknown(lost: str) -> RetryDecision:
    text = f"the connection was lost before the final reply: {lost}"
    return RetryDecision(IN_DOUBT, RecipientOutcome(UNKNOWN, "body", None, None, text), None)


def _of_rcpt(reply: Reply, after_accepted: bool) -> RetryDecision:
    """Return the decision on a recipient that RCPT refused.

    Args:
        reply: The reply to RCPT.
        after_accepted: Whether RCPT accepted an earlier recipient of the transaction.
    """
    code, text = reply
    status = enhanced_status(code, text)
    # RFC 5321 4.5.3.1.10: 452 means "too many recipients". A relay also replies 452 if a mailbox is
    # full, but with another enhanced status code (4.2.2, RFC 3463 3.3).
    too_many = code == 452 if status is None else status in _TOO_MANY_RECIPIENTS
    if after_accepted and too_many:
        return RetryDecision(REMAINDER, outcome_of_reply(DEFERRED, "rcpt", reply), reply)
    return _of_reply("rcpt", reply)


def _of_reply(phase: str, reply: Reply) -> RetryDecision:
    """Return the decision on recipients that were refused with a reply 4yz or 5yz.

    Args:
        phase: The phase of the transaction to which the reply belongs.
        reply: The reply.
    """
    code, text = reply
    outcome = outcome_of_reply(recipient_status(code), phase, reply)
    blame = diagnosis.diagnose(phase, code, text, enhanced_status(code, text))
    if blame in (diagnosis.RELAY, diagnosis.QUOTA):
        action = QUOTA if blame == diagnosis.QUOTA else STOP
        return RetryDecision(action, outcome._replace(status=NOT_ATTEMPTED), reply)
    if blame in (diagnosis.CONNECTION, diagnosis.CONCURRENCY):
        return RetryDecision(RETURN, outcome, reply)
    if blame == diagnosis.SLOWER:
        return RetryDecision(THROTTLE, outcome, reply)
    return RetryDecision(FINISHED if outcome.status == REFUSED else DEFER, outcome, reply)
