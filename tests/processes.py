"""Start processes in which Ctrl-C works, even if the tests themselves ignore it.

A process inherits ignored signals from its parent. Shell scripts start background processes with
SIGINT ignored, and so do some CI runners. In these environments, a process that a test starts would
ignore SIGINT too. So tests start Python programs with `start` and `run`.
"""

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

_started: "list[subprocess.Popen[Any]]" = []


@contextlib.contextmanager
def default_sigint() -> Iterator[None]:
    """Restore the default action for SIGINT in processes that are started in the block.

    A new program inherits an ignored signal, but not a handler: exec replaces a handler with the
    default action. So this process sets a handler while it starts another process.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def start(command: Sequence[Any], **options: Any) -> "subprocess.Popen[Any]":
    """Start a process, with the options of `subprocess.Popen`."""
    with default_sigint():
        process = subprocess.Popen(command, **options)
    _started[:] = [each for each in _started if each.poll() is None]
    _started.append(process)
    return process


def kill_remaining() -> None:
    """Kill the processes that are still running after a failed test."""
    for process in _started:
        if process.poll() is None:
            process.kill()
            process.wait()
    _started.clear()


def run(
    command: Sequence[Any],
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> "subprocess.CompletedProcess[Any]":
    """Run a process to its end, with the options and errors of `subprocess.run`."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options["stdout"] = options["stderr"] = subprocess.PIPE
    with start(command, **options) as process:
        try:
            output, errors = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done
