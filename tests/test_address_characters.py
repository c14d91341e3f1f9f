"""Invisible and typographic characters in addresses: trimmed at the ends, refused inside."""

import unicodedata

import pytest

from rapidsmtp import Message, Status, Template
from rapidsmtp._compose.invisible import refused, trim
from senders import sender_to
from server import Server, SMTPScript

AT_THE_ENDS = "\u200b\ufeff\u2060\u00ad\u200e\u200f\u00a0\u3000\u200c\u200d\u180e\U000e0001 \t"
INSIDE = AT_THE_ENDS.strip() + "\u201c\u201d\u201e\u2022\u2019\u00ab\u2003\ufe0f"


def recipient(address: str) -> str:
    template = Template.compose(sender="a@x.org", to="{{ email }}", subject="s", text="t")
    (found,) = template.render({"email": address}).recipients
    return found


@pytest.mark.parametrize("character", AT_THE_ENDS, ids=lambda each: f"{ord(each):04X}")
def test_characters_at_the_ends_are_trimmed(backend: str, character: str) -> None:
    assert recipient(f"{character}ann@example.com{character}") == "ann@example.com"
    template = Template.compose(
        sender="a@x.org", to=f"Ann <{character}ann@example.com{character}>", subject="s", text="t"
    )
    assert template.render({}).recipients == ("ann@example.com",)


@pytest.mark.parametrize("character", INSIDE, ids=lambda each: f"{ord(each):04X}")
def test_characters_inside_a_local_part_are_refused_by_name(backend: str, character: str) -> None:
    name = unicodedata.name(character, "an invisible character")
    name = "an invisible character" if ord(character) > 0xFFFF else name
    address = f"an{character}n@example.com"
    with pytest.raises(ValueError) as raised:
        recipient(address)
    assert str(raised.value) == (
        f"header To: {address!r} is not an address: it contains U+{ord(character):04X}, {name}"
    )


def test_letters_and_symbols_beyond_ascii_are_accepted(backend: str) -> None:
    for local_part in ("j\u00f6rg", "\u03b4\u03bf\u03ba", "\U0001f600"):
        assert recipient(f"{local_part}@example.com") == f"{local_part}@example.com"


@pytest.mark.parametrize("domain", ["exam\u200cple.com", "exam\u200dple.com"])
def test_characters_inside_a_domain_are_refused(backend: str, domain: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        recipient(f"ann@{domain}")


def test_a_sender_refuses_and_trims_the_same_characters(backend: str) -> None:
    addresses = ("\ufeffann@example.com\u00a0", "an\u200bn@example.com", "an\u200bn")
    data = b"Subject: s\r\n\r\nt\r\n"
    with Server(SMTPScript()) as server, sender_to(server) as sender:
        outcomes = [
            outcome
            for address in addresses
            for outcome in sender.send([Message("a@x.org", [address], data)])
        ]
        received = bytes(server.connections[0].received)
    assert [each.status for each in outcomes] == [
        Status.ACCEPTED,
        Status.INVALID,
        Status.INVALID,
    ]
    assert "'an\\u200bn@example.com' is not an address: it contains U+200B" in outcomes[1].reason
    assert b"RCPT TO:<ANN@EXAMPLE.COM>\r\n" in received.upper()


@pytest.mark.rust
def test_both_backends_refuse_the_same_characters() -> None:
    template = Template.compose(sender="a@x.org", to="{{ email }}", subject="s", text="t")
    for code in [*range(0x80, 0xD800), *range(0xE000, 0x20000, 7), *range(0xE0000, 0xE1001, 5)]:
        if 0xF8F0 <= code <= 0xF8F1:
            continue  # the marks of merge fields, which are removed from values
        address = f"a{chr(code)}b@example.com"
        try:
            template.render({"email": address})
            error = ""
        except ValueError as raised:
            error = str(raised)
        expected = refused(f"a{chr(code)}b")
        assert error.partition("it contains ")[2] == (expected or ""), hex(code)
        ends = f"{chr(code)}a@x.org"
        try:
            (found,) = template.render({"email": ends}).recipients
        except ValueError:
            continue
        assert found == trim(ends), hex(code)
