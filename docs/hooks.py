"""Pages that are written elsewhere, so that each thing is said once.

`<!-- help: send -->` becomes what `rapidsmtp send --help` says: the pure half is asked, out of the
source tree, so that nothing has to be built. `<!-- page: README.md -->` becomes that file of the
repository's top. What is not there ends the build.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_HELP = re.compile(r"^<!-- help:(.*)-->$", re.MULTILINE)
_PAGE = re.compile(r"^<!-- page: (\S+) -->$", re.MULTILINE)
_TOP = Path(__file__).resolve().parent.parent
# The top's links to pages, which are beside each other here.
_LINK = re.compile(r"\]\(docs/pages/")
_COLUMNS = "100"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page, before it becomes HTML.

    Args:
        markdown: the page's text.

    Returns:
        The text with each marker replaced.

    Raises:
        subprocess.CalledProcessError: there is no such command.
        OSError: there is no such file.
    """
    markdown = _PAGE.sub(lambda found: _LINK.sub("](", (_TOP / found[1]).read_text()), markdown)
    return _HELP.sub(lambda found: _help(found[1].split()), markdown)


def _help(command: list[str]) -> str:
    environment = {
        "PYTHONPATH": str(_TOP / "python"),
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
