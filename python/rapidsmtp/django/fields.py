"""The policy by which Django composes here: email's `SMTP`, and sooner.

`email.headerregistry` makes a class for each field of each message and parses each value anew,
which is most of what composing a message takes from Django 6.0 on. But From, Content-Type and
their like are the same in message after message, and header objects never change: here each class
is made once, and a recurring value is parsed once. The objects are of the same classes as email's,
and are written in the same octets.
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
"""Fields that many messages have alike, by their names in lower case."""

_LONGEST = 200
"""Characters of a value that is remembered, so that what is remembered stays small."""


class _Fields(HeaderRegistry):
    """The fields of another registry, which may yet be told of new classes."""

    def __init__(self, original: HeaderRegistry) -> None:
        # Its own dictionary: what is registered there later holds here as well.
        self.registry = original.registry
        self.base_class = original.base_class
        self.default_class = original.default_class

    def __getitem__(self, name: str) -> Any:
        return _class_of(self.registry.get(name.lower(), self.default_class), self.base_class)

    def __call__(self, name: str, value: Any) -> Any:
        kind = self[name]
        if type(value) is str and len(value) <= _LONGEST and name.lower() in _RECURRING:
            return _field(kind, name, value)
        return kind(name, value)


@functools.lru_cache(maxsize=64)
def _class_of(kind: Any, base: Any) -> Any:
    return type("_" + kind.__name__, (kind, base), {})


@functools.lru_cache(maxsize=256)
def _field(kind: Any, name: str, value: str) -> Any:
    return kind(name, value)


def policy() -> "email.policy.EmailPolicy[Any]":
    """What to compose by: `email.policy.SMTP` itself where somebody has changed its registry."""
    return _quick(email.policy.SMTP)


@functools.lru_cache(maxsize=1)
def _quick(smtp: "email.policy.EmailPolicy[Any]") -> "email.policy.EmailPolicy[Any]":
    if type(smtp.header_factory) is not HeaderRegistry:
        return smtp
    return smtp.clone(header_factory=_Fields(smtp.header_factory))
