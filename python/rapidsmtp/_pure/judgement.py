"""From a transaction that is over to what becomes of each of its recipients.

    what was said                              then
    the message was accepted (2yz)             decided
    5yz                                        decided
    4yz                                        deferred: another attempt, while there are some
    "slower"                                   back to the queue, and the governor is told
    452 or 4.5.3 behind accepted recipients    the remainder: another transaction at once
    421, "too many messages", garbage, EOF     back to the queue: the mail was not executed
    530, 534, 535, 538                         the relay will not have us: everything stops
    the terminator left, no valid reply        in doubt: unknown

What a reply means is `diagnosis`' to say; the terminator is known to have left or not by `wire`.
"""

from typing import NamedTuple

from rapidsmtp._pure import diagnosis
from rapidsmtp._pure.dialogue import Delivery
from rapidsmtp._pure.job import Fate, fate_of_reply
from rapidsmtp._pure.outcome import (
    ACCEPTED,
    DEFERRED,
    NOT_ATTEMPTED,
    REFUSED,
    UNKNOWN,
    recipient_status,
)
from rapidsmtp._pure.reply import Reply, enhanced_status
from rapidsmtp._pure.transaction import ACCEPTED as MAIL_ACCEPTED
from rapidsmtp._pure.transaction import (
    DATA_REFUSED,
    RECIPIENTS_REFUSED,
    SENDER_REFUSED,
)

DECIDED = "decided"
DEFER = "defer"
BACK = "back"
SLOWER = "slower"
REMAINDER = "remainder"
STOP = "stop"
IN_DOUBT = "in doubt"


class Judgement(NamedTuple):
    """What becomes of a recipient.

    Attributes:
        action: one of this module's constants.
        fate: its fate where nothing more can be done for it.
        reply: the reply that says so, or None.
    """

    action: str
    fate: Fate
    reply: Reply | None


def judge(delivery: Delivery, count: int) -> list[Judgement]:
    """Judge each recipient of a transaction.

    Args:
        delivery: the transaction.
        count: how many recipients it had, at least one.
    """
    transaction = delivery.transaction
    verdict = transaction.verdict
    rest = _of_the_rest(delivery)
    if verdict == SENDER_REFUSED:
        return [rest] * count
    refused = dict(transaction.refused)
    accepted = set(transaction.accepted)
    # LMTP may refuse after the body whom it took at RCPT.
    at_rcpt = delivery.refused_before_body
    if at_rcpt is None:
        at_rcpt = frozenset(refused)
    judgements = []
    for index in range(count):
        reply = refused.get(index)
        if index in accepted:
            judgements.append(_accepted(transaction.finals.get(index, transaction.reply)))
        elif reply is None:
            judgements.append(rest)
        elif index in at_rcpt:
            behind = any(before not in at_rcpt for before in range(index))
            judgements.append(_of_rcpt(reply, rest, behind, verdict == MAIL_ACCEPTED))
        else:
            judgements.append(_of_reply("body", reply, transaction.body_sent))
    return judgements


def learned_limit(judgements: list[Judgement]) -> int | None:
    """How many recipients the relay takes in a transaction, if this one tells.

    A full mailbox gets 452 too: only where everybody behind the first is left over, too many were
    named.
    """
    actions = [judgement.action for judgement in judgements]
    if REMAINDER not in actions:
        return None
    first = actions.index(REMAINDER)
    if set(actions[first:]) != {REMAINDER}:
        return None
    return sum(each.fate.phase != "rcpt" for each in judgements[:first])


def on_unused(judgements: list[Judgement]) -> list[Judgement]:
    """Judgements where the connection had carried nothing before: then it is not full.

    It is the sender who has sent too many messages. A 421 has ended the connection all the same.
    """
    return [_on_unused(each) for each in judgements]


def says_full(judgements: list[Judgement]) -> bool:
    """Whether the relay refused anybody because there were too many messages."""
    return any(
        each.reply is not None
        and each.fate.status != ACCEPTED
        and diagnosis.says_full(each.reply[1])
        for each in judgements
    )


def _on_unused(each: Judgement) -> Judgement:
    if each.action != BACK or each.reply is None or each.reply[0] == 421:
        return each
    if not diagnosis.says_full(each.reply[1]):
        return each
    return each._replace(action=DECIDED if each.fate.status == REFUSED else SLOWER)


def _accepted(reply: Reply | None) -> Judgement:
    fate = fate_of_reply(ACCEPTED, "body", reply or (250, b""))
    return Judgement(DECIDED, fate, reply)


def _of_the_rest(delivery: Delivery) -> Judgement:
    """The judgement on recipients that have no reply of their own."""
    transaction = delivery.transaction
    reply = transaction.reply
    if transaction.verdict == SENDER_REFUSED and reply is not None:
        return _of_reply("mail", reply, False)
    if transaction.verdict == DATA_REFUSED and reply is not None:
        phase = "data" if delivery.refused_before_body is None else "body"
        return _of_reply(phase, reply, transaction.body_sent)
    if transaction.verdict == RECIPIENTS_REFUSED and transaction.refused:
        # A 421 in the middle of the recipients: it ended the session for the others too.
        return _of_reply("rcpt", transaction.refused[-1][1], False)
    if delivery.refused_before_body is None:
        phase = "rcpt" if transaction.accepted or transaction.refused else "mail"
    else:
        phase = "body"
    lost = delivery.lost or transaction.fault or "the relay sent what is no reply"
    if transaction.body_sent:
        text = f"the connection was lost before the final reply: {lost}"
        return Judgement(IN_DOUBT, Fate(UNKNOWN, phase, None, None, text), None)
    return Judgement(BACK, Fate(NOT_ATTEMPTED, phase, None, None, lost), None)


def _of_rcpt(reply: Reply, rest: Judgement, behind: bool, executed: bool) -> Judgement:
    """The judgement on a refused recipient.

    Args:
        reply: the reply to its RCPT.
        rest: the judgement on those who have no reply of their own.
        behind: whether a recipient before it was accepted.
        executed: whether the relay has the message.
    """
    code, text = reply
    if behind and (code == 452 or enhanced_status(code, text) == "4.5.3"):
        return Judgement(REMAINDER, fate_of_reply(DEFERRED, "rcpt", reply), reply)
    if code // 100 in (4, 5):
        return _of_reply("rcpt", reply, False)
    # A yes that is none, 252 say: this recipient may be among those whose mail was executed.
    if executed:
        return Judgement(IN_DOUBT, fate_of_reply(UNKNOWN, "rcpt", reply), reply)
    return rest if rest.action == IN_DOUBT else _of_reply("rcpt", reply, False)


def _of_reply(phase: str, reply: Reply, terminated: bool) -> Judgement:
    """The judgement on whoever a reply refuses.

    Args:
        phase: the command that it answers.
        reply: the reply.
        terminated: whether the terminator has left.
    """
    code, text = reply
    if code // 100 not in (4, 5):
        if terminated:
            return Judgement(IN_DOUBT, fate_of_reply(UNKNOWN, phase, reply), reply)
        return Judgement(BACK, fate_of_reply(NOT_ATTEMPTED, phase, reply), reply)
    fate = fate_of_reply(recipient_status(code), phase, reply)
    blame = diagnosis.diagnose(phase, code, text, enhanced_status(code, text))
    if blame == diagnosis.RELAY:
        return Judgement(STOP, fate._replace(status=NOT_ATTEMPTED), reply)
    if blame == diagnosis.CONNECTION:
        return Judgement(BACK, fate, reply)
    if blame == diagnosis.SLOWER:
        return Judgement(SLOWER, fate, reply)
    return Judgement(DECIDED if fate.status == REFUSED else DEFER, fate, reply)
