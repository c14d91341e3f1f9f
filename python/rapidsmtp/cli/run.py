"""`rapidsmtp run`: run an unchanged program with rapidsmtp's classes instead of smtplib's."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import rapidsmtp
from rapidsmtp._smtp.state import REUSE_SECONDS, reuse_seconds
from rapidsmtp.cli.usage import Commands, UsageError, add_command


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "run",
        "run a script or module with rapidsmtp instead of smtplib",
        "rapidsmtp run newsletter.py --dry-run\n  rapidsmtp run --reuse -m mypackage.mailing",
    )
    parser.add_argument(
        "--verify", action="store_true", help="verify TLS certificates; smtplib does not"
    )
    parser.add_argument(
        "--reuse",
        metavar="SECONDS",
        type=_seconds,
        help=(
            "keep the connections that the program quits, and reuse each for the next client with "
            "the same steps; =SECONDS is the maximum idle time (default: 30)"
        ),
    )
    parser.add_argument(
        "-m", dest="module", action="store_true", help="SCRIPT is the name of a module"
    )
    parser.add_argument("script", metavar="SCRIPT", help="a Python file or a directory")
    # argparse never receives the script's arguments, because `split` removes them. This argument
    # only adds a line to the help text.
    parser.add_argument(
        "none", nargs=argparse.REMAINDER, metavar="...", help="arguments of the script"
    )
    parser.set_defaults(command=run)


def _seconds(text: str) -> float:
    try:
        return reuse_seconds(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds between 0 and 1,000,000"
        ) from None


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the arguments of rapidsmtp from the arguments of the script.

    argparse cannot separate these arguments, because it would remove a `--` from the arguments of
    the script.

    Args:
        arguments: The command line, without the program's name. It may contain any command.

    Returns:
        The arguments up to the script's name, and the arguments after this name. For a command
        other than `run`, the second list is empty.
    """
    own = list(arguments)
    if own[:1] != ["run"]:
        return own, []
    end = 1
    while end < len(own) and own[end].startswith("-") and own[end] != "--":
        # Without a value, `--reuse` would take the name of the script as its value.
        own[end] = f"--reuse={REUSE_SECONDS:g}" if own[end] == "--reuse" else own[end]
        end += 1
    end += own[end : end + 1] == ["--"]
    return own[: end + 1], own[end + 1 :]


def run(options: argparse.Namespace) -> int:
    """Run the script as `python SCRIPT` would run it.

    `sys.argv`, `sys.path[0]` and `__main__` have the values that they would have without `rapidsmtp
    run`. Exceptions of the script are not caught.

    Raises:
        UsageError: The script or module does not exist.
    """
    import runpy  # imported here, because --help does not need it

    script: str = options.script
    if not options.module and not Path(script).exists():
        raise UsageError(f"{script}: no such file")
    if not options.module and Path(script).is_dir() and not Path(script, "__main__.py").exists():
        raise UsageError(f"{script}: a directory without __main__.py cannot be run")
    rapidsmtp.install(verify=options.verify, reuse=options.reuse)
    sys.argv = [script, *options.for_script]
    if options.module:
        sys.path[0] = str(Path.cwd())
        _check_exists(script)
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(script).resolve().parent)
        runpy.run_path(script, run_name="__main__")
    return 0


def _check_exists(module: str) -> None:
    """Raise UsageError if a module does not exist.

    So an ImportError after this check comes from the module's own code, and is not reported as a
    missing module.
    """
    from importlib.util import find_spec

    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise UsageError(f"no module named {module}")
