"""Diagnosis, on both backends; cargo reads the same vectors."""

from types import ModuleType
from typing import Any

import pytest

from core_vectors import rows, to_bytes


@pytest.mark.parametrize("row", rows("diagnosis", "replies"), ids=str)
def test_each_reply_has_the_expected_blame(core: ModuleType, row: Any) -> None:
    arguments = row["phase"], row["code"], to_bytes(row["text"]), row["enhanced_status"]
    assert core.diagnose(*arguments) == row["blame"]


def test_an_unknown_phase_is_refused(core: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^no such phase: quit$"):
        core.diagnose("quit", 550, b"", None)
