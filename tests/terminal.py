"""A command that runs on a terminal of 80 columns."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Callable

import processes
from commandline import MAIN, Command

ESCAPE = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
# Only a controlling terminal turns the character Ctrl-C into SIGINT.
CONTROLLING = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"""


class Terminal:
    """A command that runs on a new terminal.

    Args:
        command: The command line.
        arguments: The arguments of the command.
        prepare: Python code that the process executes before the command.
        environment: Additional environment variables.
    """

    def __init__(
        self, command: Command, *arguments: str, prepare: str = "", **environment: str
    ) -> None:
        self.text = ""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
        clean = {k: v for k, v in command.environment.items() if k not in ("NO_COLOR", "COLUMNS")}
        self._process = processes.start(
            [sys.executable, "-c", f"{CONTROLLING}\n{prepare}\n{MAIN}", *arguments],
            cwd=command.directory,
            env={**clean, "TERM": "xterm-256color", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def read(self, until: Callable[[str], bool] = lambda text: False) -> str:
        """Read until the condition is true or the command ends, and return the text so far."""
        deadline = time.monotonic() + 60
        while not until(self.text) and time.monotonic() < deadline:
            if not select.select([self._master], [], [], 1)[0]:
                continue
            try:
                data = os.read(self._master, 65536)
            except OSError:
                # On Linux, this error means that the other side of the terminal is closed.
                break
            if not data:
                break
            self.text += data.decode("utf-8", "replace")
        return self.text

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def end(self) -> int:
        """Read the output until its end, and wait for the end of the command.

        Returns:
            The exit status.
        """
        self.read()
        status = self._process.wait(60)
        os.close(self._master)
        return status

    def hang_up(self) -> int:
        """Close the terminal, so that the command gets SIGHUP, and wait for the end of the command.

        Returns:
            The exit status.
        """
        os.close(self._master)
        return self._process.wait(60)


def lines_of(text: str) -> list[str]:
    """Return the lines that a terminal shows for a text."""
    return [line.split("\r")[-1] for line in ESCAPE.sub("", text).split("\r\n")]
