"""The PEM files of the TLS settings (RFC 7468): the checks that need no TLS library.

Both backends get the same sections, so both report the same errors for a wrong file.
"""

import binascii
import os
import re
from pathlib import Path

Source = str | os.PathLike[str] | bytes
"""The path of a PEM file, or its bytes."""

_BEGIN = b"-----BEGIN "
_SECTION = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_CERTIFICATE = b"CERTIFICATE"
_KEYS = (b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY")
# The object identifiers of the algorithms in DER, by which a key in PKCS #8 (RFC 5958) is known:
# rsaEncryption, id-ecPublicKey and id-Ed25519.
_ALGORITHMS = (
    bytes.fromhex("06092a864886f70d010101"),
    bytes.fromhex("06072a8648ce3d0201"),
    bytes.fromhex("06032b6570"),
)

# The texts of errors that only the TLS library detects. The compiled engine has the same texts.
CERTIFICATE_MALFORMED = "certificate: the certificate cannot be read; copy its file again"
KEY_MALFORMED = (
    "key: the private key cannot be read; give a key for RSA (2048 bits or more), ECDSA or Ed25519"
)
KEY_MISMATCH = (
    "key: the private key does not belong to the certificate; give the key of this certificate"
)
AUTHORITIES_MALFORMED = "ca_file: no certificate in it can be read; copy the file again"


def read_certificates(name: str, source: Source) -> bytes:
    """Return the certificates of a PEM file, without its other sections.

    Args:
        name: The name of the argument, for error texts.
        source: The file.

    Raises:
        ValueError: The file contains no certificate, or is damaged.
        OSError: The file cannot be read.
    """
    found = [
        _in_pem(label, content)
        for label, content in _sections(name, source)
        if label == _CERTIFICATE
    ]
    if not found:
        raise _wrong(name, source, "it contains no certificate in PEM; give a file with one")
    return b"".join(found)


def read_key(name: str, source: Source) -> bytes:
    """Return the private key of a PEM file, without its other sections.

    Args:
        name: The name of the argument, for error texts. They contain no part of the key.
        source: The file.

    Raises:
        ValueError: The file contains no private key, or is damaged, or its key is encrypted or for
            another algorithm.
        OSError: The file cannot be read.
    """
    for label, content in _sections(name, source):
        if not label.endswith(b"PRIVATE KEY"):
            continue
        if label.startswith(b"ENCRYPTED") or content is None:
            raise _wrong(name, source, "its private key is encrypted; remove the passphrase")
        is_known = label != _KEYS[0] or any(each in content[:40] for each in _ALGORITHMS)
        if label not in _KEYS or not is_known:
            raise ValueError(KEY_MALFORMED)
        return _in_pem(label, content)
    cure = "add the key, or give it in key=" if name == "certificate" else "give a file with one"
    raise _wrong(name, source, f"it contains no private key in PEM; {cure}")


def _sections(name: str, source: Source) -> list[tuple[bytes, bytes | None]]:
    """Return the label and the content of each section. The content is None if it is encrypted."""
    text = source if isinstance(source, bytes) else Path(source).read_bytes()
    sections: list[tuple[bytes, bytes | None]] = []
    for label, content in _SECTION.findall(text):
        # RFC 1421 section 4.6.1.1: an encrypted key in the traditional format has this field.
        if b"Proc-Type: 4,ENCRYPTED" in content:
            sections.append((label, None))
            continue
        try:
            sections.append(
                (label, binascii.a2b_base64(b"".join(content.split()), strict_mode=True))
            )
        except binascii.Error:
            raise _wrong(name, source, "a section of it is not base64; copy it again") from None
    if text.count(_BEGIN) != len(sections):
        raise _wrong(name, source, "a section of it has no end; copy it again")
    return sections


def _in_pem(label: bytes, content: bytes | None) -> bytes:
    encoded = binascii.b2a_base64(content or b"", newline=False)
    lines = b"".join(encoded[at : at + 64] + b"\n" for at in range(0, len(encoded), 64))
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label, lines, label)


def _wrong(name: str, source: Source, fact: str) -> ValueError:
    where = "" if isinstance(source, bytes) else f" {os.fspath(source)}:"
    return ValueError(f"{name}:{where} {fact}")
