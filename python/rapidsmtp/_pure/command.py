"""The encoding of commands. Only this module checks commands for control characters.

RFC 5321 4.1.2: a command must not contain a control character. A line end inside a command would
start a second command (SMTP injection).
"""

import re
from collections.abc import Sequence

from rapidsmtp._pure.address import check_path

_LINE_END = re.compile("[\r\n]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def check_command(text: str) -> None:
    """Check a command line for control characters.

    Args:
        text: The command and its arguments, without the line end.

    Raises:
        ValueError: The text contains CR, LF, NUL or another control character.
    """
    # Fast path: a printable text has no control character, and nearly every command is printable.
    if text.isprintable():
        return
    if _LINE_END.search(text):
        escaped = text.replace("\n", "\\n").replace("\r", "\\r")
        raise ValueError(f"command and arguments contain prohibited newline characters: {escaped}")
    if _CONTROL.search(text):
        escaped = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
        raise ValueError(f"command and arguments contain prohibited control characters: {escaped}")


def check_host_name(name: str) -> None:
    """Check that a name for EHLO, HELO or LHLO has no space.

    Args:
        name: A domain or an address literal. This function does not check it for control
            characters, because `check_command` checks the whole command.

    Raises:
        ValueError: The name contains a space.
    """
    if " " in name:
        raise ValueError(f"host name contains a space: {name}")


def mail(path: str, parameters: Sequence[str], *, utf8: bool, lower_case: bool) -> bytes:
    """Encode the MAIL command (RFC 5321 4.1.1.2).

    Args:
        path: The sender in angle brackets.
        parameters: ESMTP parameters, in the order in which they are sent.
        utf8: Whether the transaction uses SMTPUTF8 (RFC 6531).
        lower_case: Whether `from:` is written in lower case, as in smtplib since Python 3.13.

    Raises:
        ValueError: The path or a parameter contains a forbidden character.
        UnicodeEncodeError: The path or a parameter is not ASCII, and `utf8` is false.
    """
    return _encode("mail from:" if lower_case else "mail FROM:", path, parameters, utf8)


def rcpt(path: str, parameters: Sequence[str], *, utf8: bool, lower_case: bool) -> bytes:
    """Encode the RCPT command (RFC 5321 4.1.1.3).

    `path` is the recipient in angle brackets. The other arguments and the exceptions are as for
    `mail`.
    """
    return _encode("rcpt to:" if lower_case else "rcpt TO:", path, parameters, utf8)


def _encode(verb: str, path: str, parameters: Sequence[str], utf8: bool) -> bytes:
    line = " ".join((verb + path, *parameters)) if parameters else verb + path
    check_command(line)
    check_path(path)
    return (line + "\r\n").encode("utf-8" if utf8 else "ascii")
