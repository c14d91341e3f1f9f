"""Header fields of templates: groups, empty fields, identifiers, recipients."""

import email
import email.policy
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapidsmtp import Template, _backend

ROW = {"name": "Anna", "email": "anna@example.com", "none": ""}


def compose(**changes: Any) -> Template:
    fields: dict[str, Any] = {
        "sender": "a@example.com", "to": "b@example.com", "subject": "s", "text": "t",
    }  # fmt: skip
    return Template.compose(**(fields | changes))


def head(template: Template) -> str:
    data = template.render(ROW).data.partition(b"\r\n\r\n")[0]
    return data.decode("ascii").replace("\r\n ", " ")


def from_eml(fields: str) -> Template:
    return Template.from_eml(f"From: a@example.com\n{fields}\n\nx\n".encode())


GROUPS = [
    ("undisclosed-recipients:;", "undisclosed-recipients:;", []),
    ("Team: b@example.com, C <c@example.com>;", None, ["b@example.com", "c@example.com"]),
    ("d@example.com, Team: b@example.com;, Other:;", None, ["d@example.com", "b@example.com"]),
    ("Team: b@example.com", "Team: b@example.com;", ["b@example.com"]),
    ('"A, B": b@example.com;', None, ["b@example.com"]),
    ("{{ name }}: {{ email }};", "Anna: anna@example.com;", ["anna@example.com"]),
    ("b@x.org; c@x.org", "b@x.org, c@x.org", ["b@x.org", "c@x.org"]),
]  # fmt: skip


@pytest.mark.parametrize(("value", "written", "recipients"), GROUPS)
@pytest.mark.parametrize("way", ["compose", "from_eml", "from_message"])
def test_a_group_is_kept(
    backend: str, way: str, value: str, written: str | None, recipients: list[str]
) -> None:
    if way == "compose":
        template = compose(to=value, bcc="hidden@example.com")
    elif way == "from_eml":
        template = from_eml(f"To: {value}\nBcc: hidden@example.com")
    else:
        message = EmailMessage()
        message["From"] = "a@example.com"
        if "{{" in value or "; c" in value:
            return  # email itself does not parse this value
        message["To"], message["Bcc"] = value, "hidden@example.com"
        message.set_content("x")
        template = Template.from_message(message)
    assert f"\r\nTo: {written or value}\r\n" in head(template)
    assert template.render(ROW).recipients == (*recipients, "hidden@example.com")


@pytest.mark.parametrize("to", ["", "{{ none|default('') }}"])
def test_with_bcc_alone_the_empty_group_is_written(backend: str, to: str) -> None:
    template = compose(to=to, bcc="{{ email }}")
    assert "\r\nTo: undisclosed-recipients:;\r\n" in head(template)
    assert "undisclosed" not in head(compose(to=to, cc="c@example.com", bcc="{{ email }}"))
    assert "undisclosed" not in head(compose())


@pytest.mark.parametrize("value", ["", " ", "{{ none|default('') }}", "<{{ none|default('') }}>"])
@pytest.mark.parametrize("name", ["In-Reply-To", "References", "List-Unsubscribe", "List-Help"])
def test_an_empty_field_of_tokens_is_left_out(backend: str, name: str, value: str) -> None:
    assert f"{name}:" not in head(compose(headers={name: value}))
    assert f"{name}:" not in head(from_eml(f"To: b@example.com\n{name}: {value}"))


@pytest.mark.parametrize("value", ["", "{{ none|default('') }}"])
@pytest.mark.parametrize("name", ["Date", "Message-ID"])
def test_an_empty_date_or_message_id_is_generated(backend: str, name: str, value: str) -> None:
    message = email.message_from_bytes(
        compose(headers={name: value}).render(ROW).data, policy=email.policy.default
    )
    assert len(message.get_all(name, [])) == 1 and message[name]


@pytest.mark.parametrize("value", ["<a b@example.com>", "<a@example.com> <b@example.com>", "a\tb"])
def test_a_message_id_with_white_space_is_refused(backend: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"header Message-ID: .* is not a message identifier"):
        compose(headers={"Message-ID": value})
    template = compose(headers={"Message-ID": "<{{ id }}@example.com>"})
    with pytest.raises(ValueError, match=r"'<a b@example.com>' is not a message identifier"):
        template.render({"id": "a b"})
    assert "<a@example.com>" in head(compose(headers={"Message-ID": " <a@example.com> "}))


def test_the_case_of_a_domain_makes_no_second_recipient(backend: str) -> None:
    template = compose(to="a@example.com, a@EXAMPLE.com, A@example.com", cc="a@Example.Com")
    assert template.render(ROW).recipients == ("a@example.com", "A@example.com")


@pytest.mark.parametrize("name", ["Content-Language", "Content-Location", "Content-Description"])
def test_compose_accepts_fields_about_the_content(backend: str, name: str) -> None:
    assert f"\r\n{name}: Anna\r\n" in head(compose(headers={name: "{{ name }}"}))
    assert f"\r\n{name}: Anna\r\n" in head(from_eml(f"To: b@example.com\n{name}: {{{{ name }}}}"))


@pytest.mark.parametrize(
    "name",
    ["Content-Type", "content-transfer-encoding", "MIME-Version", "Content-ID",
     "Content-Disposition", "Content-Length"],
)  # fmt: skip
def test_compose_refuses_fields_that_it_writes(backend: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be set: compose writes it"):
        compose(headers={name: "x"})


LISTS = st.lists(
    st.sampled_from(
        ["a@x.org", "B <b@x.org>", "Team:", ";", ",", "Größe:", '"x, y":', " ", "<c@x.org>"]
    ),
    max_size=9,
).map("".join)  # fmt: skip


@pytest.mark.rust
@settings(max_examples=300, deadline=None, derandomize=True)
@given(value=LISTS)
def test_both_backends_write_the_same_groups(value: str) -> None:
    before, results = _backend.implementation, []
    try:
        for backend in ("rust", "python"):
            _backend.use(backend)
            try:
                message = compose(to=value, bcc="z@example.com").render({})
                parsed = email.message_from_bytes(message.data, policy=email.policy.default)
                groups = [
                    (group.display_name, [str(each) for each in group.addresses])
                    for group in parsed["To"].groups
                ]
                results.append((message.recipients, groups))
            except ValueError as error:
                results.append((str(error), []))  # type: ignore[arg-type]
    finally:
        _backend.use(before)
    assert results[0] == results[1]
