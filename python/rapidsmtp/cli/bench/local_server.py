"""The local server that receives the messages of `bench` and `demo`.

The server is rapidsmtp's sink, or aiosmtpd if the compiled backend is not installed. During a
measurement, the server runs in another process. So client and server do not compete for one
interpreter.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rapidsmtp import _backend
from rapidsmtp.cli.usage import UsageError

_AIOSMTPD = "rapidsmtp.cli.bench.aiosmtpd_server"
# The maximum time that the server's process may take to exit, in seconds. It is long, because the
# machine may be busy.
_TIMEOUT = 30


def server_name() -> str:
    """Return the name of the server that `local_server` runs.

    Raises:
        UsageError: Neither the compiled backend nor aiosmtpd is installed.
    """
    if _backend.native("Sink") is not None:
        return "rapidsmtp's sink"
    if importlib.util.find_spec("aiosmtpd") is None:
        raise UsageError(
            "without the compiled backend, the local server is aiosmtpd: pip install aiosmtpd"
        )
    return "aiosmtpd"


@contextmanager
def local_server(latency: float = 0.0) -> Iterator[str]:
    """Run a server in another process until the `with` block ends.

    Args:
        latency: The simulated delay in each direction, in seconds. aiosmtpd ignores it.

    Yields:
        The URL of the server.

    Raises:
        UsageError: Neither the compiled backend nor aiosmtpd is installed, or the server does not
            start.
    """
    if server_name() == "aiosmtpd":
        arguments, backend = ["-m", _AIOSMTPD], "auto"
    else:
        # The server's process uses the compiled backend, because the sink needs it. The client may
        # use the pure-Python backend.
        arguments, backend = (
            ["-m", "rapidsmtp", "sink", "--quiet", "--latency", f"{latency:.6f}"],
            "rust",
        )
    with _process(arguments, backend) as url:
        yield url


@contextmanager
def storing_server() -> Iterator[tuple[str, Callable[[], list[bytes]]]]:
    """Run a server that stores every message, until the `with` block ends.

    Send only a few messages to the server, because it stores all of them.

    Yields:
        The URL of the server, and a function that returns the messages accepted so far, in order.

    Raises:
        UsageError: Neither the compiled backend nor aiosmtpd is installed, or the server does not
            start.
    """
    if server_name() == "aiosmtpd":
        with (
            tempfile.TemporaryDirectory(prefix="rapidsmtp-") as folder,
            _process(["-m", _AIOSMTPD, folder], "auto") as url,
        ):
            yield url, lambda: [path.read_bytes() for path in sorted(Path(folder).iterdir())]
        return
    from rapidsmtp.testing import Sink

    with Sink() as sink:
        yield sink.url, lambda: [message.data for message in sink.messages]


@contextmanager
def _process(arguments: Sequence[str], backend: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "RAPIDSMTP_CORE": backend},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # The server runs in its own session, so the terminal does not send Ctrl-C to the server.
        # Instead, this process ends the server.
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            _, errors = process.communicate(timeout=_TIMEOUT)
            last = errors.strip().splitlines()[-1:] or ["no reason given"]
            raise UsageError(f"the local server did not start: {last[0]}")
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=_TIMEOUT)
