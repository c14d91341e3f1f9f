"""What an engine wants of its face: lines of the trace shown, and a password.

The threads of an engine call nobody's code: they leave word here, and the face comes for it. A
trace that nobody fetches is cut at its old end, and says so.
"""

import threading
import time
from collections import deque

MAX_LINES = 10_000
"""Lines of the trace that are kept."""


class Attention:
    """Words from the engine's threads to the face, and one answer back."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._asks = False
        self._asking = threading.Lock()
        self._answer: tuple[str | None, str] | None = None
        self._closed = 0

    def tell(self, line: str) -> None:
        """Leave a line of the trace."""
        with self._changed:
            self._lines.append(line)
            if len(self._lines) > MAX_LINES:
                self._lines.popleft()
                self._dropped += 1
            self._changed.notify_all()

    def attend(self, wait: float) -> list[tuple[str, object]]:
        """Take all that there is.

        Args:
            wait: seconds to wait for something.
        """
        deadline = time.monotonic() + wait
        with self._changed:
            closed = self._closed
            while not (self._lines or self._asks) and closed == self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return []
                self._changed.wait(left)
            wanted: list[tuple[str, object]] = []
            if self._dropped:
                wanted.append(("trace", f"({self._dropped} lines of the trace were dropped)"))
                self._dropped = 0
            wanted += [("trace", line) for line in self._lines]
            self._lines.clear()
            if self._asks:
                self._asks = False
                wanted.append(("password", None))
            return wanted

    def ask(self, seconds: float) -> tuple[str | None, str]:
        """Ask the face for the password, and wait.

        Args:
            seconds: the time limit.

        Returns:
            The password, or None and the reason.
        """
        deadline = time.monotonic() + seconds
        with self._asking, self._changed:
            self._answer = None
            self._asks = True
            self._changed.notify_all()
            while self._answer is None and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._asks = False
            answer, self._answer = self._answer, None
            return answer or (None, "nobody gave it")

    def answer(self, value: str | None, reason: str) -> None:
        """The face's answer."""
        with self._changed:
            self._answer = (value, reason)
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any longer."""
        with self._changed:
            self._closed += 1
            self._changed.notify_all()
