"""Call a function each second while a command sends."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

_INTERVAL = 1.0


@contextlib.contextmanager
def each_second(look: Callable[[float], None]) -> Iterator[None]:
    """Call a function each second in a thread, until the `with` block ends.

    Args:
        look: The function. Its argument is the time, in seconds of a clock that never jumps.
    """
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(_INTERVAL):
            look(time.monotonic())

    thread = threading.Thread(target=run, name="rapidsmtp progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
