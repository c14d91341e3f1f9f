"""Capabilities: what a server offers in its reply to EHLO (RFC 5321 4.1.1.1)."""

import re

_OLD_STYLE_AUTH = re.compile(r"auth=(.*)", re.IGNORECASE)
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")

MAX_SIZE_DIGITS = 20
"""RFC 1870 section 4: the number in SIZE has at most 20 digits."""


def parse_ehlo(text: bytes) -> dict[str, str]:
    """Read the capabilities out of the text of an EHLO reply, as smtplib does.

    Args:
        text: the reply's text: its lines without codes, joined by LF; the first greets.

    Returns:
        Parameters by keyword in lower case. The parameters of all AUTH lines are joined, those
        in the old style `AUTH=LOGIN` too, each with a space before it.
    """
    features: dict[str, str] = {}
    for line in text.decode("latin-1").split("\n")[1:]:
        old_style = _OLD_STYLE_AUTH.match(line)
        if old_style:
            features["auth"] = features.get("auth", "") + " " + old_style[1]
            continue
        keyword = _KEYWORD.match(line)
        if keyword:
            name = keyword[0].lower()
            parameters = line[keyword.end() :].strip()
            if name == "auth":
                parameters = features.get("auth", "") + " " + parameters
            features[name] = parameters
    return features


def exceeds_size(parameter: str, size: int) -> bool:
    """Whether a message is larger than the server said it takes (RFC 1870).

    Args:
        parameter: the parameter of SIZE; empty, zero or unreadable means no limit.
        size: octets of the message, before dot-stuffing.
    """
    if not (parameter.isascii() and parameter.isdigit()) or len(parameter) > MAX_SIZE_DIGITS:
        return False
    return 0 < int(parameter) < size
