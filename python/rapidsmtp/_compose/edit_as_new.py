"""Drop the header fields of an earlier message, as mail programs do for "edit as new".

A message that a mail program has exported, sent or received contains fields that describe this one
message: its identity, its way through the servers, and the state of the program. In a template,
every row would get them. Providers drop messages with a known Message-ID as duplicates.
"""

import re
from collections.abc import Iterable
from typing import TypeAlias

Fields: TypeAlias = list[tuple[str, str]]

# Fields that concern one message. A template keeps them if they contain a merge field.
_IDENTITY = frozenset(("date", "message-id", "in-reply-to", "references", "original-message-id"))
# RFC 5321 section 4.4, RFC 8601, RFC 8617, and fields that servers and filters add.
_TRACE = frozenset(
    """
    return-path received received-spf x-received delivered-to x-delivered-to x-original-to
    envelope-to x-envelope-to x-envelope-from x-original-sender authentication-results
    authentication-results-original x-authentication-results arc-seal arc-message-signature
    arc-authentication-results dkim-signature dkim-filter x-google-dkim-signature
    domainkey-signature domainkey-status apparently-to original-recipient lines xref path
    x-originating-ip x-sender-ip x-source-ip x-remote-ip x-forwarded-to x-forwarded-for
    x-forwarded-encrypted x-quarantine-id x-greylist x-scanned-by x-virus-scanned
    x-virus-status x-antivirus x-antivirus-status x-getmail-retrieved-from-mailbox x-rcpt-to
    x-ham-report delivery-date
    """.split()  # noqa: SIM905  (a list literal would fill a page)
)
# The state of mail programs and mailboxes.
_STATE = frozenset(
    """
    status x-status x-keywords x-label x-labels x-uid x-uidl x-imap x-imapbase x-folder fcc x-fcc
    x-account-key x-identity-key x-enigmail-draft-status x-unsent x-olkeid
    x-universally-unique-identifier x-uniform-type-identifier thread-index thread-topic
    x-thread-index x-originatororg
    x-originalarrivaltime x-identity x-mailspring-draft
    """.split()  # noqa: SIM905  (a list literal would fill a page)
)
_PREFIXES = re.compile(
    "arc-|x-mozilla-|x-gmail-|x-gm-|x-google-smtp-|x-google-original-|x-ms-|x-microsoft-"
    "|x-exchange-|x-forefront-|x-eopattributed|x-apple-|x-zimbra-|x-evolution-|x-kmail-"
    "|x-sylpheed-|x-claws-|x-spam|x-rspamd-|x-amavis|x-mimedefang|x-barracuda-|x-proofpoint-"
    "|x-ironport-|x-mimecast-|x-ymail|x-yahoo-|x-pmx-|x-sieve|x-cyrus|x-dspam"
)


def drop_fields(fields: Fields, keep: bool) -> tuple[Fields, tuple[str, ...]]:
    """Drop the fields that belong to an earlier message.

    Args:
        fields: The names and raw values.
        keep: Whether to keep all fields.

    Returns:
        The other fields, and the names of the dropped fields, each once.
    """
    if keep:
        return fields, ()
    resent = [value for name, value in fields if name.lower().startswith("resent-")]
    is_resent_earlier = not _has_syntax(resent)

    def is_dropped(name: str, value: str) -> bool:
        lower = name.lower()
        if lower in _TRACE:
            return True
        if lower.startswith("resent-"):
            # RFC 5322 section 3.6.6: these fields describe an earlier transport.
            return is_resent_earlier
        is_known = lower in _IDENTITY or lower in _STATE or _PREFIXES.match(lower) is not None
        return is_known and not _has_syntax([value])

    kept = [each for each in fields if not is_dropped(*each)]
    return kept, tuple(dict.fromkeys(name for name, value in fields if is_dropped(name, value)))


def _has_syntax(values: Iterable[str]) -> bool:
    return any("{{" in value or "{%" in value for value in values)
