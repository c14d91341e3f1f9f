"""Exit statuses, usage errors, and functions for the command-line parser."""

import argparse
import math
import re
from typing import TypeAlias

from rapidsmtp.errors import RelayError

NOT_ALL_ACCEPTED = 1
"""Some messages were not accepted, or a report could not be written."""
USAGE = 2
"""Wrong usage, invalid input, or a relay that rejected the session. Nothing was sent."""
UNFINISHED = 3
"""A campaign is not finished: it is paused, or rows wait. Run it again."""
INTERRUPTED = 130
"""Ctrl-C ended the command. Shells use the same status: 128 plus the number of SIGINT."""
_SIGNAL_STATUS = 128

_MAXIMUM = 2**31 - 1
# Patterns of Python parameters in error texts, and the options of the same meaning.
_OPTION_NAMES = {
    r'\bencoding="': '--encoding "',
    r"\brecipient=": "--recipient-column ",
    r"\bcolumns=\{'(\w+)': ((['\"]).*?\3)\}": r"--column \1=\2",
    r'\bduplicates="(\w+)"': r"--duplicates \1",
    r"\ballow_plaintext_auth\b": "--allow-plaintext-auth",
    r"\benvelope_sender\b": "--return-path",
    r"\battachment_root\b": "--attachment-root",
    r'\btext="auto"': "--text auto",
    r"^calendar '": "--calendar '",
    r"\bolder_copy=True\b": "--older-copy",
    r"(?<!-)\bper_day (?=must)": "--per-day ",
    r"(?<!-)\bbetween (?=is )": "--between ",
    r"(?<!-)\bzone (?=')": "--zone ",
    r"(?<!-)\bidempotency_header (?=is )": "--idempotency-header ",
    r"(?<!-)\bretry_for (?=is )": "--retry-for ",
    r'\bproxy="': '--proxy "',
    r"\bproxy=": "--proxy",
    r"\bca_file=": "--ca-file",
    r"\bcertificate=": "--certificate",
    # The command line has no such option.
    r", or (?:in )?server_hostname=": "",
}

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class UsageError(Exception):
    """Wrong usage or bad input, described in one line. Nothing was sent."""


class Ended(KeyboardInterrupt):
    """A signal that ends a command.

    Args:
        number: The number of the signal.
        name: Its name, such as SIGTERM.

    Attributes:
        status: The exit status: 128 plus the number of the signal, as in shells.
    """

    def __init__(self, number: int, name: str) -> None:
        super().__init__("interrupted" if name == "SIGINT" else f"ended by {name}")
        self.status = _SIGNAL_STATUS + number


def add_command(
    commands: Commands, name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    """Add a command to the main parser. The help text of the command ends with an example.

    Args:
        commands: The subparsers of the main parser.
        name: The command's name.
        summary: One line that describes the command, without a full stop.
        example: One or more command lines.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(prog=parser.prog)
    return parser


def name_options(text: str) -> str:
    """Replace each name of a Python parameter in an error text with the command-line option."""
    for pattern, option in _OPTION_NAMES.items():
        text = re.sub(pattern, option, text)
    return text


def error_line(error: Exception) -> str:
    """Return the text of an error, and the time after which the command may be repeated."""
    text = name_options(str(error))
    seconds = error.retry_after if isinstance(error, RelayError) else None
    if seconds is None:
        return text
    return f"{text.removesuffix('.')}; try again in {_rounded_up(seconds)}"


def _rounded_up(seconds: float) -> str:
    """Return a time as a whole number of one unit."""
    if seconds > 24 * 3600:
        number, unit = seconds / (24 * 3600), "d"
    elif seconds >= 3600:
        number, unit = seconds / 3600, "h"
    elif seconds >= 60:
        number, unit = seconds / 60, "min"
    else:
        number, unit = seconds, "s"
    return f"{math.ceil(number)} {unit}"


def positive(text: str) -> int:
    """Parse a whole number from 1 to `_MAXIMUM`, for argparse.

    Raises:
        argparse.ArgumentTypeError: The text is not a number from 1 to `_MAXIMUM`.
    """
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small: the minimum is 1")
    if number > _MAXIMUM:
        raise argparse.ArgumentTypeError(f"{text} is too large: the maximum is {_MAXIMUM}")
    return number
