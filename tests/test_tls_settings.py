"""Wrong certificates and keys of `TLS`: the same error text in both backends."""

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from rapidsmtp import TLS, Sender, Status
from senders import messages, sender_to
from server import Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

CA = trustme.CA()
OWN, OTHER = CA.issue_cert("own.example"), CA.issue_cert("other.example")
CERTIFICATE = OWN.cert_chain_pems[0].bytes()
KEY = OWN.private_key_pem.bytes()
RSA = rsa.generate_private_key(65537, 2048)


def in_pem(key: Any, style: str = "PKCS8", *, is_encrypted: bool = False) -> bytes:
    encryption = BestAvailableEncryption(b"secret") if is_encrypted else NoEncryption()
    text: bytes = key.private_bytes(Encoding.PEM, getattr(PrivateFormat, style), encryption)
    return text


def section(label: bytes, content: bytes = b"AAAA\n") -> bytes:
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label, content, label)


NO_CERTIFICATE = "it contains no certificate in PEM; give a file with one"
NO_KEY = "it contains no private key in PEM; give a file with one"
ENCRYPTED = "its private key is encrypted; remove the passphrase"
NOT_BASE64 = "a section of it is not base64; copy it again"
NO_END = "a section of it has no end; copy it again"
UNREADABLE = (
    "the private key cannot be read; give a key for RSA (2048 bits or more), ECDSA or Ed25519"
)
MISMATCH = "the private key does not belong to the certificate; give the key of this certificate"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "the key of another certificate": (
        {"key": OTHER.private_key_pem.bytes()}, f"key: {MISMATCH}",
    ),
    "a key for another algorithm": ({"key": in_pem(RSA)}, f"key: {MISMATCH}"),
    "an encrypted key": ({"key": in_pem(RSA, is_encrypted=True)}, f"key: {ENCRYPTED}"),
    "an encrypted key in the traditional format": (
        {"key": in_pem(RSA, "TraditionalOpenSSL", is_encrypted=True)}, f"key: {ENCRYPTED}",
    ),
    "an encrypted key in the same file": (
        {"certificate": CERTIFICATE + in_pem(RSA, is_encrypted=True), "key": None},
        f"certificate: {ENCRYPTED}",
    ),
    "no key in the file": (
        {"key": None},
        "certificate: it contains no private key in PEM; add the key, or give it in key=",
    ),
    "the certificate in place of the key": ({"key": CERTIFICATE}, f"key: {NO_KEY}"),
    "the key in place of the certificate": (
        {"certificate": KEY}, f"certificate: {NO_CERTIFICATE}",
    ),
    "a certificate that is not PEM": (
        {"certificate": ssl.PEM_cert_to_DER_cert(CERTIFICATE.decode())},
        f"certificate: {NO_CERTIFICATE}",
    ),
    "a key that is not PEM": ({"key": b"\xff"}, f"key: {NO_KEY}"),
    "a certificate that is not base64": (
        {"certificate": CERTIFICATE.replace(b"MII", b"M!I")}, f"certificate: {NOT_BASE64}",
    ),
    "a key that is not base64": (
        {"key": section(b"PRIVATE KEY", b"c2VjcmV0!\n")}, f"key: {NOT_BASE64}",
    ),
    "a certificate without an end": (
        {"certificate": CERTIFICATE[:-30]}, f"certificate: {NO_END}",
    ),
    "a key without an end": ({"key": KEY[:-30]}, f"key: {NO_END}"),
    "a malformed certificate": (
        {"certificate": section(b"CERTIFICATE")},
        "certificate: the certificate cannot be read; copy its file again",
    ),
    "a malformed key": ({"key": section(b"PRIVATE KEY")}, f"key: {UNREADABLE}"),
    "a malformed key in the traditional format": (
        {"key": section(b"EC PRIVATE KEY")}, f"key: {UNREADABLE}",
    ),
    "a key for DSA": ({"key": in_pem(dsa.generate_private_key(1024))}, f"key: {UNREADABLE}"),
    "a CA that is not PEM": ({"ca_file": b"junk"}, f"ca_file: {NO_CERTIFICATE}"),
    "a CA that is a key": ({"ca_file": KEY}, f"ca_file: {NO_CERTIFICATE}"),
    "a CA that is not base64": (
        {"ca_file": section(b"CERTIFICATE", b"!\n")}, f"ca_file: {NOT_BASE64}",
    ),
    "a CA without an end": ({"ca_file": CERTIFICATE[:-30]}, f"ca_file: {NO_END}"),
    "a malformed CA": (
        {"ca_file": section(b"CERTIFICATE")},
        "ca_file: no certificate in it can be read; copy the file again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_an_error_of_the_constructor(case: str) -> None:
    files, text = WRONG[case]
    with pytest.raises(ValueError) as caught:
        Sender("smtps://relay.example", tls=TLS(**{"certificate": CERTIFICATE, "key": KEY} | files))
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["certificate", "key", "ca_file"])
def test_the_error_names_the_file(tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = {"certificate": CERTIFICATE, "key": KEY}
    missing = tmp_path / "missing.pem"
    with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
        Sender("smtps://relay.example", tls=TLS(**settings | {name: missing}))
    file = tmp_path / "file.pem"
    file.write_bytes(b"junk")
    with pytest.raises(ValueError, match=rf"^{name}: {file}: it contains no "):
        Sender("smtps://relay.example", tls=TLS(**settings | {name: str(file)}))


@pytest.mark.parametrize("name", ["", "a b", "..", "-a.example", "\xe9.example", "a" * 64])
def test_a_name_that_no_certificate_contains_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="it must be a host name or an address"):
        TLS(server_hostname=name)


@pytest.mark.parametrize(
    "name", ["a_b.example", "a.example.", "127.0.0.1", "[::1]", "fe80::1%eth0"]
)
def test_names_and_addresses_are_accepted(name: str) -> None:
    Sender("smtps://relay.example", tls=TLS(server_hostname=name)).close()


@pytest.mark.parametrize("order", ["certificate first", "key first"])
def test_a_file_with_certificate_key_and_other_text(order: str) -> None:
    parts = [b"Subject: own\n", CERTIFICATE, section(b"EC PARAMETERS"), KEY.replace(b"\n", b"\r\n")]
    parts = parts if order == "certificate first" else parts[::-1]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("127.0.0.1").configure_cert(context)
    CA.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    tls = TLS(ca_file=section(b"CERTIFICATE") + CA.cert_pem.bytes(), certificate=b"".join(parts))
    with Server(SMTPScript(), tls=context) as server, sender_to(server, "smtps", tls=tls) as sender:
        assert sender.send_all(messages(1)).counts == {Status.ACCEPTED: 1}
