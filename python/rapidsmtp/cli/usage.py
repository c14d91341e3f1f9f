"""What the commands share: their exit status, the one exception for whatever the user can put
right, and how a command is registered.
"""

import argparse
from typing import TypeAlias

NOT_ALL_ACCEPTED = 1
USAGE = 2
"""Usage, bad input or a relay that would not have us: one line on stderr, and nothing was sent."""
INTERRUPTED = 130
"""What shells give for Ctrl-C: 128 and the number of SIGINT."""

_MOST = 2**31 - 1

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class UsageError(Exception):
    """Bad usage or bad input, in one line; nothing was sent."""


def add_command(
    commands: Commands, name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    """Add a command whose help ends with an example."""
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def positive(text: str) -> int:
    """A whole number above zero, for argparse."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    if number > _MOST:
        raise argparse.ArgumentTypeError(f"{text} is above {_MOST}")
    return number
