"""Checks of a bulk mailing before it is sent. They give warnings, never errors.

Only one message is checked as an example, because all messages are built from the same template.
The check of the recipients list has found its duplicates and the fields without a column.
"""

import email
import email.message
import email.policy
import email.utils
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rapidsmtp._compose.recipients_list import CheckedList, repeated_rows
from rapidsmtp._models.message import Message
from rapidsmtp.cli import display

_DOMAIN_TAG = re.compile(r"(?:^|;)\s*d\s*=\s*([^;\s]+)")
# Second-level labels under which country registries register names, such as "co" in co.uk. The
# Public Suffix List has thousands of such labels. For a warning, the most common labels are enough.
_REGISTRY_LABELS = frozenset(
    ("ac", "co", "com", "edu", "gob", "gov", "gouv", "gv", "mil", "ne", "net", "nom", "or", "org")
)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print warnings to stderr, one line each."""
    for warning in warnings:
        display.notice(f"warning: {warning}")


def strict_error(warnings: Sequence[str]) -> str:
    """Return the error text of --strict."""
    fact = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    return f"{fact}, and --strict allows none; nothing was sent"


def check_message(message: Message) -> list[str]:
    """Return warnings about one message.

    Args:
        message: Any message of the mailing. All messages are built from the same template.
    """
    # The time of the policy `default` grows with the square of a field's length.
    parsed = email.message_from_bytes(message.data, policy=email.policy.compat32)
    return [*_check_unsubscribe(parsed), *_check_plain_text(parsed), *_check_alignment(parsed)]


def check_fields(recipients: CheckedList) -> list[str]:
    """Return a warning for each field of the template without a column in the list.

    Such a field is always empty, or has its default.
    """
    return [f"{text} [field-without-column]" for text in recipients.missing]


def check_duplicates(recipients: CheckedList) -> list[str]:
    """Return warnings about rows whose recipient occurs in an earlier row."""
    found = []
    count = recipients.repeated
    if count:
        rows = repeated_rows(recipients.examples, count, recipients.unit)
        fact = "1 row repeats" if count == 1 else f"{count} rows repeat"
        sent = "--duplicates first sends to the first row only"
        if recipients.drops_repeats:
            sent = f"{'it is' if count == 1 else 'they are'} not sent without --duplicates all"
        found.append(f"{fact} a recipient of an earlier row: {rows}; {sent} [duplicate]")
    count = recipients.similar
    if count:
        rows = repeated_rows(recipients.similar_examples, count, recipients.unit)
        fact = "1 address differs" if count == 1 else f"{count} addresses differ"
        found.append(
            f"{fact} from an earlier one only in upper and lower case before the @: {rows}; "
            f"{'it is' if count == 1 else 'they are'} sent too [similar-address]"
        )
    return found


def _check_unsubscribe(message: email.message.Message) -> Iterator[str]:
    """Yield a warning for each violation of RFC 8058 section 3 (one-click unsubscribe).

    List-Unsubscribe must contain an https URI. List-Unsubscribe-Post must have the value
    `List-Unsubscribe=One-Click`.
    """
    uris = message.get("List-Unsubscribe")
    if uris is None:
        yield "List-Unsubscribe is missing; large providers require it for bulk mail (RFC 8058)"
    elif "https" not in _schemes(str(uris)):
        yield "List-Unsubscribe has no https URI; add one for one-click unsubscribe (RFC 8058)"
    post = message.get("List-Unsubscribe-Post")
    if post is None:
        yield (
            "List-Unsubscribe-Post is missing; add the header field "
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click (RFC 8058)"
        )
    elif str(post).strip() != "List-Unsubscribe=One-Click":
        yield "List-Unsubscribe-Post must have the value List-Unsubscribe=One-Click (RFC 8058)"


def _schemes(uris: str) -> set[str]:
    """Return the schemes of the URIs in a List-Unsubscribe field (RFC 2369 section 2)."""
    found = (text.partition("<")[2] for text in uris.split(">")[:-1])
    return {uri.partition(":")[0].strip().lower() for uri in found}


def _check_plain_text(message: email.message.Message) -> Iterator[str]:
    kinds = set(_text_kinds(message))
    if "html" in kinds and "plain" not in kinds:
        yield "the message has HTML but no plain text; some mail readers and filters need both"


def _text_kinds(part: email.message.Message) -> Iterator[str]:
    """Yield the subtypes of the texts that a mail reader shows, as `EmailMessage.get_body` does."""
    if part.get_content_disposition() == "attachment":
        return
    if part.get_content_maintype() == "text":
        yield part.get_content_subtype()
    elif part.get_content_maintype() == "multipart" and part.is_multipart():
        parts: Any = part.get_payload()
        # RFC 2387 section 3.2: the first part of multipart/related is its root.
        is_related = part.get_content_subtype() == "related"
        for each in parts[:1] if is_related else parts:
            yield from _text_kinds(each)


def _check_alignment(message: email.message.Message) -> Iterator[str]:
    """Yield a warning if no DKIM signature of a signed message is aligned with the domain of From.

    DMARC ignores a signature that is not aligned. In relaxed mode, two domains are aligned if they
    have the same organizational domain (RFC 7489 section 3.1.1).
    """
    author = email.utils.parseaddr(str(message.get("From", "")))[1]
    domain = author.rpartition("@")[2].lower().rstrip(".")
    signed = [
        match[1].lower().rstrip(".")
        for value in message.get_all("DKIM-Signature", [])
        if (match := _DOMAIN_TAG.search(str(value)))
    ]
    if domain and signed and all(_organization(domain) != _organization(each) for each in signed):
        yield (
            f"the domain of From is {domain}, but the DKIM signature is for {', '.join(signed)}: "
            "not aligned, so DMARC ignores the signature (the organizational domains are guessed "
            "from the last labels)"
        )


def _organization(domain: str) -> str:
    """Guess the organizational domain: the last two labels, or the last three as in one.co.uk."""
    labels = domain.split(".")
    country = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _REGISTRY_LABELS
    return ".".join(labels[-3 if country else -2 :])
