"""Sends a million small messages, and prints what that took, as JSON.

A program of its own, because a process's memory is measured. `million.py PORT COUNT messages`
takes them from a generator, `million.py PORT COUNT rows` merges rows with a template.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rapidsmtp import Message, Sender, Status, Template

WARM = 10_000
EACH = 50_000


def resident() -> float:
    """Memory of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def messages(count: int) -> Iterator[Message]:
    for number in range(count):
        body = b"Subject: %d\r\n\r\n" % number + b"A line of a small message.\r\n" * 10
        yield Message("sender@example.com", (f"r{number}@example.com",), body, tag=number)


def rows(count: int) -> Any:
    template = Template.compose(
        sender="sender@example.com",
        to="{{ name }} <{{ email }}>",
        subject="{{ number }}",
        text="Dear {{ name }},\n" + "A line of a small message.\n" * 10,
    )
    return template.merge(
        {"number": number, "name": "Zoë", "email": f"r{number}@example.com"}
        for number in range(count)
    )


def main(port: int, count: int, kind: str) -> None:
    given = rows(count) if kind == "rows" else messages(count)
    before = resident()
    seen, done = [], 0
    begin = time.perf_counter()
    with Sender(
        f"smtp://127.0.0.1:{port}?starttls=off", connections=2, pipelining="window", window=64
    ) as sender:
        for outcome in sender.send(given):
            assert outcome.status is Status.ACCEPTED
            done += 1
            if done == WARM or done % EACH == 0:
                seen.append(resident())
    seconds = time.perf_counter() - begin
    assert done == count
    print(
        json.dumps(
            {
                "messages": done,
                "per_second": done / seconds,
                "mib_before": before,
                "mib_after_10_000": seen[0],
                "mib_at_most": max(seen),
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
