"""DKIM signatures, verified by dkimpy and by OpenDKIM (if installed).

Both verifiers get the message as a server receives it, with correct line ends and a final line end.
"""

import base64
import copy
import os
import pickle
import re
import shutil
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import processes
import rapidsmtp
from rapidsmtp import DKIM, _backend
from rapidsmtp._compose.dkim import join, sign
from rapidsmtp.testing import Sink

pytestmark = pytest.mark.rust

FORMS = [f"{header}/{body}" for header in ("relaxed", "simple") for body in ("relaxed", "simple")]
PKCS1, PKCS8, DER, PEM = (
    PrivateFormat.TraditionalOpenSSL,
    PrivateFormat.PKCS8,
    Encoding.DER,
    Encoding.PEM,
)
PLAIN = NoEncryption()

RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
SEED = ED25519.private_bytes(Encoding.Raw, PrivateFormat.Raw, PLAIN)
PUBLIC = ED25519.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
KEYS = {
    "rsa": RSA.private_bytes(PEM, PKCS8, PLAIN),
    "ed25519": ED25519.private_bytes(PEM, PKCS8, PLAIN),
}
RECORDS = {
    "rsa": base64.b64encode(RSA.public_key().public_bytes(DER, PublicFormat.SubjectPublicKeyInfo)),
    "ed25519": base64.b64encode(PUBLIC),
}

MESSAGE = (
    b"From: News <news@example.com>\r\nTo: you@example.net\r\n"
    b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n and\r\n\tmore\r\n"
    b"Date: Tue, 24 Nov 2026 02:17:48 +0000\r\nMessage-ID: <1@example.com>\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"List-Unsubscribe: <https://example.com/u/1>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    b"\r\nHello  you,\t\r\n\r\n  this is  it. \r\n.\r\n\r\n\r\n"
)


def record(name: bytes, timeout: int = 5) -> bytes:
    selector = name.decode().split(".")[0]
    return b"v=DKIM1; k=%s; p=%s" % (selector.encode(), RECORDS[selector])


def signer(key: str = "ed25519", **options: object) -> DKIM:
    return DKIM("example.com", key, KEYS[key], **options)


def wire(message: bytes) -> bytes:
    """Return the message as a server receives it."""
    message = _backend.repair(message)
    return message if message.endswith(b"\r\n") else message + b"\r\n"


def verified(message: bytes) -> list[bool]:
    """Return, for each signature, whether dkimpy verifies it."""
    verifier = dkimpy.DKIM(wire(message))
    count = sum(name.lower() == b"dkim-signature" for name, _ in verifier.headers)

    def verifies(number: int) -> bool:
        try:
            return verifier.verify(idx=number, dnsfunc=record)
        except dkimpy.DKIMException:
            return False

    return [verifies(number) for number in range(count)]


def tags(signed: bytes) -> dict[str, str]:
    """Return the tags of the first signature, without white space."""
    field = re.match(rb"DKIM-Signature:(.*?)\r\n(?![ \t])", signed, re.DOTALL)
    assert field is not None
    text = re.sub(r"\s", "", field[1].decode("ascii"))
    return dict(tag.split("=", 1) for tag in text.split(";"))


# Signatures that verify


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", KEYS)
def test_a_signature_verifies(key: str, form: str) -> None:
    started = int(time.time())
    signed = signer(key, canonicalization=form).sign(MESSAGE)
    assert signed.endswith(b"\r\n" + MESSAGE)
    assert verified(signed) == [True]
    assert max(map(len, signed[: -len(MESSAGE)].split(b"\r\n"))) <= 78
    found = tags(signed)
    assert started <= int(found.pop("t")) <= time.time()
    assert base64.b64decode(found.pop("b"), validate=True)
    assert base64.b64decode(found.pop("bh"), validate=True)
    fields = "from subject to date message-id mime-version content-type list-unsubscribe"
    twice = [name for field in fields.split() for name in (field, field)]
    twice += ["list-unsubscribe-post"] * 2
    assert sorted(found.pop("h").split(":")) == sorted([*twice, "cc", "reply-to"])
    assert found == {"v": "1", "a": f"{key}-sha256", "c": form, "d": "example.com", "s": key}


def test_several_signatures_verify() -> None:
    both = [signer("rsa"), signer("ed25519", canonicalization="simple/simple")]
    signed = sign(MESSAGE, both)
    assert verified(signed) == [True, True]
    assert re.findall(rb"a=(\w+)-sha256", signed) == [b"rsa", b"ed25519"]
    assert verified(signed[: -len(MESSAGE)] + MESSAGE.replace(b"it", b"that")) == [False, False]


def test_an_empty_list_of_signers_is_refused() -> None:
    assert "no DKIM" in refusal(lambda: sign(MESSAGE, []))


@pytest.mark.parametrize("form", FORMS)
def test_a_signature_verifies_after_the_transfer(form: str) -> None:
    broken = b".\rFrom\n" + MESSAGE.replace(b"  this", b"\n.this\r\r")[:-6] + b"\n no end"
    both = [signer(key, canonicalization=form) for key in KEYS]
    with Sink() as sink, rapidsmtp.SMTP(sink.host, sink.port) as client:
        for message in (MESSAGE, MESSAGE.split(b"\r\n\r\n", 1)[0] + b"\r\n\r\n" + broken):
            fields = join(both).sign(message, int(time.time()))
            # `sign` gets the message with its original line ends, some of which are wrong. The
            # client corrects them when it sends the message, and the signature must match the
            # corrected message.
            client.sendmail("a@example.com", ["b@example.com"], fields + message)
        received = [message.data for message in sink.messages]
    assert [verified(data) for data in received] == [[True, True]] * 2
    assert received[1].endswith(b"\r\n no end\r\n")


@pytest.mark.parametrize("size", [2048, 3072, 4096])
def test_rsa_keys_of_each_size_and_form_are_accepted(size: int) -> None:
    key = RSA if size == 2048 else rsa.generate_private_key(65537, size)
    for encoding in (PEM, DER):
        for form in (PKCS1, PKCS8):
            encoded = key.private_bytes(encoding, form, PLAIN)
            if encoding == DER:
                assert DKIM("example.com", "rsa", encoded).algorithm == "rsa-sha256"
                encoded = base64.encodebytes(encoded)
            one = DKIM("example.com", "rsa", encoded.decode())
            assert verified(one.sign(MESSAGE)) == [size == 2048]


@pytest.mark.parametrize(
    "key",
    [
        KEYS["ed25519"].decode(),
        b"A comment.\n" + KEYS["ed25519"].replace(b"\n", b"\r\n"),
        base64.b64encode(SEED).decode(),
        base64.b64encode(SEED) + b"\n",
        base64.b64encode(SEED + PUBLIC),
        SEED,
        ED25519.private_bytes(DER, PKCS8, PLAIN),
    ],
    ids=["str", "PEM", "seed-str", "seed-bytes", "seed-and-public-key", "bytes", "DER"],
)
def test_ed25519_keys_of_each_form_are_accepted(key: str | bytes, tmp_path: Path) -> None:
    assert verified(DKIM("example.com", "ed25519", key).sign(MESSAGE)) == [True]
    file = tmp_path / "key"
    file.write_bytes(key.encode() if isinstance(key, str) else key)
    assert verified(DKIM("example.com", "ed25519", file).sign(MESSAGE)) == [True]


def test_the_expiry_and_the_identity_are_signed() -> None:
    one = signer(identity="News@Lists.example.com", expires=timedelta(days=7))
    signed = one.sign(MESSAGE)
    assert verified(signed) == [True]
    found = tags(signed)
    assert int(found["x"]) - int(found["t"]) == 7 * 86400
    assert found["i"] == "News@lists.example.com"
    # dkimpy accepts a signature up to ten hours after its expiry, because clocks may be wrong. So
    # the expired signature is eleven hours old.
    native = signer(expires=60)._signer
    old = native.sign(MESSAGE, int(time.time()) - 11 * 3600)
    assert verified(old + MESSAGE) == [False]


def test_an_international_domain_is_encoded() -> None:
    one = DKIM("Bücher.example", "ed25519", SEED, identity="@news.bücher.example")
    assert one.domain == "xn--bcher-kva.example"
    signed = one.sign(MESSAGE)
    assert verified(signed) == [True]
    assert tags(signed)["i"] == "@news.xn--bcher-kva.example"


def test_a_domain_of_the_maximum_length_is_accepted() -> None:
    domain = ".".join(["a" * 60] * 4) + ".example"
    signed = DKIM(domain, "ed25519", SEED).sign(MESSAGE)
    assert verified(signed) == [True]
    assert max(map(len, signed.split(b"\r\n"))) <= len(domain) + 5


def test_only_the_chosen_header_fields_are_signed() -> None:
    signed = signer(headers=["From", "X-Own"]).sign(b"X-Own: 1\r\nX-Own: 2\r\n" + MESSAGE)
    assert tags(signed)["h"] == "from:from:x-own:x-own:x-own"
    assert verified(signed) == [True]
    assert verified(signed.replace(b"Subject", b"Object")) == [True]
    assert verified(signed.replace(b"X-Own: 1", b"X-Own: 3")) == [False]


@pytest.mark.parametrize("form", FORMS)
def test_line_ends_are_signed_as_they_are_sent(form: str) -> None:
    one = signer(canonicalization=form)
    for end in (b"\n", b"\r"):
        signed = one.sign(MESSAGE.replace(b"\r\n", end))
        assert signed.endswith(MESSAGE)
        assert verified(signed) == [True]
    now = int(time.time())
    broken = MESSAGE.replace(b"  this", b"\nthis\r\r")
    fields = one._signer.sign(broken, now)
    assert fields == one._signer.sign(_backend.repair(broken), now)
    assert verified(fields + broken) == [True]
    assert verified(one.sign(MESSAGE + b"no line end")) == [True]


# Signatures that do not verify


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", KEYS)
def test_tampering_is_detected(key: str, form: str) -> None:
    signed = signer(key, canonicalization=form).sign(MESSAGE)
    for old, new in [
        (b"news@", b"evil@"),
        (b"Subject: =", b"Subject: x="),
        (b"/u/1", b"/u/2"),
        (b"this", b"that"),
        (b"Date:", b"Dite:"),
        (b"d=example.com", b"d=example.org"),
        (b"t=1", b"t=0"),
    ]:
        assert old in signed
        assert verified(signed.replace(old, new, 1)) == [False], old
    assert verified(signed + b"more\r\n") == [False]


@pytest.mark.parametrize("name", ["From", "Subject", "To", "Cc", "Reply-To", "Content-Type"])
def test_no_field_can_be_added(name: str) -> None:
    field = name.encode() + b": evil@example.org\r\n"
    signed = signer().sign(MESSAGE)
    assert verified(field + signed) == [False]
    assert verified(signed.replace(b"MIME-Version", field + b"MIME-Version")) == [False]
    # A field that occurs twice before the signing is valid, because the signature covers each
    # occurrence.
    assert verified(signer().sign(field + MESSAGE)) == [True]


def test_a_wrong_key_is_detected() -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    key = other.private_bytes(PEM, PKCS8, PLAIN)
    assert verified(DKIM("example.com", "ed25519", key).sign(MESSAGE)) == [False]


def test_relaxed_allows_changed_white_space() -> None:
    for form, allowed in (("relaxed/relaxed", True), ("simple/simple", False)):
        signed = signer(canonicalization=form).sign(MESSAGE)
        assert verified(signed.replace(b"Hello  you,\t", b"Hello you,")) == [allowed]
        assert verified(signed.replace(b"To: you", b"TO :you".replace(b" ", b""))) == [allowed]
        assert verified(signed + b"\r\n\r\n") == [True]


# Random messages

# All bytes except CR, LF and the other characters that dkimpy's `strip` removes as white space.
BYTES = [bytes([number]) for number in range(256) if number not in b"\r\n\x0b\x0c"]
pieces = st.one_of(
    st.sampled_from([b" ", b"  ", b"\t", b" \t ", b"\r\n ", b"\r\n\t", b"\r\n \t x"]),
    st.sampled_from([b"=?utf-8?q?=C3=A4?=", b":", b";", b"<a@example.com>"]),
    st.sampled_from(BYTES),
    st.text("abc ", max_size=30).map(str.encode),
)
values = st.lists(pieces, max_size=12).map(b"".join)
names = st.sampled_from([b"From", b"to", b"SUBJECT", b"Cc", b"X-Any", b"List-Id", b"References"])
fields = st.tuples(names, values).map(b":".join)
headers = st.lists(fields, max_size=8).map(lambda some: b"\r\n".join([*some, b"From: a@b.example"]))
texts = st.one_of(
    st.sampled_from([b"\r\n", b"\r\n\r\n", b" ", b"  ", b"\t", b" \r\n", b"\t \r\n ", b".\r\n"]),
    st.sampled_from([b"\r", b"\n", b"\r\r\n", b"\n\n"]),
    st.sampled_from(BYTES),
    st.text("abc ", max_size=90).map(str.encode),
    st.integers(1, 3000).map(lambda length: b"x" * length),
)
bodies = st.lists(texts, max_size=20).map(b"".join)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=150, deadline=None)
@given(header=headers, body=bodies)
def test_any_message_verifies(form: str, header: bytes, body: bytes) -> None:
    signed = signer(canonicalization=form).sign(header + b"\r\n\r\n" + body)
    assert verified(signed) == [True]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"\r\n",
        b"\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"\r\n\r\n \t\r\n \r\n",
        b"\r\n\r\n ",
        b"\r\n\r\n" + b"long " * 30000,
        b"\r\n\r\n" + bytes(range(256)) * 40,
    ],
    ids=["header", "header-CRLF", "empty", "CRLFs", "blank", "blank-open", "long", "bytes"],
)
def test_a_signature_of_an_unusual_body_verifies(form: str, rest: bytes) -> None:
    assert verified(signer(canonicalization=form).sign(b"From: a@example.com" + rest)) == [True]


def test_a_repeated_body_is_signed_correctly() -> None:
    one = signer()
    bodies = [b"x" * 5000 + bytes([letter]) * 3 + b"y" * 5000 for letter in b"abcab"]
    for round in range(4):
        for body in bodies:
            message = b"From: a@example.com\r\nSubject: %d\r\n\r\n" % round + body
            assert verified(one.sign(message)) == [True]
    signed = one.sign(b"From: a@example.com\r\n\r\n" + bodies[0])
    assert tags(signed)["bh"] != tags(one.sign(b"From: a@example.com\r\n\r\n" + bodies[1]))["bh"]


def test_many_threads_may_sign_at_once() -> None:
    both, wrong = [signer("rsa"), signer("ed25519")], []

    def work(number: int) -> None:
        for round in range(5):
            body = b"Body %d\r\n" % (round % 2) * 200
            signed = sign(b"From: %d@example.com\r\n\r\n" % number + body, both)
            if verified(signed) != [True, True]:
                wrong.append(signed)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Refusals: one line that contains the reason but not the key


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:
        make()
    text = str(caught.value)
    assert text and "\n" not in text and "BEGIN" not in text
    return text


def generated(exponent: int, size: int, form: PrivateFormat = PKCS8) -> Callable[[], bytes]:
    """Return a function that generates a key, so that only the test of the key takes this time."""
    return lambda: rsa.generate_private_key(exponent, size).private_bytes(PEM, form, PLAIN)


CURVE = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        pytest.param(generated(65537, 1024), "2048 bits", id="RSA of 1024 bits"),
        pytest.param(generated(3, 2048, PKCS1), "exponent of 65537", id="RSA with exponent 3"),
        pytest.param(generated(65537, 4160), "4096 bits", id="RSA of 4160 bits"),
        (RSA.private_bytes(PEM, PKCS8, BestAvailableEncryption(b"x")), "is encrypted"),
        (RSA.private_bytes(PEM, PKCS1, BestAvailableEncryption(b"x")), "is encrypted"),
        (CURVE.private_bytes(PEM, PKCS8, PLAIN), "neither RSA nor Ed25519"),
        (CURVE.private_bytes(PEM, PKCS1, PLAIN), "neither RSA nor Ed25519"),
        (RSA.public_key().public_bytes(PEM, PublicFormat.SubjectPublicKeyInfo), "no private key"),
        (KEYS["rsa"][:600], "no private key that can be read"),
        (KEYS["rsa"].replace(b"\nM", b"\n!", 1), "no private key that can be read"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "damaged"),
        (b"no key at all", "neither PEM nor base64"),
        (base64.b64encode(b"x" * 31), "damaged"),
        pytest.param(base64.b64encode(SEED + SEED), "do not match", id="seed for public key"),
        (b"", "damaged"),
        (bytes(100), "damaged"),
        ("/etc/dkim/example.key", "pathlib.Path"),
        ("/etc/dkim/key/of/example/com/abc", "pathlib.Path"),
        ("schlüssel", "pathlib.Path"),
        ("", "pathlib.Path"),
    ],
)
def test_keys_that_cannot_be_used_are_refused(
    key: bytes | str | Callable[[], bytes], expected: str
) -> None:
    content = key() if callable(key) else key
    assert expected in refusal(lambda: DKIM("example.com", "s", content))


def test_a_missing_key_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DKIM("example.com", "s", tmp_path / "none")


@pytest.mark.parametrize(
    "options",
    [
        {"domain": "example.com; x=1"},
        {"domain": "example.com\r\nBcc: a@example.org"},
        {"domain": "com"},
        {"domain": ""},
        {"domain": "exa mple.com"},
        {"domain": "a" * 64 + ".example"},
        {"selector": "s;d=example.org"},
        {"selector": ""},
        {"selector": "s\n"},
        {"canonicalization": "relaxed"},
        {"canonicalization": "relaxed/none"},
        {"headers": ["Subject"]},
        {"headers": []},
        {"headers": "From"},
        {"headers": ["From", "X: y"]},
        {"headers": ["From", "X;b=y"]},
        {"headers": ["From", "X\r\nY"]},
        {"headers": ["From", "DKIM-Signature"]},
        {"headers": ["From", "Bcc"]},
        {"identity": "@example.org"},
        {"identity": "@notexample.com"},
        {"identity": "news"},
        {"identity": "a;b=c@example.com"},
        {"identity": f"{'a' * 65}@example.com"},
        {"headers": ["From", "X-" + "a" * 1000]},
        {"identity": "a\r\nb@example.com"},
        {"expires": 0},
        {"expires": -5},
        {"expires": timedelta(milliseconds=5)},
    ],
    ids=lambda options: " ".join(options),
)
def test_wrong_arguments_are_refused(options: dict[str, object]) -> None:
    refusal(
        lambda: DKIM(**{"domain": "example.com", "selector": "s", "private_key": SEED} | options)
    )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"Subject: x\r\n\r\nFrom: a\r\n", "without From"),
        (b"\r\nFrom: a@example.com\r\n", "without From"),
        (b"", "without From"),
        (b"From me\r\nFrom: a@example.com\r\n\r\n", "header field 1"),
        (b"From: a@example.com\r\nno field\r\n\r\n", "header field 2"),
        (b" folded: x\r\nFrom: a@example.com\r\n\r\n", "header field 1"),
    ],
)
def test_messages_that_cannot_be_signed_are_refused(message: bytes, expected: str) -> None:
    assert expected in refusal(lambda: signer().sign(message))


def test_a_time_beyond_twelve_digits_is_refused() -> None:
    native = signer()._signer
    assert b" t=999999999999;" in native.sign(MESSAGE, 10**12 - 1)
    assert "twelve digits" in refusal(lambda: native.sign(MESSAGE, 10**12))


def test_no_repr_or_pickle_contains_the_key() -> None:
    for key in KEYS:
        one = signer(key)
        assert repr(one).startswith(f"DKIM(domain='example.com', selector='{key}', ")
        secret = KEYS[key].decode().splitlines()[1]
        assert not any(secret in str(vars(one)[name]) for name in vars(one))
        assert secret not in repr(one) and secret not in repr(one._signer)
        assert not hasattr(one, "private_key")
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="private key"):
                attempt(one)
        with pytest.raises(TypeError):
            pickle.dumps(one._signer)
        with pytest.raises(AttributeError):
            one.domain = "example.org"


def test_the_error_names_the_missing_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "native", lambda name: None)
    with pytest.raises(ImportError, match="DKIM needs the compiled backend"):
        signer()


def test_the_class_is_exported() -> None:
    assert rapidsmtp.DKIM is DKIM and "DKIM" not in rapidsmtp.__all__


# Verification by OpenDKIM, which mail servers use

OPENDKIM = shutil.which("opendkim") or shutil.which("opendkim", path="/usr/sbin:/usr/local/sbin")


@pytest.mark.skipif(OPENDKIM is None, reason="opendkim is not installed")
@pytest.mark.parametrize("form", FORMS)
def test_opendkim_agrees(form: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    names = [f"{key}._domainkey.example.com" for key in KEYS]
    keys.write_text("".join(f"{name} {record(name.encode()).decode()}\n" for name in names))
    settings = tmp_path / "settings"
    settings.write_text(f"Mode v\nSyslog no\nTestPublicKeys {keys}\n")

    def results(message: bytes) -> list[str]:
        file = tmp_path / "message"
        file.write_bytes(message)
        command = [str(OPENDKIM), "-x", str(settings), "-t", str(file), "-v", "-v"]
        done = processes.run(command, capture_output=True, text=True, timeout=60, cwd=os.sep)
        return re.findall(r"dkim=(\w+)", done.stdout)

    both = [signer(key, canonicalization=form) for key in KEYS]
    signed = sign(MESSAGE, both)
    assert results(signed) == ["pass", "pass"]
    assert results(sign(b"From: a@example.com\r\n\r\n", both)) == ["pass", "pass"]
    assert results(signed.replace(b"this", b"that")) == ["fail", "fail"]
    assert results(b"From: evil@example.org\r\n" + signed) == ["fail", "fail"]
