"""Commands: to bytes; the one place that refuses line ends, controls and smuggled parameters.

RFC 5321 4.1.2 gives the grammar. A line end inside a command would be a second command (SMTP
injection), so no control character at all passes here.
"""

import re
from collections.abc import Sequence

from rapidsmtp._pure.address import check_path

_LINE_END = re.compile("[\r\n]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def check_command(text: str) -> None:
    """Refuse a command line that holds a control character.

    Args:
        text: the command and its arguments, without the line end.

    Raises:
        ValueError: it holds CR, LF, NUL or another control character.
    """
    if text.isprintable():  # the usual case, at a tenth of the cost
        return
    if _LINE_END.search(text):
        escaped = text.replace("\n", "\\n").replace("\r", "\\r")
        raise ValueError(f"command and arguments contain prohibited newline characters: {escaped}")
    if _CONTROL.search(text):
        escaped = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
        raise ValueError(f"command and arguments contain prohibited control characters: {escaped}")


def check_host_name(name: str) -> None:
    """Refuse a name for EHLO, HELO or LHLO that is more than one word.

    Args:
        name: a domain or an address literal; what `check_command` refuses is left to it.

    Raises:
        ValueError: it holds a space.
    """
    if " " in name:
        raise ValueError(f"host name contains a space: {name}")


def mail(path: str, parameters: Sequence[str], *, utf8: bool, lower_case: bool) -> bytes:
    """The MAIL command (RFC 5321 4.1.1.2).

    Args:
        path: the sender in angle brackets.
        parameters: ESMTP parameters, in the order in which they are sent.
        utf8: whether SMTPUTF8 is in force for this transaction (RFC 6531).
        lower_case: whether `from:` is written in lower case, as smtplib does from 3.13 on.

    Raises:
        ValueError: the path or a parameter would be more than it says.
        UnicodeEncodeError: it is not ASCII and `utf8` is false.
    """
    return _encode("mail from:" if lower_case else "mail FROM:", path, parameters, utf8)


def rcpt(path: str, parameters: Sequence[str], *, utf8: bool, lower_case: bool) -> bytes:
    """The RCPT command (RFC 5321 4.1.1.3); arguments and errors as for `mail`."""
    return _encode("rcpt to:" if lower_case else "rcpt TO:", path, parameters, utf8)


def _encode(verb: str, path: str, parameters: Sequence[str], utf8: bool) -> bytes:
    line = " ".join((verb + path, *parameters)) if parameters else verb + path
    check_command(line)
    check_path(path)
    return (line + "\r\n").encode("utf-8" if utf8 else "ascii")
