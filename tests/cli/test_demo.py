"""`rapidsmtp demo`: three competitors send the same newsletter."""

import email
import email.policy
import itertools
import json
import re
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

import rapidsmtp
from commandline import CSV, EML, Command, is_rate, one_line
from rapidsmtp import Message, Template
from rapidsmtp.cli.bench import campaign_demo, demo, local_server
from rapidsmtp.cli.bench.compare import content, deliver_same_content
from rapidsmtp.cli.bench.competitors import Competitor, newsletter_competitors
from rapidsmtp.cli.bench.reference_message import ReferenceMessage

NAMES = ["smtplib", "drop-in", "Template, Sender"]
FILES = ("--template", "message.eml", "--to", "list.csv")
EXAMPLE = Path(demo.__file__).with_name("newsletter.eml")

FULL = (
    'From: "=?utf-8?q?B=C3=BCcher=2C?= Inc." <news@example.com>\n'
    "Reply-To: A <a@example.com>, b@example.com\nTo: {{ name|upper }} <{{ email }}>\n"
    "Bcc: hidden@example.com\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= {{ name }}\n"
    "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=m\n\n"
    "--m\nContent-Type: multipart/alternative; boundary=a\n\n"
    "--a\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
    "Grüße {{ name }}\n.\n--a\nContent-Type: multipart/related; boundary=r\n\n"
    "--r\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
    '<p>Grüße {{ name }}<img src="cid:logo"></p>\n'
    "--r\nContent-Type: image/png\nContent-ID: <logo>\nContent-Disposition: inline; "
    "filename=l.png\nContent-Transfer-Encoding: base64\n\niVBORw0KGgo=\n--r--\n--a--\n"
    "--m\nContent-Type: application/pdf\nContent-Disposition: attachment; filename=a.pdf\n"
    "Content-Transfer-Encoding: base64\n\nJVBERi0x\n--m--\n"
)
ODD = "id,name,email\n1,Tom & <Ann>,tom@example.com\n2,佐藤 健太,sato@example.com\n"


@pytest.fixture(autouse=True)
def no_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the demo's time limit, because a slow machine must not end a competitor early."""
    monkeypatch.setattr(demo, "_SECONDS", 3600.0)


def rows_of(table: str) -> list[dict[str, str]]:
    head, *lines = [line.split(",") for line in table.splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_table(command: Command) -> None:
    result = command("demo", "--limit", "20")
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert result.stdout.startswith("server: ") and "20 subscribers, messages of 44 KB" in (
        result.stdout
    )
    lines = [re.split("  +", line.strip()) for line in result.stdout.splitlines()]
    figures = {line[0]: line[1:] for line in lines if len(line) == 6}
    assert list(figures) == NAMES
    for sent, refused, seconds, per_second, times in figures.values():
        assert (sent, refused) == ("20", "0")
        assert is_rate(float(per_second), 0.5, 20, float(seconds), 0.0005)
        assert float(times) >= 0
    assert figures["smtplib"][4] == "1.0"
    assert "Compared: the same header fields and texts in 5 messages of each" in result.stdout


def test_the_demo_runs_from_a_zip_file(plain_command: Command) -> None:
    package = Path(rapidsmtp.__file__).parent
    archive = plain_command.directory / "rapidsmtp.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in package.rglob("*"):
            if path.suffix in (".py", ".eml", ".csv"):
                file.write(path, path.relative_to(package.parent))
    plain_command.environment |= {"PYTHONPATH": str(archive)}
    result = plain_command.run("demo", "--limit", "2", "--json")
    assert result.returncode == 0, result.stderr
    assert [each["accepted"] for each in json.loads(result.stdout)["results"]] == [2, 2, 2]


def test_json(command: Command, backend: str) -> None:
    result = command("demo", "--limit", "6", "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 0 and result.stderr.startswith("server: ")
    assert (report["backend"], report["same"], report["interrupted"]) == (
        backend,
        True,
        False,
    )
    assert (report["subscribers"], report["compared"]) == (6, 5) and report[
        "message_bytes"
    ] > 40_000
    assert [each["by"] for each in report["results"]] == NAMES
    for each in report["results"]:
        assert (each["accepted"], each["refused"]) == (6, 0)
        assert is_rate(each["messages_per_second"], 0.05, 6, each["seconds"], 0.00005)
    base = report["results"][0]["seconds"]
    for each in report["results"]:
        ratio = base / each["seconds"]
        assert each["times_smtplib"] == pytest.approx(ratio, rel=0.05, abs=0.01)
    assert report["results"][2]["composing_seconds"] is None
    for each in report["results"][:2]:
        assert 0 < each["composing_seconds"] < each["seconds"]


def test_without_the_sink(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (local_server, demo):
        monkeypatch.setattr(module, "server_name", lambda: "aiosmtpd")
    result = command("demo", "--limit", "3", "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 0 and "aiosmtpd" in result.stderr
    assert report["same"] and [each["accepted"] for each in report["results"]] == [3, 3, 3]


def test_a_slow_competitor_stops_at_its_time_limit(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the demo on a clock that advances only when a message is built, by 20 ms each time."""
    clock = itertools.count()
    seconds = 0.0

    def slow(reference: ReferenceMessage, row: Any) -> EmailMessage:
        nonlocal seconds
        seconds = next(clock) * 0.02
        return compose(reference, row)

    compose = ReferenceMessage.compose
    monkeypatch.setattr(ReferenceMessage, "compose", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: seconds)
    monkeypatch.setattr(demo, "_SECONDS", 0.4)
    rows = "".join(f"{n},N{n},n{n}@example.com\n" for n in range(90))
    command.write("list.csv", "id,name,email\n" + rows)
    report = json.loads(command("demo", *FILES, "--json").stdout)
    smtplib, drop_in, sender = report["results"]
    for competitor in (smtplib, drop_in):
        assert 19 <= competitor["accepted"] <= 21
        assert competitor["seconds"] == pytest.approx(0.4, abs=0.03)
    assert sender["accepted"] == 90


def test_the_reference_message_equals_the_message_of_a_template(command: Command) -> None:
    """Both messages have the same content, for a template with all kinds of parts.

    The rows contain names that need escapes.
    """
    command.write("message.eml", FULL)
    reference = ReferenceMessage("message.eml")
    template = Template.from_eml("message.eml")
    for row in rows_of(ODD):
        message = reference.compose(row)
        rendered = template.render(row)
        del message["Bcc"]
        expected = content(message.as_bytes())
        assert content(rendered.data) == expected
        assert f"Grüße {row['name']}" in repr(expected)
        assert [leaf[-1] for leaf in expected[1]][2:] == [b"\x89PNG\r\n\x1a\n", b"%PDF-1"]


def test_a_template_with_all_kinds_of_parts(command: Command) -> None:
    command.write("message.eml", FULL)
    command.write("list.csv", ODD)
    result = command("demo", *FILES, "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 0 and report["same"]
    assert (report["compared"], [each["accepted"] for each in report["results"]]) == (2, [2, 2, 2])


def test_invalid_rows(command: Command) -> None:
    command.write("list.csv", CSV.replace("bo@example.com", "not@one@address"))
    result = command("demo", *FILES, "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 1 and report["same"] and report["compared"] == 2
    for each in report["results"]:
        assert (each["accepted"], each["refused"]) == (2, 1), each


@dataclass(slots=True)
class Silent(Competitor):
    """A competitor that delivers nothing."""

    def _send(self, messages: Sequence[Any]) -> None: ...

    def close(self) -> None: ...


def test_a_difference_is_detected(command: Command, backend: str) -> None:
    rows = rows_of(CSV)
    reference = ReferenceMessage("message.eml")
    template = Template.from_eml("message.eml")
    command.write("other.eml", EML.replace("Dear", "Deer"))
    other = Template.from_eml("other.eml")

    def competitors(template: Template) -> Any:
        return lambda url: newsletter_competitors(url, reference, template)

    assert deliver_same_content(competitors(template), rows)
    assert not deliver_same_content(competitors(other), rows)
    with_silent = lambda url: [*competitors(template)(url), Silent("silent")]  # noqa: E731
    assert not deliver_same_content(with_silent, rows)


def test_a_difference_is_reported(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "deliver_same_content", lambda make, rows: False)
    result = command("demo", *FILES)
    assert result.returncode == 1 and "Compared: NOT the same header fields" in result.stdout


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ((b"Hello", b"Hallo"), False),
        ((b"Dear", b"Deer"), False),
        ((b"anna@", b"hanna@"), False),
        ((b"example.com/u>", b"example.com/v>"), False),
        ((b"\r\n\r\nDear", b"\r\nX-Mailer: x\r\n\r\nDear"), True),
        ((b"Dear Anna\r\n", b"Dear Anna\r\n\r\n"), True),
    ],
)
def test_content(change: tuple[bytes, bytes], same: bool) -> None:
    row = {"name": "Anna", "email": "anna@example.com"}
    message = Template.from_eml(EML.encode()).render(row)
    assert isinstance(message, Message)
    changed = message.data.replace(*change)
    assert changed != message.data
    assert (content(changed) == content(message.data)) == same


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "list.csv",
            "id,name,email\n1,A,nobody\n",
            "none of the first 100 rows gives a valid message",
        ),
        ("list.csv", "id,name,email\n", "no rows"),
        ("message.eml", EML + "{% nonsense %}", "message.eml: "),
        (
            "message.eml",
            EML.partition("\n\n")[0]
            + "\nMIME-Version: 1.0\nContent-Type: message/rfc822\n\nSubject: s\n\nhello\n",
            "demo does not support a message/rfc822 part",
        ),
    ],
)
def test_bad_files(command: Command, name: str, text: str, expected: str) -> None:
    command.write(name, text)
    one_line(command("demo", *FILES), expected)


def test_the_example_newsletter(command: Command) -> None:
    message = ReferenceMessage(str(EXAMPLE)).compose(
        {"id": 1, "name": "Ann", "email": "a@example.com", "city": "Ulm", "member": "", "token": 1}
    )
    parsed = email.message_from_bytes(message.as_bytes(), policy=email.policy.default)
    assert parsed["Subject"] == "Der Lesesaal im Advent — for Ann" and not parsed.defects


def test_the_campaign_of_the_demo_loses_nothing(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign_demo, "_KILLS", 1)
    monkeypatch.setattr(campaign_demo, "_AWAY", 0.05)
    result = command("demo", "--campaign", "--limit", "300", "--json")
    assert result.returncode == 0, result.stdout
    values = json.loads(result.stdout)
    assert (values["subscribers"], values["sent_after_settle"]) == (300, 300)
    for name in ("sent_twice", "lost", "wrongly_accepted", "not_reported", "unknown_after_settle"):
        assert values[name] == 0, name
    assert values["unknown_sent"] <= values["unknown"]


def test_the_campaign_of_the_demo_has_its_own_message(plain_command: Command) -> None:
    one_line(plain_command("demo", "--campaign", "--to", "list.csv"), "--to cannot be combined")
