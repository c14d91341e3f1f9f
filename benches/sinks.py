"""Sinks in processes of their own, so that a benchmark shares no interpreter lock with them."""

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
    """Start one that keeps nothing; its port. `latency` is in seconds; closing stdin ends it."""
    environment = {**os.environ, "RAPIDSMTP_CORE": "rust"}
    process = subprocess.Popen(
        [sys.executable, "-c", SINK, str(latency)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    return process, int(process.stdout.readline())
