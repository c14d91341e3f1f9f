"""The command `rapidsmtp`: one module for each of its commands."""

import argparse
import io
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO, cast

import rapidsmtp
from rapidsmtp.cli import bench, demo, display, run, send, sink
from rapidsmtp.cli.usage import INTERRUPTED, NOT_ALL_ACCEPTED, USAGE, UsageError
from rapidsmtp.errors import RelayError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other fault of the input is said."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line, without the program's name; `sys.argv` by default.

    Returns:
        The exit status.
    """
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no letter may keep the report from being told
            stream.reconfigure(errors="backslashreplace")
    # What a script of the user's raises under `run` is the script's.
    is_ours = True
    try:
        ours, theirs = run.split(sys.argv[1:] if arguments is None else arguments)
        options = _parser().parse_args(ours, argparse.Namespace(for_script=theirs))
        is_ours = options.command is not run.run
        status: int = options.command(options)
        if is_ours:
            sys.stdout.flush()
    except UsageError as error:
        display.notice(str(error))
        return USAGE
    except (RelayError, KeyboardInterrupt, OSError) as error:
        if not is_ours:
            raise
        return _ended_by(error)
    return status


def _ended_by(error: BaseException) -> int:
    """Say what has ended a command; the exit status."""
    if isinstance(error, RelayError):
        display.notice(str(error))
        return USAGE
    if isinstance(error, KeyboardInterrupt):
        # Before anything was sent: `send` and `demo` report what they have done by themselves.
        display.notice("interrupted")
        return INTERRUPTED
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        display.notice(f"the report could not be written: {error.strerror or error}")
    # Whoever read our output has seen enough; Python would complain once more at its exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return NOT_ALL_ACCEPTED


def _open_standard_streams() -> None:
    """A stream that was closed before we began is one that nobody reads, and nothing is in."""
    sys.stdin = sys.stdin or _nothing("r")
    sys.stdout = sys.stdout or _nothing("w")
    sys.stderr = sys.stderr or _nothing("w")


def _nothing(mode: str) -> TextIO:
    return cast(TextIO, Path(os.devnull).open(mode, encoding="utf-8"))


def _version() -> str:
    return (
        f"rapidsmtp {rapidsmtp.__version__} ({rapidsmtp.implementation} half), "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rapidsmtp",
        description="Sends mail at the speed of the wire.",
        epilog="Each command has a --help of its own, with an example.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (send, demo, bench, run, sink):
        module.register(commands)
    return parser
