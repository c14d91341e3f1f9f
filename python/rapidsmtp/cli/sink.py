"""`rapidsmtp sink`: run an SMTP server that accepts every message, in the foreground."""

import argparse
import signal
import sys
import threading
from typing import Any

from rapidsmtp import _backend
from rapidsmtp.cli import display
from rapidsmtp.cli import options as shared
from rapidsmtp.cli.usage import Commands, UsageError, add_command, positive


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "sink",
        "run an SMTP server that accepts and discards mail",
        "rapidsmtp sink --port 2525 --latency 0.02",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=shared.port,
        default=0,
        metavar="N",
        help="port to listen on (default 0: a free port)",
    )
    parser.add_argument(
        "--path",
        metavar="PATH",
        help="Unix socket to listen on instead of --host and --port; uses LMTP",
    )
    parser.add_argument("--lmtp", action="store_true", help="use LMTP instead of SMTP")
    parser.add_argument(
        "--latency",
        type=shared.duration,
        default=0.0,
        metavar="TIME",
        help="simulated delay of every byte in each direction, such as 0.02 or 20ms",
    )
    parser.add_argument(
        "--extensions",
        metavar="A,B",
        help='EHLO keywords of the server, such as "PIPELINING,SIZE 1000000"',
    )
    parser.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="server threads (default 1)"
    )
    parser.set_defaults(command=sink)


def sink(options: argparse.Namespace) -> int:
    """Print the URL, serve until Ctrl-C or SIGTERM, and print the server's counts.

    Raises:
        UsageError: The server cannot be started.
    """
    if _backend.implementation != "rust":
        raise UsageError(
            "the sink needs the compiled backend, but the pure-Python backend is in use"
        )
    from rapidsmtp.testing import Sink

    arguments: dict[str, Any] = {
        "lmtp": options.lmtp or bool(options.path),
        "host": options.host,
        "port": options.port,
    }
    if options.path:
        arguments["path"] = options.path
    extensions = options.extensions
    names = None if extensions is None else [name.strip() for name in extensions.split(",") if name]
    stopped = threading.Event()
    previous_handler = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        server = Sink(names, options.latency, store=False, threads=options.threads, **arguments)
        with server:
            display.show(server.url)
            try:
                # On some systems, signals do not interrupt a wait that has no time limit. So this
                # wait has a time limit and is repeated.
                while not stopped.wait(0.5):
                    pass
            except KeyboardInterrupt:
                display.show("", stream=sys.stderr)
            display.show(str(server.counts))
    except (OSError, OverflowError, ValueError) as error:
        raise UsageError(f"cannot start the sink: {_reason(error)}") from None
    finally:
        if previous_handler is not None:
            signal.signal(signal.SIGTERM, previous_handler)
    return 0


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
