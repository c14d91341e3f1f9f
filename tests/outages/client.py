"""A program that sends numbered messages, and prints each outcome as a line of JSON.

A test runs this program as a process of its own, so that it can stop the process, limit its
resources or change its clock. The argument is a JSON object, the `Plan` of `harness.py`.
The program pauses before the message `hold`, and continues after it has read a line.
"""

import contextlib
import ctypes
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rapidsmtp import Backoff, Message, RelayError, Sender, Timeouts
from rapidsmtp._bulk import sender as sender_module

LINE = b"A line of the message, as long as the lines of messages are: seventy-six bytes.\r\n"


def content(number: int, size: int) -> bytes:
    """Return a message whose first line of the body is unique."""
    # `join` makes no further copy of a large message.
    return b"".join([b"Subject: x\r\n\r\nmessage %d\r\n" % number, *[LINE] * (size // len(LINE))])


def report(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def messages(plan: dict[str, Any]) -> Iterator[Message]:
    for number in range(plan["count"]):
        if number == plan["hold"]:
            report(event="held")
            sys.stdin.readline()
        to = [f"r{number}@example.com"]
        yield Message(f"s{number}@example.com", to, content(number, plan["size"]), tag=number)


def load_libgcc() -> None:
    """Load the library that the end of a thread needs. Later, no descriptor may be free for it."""
    with contextlib.suppress(OSError):
        ctypes.CDLL("libgcc_s.so.1")


def limit(descriptors: int | None, memory: int | None) -> None:
    """Limit this process to a number of further descriptors, and of further bytes of memory."""
    if descriptors is not None:
        most = max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + descriptors
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def follow(clock: str) -> None:
    """Shift `time.time` by the seconds in a file, which a test may change at any time."""
    real = time.time

    def shifted() -> float:
        return real() + float(Path(clock).read_text() or 0)

    time.time, time.time_ns = shifted, lambda: int(shifted() * 1e9)


def main() -> None:
    plan = json.loads(sys.argv[1])
    if plan["clock"]:
        follow(plan["clock"])
    options = plan["options"]
    options["timeouts"] = Timeouts(**options.get("timeouts", {}))
    options["backoff"] = Backoff(**options.get("backoff", {}))
    sender_module.CLOCK_SPEED = plan["clock_speed"]
    load_libgcc()
    limit(plan["descriptors"], plan["memory"])
    start, error = time.monotonic(), None
    try:
        with Sender(plan["url"], local_hostname="client.example", **options) as sender:
            for outcome in sender.send(messages(plan)):
                report(
                    event="outcome",
                    number=outcome.tag,
                    status=str(outcome.status),
                    reason=outcome.reason,
                    attempts=outcome.attempts,
                )
    except (RelayError, OSError) as raised:
        error = f"{type(raised).__name__}: {raised}"
    report(event="end", error=error, seconds=time.monotonic() - start)


if __name__ == "__main__":
    main()
