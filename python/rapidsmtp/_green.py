"""Green threads: gevent and eventlet run many of them in one thread of the system.

A function that blocks the thread of the system blocks all green threads. The relay may even be a
green thread of the same thread, and then a blocking wait for its reply never ends. gevent and
eventlet replace functions of the standard library so that they run other green threads while they
wait ("monkey patching"). Waits outside the standard library must do the same with `green_sleep`.
"""

import sys
from collections.abc import Callable
from typing import Any

_MODULES = ("socket", "thread", "time")


def green_sleep() -> Callable[[float], object] | None:
    """Return the function that runs other green threads for a time in seconds.

    Returns:
        The function; None if the program has not activated the green threads of gevent or eventlet.
    """
    # This package never imports gevent or eventlet. If the program uses one of them, the program
    # has imported it.
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None and any(map(monkey.is_module_patched, _MODULES)):
        return _sleep_of("gevent")
    patcher: Any = sys.modules.get("eventlet.patcher")
    if patcher is not None and any(map(patcher.is_monkey_patched, _MODULES)):
        return _sleep_of("eventlet")
    return None


def _sleep_of(name: str) -> Callable[[float], object]:
    sleep: Callable[[float], object] = sys.modules[name].sleep
    return sleep
