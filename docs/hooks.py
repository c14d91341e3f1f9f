"""Hooks of mkdocs that replace markers and private paths in the pages.

A marker in a page stands for a text that has its only source elsewhere. `<!-- help: send -->`
becomes the output of `rapidsmtp send --help`. This command runs in the source tree with the
pure-Python backend, so the build needs no wheel. `<!-- page: README.md -->` becomes the content of
README.md in the repository's root. A missing file or a failed command stops the build.

The reference shows the public path of an object, such as `rapidsmtp.Sender`, instead of the path of
its definition, `rapidsmtp._bulk.sender.Sender`.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_HELP = re.compile(r"^<!-- help:(.*)-->$", re.MULTILINE)
_PAGE = re.compile(r"^<!-- page: (\S+) -->$", re.MULTILINE)
_ROOT = Path(__file__).resolve().parent.parent
# The start of a link to docs/pages/ in a file of the repository's root. In the built documentation,
# this file is in the same folder as the pages, so the link must not contain docs/pages/.
_LINK = re.compile(r"\]\(docs/pages/")
_COLUMNS = "100"
# A dotted path that begins with a private module.
_PRIVATE = re.compile(r"\brapidsmtp\._\w+(?:\.\w+)+")


def _public_names() -> dict[str, str]:
    """Return a dict from private to public paths, for the objects that public packages import."""
    names = {}
    for package in ("rapidsmtp", "rapidsmtp.aio"):
        path = _ROOT.joinpath("python", *package.split("."), "__init__.py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names |= {
                    f"{node.module}.{each.name}": f"{package}.{each.name}" for each in node.names
                }
    return names


_PUBLIC = _public_names()


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of one page. mkdocs calls this function before it converts the page.

    Args:
        markdown: The text of the page.

    Returns:
        The text without markers.

    Raises:
        subprocess.CalledProcessError: The command of a marker failed.
        OSError: A marker names a file that does not exist.
    """
    markdown = _PAGE.sub(lambda found: _LINK.sub("](", (_ROOT / found[1]).read_text()), markdown)
    return _HELP.sub(lambda found: _help(found[1].split()), markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Replace private paths in the HTML of one page.

    mkdocs calls this function before it writes the page.

    Args:
        output: The HTML of the page.

    Returns:
        The HTML with public paths. A link and its anchor get the same path, so every link still
        has its target.
    """
    return _PRIVATE.sub(lambda found: _public(found[0]), output)


def _public(path: str) -> str:
    """Return the public path of an object.

    If the object has no public path, return its name without a module.
    """
    for known, public in _PUBLIC.items():
        if path == known or path.startswith(f"{known}."):
            return public + path[len(known) :]
    parts = path.split(".")
    names = [each for each in parts if not each.islower() and each.strip("_")]
    return ".".join(parts[parts.index(names[0]) :]) if names else path


def _help(command: list[str]) -> str:
    environment = {
        "PYTHONPATH": str(_ROOT / "python"),
        "RAPIDSMTP_CORE": "python",
        "COLUMNS": _COLUMNS,
    }
    done = subprocess.run(
        [sys.executable, "-m", "rapidsmtp", *command, "--help"],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    return f"```text\n{done.stdout.rstrip()}\n```"
