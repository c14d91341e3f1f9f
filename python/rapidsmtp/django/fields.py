"""The email policy for composing Django's messages: `email.policy.SMTP` with a cache.

`email.headerregistry` creates a new class for each header field of each message, and parses each
value again. From Django 6.0 on, these two steps take most of the time that Django needs to compose
a message. But fields such as From and Content-Type have the same value in many messages, and header
objects are immutable. So this module creates each class once and parses a recurring value once. The
header objects have the same base classes as the header objects of `email`, and give the same bytes.
"""

import email.policy
import functools
from email.headerregistry import HeaderRegistry
from typing import Any

_RECURRING = frozenset(
    (
        "content-disposition",
        "content-transfer-encoding",
        "content-type",
        "from",
        "mime-version",
        "reply-to",
        "sender",
    )
)
"""Fields that often have the same value in many messages, by their names in lower case."""

_MAX_LENGTH = 200
"""The maximum length of a cached value, in characters. Longer values are parsed each time."""


class _CachingRegistry(HeaderRegistry):
    """A header registry with a cache.

    It uses the classes of another registry, including classes that the program registers there
    later.
    """

    def __init__(self, original: HeaderRegistry) -> None:
        self.registry = original.registry
        self.base_class = original.base_class
        self.default_class = original.default_class

    def __getitem__(self, name: str) -> Any:
        return _class_of(self.registry.get(name.lower(), self.default_class), self.base_class)

    def __call__(self, name: str, value: Any) -> Any:
        kind = self[name]
        if type(value) is str and len(value) <= _MAX_LENGTH and name.lower() in _RECURRING:
            return _field(kind, name, value)
        return kind(name, value)


@functools.lru_cache(maxsize=64)
def _class_of(kind: Any, base: Any) -> Any:
    return type("_" + kind.__name__, (kind, base), {})


@functools.lru_cache(maxsize=256)
def _field(kind: Any, name: str, value: str) -> Any:
    return kind(name, value)


def policy() -> "email.policy.EmailPolicy[Any]":
    """Return the caching policy, or `email.policy.SMTP` itself if its factory was replaced."""
    return _caching(email.policy.SMTP)


@functools.lru_cache(maxsize=1)
def _caching(smtp: "email.policy.EmailPolicy[Any]") -> "email.policy.EmailPolicy[Any]":
    if type(smtp.header_factory) is not HeaderRegistry:
        return smtp
    return smtp.clone(header_factory=_CachingRegistry(smtp.header_factory))
