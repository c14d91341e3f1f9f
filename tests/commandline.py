"""The command line as a process of its own, and a scripted server to send to."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rapidsmtp

EML = (
    "From: news@example.com\nTo: {{ name }} <{{ email }}>\nBcc: hidden@example.com\n"
    "Subject: Hello {{ name }}\nList-Unsubscribe: <https://example.com/u>\n"
    "List-Unsubscribe-Post: List-Unsubscribe=One-Click\n\nDear {{ name }}\n"
)
CSV = "id,name,email\n1,Anna,anna@example.com\n2,Bo,bo@example.com\n3,Cy,cy@example.com\n"
ONCE = ("--connections", "1", "--max-attempts", "1")

Script = Callable[["Relay", str], str | None]


def accept(relay: "Relay", line: str) -> str | None:
    """The replies of a server that takes everything."""
    verb = line[:4].upper()
    return {
        "EHLO": relay.greeting,
        "LHLO": relay.greeting,
        "DATA": "354 go on",
        "QUIT": "221 bye",
        ".": "250 queued",
    }.get(verb, "250 ok")


class Relay:
    """A server that answers by a script: a reply, or None to close the connection."""

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
        threading.Thread(target=self._accept, daemon=True).start()

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
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        gone = contextlib.suppress(OSError)  # a client may leave when it likes
        with gone, connection, connection.makefile("rwb", buffering=0) as file:
            file.write(b"220 relay\r\n")
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
                file.write(reply.encode() + b"\r\n")
                taken = line.upper() == "DATA" and reply.startswith("354")
                body = [] if taken else None

    def hang_up(self) -> None:
        """Close the connection under way."""
        assert self.connection is not None
        self.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class Command:
    """Runs `python -m rapidsmtp` in a directory with a template and a list."""

    def __init__(self, directory: Path, half: str) -> None:
        self.directory = directory
        source = Path(rapidsmtp.__file__).resolve().parents[1]
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "RAPIDSMTP_PASSWORD"},
            "RAPIDSMTP_CORE": half,
            "PYTHONPATH": str(source),
        }
        self.write("letter.eml", EML)
        self.write("list.csv", CSV)

    def write(self, name: str, text: str | bytes) -> str:
        data = text if isinstance(text, bytes) else text.encode()
        (self.directory / name).write_bytes(data)
        return name

    def start(self, *arguments: str, stdin: Any = subprocess.DEVNULL) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "rapidsmtp", *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def send(self, url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        files = ("--template", "letter.eml", "--to", "list.csv")
        # One connection and one attempt, for the tests' scripts count both.
        return self("send", "--relay", url, *files, *ONCE, *arguments)

    def report(self, url: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
        result = self.send(url, "--json", "--tag", "id", *arguments)
        return result.returncode, json.loads(result.stdout), result.stderr


def one_line(result: "subprocess.CompletedProcess[str]", expected: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("rapidsmtp: ") and expected in line
