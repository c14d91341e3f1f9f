"""Send a million small messages and print the speed and the memory as JSON.

The memory is that of the whole process, so this program runs in a process of its own. `million.py
PORT COUNT messages` sends COUNT messages from a generator to the local port PORT. `million.py PORT
COUNT rows` merges COUNT rows with a template and sends the messages.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rapidsmtp import Message, Sender, Status, Template

MEASUREMENT_INTERVAL = 50_000


def resident() -> float:
    """Return the resident memory of this process in MiB."""
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
    submitted = rows(count) if kind == "rows" else messages(count)
    before = resident()
    memory, done = [], 0
    begin = time.perf_counter()
    with Sender(
        f"smtp://127.0.0.1:{port}?starttls=off", connections=2, pipelining="window", window=64
    ) as sender:
        for outcome in sender.send(submitted):
            assert outcome.status is Status.ACCEPTED
            done += 1
            if done == count or done % MEASUREMENT_INTERVAL == 0:
                memory.append(resident())
    seconds = time.perf_counter() - begin
    assert done == count
    print(
        json.dumps(
            {
                "messages": done,
                "per_second": done / seconds,
                "mib_before": before,
                "mib_first_half": max(memory[: (len(memory) + 1) // 2]),
                "mib_maximum": max(memory),
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
