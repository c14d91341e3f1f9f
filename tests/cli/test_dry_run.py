"""`rapidsmtp send --preview` and `--dry-run`: messages are built, and no connection is opened."""

import csv
import email
import email.policy
import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from commandline import EML, Command, Relays, one_line
from rapidsmtp import Template

FILES = ("--template", "message.eml", "--to", "list.csv")


def names(folder: str) -> list[str]:
    """Return the names of the messages in a folder."""
    return sorted(path.name for path in Path(folder).glob("*.eml"))


def test_preview(command: Command) -> None:
    result = command("send", *FILES, "--preview", "2")
    assert (result.returncode, result.stderr) == (0, "")
    assert names("preview") == ["1.eml", "2.eml"]
    data = Path("preview/2.eml").read_bytes()
    assert data.count(b"\n") == data.count(b"\r\n") > 3
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert not message.defects
    assert (message["To"], message["Subject"]) == ("Bo <bo@example.com>", "Hello Bo")
    # The table also shows recipients that are only in the envelope, for example a Bcc recipient.
    lines = [re.split("  +", line.strip()) for line in result.stdout.splitlines()]
    assert ["preview/2.eml", "bo@example.com, hidden@example.com", f"{len(data)}"] in lines
    assert "the first 2: nothing was sent" in result.stdout
    # The preview equals the rendered message. Date and Message-ID are not compared, because each
    # rendering generates new values.
    expected = Template.from_eml("message.eml").render({"name": "Bo", "email": "bo@example.com"})
    unique = re.compile(rb"(?m)^(Date|Message-ID): .*\r\n( .*\r\n)*")
    assert unique.sub(b"", data) == unique.sub(b"", expected.data)


def test_preview_files_are_named_by_number_and_tag(command: Command) -> None:
    rows = "".join(f"{tag},N,n@example.com\n" for tag in ["a b/../c", "\xe9t\xe9", "x" * 300, ""])
    command.write("list.csv", "id,name,email\n" + rows * 3)
    options = ("--preview-to", "a/b", "--tag", "id", "--duplicates", "all")
    result = command("send", *FILES, "--preview", "10", *options)
    assert result.returncode == 0, result.stderr
    assert names("a/b")[:4] == [
        "01-a_b_.._c.eml",
        "02-\xe9t\xe9.eml",
        f"03-{'x' * 49}.eml",
        "04-.eml",
    ]
    assert len(names("a/b")) == 10


def test_preview_of_more_rows_than_the_list_has(command: Command) -> None:
    assert command("send", *FILES, "--preview", "50", "--limit", "2").returncode == 0
    assert names("preview") == ["1.eml", "2.eml"]


def test_files_are_overwritten_only_with_overwrite(command: Command) -> None:
    Path("preview").mkdir()
    Path("preview/2.eml").write_text("mine")
    one_line(
        command("send", *FILES, "--preview", "3"), "preview/2.eml exists already; use --overwrite"
    )
    assert names("preview") == ["2.eml"] and Path("preview/2.eml").read_text() == "mine"
    assert command("send", *FILES, "--preview", "3", "--overwrite").returncode == 0
    assert names("preview") == ["1.eml", "2.eml", "3.eml"]
    assert "Dear Bo" in Path("preview/2.eml").read_text()


def test_a_dangling_link_is_not_followed(command: Command) -> None:
    Path("preview").mkdir()
    Path("preview/1.eml").symlink_to("elsewhere.eml")
    one_line(command("send", *FILES, "--preview", "1"), "preview/1.eml: File exists")
    assert not Path("preview/elsewhere.eml").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--preview", "0"), "--preview: 0 is too small: the minimum is 1"),
        (("--preview", "few"), "--preview: 'few' is not a whole number"),
        (
            ("--preview", "1", "--preview-to", "message.eml"),
            "--preview-to message.eml: File exists",
        ),
        (("--preview", "1", "--preview-to", "message.eml/x"), "message.eml/x: Not a directory"),
        (("--preview", "1", "--preview-to", "/proc/x"), "--preview-to /proc/x: "),
        (("--preview", "1", "--template", "absent.eml"), "absent.eml: No such file"),
        (("--preview", "1", "--to", "absent.csv"), "absent.csv: No such file"),
        (("--preview", "1", "--tag", "nickname"), "no column 'nickname'"),
        (("--preview-to", "x"), "--preview-to needs --preview"),
        (("--overwrite",), "--overwrite needs --preview"),
        (("--dry-run", "--preview-to", "x"), "--preview-to needs --preview"),
        (("--dry-run", "--to", "empty.csv"), "empty.csv: the list has column names but no rows"),
        (("--dry-run", "--relay", "http://x"), "must begin with smtp://"),
        (("--dry-run", "--not-accepted", "absent/x.csv"), "absent/x.csv: No such file"),
        ((), "--relay is missing; only --preview and --dry-run work without it"),
    ],
)
def test_bad_options(command: Command, arguments: tuple[str, ...], expected: str) -> None:
    command.write("empty.csv", "id,name,email\n")
    one_line(command("send", *FILES, *arguments), expected)


def test_dry_run_opens_no_connection(command: Command, relays: Relays) -> None:
    relay = relays()
    result = command.send(relay.url, "--dry-run", "--preview", "1")
    assert (result.returncode, result.stderr, relay.connections) == (0, "", 0)
    lines = [re.split("  +", line.strip()) for line in result.stdout.splitlines()]
    assert ["valid", "3"] in lines and ["invalid", "0"] in lines and ["recipients", "6"] in lines
    assert "dry run: nothing was sent" in result.stdout
    assert (command.directory / "preview/1.eml").exists()


def test_dry_run_does_not_use_the_network(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    assert command("send", *FILES, "--dry-run", "--relay", "smtp://no.such.host").returncode == 0


BAD = EML.replace("Dear {{ name }}", "Dear {{ name }}{{ ' of ' ~ city }}")
ROWS = (
    "id,name,email,city\n1,Anna,anna@example.com,Ulm\n2,Bo,nobody,Bonn\n3,,cy@example.com,Kiel\n"
    "4,Di,di@example.com,Jena\n5,Ed,nobody,Hof\n"
)


def test_invalid_rows_are_reported(command: Command) -> None:
    command.write("list.csv", ROWS)
    result = command("send", *FILES, "--dry-run", "--not-accepted", "bad.csv")
    assert (result.returncode, result.stderr) == (1, "")
    lines = [re.split("  +", line.strip()) for line in result.stdout.splitlines()]
    assert ["valid", "2"] in lines and ["invalid", "3"] in lines
    (same,) = [line for line in lines if "'nobody' is not an address" in line[0]]
    assert same[1:] == ["2", "line 3, line 6"]
    (empty,) = [line for line in lines if line[-1] == "line 4"]
    assert "name" in empty[0]
    with Path("bad.csv").open(newline="") as file:
        found = [(line["id"], line["outcome"]) for line in csv.DictReader(file)]
    assert found == [("2", "invalid"), ("3", "invalid"), ("5", "invalid")]


def test_an_invalid_first_row(command: Command) -> None:
    command.write("list.csv", ROWS.replace("anna@example.com", "anna"))
    result = command("send", *FILES, "--preview", "2", "--json", "--tag", "id")
    report = json.loads(result.stdout)
    assert (result.returncode, report["valid"], report["invalid"]) == (1, 0, 2)
    assert report["preview"] == [] and names("preview") == []
    assert [each["tag"] for each in report["invalid_rows"]] == ["1", "2"]


def test_json(command: Command) -> None:
    command.write("list.csv", ROWS)
    result = command("send", *FILES, "--dry-run", "--preview", "4", "--json", "--tag", "id")
    report = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (1, "")
    assert report["dry_run"] is True and report["warnings"] == []
    assert (report["messages"], report["valid"], report["invalid"]) == (5, 2, 3)
    assert report["recipients"] == 4
    first, second = report["preview"]
    assert (first["row"], first["tag"], first["path"]) == (1, "1", "preview/1-1.eml")
    assert second["path"] == "preview/4-4.eml"
    assert second["recipients"] == ["di@example.com", "hidden@example.com"]
    assert second["sender"] == "news@example.com"
    sizes = [len(Path(each["path"]).read_bytes()) for each in report["preview"]]
    assert [each["bytes"] for each in report["preview"]] == sizes
    assert (report["bytes"], report["largest"]) == (sum(sizes), max(sizes))
    rows = [(each["row"], each["status"], each["phase"]) for each in report["invalid_rows"]]
    assert rows == [(2, "invalid", "build"), (3, "invalid", "build"), (5, "invalid", "build")]
    assert "'nobody' is not an address" in report["invalid_rows"][0]["reason"]


def test_dry_run_of_a_limited_list(command: Command) -> None:
    report = json.loads(command("send", *FILES, "--dry-run", "--limit", "2", "--json").stdout)
    assert (report["messages"], report["valid"], report["preview"]) == (2, 2, [])


def test_ctrl_c(command: Command) -> None:
    rows = "".join(f"{n},N{n},n{n}@example.com\n" for n in range(50_000))
    command.write("list.csv", "id,name,email\n" + rows)
    # The second preview file is a named pipe without a reader. It blocks the command at the second
    # message until Ctrl-C.
    folder = command.directory / "preview"
    folder.mkdir()
    os.mkfifo(folder / "2.eml")
    process = command.start("send", *FILES, "--dry-run", "--preview", "2", "--overwrite")
    first = folder / "1.eml"
    deadline = time.monotonic() + 60
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", "rapidsmtp: interrupted\n")
