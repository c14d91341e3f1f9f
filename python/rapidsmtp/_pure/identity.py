"""Checks that find replaced methods: the comparison of objects by identity, and of names."""

from operator import is_
from typing import Any


def are_same(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """Return whether two tuples contain the same objects."""
    return len(first) == len(second) and all(map(is_, first, second))


def has_any(dictionary: dict[str, Any], names: tuple[str, ...]) -> bool:
    """Return whether a dictionary has one of the names as a key."""
    # `any` with a generator would take twice the time.
    for name in names:  # noqa: SIM110
        if name in dictionary:
            return True
    return False
