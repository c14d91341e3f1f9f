"""The values of the options for campaigns.

Each function raises `argparse.ArgumentTypeError` for a wrong value.
"""

import argparse
import re
from datetime import datetime

from rapidsmtp.cli.usage import positive

_UNITS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86_400}
_TIME = re.compile(r"(\d{1,7}(?:\.\d{1,3})?)\s*(s|min|h|d|)", re.ASCII)


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a list such as 500,1000. They must be above 0."""
    return tuple(positive(part.strip()) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Return the names of a list with commas. In each name, underscores separate the words."""
    return tuple(
        part.strip().lower().replace("-", "_").replace(" ", "_") for part in text.split(",")
    )


def duration(text: str) -> float:
    """Return a duration such as 30min, in seconds."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write it like 90s, 30min or 24h")
    return float(match[1]) * _UNITS[match[2]]


def moment(text: str) -> datetime:
    """Return the time that a text such as 2030-05-17T08:00 states."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time; write it like 2030-05-17T08:00"
        ) from None
