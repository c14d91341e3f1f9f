"""Bad input gives one line on stderr and exit status 2, and nothing is sent."""

import socket
from contextlib import closing

import pytest

from commandline import CSV, EML, Command, Relays, one_line

NESTED = "".join(
    f"Content-Type: multipart/mixed; boundary=b{number}\n\n--b{number}\n" for number in range(1000)
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://no-such-host.invalid", "does not resolve"),
        ("http://127.0.0.1", "must begin with smtp://"),
        ("127.0.0.1:25", "must begin with smtp://"),
        ("smtp://", "has no host"),
        ("smtp://127.0.0.1:0", "port"),
        ("smtp://127.0.0.1:99999", "wrong"),
        ("smtp://127.0.0.1:x", "wrong"),
        ("smtp://[::1", "wrong"),
        ("", "must begin with smtp://"),
        (f"smtp://{'x' * 300}:25", "does not resolve"),
        ("smtp://127.0.0.1/path", "must end after the host"),
        ("smtp://127.0.0.1?starttls=maybe", "starttls=maybe"),
        ("smtp://127.0.0.1?nonsense=1", "unknown option 'nonsense'"),
        ("smtps://127.0.0.1?starttls=required", "not possible over smtps://"),
        ("smtp://user@127.0.0.1", "RAPIDSMTP_PASSWORD"),
        ("lmtp:///no/such/socket", "/no/such/socket: No such file"),
    ],
)
def test_a_bad_url(command: Command, url: str, expected: str) -> None:
    one_line(command.send(url), expected)


def test_a_refused_port(command: Command) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    one_line(command.send(f"smtp://127.0.0.1:{port}"), "refused")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("message.eml", EML.replace("{{ name }}\n", "{{ name \n"), "message.eml: "),
        ("message.eml", EML + "{% include 'x' %}", "message.eml: "),
        ("message.eml", EML.replace("{{ name }}", "{{ surname }}"), "no column 'surname'"),
        ("message.eml", "", "not a message"),
        (
            "list.csv",
            CSV.replace("name", "nom", 1),
            "no column 'name'; the columns are: 'id', 'nom', 'email'",
        ),
        ("list.csv", CSV + "4,Dee,d@x.org,,5\n", "list.csv, line 5: 5 cells but 3 columns"),
        (
            "list.csv",
            CSV.encode() + b"4,D\xe9,d@example.com\n",
            "list.csv, line 5: the text is not UTF-8; give its encoding, such as "
            '--encoding "windows-1252"',
        ),
        ("list.csv", "", "list.csv, line 1: no column 'email'; the list is empty"),
        ("list.csv", "id,name,email\n", "list.csv: the list has column names but no rows"),
        ("list.csv", CSV.replace("Bo", "B\0o"), "list.csv, line 3: the text contains a NUL byte"),
        (
            "list.csv",
            CSV.replace("Bo", '"Bo'),
            "list.csv, line 3: the quote of a cell is not closed",
        ),
        (
            "list.csv",
            CSV.encode("utf-16-le"),
            "list.csv, line 1: the text contains a NUL byte; the file is damaged, or its encoding "
            'is another one, such as --encoding "utf-16-le"',
        ),
        ("message.eml", "From: n@example.com\nSubject: x\n\nDear\n", "neither To nor Cc nor Bcc"),
        ("message.eml", bytes(range(256)), "not a message"),
        (
            "message.eml",
            "From: =?utf-8?b?YQ0KYg==?=@x.org\nTo: {{ email }}\n\ntext\n",
            "message.eml: header From: an encoded word is not allowed in an address",
        ),
        (
            "message.eml",
            f"From: {'x' * 400_000}@x.org\nTo: {{{{ email }}}}\n\ntext\n",
            "@x.org' is not an address",
        ),
        (
            "message.eml",
            "From: a@x.org\nTo: {{ email }}\n" + NESTED,
            "message.eml: the message has nested parts with more than 50 levels",
        ),
    ],
)
def test_bad_files(
    command: Command, relays: Relays, name: str, text: str | bytes, expected: str
) -> None:
    relay = relays()
    command.write(name, text)
    result = command.send(relay.url)
    one_line(result, expected)
    assert len(result.stderr) < 600
    assert relay.connections == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--template", "absent.eml"), "absent.eml: No such file"),
        (("--to", "absent.csv"), "absent.csv: No such file"),
        (("--to", "."), "Is a directory"),
        (("--template", "."), "Is a directory"),
        (("--encoding", "klingon"), "unknown encoding 'klingon'"),
        (("--tag", "nickname"), "no column 'nickname'"),
        (("--limit", "0"), "--limit: 0 is too small: the minimum is 1"),
        (("--limit", "few"), "--limit: 'few' is not a whole number"),
        (("--timeout", "0"), "--timeout"),
        (("--connections", "0"), "--connections: 0 is too small: the minimum is 1"),
        (("--connections", "9" * 20), "is too large: the maximum is 2147483647"),
        (("--rate", "0"), "--rate: rate must be above 0"),
        (("--rate", "600/year"), "--rate: rate is '600/year': it must be a number"),
        (("--rate", "nan"), "--rate: rate is nan"),
        (("--pipelining", "fast"), "--pipelining: invalid choice: 'fast'"),
        (("--on-unknown", "panic"), "--on-unknown: invalid choice: 'panic'"),
        (("--not-accepted", "absent/failed.csv"), "--not-accepted absent/failed.csv: No such file"),
        (("--trace", "."), "--trace .: Is a directory"),
        (
            ("--ca-file", "message.eml"),
            "--ca-file message.eml: the file must contain certificates, in PEM",
        ),
        (("--ca-file", "absent.pem"), "--ca-file absent.pem: No such file"),
        (("--ca-file", "."), "--ca-file .: Is a directory"),
        (
            ("--certificate", "message.eml"),
            "--certificate message.eml: the file must contain a certificate",
        ),
        (("--certificate", "absent.pem"), "--certificate absent.pem: No such file"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_bad_arguments(
    command: Command, relays: Relays, arguments: tuple[str, ...], expected: str
) -> None:
    relay = relays()
    one_line(command.send(relay.url, *arguments), expected)
    assert relay.connections == 0


def test_an_empty_sender(command: Command, relays: Relays) -> None:
    command.write("text", "hello\n")
    message = ("--from", " ", "--subject", "s", "--text", "text")
    one_line(
        command("send", "--relay", relays().url, "--to", "list.csv", *message), "--from is empty"
    )


@pytest.mark.parametrize("mode", [(), ("--dry-run",), ("--preview", "1")], ids=str)
def test_a_sender_with_an_encoded_word(
    command: Command, relays: Relays, mode: tuple[str, ...]
) -> None:
    command.write("text", "hello\n")
    message = ("--from", "=?utf-8?b?YQ0KYg==?=@x.org", "--subject", "s", "--text", "text")
    relay = relays()
    one_line(
        command("send", "--relay", relay.url, "--to", "list.csv", *message, *mode),
        "header From: an encoded word is not allowed in an address",
    )
    assert relay.connections == 0


def test_no_command(command: Command) -> None:
    expected = (
        "no command given; use send, campaign, demo, bench, run or sink (see rapidsmtp --help)"
    )
    one_line(command(), expected)
    one_line(command("--nonsense"), "--nonsense")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("demo", "--limit", "x"), "whole number"),
        (("demo", "--to", "absent.csv"), "absent.csv: No such file"),
        (("demo", "--template", "."), "Is a directory"),
        (("nonsense",), "invalid choice: 'nonsense'"),
        (("run", "."), ".: a directory without __main__.py cannot be run"),
    ],
)
def test_bad_arguments_of_other_commands(
    command: Command, arguments: tuple[str, ...], expected: str
) -> None:
    one_line(command(*arguments), expected)


def test_a_sink_that_cannot_be_started(command: Command, backend: str) -> None:
    if backend == "python":
        one_line(command("sink"), "the sink needs the compiled backend")
        return
    one_line(command("sink", "--port", "99999"), "--port: '99999' is not a port number")
    one_line(command("sink", "--port", "x"), "--port: 'x' is not a port number (0 to 65535)")
    one_line(command("sink", "--threads", "0"), "--threads: 0 is too small")
    one_line(command("sink", "--latency", "soon"), "--latency: 'soon' is not a duration")
    one_line(command("sink", "--host", "no.such.host.invalid"), "cannot start the sink: ")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        result = command("sink", "--port", port)
        one_line(result, "cannot start the sink: Address already in use")
        one_line(result, f"; use another --port than {port}")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--timeout", "1000001"),
        ("--timeout", "2147483647"),
        ("--rate", "1e300"),
        ("--rate", "inf"),
        ("--rate", "nan"),
        ("--rate", "1e-300"),
    ],
)
def test_a_number_out_of_range(plain_command: Command, option: str, value: str) -> None:
    one_line(plain_command.send("smtp://127.0.0.1:1", option, value), option)
