"""The same template, row and stamp give the same bytes in every process, also from its source."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from datetime import datetime, timezone
from email.message import EmailMessage
from pathlib import Path
from rapidsmtp import Stamp, Template, _backend
_backend.use(sys.argv[1])
here = Path(sys.argv[2])
root = here / "root"
STAMP = Stamp("c1.17@mail.example.com", datetime(2026, 11, 30, 12, tzinfo=timezone.utc))
ROW = {"email": "b@example.com", "id": 17, "name": "Zo\\u00eb; x", "file": "17.PNG", "vip": True}
HTML = '<p>Hi {{ name }}<img src="cid:logo"></p>{% if vip %}<p>vip \\u20ac</p>{% endif %}'
EVENT = (here / "invite.ics").read_text("utf-8")
ADDED = {
    "attachments": [here / "a.txt", "{{ id }}.pdf", "{{ file }}", "{{ id }}.txt"],
    "attachment_root": root,
    "envelope_sender": "b+{{ id }}@example.com",
}
HEAD = {"sender": "N\\u00ebws <a@example.com>", "to": "{{ name }} <{{ email }}>", "subject": "s"}

message = EmailMessage()
message["From"], message["To"], message["Subject"] = "a@example.com", "{{email}}", "s {{name}}"
message.set_content("hello {{ name }}")
message.add_alternative("<p>{{ name }}</p>", subtype="html")
message.add_attachment(b"x", maintype="image", subtype="png", filename="x.png")
bare = EmailMessage()
bare["From"], bare["To"], bare["Content-Type"] = "a@example.com", "{{email}}", "text/html"
bare.set_payload("<p>{{ name }}</p>")
eml = b"From: a@example.com\\nTo: {{ email }}\\n"
eml += b"Content-Type: multipart/mixed; boundary=\\"\\xc3\\xbc\\"\\n\\n"
eml += b"--\\xc3\\xbc\\nContent-Type: text/html\\n\\n<p>{{ name }}</p>\\n--\\xc3\\xbc--\\n"

templates = [
    Template.compose(**HEAD, text="auto", html=HTML, inline={"logo": here / "a.txt"},
                     calendar=here / "invite.ics", **ADDED),
    Template.compose(**HEAD, text="t", calendar=EVENT.replace("{{ id }}", "1"), **ADDED),
    Template.compose(**HEAD, html=HTML, bcc="c@example.com", envelope_sender=""),
    Template.from_message(message),
    Template.from_message(message, calendar=EVENT, **ADDED),
    Template.from_message(bare, text="auto", **ADDED),
    Template.from_eml(eml),
    Template.from_eml(eml, text="auto", calendar=EVENT, **ADDED),
]
for template in templates:
    rendered = template.render(ROW, stamp=STAMP)
    source = template.source()
    again = Template.from_eml(source, keep_headers=True, attachment_root=root)
    assert again.source() == source
    assert again.required_fields == template.required_fields
    twin = again.render(ROW, stamp=STAMP)
    assert twin.data == rendered.data
    assert (twin.sender, twin.recipients) == (rendered.sender, rendered.recipients)
    (merged,) = again.merge([ROW], stamps=[STAMP])
    assert merged.data == rendered.data
    output = source + rendered.data + rendered.sender.encode()
    sys.stdout.buffer.write(output)
"""
CALENDAR = """BEGIN:VCALENDAR
METHOD:REQUEST
BEGIN:VEVENT
UID:{{ id }}@example.com
SUMMARY:A meeting with \u20ac and with a long text, so that the line is folded at 75 bytes
END:VEVENT
END:VCALENDAR
"""


def outputs(backend: str, folder: Path, zone: str, seed: str) -> bytes:
    environment = os.environ | {"PYTHONHASHSEED": seed, "TZ": zone}
    command = [sys.executable, "-c", PROGRAM, backend, str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def test_two_processes_give_the_same_bytes(tmp_path: Path, backend: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "17.pdf").write_bytes(bytes(range(256)))
    (tmp_path / "root" / "17.PNG").write_bytes(b"png")
    (tmp_path / "root" / "17.txt").write_bytes(b"text")
    (tmp_path / "a.txt").write_bytes(b"a {{ field }}")
    (tmp_path / "invite.ics").write_text(CALENDAR, "utf-8")
    first = outputs(backend, tmp_path, "UTC", "1")
    assert first == outputs(backend, tmp_path, "Asia/Tokyo", "2")
    assert first.count(b"Message-ID: <c1.17@mail.example.com>") == 8
