"""`rapidsmtp sink`: its lines, files, TLS, users and faults."""

import signal
import smtplib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from commandline import Command, one_line
from rapidsmtp.cli.sink_server import message_line
from rapidsmtp.testing import ReceivedMessage, Sink

pytestmark = pytest.mark.rust


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path, "rust")


class RunningSink:
    """A sink in another process.

    Attributes:
        url: The URL that the sink has printed.
        needed: The options that the sink has printed for a client.
        output: All that the sink printed, after its end.
    """

    def __init__(self, process: "subprocess.Popen[str]", prints_options: bool) -> None:
        assert process.stdout is not None
        self.output = ""
        self.url = process.stdout.readline().strip()
        line = process.stdout.readline() if prints_options else ""
        assert line.startswith("rapidsmtp send needs ") == prints_options
        self.needed = line.split()[3:]


@contextmanager
def running_sink(
    command: Command, *options: str, number: int = signal.SIGTERM
) -> Iterator[RunningSink]:
    process = command.start("sink", *options)
    sink = RunningSink(process, "--tls" in options or "--user" in options)
    yield sink
    process.send_signal(number)
    sink.output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and not errors.strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_each_message_is_a_line_and_a_file(command: Command, number: int) -> None:
    with running_sink(command, "--save", "received", number=number) as sink:
        assert command.send(sink.url).returncode == 0
    *lines, counts = sink.output.splitlines()
    assert len(lines) == 3 and "'messages': 3" in counts
    assert "  <news@example.com> to bo@example.com, hidden@example.com  " in lines[1]
    assert lines[1].endswith("  000002.eml  Hello Bo")
    data = Path("received/000002.eml").read_bytes()
    assert b"Subject: Hello Bo\r\n" in data and data.endswith(b"Dear Bo\r\n")
    assert f"  {len(data)} bytes  " in lines[1]
    assert Path("received/000002.eml").stat().st_mode & 0o077 == 0


def test_numbers_continue_after_the_files_of_an_earlier_sink(command: Command) -> None:
    for _ in range(2):
        with running_sink(command, "--save", "received", "--quiet") as sink:
            assert command.send(sink.url).returncode == 0
        assert len(sink.output.splitlines()) == 1  # the counts
    names = sorted(path.name for path in Path("received").iterdir())
    assert names == [f"00000{number}.eml" for number in range(1, 7)]


@pytest.mark.parametrize(("mode", "scheme"), [("starttls", "smtp"), ("implicit", "smtps")])
@pytest.mark.parametrize("core", ["rust", "python"])
def test_tls_and_users(command: Command, mode: str, scheme: str, core: str) -> None:
    with running_sink(command, "--tls", mode, "--user", "joe@x:geheim:1") as sink:
        assert sink.url.startswith(f"{scheme}://joe%40x@127.0.0.1:") and "geheim" not in sink.url
        command.environment.update(RAPIDSMTP_CORE=core, RAPIDSMTP_PASSWORD="geheim:1")
        result = command.send(sink.url, *sink.needed)
        assert result.returncode == 0, result.stderr
        # The certificate is not trusted without the CA file, and only the user may send.
        one_line(command.send(sink.url), "--ca-file")
        command.environment["RAPIDSMTP_PASSWORD"] = "wrong"
        one_line(command.send(sink.url, *sink.needed), "refused the login: 535")
    assert "'messages': 3" in sink.output
    assert not Path(sink.needed[1]).exists()


def test_a_user_without_tls(command: Command) -> None:
    with running_sink(command, "--user", "joe:geheim") as sink:
        command.environment["RAPIDSMTP_PASSWORD"] = "geheim"
        assert sink.needed == ["--allow-plaintext-auth"]
        assert command.send(sink.url, *sink.needed).returncode == 0


def test_faults(command: Command) -> None:
    faults = (
        "rcpt address=bo@example.com reply=550 5.1.1 unknown, and gone",
        "body message=3 times=1 reply=451 4.3.0 later",
    )
    options = [each for fault in faults for each in ("--fault", fault)]
    with running_sink(command, *options) as sink:
        status, report, _ = command.report(sink.url)
    assert status == 1
    assert (report["accepted"], report["partial"], report["deferred"]) == (1, 1, 1)
    texts = [next(iter(each["recipients"].values()))["text"] for each in report["not_accepted"]]
    assert texts == ["5.1.1 unknown, and gone", "4.3.0 later"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--fault", "rcpt"), "--fault 'rcpt': one of reply=, close= and delay= is missing"),
        (("--fault", "rcpt delay=x"), "delay=x is not a number"),
        (("--fault", "rcpt when=1"), "'when' is not one of message, occurrence, times, delay"),
        (("--fault", "lunch delay=1"), "cannot start the sink: unknown point of a fault"),
        (("--fault", "rcpt close=softly"), "cannot start the sink: unknown close"),
        (("--user", "joe"), "--user is not of the form NAME:PASSWORD"),
        (("--user", ":x"), "--user is not of the form NAME:PASSWORD"),
        (("--save", "list.csv"), "--save list.csv: File exists"),
        (("--tls", "--host", "b\xfccher"), "cannot issue a certificate for b\xfccher"),
    ],
)
def test_wrong_options(command: Command, options: tuple[str, ...], expected: str) -> None:
    one_line(command("sink", *options), expected)


def test_a_file_that_cannot_be_written(command: Command) -> None:
    process = command.start("sink", "--save", "received")
    sink = RunningSink(process, prints_options=False)
    Path("received").rmdir()
    assert command.send(sink.url).returncode == 0
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "'messages': 3" in output
    expected = "rapidsmtp: --save received/000001.eml: No such file or directory"
    assert errors.splitlines()[0] == expected


def test_lines_are_harmless(command: Command) -> None:
    message = b"Subject: =?utf-8?q?=1B[2J=0A=E2=80=AEx?=\r\n\r\n"
    with running_sink(command) as sink:
        relay = urlsplit(sink.url)
        assert relay.hostname and relay.port
        with smtplib.SMTP(relay.hostname, relay.port) as client:
            client.sendmail("a@example.com", "b@example.com", message)
    line, _ = sink.output.splitlines()
    assert line.endswith("  \\x1b[2J \\u202ex") and "\x1b" not in sink.output


def test_a_long_line_is_cut() -> None:
    many = ReceivedMessage(
        sender="",
        recipients=[f"r{number}@example.com" for number in range(9)],
        data=b"subject: " + b"x" * 10_000 + b"\r\n\r\nSubject: body",
    )
    line = message_line(many)
    assert "  <> to r0@example.com, r1@example.com, r2@example.com and 6 more  " in line
    assert line.endswith("x" * 100 + "\N{HORIZONTAL ELLIPSIS}")


def test_taken_messages_are_removed(command: Command) -> None:
    with Sink() as sink:
        assert command.send(sink.url).returncode == 0
        first = sink.messages[0]
        taken = sink.take_messages()
        assert len(taken) == 3 and taken[0] is first
        assert sink.messages == [] == sink.take_messages()
        assert sink.counts["messages"] == 3
        assert command.send(sink.url, "--limit", "1").returncode == 0
        assert [each["To"] for each in sink.messages] == ["Anna <anna@example.com>"]
