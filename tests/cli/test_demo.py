"""`rapidsmtp demo`: three ways from a row to an accepted message, and the same is delivered."""

import email
import email.policy
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from commandline import CSV, EML, Command, one_line
from rapidsmtp import Message, Template
from rapidsmtp.cli import demo, serving
from rapidsmtp.cli.contenders import Contender, newsletter_contenders
from rapidsmtp.cli.letter import Letter
from rapidsmtp.cli.sameness import all_same, facts

NAMES = ["smtplib", "drop-in", "Template, Sender"]
FILES = ("--template", "letter.eml", "--to", "list.csv")
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


def rows_of(table: str) -> list[dict[str, str]]:
    head, *lines = [line.split(",") for line in table.splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_table(command: Command) -> None:
    result = command("demo", "--limit", "20")
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert result.stdout.startswith("server: ") and "20 subscribers, a message of 44" in (
        result.stdout
    )
    lines = [re.split("  +", line.strip()) for line in result.stdout.splitlines()]
    figures = {line[0]: line[1:] for line in lines if len(line) == 6}
    assert list(figures) == NAMES
    for sent, refused, seconds, a_second, times in figures.values():
        assert (sent, refused) == ("20", "0")
        assert 20 / float(a_second) == pytest.approx(float(seconds), rel=0.01, abs=0.0006)
        assert float(times) > 0
    assert figures["smtplib"][4] == "1.0"
    assert "Compared: the same header fields and texts in 5 messages" in result.stdout


def test_json(command: Command, half: str) -> None:
    result = command("demo", "--limit", "6", "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 0 and result.stderr.startswith("server: ")
    assert (report["implementation"], report["same"], report["interrupted"]) == (half, True, False)
    assert (report["subscribers"], report["compared"]) == (6, 5) and report["octets"] > 40_000
    assert [way["name"] for way in report["ways"]] == NAMES
    for way in report["ways"]:
        assert (way["accepted"], way["refused"]) == (6, 0)
        assert way["per_second"] == pytest.approx(6 / way["seconds"], rel=0.2)
    composing = [way["composing"] for way in report["ways"]]
    assert composing[2] is None
    for way in report["ways"][:2]:
        assert 0 < way["composing"] < way["seconds"]


def test_without_a_sink_of_ours(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (serving, demo):
        monkeypatch.setattr(module, "server_name", lambda: "aiosmtpd")
    result = here("demo", "--limit", "3", "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 0 and "aiosmtpd" in result.stderr
    assert report["same"] and [way["accepted"] for way in report["ways"]] == [3, 3, 3]


def test_a_slow_way_is_given_no_more_than_its_time(
    here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(letter: Letter, row: Any) -> EmailMessage:
        time.sleep(0.02)
        return compose(letter, row)

    compose = Letter.compose
    monkeypatch.setattr(Letter, "compose", slow)
    monkeypatch.setattr(demo, "_SECONDS", 0.4)
    rows = "".join(f"{n},N{n},n{n}@example.com\n" for n in range(90))
    here.write("list.csv", "id,name,email\n" + rows)
    report = json.loads(here("demo", *FILES, "--json").stdout)
    smtplib, drop_in, ours = report["ways"]
    assert 0 < smtplib["accepted"] <= 20 and 0 < drop_in["accepted"] <= 20
    assert smtplib["seconds"] < 2 and drop_in["seconds"] < 2
    assert ours["accepted"] == 90


def test_a_letter_is_what_a_template_makes(here: Any) -> None:
    """With names to be escaped, and all kinds of parts."""
    here.write("letter.eml", FULL)
    letter, template = Letter("letter.eml"), Template.from_eml("letter.eml")
    for row in rows_of(ODD):
        message = letter.compose(row)
        ours = template.render(row)
        del message["Bcc"]
        theirs = facts(message.as_bytes())
        assert facts(ours.data) == theirs
        assert f"Grüße {row['name']}" in repr(theirs)
        assert [leaf[-1] for leaf in theirs[1]][2:] == [b"\x89PNG\r\n\x1a\n", b"%PDF-1"]


def test_a_template_with_all_kinds_of_parts(here: Any) -> None:
    here.write("letter.eml", FULL)
    here.write("list.csv", ODD)
    result = here("demo", *FILES, "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 0 and report["same"]
    assert (report["compared"], [way["accepted"] for way in report["ways"]]) == (2, [2, 2, 2])


def test_rows_that_make_no_message(here: Any) -> None:
    here.write("list.csv", CSV.replace("bo@example.com", "not@one@address"))
    result = here("demo", *FILES, "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 1 and report["same"] and report["compared"] == 2
    for way in report["ways"]:
        assert (way["accepted"], way["refused"]) == (2, 1), way


@dataclass(slots=True)
class Liar(Contender):
    """Delivers what it was not given."""

    def _send(self, messages: Sequence[Any]) -> None: ...

    def close(self) -> None: ...


def test_a_difference_is_seen(here: Any, half: str) -> None:
    rows = rows_of(CSV)
    letter, template = Letter("letter.eml"), Template.from_eml("letter.eml")
    here.write("other.eml", EML.replace("Dear", "Deer"))
    other = Template.from_eml("other.eml")

    def ways(template: Template) -> Any:
        return lambda url: newsletter_contenders(url, letter, template)

    assert all_same(ways(template), rows)
    assert not all_same(ways(other), rows)
    # Nor is it the same where one way delivers nothing.
    assert not all_same(lambda url: [*ways(template)(url), Liar("liar")], rows)


def test_a_difference_is_told(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "all_same", lambda make, rows: False)
    result = here("demo", *FILES)
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
def test_facts(change: tuple[bytes, bytes], same: bool) -> None:
    row = {"name": "Anna", "email": "anna@example.com"}
    message = Template.from_eml(EML.encode()).render(row)
    assert isinstance(message, Message)
    changed = message.data.replace(*change)
    assert changed != message.data
    assert (facts(changed) == facts(message.data)) == same


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("list.csv", "id,name,email\n1,A,nobody\n", "none of its first rows makes a message"),
        ("list.csv", "id,name,email\n", "no rows"),
        ("letter.eml", EML + "{% nonsense %}", "letter.eml: "),
        (
            "letter.eml",
            EML.replace("\n\n", "\nMIME-Version: 1.0\nContent-Type: message/rfc822\n\n", 1),
            "the demo takes no message/rfc822 part",
        ),
    ],
)
def test_bad_files(here: Any, name: str, text: str, expected: str) -> None:
    here.write(name, text)
    one_line(here("demo", *FILES), expected)


def test_the_example_is_one(here: Any) -> None:
    message = Letter(str(EXAMPLE)).compose(
        {"id": 1, "name": "Ann", "email": "a@example.com", "city": "Ulm", "member": "", "token": 1}
    )
    parsed = email.message_from_bytes(message.as_bytes(), policy=email.policy.default)
    assert parsed["Subject"] == "Der Lesesaal im Advent — for Ann" and not parsed.defects
