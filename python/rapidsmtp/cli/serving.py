"""A server to send to, in a process of its own: the client then has an interpreter for itself.

It is rapidsmtp's sink, which the compiled half has, or else aiosmtpd.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rapidsmtp import _core
from rapidsmtp.cli.usage import UsageError

# A Python with a cold cache on a busy machine takes its time to import.
_SECONDS = 30


def server_name() -> str:
    """What `server` would run.

    Raises:
        UsageError: There is none to run.
    """
    if _core.native("Sink") is not None:
        return "rapidsmtp's sink"
    if importlib.util.find_spec("aiosmtpd") is None:
        raise UsageError(
            "without the compiled half this needs a server, aiosmtpd: pip install aiosmtpd"
        )
    return "aiosmtpd"


@contextmanager
def server(latency: float = 0.0) -> Iterator[str]:
    """Run one.

    Args:
        latency: Seconds that every byte takes, each way; the sink alone can do that.

    Yields:
        Its URL.

    Raises:
        UsageError: There is none to run, or it does not start.
    """
    if server_name() == "aiosmtpd":
        arguments, half = ["-m", "rapidsmtp.cli.server"], "auto"
    else:
        # Whichever half is in use here: only the client's is told apart.
        arguments, half = ["-m", "rapidsmtp", "sink", "--latency", f"{latency:g}"], "rust"
    with _running(arguments, half) as url:
        yield url


@contextmanager
def keeping_server() -> Iterator[tuple[str, Callable[[], list[bytes]]]]:
    """Run one that keeps what it takes, for a few messages.

    Yields:
        Its URL, and what tells the messages that it has taken so far, in their order.

    Raises:
        UsageError: There is none to run, or it does not start.
    """
    if server_name() == "aiosmtpd":
        with (
            tempfile.TemporaryDirectory(prefix="rapidsmtp-") as folder,
            _running(["-m", "rapidsmtp.cli.server", folder], "auto") as url,
        ):
            yield url, lambda: [path.read_bytes() for path in sorted(Path(folder).iterdir())]
        return
    from rapidsmtp.testing import Sink

    with Sink() as sink:
        yield sink.url, lambda: [message.data for message in sink.messages]


@contextmanager
def _running(arguments: Sequence[str], half: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "RAPIDSMTP_CORE": half},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C is for this process, which ends the other.
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            _, fault = process.communicate(timeout=_SECONDS)
            last = fault.strip().splitlines()[-1:] or ["no reason given"]
            raise UsageError(f"the server did not start: {last[0]}")
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=_SECONDS)
