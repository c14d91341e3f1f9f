"""Find the interpreters for the tests: each CPython from 3.11 on this machine.

An interpreter is suitable if it runs, can create a virtual environment, and has CPython's
`test.test_smtplib`. The tests of the drop-in need that module, and distributions often omit it. The
newest patch release of each minor version is chosen. The paths go to standard output, one on a
line. The choices and their reasons go to standard error. If no interpreter has
`test.test_smtplib`, the interpreter that runs this file is chosen, so that all other tests still
run.

This file must also run on an old `python3`, so it uses the syntax of Python 3.7.
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

# Each candidate interpreter runs this program. In a virtual environment, the program reports the
# interpreter that created the environment.
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
    """An interpreter that can run."""

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
        """The reason why the interpreter is unsuitable for the tests; empty if it is suitable."""
        if self.name != "cpython":
            return f"it is {self.name}, not CPython"
        if self.minor < OLDEST:
            return "older than {}.{}".format(*OLDEST)
        if self.free_threaded:
            return "free-threaded: the abi3 wheel does not support it"
        return f"it cannot create a virtual environment ({self.no_venv})" if self.no_venv else ""

    def __str__(self) -> str:
        return "{} {}".format(".".join(map(str, self.version)), self.path)


def candidates() -> Iterator[Path]:
    """Yield each file on this machine whose name and folder may be those of a Python 3."""
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
    """Run a candidate and return its properties, or None if it does not run (like some shims)."""
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
        found = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    found["version"] = tuple(found["version"])
    return Interpreter(**found)


def found() -> list[Interpreter]:
    """Return each interpreter on this machine once, even if it has several names."""
    by_path: dict[str, Interpreter] = {}
    asked: set[str] = set()
    for candidate in candidates():
        # Skip a candidate that is a link to an interpreter that has already run. A shim is not a
        # link to an interpreter, so it is not skipped.
        if str(candidate) in asked or os.path.realpath(str(candidate)) in by_path:
            continue
        asked.add(str(candidate))
        interpreter = ask(candidate)
        if interpreter:
            by_path.setdefault(interpreter.path, interpreter)
    return list(by_path.values())


def newest_of_each_minor(interpreters: list[Interpreter]) -> list[Interpreter]:
    """Return the newest patch release of each minor version.

    A final release takes precedence over a pre-release.
    """
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
        print(f"not tested on {each}: {reason or 'a newer patch exists'}", file=sys.stderr)
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
