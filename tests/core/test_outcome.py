"""Tests of outcomes, on both backends."""

from types import ModuleType

import pytest


@pytest.mark.parametrize(
    ("code", "status"),
    [(400, "DEFERRED"), (421, "DEFERRED"), (499, "DEFERRED"), (500, "REFUSED"), (599, "REFUSED")],
)
def test_a_refusal_gives_the_status_of_a_recipient(
    core: ModuleType, code: int, status: str
) -> None:
    assert core.refusal_status(code, False) == core.refusal_status(code, True) == status


@pytest.mark.parametrize("code", [-1, 0, 99, 199, 200, 250, 299, 354, 399, 600, 999])
def test_no_other_code_means_that_a_message_was_accepted(core: ModuleType, code: int) -> None:
    assert core.refusal_status(code, False) == "NOT_ATTEMPTED"
    assert core.refusal_status(code, True) == "UNKNOWN"


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
