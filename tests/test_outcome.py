"""`Outcome.raise_for_status`: each status raises the exception that `sendmail` would raise."""

import smtplib

import pytest

from rapidsmtp._models.message import Message
from rapidsmtp._models.outcome import Outcome, RecipientResult, Status

REFUSED = RecipientResult(Status.REFUSED, 550, "5.1.1", "5.1.1 unknown")
DEFERRED = RecipientResult(Status.DEFERRED, 451, "4.3.0", "4.3.0 later")
ACCEPTED = RecipientResult(Status.ACCEPTED, None, None, "")
UNKNOWN = RecipientResult(Status.UNKNOWN, None, None, "the connection was lost")


def outcome(status: Status, phase: str, *results: RecipientResult, reason: str = "") -> Outcome:
    recipients = {f"r{number}@example.com": result for number, result in enumerate(results)}
    message = Message("s@example.com", tuple(recipients) or ("r@example.com",), b"x")
    return Outcome(None, message, status, recipients, phase=phase, reason=reason)


def raised(of: Outcome) -> smtplib.SMTPException:
    with pytest.raises(smtplib.SMTPException) as caught:
        of.raise_for_status()
    return caught.value


def test_accepted_raises_nothing() -> None:
    outcome(Status.ACCEPTED, "body", ACCEPTED, ACCEPTED).raise_for_status()


@pytest.mark.parametrize(
    ("status", "result"), [(Status.REFUSED, REFUSED), (Status.DEFERRED, DEFERRED)]
)
def test_the_phase_gives_the_exception_of_a_refusal(
    status: Status, result: RecipientResult
) -> None:
    reply = (result.code, result.text.encode())
    error = raised(outcome(status, "rcpt", result))
    assert isinstance(error, smtplib.SMTPRecipientsRefused)
    assert error.recipients == {"r0@example.com": reply}
    error = raised(outcome(status, "mail", result))
    assert isinstance(error, smtplib.SMTPSenderRefused)
    assert (error.smtp_code, error.smtp_error, error.sender) == (*reply, "s@example.com")
    for phase in ("data", "body"):
        error = raised(outcome(status, phase, result))
        assert isinstance(error, smtplib.SMTPDataError)
        assert (error.smtp_code, error.smtp_error) == reply


def test_partial_names_the_recipients_that_were_not_accepted() -> None:
    error = raised(outcome(Status.PARTIAL, "body", ACCEPTED, REFUSED, DEFERRED))
    assert isinstance(error, smtplib.SMTPRecipientsRefused)
    assert error.recipients == {
        "r1@example.com": (550, b"5.1.1 unknown"),
        "r2@example.com": (451, b"4.3.0 later"),
    }


def test_an_unknown_outcome_raises_a_lost_connection() -> None:
    error = raised(outcome(Status.UNKNOWN, "body", ACCEPTED, UNKNOWN, reason="was lost"))
    assert isinstance(error, smtplib.SMTPServerDisconnected) and str(error) == "was lost"


@pytest.mark.parametrize("status", [Status.INVALID, Status.NOT_ATTEMPTED])
def test_the_exception_of_an_unsent_message_contains_the_reason(status: Status) -> None:
    result = RecipientResult(status, None, None, "not an address")
    error = raised(outcome(status, "build", result, reason="not an address"))
    assert type(error) is smtplib.SMTPException and str(error) == "not an address"


def test_every_status_raises() -> None:
    for status in Status:
        if status is not Status.ACCEPTED:
            assert str(raised(outcome(status, "build", reason="why"))) == "why"
