"""Addresses: the paths of MAIL and RCPT (RFC 5321 4.1.2).

Rendering any address as a path is the work of the running Python's `quoteaddr`, which takes 10
to 13 microseconds; nearly all addresses are plain, and for those the path is the address itself
in angle brackets. What a path may not hold is decided here for all of them.
"""

import re

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_PLAIN = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")


def plain_path(address: object) -> str | None:
    """The path of a plain address: dot-atoms on both sides of one `@`, all ASCII.

    Args:
        address: an address as a caller gives it; who gives no str may mean anything by it.

    Returns:
        `<address>`, which is what `quoteaddr` gives for it; None where the address is not plain.
    """
    if not isinstance(address, str):
        return None
    # Not an f-string: that would ask a subclass of str for its own rendering.
    return "<" + address + ">" if _PLAIN.fullmatch(address) else None


def check_path(path: str) -> None:
    """Refuse a path through which parameters could be smuggled into MAIL or RCPT.

    Args:
        path: the path as it would be sent, with its angle brackets.

    Raises:
        ValueError: it is not one text in angle brackets, or holds another angle bracket that is
            not inside a quoted string.
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
        if quoted and character == "\\":
            next(characters, None)
        elif character == '"':
            quoted = not quoted
        elif character in "<>\\" and not quoted:
            # Servers disagree on a backslash outside a quoted string: to Postfix it makes the next
            # quote an ordinary character. With a bracket in sight that is not left to them.
            return True
    # A quoted string that never ends quotes nothing.
    return quoted
