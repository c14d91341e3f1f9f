"""Outcomes: the fate of each recipient, and of a message that has several."""

from collections.abc import Sequence

ACCEPTED = "ACCEPTED"
REFUSED = "REFUSED"
DEFERRED = "DEFERRED"
UNKNOWN = "UNKNOWN"
PARTIAL = "PARTIAL"
INVALID = "INVALID"
NOT_ATTEMPTED = "NOT_ATTEMPTED"

_ALL = {ACCEPTED, REFUSED, DEFERRED, UNKNOWN, PARTIAL, INVALID, NOT_ATTEMPTED}


def recipient_status(code: int) -> str:
    """What a reply means for the recipient that it was the last word on (RFC 5321 4.2.1).

    Args:
        code: the reply's code; -1 where it could not be read.

    Returns:
        `"ACCEPTED"` for 2yz, `"DEFERRED"` for 4yz, `"REFUSED"` for 5yz, else `"UNKNOWN"`.
    """
    return {2: ACCEPTED, 4: DEFERRED, 5: REFUSED}.get(code // 100, UNKNOWN)


def message_status(recipients: Sequence[str]) -> str:
    """The status of a message, from those of its recipients.

    Args:
        recipients: the status of each recipient.

    Returns:
        The one that they share; `"UNKNOWN"` where any is unknown; else `"PARTIAL"`.

    Raises:
        ValueError: there is no recipient, or no status of that name.
    """
    for status in recipients:
        if status not in _ALL:
            raise ValueError(f"no such status: {status}")
    if not recipients:
        raise ValueError("a message without recipients has no status")
    if UNKNOWN in recipients:
        return UNKNOWN
    return recipients[0] if len(set(recipients)) == 1 else PARTIAL
