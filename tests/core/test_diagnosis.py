"""Diagnosis, on both halves; the vectors are read by cargo too."""

from types import ModuleType
from typing import Any

import pytest

from core_vectors import octets, rows


@pytest.mark.parametrize("row", rows("diagnosis", "replies"), ids=str)
def test_diagnose(core: ModuleType, row: Any) -> None:
    arguments = row["phase"], row["code"], octets(row["text"]), row["enhanced_status"]
    assert core.diagnose(*arguments) == row["blame"]


def test_no_phase(core: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^no such phase: quit$"):
        core.diagnose("quit", 550, b"", None)
