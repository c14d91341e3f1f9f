"""Capabilities: the keywords in the reply to EHLO (RFC 5321 4.1.1.1)."""

import re

_OLD_STYLE_AUTH = re.compile(r"auth=(.*)", re.IGNORECASE)
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")

_LIMIT_VALUE = re.compile(r"[1-9][0-9]{0,5}")
"""The value of a limit (RFC 9422 section 4): one to six digits, and the first digit is not 0."""

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


class Capabilities:
    """The capabilities in the reply to the last EHLO.

    Attributes:
        mechanisms: The mechanisms of AUTH (RFC 4954), in upper case.
        limits: The limits that the relay announces (RFC 9422), by name in upper case.
    """

    def __init__(self, text: bytes = b"") -> None:
        """Parse the text of a reply to EHLO. An empty text means no capability."""
        self._parameters = parse_ehlo(text)
        self.mechanisms = self._parameters.get("auth", "").upper().split()
        self.limits = _limits(self._parameters.get("limits", ""))

    def __contains__(self, keyword: str) -> bool:
        return keyword.lower() in self._parameters

    def missing(
        self, *, smtputf8: bool, eight_bit: bool, binary: bool, dsn: bool, size: int
    ) -> str:
        """Return the reason why a message with these requirements cannot be sent, or "".

        Args:
            smtputf8: Whether an address is not ASCII (RFC 6531 3.2).
            eight_bit: Whether the body has bytes above 127 (RFC 6152 3).
            binary: Whether the caller asks for BINARYMIME.
            dsn: Whether a parameter of RFC 3461 is used.
            size: The size of the message, in bytes.
        """
        needs = {"SMTPUTF8": smtputf8, "8BITMIME": eight_bit, "BINARYMIME": binary, "DSN": dsn}
        for name, needed in needs.items():
            # RFC 3030 3: BINARYMIME must be sent with BDAT, which this backend does not use.
            if needed and (name == "BINARYMIME" or name not in self):
                return f"the relay does not support {name}, which the message needs"
        limit = self._parameters.get("size", "")
        if exceeds_size(limit, size):
            return f"the message has {size} bytes, and the relay accepts at most {limit}"
        return ""


def _limits(parameters: str) -> dict[str, int]:
    limits = {}
    for parameter in parameters.upper().split():
        name, _, value = parameter.partition("=")
        # RFC 9422 section 3: a client ignores a limit with an invalid value.
        if _LIMIT_VALUE.fullmatch(value):
            limits[name] = int(value)
    return limits
