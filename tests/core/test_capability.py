"""Capabilities, on both halves."""

from types import ModuleType
from typing import Any

import pytest

from core_vectors import octets, rows


@pytest.mark.parametrize("row", rows("capability", "ehlo"), ids=lambda row: repr(row["text"]))
def test_parse_ehlo(core: ModuleType, row: Any) -> None:
    features = core.parse_ehlo(octets(row["text"]))
    assert list(map(list, features.items())) == row["features"]


@pytest.mark.parametrize("row", rows("capability", "exceeds_size"), ids=str)
def test_exceeds_size(core: ModuleType, row: Any) -> None:
    assert core.exceeds_size(row["parameter"], row["size"]) is row["exceeds"]


def test_a_size_that_is_no_size(core: ModuleType) -> None:
    assert core.exceeds_size("1", -1) is False
    assert core.exceeds_size("1\udc80", 10) is False


def test_white_space_is_that_of_str(core: ModuleType) -> None:
    for character in map(chr, set(range(256)) - {ord("\n")}):
        features = core.parse_ehlo(f"greeting\nX {character}p{character}".encode("latin-1"))
        assert features == {"x": f" {character}p{character}".strip()}
