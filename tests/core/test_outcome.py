"""Tests of outcomes, on both backends."""

from types import ModuleType

import pytest


@pytest.mark.parametrize(
    ("code", "status"),
    [(250, "ACCEPTED"), (299, "ACCEPTED"), (421, "DEFERRED"), (550, "REFUSED")]
    + [(code, "UNKNOWN") for code in (-1, 0, 99, 199, 354, 600, 999)],
)
def test_a_code_gives_the_status_of_a_recipient(core: ModuleType, code: int, status: str) -> None:
    assert core.recipient_status(code) == status


@pytest.mark.parametrize(
    ("recipients", "status"),
    [
        (["ACCEPTED"], "ACCEPTED"),
        (["REFUSED", "REFUSED"], "REFUSED"),
        (["NOT_ATTEMPTED", "NOT_ATTEMPTED"], "NOT_ATTEMPTED"),
        (["ACCEPTED", "REFUSED"], "PARTIAL"),
        (["ACCEPTED", "DEFERRED", "UNKNOWN"], "UNKNOWN"),
    ],
)
def test_the_recipients_give_the_status_of_a_message(
    core: ModuleType, recipients: list[str], status: str
) -> None:
    assert core.message_status(recipients) == status
    assert core.message_status(tuple(reversed(recipients))) == status


def test_a_missing_or_unknown_status_is_refused(core: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^a message without recipients has no status$"):
        core.message_status([])
    with pytest.raises(ValueError, match=r"^no such status: accepted$"):
        core.message_status(["ACCEPTED", "accepted"])
