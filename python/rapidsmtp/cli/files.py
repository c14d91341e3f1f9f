"""The files that commands write: never one that they read, never a reason to stop sending."""

import argparse
import contextlib
from pathlib import Path
from typing import TextIO

from rapidsmtp.cli import display
from rapidsmtp.cli.usage import UsageError

_WRITTEN = ("not_accepted", "trace")
_READ = (
    "to",
    "template",
    "text",
    "html",
    "attach",
    "inline",
    "dkim_key",
    "ca_file",
    "certificate",
)


def check_files(options: argparse.Namespace) -> None:
    """Refuse to write to a file that is read, or to one for two purposes.

    Raises:
        UsageError: Somebody wants that.
    """
    known: list[tuple[str, str]] = []
    for name in (*_READ, *_WRITTEN):
        for path in _paths(name, getattr(options, name, None)):
            for other, theirs in known if name in _WRITTEN else []:
                if _is_same(path, theirs):
                    both = f"{_option(name)} and {_option(other)}"
                    raise UsageError(f"{both} are the same file: {path}")
            known.append((name, path))


def opened(path: str) -> TextIO:
    """Open a file to write to; what it holds stays until it is `emptied`.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        return Path(path).open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def emptied(file: TextIO) -> TextIO:
    """Take out what a file held before."""
    with contextlib.suppress(OSError):  # a pipe, or a terminal
        file.truncate(0)
    return file


class Trace:
    """The file of `--trace`.

    Args:
        path: Its path. What it holds stays until `begin`.

    Raises:
        UsageError: It cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path, self._fault = path, ""
        self._file = opened(path)

    def begin(self) -> None:
        """Empty it."""
        emptied(self._file)

    def __call__(self, line: str) -> None:
        """Write a line, as long as that is possible."""
        if not self._fault:
            try:
                self._file.write(f"{line}\n")
            except OSError as error:
                self._fault = error.strerror or str(error)

    def close(self) -> None:
        """Close it, and say so if it is not complete."""
        try:
            self._file.close()
        except OSError as fault:
            self._fault = self._fault or fault.strerror or str(fault)
        if self._fault:
            display.notice(f"{self._path} is not complete: {self._fault}")


def _paths(name: str, value: str | list[str] | None) -> list[str]:
    paths = [value] if isinstance(value, str) else value or []
    return [each.partition("=")[2] for each in paths] if name == "inline" else paths


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _is_same(path: str, other: str) -> bool:
    """Whether two names are of one file; a device is as many files as one likes."""
    if Path(path).exists() and not Path(path).is_file():
        return False
    try:
        return Path(path).samefile(other)
    except OSError:
        return Path(path).resolve() == Path(other).resolve()
