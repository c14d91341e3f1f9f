"""The event loops on which the tests run `rapidsmtp.aio`."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import uvloop

SECONDS = 20


def run_on(kind: str, main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine within a time limit.

    Args:
        kind: `"asyncio"`, `"uvloop"`, or `"debug"` for asyncio's debug mode.
        main: The coroutine.
    """

    async def limited() -> Any:
        async with asyncio.timeout(SECONDS):
            return await main

    factory = uvloop.new_event_loop if kind == "uvloop" else None
    with asyncio.Runner(debug=kind == "debug", loop_factory=factory) as runner:
        return runner.run(limited())
