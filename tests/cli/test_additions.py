"""`rapidsmtp send --return-path`, `--attach` with fields, `--calendar` and `--text auto`."""

import email
import email.policy
import json
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from commandline import Command, Relays, one_line

HTML = "<p>Hi {{ id }}</p>"
HEAD = "From: n@example.com\nTo: {{ email }}\nSubject: s\nContent-Type: text/html\n"
EML = f"{HEAD}\n{HTML}\n"
EVENT = "BEGIN:VCALENDAR\nMETHOD:REQUEST\nBEGIN:VEVENT\nUID:{{ id }}\nEND:VEVENT\nEND:VCALENDAR\n"
OPTIONS = ("--from", "n@example.com", "--subject", "s", "--html", "news.html")
TEMPLATE = ("--template", "news.eml")


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    (tmp_path / "news.eml").write_text(EML)
    (tmp_path / "news.html").write_text(HTML)
    (tmp_path / "invite.ics").write_text(EVENT)
    (tmp_path / "rows.csv").write_text("email,id\na@example.org,1\nb@example.org,2\n")
    (tmp_path / "tickets").mkdir()
    for number in (1, 2):
        (tmp_path / "tickets" / f"{number}.pdf").write_bytes(b"%d" % number)


def rendered(command: Command, *arguments: str, limit: int = 1) -> tuple[Any, EmailMessage]:
    """Return the report of a dry run, and the first message."""
    preview = ("--preview", "1", "--overwrite", "--dry-run", "--json", "--no-warnings")
    result = command("send", "--to", "rows.csv", "--limit", str(limit), *arguments, *preview)
    assert result.stderr == "", result.stderr
    data = Path("preview/1.eml").read_bytes()
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage) and not message.defects
    return json.loads(result.stdout), message


@pytest.mark.parametrize("source", [OPTIONS, TEMPLATE], ids=["options", "template"])
def test_all_additions(command: Command, source: tuple[str, ...]) -> None:
    report, message = rendered(
        command,
        *(*source, "--text", "auto", "--calendar", "invite.ics"),
        *("--attach", "{{ id }}.pdf", "--attachment-root", "tickets"),
        *("--return-path", "b+{{ id }}@example.com"),
    )
    assert report["envelope_sender"] == "b+{{ id }}@example.com"
    assert report["preview"][0]["sender"] == "b+1@example.com"
    types = [part.get_content_type() for part in message.walk() if not part.is_multipart()]
    texts = ["text/plain", "text/html", "text/calendar"]
    assert types[:3] == texts
    assert sorted(types[3:]) == ["application/ics", "application/pdf"]
    plain = message.get_body(("plain",))
    assert plain is not None and plain.get_content().strip() == "Hi 1"
    page = Path("preview/index.html").read_text("utf-8")
    assert "b+1@example.com" in page and "1.pdf: application/pdf" in page


@pytest.mark.parametrize("source", [OPTIONS, TEMPLATE], ids=["options", "template"])
def test_the_null_sender(command: Command, source: tuple[str, ...]) -> None:
    report, _ = rendered(command, *source, "--return-path", "")
    assert report["envelope_sender"] == "" and report["preview"][0]["sender"] == ""
    result = command("send", *source, "--to", "rows.csv", "--dry-run", "--return-path", "")
    assert "envelope sender: <>\n" in result.stdout
    assert "no bounces" in Path("preview/index.html").read_text("utf-8")


def test_the_relay_and_the_report(command: Command, relays: Relays) -> None:
    relay = relays()
    arguments = (*TEMPLATE, "--to", "rows.csv", "--no-warnings", "--json")
    result = command(
        "send", "--relay", relay.url, *arguments, "--return-path", "b+{{ id }}@example.com"
    )
    report = json.loads(result.stdout)
    assert (result.returncode, report["accepted"]) == (0, 2)
    assert report["envelope_sender"] == "b+{{ id }}@example.com"
    commands = (line.partition(":") for line in relay.lines)
    senders = {path.split()[0] for name, _, path in commands if name.lower() == "mail from"}
    assert senders == {"<b+1@example.com>", "<b+2@example.com>"}


def test_a_row_without_its_file_is_invalid(command: Command) -> None:
    Path("tickets/2.pdf").unlink()
    arguments = ("--dry-run", "--json", "--no-warnings", "--attach", "tickets/{{ id }}.pdf")
    result = command("send", *TEMPLATE, "--to", "rows.csv", *arguments)
    report = json.loads(result.stdout)
    assert (result.returncode, report["valid"], report["invalid"]) == (1, 1, 1)
    reason = report["invalid_rows"][0]["reason"]
    assert reason.startswith("attachment 'tickets/2.pdf': there is no such file in ")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--return-path", "nobody"), "--return-path: 'nobody' is not an address"),
        (("--attach", "/srv/{{ id }}"), "is below --attachment-root; use a relative path"),
        (("--attach", "{{ id }}", "--attachment-root", "x"), "No such file or directory"),
        (("--calendar", "missing.ics"), "missing.ics: No such file or directory"),
        (("--calendar", "rows.csv"), "--calendar 'rows.csv': it is no text from BEGIN:VCALENDAR"),
        (("--header", "Return-Path: a@b"), "use --return-path"),
    ],
)
def test_errors_name_the_option(command: Command, arguments: tuple[str, ...], error: str) -> None:
    result = command("send", *OPTIONS, "--to", "rows.csv", "--dry-run", *arguments)
    one_line(result, error)


def test_a_text_from_html_needs_html(command: Command) -> None:
    arguments = ("--from", "n@example.com", "--subject", "s", "--text", "auto")
    result = command("send", *arguments, "--to", "rows.csv", "--dry-run")
    one_line(result, "--text auto needs --html")
    Path("news.eml").write_text(EML.replace("text/html", "text/plain"))
    result = command("send", *TEMPLATE, "--text", "auto", "--to", "rows.csv", "--dry-run")
    one_line(result, "--text auto: the message has a plain text already")
    result = command("send", *TEMPLATE, "--text", "x", "--to", "rows.csv", "--dry-run")
    one_line(result, "--text cannot be combined with --template")
