"""The implementation of `EmailBackend.send_messages`: sending, and reporting the outcomes.

Django's own backend stops at the first failure. This backend continues after a failure. Every
message gets an outcome, and the signal `outcome_known` reports each outcome. After the last
outcome, the backend raises the exception of the first failure, as Django's own backend does.
"""

import smtplib
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from django.dispatch import Signal

from rapidsmtp._bulk.sender import Sender
from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import Outcome, Status
from rapidsmtp.django.rendering import rendered
from rapidsmtp.errors import RelayError, line_of

if TYPE_CHECKING:
    from rapidsmtp.django.backend import EmailBackend

outcome_known = Signal()
"""The signal that is sent for each message when its outcome is known.

The `sender` of the signal is the class of the backend. The other arguments are `backend`, `message`
(Django's message) and `outcome`. Receivers run in the thread that sends the messages. Django logs
an exception of a receiver, and sending continues.
"""

# The codes of replies to AUTH that concern the credentials (RFC 4954 section 6).
_CREDENTIAL_CODES = (534, 535, 538)


class BackendDelivery:
    """The messages of one call of `EmailBackend.send_messages`.

    Args:
        backend: The backend.
        messages: Django's messages. Messages without recipients are skipped.

    Attributes:
        sent: The number of messages that were accepted for at least one recipient.
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
        """Compose the first two messages, and return whether there is a message to send."""
        self._ready = list(islice(self._rendered(), 2))
        return bool(self._ready)

    def send(self, sender: Sender) -> None:
        """Send all messages. Later messages are composed while earlier messages are sent."""
        # Most calls have a single message. It is passed as a list, because `Sender.send` needs an
        # extra thread for an iterator, but not for a list.
        single = len(self._ready) == 1
        try:
            for outcome in sender.send(
                self._ready if single else chain(self._ready, self._rendered())
            ):
                self._report(outcome)
        except RelayError as error:
            self._stop(error)

    def raise_first(self, silently: bool) -> None:
        """Raise the exception of the first message that was not sent. Return if all were sent.

        Args:
            silently: Whether to ignore exceptions from sending. Exceptions from composing a message
                are always raised.
        """
        for _, error in sorted(self._failures.items()):
            if silently and isinstance(error, smtplib.SMTPException):
                continue
            # `Any`, because exception classes do not declare these attributes. Every exception
            # accepts new attributes.
            raised: Any = error
            raised.sent = self.sent
            raised.outcomes = [outcome for _, outcome in sorted(self._outcomes.items())]
            raise error

    def _rendered(self) -> Iterator[Message]:
        for index, message in self._messages:
            self._pending[index] = message
            try:
                ready = rendered(message, self._backend, index)
            except Exception as error:
                reason = line_of(error)
                self._failures[index] = error
                self._report(Outcome(index, None, Status.INVALID, phase="build", reason=reason))
            else:
                yield ready

    def _report(self, outcome: Outcome) -> None:
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

    def _stop(self, error: RelayError) -> None:
        """Report all remaining messages as not attempted, because of a `RelayError`."""
        self._pending.update(self._messages)
        for index in list(self._pending):
            self._report(
                Outcome(index, None, Status.NOT_ATTEMPTED, phase="connect", reason=str(error))
            )
        raised = _as_smtplib(error)
        for index, outcome in self._outcomes.items():
            if outcome.status is Status.NOT_ATTEMPTED:
                self._failures[index] = raised


def _is_sent(outcome: Outcome) -> bool:
    """Return whether the message was accepted for at least one recipient.

    In this case, `smtplib.SMTP.sendmail` also raises no exception.
    """
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
    """Return an SMTPAuthenticationError if the relay refused the credentials, else `error`."""
    if error.reply is None or error.reply[0] not in _CREDENTIAL_CODES:
        return error
    refused = smtplib.SMTPAuthenticationError(*error.reply)
    refused.__cause__ = error
    return refused
