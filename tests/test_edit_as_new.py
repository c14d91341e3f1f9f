"""A message file as a template: fields of the earlier message are dropped, and its source."""

import email
import email.policy
import os
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import Template

pytestmark = pytest.mark.usefixtures("backend")

OWN = {
    "From": "News <news@example.com>",
    "To": "{{ email }}",
    "Subject": "s",
    "Reply-To": "r@example.com",
    "List-Unsubscribe": "<https://example.com/u>",
    "List-Id": "<list.example.com>",
    "Precedence": "bulk",
    "X-Priority": "3",
    "X-PM-Message-Stream": "broadcast",
    "X-Mailer": "Example 1.0",
    "X-Campaign": "c",
    "Auto-Submitted": "auto-generated",
    "Organization": "Example",
}
EARLIER = {
    "Return-Path": "<bounce@example.com>",
    "Received": "from a by b; Mon, 30 Nov 2026 20:00:00 +0000 \udcff",
    "X-Received": "by 10.0.0.1",
    "Delivered-To": "me@example.com",
    "X-Original-To": "me@example.com",
    "Authentication-Results": "mx.example.com; dkim=pass",
    "ARC-Seal": "i=1; a=rsa-sha256; b=x",
    "ARC-Message-Signature": "i=1; b=x",
    "ARC-Authentication-Results": "i=1; mx.example.com",
    "Received-SPF": "pass",
    "DKIM-Signature": "v=1; a=rsa-sha256; d=example.com; b=x",
    "X-Google-DKIM-Signature": "v=1; b=x",
    "DomainKey-Signature": "a=rsa-sha1; b=x",
    "Message-ID": "<old@example.com>",
    "Date": "Mon, 30 Nov 2026 20:00:00 +0000",
    "In-Reply-To": "<older@example.com>",
    "References": "<oldest@example.com> <older@example.com>",
    "X-Mozilla-Status": "0001",
    "X-Mozilla-Status2": "00000000",
    "X-Mozilla-Draft-Info": "internal/draft",
    "X-Mozilla-Keys": "",
    "X-Account-Key": "account1",
    "X-Identity-Key": "id1",
    "Fcc": "imap://me@example.com/Sent",
    "X-Gmail-Labels": "Sent",
    "X-GM-THRID": "1",
    "X-Gm-Message-State": "AO",
    "X-MS-Exchange-Organization-SCL": "-1",
    "X-MS-Has-Attach": "yes",
    "X-Microsoft-Antispam": "BCL:0",
    "X-Unsent": "1",
    "Thread-Index": "AQ==",
    "Thread-Topic": "s",
    "X-Universally-Unique-Identifier": "A",
    "X-Apple-Mail-Remote-Attachments": "NO",
    "X-Zimbra-Received": "x",
    "X-Evolution-Identity": "x",
    "X-UIDL": "1",
    "Status": "RO",
    "X-Status": "A",
    "X-Spam-Status": "No",
    "X-Virus-Scanned": "yes",
    "Resent-From": "other@example.com",
    "Resent-Date": "Mon, 30 Nov 2026 21:00:00 +0000",
    "Resent-To": "third@example.com",
    "Resent-Message-ID": "<r@example.com>",
}
ROW = {"email": "anna@example.com", "id": "7"}


def source_of(fields: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\n" for name, value in fields.items())
    return lines.encode("utf-8", "surrogateescape") + b"\nhello\n"


def parse(template: Template) -> EmailMessage:
    parsed = email.message_from_bytes(template.render(ROW).data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def test_fields_of_the_earlier_message_are_dropped() -> None:
    template = Template.from_eml(source_of(EARLIER | OWN))
    assert set(template.dropped) == set(EARLIER)
    parsed = parse(template)
    assert {*OWN, "Date", "Message-ID"} == set(parsed.keys()) - {
        "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
    }  # fmt: skip
    assert parsed["Message-ID"] != EARLIER["Message-ID"] and parsed["Date"] != EARLIER["Date"]
    assert template.render(ROW).recipients == ("anna@example.com",)


def test_each_row_has_its_own_message_id() -> None:
    template = Template.from_eml(source_of(EARLIER | OWN))
    found = {email.message_from_bytes(m.data)["Message-ID"] for m in template.merge([ROW] * 3)}  # type: ignore[union-attr]
    assert len(found) == 3


def test_keep_headers() -> None:
    earlier = {name: value for name, value in EARLIER.items() if not name.startswith("Resent")}
    earlier["Received"] = "from a by b; Mon, 30 Nov 2026 20:00:00 +0000"
    template = Template.from_eml(source_of(earlier | OWN), keep_headers=True)
    parsed = parse(template)
    assert template.dropped == () and {*earlier, *OWN} <= set(parsed.keys())
    assert parsed["Message-ID"] == "<old@example.com>"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Message-ID", "<{{ id }}@example.com>"),
        ("Date", "{{ id }} Nov 2026 20:00:00 +0000"),
        ("References", "<{{ id }}@example.com>"),
        ("In-Reply-To", "<{{ id }}@example.com>"),
        ("Resent-Date", "{{ id }} Nov 2026 20:00:00 +0000"),
    ],
)
def test_a_field_with_a_merge_field_stays(name: str, value: str) -> None:
    fields = OWN | {name: value}
    if name == "Resent-Date":
        fields |= {"Resent-From": "a@example.com", "Resent-To": "b@example.com"}
    template = Template.from_eml(source_of(fields))
    assert template.dropped == () and "7" in str(parse(template)[name])


def test_from_message_drops_the_same_fields() -> None:
    message = email.message_from_bytes(source_of(EARLIER | OWN))
    template = Template.from_message(message)
    assert set(template.dropped) == set(EARLIER)
    assert Template.from_message(message, keep_headers=False).dropped == template.dropped


def test_return_path_cannot_be_set() -> None:
    with pytest.raises(ValueError, match="Return-Path cannot be set: the server"):
        Template.compose(
            sender="a@example.com", to="b@example.com", subject="s", text="t",
            headers={"Return-Path": "<c@example.com>"},
        )  # fmt: skip


# The source of a template


def composed(tmp_path: Path, **changes: Any) -> Template:
    (tmp_path / "a.txt").write_bytes(b"=_\r\n" * 50)
    (tmp_path / "logo.png").write_bytes(bytes(range(256)))
    arguments: dict[str, Any] = {
        "sender": "Büro =?x?= <news@example.com>",
        "to": "{{ name }} <{{ email }}>",
        "subject": "Grüße =?utf-8?q?x?= {{ name }} [#{{ id }}]",
        "bcc": "hidden@example.com",
        "text": "Dear {{ name }},\nGrüße\n",
        "html": '<img src="cid:logo"><p>{{ name }}</p>',
        "headers": {"Content-Language": "de", "List-Unsubscribe": "<https://example.com/{{ id }}>"},
        "attachments": [tmp_path / "a.txt"],
        "inline": {"logo": tmp_path / "logo.png"},
    }
    return Template.compose(**(arguments | changes))


def test_the_source_is_an_equal_template(tmp_path: Path) -> None:
    row = ROW | {"name": "Zoë, B"}
    template = composed(tmp_path)
    again = Template.from_eml(template.source(), keep_headers=True)
    assert again.source() == template.source()
    assert again.required_fields == template.required_fields == {"name", "email", "id"}
    first, second = template.render(row), again.render(row)
    assert first.recipients == second.recipients == ("anna@example.com", "hidden@example.com")
    one, two = (
        email.message_from_bytes(m.data, policy=email.policy.default) for m in (first, second)
    )
    for name in ("From", "To", "Subject", "Content-Language", "List-Unsubscribe"):
        assert one[name] == two[name] is not None
    assert b"".join(_bodies(one)) == b"".join(_bodies(two))
    assert b"Content-Language: de\r\n" in first.data


def _bodies(message: Any) -> list[bytes]:
    return [part.get_payload(decode=True) or b"" for part in message.walk()]


@pytest.mark.parametrize(
    "text", ["{{ name }}\r\n.\rb\n", "x\0{{ name }}", "{% if name\n%}a{% endif %}"]
)
def test_the_source_keeps_every_text(tmp_path: Path, text: str) -> None:
    template = composed(tmp_path, text=text, subject="{{ name\n}}")
    again = Template.from_eml(template.source(), keep_headers=True)
    assert again.source() == template.source()
    row = ROW | {"name": "n"}
    one, two = (email.message_from_bytes(each.render(row).data) for each in (template, again))
    assert _bodies(one) == _bodies(two) and one["Subject"] == two["Subject"] == "n"


PROGRAM = """
import sys
from pathlib import Path
from rapidsmtp import Template, _backend
_backend.use(sys.argv[1])
here = Path(sys.argv[2])
template = Template.compose(
    sender="a@example.com", to="{{ email }}", subject="s", text="t {{ email }}", html="h",
    attachments=[here / "a.txt"], headers={"X-A": "{{ email }}", "X-B": "b", "X-C": "c"},
)
pending = template._compiled.pending({"email": "b@example.com"}, None, "date", "id", 1)
sys.stdout.buffer.write(template.source() + pending.render()[2])
"""


def test_every_process_composes_the_same_bytes(tmp_path: Path, backend: str) -> None:
    (tmp_path / "a.txt").write_bytes(b"x")
    found = set()
    for seed in ("0", "1"):
        command = [sys.executable, "-c", PROGRAM, backend, str(tmp_path)]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        found.add(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert len(found) == 1 and b"Content-Disposition: attachment" in found.pop()


def test_boundaries_depend_on_the_content(tmp_path: Path) -> None:
    one, two = composed(tmp_path), composed(tmp_path, text="other")
    assert composed(tmp_path).source() == one.source()
    boundaries = [
        email.message_from_bytes(each.source()).get_boundary() for each in (one, two)
    ]  # fmt: skip
    assert boundaries[0] != boundaries[1]
    assert len(set(one.source().split(b'boundary="')[1:])) == 3
