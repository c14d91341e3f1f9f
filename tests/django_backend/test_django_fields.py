"""The email policy of the backend, compared with `email.policy.SMTP`."""

import copy
import email.policy
import pickle
from email.headerregistry import BaseHeader, UniqueUnstructuredHeader
from email.message import EmailMessage

import pytest

from rapidsmtp.django import fields

VALUES = [
    ("From", "News <news@example.com>"),
    ("FROM", "Jörg Müller <news@bücher.example>, b@example.com"),
    ("Sender", '"Last, First" <a@example.com>'),
    ("Reply-To", "group: a@example.com, b@example.com;"),
    ("Content-Type", 'text/plain; charset="utf-8"'),
    ("Content-Type", "nonsense"),
    ("Content-Disposition", "attachment; filename*=utf-8''t%C3%A4xt.txt"),
    ("Content-Transfer-Encoding", "7bit"),
    ("MIME-Version", "1.0"),
    ("From", "x" * 300 + "@example.com"),
    ("To", "you@example.org"),
    ("Subject", "Grüße an alle, mit einem Betreff, der länger ist als eine Zeile sein soll " * 2),
    ("X-Custom", "yes"),
]


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_a_field_equals_that_of_email(name, value):
    theirs = email.policy.SMTP.header_factory(name, value)
    for _ in range(2):
        ours = fields.policy().header_factory(name, value)
        assert type(ours).__bases__ == type(theirs).__bases__
        assert type(ours).__name__ == type(theirs).__name__
        assert (ours, ours.name) == (theirs, theirs.name)
        assert vars(ours).keys() == vars(theirs).keys()
        assert list(map(repr, ours.defects)) == list(map(repr, theirs.defects))
        assert ours.fold(policy=fields.policy()) == theirs.fold(policy=email.policy.SMTP)


def test_only_recurring_fields_are_cached():
    make = fields.policy().header_factory
    assert make("From", "a@example.com") is make("From", "a@example.com")
    assert make("From", "a@example.com") is not make("FROM", "a@example.com")
    assert make("From", "x" * 300) is not make("From", "x" * 300)
    assert make("Subject", "Hello") is not make("Subject", "Hello")
    assert type(make("Subject", "a")) is type(make("Subject", "b"))


def test_changing_a_message_changes_no_other():
    first, second = EmailMessage(fields.policy()), EmailMessage(fields.policy())
    for each in first, second:
        each["From"] = "a@example.com"
        each.set_content("Grüße\n")
    first.replace_header("From", "b@example.com")
    first.set_param("format", "flowed")
    assert (first["From"], second["From"]) == ("b@example.com", "a@example.com")
    assert "format" not in second["Content-Type"].params
    for copied in copy.deepcopy(second), pickle.loads(pickle.dumps(second)):
        assert copied.as_bytes() == second.as_bytes()


def test_a_line_break_is_refused_each_time():
    message = EmailMessage(fields.policy())
    for _ in range(2):
        with pytest.raises(ValueError, match="linefeed"):
            message["From"] = "a@example.com\r\nBcc: b@example.com"


class Special(UniqueUnstructuredHeader):
    pass


def test_classes_that_are_registered_later_are_used(monkeypatch):
    make = fields.policy().header_factory
    assert Special not in type(make("From", "a@example.com")).__bases__
    for name in "from", "x-new":
        monkeypatch.setitem(email.policy.SMTP.header_factory.registry, name, Special)
        assert type(make(name, "a@example.com")).__bases__ == (Special, BaseHeader)


def test_a_replaced_header_factory_is_used(monkeypatch):
    other = email.policy.SMTP.clone(header_factory=lambda name, value: value)
    monkeypatch.setattr(email.policy, "SMTP", other)
    assert fields.policy() is other
