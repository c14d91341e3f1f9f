"""Outcomes: the status of each recipient, and of a message with several recipients."""

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
    """Return the status of a recipient from the code of its last reply (RFC 5321 4.2.1).

    Args:
        code: The reply's code; -1 for an invalid reply.

    Returns:
        `"ACCEPTED"` for 2yz, `"DEFERRED"` for 4yz, `"REFUSED"` for 5yz, else `"UNKNOWN"`.
    """
    return {2: ACCEPTED, 4: DEFERRED, 5: REFUSED}.get(code // 100, UNKNOWN)


def message_status(recipients: Sequence[str]) -> str:
    """Return the status of a message from the statuses of its recipients.

    Args:
        recipients: The status of each recipient.

    Returns:
        `"UNKNOWN"` if the status of any recipient is unknown; otherwise the common status of all
        recipients, or `"PARTIAL"` if their statuses differ.

    Raises:
        ValueError: There is no recipient, or a name is not a status.
    """
    for status in recipients:
        if status not in _ALL:
            raise ValueError(f"no such status: {status}")
    if not recipients:
        raise ValueError("a message without recipients has no status")
    if UNKNOWN in recipients:
        return UNKNOWN
    return recipients[0] if len(set(recipients)) == 1 else PARTIAL
