"""Certificates with any combination of fields, for the tests of TLS."""

import datetime
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

TODAY = datetime.datetime(*datetime.datetime.now(datetime.UTC).timetuple()[:3])


@dataclass
class Identity:
    """A certificate and its private key."""

    der: bytes
    key: Any
    name: x509.Name

    @property
    def pem(self) -> bytes:
        return ssl.DER_cert_to_PEM_cert(self.der).encode()

    @property
    def key_pem(self) -> bytes:
        pem: bytes = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem

    def server(self, *chain: "Identity") -> ssl.SSLContext:
        """Return the TLS settings of a server with this certificate and the rest of its chain."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # The server may use any algorithm, so that only the client refuses it.
        context.set_ciphers("ALL:@SECLEVEL=0")
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "server.pem")
            file.write_bytes(self.key_pem + b"".join(each.pem for each in (self, *chain)))
            context.load_cert_chain(file)
        return context


def make(
    name: str = "",
    *,
    hosts: Sequence[str] = (),
    issuer: Identity | None = None,
    ca: bool | None = None,
    path_length: int | None = None,
    days: tuple[int, int] = (-10, 10),
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    key: Any = None,
    hash_: SHA256 | SHA384 | None = SHA256(),  # noqa: B008  (stateless)
    version_1: bool = False,
) -> Identity:
    """Return a new certificate.

    Args:
        name: The common name of the subject.
        hosts: The host names and IP addresses in the extension subjectAltName.
        issuer: The issuer; None for a self-signed certificate.
        ca: The value of basicConstraints; None for a certificate without this extension.
        path_length: The pathLenConstraint of a CA.
        days: The first and the last day of the validity, relative to today.
        extensions: Further extensions, and whether they are critical.
        key: The private key; None for a new P-256 key.
        hash_: The hash of the signature.
        version_1: Whether to make an X.509 v1 certificate, which has no extensions.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.name if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(TODAY + datetime.timedelta(days[0]))
        .not_valid_after(TODAY + datetime.timedelta(days[1]))
    )
    given = list(extensions)
    if hosts:
        given.append((x509.SubjectAlternativeName([_host(each) for each in hosts]), False))
    if ca is not None:
        given.append((x509.BasicConstraints(ca, path_length), True))
    for extension, critical in given:
        builder = builder.add_extension(extension, critical)
    signer = issuer.key if issuer else key
    der = builder.sign(signer, hash_).public_bytes(Encoding.DER)
    return Identity(_as_version_1(der, signer) if version_1 else der, key, subject)


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _as_version_1(der: bytes, signer: ec.EllipticCurvePrivateKey) -> bytes:
    """Remove the version field of a certificate without extensions, and sign it again.

    RFC 5280 section 4.1.2.1: a certificate without this field has version 1.
    """
    certificate = x509.load_der_x509_certificate(der)
    content = certificate.tbs_certificate_bytes
    content = content[_header_size(content) :].removeprefix(b"\xa0\x03\x02\x01\x02")
    signed = _element(0x30, content)
    # ecdsa-with-SHA256
    algorithm = _element(0x30, bytes.fromhex("06082a8648ce3d040302"))
    signature = signer.sign(signed, ec.ECDSA(SHA256()))
    return _element(0x30, signed + algorithm + _element(0x03, b"\0" + signature))


def _header_size(der: bytes) -> int:
    return 2 if der[1] < 0x80 else 2 + der[1] - 0x80


def _element(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes(2, "big").lstrip(b"\0")
    return bytes([tag, 0x80 + len(length)]) + length + content
