"""`rapidsmtp send` without --template: the options describe the message."""

import email
import email.policy
import os
import socket
import threading
from contextlib import closing
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from commandline import ONCE, Command, Relays, ScriptedRelay, one_line

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
PARTS = ("--from", "News <news@example.com>", "--subject", "Hi {{ name }}", "--text", "news.txt")


@pytest.fixture(autouse=True)
def files(tmp_path: Any) -> None:
    (tmp_path / "news.txt").write_bytes("\N{BOM}Dear {{ name }},\r\nthe news.\r\n".encode())
    (tmp_path / "news.html").write_text('<p>Dear {{ name }}</p><img src="cid:logo">')
    (tmp_path / "logo.png").write_bytes(PNG)
    (tmp_path / "agenda.pdf").write_bytes(b"%PDF-1.4 agenda")
    (tmp_path / "terms.txt").write_text("The terms: {{ not a field }}\n")


def parsed(body: str) -> EmailMessage:
    message = email.message_from_string(body, policy=email.policy.default)
    assert isinstance(message, EmailMessage) and not message.defects
    return message


def text_of(message: EmailMessage, kind: str) -> str:
    body = message.get_body((kind,))
    assert body is not None
    return body.get_content().replace("\r\n", "\n")


def sent(
    command: Command, relays: Relays, *arguments: str
) -> tuple[list[EmailMessage], ScriptedRelay]:
    relay = relays()
    to = ("--to", "list.csv", "--no-warnings", *ONCE)
    result = command("send", "--relay", relay.url, *to, *arguments)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return [parsed(f"{body}\n") for body in relay.bodies], relay


def test_a_plain_message(command: Command, relays: Relays) -> None:
    messages, relay = sent(command, relays, *PARTS)
    assert [message["To"] for message in messages] == [
        f"{name}@example.com" for name in ("anna", "bo", "cy")
    ]
    first = messages[0]
    assert (first["From"], first["Subject"]) == ("News <news@example.com>", "Hi Anna")
    assert first.get_content_type() == "text/plain"
    assert text_of(first, "plain") == "Dear Anna,\nthe news.\n"
    assert first["Date"] and first["Message-ID"]
    assert sum(line.upper() == "MAIL FROM:<NEWS@EXAMPLE.COM>" for line in relay.lines) == 3


def test_all_parts(command: Command, relays: Relays) -> None:
    messages, relay = sent(
        command, relays, *PARTS, "--html", "news.html", "--inline", "logo=logo.png",
        "--attach", "agenda.pdf", "--attach", "terms.txt",
        "--address", "{{ name }} <{{ email }}>",
        "--header", "Reply-To: hello@example.com", "--header", "bcc:hidden@example.com",
        "--header", "X-Campaign:  winter {{ id }} ",
    )  # fmt: skip
    second = messages[1]
    assert second["To"] == "Bo <bo@example.com>" and second["Reply-To"] == "hello@example.com"
    assert second["X-Campaign"] == "winter 2" and second["Bcc"] is None
    assert sum("hidden@example.com" in line for line in relay.lines) == 3
    assert text_of(second, "plain") == "Dear Bo,\nthe news.\n"
    assert text_of(second, "html").startswith("<p>Dear Bo</p>")
    (image,) = [part for part in second.walk() if part["Content-ID"]]
    assert image["Content-ID"] == "<logo>" and image.get_content() == PNG
    attached = {part.get_filename(): part for part in second.iter_attachments()}
    assert list(attached) == ["agenda.pdf", "terms.txt"]
    assert attached["agenda.pdf"].get_content() == b"%PDF-1.4 agenda"
    assert attached["terms.txt"].get_payload(decode=True) == b"The terms: {{ not a field }}\n"


def test_a_text_from_standard_input(command: Command, relays: Relays) -> None:
    relay = relays()
    arguments = ("--to", "list.csv", *PARTS[:4], "--text", "-", "--limit", "1", "--json")
    text = "Dear {{ name }}, from standard input\n"
    result = command("send", "--relay", relay.url, *arguments, stdin=text)
    assert result.returncode == 0 and "Dear Anna, from standard input" in relay.bodies[0]


def test_html_without_plain_text(command: Command) -> None:
    result = command(
        "send", "--to", "list.csv", *PARTS[:4], "--html", "news.html", "--preview", "1",
        "--no-warnings",
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    message = parsed((command.directory / "preview/1.eml").read_text())
    assert message.get_content_type() == "text/html" and "Anna" in text_of(message, "html")


WITHOUT = {name: PARTS[:at] + PARTS[at + 2 :] for at, name in enumerate(PARTS) if name[0] == "-"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "no message given; use --template FILE.eml, or --from, --subject and --text or"),
        (("--template", "message.eml", *PARTS), "--from cannot be combined with --template"),
        (("--template", "message.eml", "--html", "x"), "--html cannot be combined with --template"),
        (
            ("--template", "message.eml", "--inline", "a=x"),
            "--inline cannot be combined with --template",
        ),
        (
            ("--template", "message.eml", "--address", ""),
            "--address cannot be combined with --template",
        ),
        (WITHOUT["--from"], "--from is missing; a message without --template needs it"),
        (WITHOUT["--subject"], "--subject is missing; a message without --template needs it"),
        (WITHOUT["--text"], "--text and --html are missing; a message without --template"),
        ((*PARTS, "--text", "absent.txt"), "--text absent.txt: No such file"),
        ((*PARTS, "--text", "."), "--text .: Is a directory"),
        (
            (*PARTS, "--text", "logo.png"),
            "--text logo.png: the text is not UTF-8; save it as UTF-8",
        ),
        (
            (*PARTS, "--html", "logo.png"),
            "--html logo.png: the text is not UTF-8, and it has no <meta charset>; save it as UTF",
        ),
        ((*PARTS, "--text", "nul.txt"), "--text nul.txt: the text contains a NUL byte"),
        ((*PARTS, "--html", "absent.html"), "--html absent.html: No such file"),
        ((*PARTS, "--html", "broken.html"), "text/html part"),
        ((*PARTS, "--attach", "absent.pdf"), "absent.pdf: No such file"),
        ((*PARTS, "--attach", "."), ".: Is a directory"),
        ((*PARTS, "--inline", "logo=logo.png"), "--inline needs --html"),
        (
            (*PARTS, "--html", "news.html", "--inline", "logo.png"),
            "--inline 'logo.png' is not of the form NAME=FILE",
        ),
        (
            (*PARTS, "--html", "news.html", "--inline", "a>b=logo.png"),
            "is not of the form NAME=FILE",
        ),
        ((*PARTS, "--html", "news.html", "--inline", "logo=x.png"), "x.png: No such file"),
        (
            (*PARTS, "--html", "news.html", "--inline", "a=logo.png", "--inline", "a=logo.png"),
            "--inline a is given twice",
        ),
        ((*PARTS, "--header", "no colon"), "--header 'no colon' is not one line of the form"),
        ((*PARTS, "--header", "X Y: z"), "--header 'X Y: z' is not one line of the form"),
        ((*PARTS, "--header", "X: a\nBcc: b@example.com"), "is not one line of the form"),
        ((*PARTS, "--header", "X: 1", "--header", "x: 2"), "--header x is given twice"),
        ((*PARTS, "--header", "From: other@example.com"), "more than one From"),
        (
            (*PARTS, "--header", "Content-Type: text/plain"),
            "Content-Type cannot be set: compose writes it",
        ),
        ((*PARTS, "--header", "X: {{ name"), "header X"),
        ((*PARTS, "--subject", "{% include 'x' %}"), "header Subject"),
        ((*PARTS, "--subject", "{{ surname }}"), "no column 'surname'"),
        ((*PARTS, "--address", "{{ mail }}"), "no column 'mail'"),
        ((*PARTS, "--from", "nobody"), "'nobody' is not an address"),
        (
            (*PARTS, "--text", "-", "--to", "-"),
            "only one of --text, --html and --to can read standard input",
        ),
    ],
)
def test_bad_options(command: Command, arguments: tuple[str, ...], expected: str) -> None:
    command.write("nul.txt", b"Dear\0")
    command.write("broken.html", "<p>{% if x %}</p>")
    one_line(command("send", "--to", "list.csv", "--dry-run", *arguments), expected)


def test_an_unreadable_attachment(command: Command) -> None:
    # Tests may run as root, and root can read files that other users cannot read. The attachment is
    # a socket, because even root cannot open a socket as a file.
    with closing(socket.socket(socket.AF_UNIX)) as unreadable:
        unreadable.bind("agenda.sock")
        arguments = ("--to", "list.csv", *PARTS, "--attach", "agenda.sock", "--dry-run")
        one_line(command("send", *arguments), "agenda.sock: No such device or address")


@pytest.mark.parametrize("option", ["--text", "--attach"])
def test_a_file_may_be_a_pipe(command: Command, option: str) -> None:
    """Read a part from a pipe, as in `--attach <(command)`. A pipe can be read only once."""
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_bytes, args=[b"from a pipe {{ name }}\n"])
    writer.start()
    arguments = ("--to", "list.csv", *PARTS, option, "pipe", "--preview", "1", "--no-warnings")
    result = command("send", *arguments)
    writer.join()
    assert (result.returncode, result.stderr) == (0, "")
    message = parsed(Path("preview/1.eml").read_text())
    if option == "--text":
        assert text_of(message, "plain") == "from a pipe Anna\n"
    else:
        (attached,) = message.iter_attachments()
        assert attached.get_content() == b"from a pipe {{ name }}\n"


def test_no_relay(command: Command) -> None:
    one_line(
        command("send", "--to", "list.csv", *PARTS),
        "--relay is missing; only --preview and --dry-run work without it",
    )


def test_inline_images_of_an_html_file(command: Command) -> None:
    """The images that a designer exports with the HTML become inline images."""
    folder = command.directory / "design"
    (folder / "images/more").mkdir(parents=True)
    for name in ("images/my logo.png", "images/more/my logo.png", "back.gif", "style.css"):
        (folder / name).write_bytes(b"image")
    (command.directory / "secret.png").write_bytes(b"secret")
    (folder / "images/news.html").write_text(
        "<p>Dear {{ name }}</p>"
        "<img src=\"my%20logo.png\"><img alt=1 SRC = 'more/my logo.png?1'><img src=my%20logo.png>"
        '<td background="./more/../my logo.png"><p style="background:url(\'../back.gif\')">'
        '<img src="../../secret.png"><img src="missing.png"><img src="https://a.example/b.png">'
        '<img src="{{ name }}.png"><img src="cid:x"><img src="/etc/passwd"><a href="my logo.png">'
        '<p src="../style.css"><img src="' + "a" * 900 + '.png">'
    )
    options = ("--html", "design/images/news.html", "--inline-images", "--preview", "1")
    other = ("--inline", "2-my_logo.png=logo.png")
    result = command("send", "--to", "list.csv", *PARTS[:4], *options, *other)
    assert result.returncode == 0, result.stderr
    message = parsed(Path("preview/1.eml").read_text())
    images = [part for part in message.walk() if part.get_content_maintype() == "image"]
    names = ["<my_logo.png>", "<3-my_logo.png>", "<2-my_logo.png>"]
    assert [part["Content-ID"] for part in images] == names
    html = message.get_body(("html",)).get_content()
    assert html.startswith(
        "<p>Dear Anna</p>"
        "<img src=\"cid:my_logo.png\"><img alt=1 SRC = 'cid:3-my_logo.png'>"
        "<img src=cid:my_logo.png>"
        '<td background="cid:my_logo.png"><p style="background:url(\'../back.gif\')">'
        '<img src="../../secret.png"><img src="missing.png"><img src="https://a.example/b.png">'
        '<img src="Anna.png"><img src="cid:x"><img src="/etc/passwd"><a href="my logo.png">'
    )
    assert "src=missing.png is relative" in result.stderr
    assert "or use --inline-images" in result.stderr


_STATED = '<meta http-equiv="Content-Type" content="text/html; charset={}">'


@pytest.mark.parametrize(
    ("stated", "encoding"),
    [
        ("windows-1252", "cp1252"),
        ("iso-8859-1", "cp1252"),  # browsers read it as windows-1252
        ("windows-1252", "utf-8"),  # saved as UTF-8, with the `meta` of the earlier file
        ("unicode", "utf-16"),
        ("Shift_JIS", "shift_jis"),
    ],
)
def test_html_that_states_its_charset(command: Command, stated: str, encoding: str) -> None:
    """HTML of Word and of older programs is not UTF-8, and needs no change."""
    text = "\u65e5\u672c" if stated == "Shift_JIS" else "Gr\xfc\xdfe \u2013 5 \u20ac"
    html = f"{_STATED.format(stated)}<p>{{{{ name }}}}: {text}</p>"
    (command.directory / "old.html").write_bytes(html.encode(encoding))
    options = (*PARTS[:4], "--html", "old.html", "--preview", "1")
    result = command("send", "--to", "list.csv", *options)
    assert result.returncode == 0, result.stderr
    message = parsed((command.directory / "preview/1.eml").read_text())
    assert f"<p>Anna: {text}</p>" in text_of(message, "html")


def test_html_that_is_not_valid_in_its_charset(command: Command) -> None:
    (command.directory / "old.html").write_bytes(_STATED.format("utf-8").encode() + b"\xfc")
    wrong = command("send", "--to", "list.csv", *PARTS[:4], "--html", "old.html", "--dry-run")
    one_line(wrong, "--html old.html: the text is not valid in its charset, utf-8")


def test_inline_images_need_html(command: Command) -> None:
    options = ("send", "--to", "list.csv", "--inline-images", "--dry-run")
    one_line(command(*options, *PARTS), "--inline-images needs --html")
    wrong = command(*options, "--template", "message.eml")
    one_line(wrong, "--inline-images cannot be combined with --template")


@pytest.mark.parametrize(
    "start", ["<!DOCTYPE html><html>", "\ufeff\n <HTML lang=en>", "<!-- x -->"]
)
def test_an_html_file_is_no_message_file(plain_command: Command, start: str) -> None:
    plain_command.write("news.html", f"{start}<p>Hello")
    wrong = plain_command("send", "--template", "news.html", "--to", "list.csv", "--dry-run")
    one_line(
        wrong,
        "news.html: not a message: it does not begin with header fields; for an HTML file, use "
        "--html with --from and --subject",
    )
