"""Bad input: one line on stderr, exit status 2, nothing sent."""

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from commandline import CSV, EML, Command, Relay, one_line


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://no-such-host.invalid", "does not resolve"),
        ("http://127.0.0.1", "must begin with smtp://"),
        ("127.0.0.1:25", "must begin with smtp://"),
        ("smtp://", "names no host"),
        ("smtp://127.0.0.1:0", "port"),
        ("smtp://127.0.0.1:99999", "wrong"),
        ("smtp://127.0.0.1:x", "wrong"),
        ("smtp://[::1", "wrong"),
        ("", "must begin with smtp://"),
        (f"smtp://{'x' * 300}:25", "does not resolve"),
        ("smtp://127.0.0.1/path", "behind the host"),
        ("smtp://127.0.0.1?starttls=maybe", "starttls=maybe"),
        ("smtp://127.0.0.1?nonsense=1", "unknown option 'nonsense'"),
        ("smtps://127.0.0.1?starttls=required", "no meaning"),
        ("smtp://user@127.0.0.1", "RAPIDSMTP_PASSWORD"),
        ("lmtp:///no/such/socket", "/no/such/socket: No such file"),
    ],
)
def test_bad_url(command: Command, url: str, expected: str) -> None:
    one_line(command.send(url), expected)


def test_refused_port(command: Command) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    one_line(command.send(f"smtp://127.0.0.1:{port}"), "refused")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("letter.eml", EML.replace("{{ name }}\n", "{{ name \n"), "letter.eml: "),
        ("letter.eml", EML + "{% include 'x' %}", "letter.eml: "),
        ("letter.eml", EML.replace("{{ name }}", "{{ surname }}"), "no column 'surname'"),
        ("letter.eml", "", "not a message"),
        (
            "list.csv",
            CSV.replace("name", "nom", 1),
            "no column 'name'; there are: 'id', 'nom', 'email'",
        ),
        ("list.csv", CSV + "4,Dee\n", "list.csv, line 5: no cell for the column 'email'"),
        ("list.csv", CSV.encode() + b"4,D\xe9,d@example.com\n", "not in the encoding utf-8-sig"),
        ("list.csv", "", "no column"),
        ("list.csv", "id,name,email\n", "no rows"),
        ("list.csv", CSV.replace("Bo", "B\0o"), "list.csv, line 3: a NUL byte"),
        ("list.csv", CSV.replace("Bo", '"Bo'), "list.csv, line 3: unexpected end of data"),
        ("list.csv", CSV.encode("utf-16"), "not in the encoding utf-8-sig"),
        ("letter.eml", "From: n@example.com\nSubject: x\n\nDear\n", "neither To nor Cc nor Bcc"),
        ("letter.eml", bytes(range(256)), "not a message"),
    ],
)
def test_bad_files(
    here: Any, relays: Callable[..., Relay], name: str, text: str | bytes, expected: str
) -> None:
    relay = relays()
    here.write(name, text)
    one_line(here.send(relay.url), expected)
    assert relay.connections == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--template", "absent.eml"), "absent.eml: No such file"),
        (("--to", "absent.csv"), "absent.csv: No such file"),
        (("--to", "."), "Is a directory"),
        (("--template", "."), "Is a directory"),
        (("--encoding", "klingon"), "no encoding"),
        (("--tag", "nickname"), "no column 'nickname'"),
        (("--limit", "0"), "--limit: 0 is not above zero"),
        (("--limit", "few"), "--limit: 'few' is not a whole number"),
        (("--timeout", "0"), "--timeout"),
        (("--connections", "0"), "--connections: 0 is not above zero"),
        (("--connections", "9" * 20), "is above 2147483647"),
        (("--rate", "0"), "--rate: rate must be above 0"),
        (("--rate", "600/year"), "--rate: rate is '600/year': it must be a number"),
        (("--rate", "nan"), "--rate: rate is nan"),
        (("--pipelining", "fast"), "--pipelining: invalid choice: 'fast'"),
        (("--on-unknown", "panic"), "--on-unknown: invalid choice: 'panic'"),
        (("--not-accepted", "absent/failed.csv"), "absent/failed.csv: No such file"),
        (("--trace", "."), ".: Is a directory"),
        (("--ca-file", "letter.eml"), "--ca-file letter.eml: it must be certificates, in PEM"),
        (("--ca-file", "absent.pem"), "--ca-file absent.pem: No such file"),
        (("--ca-file", "."), "--ca-file .: Is a directory"),
        (("--certificate", "letter.eml"), "--certificate letter.eml: it must be a certificate"),
        (("--certificate", "absent.pem"), "--certificate absent.pem: No such file"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_bad_arguments(
    here: Any, relays: Callable[..., Relay], arguments: tuple[str, ...], expected: str
) -> None:
    relay = relays()
    one_line(here.send(relay.url, *arguments), expected)
    assert relay.connections == 0


def test_no_sender(here: Any, relays: Callable[..., Relay]) -> None:
    here.write("text", "hello\n")
    message = ("--from", " ", "--subject", "s", "--text", "text")
    one_line(here("send", "--relay", relays().url, "--to", "list.csv", *message), "--from is empty")


def test_no_command(command: Command) -> None:
    one_line(command(), "required")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("demo", "--limit", "x"), "whole number"),
        (("demo", "--to", "absent.csv"), "absent.csv: No such file"),
        (("demo", "--template", "."), "Is a directory"),
        (("nonsense",), "invalid choice: 'nonsense'"),
        (("run", "."), ".: a folder without __main__.py"),
        (("run", "-m", "..nonsense"), "no module named ..nonsense"),
    ],
)
def test_bad_arguments_elsewhere(
    command: Command, arguments: tuple[str, ...], expected: str
) -> None:
    one_line(command(*arguments), expected)


@pytest.mark.rust
def test_a_sink_that_cannot_be(tmp_path: Path) -> None:
    command = Command(tmp_path, "rust")
    one_line(command("sink", "--port", "99999"), "no sink: out of range")
    one_line(command("sink", "--threads", "0"), "at least one")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        one_line(command("sink", "--port", port), "Address already in use")
