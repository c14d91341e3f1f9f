"""The comparison of the messages that the competitors deliver."""

import email
import email.policy
from collections.abc import Callable, Iterable, Mapping, Sequence
from email.message import EmailMessage
from typing import Any

from rapidsmtp.cli.bench.competitors import Competitor
from rapidsmtp.cli.bench.local_server import storing_server

_FIELDS = ("From", "Reply-To", "To", "Cc", "Subject", "List-Id", "List-Unsubscribe")


def deliver_same_content(
    make: Callable[[str], Sequence[Competitor]], rows: Sequence[Mapping[str, Any]]
) -> bool:
    """Send rows with each competitor to a server, and compare the messages that the server stored.

    Args:
        make: A function that creates the competitors. Its argument is the URL of the server.
        rows: The rows to send.

    Returns:
        Whether each competitor delivered all rows, with equal header fields, texts and files.
    """
    delivered = []
    with storing_server() as (url, stored):
        before = 0
        competitors = make(url)
        try:
            for competitor in competitors:
                competitor.send(rows)
                messages = stored()
                delivered.append(sorted(map(content, messages[before:]), key=repr))
                before = len(messages)
        finally:
            for competitor in competitors:
                competitor.close()
    return all(len(each) == len(rows) and each == delivered[0] for each in delivered)


def content(data: bytes) -> tuple[list[Any], list[Any]]:
    """Return the content that the reader of a message sees.

    Returns:
        The values of the header fields, and the texts and files in the order of the message.
    """
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    header = [_value(message, name) for name in _FIELDS]
    parts: Iterable[Any] = (part for part in message.walk() if not part.is_multipart())
    return header, [[*_names(part), _part_content(part)] for part in parts]


def _names(part: EmailMessage) -> list[str | None]:
    return [part.get_content_type(), part.get_filename(), part["Content-ID"]]


def _value(message: EmailMessage, name: str) -> Any:
    value = message[name]
    if hasattr(value, "addresses"):
        return [(each.display_name, each.addr_spec) for each in value.addresses]
    return None if value is None else " ".join(str(value).split())


def _part_content(part: EmailMessage) -> Any:
    value = part.get_content()
    if isinstance(value, str):
        return value.replace("\r\n", "\n").rstrip("\n")
    return value
