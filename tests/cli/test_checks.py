"""The warnings that `rapidsmtp send` prints before it sends."""

import json

import pytest

from commandline import CSV, EML, ONCE, Command, Relays, accept
from rapidsmtp import TLS, Message, Template
from rapidsmtp._models.relay_url import parse_relay
from rapidsmtp.cli.send import checks, server_limits
from server import Connection, Server

FILES = ("--template", "message.eml", "--to", "list.csv")
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


def warnings_for(header: bytes, body: bytes = TEXT, author: str = "n@example.com") -> list[str]:
    data = b"From: News <%s>\r\nTo: a@example.org\r\n" % author.encode() + header + body
    template = Template.from_eml(data)
    return checks.check_template(template, Message("n@example.com", ["a@example.org"], data))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (GOOD, []),
        (b"", ["List-Unsubscribe is missing", "List-Unsubscribe-Post is missing"]),
        (GOOD.splitlines(True)[0], ["List-Unsubscribe-Post is missing"]),
        (GOOD.splitlines(True)[1], ["List-Unsubscribe is missing"]),
        (GOOD.replace(b"HTTPS", b"http"), ["List-Unsubscribe has no https URI"]),
        (
            GOOD.replace(b"One-Click", b"Two-Click"),
            ["List-Unsubscribe-Post must have the value List-Unsubscribe=One-Click"],
        ),
        (GOOD.replace(b", <HTTPS", b",\r\n <https"), []),
    ],
)
def test_unsubscribe(header: bytes, expected: list[str]) -> None:
    found = warnings_for(header)
    assert len(found) == len(expected), found
    for warning, start in zip(found, expected, strict=True):
        assert warning.startswith(start) and "RFC 8058" in warning
        name = "one-click" if "Post" in start else "list-unsubscribe"
        assert warning.endswith(f" [{name}]")


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
    found = warnings_for(GOOD, body)
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
    found = warnings_for(GOOD + header, author=author)
    assert found == [w for w in found if "not aligned" in w and signed.lower() in w]
    assert bool(found) != aligned
    # A message with one aligned signature gets no warning, even if another signature is not
    # aligned.
    assert warnings_for(GOOD + header + b"DKIM-Signature: d=example.com\r\n") == []


BARE = EML.replace("List-Unsubscribe: <https://example.com/u>\n", "")
TWICE = CSV + "4,Anna,anna@EXAMPLE.com\n"


@pytest.mark.parametrize("extra", [("--dry-run",), ("--preview", "1")])
def test_warnings_without_sending(command: Command, extra: tuple[str, ...]) -> None:
    command.write("message.eml", BARE)
    command.write("list.csv", TWICE)
    result = command("send", *FILES, *extra)
    first, second = result.stderr.splitlines()
    assert result.returncode == 0
    assert first.startswith("rapidsmtp: warning: List-Unsubscribe is missing; ")
    assert second == (
        "rapidsmtp: warning: 1 row repeats a recipient of an earlier row: line 5 "
        "(anna@example.com); it is not sent without --duplicates all [duplicate]"
    )
    result = command("send", *FILES, "--json", "--overwrite", "--preview", "1")
    assert result.stderr == "" and len(json.loads(result.stdout)["warnings"]) == 2
    result = command("send", *FILES, "--no-warnings", "--overwrite", "--preview", "1", "--json")
    assert json.loads(result.stdout)["warnings"] == []


def test_only_the_limited_rows_are_checked(command: Command) -> None:
    command.write("list.csv", TWICE)
    assert command("send", *FILES, "--dry-run", "--limit", "3").stderr == ""


def test_a_constant_bcc_is_not_a_duplicate(command: Command) -> None:
    assert command("send", *FILES, "--dry-run").stderr == ""


def test_warnings_do_not_stop_the_sending(command: Command, relays: Relays) -> None:
    command.write("message.eml", BARE)
    command.write("list.csv", TWICE)
    relay = relays()
    result = command.send(relay.url)
    assert result.returncode == 0 and len(relay.bodies) == 3
    assert [line[:20] for line in result.stderr.splitlines()] == ["rapidsmtp: warning: "] * 2
    status, report, errors = command.report(relay.url)
    assert (status, errors, len(report["warnings"])) == (0, "", 2)
    result = command.send(relay.url, "--no-warnings")
    assert (result.returncode, result.stderr) == (0, "")


def test_the_sample_is_the_first_valid_row(command: Command, relays: Relays) -> None:
    command.write("message.eml", BARE)
    command.write("list.csv", CSV.replace("anna@example.com", "anna"))
    status, report, _ = command.report(relays().url, *ONCE)
    assert (status, len(report["warnings"])) == (1, 1)


def test_an_escape_in_a_list_is_not_printed(command: Command) -> None:
    command.write("list.csv", CSV + '4,A,"an\x1b[2Ja@example.com"\n5,A,"an\x1b[2Ja@example.com"\n')
    result = command("send", *FILES, "--dry-run")
    assert "\x1b" not in result.stderr and r"line 6 (an\x1b[2Ja@example.com)" in result.stderr


@pytest.mark.parametrize(
    ("size", "extensions", "expected"),
    [
        (100_000, "SIZE 90000", True),
        (100_000, "SIZE 900000", False),
        (100_000, "SIZE 0", False),
        (100_000, "SIZE", False),
        # RFC 1870 section 4: a client ignores a parameter that is not a number of up to 20 digits.
        (100_000, "SIZE 9_0", False),
        (100_000, "SIZE +90", False),
        (100_000, "SIZE 000000000000000000090", False),
        (100_000, "", False),
        # Every server must accept a message of 1,000 bytes (RFC 5321 4.5.3.1.7), so there is no
        # warning, although the relay states a lower limit.
        (1_000, "SIZE 500", False),
    ],
)
def test_a_message_above_the_size_of_the_relay(
    command: Command, relays: Relays, size: int, extensions: str, expected: bool
) -> None:
    relay = relays(accept, extensions)
    command.write("message.eml", EML + "a line of 20 bytes..\n" * (size // 21))
    result = command.send(relay.url)
    warned = [line for line in result.stderr.splitlines() if "(SIZE)" in line]
    assert len(warned) == expected
    if expected:
        assert relay.host in warned[0] and "accepts 90000 (SIZE)" in warned[0]
        # The warning was correct: the message is not accepted.
        assert result.returncode == 1 and not relay.bodies


def test_a_relay_that_is_not_reachable_is_reported_by_the_sender(command: Command) -> None:
    command.write("message.eml", EML + "a line of 20 bytes..\n" * 5000)
    result = command.send("smtp://127.0.0.1:9")
    assert result.returncode == 2 and "(SIZE)" not in result.stderr
    assert "127.0.0.1:9" in result.stderr


def test_the_check_of_the_size_has_a_time_limit() -> None:
    """The time limit applies to the whole check. Bytes that arrive one by one do not extend it."""

    def script(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        connection.line()
        for byte in b"250-" + b"x" * 60 + b"\r\n250 SIZE 90000\r\n":
            connection.send(bytes([byte]))
            connection.over.wait(0.05)
        connection.rest()

    large = Message("a@example.com", ["b@example.com"], b"x" * 100_000)
    with Server(script) as server:
        relay = parse_relay(f"smtp://127.0.0.1:{server.port}", mechanisms=[])
        assert server_limits.check_size(large, relay, TLS(), 0.3) == []


@pytest.mark.parametrize(
    ("to", "count"),
    [
        ("To: me@example.com", 1),
        ("To: me@example.com\nCc: me@example.com", 1),
        ("To: undisclosed-recipients:;\nBcc: {{ email }}", 0),
        ("To: {{ name }} <{{ email }}>", 0),
    ],
)
def test_the_same_recipients_in_all_messages(command: Command, to: str, count: int) -> None:
    """A message of a mail program has the address that it was sent to."""
    command.write("message.eml", f"From: n@example.com\n{to}\nSubject: s\n\nHi {{{{ name }}}}\n")
    result = command("send", *FILES, "--dry-run")
    text = (
        "warning: all 3 messages go to the same recipients, because To, Cc and Bcc of the template "
        "have no field; write To: {{ email }} [same-recipients]"
    )
    assert result.returncode == 0 and result.stderr.count(text) == count
    result = command("send", *FILES, "--dry-run", "--limit", "1")
    assert "same-recipients" not in result.stderr
