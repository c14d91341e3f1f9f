"""`rapidsmtp run`: somebody's program, unchanged, with our classes in place of smtplib's."""

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import rapidsmtp
from rapidsmtp.cli.usage import Commands, UsageError, add_command


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "run",
        "run a script or module with rapidsmtp in place of smtplib",
        "rapidsmtp run newsletter.py --dry-run\n  rapidsmtp run -m mypackage.mailing",
    )
    parser.add_argument("--verify", action="store_true", help="TLS verifies certificates")
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is a module")
    parser.add_argument("script", metavar="SCRIPT")
    # Only for the help: `split` has taken them away.
    parser.add_argument("none", nargs=argparse.REMAINDER, metavar="...")
    parser.set_defaults(command=run)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take away what belongs to the script: argparse would keep a `--` of it for itself.

    Args:
        arguments: The command line, of whichever command.

    Returns:
        What is for us, and what stands behind the script's name.
    """
    ours = list(arguments)
    if ours[:1] != ["run"]:
        return ours, []
    end = 1
    while end < len(ours) and ours[end].startswith("-") and ours[end] != "--":
        end += 1
    end += ours[end : end + 1] == ["--"]
    return ours[: end + 1], ours[end + 1 :]


def run(options: argparse.Namespace) -> int:
    """Run it as Python itself would: `sys.argv`, `sys.path[0]`, `__main__`, and its exit."""
    script: str = options.script
    if not options.module and not Path(script).exists():
        raise UsageError(f"{script}: no such file")
    if not options.module and Path(script).is_dir() and not Path(script, "__main__.py").exists():
        raise UsageError(f"{script}: a folder without __main__.py")
    rapidsmtp.install(verify=options.verify)
    sys.argv = [script, *options.for_script]
    if options.module:
        sys.path[0] = str(Path.cwd())
        _find(script)
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(script).resolve().parent)
        runpy.run_path(script, run_name="__main__")
    return 0


def _find(module: str) -> None:
    """Tell a module that does not exist from one that fails while it runs."""
    from importlib.util import find_spec

    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise UsageError(f"no module named {module}")
