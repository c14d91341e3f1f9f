"""The output files of commands.

A command refuses to write to a file that it also reads. If writing a file fails during the sending,
the sending continues. Files with addresses, messages or dialogue are private: only their owner may
read them.
"""

import argparse
import contextlib
import os
from pathlib import Path
from typing import Any, TextIO

from rapidsmtp.cli import display
from rapidsmtp.cli.usage import UsageError

_PRIVATE_FILE = 0o600
_PRIVATE_FOLDER = 0o700
_WRITTEN = ("not_accepted", "output", "trace", "journal")
_READ = (
    "to",
    "exclude",
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
    """Raise an exception if an output file is also named by another option.

    Args:
        options: The options of `send`.

    Raises:
        UsageError: An output file is also named by another option.
    """
    known: list[tuple[str, str]] = []
    for name in (*_READ, *_WRITTEN):
        for path in _paths(name, getattr(options, name, None)):
            for other_name, other_path in known if name in _WRITTEN else []:
                if _is_same(path, other_path):
                    options_text = f"{option(name)} and {option(other_name)}"
                    raise UsageError(f"{options_text} name the same file, {path}; use another file")
            known.append((name, path))


def open_private(path: str | Path, mode: str, **options: Any) -> Any:
    """Open a file for writing, as `open` does. Only its owner may read and write a new file.

    Raises:
        OSError: The file cannot be opened for writing.
    """

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags, _PRIVATE_FILE)

    return open(path, mode, opener=opener, **options)


def replace_private(path: Path, overwrite: bool) -> Any:
    """Create a private binary file, and open it for writing.

    Args:
        path: The path of the file.
        overwrite: Whether to replace an existing file. A symbolic link is replaced and not
            followed, because it may point to a file of another person's choice.

    Raises:
        OSError: The file exists and `overwrite` is false, or the file cannot be created.
    """
    if overwrite:
        path.unlink(missing_ok=True)
    return open_private(path, "xb")


def make_private_folder(path: Path) -> None:
    """Create a folder that only its owner may enter, unless it exists.

    Raises:
        OSError: The folder cannot be created.
    """
    path.mkdir(_PRIVATE_FOLDER, parents=True, exist_ok=True)


def open_for_writing(path: str, name: str, *, private: bool) -> TextIO:
    """Open a file for writing, without removing its content. `truncate` removes the content.

    Args:
        path: The path of the file.
        name: The option that names the file, as the user typed it.
        private: Whether only the owner may read a new file.

    Raises:
        UsageError: The file cannot be opened for writing.
    """
    try:
        if private:
            file: TextIO = open_private(path, "a", encoding="utf-8", buffering=1)
            return file
        return Path(path).open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UsageError(f"{name} {path}: {error.strerror}") from None


def truncate(file: TextIO) -> TextIO:
    """Remove the previous content of a file, and return the file."""
    # A pipe or a terminal cannot be truncated, and has no previous content.
    with contextlib.suppress(OSError):
        file.truncate(0)
    return file


def option(name: str) -> str:
    """Return the option for an attribute name, such as "--dry-run" for "dry_run"."""
    return f"--{name.replace('_', '-')}"


class TraceFile:
    """The file of `--trace`.

    Args:
        path: The path of the file. The constructor opens the file, and `begin` removes its previous
            content.

    Raises:
        UsageError: The file cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path, self._error = path, ""
        self._file = open_for_writing(path, "--trace", private=True)

    def begin(self) -> None:
        """Remove the previous content of the file."""
        truncate(self._file)

    def __call__(self, line: str) -> None:
        """Write a line. If an earlier write failed, do nothing."""
        if not self._error:
            try:
                self._file.write(f"{line}\n")
            except OSError as error:
                self._error = error.strerror or str(error)

    def close(self) -> None:
        """Close the file, and print a notice if lines are missing."""
        try:
            self._file.close()
        except OSError as error:
            self._error = self._error or error.strerror or str(error)
        if self._error:
            display.notice(f"--trace {self._path} is incomplete: {self._error}")


def _paths(name: str, value: str | list[str] | None) -> list[str]:
    paths = [value] if isinstance(value, str) else value or []
    return [each.partition("=")[2] for each in paths] if name == "inline" else paths


def _is_same(path: str, other: str) -> bool:
    """Return whether two paths name the same regular file.

    The result is false for devices and pipes, because two options may write to the same device or
    pipe.
    """
    if Path(path).exists() and not Path(path).is_file():
        return False
    try:
        return Path(path).samefile(other)
    except OSError:
        return Path(path).resolve() == Path(other).resolve()
