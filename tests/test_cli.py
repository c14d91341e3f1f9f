"""The command line, as a process of its own against a scripted server: status, lines, wire."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import rapidsmtp

EML = (
    "From: news@example.com\nTo: {{ name }} <{{ email }}>\nBcc: hidden@example.com\n"
    "Subject: Hello {{ name }}\n\nDear {{ name }}\n"
)
CSV = "id,name,email\n1,Anna,anna@example.com\n2,Bo,bo@example.com\n3,Cy,cy@example.com\n"

Script = Callable[["Relay", str], str | None]


def accept(relay: "Relay", line: str) -> str | None:
    """The replies of a server that takes everything."""
    verb = line[:4].upper()
    return {"EHLO": relay.greeting, "DATA": "354 go on", "QUIT": "221 bye", ".": "250 queued"}.get(
        verb, "250 ok"
    )


class Relay:
    """A server that answers by a script: a reply, or None to close the connection."""

    def __init__(self, script: Script = accept, extensions: str = "") -> None:
        self.greeting = "\r\n".join(
            [*(f"250-{name}" for name in ("relay", *extensions.split())), "250 8BITMIME"]
        )
        self.script = script
        self.connections = 0
        self.lines: list[str] = []
        self.bodies: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"smtp://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb", buffering=0) as file:
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
                body = [] if reply.startswith("354") else None

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

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "rapidsmtp", *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
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
        return self("send", "--relay", url, *files, *arguments)

    def report(self, url: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
        result = self.send(url, "--json", "--tag", "id", *arguments)
        return result.returncode, json.loads(result.stdout), result.stderr


@pytest.fixture
def command(tmp_path: Path, half: str) -> Command:
    return Command(tmp_path, half)


@pytest.fixture
def relays() -> Iterator[Callable[..., Relay]]:
    made: list[Relay] = []

    def make(*arguments: Any) -> Relay:
        made.append(Relay(*arguments))
        return made[-1]

    yield make
    for relay in made:
        relay.close()


def one_line(result: "subprocess.CompletedProcess[str]", expected: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("rapidsmtp: ") and expected in line


# send: all goes well


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_send(command: Command, relays: Callable[..., Relay], extensions: str) -> None:
    relay = relays(accept, extensions)
    result = command.send(relay.url)
    assert result.returncode == 0, result.stderr
    assert "accepted" in result.stdout and "3" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr
    assert relay.connections == 1 and len(relay.bodies) == 3
    assert "Subject: Hello Anna" in relay.bodies[0] and "hidden" not in relay.bodies[0]
    assert sum("hidden@example.com" in line for line in relay.lines) == 3


def test_limit_and_json(command: Command, relays: Callable[..., Relay]) -> None:
    relay = relays()
    status, report, errors = command.report(relay.url, "--limit", "2")
    assert (status, errors, len(relay.bodies)) == (0, "", 2)
    assert report["messages"] == report["accepted"] == 2 and report["not_accepted"] == []


# send: bad input, one line each, nothing sent


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://no-such-host.invalid", "does not resolve"),
        ("http://127.0.0.1", "must begin with smtp://"),
        ("127.0.0.1:25", "must begin with smtp://"),
        ("smtp://", "names no host"),
        ("smtp://127.0.0.1:0", "port"),
        ("smtp://127.0.0.1:99999", "wrong"),
        ("smtp://127.0.0.1:x", "wrong"),
        ("smtp://[::1", "wrong"),
        ("smtp://127.0.0.1/path", "behind the host"),
        ("smtp://127.0.0.1?starttls=maybe", "starttls=maybe"),
        ("smtp://127.0.0.1?nonsense=1", "unknown option 'nonsense'"),
        ("smtps://127.0.0.1?starttls=required", "no meaning"),
        ("smtp://user@127.0.0.1", "RAPIDSMTP_PASSWORD"),
        ("lmtp:///no/such/socket", "no connection to /no/such/socket"),
    ],
)
def test_bad_url(command: Command, url: str, expected: str) -> None:
    one_line(command.send(url), expected)


def test_refused_port(command: Command) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    one_line(command.send(f"smtp://127.0.0.1:{port}"), "refused")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("letter.eml", EML.replace("{{ name }}\n", "{{ name \n"), "letter.eml: "),
        ("letter.eml", EML + "{% include 'x' %}", "letter.eml: "),
        ("letter.eml", EML.replace("{{ name }}", "{{ surname }}"), "no column 'surname'"),
        ("letter.eml", "", "not a message"),
        ("list.csv", CSV.replace("name", "nom", 1), "list.csv, line 1: no column 'name'"),
        ("list.csv", CSV + "4,Dee\n", "list.csv, line 5: no cell for the column 'email'"),
        ("list.csv", CSV.encode() + b"4,D\xe9,d@example.com\n", "not in the encoding utf-8-sig"),
        ("list.csv", "", "no column"),
    ],
)
def test_bad_files(
    command: Command, relays: Callable[..., Relay], name: str, text: str | bytes, expected: str
) -> None:
    relay = relays()
    command.write(name, text)
    one_line(command.send(relay.url), expected)
    assert relay.connections == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--template", "absent.eml"), "absent.eml: No such file"),
        (("--to", "absent.csv"), "absent.csv: No such file"),
        (("--to", "."), "Is a directory"),
        (("--encoding", "klingon"), "no encoding"),
        (("--tag", "nickname"), "no column 'nickname'"),
        (("--limit", "0"), "--limit"),
        (("--ca-file", "letter.eml"), "--ca-file letter.eml"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_bad_arguments(
    command: Command, relays: Callable[..., Relay], arguments: tuple[str, ...], expected: str
) -> None:
    relay = relays()
    one_line(command.send(relay.url, *arguments), expected)
    assert relay.connections == 0


def test_no_command(command: Command) -> None:
    one_line(command(), "required")


# send: the relay says no


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_goes_on_after_a_refusal(
    command: Command, relays: Callable[..., Relay], extensions: str
) -> None:
    def script(relay: Relay, line: str) -> str | None:
        if "anna@" in line:
            return "550 5.1.1 <anna@example.com>: unknown"
        if "bo@" in line:
            return "451 4.3.0 later"
        return "550 5.1.1 no" if "hidden@" in line else accept(relay, line)

    status, report, _ = command.report(relays(script, extensions).url)
    assert status == 1
    assert (report["accepted"], report["partial"], report["refused"]) == (0, 2, 1)
    first = report["not_accepted"][0]
    assert (first["tag"], first["row"], first["status"]) == ("1", 1, "refused")
    assert first["recipients"]["anna@example.com"] == {
        "status": "refused",
        "code": 550,
        "enhanced_status": "5.1.1",
        "text": "5.1.1 <anna@example.com>: unknown",
    }
    second, third = (outcome["recipients"] for outcome in report["not_accepted"][1:])
    assert second["bo@example.com"]["status"] == "deferred"
    assert third["cy@example.com"]["status"] == "accepted"
    assert third["hidden@example.com"]["status"] == "refused"


def test_bad_row_is_reported_and_the_rest_goes_on(
    command: Command, relays: Callable[..., Relay]
) -> None:
    command.write("list.csv", CSV.replace("Bo,bo@example.com", "Bo,nobody"))
    relay = relays()
    result = command.send(relay.url, "--tag", "id")
    assert result.returncode == 1 and len(relay.bodies) == 2
    assert "invalid: header To: 'nobody' is not an address" in result.stdout


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_a_lost_final_reply_is_unknown_and_never_sent_again(
    command: Command, relays: Callable[..., Relay], extensions: str
) -> None:
    def script(relay: Relay, line: str) -> str | None:
        return None if line == "." and len(relay.bodies) == 2 else accept(relay, line)

    relay = relays(script, extensions)
    status, report, _ = command.report(relay.url)
    assert (status, relay.connections, len(relay.bodies)) == (1, 2, 3)
    assert (report["accepted"], report["unknown"]) == (2, 1)
    assert report["not_accepted"][0]["tag"] == "2"


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
@pytest.mark.parametrize("reply", [None, "421 4.7.0 maximum message count per session reached"])
def test_a_connection_lost_before_the_body_is_opened_again(
    command: Command, relays: Callable[..., Relay], extensions: str, reply: str | None
) -> None:
    def script(relay: Relay, line: str) -> str | None:
        second = line.upper().startswith("MAIL") and relay.connections == 1 and relay.bodies
        return reply if second else accept(relay, line)

    relay = relays(script, extensions)
    status, report, errors = command.report(relay.url)
    assert (status, report["accepted"], len(relay.bodies)) == (0, 3, 3), errors
    assert relay.connections == 2


def test_a_connection_lost_again_and_again_stops(
    command: Command, relays: Callable[..., Relay]
) -> None:
    relay = relays(lambda relay, line: None if line[:4].upper() == "MAIL" else accept(relay, line))
    status, report, errors = command.report(relay.url)
    assert (status, report["not_attempted"], relay.connections) == (1, 3, 2)
    assert errors.count("\n") == 1 and "lost again" in errors


def test_530_stops(command: Command, relays: Callable[..., Relay]) -> None:
    def script(relay: Relay, line: str) -> str | None:
        return "530 5.7.0 log in first" if line[:4].upper() == "MAIL" else accept(relay, line)

    relay = relays(script)
    status, report, errors = command.report(relay.url)
    assert (status, report["not_attempted"]) == (1, 3)
    assert sum(line[:4].upper() == "MAIL" for line in relay.lines) == 1
    assert errors.splitlines() == [
        f"rapidsmtp: stopped: {relay.url[7:]} would not have us: 530 5.7.0 log in first"
    ]


# send: passwords and TLS


def test_no_password_in_clear_text(command: Command, relays: Callable[..., Relay]) -> None:
    relay = relays(accept, "AUTH=PLAIN")
    relay.greeting = relay.greeting.replace("AUTH=PLAIN", "AUTH PLAIN")
    host = relay.url[7:]
    one_line(command.send(f"smtp://user:geheim@{host}"), "no STARTTLS")
    one_line(command.send(f"smtp://user:geheim@{host}?starttls=off"), "clear text")
    one_line(command.send(f"smtp://user:geheim@{host}?starttls=opportunistic"), "clear text")
    assert not any(line.startswith("AUTH") for line in relay.lines)


def test_login_and_its_end_at_535(command: Command, relays: Callable[..., Relay]) -> None:
    def script(relay: Relay, line: str) -> str | None:
        return "535 5.7.8 no" if line.startswith("AUTH") else accept(relay, line)

    relay = relays(script)
    relay.greeting = relay.greeting.replace("250-relay", "250-relay\r\n250-AUTH LOGIN PLAIN")
    url = f"smtp://user@{relay.url[7:]}?starttls=off"
    command.environment["RAPIDSMTP_PASSWORD"] = "geheim"
    result = command.send(url, "--allow-plaintext-auth")
    one_line(result, "refused the login: 535 5.7.8 no")
    assert "geheim" not in result.stderr
    assert [line[:10] for line in relay.lines if line.startswith("AUTH")] == ["AUTH PLAIN"]


def test_an_untrusted_certificate_stops(command: Command, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                    connection.sendall(b"554 not today\r\n")
            except OSError:
                if listener.fileno() < 0:
                    return

    threading.Thread(target=serve, daemon=True).start()
    url = f"smtps://127.0.0.1:{listener.getsockname()[1]}"
    one_line(command.send(url), "is not trusted")
    # With its authority trusted the same server is heard.
    one_line(command.send(url, "--ca-file", "ca.pem"), "554 not today")
    listener.close()


def test_interrupted(command: Command, relays: Callable[..., Relay]) -> None:
    reached = threading.Event()

    def script(relay: Relay, line: str) -> str | None:
        if line == "." and len(relay.bodies) == 2:
            reached.set()
            time.sleep(60)
        return accept(relay, line)

    files = ("--template", "letter.eml", "--to", "list.csv", "--json")
    process = command.start("send", "--relay", relays(script).url, *files)
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    report = json.loads(output)
    assert (process.returncode, errors) == (130, "")
    assert (report["accepted"], report["unknown"], report["not_attempted"]) == (1, 1, 1)


# The other commands


def test_version(command: Command, half: str) -> None:
    result = command("--version")
    assert result.returncode == 0
    assert result.stdout.startswith(f"rapidsmtp {rapidsmtp.__version__} ({half} half), ")


@pytest.mark.parametrize("name", ["send", "demo", "run", "sink"])
def test_help_has_an_example(command: Command, name: str) -> None:
    result = command(name, "--help")
    assert result.returncode == 0 and f"rapidsmtp {name}" in result.stdout.split("example:")[1]


def test_demo(command: Command) -> None:
    result = command("demo", "--limit", "20")
    assert result.returncode == 0, result.stderr
    figures = {line.split("  ")[1]: line.split()[-2:] for line in result.stdout.splitlines()[3:-2]}
    assert figures["sent"] == ["20", "20"] and figures["refused"] == ["0", "0"]


PROGRAM = """
import sys, os, smtplib, __main__
from smtplib import SMTP
print(sys.argv[1:], __name__, __main__.__file__ == __file__, SMTP.__module__)
import neighbour
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("way", [("program.py",), ("-m", "program")])
def test_run(command: Command, way: tuple[str, ...]) -> None:
    command.write("program.py", PROGRAM)
    command.write("neighbour.py", "print('found')")
    result = command("run", *way, "7", "--flag", "-m")
    assert result.returncode == 7, result.stderr
    expected = "['7', '--flag', '-m'] __main__ True rapidsmtp.client\nfound\n"
    assert result.stdout == expected


def test_run_without_a_script(command: Command) -> None:
    one_line(command("run", "absent.py"), "absent.py: no such file")
    one_line(command("run", "-m", "absent_module"), "no module named absent_module")


def test_sink(command: Command, half: str) -> None:
    if half == "python":
        one_line(command("sink"), "needs the compiled half")
        return
    process = command.start("sink")
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert command.send(url).returncode == 0
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "3" in output
