"""The engine's requests to its owner: trace lines to write, and requests for the password.

The owner is the code that uses the engine. The engine's threads never call code of the owner.
Instead, they add requests to this queue, and the owner fetches the requests with `Engine.requests`.
While the queue holds `MAX_LINES` trace lines, each new line replaces the oldest line. The next call
of `Engine.requests` also returns a trace line with the number of dropped lines.
"""

import threading
import time
from collections import deque

MAX_LINES = 10_000
"""The maximum number of trace lines in the queue. Above this number, the oldest line is dropped."""


class RequestQueue:
    """The trace lines to write, the requests for the password, and the owner's answer."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._password_wanted = False
        self._one_at_a_time = threading.Lock()
        self._answer: tuple[str | None, str] | None = None
        self._closed = 0

    def add_trace(self, line: str) -> None:
        """Add a trace line."""
        with self._changed:
            self._lines.append(line)
            if len(self._lines) > MAX_LINES:
                self._lines.popleft()
                self._dropped += 1
            self._changed.notify_all()

    def take(self, wait: float) -> list[tuple[str, object]]:
        """Remove and return all requests.

        Args:
            wait: The maximum time to wait for the first request, in seconds.

        Returns:
            The requests, `("trace", line)` and `("password", None)`. Empty if no request arrived
            within `wait` seconds, or if the queue was closed during the wait.
        """
        deadline = time.monotonic() + wait
        with self._changed:
            closed = self._closed
            while not (self._lines or self._password_wanted) and closed == self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return []
                self._changed.wait(left)
            requests: list[tuple[str, object]] = []
            if self._dropped:
                requests.append(("trace", f"{self._dropped} lines of the trace were dropped"))
                self._dropped = 0
            requests += [("trace", line) for line in self._lines]
            self._lines.clear()
            if self._password_wanted:
                self._password_wanted = False
                requests.append(("password", None))
            return requests

    def ask_password(self, seconds: float) -> tuple[str | None, str]:
        """Request the password and wait for the answer.

        Args:
            seconds: The time limit, in seconds.

        Returns:
            The password and an empty text; after a failure, None and the reason.
        """
        deadline = time.monotonic() + seconds
        with self._one_at_a_time, self._changed:
            self._answer = None
            self._password_wanted = True
            self._changed.notify_all()
            while self._answer is None and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._password_wanted = False
            answer, self._answer = self._answer, None
            return answer or (None, "no answer in time")

    def answer_password(self, value: str | None, reason: str) -> None:
        """Answer the request for the password."""
        with self._changed:
            self._answer = (value, reason)
            self._changed.notify_all()

    def close(self) -> None:
        """Wake all waiting threads."""
        with self._changed:
            self._closed += 1
            self._changed.notify_all()
