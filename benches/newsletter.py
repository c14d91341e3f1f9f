"""The newsletter of the benchmarks: a template of 38 KB and its rows."""

from typing import Any

from rapidsmtp import Template

SOURCE = "News <news@example.com>"
SUBJECT = "{{ name }}, what is new in {{ city }}"
TEXT = "Dear {{ name }},\n\n" + "A line of the newsletter's text, as long as they are.\n" * 80
HTML = (
    "<html><body><h1>Dear {{ name }}</h1>\n"
    + '<p>A line of the newsletter in HTML, <b>as</b> long <a href="#">as</a> they are.</p>\n' * 410
    + '<p><a href="https://example.com/u/{{ token }}">leave</a> {{ city }}</p></body></html>\n'
)
UNSUBSCRIBE = "<https://example.com/u/{{ token }}>"


def row(number: int) -> dict[str, Any]:
    return {
        "name": f"Anna {number}",
        "email": f"r{number}@example.com",
        "city": "Kraków",
        "token": f"{number:032x}",
    }


def template(attachments: Any = ()) -> Template:
    return Template.compose(
        sender=SOURCE,
        to="{{ name }} <{{ email }}>",
        subject=SUBJECT,
        text=TEXT,
        html=HTML,
        headers={"List-Unsubscribe": UNSUBSCRIBE},
        attachments=attachments,
    )
