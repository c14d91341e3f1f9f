"""`rapidsmtp sink`: run an SMTP server that accepts every message, in the foreground."""

import argparse

from rapidsmtp import _backend
from rapidsmtp.cli import options as shared
from rapidsmtp.cli.usage import Commands, UsageError, add_command, positive


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "sink",
        "run an SMTP server that accepts every message and delivers none",
        "rapidsmtp sink --port 2525 --save received\n"
        "  rapidsmtp sink --fault 'rcpt address=bo@example.com reply=550 5.1.1 unknown'",
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
    parser.add_argument(
        "--save",
        metavar="DIR",
        help="write each message to a file: 000001.eml, 000002.eml and so on",
    )
    parser.add_argument("--quiet", action="store_true", help="print no line for each message")
    parser.add_argument(
        "--tls",
        nargs="?",
        const="starttls",
        choices=("starttls", "implicit"),
        help="use TLS, after STARTTLS (default) or from the start, with a new certificate; the CA "
        "file to trust is printed",
    )
    parser.add_argument(
        "--user",
        action="append",
        metavar="NAME:PASSWORD",
        help="accept only this login; may be repeated",
    )
    parser.add_argument(
        "--fault",
        action="append",
        metavar="'AT KEY=VALUE ...'",
        help="wrong reply at a command, as in rapidsmtp.testing.Fault: connect, ehlo, mail, rcpt, "
        "data, body, ... with message=N, occurrence=N, address=A, times=N, delay=SECONDS, "
        "close=orderly or reset, and at the end reply=TEXT; may be repeated",
    )
    parser.set_defaults(command=sink)


def sink(options: argparse.Namespace) -> int:
    """Print the URL, serve until Ctrl-C or SIGTERM, and print the server's counts.

    Raises:
        UsageError: An option is wrong, or the server cannot be started.
    """
    if _backend.implementation != "rust":
        raise UsageError(
            "the sink needs the compiled backend, but the pure-Python backend is in use"
        )
    # Imported here, because --help does not need it.
    from rapidsmtp.cli import sink_server

    return sink_server.serve(options)
