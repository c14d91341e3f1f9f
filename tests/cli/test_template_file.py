"""`rapidsmtp send --template`: dropped header fields, findings with places, --strict."""

import json

import pytest

from commandline import EML, Command, Relays

OLD = (
    "Received: from a by b\nMessage-ID: <old@example.com>\nDate: Mon, 30 Nov 2026 20:00:00 +0000\n"
    "DKIM-Signature: v=1; d=example.com; b=x\n"
)
FILES = ("--template", "message.eml", "--to", "list.csv")
DROPPED = (
    "header fields of the earlier message, not sent: Received, Message-ID, Date, DKIM-Signature"
)
HTML = EML.replace("\n\n", "\nContent-Type: text/html\n\n<a href='/x'>[FIRST_NAME]</a>\n", 1)


def test_the_summary_names_the_dropped_fields(command: Command, relays: Relays) -> None:
    command.write("message.eml", OLD + EML)
    relay = relays()
    result = command.send(relay.url)
    assert result.returncode == 0 and result.stdout.splitlines().count(DROPPED) == 1
    assert all("old@example.com" not in body and "Received" not in body for body in relay.bodies)
    _, report, _ = command.report(relay.url)
    assert report["dropped"] == ["Received", "Message-ID", "Date", "DKIM-Signature"]


def test_the_dry_run_names_the_dropped_fields(command: Command) -> None:
    command.write("message.eml", OLD + EML)
    assert DROPPED in command("send", *FILES, "--dry-run").stdout.splitlines()
    report = json.loads(command("send", *FILES, "--dry-run", "--json").stdout)
    assert report["dropped"] == ["Received", "Message-ID", "Date", "DKIM-Signature"]


def test_keep_headers(command: Command, relays: Relays) -> None:
    command.write("message.eml", OLD + EML)
    relay = relays()
    result = command.send(relay.url, "--keep-headers")
    assert result.returncode == 0 and "not sent" not in result.stdout
    assert all("old@example.com" in body for body in relay.bodies)
    result = command("send", "--to", "list.csv", "--subject", "s", "--keep-headers", "--dry-run")
    assert result.returncode == 2 and "--keep-headers needs --template" in result.stderr


@pytest.mark.parametrize("extra", [("--dry-run",), ("--preview", "1")])
def test_findings_have_a_place(command: Command, extra: tuple[str, ...]) -> None:
    command.write("message.eml", HTML)
    result = command("send", *FILES, *extra)
    assert result.returncode == 0
    assert [line.rpartition("[")[2] for line in result.stderr.splitlines()] == [
        "foreign-field]", "relative-link]", "plain-text]",
    ]  # fmt: skip
    assert "warning: text/html part, line 1, column 14: [FIRST_NAME] looks" in result.stderr
    result = command("send", *FILES, *extra, "--strict", "--overwrite" if extra[1:] else "--strict")
    assert result.returncode == 1
    assert "3 warnings, and --strict allows none; nothing was sent" in result.stderr


def test_strict_sends_nothing_after_a_warning(command: Command, relays: Relays) -> None:
    command.write("message.eml", HTML)
    relay = relays()
    result = command.send(relay.url, "--strict")
    assert result.returncode == 2 and relay.bodies == []
    assert "3 warnings, and --strict allows none; nothing was sent" in result.stderr
    command.write("message.eml", EML)
    assert command.send(relay.url, "--strict").returncode == 0 and len(relay.bodies) == 3


def test_a_field_in_a_signed_part_is_an_error(command: Command) -> None:
    head = EML.partition("\n\n")[0] + "\nContent-Type: multipart/signed; boundary=s\n\n"
    command.write("message.eml", head + "--s\n\n{{ name }}\n--s--\n")
    result = command("send", *FILES, "--dry-run")
    assert result.returncode == 2
    assert "message.eml: text/plain part: {{ name }} cannot be filled, because a signed" in (
        result.stderr
    )
