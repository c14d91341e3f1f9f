"""Capabilities: the keywords in the reply to EHLO (RFC 5321 4.1.1.1)."""

import re

_OLD_STYLE_AUTH = re.compile(r"auth=(.*)", re.IGNORECASE)
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")

MAX_SIZE_DIGITS = 20
"""The maximum number of digits in the parameter of SIZE (RFC 1870 section 4). A longer parameter is
invalid."""


def parse_ehlo(text: bytes) -> dict[str, str]:
    """Parse the text of a reply to EHLO, as smtplib does.

    Args:
        text: The reply's text: the lines without their codes, joined by LF. The first line is the
            greeting and is ignored.

    Returns:
        A dict from each keyword, in lower case, to its parameters. A later line replaces an earlier
        line with the same keyword. AUTH is an exception: the parameters of all AUTH lines are
        joined, including those of the old form `AUTH=LOGIN`. A space precedes the parameters of
        each line.
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
    """Return whether a message exceeds the server's SIZE limit.

    Args:
        parameter: The parameter of SIZE. An empty, zero or invalid parameter means no limit (RFC
            1870 section 4).
        size: The size of the message in bytes, before dot-stuffing.
    """
    if not (parameter.isascii() and parameter.isdigit()) or len(parameter) > MAX_SIZE_DIGITS:
        return False
    return 0 < int(parameter) < size
