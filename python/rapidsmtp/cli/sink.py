"""`rapidsmtp sink`: a server that takes everything, in the foreground."""

import argparse
import signal
import sys
import threading
from typing import Any

import rapidsmtp
from rapidsmtp.cli.usage import Commands, UsageError, add_command


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "sink",
        "run an SMTP server that accepts mail and throws it away",
        "rapidsmtp sink --port 2525 --latency 0.02",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--path", help="a unix socket instead (LMTP)")
    parser.add_argument("--lmtp", action="store_true", help="speak LMTP")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument(
        "--extensions", metavar="A,B", help='the EHLO lines, such as "PIPELINING,SIZE 1000000"'
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(command=sink)


def sink(options: argparse.Namespace) -> int:
    """Print the URL, serve until Ctrl-C, print the counts."""
    if rapidsmtp.implementation != "rust":
        raise UsageError("the sink needs the compiled half, which is not installed or not chosen")
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
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        server = Sink(names, options.latency, store=False, threads=options.threads, **arguments)
        with server:
            print(server.url, flush=True)
            try:
                # In steps, because a wait without an end takes no signal on every system.
                while not stopped.wait(0.5):
                    pass
            except KeyboardInterrupt:
                print(file=sys.stderr)
            print(server.counts, flush=True)
    except (OSError, OverflowError, ValueError) as error:
        raise UsageError(f"no sink: {_words(error)}") from None
    return 0


def _words(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
