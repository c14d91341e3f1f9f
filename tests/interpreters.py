"""Find the interpreters that the tests run on: every CPython from 3.11 up on this machine.

One is suitable if it runs, can make a virtual environment, and has CPython's own
`test.test_smtplib` (distributions often leave it out), which the drop-in is judged by. Of each
minor version the newest patch is taken. The paths go to standard output, one a line; what was
taken or left, and why, to standard error. Where none has that test, the interpreter that runs
this file is taken, so that all the other tests still run.

This file also has to run on an old `python3`, so it keeps to what Python 3.7 understands.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OLDEST = (3, 11)
SECONDS_TO_ANSWER = 20

# Run by each candidate. A virtual environment answers with the interpreter that it was made of.
QUESTION = """
import importlib, json, os, sys, sysconfig
def lacks(name):
    try:
        importlib.import_module(name)
    except Exception as error:
        return "%s: %s" % (type(error).__name__, error)
    return ""
base = os.path.join(sys.base_prefix, "bin", "python%d.%d" % sys.version_info[:2])
print(json.dumps({
    "path": os.path.realpath(base if os.access(base, os.X_OK) else sys.executable),
    "version": sys.version_info[:3],
    "final": sys.version_info[3] == "final",
    "name": sys.implementation.name,
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "no_venv": lacks("ensurepip") or lacks("venv"),
    "no_tests": lacks("test.test_smtplib") if sys.version_info >= (3, 11) else "too old",
}))
"""


class Interpreter(NamedTuple):
    """An interpreter that answered."""

    path: str
    version: tuple[int, ...]
    final: bool
    name: str
    free_threaded: bool
    no_venv: str
    no_tests: str

    @property
    def minor(self) -> tuple[int, ...]:
        return self.version[:2]

    @property
    def unusable(self) -> str:
        """Why nothing of ours can be tested on it, or an empty string."""
        if self.name != "cpython":
            return f"it is {self.name}, not CPython"
        if self.minor < OLDEST:
            return "older than {}.{}".format(*OLDEST)
        if self.free_threaded:
            return "free-threaded: the abi3 wheel does not fit it"
        return f"it makes no virtual environment ({self.no_venv})" if self.no_venv else ""

    def __str__(self) -> str:
        return "{} {}".format(".".join(map(str, self.version)), self.path)


def candidates() -> Iterator[Path]:
    """Every file on this machine that by its name and place may be a Python 3."""
    yield Path(sys.executable)
    home = Path("~").expanduser()
    managers = [Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"]
    managers += [home / ".local/share/uv/python", Path("/opt"), Path("/opt/python")]
    folders = [Path(folder) for folder in os.get_exec_path() if folder]
    folders += [Path("/usr/bin"), Path("/usr/local/bin")]
    folders += [bin for manager in managers for bin in sorted(manager.glob("*/bin"))]
    for folder in folders:
        yield folder / "python3"
        yield from sorted(folder.glob("python3.[0-9]*"))


def ask(candidate: Path) -> Interpreter | None:
    """What the candidate says of itself; None if it does not run (a shim with nothing behind)."""
    if candidate.name.endswith("-config") or not os.access(str(candidate), os.X_OK):
        return None
    try:
        answer = subprocess.run(
            [str(candidate), "-I", "-W", "ignore", "-c", QUESTION],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS_TO_ANSWER,
            check=True,
        )
        said = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    said["version"] = tuple(said["version"])
    return Interpreter(**said)


def found() -> list[Interpreter]:
    """Each interpreter on this machine once, however many names lead to it."""
    by_path: dict[str, Interpreter] = {}
    asked: set[str] = set()
    for candidate in candidates():
        # Links to one file are asked once; shims, and links of virtual environments, each.
        if str(candidate) in asked or os.path.realpath(str(candidate)) in by_path:
            continue
        asked.add(str(candidate))
        interpreter = ask(candidate)
        if interpreter:
            by_path.setdefault(interpreter.path, interpreter)
    return list(by_path.values())


def newest_of_each_minor(interpreters: list[Interpreter]) -> list[Interpreter]:
    """The newest patch of each minor version, a final release before a release candidate."""
    newest: dict[tuple[int, ...], Interpreter] = {}
    for interpreter in sorted(interpreters, key=lambda each: (each.final, each.version)):
        newest[interpreter.minor] = interpreter
    return [newest[minor] for minor in sorted(newest)]


def main() -> int:
    everything = found()
    suitable = [each for each in everything if not each.unusable and not each.no_tests]
    chosen = newest_of_each_minor(suitable)
    for each in sorted(everything, key=lambda each: each.version):
        if each.minor < OLDEST or each in chosen:
            continue
        reason = each.unusable or (each.no_tests and f"no test.test_smtplib ({each.no_tests})")
        print(f"not tested on {each}: {reason or 'a newer patch is here'}", file=sys.stderr)
    if not chosen:
        own = ask(Path(sys.executable))
        if own is None or own.unusable:
            reason = own.unusable if own else "it does not run"
            print(f"no interpreter to test on: {sys.executable}: {reason}", file=sys.stderr)
            return 1
        print("no interpreter has test.test_smtplib: its tests are skipped", file=sys.stderr)
        chosen = [own]
    for each in chosen:
        print(f"testing on CPython {each}", file=sys.stderr)
        print(each.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
