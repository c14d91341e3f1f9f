"""Check the addresses of a message for the engine, with the rules of a template.

This module is separate from `address`, because the drop-in does not need the rules of templates.
"""

from typing import Any

from rapidsmtp import _backend
from rapidsmtp._compose.encode import LOCAL_PART, MAXIMUM_PATH, RowError, parse_mailboxes
from rapidsmtp._compose.invisible import refused, trim


def checked_path(address: Any) -> str:
    """Return an address as a path, with the same checks as in a template.

    smtplib guesses an address in a malformed text, such as `bad x` in `bad(at)x`.

    Args:
        address: One address, with or without a display name; or the name of a mailbox without a
            domain. "" is the null reverse-path.

    Raises:
        ValueError: The text is not an address.
        TypeError: `address` is not a str.
    """
    plain = _backend.plain_path(address)
    if plain is not None and len(plain) <= MAXIMUM_PATH:
        return plain
    if not isinstance(address, str):
        raise TypeError(f"an address must be a str, not {type(address).__name__}")
    _backend.check_command(address)
    if address in ("", "<>"):
        return "<>"
    # The name of a mailbox of the relay: `postmaster` (RFC 5321 section 4.5.1), or a user of LMTP.
    if len(address) < MAXIMUM_PATH and LOCAL_PART.fullmatch(address) and not refused(address):
        return f"<{address}>"
    try:
        mailboxes = parse_mailboxes(address, "", convert=False)
    except RowError:
        mailboxes = []
    if len(mailboxes) != 1:
        character = None if "<" in address else refused(trim(address).rpartition("@")[0])
        reason = f": it contains {character}" if character else ""
        raise ValueError(f"{address!r} is not an address{reason}")
    path = f"<{mailboxes[0].address}>"
    _backend.check_path(path)
    return path
