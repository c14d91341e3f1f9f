"""`rapidsmtp send --test-to`: the messages of the first rows go to one address."""

import email
import json
import re
import signal
import threading
from pathlib import Path

import pytest

from commandline import EML, ONCE, Command, Relays, ScriptedRelay, accept, one_line
from rapidsmtp import Message, Template
from rapidsmtp.cli.send.trial import as_test

TEST = ("--test-to", "me@example.org")
UNIQUE = re.compile(r"(?m)^(Date|Message-ID): .*\n(?:[ \t].*\n)*")


def envelopes(relay: ScriptedRelay) -> list[str]:
    return [line for line in relay.lines if line[:4].upper() in ("MAIL", "RCPT")]


@pytest.mark.parametrize("extensions", ["", "PIPELINING"])
def test_the_first_row_is_sent_to_the_address(
    command: Command, relays: Relays, extensions: str
) -> None:
    command.write(
        "message.eml", EML.replace("Bcc:", "Cc: copy@example.com,\n other@example.com\nBcc:")
    )
    relay = relays(accept, extensions)
    result = command.send(relay.url, *TEST)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(relay.bodies) == 1
    assert [re.split("[<>]", line)[1] for line in envelopes(relay)] == [
        "news@example.com",
        "me@example.org",
    ]
    message = email.message_from_string(relay.bodies[0])
    assert (message["To"], message["Subject"]) == ("me@example.org", "Hello Anna")
    assert message["Cc"] is None and message["Bcc"] is None
    assert message.get_payload() == "Dear Anna"
    text = " ".join(result.stdout.split())
    assert "This was a test: the messages went to me@example.org only." in text
    assert "Nobody on the list got a message." in text
    assert "messages per second" not in text and "sent to" not in text


def test_only_the_recipients_differ_from_the_real_message(command: Command, relays: Relays) -> None:
    relay = relays()
    assert command.send(relay.url, *TEST, "--limit", "3").returncode == 0
    assert command.send(relay.url).returncode == 0
    tests, messages = (
        [UNIQUE.sub("", body) for body in part] for part in (relay.bodies[:3], relay.bodies[3:])
    )
    expected = [re.sub("(?m)^To: .*$", "To: me@example.org", body) for body in messages]
    assert tests == expected and len(set(tests)) == 3


def test_no_row_is_counted_as_sent(command: Command, relays: Relays) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        second = line == "." and len(relay.bodies) == 2
        return "550 5.7.1 no" if second else accept(relay, line)

    status, report, _ = command.report(relays(script).url, *TEST, "--limit", "3")
    assert status == 1
    assert (report["messages"], report["accepted"]) == (0, 0)
    assert (report["test_messages"], report["test_accepted"], report["test_refused"]) == (3, 2, 1)
    assert report["test_to"] == "me@example.org"
    (failure,) = report["not_accepted"]
    assert (failure["row"], failure["tag"], *failure["recipients"]) == (2, "2", "me@example.org")


def test_an_invalid_row_is_reported(command: Command, relays: Relays) -> None:
    command.write("list.csv", "id,name,email\n1,Anna,nobody\n")
    relay = relays()
    result = command.send(relay.url, *TEST)
    assert result.returncode == 1 and not relay.bodies
    assert "'nobody' is not an address" in result.stdout


@pytest.mark.rust
def test_a_signature_is_valid_for_the_test_message(tmp_path: Path, relays: Relays) -> None:
    import dkim  # type: ignore[import-untyped]

    command = Command(tmp_path, "rust")
    seed = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
    public = b"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    command.write("key.txt", seed)
    options = ("--dkim-domain", "example.com", "--dkim-selector", "s", "--dkim-key", "key.txt")
    relay = relays()
    assert command.send(relay.url, *TEST, *options).returncode == 0
    data = relay.bodies[0].replace("\n", "\r\n").encode() + b"\r\n"
    assert data.count(b"DKIM-Signature:") == 1
    record = b"v=DKIM1; k=ed25519; p=" + public
    assert dkim.verify(data, dnsfunc=lambda *_, **__: record)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--test-to", "me"), "--test-to 'me' is not an address"),
        (("--test-to", "a@example.com, b@example.com"), "is not an address"),
        ((*TEST, "--dry-run"), "--dry-run cannot be combined with --test-to"),
        ((*TEST, "--preview", "1"), "--preview cannot be combined with --test-to"),
        ((*TEST, "--not-accepted", "f.csv"), "--not-accepted cannot be combined with --test-to"),
    ],
)
def test_wrong_options(
    command: Command, relays: Relays, options: tuple[str, ...], expected: str
) -> None:
    relay = relays()
    one_line(command.send(relay.url, *options), expected)
    assert not relay.connections


def test_a_dead_relay(command: Command) -> None:
    result = command.send("smtp://127.0.0.1:1", *TEST)
    assert result.returncode == 2 and "connect" in result.stderr and result.stdout == ""


def test_a_signal_ends_the_test(command: Command, relays: Relays) -> None:
    reached, ended = threading.Event(), threading.Event()

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line == ".":
            reached.set()
            ended.wait(300)
        return accept(relay, line)

    files = ("--template", "message.eml", "--to", "list.csv", "--json", *TEST, *ONCE)
    process = command.start("send", "--relay", relays(script).url, *files)
    assert reached.wait(60)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    ended.set()
    report = json.loads(output)
    assert (process.returncode, report["test_unknown"]) == (143, 1)
    assert report["stopped"] == "ended by SIGTERM"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Subject: x\r\n", "Subject: x\r\nTo: me@example.org\r\n"),
        ("To: a@x,\r\n b@x\r\nX: y\r\n", "To: me@example.org\r\nX: y\r\n"),
        ("to : a@x\r\nX: To: b\r\nCC: c@x\r\n", "To: me@example.org\r\nX: To: b\r\n"),
        ("X: 1\r\nTo: a@x\r\nTo: b@x\r\nBCC:\r\n", "X: 1\r\nTo: me@example.org\r\n"),
    ],
)
def test_header_fields(header: str, expected: str) -> None:
    body = "\r\nTo: body\r\n"
    message = Message("s@example.com", ["a@x"], (header + body).encode(), tag=7)
    found = as_test(message, "me@example.org")
    assert (found.data.decode(), found.tag) == (expected + body, 7)
    assert (found.sender, found.recipients) == ("s@example.com", ("me@example.org",))


def test_a_rendered_message_is_unchanged_except_for_to(backend: str) -> None:
    template = Template.compose(sender="n@example.com", to="{{ e }}", subject="s", text="t")
    message = template.render({"e": "a@example.com"})
    test = as_test(message, "a@example.com")
    assert test.data == message.data
