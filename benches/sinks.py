"""A sink in a process of its own, so that client and sink do not share the interpreter lock."""

import os
import subprocess
import sys

SINK = """
import sys
from rapidsmtp.testing import Sink
with Sink(latency=float(sys.argv[1]), store=False) as sink:
    print(sink.port, flush=True)
    sys.stdin.read()
"""


def start_sink(latency: float) -> tuple[subprocess.Popen[str], int]:
    """Start a sink that stores no messages. The sink ends when its stdin is closed.

    Args:
        latency: The delay of each direction, in seconds.

    Returns:
        The process and the port of the sink.
    """
    environment = {**os.environ, "RAPIDSMTP_CORE": "rust"}
    process = subprocess.Popen(
        [sys.executable, "-c", SINK, str(latency)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    return process, int(process.stdout.readline())
