"""The comparison of Python objects by identity."""

from operator import is_
from typing import Any


def are_same(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """Return whether two tuples contain the same objects."""
    return len(first) == len(second) and all(map(is_, first, second))
