"""Helpers that run the command line in this process or in a new one, and a scripted relay."""

import contextlib
import json
import logging
import math
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

import processes
import rapidsmtp
from rapidsmtp import cli

EML = (
    "From: news@example.com\nTo: {{ name }} <{{ email }}>\nBcc: hidden@example.com\n"
    "Subject: Hello {{ name }}\nList-Unsubscribe: <https://example.com/u>\n"
    "List-Unsubscribe-Post: List-Unsubscribe=One-Click\n\nDear {{ name }}\n"
)
CSV = "id,name,email\n1,Anna,anna@example.com\n2,Bo,bo@example.com\n3,Cy,cy@example.com\n"
SERVER_THREAD = "scripted relay"
_threads: set[threading.Thread] = set()
MAIN = "import sys; from rapidsmtp.cli import main; sys.exit(main())"
ONCE = ("--connections", "1", "--max-attempts", "1")

Script = Callable[["ScriptedRelay", str], str | None]


def accept(relay: "ScriptedRelay", line: str) -> str | None:
    """Return the reply of a relay that accepts every message."""
    verb = line[:4].upper()
    return {
        "EHLO": relay.greeting,
        "LHLO": relay.greeting,
        "DATA": "354 go on",
        "QUIT": "221 bye",
        ".": "250 queued",
    }.get(verb, "250 ok")


class ScriptedRelay:
    """A relay that sends the replies of a script, and disconnects if the script returns None."""

    def __init__(
        self, script: Script = accept, extensions: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self.greeting = "\r\n".join(
            [
                *(f"250-{name}" for name in ("relay", *filter(None, extensions.split(",")))),
                "250 8BITMIME",
            ]
        )
        self.script = script
        self.connections = 0
        self.lines: list[str] = []
        self.bodies: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.url = f"smtp{'s' if tls else ''}://{self.host}"
        self.connection: socket.socket | None = None
        self.certificate: bytes | None = None
        self._tls = tls
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=target, args=arguments, name=SERVER_THREAD, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if self._tls is not None:
                try:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                except OSError:
                    continue
            self.connections += 1
            self.connection = connection
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        # A client may close the connection at any time. This is not an error.
        lost = contextlib.suppress(OSError)
        with lost, connection, connection.makefile("rb") as file:
            connection.sendall(b"220 relay\r\n")
            body: list[str] | None = None
            for raw in file:
                line = raw.decode().rstrip("\r\n")
                if body is not None and line != ".":
                    body.append(line)
                    continue
                if body is not None:
                    self.bodies.append("\n".join(body))
                    body = None
                self.lines.append(line)
                reply = self.script(self, line)
                if reply is None:
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                connection.sendall(reply.encode() + b"\r\n")
                expects_body = line.upper() == "DATA" and reply.startswith("354")
                body = [] if expects_body else None

    def close(self) -> None:
        self._socket.close()


Relays = Callable[..., ScriptedRelay]
"""The type of the fixture `relays`: a function that starts a relay, with optional arguments."""


class Command:
    """The command `rapidsmtp`, in a directory with a template and a recipients list.

    Calling the object runs the command in this process, which is much faster than starting a new
    process. `start` and `run` start a process, for tests of signals, pipes, closed streams and the
    interpreter's exit.

    Attributes:
        directory: The working directory of the command.
        environment: The environment variables of the command.
    """

    def __init__(self, directory: Path, backend: str) -> None:
        self.directory = directory
        source = Path(rapidsmtp.__file__).resolve().parents[1]
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "RAPIDSMTP_PASSWORD"},
            "RAPIDSMTP_CORE": backend,
            "PYTHONPATH": str(source),
        }
        self.write("message.eml", EML)
        self.write("list.csv", CSV)

    def write(self, name: str, text: str | bytes) -> str:
        data = text if isinstance(text, bytes) else text.encode()
        (self.directory / name).write_bytes(data)
        return name

    def __call__(
        self, *arguments: str, stdin: str = "", stderr: TextIO | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in this process, and check that it does not change the process's state.

        Args:
            arguments: The command line.
            stdin: The text of the standard input.
            stderr: The stream that replaces the standard error. If it is None, a file replaces the
                standard error.
        """
        with tempfile.TemporaryDirectory() as folder:
            threads = set(threading.enumerate())
            with (
                contextlib.chdir(self.directory),
                mock.patch.dict(os.environ, self.environment, clear=True),
                _files_as_streams(Path(folder), stdin, stderr) as (output, errors),
            ):
                before = _process_state()
                try:
                    status: Any = cli.main(arguments)
                except SystemExit as exit:  # --help, --version
                    status = exit.code or 0
                assert _process_state() == before
            started = set(threading.enumerate()) - threads
            _threads.update(each for each in started if each.name != SERVER_THREAD)
            return subprocess.CompletedProcess(
                arguments, status, output.read_text("utf-8"), errors.read_text("utf-8")
            )

    def start(
        self, *arguments: str, stdin: Any = subprocess.DEVNULL, prepare: str = ""
    ) -> "subprocess.Popen[str]":
        """Start a command as a process.

        Args:
            arguments: The command line.
            stdin: The standard input, as for `subprocess.Popen`.
            prepare: Python code that the process executes before the command.
        """
        program = ["-c", f"{prepare}\n{MAIN}"] if prepare else ["-m", "rapidsmtp"]
        return processes.start(
            [sys.executable, *program, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command as a process, and wait for its end."""
        with self.start(*arguments) as process:
            output, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def send(self, url: str, *arguments: str, **streams: Any) -> "subprocess.CompletedProcess[str]":
        """Run `send` in this process, with the options that the relay scripts need (`ONCE`)."""
        files = ("--template", "message.eml", "--to", "list.csv")
        return self("send", "--relay", url, *files, *ONCE, *arguments, **streams)

    def report(self, url: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Run `send --json` in this process; return its exit status, report and standard error."""
        result = self.send(url, "--json", "--tag", "id", *arguments)
        return result.returncode, json.loads(result.stdout), result.stderr


@contextlib.contextmanager
def _files_as_streams(
    folder: Path, stdin: str, stderr: TextIO | None
) -> Iterator[tuple[Path, Path]]:
    """Replace the standard streams with files, as a shell's redirection does."""
    source, output, errors = (folder / name for name in ("stdin", "stdout", "stderr"))
    source.write_text(stdin, "utf-8")
    with (
        source.open(encoding="utf-8") as stdin_stream,
        output.open("w", encoding="utf-8") as stdout_stream,
        errors.open("w", encoding="utf-8", buffering=1) as stderr_stream,
        mock.patch.multiple(
            sys, stdin=stdin_stream, stdout=stdout_stream, stderr=stderr or stderr_stream
        ),
    ):
        yield output, errors


def _process_state() -> dict[str, Any]:
    """Return the state that a command must not change, because later tests share the process."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
    return {
        "environment": dict(os.environ),
        "directory": Path.cwd(),
        "arguments": list(sys.argv),
        "path": list(sys.path),
        "handlers of signals": [signal.getsignal(each) for each in signals],
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "warnings": list(warnings.filters),
        "smtplib": smtplib.SMTP,
    }


def wait_for_threads() -> None:
    """Wait for the end of all threads that commands have started in this process."""
    for thread in _threads:
        thread.join(30)
        assert not thread.is_alive(), thread
    _threads.clear()


def one_line(result: "subprocess.CompletedProcess[str]", expected: str) -> None:
    """Check that a command reported wrong usage in one line on stderr."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("rapidsmtp: ") and expected in line


def without_progress(errors: str) -> str:
    """Return the lines of a standard error without the progress lines of `rapidsmtp send`."""
    lines = errors.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("sending: "))


def is_rate(rate: float, rate_error: float, count: float, seconds: float, error: float) -> bool:
    """Return whether a rate in a report fits the count and the seconds, which may be rounded.

    Args:
        rate: The reported rate.
        rate_error: The maximum rounding error of the rate.
        count: The count.
        seconds: The reported seconds.
        error: The maximum rounding error of the seconds.
    """
    least = count / (seconds + error)
    most = count / (seconds - error) if seconds > error else math.inf
    return least - rate_error <= rate <= most + rate_error
