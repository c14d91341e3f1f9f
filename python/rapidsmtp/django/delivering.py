"""One call of `send_messages`: what was sent, what was not, and what is said about it.

Django stops at the first failure and forgets the rest. Here every message has its fate, told by
the signal `outcome_known`; afterwards the first failure is raised, as Django would have done.
"""

import smtplib
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from django.dispatch import Signal

from rapidsmtp.django.rendering import rendered
from rapidsmtp.errors import RelayError, line_of
from rapidsmtp.message import Message
from rapidsmtp.outcome import Outcome, Status
from rapidsmtp.sender import Sender

if TYPE_CHECKING:
    from rapidsmtp.django.backend import EmailBackend

outcome_known = Signal()
"""Sent when the fate of a message is known, by the class of its backend, with `backend`, `message`
(Django's) and `outcome`; in the thread that sends. A receiver that fails stops nothing."""

# Replies to AUTH that are about the credentials (RFC 4954 section 6).
_OF_CREDENTIALS = (534, 535, 538)


class Delivery:
    """Messages on their way.

    Args:
        backend: Whose they are.
        messages: Django's messages; those without recipients are passed over.

    Attributes:
        sent: How many were accepted for a recipient at least.
    """

    def __init__(self, backend: "EmailBackend", messages: Iterable[Any]) -> None:
        self.sent: int = 0
        self._backend = backend
        self._messages = enumerate(each for each in messages if each.recipients())
        self._pending: dict[int, Any] = {}
        self._failures: dict[int, Exception] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._ready: list[Message] = []

    def has_messages(self) -> bool:
        """Compose the first messages; False where there is none to send."""
        self._ready = list(islice(self._rendered(), 2))
        return bool(self._ready)

    def send(self, sender: Sender) -> None:
        """Send all of them; the others are composed while the first are under way."""
        # A list needs no thread that looks after it, and most calls are for a single message.
        single = len(self._ready) == 1
        try:
            for outcome in sender.send(
                self._ready if single else chain(self._ready, self._rendered())
            ):
                self._told(outcome)
        except RelayError as error:
            self._stopped(error)

    def raise_first(self, silently: bool) -> None:
        """Raise what the first message that was not sent has met, if any.

        Args:
            silently: Only what composing a message has raised.
        """
        for _, error in sorted(self._failures.items()):
            if silently and isinstance(error, smtplib.SMTPException):
                continue
            told: Any = error  # any exception takes two more attributes
            told.sent = self.sent
            told.outcomes = [outcome for _, outcome in sorted(self._outcomes.items())]
            raise error

    def _rendered(self) -> Iterator[Message]:
        for index, message in self._messages:
            self._pending[index] = message
            try:
                ready = rendered(message, self._backend, index)
            except Exception as error:
                reason = line_of(error)
                self._failures[index] = error
                self._told(Outcome(index, None, Status.INVALID, phase="build", reason=reason))
            else:
                yield ready

    def _told(self, outcome: Outcome) -> None:
        message = self._pending.pop(outcome.tag)
        if _is_sent(outcome):
            self.sent += 1
        elif outcome.tag not in self._failures:
            self._failures[outcome.tag] = _error_of(outcome)
        if outcome.status is not Status.ACCEPTED:
            self._outcomes[outcome.tag] = outcome
        outcome_known.send_robust(
            sender=type(self._backend), backend=self._backend, message=message, outcome=outcome
        )

    def _stopped(self, error: RelayError) -> None:
        """The relay will not have us: that is what the messages have met which were not sent."""
        self._pending.update(self._messages)
        for index in list(self._pending):
            self._told(
                Outcome(index, None, Status.NOT_ATTEMPTED, phase="connect", reason=str(error))
            )
        met = _as_smtplib(error)
        for index, outcome in self._outcomes.items():
            if outcome.status is Status.NOT_ATTEMPTED:
                self._failures[index] = met


def _is_sent(outcome: Outcome) -> bool:
    """As smtplib has it: a message is sent if anybody gets it."""
    if outcome.status is not Status.PARTIAL:
        return outcome.status is Status.ACCEPTED
    return any(each.status is Status.ACCEPTED for each in outcome.recipients.values())


def _error_of(outcome: Outcome) -> Exception:
    try:
        outcome.raise_for_status()
    except smtplib.SMTPException as error:
        return error
    return smtplib.SMTPException(outcome.reason)


def _as_smtplib(error: RelayError) -> Exception:
    """What `login` raises, where it is about the credentials."""
    if error.reply is None or error.reply[0] not in _OF_CREDENTIALS:
        return error
    refused = smtplib.SMTPAuthenticationError(*error.reply)
    refused.__cause__ = error
    return refused
