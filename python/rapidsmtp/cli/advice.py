"""What a bulk sender wants to know before the mail goes out: warnings, never errors.

One message is looked at for all, because one template made them; the list is looked at by its
columns, which takes no rendering.
"""

import email
import email.policy
import email.utils
import re
from collections.abc import Iterable, Iterator, Mapping
from email.message import EmailMessage
from typing import Any

from rapidsmtp.cli import display
from rapidsmtp.message import Message

# Hashes of addresses, in some 100 octets each. A list that is longer is compared with its
# beginning alone, and the warning says so.
_MOST_KNOWN = 4_000_000
_EXAMPLES = 3
_URI = re.compile(r"<\s*([a-z][a-z0-9+.-]*):[^>]*>", re.IGNORECASE)
_DOMAIN_TAG = re.compile(r"(?:^|;)\s*d\s*=\s*([^;\s]+)")
# Second-level labels under which registries of countries let names be registered. The Public
# Suffix List has thousands more; these are common enough for a warning.
_REGISTRY_LABELS = frozenset(
    ("ac", "co", "com", "edu", "gob", "gov", "gouv", "gv", "mil", "ne", "net", "nom", "or", "org")
)


def show(warnings: Iterable[str]) -> None:
    """Print them to stderr, one line each."""
    for warning in warnings:
        display.notice(f"warning: {warning}")


def of_message(message: Message) -> list[str]:
    """Look at one message.

    Args:
        message: One out of many that are like it.
    """
    parsed = email.message_from_bytes(message.data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return [*_unsubscribe(parsed), *_alternative(parsed), *_alignment(parsed)]


def of_list(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> list[str]:
    """Look for recipients that are in a list more than once.

    Args:
        rows: The list.
        columns: Those that make up the recipients; a cell with an "@" is taken for an address.
    """
    names = sorted(columns)
    if not names:
        return []
    known: set[int] = set()
    again: list[str] = []
    count = number = 0
    for number, row in enumerate(rows, 1):
        cells = [str(row.get(name) or "").strip().casefold() for name in names]
        addresses = [cell for cell in cells if "@" in cell] or cells
        key = hash(tuple(addresses))
        if key in known:
            count += 1
            if len(again) < _EXAMPLES:
                again.append(f"row {number} ({', '.join(addresses)})")
        elif len(known) < _MOST_KNOWN:
            known.add(key)
    if not count:
        return []
    rest = ", …" if count > len(again) else ""
    what = f"{count} row{'s' * (count > 1)} with a recipient that an earlier row has"
    bound = f"; compared with the first {_MOST_KNOWN} alone" if number > _MOST_KNOWN else ""
    return [f"{what}: {', '.join(again)}{rest}{bound}"]


def _unsubscribe(message: EmailMessage) -> Iterator[str]:
    """RFC 8058 section 3: both fields, one of the URIs https, the second's value exactly one."""
    uris = message.get("List-Unsubscribe")
    if uris is None:
        yield "no List-Unsubscribe: large providers want it of bulk mail (RFC 8058)"
    elif "https" not in map(str.lower, _URI.findall(str(uris))):
        yield "List-Unsubscribe has no https URI, which one-click needs (RFC 8058)"
    post = message.get("List-Unsubscribe-Post")
    if post is None:
        yield "no List-Unsubscribe-Post: List-Unsubscribe=One-Click (RFC 8058)"
    elif str(post).strip() != "List-Unsubscribe=One-Click":
        yield "List-Unsubscribe-Post is not List-Unsubscribe=One-Click (RFC 8058)"


def _alternative(message: EmailMessage) -> Iterator[str]:
    html = message.get_body(("html",))
    if html is not None and message.get_body(("plain",)) is None:
        yield "HTML without a plain text beside it: some readers and filters want one"


def _alignment(message: EmailMessage) -> Iterator[str]:
    """DMARC's relaxed alignment (RFC 7489 section 3.1.1): the same organizational domain."""
    author = email.utils.parseaddr(str(message.get("From", "")))[1]
    domain = author.rpartition("@")[2].lower().rstrip(".")
    signed = [
        match[1].lower().rstrip(".")
        for value in message.get_all("DKIM-Signature", [])
        if (match := _DOMAIN_TAG.search(str(value)))
    ]
    if domain and signed and all(_organization(domain) != _organization(each) for each in signed):
        yield (
            f"From is of {domain} and the DKIM signature of {', '.join(signed)}: not aligned, so "
            "DMARC will not count it (organizational domains guessed from their last labels)"
        )


def _organization(domain: str) -> str:
    """The organizational domain, approximately: the last two labels, or three as in co.uk."""
    labels = domain.split(".")
    country = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _REGISTRY_LABELS
    return ".".join(labels[-3 if country else -2 :])
