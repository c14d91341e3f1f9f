"""Check whether a program has replaced functions of the package `email`.

The fast paths of rapidsmtp read the objects of `email` directly, so they apply only to objects with
the original methods. A program may replace a method before rapidsmtp is loaded, so a comparison
with the methods at load time is not enough. Therefore the check looks at the module in which each
function was defined.
"""

from collections.abc import Iterable
from typing import Any


def are_genuine(functions: Iterable[Any]) -> bool:
    """Return whether all functions are built in or defined in the package `email`."""
    modules = (getattr(function, "__module__", None) for function in functions)
    return all(module is None or module.startswith("email.") for module in modules)
