"""Addresses: the paths of MAIL and RCPT (RFC 5321 4.1.2).

Python's `smtplib.quoteaddr` converts any address to a path in 10 to 13 microseconds. Nearly all
addresses are plain: the path is the address in angle brackets. `plain_path` converts plain
addresses faster. `check_path` refuses any path with an unquoted angle bracket inside, because the
text after the bracket could add a parameter to the command.
"""

import re

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_PLAIN = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")


def plain_path(address: object) -> str | None:
    """Return the path of a plain address: ASCII dot-atoms on both sides of one `@`.

    Args:
        address: The caller's address. An object that is not a str is not plain.

    Returns:
        `<address>`, the same path as from `quoteaddr`; None if the address is not plain.
    """
    if not isinstance(address, str):
        return None
    # `+` is used because an f-string would call `__format__`. A subclass of str may override this
    # method and return other text than the text that was checked.
    return "<" + address + ">" if _PLAIN.fullmatch(address) else None


def check_path(path: str) -> None:
    """Check that a path cannot add a parameter to MAIL or RCPT.

    Args:
        path: The path with its angle brackets.

    Raises:
        ValueError: The path is not enclosed in angle brackets, or contains another angle bracket
            outside a quoted string.
    """
    inside = path[1:-1]
    if len(path) < 2 or path[0] != "<" or path[-1] != ">" or _has_bare_bracket(inside):
        raise ValueError(f"address must not contain an unquoted '<' or '>': {path}")


def _has_bare_bracket(inside: str) -> bool:
    if "<" not in inside and ">" not in inside:
        return False
    quoted = False
    characters = iter(inside)
    for character in characters:
        # RFC 5321 4.1.2: in a quoted string, a backslash quotes the next character.
        if quoted and character == "\\":
            next(characters, None)
        elif character == '"':
            quoted = not quoted
        elif character in "<>\\" and not quoted:
            # Servers disagree on a quote after a backslash outside a quoted string. For Postfix,
            # this quote is an ordinary character and begins no quoted string. So a path that
            # contains both an inner bracket and a backslash outside quotes is refused.
            return True
    # If the closing quote is missing, the text after the opening quote is not a quoted string (RFC
    # 5321 4.1.2). So a bracket in this text counts as unquoted.
    return quoted
