"""The signals that end `rapidsmtp send`: Ctrl-C (SIGINT), SIGTERM and SIGHUP.

While messages are sent, a signal closes the sender, so every message still gets its outcome and the
report is complete. Before the sending, a signal raises `Ended`. After the sending, the first
SIGTERM or SIGHUP does not interrupt the report. Ctrl-C and further signals raise `Ended`.
"""

import contextlib
import queue
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from rapidsmtp.cli.usage import Ended

GRACE = 0.6
"""The time to wait for replies to messages in flight after a signal, in seconds.

Without this wait, more outcomes would be "unknown". A signal must end the command within one
second. The rest of this second is for the report.
"""

# Windows has no SIGHUP.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_SIGNALS = {getattr(signal, name): name for name in _NAMES if hasattr(signal, name)}
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class _Closable(Protocol):
    def close(self, timeout: float | None = None) -> object: ...


class EndSignals:
    """A context manager that handles the signals until its `with` block ends.

    It replaces only the default handlers. A signal that was ignored at the start (`nohup`, a
    background job) stays ignored. In threads other than the main thread, it does nothing.

    Attributes:
        ended: The first signal during the sending, or None.
    """

    def __init__(self) -> None:
        self.ended: Ended | None = None
        self._previous: dict[int, Any] = {}
        self._sending = self._has_sent = self._came_late = False
        # The signal handler `_handle` calls `put`, and may interrupt another call of `put` in the
        # same thread. So the queue is a `SimpleQueue`, whose `put` is reentrant.
        self._requests: queue.SimpleQueue[float | None] = queue.SimpleQueue()

    def __enter__(self) -> "EndSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) in _DEFAULTS:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def closing(self, sender: _Closable) -> Iterator[None]:
        """Close the sender at a signal until the `with` block ends, and raise no exception.

        After the first signal, the sender waits `GRACE` seconds for the replies to messages in
        flight. After the second signal, the sender does not wait.
        """

        def close() -> None:
            while (timeout := self._requests.get()) is not None:
                threading.Thread(target=sender.close, args=[timeout], daemon=True).start()

        if not self._previous:
            yield
            return
        threading.Thread(target=close, name="rapidsmtp signals", daemon=True).start()
        self._sending = True
        try:
            yield
        finally:
            self._sending, self._has_sent = False, True
            self._requests.put(None)

    def _handle(self, number: int, _: object) -> None:
        found = Ended(number, _SIGNALS[number])
        if self._sending:
            self._requests.put(GRACE if self.ended is None else 0.0)
            self.ended = self.ended or found
        elif number == signal.SIGINT or not self._has_sent or self._came_late:
            raise found
        else:
            # The end of a login session sends several signals within a short time.
            self._came_late = True
