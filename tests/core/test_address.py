"""Tests of addresses, on both backends."""

import re
import smtplib
import string
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core_vectors import rows

ATOM = st.text(string.ascii_letters + string.digits + "!#$%&'*+-/=?^_`{|}~", min_size=1)
LABEL = st.text(string.ascii_letters + string.digits + "-", min_size=1)
ADDRESS = st.builds(
    lambda atoms, labels: ".".join(atoms) + "@" + ".".join(labels),
    st.lists(ATOM, min_size=1, max_size=3),
    st.lists(LABEL, min_size=1, max_size=3),
)


class Header(str):
    """A str subclass whose `str()` returns another text, as for some header objects."""

    def __str__(self) -> str:
        return "rendered"


@pytest.mark.parametrize("row", rows("address", "plain"), ids=lambda row: repr(row["address"]))
def test_plain_paths_equal_the_vectors(core: ModuleType, row: Any) -> None:
    expected = f"<{row['address']}>" if row["plain"] else None
    assert core.plain_path(row["address"]) == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(address=ADDRESS)
def test_a_plain_path_equals_quoteaddr(core: ModuleType, address: str) -> None:
    assert core.plain_path(address) == smtplib.quoteaddr(address) == f"<{address}>"


def test_a_subclass_of_str_counts_as_its_characters(core: ModuleType) -> None:
    path = core.plain_path(Header("a@b"))
    assert path == "<a@b>"
    assert type(path) is str


@pytest.mark.parametrize("row", rows("address", "paths"), ids=lambda row: repr(row["path"]))
def test_check_path_refuses_the_invalid_vectors(core: ModuleType, row: Any) -> None:
    if row["error"] is None:
        assert core.check_path(row["path"]) is None
        return
    with pytest.raises(ValueError) as caught:
        core.check_path(row["path"])
    assert str(caught.value) == row["error"]


def test_a_lone_surrogate_is_an_ordinary_character_of_a_path(core: ModuleType) -> None:
    assert core.plain_path("\udce9@b") is None
    assert core.check_path("<\udce9@b>") is None
    with pytest.raises(ValueError, match=re.escape("'>': <\udce9>@b>")):
        core.check_path("<\udce9>@b>")


def test_an_address_that_is_not_a_str_is_not_plain(core: ModuleType) -> None:
    assert core.plain_path(b"a@b") is None
    assert core.plain_path(None) is None
