"""Domains beyond ASCII: both backends convert them as UTS 46 does, or refuse them."""

import random
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from rapidsmtp import Sender, Status, Template, _backend, _host_name
from rapidsmtp._domain import to_a_labels
from rapidsmtp._models.relay_url import parse_relay
from senders import messages, send, sender_to, wires
from server import Server, SMTPScript

# The code points below this limit include all scripts that occur in domains, except most Chinese
# characters. Their treatment is regular.
SCRIPTS = 0x3400
STEP = 211

ARABIC, VIRAMA = "\u0628", "\u0915\u094d"


@pytest.fixture(autouse=True)
def keep_backend() -> Iterator[None]:
    before = _backend.implementation
    yield
    _backend.use(before)


def converter() -> Callable[[str], str | None]:
    """Return a function that returns the domain of a recipient in a message, None if invalid."""
    template = Template.compose(sender="a@x.org", to="{{ email }}", subject="s", text="t")

    def convert(domain: str) -> str | None:
        try:
            return template.render({"email": f"a@{domain}"}).recipients[0].removeprefix("a@")
        except ValueError:
            return None

    return convert


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("faß.example", "xn--fa-hia.example"),
        ("FAẞ.Example", "xn--fa-hia.example"),
        ("βόλος.example", "xn--nxasmm1c.example"),
        ("bücher\u3002straße\uff0eExample", "xn--bcher-kva.xn--strae-oqa.example"),
        ("ﬁsch.example", "fisch.example"),
        ("x\u00ady.example", "xy.example"),
        ("x\u1806y.example", "xn--xy-h0o.example"),  # IDNA 2003 removes this character
        ("xn--fa-hia.bücher.example", "xn--fa-hia.xn--bcher-kva.example"),
        ("XN--FA-hia.bücher.example", "xn--fa-hia.xn--bcher-kva.example"),
        ("☃.example", "xn--n3h.example"),
        ("אבג.example", "xn--4dbcd.example"),
        (f"{ARABIC}{ARABIC}1.example", "xn--1-0mca.example"),
        (f"{VIRAMA}\u200d\u0937.example", "xn--11b2ezcw70k.example"),
        ("x\u200cy.example", None),
        ("x\u200dy.example", None),
        ("\u0646\u0627\u0645\u0647\u200c\u0627\u06cc.example", "xn--mgba3gch31f060k.example"),
        (
            "\u0646\u0627\u0645\u0301\u200c\u0301\u0627\u06cc.example",
            "xn--lsaa03vca1me75go19l.example",
        ),
        ("\u0627\u200c\u0646.example", None),
        ("\u0646\u0627\u0645\u0647\u200d\u0627\u06cc.example", None),
        ("x\u202ey.example", None),
        ("1אבג.example", None),
        ("xאבג.example", None),
        ("\u0300x.example", None),
        ("⒈x.example", None),
        ("x︒example", None),
        ("xn--.bücher.example", None),
        ("xn--a.bücher.example", None),
        ("xn--ss-bka.bücher.example", "xn--ss-bka.xn--bcher-kva.example"),
        ("x\u3000y.example", None),
        ("x\ue000y.example", None),
        ("x⑴.example", None),
        ("bücher..example", None),
    ],
)
def test_a_domain_is_converted_as_uts_46_does(
    backend: str, domain: str, expected: str | None
) -> None:
    assert converter()(domain) == expected


@pytest.mark.rust
@pytest.mark.parametrize("pattern", ["x{}y.example", "{}.example"])
def test_both_backends_convert_each_character_equally(pattern: str) -> None:
    """The pure-Python backend may refuse a character, for example one that Python does not know."""
    _backend.use("rust")
    convert = converter()
    refused = 0
    for code in [*range(0x80, SCRIPTS), *range(SCRIPTS, 0x110000, STEP)]:
        domain = pattern.format(chr(code))
        if 0xD800 <= code < 0xE000:
            continue
        compiled, pure = convert(domain), pure_of(domain)
        if pure is None and compiled is not None:
            refused += unicodedata.category(chr(code)) != "Cn"
        else:
            assert pure == compiled, hex(code)
    assert refused < 40


@pytest.mark.rust
def test_both_backends_convert_mixed_domains_equally() -> None:
    _backend.use("rust")
    convert = converter()
    pools = ["abZ09-_", "äßẞςΣİıſ", "אבבה\u0301", "ابت٠١۰\u200c", "\u200d\u094d\u0915\u0937"]
    pools += [
        "\u0301\u0323\u0345",
        "京都ー・",
        "\u3002\uff0e\uff61.",
        "①Ⅷ½ﬃ™℡",
        "xn--",
        "\u00ad\ufeff\u2060",
    ]
    pools.append("\u00ad\ufeff\u2060")
    chosen = random.Random(46)
    for _ in range(3000):
        letters = "".join(chosen.sample(pools, 3))
        labels = [
            "".join(chosen.choices(letters, k=chosen.randint(1, 5)))
            for _ in range(chosen.randint(1, 3))
        ]
        labels.append("xn--" + chosen.choice(labels).encode("punycode").decode())
        domain = f"é.{'.'.join(labels)}.example"
        compiled, pure = convert(domain), pure_of(domain)
        assert pure == compiled, ascii(domain)


@pytest.mark.rust
def test_both_backends_permit_the_same_joiners() -> None:
    _backend.use("rust")
    convert = converter()
    letters = [
        *(chr(code) for code in [*range(0x600, 0x8FF), *range(0x1800, 0x18AB)]),
        *map(chr, range(0xA840, 0xA874)),
    ]
    for letter in letters:
        for domain in (f"{letter}\u200cب.example", f"ب\u200c{letter}.example"):
            compiled, pure = convert(domain), pure_of(domain)
            # Python may not know the letter, or know an older property.
            if pure is not None or unicodedata.category(letter) != "Cn":
                assert pure == compiled or pure is None, ascii(domain)


def pure_of(domain: str) -> str | None:
    try:
        converted = to_a_labels(domain)
    except ValueError:
        return None
    labels = converted.split(".")
    return converted if all(_is_label(label) for label in labels) else None


def _is_label(label: str) -> bool:
    return label.isascii() and label.replace("-", "a").replace("_", "a").isalnum()


def test_the_name_in_ehlo_is_converted(backend: str) -> None:
    with Server(SMTPScript(())) as server:
        (outcome,) = send(sender_to(server, local_hostname="büro.example"), messages(1))
        assert outcome.status is Status.ACCEPTED
        assert wires(server)[0].startswith(b"EHLO xn--bro-hoa.example\r\n")
    for name in ("x\u200cy.example", "b\udcffro.example"):
        with pytest.raises(ValueError, match=r"^local_hostname is wrong: U\+"):
            Sender("smtp://127.0.0.1", local_hostname=name)


@pytest.mark.parametrize("name", ["büro.example", "b\udcffro.example", UnicodeError("too long")])
def test_the_address_is_sent_in_ehlo_instead_of_an_invalid_name(
    backend: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: Any
) -> None:
    monkeypatch.setattr(_host_name, "_found", [])
    monkeypatch.setattr(_host_name.socket, "getfqdn", mock.Mock(side_effect=[name]))
    with Server(SMTPScript(())) as server:
        (outcome,) = send(sender_to(server, local_hostname=None), messages(1))
        assert outcome.status is Status.ACCEPTED
        assert wires(server)[0].startswith(b"EHLO [127.0.0.1]\r\n")
    assert capfd.readouterr().err == ""


def test_the_host_of_a_relay_is_converted() -> None:
    relay = parse_relay("smtp://faß.bücher.example:2525", mechanisms=())
    assert (relay.host, relay.name) == (
        "xn--fa-hia.xn--bcher-kva.example",
        "xn--fa-hia.xn--bcher-kva.example:2525",
    )
    with pytest.raises(ValueError, match=r"URL is wrong: U\+0300, COMBINING GRAVE ACCENT, is not"):
        parse_relay("smtp://\u0300x.example", mechanisms=())


@pytest.mark.parametrize("host", ["xn--é", "é.xn--9999999999", "é.xn--a-ж"])
def test_an_invalid_a_label_is_named(host: str) -> None:
    """The error is that of the domain, and not that of a codec."""
    label = host.split(".")[-1]
    with pytest.raises(ValueError, match=f"{label} is not an A-label"):
        parse_relay(f"smtp://{host}", mechanisms=())
