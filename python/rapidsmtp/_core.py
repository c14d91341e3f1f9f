"""The chooser: binds the core's names to its compiled half or to its twin.

The environment variable `RAPIDSMTP_CORE` says which: `auto` (the default: compiled where it is
installed, else the twin), `rust` or `python`. Only an absent extension selects the twin: one that
is there and fails to load is an error, never a reason to go on slowly and in silence.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from rapidsmtp import _pure

if TYPE_CHECKING:
    from rapidsmtp._native import CsvLines as CsvLines
    from rapidsmtp._native import Signer as Signer
    from rapidsmtp._native import Sink as Sink
    from rapidsmtp._native import Template as Template
    from rapidsmtp._pure import *  # noqa: F403  (the interface, for type checkers)

implementation: str


def use(half: str) -> None:
    """Bind this module's names to one half of the core, `"rust"` or `"python"`.

    Raises:
        ModuleNotFoundError: the compiled half is not installed.
        ImportError: the compiled half is installed and broken.
    """
    global implementation
    module = importlib.import_module("rapidsmtp._native") if half == "rust" else _pure
    globals().update({name: getattr(module, name) for name in _pure.__all__})
    implementation = half


def native(name: str) -> Any:
    """What only the compiled half has; `None` where only the pure half is installed."""
    try:
        return getattr(importlib.import_module("rapidsmtp._native"), name)
    except ModuleNotFoundError as error:
        if error.name == "rapidsmtp._native":
            return None
        raise


def _choose() -> None:
    choice = os.environ.get("RAPIDSMTP_CORE", "auto")
    if choice not in ("auto", "rust", "python"):
        raise ImportError(f"RAPIDSMTP_CORE is {choice!r}: it must be auto, rust or python")
    try:
        use("python" if choice == "python" else "rust")
    except ModuleNotFoundError as error:
        if choice == "rust" or error.name != "rapidsmtp._native":
            raise
        use("python")


_choose()
