"""Convert addresses to the form that the commands MAIL and RCPT need."""

from smtplib import quoteaddr

from rapidsmtp import _backend


def smtp_path(address: str) -> str:
    """Return an address as a path, in angle brackets (RFC 5321 section 4.1.2), as smtplib does.

    Args:
        address: The address, in any form that `smtplib.quoteaddr` accepts.

    Raises:
        ValueError: The text contains a line end, or other text in addition to one address.
    """
    plain = _backend.plain_path(address)
    if plain is not None:
        return plain
    if isinstance(address, str):
        _backend.check_command(address)  # before `quoteaddr`, which removes line ends
    quoted = quoteaddr(address)
    _backend.check_command(quoted)
    _backend.check_path(quoted)
    return quoted
