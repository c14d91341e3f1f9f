"""The command `rapidsmtp`.

`send`, `campaign`, `bench` and `demo` declare their options in modules named `arguments`, which
import few other modules. The other modules of a command are imported when the command runs. So
`--help` and errors in options are fast: the modules of `Sender` and `Template` are not loaded.
"""

import argparse
import io
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

import rapidsmtp
from rapidsmtp import _backend
from rapidsmtp.cli import display, run, sink
from rapidsmtp.cli.bench import arguments as bench_arguments
from rapidsmtp.cli.campaign import arguments as campaign_arguments
from rapidsmtp.cli.send import arguments as send_arguments
from rapidsmtp.cli.usage import (
    INTERRUPTED,
    NOT_ALL_ACCEPTED,
    USAGE,
    Ended,
    UsageError,
    error_line,
    name_options,
)
from rapidsmtp.errors import RelayError

_NO_COMMAND = (
    "no command given; use send, campaign, demo, bench, run or sink (see rapidsmtp --help)"
)


class _Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        message = message.replace("argument -", "-", 1)  # shows the option as the user typed it
        raise UsageError(f"{message} (see {self.prog} --help)")


class _VersionAction(argparse.Action):
    """The action of `--version`. It builds the version text only when the option is given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        display.show(_version())
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name. None means `sys.argv[1:]`.

    Returns:
        The exit status.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the stream cannot encode is written as an escape, so that no report
            # ends with an error.
            stream.reconfigure(errors="backslashreplace")
    runs_script = False
    try:
        own, for_script = run.split(sys.argv[1:] if arguments is None else arguments)
        parser = _parser()
        options, unknown = parser.parse_known_args(own, argparse.Namespace(for_script=for_script))
        if unknown:
            parser.prog = options.prog or parser.prog
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        if options.command is None:
            raise UsageError(_NO_COMMAND)
        runs_script = options.command is run.run
        status: int = options.command(options)
        if not runs_script:
            sys.stdout.flush()
    except UsageError as error:
        display.notice(name_options(str(error)))
        return USAGE
    except (RelayError, KeyboardInterrupt, OSError) as error:
        if runs_script:  # the exception belongs to the script: Python prints its traceback
            raise
        return _report_error(error)
    finally:
        if not runs_script:
            display.discard_output()
    return status


def _report_error(error: BaseException) -> int:
    """Print the error that ended a command, and return the exit status."""
    if isinstance(error, RelayError):
        display.notice(error_line(error))
        return USAGE
    if isinstance(error, KeyboardInterrupt):
        # Ctrl-C or another signal before the command started to send. While a command sends, it
        # handles signals itself.
        display.notice(str(error) or "interrupted")
        return error.status if isinstance(error, Ended) else INTERRUPTED
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        display.notice(f"writing the report failed: {error.strerror or error}")
    return NOT_ALL_ACCEPTED


def _open_closed_streams() -> None:
    """Open /dev/null as each standard stream that was closed when the process started."""
    sys.stdin = sys.stdin or _null_stream("r")
    sys.stdout = sys.stdout or _null_stream("w")
    sys.stderr = sys.stderr or _null_stream("w")


def _null_stream(mode: str) -> TextIO:
    return cast(TextIO, Path(os.devnull).open(mode, encoding="utf-8"))


def _version() -> str:
    return (
        f"rapidsmtp {rapidsmtp.__version__} ({_backend.implementation} backend), "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="rapidsmtp",
        description="Send mail over SMTP, quickly.",
        epilog="`rapidsmtp COMMAND --help` describes a command and shows an example.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=_VersionAction, nargs=0, help="print the version and the backend"
    )
    parser.set_defaults(command=None, prog=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    send_arguments.register(commands)
    campaign_arguments.register(commands)
    bench_arguments.register_demo(commands)
    bench_arguments.register_bench(commands)
    run.register(commands)
    sink.register(commands)
    return parser
