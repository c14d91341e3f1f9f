"""Messages of the command line: each names the fact and the cure, and can be read on a terminal."""

import re

import pytest

from commandline import EML, ONCE, Command, Relays, ScriptedRelay, accept, one_line
from rapidsmtp.cli.send.failures import grouped_reason
from terminal import ESCAPE, Terminal, lines_of

SEND = ("--template", "message.eml", "--to", "list.csv", *ONCE)


@pytest.mark.parametrize("name", ["send", "bench", "demo", "sink"])
def test_an_unknown_option_points_to_the_help_of_its_command(command: Command, name: str) -> None:
    arguments = SEND if name == "send" else ()
    expected = f"unrecognized arguments: --wrong (see rapidsmtp {name} --help)"
    one_line(command(name, *arguments[:4], "--wrong"), expected)
    one_line(command("--wrong"), "unrecognized arguments: --wrong (see rapidsmtp --help)")


def test_an_address_in_place_of_a_list_names_the_test(command: Command) -> None:
    result = command("send", "--template", "message.eml", "--to", "me@example.com", "--dry-run")
    one_line(result, "--test-to me@example.com")


def test_a_rate_for_each_day(command: Command, relays: Relays) -> None:
    relay = relays()
    # The first message is sent at once.
    assert command.send(relay.url, "--limit", "1", "--rate", "300/day").returncode == 0
    assert len(relay.bodies) == 1
    one_line(command.send(relay.url, "--rate", "300/week"), "--rate: rate is '300/week'")


def test_reasons_with_addresses_and_ids_are_one_reason(command: Command, relays: Relays) -> None:
    ids = iter(["4Xk2Jd1QwZz", "4Xk2Jf0AbCd", "4Xk2Jg9XyZz"])

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if "RCPT" in line.upper():
            address = re.split("[<>]", line)[1]
            return f"550 5.1.1 <{address}>: no such user ({next(ids)})"
        return accept(relay, line)

    command.write("message.eml", EML.replace("Bcc: hidden@example.com\n", ""))
    result = command.send(relays(script).url)
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    expected = "refused: 550 5.1.1 <…>: no such user (…) 3 line 2, line 3, line 4"
    assert expected in rows and result.stdout.count("no such user") == 1


def test_a_reason_of_one_message_is_exact(command: Command, relays: Relays) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        return "550 5.1.1 4Xk2Jd1QwZz: gone" if "bo@" in line else accept(relay, line)

    command.write("message.eml", EML.replace("Bcc: hidden@example.com\n", ""))
    result = command.send(relays(script).url)
    assert "refused: 550 5.1.1 4Xk2Jd1QwZz: gone" in result.stdout


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("550 5.1.1 <a@x.org>: unknown", "550 5.1.1 <…>: unknown"),
        ("550 A@X.ORG unknown", "550 … unknown"),
        (
            "550-5.1.1 see https://x.org/?p=NoSuchUser d9443c01a7336-2ad20aca2b8si1234.1 - gsmtp",
            "550-5.1.1 see https://x.org/?p=NoSuchUser … - gsmtp",
        ),
        ("451 greylisted for 300 seconds, host 192.168.10.200", None),
        ("552 5.2.2 mailbox full: 1073741824 bytes", None),
        ("550 see https://www.spamhaus.org/query", None),
    ],
)
def test_parts_that_differ(reply: str, expected: str | None) -> None:
    assert grouped_reason(reply) == (expected or reply)


def test_the_password_is_asked_on_a_terminal(command: Command, relays: Relays) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        return "235 ok" if line.startswith("AUTH") else accept(relay, line)

    relay = relays(script, "AUTH PLAIN")
    url = relay.url.replace("://", "://joe@") + "?starttls=off"
    options = ("--relay", url, "--allow-plaintext-auth", *SEND, "--no-warnings")
    terminal = Terminal(command, "send", *options)
    terminal.read(lambda text: f"password of joe at {relay.host}: " in text)
    terminal.press(b"geheim\n")
    assert terminal.end() == 0
    assert "AUTH PLAIN AGpvZQBnZWhlaW0=" in relay.lines  # \0joe\0geheim
    assert "geheim" not in terminal.text and len(relay.bodies) == 3


@pytest.mark.parametrize(("key", "status"), [(b"\x03", 130), (b"\x04", 2)])
def test_the_prompt_can_be_left(command: Command, key: bytes, status: int) -> None:
    options = ("--relay", "smtp://joe@127.0.0.1:1", *SEND)
    terminal = Terminal(command, "send", *options)
    terminal.read(lambda text: "password of joe at 127.0.0.1:1: " in text)
    terminal.press(key)
    assert terminal.end() == status
    assert "Traceback" not in terminal.text


def test_no_password_is_asked_without_a_terminal(command: Command) -> None:
    one_line(command.send("smtp://joe@127.0.0.1:1"), "set RAPIDSMTP_PASSWORD")


def test_words_of_warnings_are_not_cut(command: Command, relays: Relays) -> None:
    command.write("message.eml", EML.replace("List-Unsubscribe", "X-Other"))
    terminal = Terminal(command, "send", "--relay", relays().url, *SEND)
    assert terminal.end() == 0
    lines = lines_of(ESCAPE.sub("", terminal.text))
    first = next(index for index, line in enumerate(lines) if "warning: List-Unsub" in line)
    assert lines[first].startswith("rapidsmtp: warning: ") and lines[first + 1].startswith("  ")
    assert max(map(len, lines)) <= 80
    words = " ".join(lines[first : first + 2]).split()
    assert "providers" in words and "mail" in words
