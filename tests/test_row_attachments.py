"""Attachments whose paths have fields: each row gets its own file, and no file outside the root."""

import base64
import email
import email.policy
import os
import re
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import DKIM, Message, Outcome, Sender, Stamp, Status, Template
from rapidsmtp.testing import Sink

ROW = {"email": "anna@example.org", "id": 17}

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "tickets").mkdir(parents=True)
    (folder / "tickets" / "17.pdf").write_bytes(b"%PDF 17\0\n" * 20)
    (folder / "tickets" / "18.pdf").write_bytes(b"")
    (folder / "top.txt").write_bytes(b"top")
    (tmp_path / "secret.pdf").write_bytes(b"secret")
    return folder


def composed(root: Path | None, *paths: str, **changes: Any) -> Template:
    arguments: dict[str, Any] = {"sender": "n@example.com", "to": "{{ email }}", "subject": "s"}
    arguments |= {"text": "hello", "attachments": paths, "attachment_root": root} | changes
    return Template.compose(**arguments)


def files(message: Message) -> list[tuple[str, str, bytes]]:
    parsed = email.message_from_bytes(message.data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage) and not parsed.defects
    return [
        (part.get_content_type(), part.get_filename() or "", part.get_payload(decode=True))
        for part in parsed.iter_attachments()
    ]


def reason(template: Template, **values: Any) -> str:
    """Return the reason why the row is invalid."""
    with pytest.raises(ValueError) as caught:
        template.render(ROW | values)
    (outcome,) = template.merge([ROW | values])
    assert isinstance(outcome, Outcome) and outcome.status is Status.INVALID
    assert outcome.reason == str(caught.value)
    assert outcome.reason is not None
    return outcome.reason


def test_each_row_gets_its_file(root: Path) -> None:
    template = composed(root, "tickets/{{ id }}.pdf")
    assert template.required_fields == {"email", "id"}
    first, second = template.render(ROW), template.render(ROW | {"id": 18})
    assert files(first) == [("application/pdf", "17.pdf", b"%PDF 17\0\n" * 20)]
    assert files(second) == [("application/pdf", "18.pdf", b"")]
    assert max(map(len, first.data.split(b"\r\n"))) <= 78


def test_constant_files_are_read_once_and_keep_their_place(root: Path) -> None:
    constant = root / "top.txt"
    template = composed(root, "tickets/{{ id }}.pdf", str(constant), "./tickets/{{ id + 1 }}.pdf")
    constant.unlink()
    assert [name for _, name, _ in files(template.render(ROW))] == ["17.pdf", "top.txt", "18.pdf"]


def test_a_file_is_read_for_each_message(root: Path) -> None:
    template = composed(root, "tickets/{{ id }}.pdf")
    before = template.render(ROW)
    (root / "tickets" / "17.pdf").write_bytes(b"new")
    assert files(before) != files(template.render(ROW)) == [("application/pdf", "17.pdf", b"new")]


def test_the_default_root_is_the_current_folder_of_the_call(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    template = composed(None, "tickets/{{ id }}.pdf")
    monkeypatch.chdir(tmp_path)
    assert files(template.render(ROW))


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("{{ file }}", "a.PDF", "application/pdf"),
        ("x/{{ file }}", "b.tar.gz", "application/octet-stream"),
        ("{{ file }}", "c", "application/octet-stream"),
        ("{{ file }}", "d.eml", "application/octet-stream"),
        ("{{ file }}", 'e "ü" \u200b=?x.txt', "text/plain"),
        ("{{ file }}", "f" * 180 + ".png", "image/png"),
        ("{% if id %}{{ file }}{% endif %}", "g.html", "text/html"),
        ("a.{{ file }}", "jpg", "image/jpeg"),
        ("{{ file }}.eml", "h", "application/octet-stream"),
    ],
    ids=list("abcdefghi"),
)
def test_the_type_comes_from_the_name(root: Path, path: str, name: str, kind: str) -> None:
    shown = re.sub(r"\{\{.*\}\}", lambda _: name, re.sub("{%.*?%}", "", path))
    (root / shown).parent.mkdir(exist_ok=True)
    (root / shown).write_bytes(b"x")
    ((found, file_name, content),) = files(composed(root, path).render(ROW | {"file": name}))
    assert (found, file_name, content) == (kind, Path(shown).name, b"x")


@pytest.mark.parametrize(
    ("value", "fact"),
    [
        ("../secret", "the value '../secret' contains '/'"),
        ("tickets/17", "the value 'tickets/17' contains '/'"),
        ("/etc/passwd", "the value '/etc/passwd' contains '/'"),
        ("a\\b", "the value 'a\\\\b' contains '\\\\'"),
        ("\0", "the path contains a line break or control character"),
        ("17.pdf\0", "the path contains a line break or control character"),
        ("a\nb", "the path contains a line break or control character"),
        ("99", "there is no such file in"),
        ("x" * 300, "the file cannot be read"),
        (" 17", "there is no such file in"),
        ("", "the field 'v' is empty and has no |default"),
    ],
    ids=str,
)
def test_a_value_is_a_name(root: Path, value: str, fact: str) -> None:
    text = reason(composed(root, "tickets/{{ v }}.pdf"), v=value)
    assert text.startswith("attachment '") and fact in text


@pytest.mark.parametrize("value", [".", ".."])
@pytest.mark.parametrize("path", ["tickets/{{ v }}/secret.pdf", "{{ v }}", "{{ v }}/top.txt"])
def test_a_value_is_no_folder(root: Path, path: str, value: str) -> None:
    fact = "the path has an empty name, '.', '..' or a backslash"
    assert fact in reason(composed(root, path), v=value)


def test_an_empty_name_is_refused(root: Path) -> None:
    template = composed(root, "{{ v|default('') }}/top.txt")
    assert "the path has an empty name" in reason(template, v="")


def test_no_symbolic_link_leads_out(root: Path, tmp_path: Path) -> None:
    links = {"out": tmp_path / "secret.pdf", "in": root / "top.txt", "loop": root / "loop"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    (root / "folder").symlink_to(tmp_path)
    template = composed(root, "{{ v }}")
    text = f"attachment 'out': a symbolic link leads out of {str(root)!r}"
    assert reason(template, v="out") == text
    assert "a symbolic link leads out of" in reason(
        composed(root, "folder/{{ v }}"), v="secret.pdf"
    )
    assert "cannot be read" in reason(template, v="loop")
    assert files(template.render(ROW | {"v": "in"})) == [("application/octet-stream", "in", b"top")]


def test_a_sibling_with_the_name_of_the_root_is_outside(root: Path, tmp_path: Path) -> None:
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "a").write_bytes(b"x")
    (root / "link").symlink_to(tmp_path / "root2")
    assert "leads out of" in reason(composed(root, "link/{{ v }}"), v="a")


def test_only_files_are_read(root: Path) -> None:
    os.mkfifo(root / "fifo")
    template = composed(root, "{{ v }}")
    assert reason(template, v="fifo") == "attachment 'fifo': it is no file"
    assert reason(template, v="tickets") == "attachment 'tickets': it is no file"
    assert "there is no such file" in reason(composed(root, "top.txt/{{ v }}"), v="a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file(root: Path) -> None:
    (root / "top.txt").chmod(0)
    text = reason(composed(root, "{{ v }}"), v="top.txt")
    assert text == "attachment 'top.txt': permission to read the file is denied"


def test_the_size_of_the_files_of_a_message_is_limited(root: Path) -> None:
    with (root / "large").open("wb") as file:
        file.truncate(65 << 20)
    text = reason(composed(root, "{{ v }}"), v="large")
    assert text == "attachment 'large': the texts and files of the message are too large"


@pytest.mark.parametrize("path", ["/srv/{{ id }}.pdf", "../{{ id }}.pdf", "a/../{{ id }}.pdf"])
def test_a_path_of_the_template_is_below_the_root(root: Path, path: str) -> None:
    error = "a path with fields is below attachment_root; use a relative path without '..'"
    with pytest.raises(ValueError, match=re.escape(f"attachment {path!r}: {error}")):
        composed(root, path)


def test_wrong_arguments(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        composed(root / "missing", "{{ id }}")
    with pytest.raises(NotADirectoryError):
        composed(root / "top.txt", "{{ id }}")
    with pytest.raises(ValueError, match=r"^attachment '\{\{ id \}\}\{\{', line 1, column 9: "):
        composed(root, "{{ id }}{{")


def test_a_file_cannot_end_its_part(root: Path) -> None:
    template = composed(root, "{{ id }}")
    boundary = re.search(rb'boundary="(.*?)"', template.source())
    assert boundary is not None
    (root / "17").write_bytes(b"\r\n--" + boundary[1] + b"--\r\n")
    assert files(template.render(ROW))[0][2].startswith(b"\r\n--")


def test_the_source_names_the_files_and_needs_the_root(root: Path) -> None:
    template = composed(root, "tickets/{{ id }}.pdf", "{{ name\n }}", str(root / "top.txt"))
    source = template.source()
    assert b"X-Rapidsmtp-Attachment: tickets/{{ id }}.pdf\r\n" in source and b"%PDF" not in source
    with pytest.raises(ValueError, match="X-Rapidsmtp-Attachment needs attachment_root"):
        Template.from_eml(source)
    with pytest.raises(ValueError, match="X-Rapidsmtp-Attachment needs attachment_root"):
        Template.from_eml(source, attachments=["{{ id }}"])
    again = Template.from_eml(source, attachment_root=root, keep_headers=True)
    assert again.source() == source
    row = ROW | {"name": "top.txt"}
    assert files(again.render(row)) == files(template.render(row))


def test_a_field_of_the_path_is_a_column(root: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("email,id\na@example.org,17\nb@example.org,99\n")
    template = composed(root, "tickets/{{ id }}.pdf")
    first, second = template.merge_csv(tmp_path / "list.csv")
    assert isinstance(first, Message) and len(files(first)) == 1
    assert isinstance(second, Outcome) and second.status is Status.INVALID


@pytest.mark.rust
def test_an_invalid_row_is_not_sent(root: Path) -> None:
    template = composed(root, "tickets/{{ id }}.pdf")
    rows = [ROW | {"id": each, "email": f"r{each}@example.org"} for each in (17, 99, 18)]
    with Sink() as sink, Sender(sink.url) as sender:
        found = {outcome.tag: outcome for outcome in sender.send(template.merge(rows, tag="id"))}
        recipients = [message.recipients for message in sink.messages]
    assert {tag: each.status for tag, each in found.items()} == {
        17: Status.ACCEPTED,
        18: Status.ACCEPTED,
        99: Status.INVALID,
    }
    assert sorted(map(list, recipients)) == [["r17@example.org"], ["r18@example.org"]]
    assert "attachment 'tickets/99.pdf': there is no such file in" in (found[99].reason or "")


def test_a_check_of_the_template_has_no_finding_about_the_file(root: Path) -> None:
    template = composed(root, "tickets/{{ id }}.pdf", text="Hello, this is the news.")
    names = {finding.name for finding in template.check(message=template.render(ROW))}
    assert names <= {"list-unsubscribe", "one-click"}


@pytest.mark.rust
def test_the_signature_covers_the_file(root: Path) -> None:
    signer = DKIM("example.com", "s", base64.b64encode(bytes(32)).decode())
    template = composed(root, "tickets/{{ id }}.pdf", dkim=signer)
    stamp = Stamp("a.1", datetime(2026, 11, 30, tzinfo=UTC))
    signed = template.render(ROW, stamp=stamp).data
    assert signed.startswith(b"DKIM-Signature: ")
    (root / "tickets" / "17.pdf").write_bytes(b"other")
    other = template.render(ROW, stamp=stamp).data
    hashes = [data.partition(b"bh=")[2].partition(b";")[0] for data in (signed, other)]
    assert hashes[0] != hashes[1]


def test_a_signed_message_file_gets_a_file(root: Path) -> None:
    signed = b"--b\nContent-Type: text/plain\n\nhello  \n--b\nContent-Type: x/y\n\ns\n--b--\n"
    head = b"From: n@example.com\nTo: {{ email }}\nContent-Type: multipart/signed; boundary=b\n\n"
    template = Template.from_eml(
        head + signed, attachments=["tickets/{{ id }}.pdf"], attachment_root=root
    )
    message = template.render(ROW)
    parsed = email.message_from_bytes(message.data, policy=email.policy.default)
    types = [part.get_content_type() for part in parsed.walk()]
    assert types[:3] == ["multipart/mixed", "multipart/signed", "text/plain"]
    assert types[3:] == ["x/y", "application/pdf"]
    assert signed.replace(b"\n", b"\r\n") in message.data
