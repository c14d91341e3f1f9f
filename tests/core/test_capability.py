"""Tests of capabilities, on both backends."""

from types import ModuleType
from typing import Any

import pytest

from core_vectors import rows, to_bytes


@pytest.mark.parametrize("row", rows("capability", "ehlo"), ids=lambda row: repr(row["text"]))
def test_ehlo_replies_are_parsed(core: ModuleType, row: Any) -> None:
    features = core.parse_ehlo(to_bytes(row["text"]))
    assert list(map(list, features.items())) == row["features"]


@pytest.mark.parametrize("row", rows("capability", "exceeds_size"), ids=str)
def test_a_size_is_compared_with_the_size_parameter(core: ModuleType, row: Any) -> None:
    assert core.exceeds_size(row["parameter"], row["size"]) is row["exceeds"]


def test_an_invalid_size_parameter_sets_no_limit(core: ModuleType) -> None:
    assert core.exceeds_size("1", -1) is False
    assert core.exceeds_size("1\udc80", 10) is False


def test_parameters_are_stripped_as_str_strips(core: ModuleType) -> None:
    for character in map(chr, set(range(256)) - {ord("\n")}):
        features = core.parse_ehlo(f"greeting\nX {character}p{character}".encode("latin-1"))
        assert features == {"x": f" {character}p{character}".strip()}
