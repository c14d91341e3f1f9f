"""Whether several ways of sending have delivered the same, by what a server has got."""

import email
import email.policy
from collections.abc import Callable, Iterable, Mapping, Sequence
from email.message import EmailMessage
from typing import Any

from rapidsmtp.cli.contenders import Contender
from rapidsmtp.cli.serving import keeping_server

_FIELDS = ("From", "Reply-To", "To", "Cc", "Subject", "List-Id", "List-Unsubscribe")


def all_same(make: Callable[[str], Sequence[Contender]], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Send a few rows by each way to a server that keeps them, and compare.

    Args:
        make: Gives the ways, for the URL of the server.
        rows: The rows.

    Returns:
        Whether each way has delivered all of them, and all the same header, texts and files.
    """
    delivered = []
    with keeping_server() as (url, taken):
        before = 0
        ways = make(url)
        try:
            for way in ways:
                way.send(rows)
                messages = taken()
                delivered.append(sorted(map(facts, messages[before:]), key=repr))
                before = len(messages)
        finally:
            for way in ways:
                way.close()
    return all(len(each) == len(rows) and each == delivered[0] for each in delivered)


def facts(data: bytes) -> tuple[list[Any], list[Any]]:
    """What a reader sees of a message: its header fields, and each text and file in order."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    header = [_value(message, name) for name in _FIELDS]
    leaves: Iterable[Any] = (part for part in message.walk() if not part.is_multipart())
    return header, [[*_named(part), _content(part)] for part in leaves]


def _named(part: EmailMessage) -> list[str | None]:
    return [part.get_content_type(), part.get_filename(), part["Content-ID"]]


def _value(message: EmailMessage, name: str) -> Any:
    value = message[name]
    if hasattr(value, "addresses"):
        return [(each.display_name, each.addr_spec) for each in value.addresses]
    return None if value is None else " ".join(str(value).split())


def _content(part: EmailMessage) -> Any:
    content = part.get_content()
    if isinstance(content, str):
        return content.replace("\r\n", "\n").rstrip("\n")
    return content
