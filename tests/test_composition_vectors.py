"""vectors/composition.json: encoded words, folding and parameters, in both backends."""

import email
import email.policy
import json
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from rapidsmtp import Message, Template

VECTORS = json.loads((Path(__file__).parent / "vectors" / "composition.json").read_text("utf-8"))
STRICT = email.policy.default.clone(raise_on_defect=True)

pytestmark = pytest.mark.usefixtures("backend")


def parsed(message: Message) -> EmailMessage:
    for line in message.data.split(b"\r\n"):
        assert line.isascii() and len(line) <= 998
    whole = email.message_from_bytes(message.data, policy=STRICT)
    assert isinstance(whole, EmailMessage)
    return whole


def template(**more: Any) -> Template:
    return Template.compose(
        sender="a@example.com", to="b@example.com", subject="{{ value }}", text="t", **more
    )


@pytest.mark.parametrize("vector", VECTORS["fields"], ids=lambda vector: vector["name"])
def test_a_field_is_encoded_as_in_the_vectors(vector: dict[str, str]) -> None:
    if "error" in vector:
        with pytest.raises(ValueError, match=vector["error"]):
            template().render({"value": vector["value"]})
        return
    message = template().render({"value": vector["value"]})
    assert parsed(message)["Subject"] == vector["text"]
    header = message.data.partition(b"\r\n\r\n")[0]
    words = header.replace(b"\r\n", b"").split()
    assert all(len(word) <= 75 for word in words if word.startswith(b"=?"))
    # A line is folded only at white space. So it may exceed 78 characters only if it contains a
    # long word.
    folded = all(len(line) <= 78 for line in header.split(b"\r\n"))
    assert folded or max(map(len, vector["value"].split())) > 60


@pytest.mark.parametrize("name", VECTORS["file_names"])
def test_a_file_name_is_decoded_by_the_email_package(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"content")
    message = template(attachments=[tmp_path / name]).render({"value": "s"})
    (attachment,) = parsed(message).iter_attachments()
    assert attachment.get_filename() == name
    assert attachment.get_payload(decode=True) == b"content"
