"""Diagnosis, on both backends; cargo reads the same vectors.

The file `providers.json` contains texts of public documentation pages and issue threads, each with
its source. Placeholders in a source are replaced by example values. If a source states no code, the
code is an example.
"""

from types import ModuleType
from typing import Any

import pytest

from core_vectors import rows, to_bytes


@pytest.mark.parametrize(
    "row",
    [
        *rows("diagnosis", "replies"),
        *rows("diagnosis", "times"),
        *rows("providers", "replies"),
    ],
    ids=str,
)
def test_each_reply_has_the_expected_blame(core: ModuleType, row: Any) -> None:
    arguments = row["phase"], row["code"], to_bytes(row["text"]), row["enhanced_status"]
    assert core.diagnose(*arguments) == row["blame"]


@pytest.mark.parametrize(
    "row", [*rows("diagnosis", "times"), *rows("providers", "replies")], ids=str
)
def test_each_reply_has_the_expected_retry_time(core: ModuleType, row: Any) -> None:
    assert core.retry_after(row["code"], to_bytes(row["text"])) == row["retry_after"]


def test_the_case_of_letters_does_not_matter(core: ModuleType) -> None:
    text = b"4.7.1 HOURLY LIMIT EXCEEDED; TRY AGAIN IN 5 MINUTES"
    assert core.diagnose("mail", 451, text, "4.7.1") == "quota"
    assert core.retry_after(451, text) == 300


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"4.7.0 Too many messages on this connection", True),
        (b"4.3.2 Maximum message count per session reached", True),
        (b"4.4.2 idle timeout", False),
        (b"4.7.0 too many messages per hour, limit 100", False),
    ],
)
def test_texts_about_the_messages_of_a_connection(
    core: ModuleType, text: bytes, expected: bool
) -> None:
    assert core.says_full(text) is expected


def test_a_long_text_is_diagnosed(core: ModuleType) -> None:
    text = b"limit 9 " * 10_000 + b"try again in " + b"9" * 10_000 + b" hours"
    assert core.diagnose("mail", 451, text, None) == "later"
    assert core.retry_after(451, text) is None


def test_an_unknown_phase_is_refused(core: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^no such phase: quit$"):
        core.diagnose("quit", 550, b"", None)
