"""What `rapidsmtp send` warns of before the mail goes out."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from commandline import CSV, EML, ONCE, Command, Relay, accept
from rapidsmtp import Message
from rapidsmtp.cli import advice

FILES = ("--template", "letter.eml", "--to", "list.csv")
GOOD = (
    b"List-Unsubscribe: <mailto:u@example.com>, <HTTPS://example.com/u?a=1>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
)
HTML = b"MIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n<p>x</p>\r\n"
RELATED = b"MIME-Version: 1.0\r\nContent-Type: multipart/%s; boundary=b\r\n\r\n%s--b--\r\n"
TEXT_PART = b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n"
HTML_PART = b"--b\r\nContent-Type: text/html\r\n\r\n<p>x</p>\r\n"
FILE_PART = TEXT_PART.replace(b"\r\n\r\n", b"\r\nContent-Disposition: attachment\r\n\r\n", 1)
TEXT = b"\r\nx\r\n"


def advice_for(header: bytes, body: bytes = TEXT, author: str = "n@example.com") -> list[str]:
    data = b"From: News <%s>\r\nTo: a@example.org\r\n" % author.encode() + header + body
    return advice.of_message(Message("n@example.com", ["a@example.org"], data))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (GOOD, []),
        (b"", ["no List-Unsubscribe:", "no List-Unsubscribe-Post:"]),
        (GOOD.splitlines(True)[0], ["no List-Unsubscribe-Post:"]),
        (GOOD.splitlines(True)[1], ["no List-Unsubscribe:"]),
        (GOOD.replace(b"HTTPS", b"http"), ["List-Unsubscribe has no https URI"]),
        (GOOD.replace(b"One-Click", b"Two-Click"), ["List-Unsubscribe-Post is not"]),
        (GOOD.replace(b", <HTTPS", b",\r\n <https"), []),
    ],
)
def test_unsubscribe(header: bytes, expected: list[str]) -> None:
    found = advice_for(header)
    assert len(found) == len(expected), found
    for warning, start in zip(found, expected, strict=True):
        assert warning.startswith(start) and "RFC 8058" in warning


@pytest.mark.parametrize(
    ("body", "warned"),
    [
        (TEXT, False),
        (HTML, True),
        (RELATED % (b"alternative", TEXT_PART + HTML_PART), False),
        (RELATED % (b"alternative", HTML_PART), True),
        (RELATED % (b"related", HTML_PART + FILE_PART), True),
        (RELATED % (b"mixed", HTML_PART + FILE_PART), True),
        (RELATED % (b"mixed", FILE_PART), False),
    ],
)
def test_text_alternative(body: bytes, warned: bool) -> None:
    found = advice_for(GOOD, body)
    assert found == ([w for w in found if "plain text" in w]) and bool(found) == warned


@pytest.mark.parametrize(
    ("author", "signed", "aligned"),
    [
        ("n@example.com", "example.com", True),
        ("n@news.example.com", "example.com", True),
        ("n@example.com", "mail.Example.COM", True),
        ("n@a.example.com", "b.example.com", True),
        ("n@example.com", "example.net", False),
        ("n@example.com", "notexample.com", False),
        ("n@one.co.uk", "two.co.uk", False),
        ("n@news.one.co.uk", "one.co.uk", True),
        ("n@one.de", "two.de", False),
    ],
)
def test_alignment(author: str, signed: str, aligned: bool) -> None:
    header = f"DKIM-Signature: v=1; a=rsa-sha256;\r\n d={signed} ; s=x; bh=d=y; b=z\r\n".encode()
    found = advice_for(GOOD + header, author=author)
    assert found == [w for w in found if "not aligned" in w and signed.lower() in w]
    assert bool(found) != aligned
    # One signature that is aligned is enough.
    assert advice_for(GOOD + header + b"DKIM-Signature: d=example.com\r\n") == []


def test_duplicates() -> None:
    rows: list[dict[str, Any]] = [
        {"email": f"a{number % 7}@example.com", "name": f"{number}"} for number in range(12)
    ]
    assert advice.of_list(rows[:7], ["email", "name"]) == []
    assert advice.of_list([*rows[:7], {"email": " A3@Example.com", "name": "x"}], ["email"]) == [
        "1 row with a recipient that an earlier row has: row 8 (a3@example.com)"
    ]
    assert advice.of_list(rows, ["email", "name"]) == [
        "5 rows with a recipient that an earlier row has: row 8 (a0@example.com), "
        "row 9 (a1@example.com), row 10 (a2@example.com), …"
    ]
    # An address that the template puts together is all of its fields.
    users = [{"user": "a", "domain": "x"}, {"user": "b", "domain": "x"}]
    assert advice.of_list(users, ["user", "domain"]) == []
    assert len(advice.of_list([*users, users[0]], ["user", "domain"])) == 1
    assert advice.of_list(users, []) == []


def test_duplicates_are_looked_for_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "_MOST_KNOWN", 3)
    rows = [{"email": f"{name}@example.com"} for name in "abcdead"]
    (found,) = advice.of_list(rows, ["email"])
    assert found.startswith("1 row ") and found.endswith("; compared with the first 3 alone")


BARE = EML.replace("List-Unsubscribe: <https://example.com/u>\n", "")
TWICE = CSV + "4,Anna,ANNA@example.com\n"


@pytest.mark.parametrize("extra", [("--dry-run",), ("--preview", "1")])
def test_before_anything_is_sent(here: Any, extra: tuple[str, ...]) -> None:
    here.write("letter.eml", BARE)
    here.write("list.csv", TWICE)
    result = here("send", *FILES, *extra)
    first, second = result.stderr.splitlines()
    assert result.returncode == 0
    assert first.startswith("rapidsmtp: warning: no List-Unsubscribe: ")
    assert second.endswith("an earlier row has: row 4 (anna@example.com)")
    result = here("send", *FILES, "--json", "--overwrite", "--preview", "1")
    assert result.stderr == "" and len(json.loads(result.stdout)["warnings"]) == 2
    result = here("send", *FILES, "--no-warnings", "--overwrite", "--preview", "1", "--json")
    assert json.loads(result.stdout)["warnings"] == []


def test_of_a_limited_list(here: Any) -> None:
    here.write("list.csv", TWICE)
    assert here("send", *FILES, "--dry-run", "--limit", "3").stderr == ""


def test_a_constant_bcc_is_no_duplicate(here: Any) -> None:
    assert here("send", *FILES, "--dry-run").stderr == ""


def test_warnings_are_no_errors(command: Command, relays: Callable[..., Relay]) -> None:
    command.write("letter.eml", BARE)
    command.write("list.csv", TWICE)
    relay = relays()
    result = command.send(relay.url)
    assert result.returncode == 0 and len(relay.bodies) == 4
    assert [line[:20] for line in result.stderr.splitlines()] == ["rapidsmtp: warning: "] * 2
    status, report, errors = command.report(relay.url)
    assert (status, errors, len(report["warnings"])) == (0, "", 2)
    result = command.send(relay.url, "--no-warnings")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_sample_is_looked_for_behind_bad_rows(
    command: Command, relays: Callable[..., Relay]
) -> None:
    command.write("letter.eml", BARE)
    command.write("list.csv", CSV.replace("anna@example.com", "anna"))
    status, report, _ = command.report(relays().url, *ONCE)
    assert (status, len(report["warnings"])) == (1, 1)


def test_an_escape_in_a_list_is_not_obeyed(here: Any) -> None:
    here.write("list.csv", CSV + '4,A,"an\x1b[2Ja@example.com"\n5,A,"an\x1b[2Ja@example.com"\n')
    result = here("send", *FILES, "--dry-run")
    assert "\x1b" not in result.stderr and "row 5 (an [2ja@example.com)" in result.stderr


@pytest.mark.parametrize(
    ("size", "extensions", "expected"),
    [
        (100_000, "SIZE 90000", True),
        (100_000, "SIZE 900000", False),
        (100_000, "SIZE 0", False),
        (100_000, "SIZE", False),
        (100_000, "", False),
        (1_000, "SIZE 500", False),  # no server may refuse so little: it is not asked
    ],
)
def test_a_message_above_the_relays_size(
    here: Any, relays: Callable[..., Relay], size: int, extensions: str, expected: bool
) -> None:
    relay = relays(accept, extensions)
    here.write("letter.eml", EML + "a line of 20 octets\n" * (size // 21))
    result = here.send(relay.url)
    warned = [line for line in result.stderr.splitlines() if "(SIZE)" in line]
    assert len(warned) == expected
    if expected:
        assert relay.host in warned[0] and "takes 90000" in warned[0]
        # And it is true.
        assert result.returncode == 1 and not relay.bodies


def test_a_relay_that_cannot_be_asked_is_the_senders_to_tell(here: Any) -> None:
    here.write("letter.eml", EML + "a line of 20 octets\n" * 5000)
    result = here.send("smtp://127.0.0.1:9")
    assert result.returncode == 2 and "(SIZE)" not in result.stderr
    assert "127.0.0.1:9" in result.stderr
