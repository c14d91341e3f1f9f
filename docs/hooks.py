"""The page of the command line: what `--help` says, of each command, in the place of a marker.

The marker is a line `<!-- help: send -->`. The pure half is asked, out of the source tree, so that
nothing has to be built; a command that is not there ends the build.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_MARKER = re.compile(r"^<!-- help:(.*)-->$", re.MULTILINE)
_SOURCE = Path(__file__).resolve().parent.parent / "python"
_COLUMNS = "100"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page, before it becomes HTML.

    Args:
        markdown: the page's text.

    Returns:
        The text with each marker replaced.

    Raises:
        subprocess.CalledProcessError: there is no such command.
    """
    return _MARKER.sub(lambda found: _help(found[1].split()), markdown)


def _help(command: list[str]) -> str:
    environment = {"PYTHONPATH": str(_SOURCE), "RAPIDSMTP_CORE": "python", "COLUMNS": _COLUMNS}
    done = subprocess.run(
        [sys.executable, "-m", "rapidsmtp", *command, "--help"],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    return f"```text\n{done.stdout.rstrip()}\n```"
