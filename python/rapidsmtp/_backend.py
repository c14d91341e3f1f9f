"""The selection of the backend: compiled or pure-Python. No other module selects a backend.

The environment variable `RAPIDSMTP_CORE` is `rust`, `python` or `auto` (the default, also if it is
empty). `auto` selects the pure-Python backend only if the extension is not installed. If an
installed extension fails to load, `auto` raises an error and does not select the pure-Python
backend. Otherwise the only sign of the broken extension would be lower speed.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapidsmtp._native import *  # noqa: F403  (the interface of both backends)

implementation: str
engine_renders: bool  # whether the engine accepts pending messages and renders them itself

_MODULES = {"rust": "rapidsmtp._native", "python": "rapidsmtp._pure"}


def use(backend: str) -> None:
    """Bind this module's names to one backend of the core, `"rust"` or `"python"`.

    Raises:
        ModuleNotFoundError: The compiled backend is not installed.
        ImportError: The compiled backend is installed but fails to load.
    """
    global implementation, engine_renders
    module = import_module(_MODULES[backend])
    globals().update({name: getattr(module, name) for name in module.__all__})
    implementation, engine_renders = backend, backend == "rust"


def templates() -> Any:
    """Return the module of the selected backend that contains `Template` and `RecipientsList`."""
    pure = implementation == "python"  # the module of this backend needs Jinja2
    return import_module("rapidsmtp._compose.pure_template" if pure else "rapidsmtp._native")


def native(name: str) -> Any:
    """Return a class of the compiled backend; None if that backend is not installed."""
    try:
        return getattr(import_module("rapidsmtp._native"), name)
    except ModuleNotFoundError as error:
        if error.name == "rapidsmtp._native":
            return None
        raise


_choice = os.environ.get("RAPIDSMTP_CORE") or "auto"
if _choice not in ("auto", *_MODULES):
    raise ImportError(f"RAPIDSMTP_CORE is {_choice!r}: it must be auto, rust or python")
try:
    use("python" if _choice == "python" else "rust")
except ModuleNotFoundError as error:
    if _choice == "rust" or error.name != "rapidsmtp._native":
        raise
    use("python")
