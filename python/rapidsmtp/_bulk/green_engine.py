"""The compiled engine for programs with the green threads of gevent or eventlet.

gevent and eventlet run many green threads in one thread of the system. A function that blocks this
thread blocks all of them. The relay may even be a green thread of the same thread, and then a
blocking wait for its reply never ends. gevent and eventlet replace functions of the standard
library, so that these functions run other green threads while they wait. The pure-Python engine
waits only in such functions.

The threads of the compiled engine are threads of the system, and no green thread runs in them. Only
the methods that wait would block the green threads of the caller. Here, these methods never wait in
the engine. They ask the engine repeatedly, and let other green threads run between the questions.
Such a question takes about a microsecond.

The alternative would be a thread of the system for each wait. The hub of gevent has ten of these
threads, and uses them for DNS queries too. So ten green threads that wait for relays would block
the others.
"""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rapidsmtp import _backend

if TYPE_CHECKING:
    from rapidsmtp._backend import Engine, GrantedRows

T = TypeVar("T")

# The modules that gevent and eventlet replace for green threads, unless the program excludes some.
_REPLACED = ("socket", "thread", "time")
# The first and the longest pause between two questions, in seconds. Each pause is twice as long as
# the pause before it. So a fast reply is noticed at once, and many long waits need little CPU time.
_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.02
# The time that `close` waits longer than its limit, in seconds, because the engine's thread may be
# late on a busy machine.
_LATE = 1.0


def adapted(engine: "Engine") -> "Engine":
    """Return an engine whose methods run other green threads while they wait.

    Args:
        engine: The engine. It is returned itself if the program uses no green threads, or if it is
            the pure-Python engine. That engine waits only in functions of the standard library.
    """
    if _backend.implementation == "python" or green_sleep() is None:
        return engine
    return cast("Engine", GreenEngine(engine))


class GreenEngine:
    """The compiled engine, with methods that do not block green threads.

    Args:
        engine: The compiled engine.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, outbox: int, messages: list[Any], wait: float) -> int:
        """Submit messages, as `Engine.submit` does."""
        # The engine's method also returns if an outcome can be taken while the queue is full. This
        # method does not detect this case, so it waits for a short time only. Each caller repeats
        # the call.
        attempt = self._engine.submit
        return self._wait(lambda: attempt(outbox, messages, 0.0), min(wait, _LONGEST_PAUSE))

    def take(self, outbox: int, into: list[Any], limit: int, wait: float) -> int:
        """Take finished messages, as `Engine.take` does."""
        self._sleep(0.0)  # the caller may repeat calls that never wait, if outcomes arrive quickly
        attempt = self._engine.take
        return self._wait(lambda: attempt(outbox, into, limit, 0.0), wait)

    def submit_rows(self, outbox: int, rows: "GrantedRows", limit: int, wait: float) -> int:
        """Submit rows, as `Engine.submit_rows` does."""
        attempt = self._engine.submit_rows
        return self._wait(lambda: attempt(outbox, rows, limit, 0.0), min(wait, _LONGEST_PAUSE))

    def take_outcomes(
        self, outbox: int, into: list[Any], limit: int, wait: float, at_least: int = 1
    ) -> int:
        """Take outcomes as tuples, as `Engine.take_outcomes` does, but wait only for the first."""
        self._sleep(0.0)  # as in `take`
        attempt = self._engine.take_outcomes
        return self._wait(lambda: attempt(outbox, into, limit, 0.0), wait)

    def requests(self, wait: float) -> list[tuple[str, str | None]]:
        """Return the new requests, as `Engine.requests` does."""
        self._sleep(0.0)  # as in `take`
        return self._wait(lambda: self._engine.requests(0.0), wait)

    def close(self, wait: float | None, drained: bool = True) -> None:
        """Close the engine, as `Engine.close` does."""
        self._engine.begin_close(wait, drained)
        self._wait(self._engine.is_ended, float("inf") if wait is None else wait + _LATE)

    def _wait(self, attempt: Callable[[], T], seconds: float) -> T:
        """Repeat an attempt until its result is true, the engine has ended or the time is over."""
        deadline = time.monotonic() + seconds
        pause = _FIRST_PAUSE
        while True:
            is_ended = self._engine.is_ended()
            result = attempt()
            left = deadline - time.monotonic()
            if result or is_ended or left <= 0:
                return result
            self._sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _sleep(self, seconds: float) -> None:
        (green_sleep() or time.sleep)(seconds)


def green_sleep() -> Callable[[float], object] | None:
    """Return the function that runs other green threads for a time in seconds.

    Returns:
        The function; None if the program has not activated the green threads of gevent or eventlet.
    """
    # This package never imports gevent or eventlet. If the program uses one of them, the program
    # has imported it.
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None and any(map(monkey.is_module_patched, _REPLACED)):
        return _sleep_of("gevent")
    patcher: Any = sys.modules.get("eventlet.patcher")
    if patcher is not None and any(map(patcher.is_monkey_patched, _REPLACED)):
        return _sleep_of("eventlet")
    return None


def _sleep_of(name: str) -> Callable[[float], object]:
    sleep: Callable[[float], object] = sys.modules[name].sleep
    return sleep
