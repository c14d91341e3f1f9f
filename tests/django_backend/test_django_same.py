"""Comparison with Django's own SMTP backend: the same messages, envelopes, bytes and counts."""

import re
import smtplib
import warnings

import django
import pytest
from django.core.mail import EmailMultiAlternatives
from django.core.mail.backends import smtp

from django_messages import FIXED, make_message
from rapidsmtp.django import EmailBackend, rendering
from rapidsmtp.errors import RelayError
from recording_server import RecordingServer

BOUNDARY = re.compile(rb"={15}\d+==")


def alternatives():
    message = EmailMultiAlternatives(
        "Grüße an alle, mit einem Betreff, der länger ist als eine Zeile sein soll " * 2,
        "Plain text, schön.\nFrom here on.\n.\n..dots\n",
        "Jörg Müller <news@bücher.example>",
        ["Ada Lovelace <ada@example.org>", "bob@bücher.example"],
        bcc=["secret@example.org"],
        cc=['"Last, First" <cc@example.org>'],
        reply_to=["reply@example.com"],
        headers={**FIXED, "X-Custom": "yes", "List-Unsubscribe": "<https://example.com/u/1>"},
    )
    message.attach_alternative("<p>Schön</p>\n" * 200, "text/html")
    message.attach("data.bin", bytes(range(256)) * 20, "application/octet-stream")
    message.attach("täxt.txt", "Text from a file\nFrom x\n", "text/plain")
    return message


def with_a_message():
    message = make_message("Forwarded")
    message.attach("inner.eml", make_message("Inner").message().as_bytes(), "message/rfc822")
    return message


MESSAGES = {
    "plain": make_message,
    "empty": lambda: make_message("", body=""),
    "no recipients": lambda: make_message(to=[]),
    "only bcc": lambda: make_message(to=[], bcc=["b@example.org"]),
    "display names": lambda: make_message(
        from_email="A B <a.b@example.com>", to=["C <c@example.org>"]
    ),
    "comma in the name": lambda: make_message(to=['"Last, First" <lf@example.org>']),
    "quoted local part": lambda: make_message(to=['"a b"@example.org']),
    "8 bit": lambda: make_message("Übung", body="Grüße,\nFrom unten\n.\n"),
    "long lines": lambda: make_message(body="ä" * 1500 + "\n" + "x" * 3000),
    "latin-1": lambda: _encoded(make_message("Ü", body="Grüße\n"), "iso-8859-1"),
    "other from": lambda: make_message(headers={"From": "Other <other@example.com>"}),
    "alternatives": alternatives,
    "message inside": with_a_message,
    "some refused": lambda: make_message(to=["refused1@example.org", "ok@example.org"]),
}


def _encoded(message, charset):
    message.encoding = charset
    return message


def sent_by(backend_class, messages, port, **more):
    with warnings.catch_warnings():
        # Django 6.1 warns about backends without MAILERS.
        warnings.simplefilter("ignore")
        backend = backend_class(host="127.0.0.1", port=port, **more)
    try:
        return backend.send_messages(messages)
    except Exception as error:
        return error


def both(messages, **more):
    """Return what each backend returns or raises, and the envelopes that the server received."""
    results = []
    for kind in (smtp.EmailBackend, EmailBackend):
        with RecordingServer(["PIPELINING"]) as recorder:
            result = sent_by(kind, [make() for make in messages], recorder.port, **more)
            envelopes = [
                (sender, to, BOUNDARY.sub(b"BOUNDARY", content))
                for sender, to, content in recorder.handler.envelopes
            ]
        results.append((result, envelopes))
    return results


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_sent_as_by_django(name):
    (theirs, their_mail), (ours, our_mail) = both([MESSAGES[name]])
    assert ours == theirs
    assert our_mail == their_mail


def test_a_list_of_messages_is_sent_as_by_django():
    (theirs, their_mail), (ours, our_mail) = both(list(MESSAGES.values()) * 3)
    assert ours == theirs == len(MESSAGES) * 3 - 3
    # rapidsmtp uses several connections, so its messages may arrive in another order than Django's.
    assert sorted(our_mail) == sorted(their_mail)


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_message(to=["refused@example.org", "later@example.org"]),
        lambda: make_message(from_email="refused@example.com"),
        lambda: make_message(headers={"X-Refuse": "1"}),
        lambda: make_message("Two\nlines"),
        lambda: make_message(headers={"X-Bad": "Two\r\nBcc: x@example.org"}),
        lambda: make_message(to=["a@example.org\nBcc: x@example.org"]),
        lambda: make_message(to=["not an address"]),
        lambda: make_message(from_email="a@example.org, b@example.org"),
        lambda: make_message(to=["a@" + "x" * 64 + ".example"]),
    ],
    ids=["recipients", "sender", "message", "subject", "header", "to", "no address", "two from",
         "label"],
)  # fmt: skip
@pytest.mark.parametrize("silent", [False, True])
def test_a_failure_is_reported_as_by_django(make, silent):
    (theirs, their_mail), (ours, our_mail) = both([make], fail_silently=silent)
    assert type(ours) is type(theirs)
    if isinstance(theirs, smtplib.SMTPResponseException):
        assert (ours.smtp_code, ours.smtp_error) == (theirs.smtp_code, theirs.smtp_error)
    elif isinstance(theirs, smtplib.SMTPRecipientsRefused):
        codes = [{to: reply[0] for to, reply in each.recipients.items()} for each in (ours, theirs)]
        assert codes[0] == codes[1]
    else:
        assert str(ours) == str(theirs)
    assert our_mail == their_mail


@pytest.mark.parametrize("silent", [False, True])
def test_a_port_without_a_server_is_reported_as_by_django(silent):
    # This server ends at once. Afterwards, no server listens on its port.
    with RecordingServer() as recorder:
        port = recorder.port
    theirs = sent_by(smtp.EmailBackend, [make_message()], port, fail_silently=silent)
    ours = sent_by(EmailBackend, [make_message()], port, fail_silently=silent)
    if silent:
        assert ours == theirs == 0
    else:
        assert isinstance(theirs, OSError) and isinstance(ours, RelayError | OSError)


def test_a_local_part_that_is_not_ascii_is_refused():
    backend = EmailBackend(host="127.0.0.1")
    for written in ("jörg@example.org", "Jörg <jörg@bücher.example>"):
        with pytest.raises(ValueError, match=r"non-ASCII|Invalid address"):
            rendering.address_of(written, backend, "utf-8")


def test_the_regular_expression_reads_addresses_as_django_does():
    backend = EmailBackend(host="127.0.0.1")
    plain = re.compile("(?!)")
    for written in (
        "a@b", "a.b+c-d@x-1.example", "A B <a@b.example>", "Ab <a_1@EXAMPLE.org>", "webmaster",
        "<a@b.example>", "a b@c.example", "A  B <a@b.example>", "a@b.example ", "A<a@b.example>",
        "a@b.example\n", "a@-b-.example",
    ):  # fmt: skip
        found = []
        for pattern in (rendering._PLAIN, plain):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(rendering, "_PLAIN", pattern)
                try:
                    found.append(rendering.address_of(written, backend, "utf-8"))
                except ValueError as error:
                    found.append(str(error))
        assert found[0] == found[1], written


def test_as_bytes_of_a_message_class_is_used():
    class Signed(type(make_message().message())):
        def as_bytes(self, *arguments, **keywords):
            return b"Signed: yes\r\n" + super().as_bytes(*arguments, **keywords)

    class SignedMessage(type(make_message())):
        def message(self, **keywords):
            composed = super().message(**keywords)
            composed.__class__ = Signed
            return composed

    def make():
        return SignedMessage("Hello", "Body\n", "a@example.com", ["b@example.org"], headers=FIXED)

    (_, their_mail), (_, our_mail) = both([make])
    assert our_mail == their_mail
    assert our_mail[0][2].startswith(b"Signed: yes\r\n")


def test_the_backend_is_a_subclass_of_djangos_backend():
    assert issubclass(EmailBackend, smtp.EmailBackend)
    assert EmailBackend.__module__ == "rapidsmtp.django"
    assert django.VERSION >= (4, 2)
