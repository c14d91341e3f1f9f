"""Reads certificates in DER (X.690): whether a certificate is that of a CA, and the digest.

The digest is for the channel binding of SCRAM's -PLUS mechanisms, which has the type
`tls-server-end-point`. RFC 5929 section 4.1: the digest uses the hash function of the certificate's
signature algorithm. This module therefore reads that algorithm from the certificate. The digest is
None if the certificate is truncated or its signature algorithm is unknown.
"""

import hashlib
from collections.abc import Iterator

# The hash of each signature algorithm (RFC 3279, 4055, 5758). A key is the DER encoding of the
# algorithm's identifier. RFC 5929 section 4.1: SHA-256 replaces MD5 and SHA-1. Ed25519 and Ed448
# are missing, because their identifiers name no hash.
_SIGNATURE_HASHES = {
    bytes.fromhex("2a864886f70d010104"): "sha256",  # md5WithRSAEncryption
    bytes.fromhex("2a864886f70d010105"): "sha256",  # sha1WithRSAEncryption
    bytes.fromhex("2a864886f70d01010e"): "sha224",  # sha224WithRSAEncryption
    bytes.fromhex("2a864886f70d01010b"): "sha256",  # sha256WithRSAEncryption
    bytes.fromhex("2a864886f70d01010c"): "sha384",  # sha384WithRSAEncryption
    bytes.fromhex("2a864886f70d01010d"): "sha512",  # sha512WithRSAEncryption
    bytes.fromhex("2a8648ce380403"): "sha256",  # id-dsa-with-sha1
    bytes.fromhex("608648016503040301"): "sha224",  # id-dsa-with-sha224
    bytes.fromhex("608648016503040302"): "sha256",  # id-dsa-with-sha256
    bytes.fromhex("2a8648ce3d0401"): "sha256",  # ecdsa-with-SHA1
    bytes.fromhex("2a8648ce3d040301"): "sha224",  # ecdsa-with-SHA224
    bytes.fromhex("2a8648ce3d040302"): "sha256",  # ecdsa-with-SHA256
    bytes.fromhex("2a8648ce3d040303"): "sha384",  # ecdsa-with-SHA384
    bytes.fromhex("2a8648ce3d040304"): "sha512",  # ecdsa-with-SHA512
}
_RSASSA_PSS = bytes.fromhex("2a864886f70d01010a")
# The hashes that the parameters of RSASSA-PSS can name. SHA-1 is missing, because `_pss_hash`
# replaces it with SHA-256 (RFC 5929 section 4.1).
_HASHES = {
    bytes.fromhex("608648016503040204"): "sha224",
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
}

_BASIC_CONSTRAINTS = bytes.fromhex("551d13")
_BOOLEAN = 0x01
_EXTENSIONS = 0xA3  # the tag of the optional field `extensions` (RFC 5280 section 4.1)


def certificate_digest(certificate: bytes) -> bytes | None:
    """Return the digest of a DER certificate; None if it is truncated or its hash is unknown."""
    try:
        _, outer = next(_elements(certificate))
        _, (_, algorithm), *_ = _elements(outer)
        (_, identifier), *parameters = _elements(algorithm)
        if identifier == _RSASSA_PSS:
            name = _pss_hash(parameters)
        else:
            name = _SIGNATURE_HASHES.get(identifier)
    except (IndexError, StopIteration, ValueError):
        return None
    return hashlib.new(name, certificate).digest() if name else None


def is_ca(certificate: bytes) -> bool:
    """Return whether a DER certificate is that of a CA (RFC 5280 section 4.2.1.9)."""
    try:
        _, outer = next(_elements(certificate))
        _, content = next(_elements(outer))
        for tag, extensions in _elements(content):
            if tag == _EXTENSIONS:
                _, extensions = next(_elements(extensions))
                return any(_says_ca(extension) for _, extension in _elements(extensions))
    except (IndexError, StopIteration, ValueError):
        pass
    return False


def _says_ca(extension: bytes) -> bool:
    """Return whether an extension is basicConstraints with the value CA."""
    (_, identifier), *_, (_, value) = _elements(extension)
    if identifier != _BASIC_CONSTRAINTS:
        return False
    _, constraints = next(_elements(value))
    return list(_elements(constraints))[:1] == [(_BOOLEAN, b"\xff")]


def _pss_hash(parameters: list[tuple[int, bytes]]) -> str | None:
    """Return the name of the hash in the parameters of RSASSA-PSS (RFC 4055 section 3.1).

    The field with the tag [0] names the hash. Without this field, the hash is the default, SHA-1.
    SHA-256 replaces SHA-1 (RFC 5929 section 4.1). The result is None for an unknown hash.
    """
    explicit = dict(_elements(parameters[0][1])).get(0xA0)
    if explicit is None:
        return "sha256"
    _, algorithm = next(_elements(explicit))
    _, identifier = next(_elements(algorithm))
    return "sha256" if identifier == bytes.fromhex("2b0e03021a") else _HASHES.get(identifier)


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each DER element in `der` (X.690)."""
    position = 0
    while position < len(der):
        tag, size = der[position], der[position + 1]
        position += 2
        if size > 0x80:
            # X.690 8.1.3.5: in the long form of a length, the first byte is 0x80 plus the number of
            # length bytes that follow.
            count = size - 0x80
            length = der[position : position + count]
            if len(length) != count:
                raise ValueError("the certificate is truncated")
            size = int.from_bytes(length, "big")
            position += count
        content = der[position : position + size]
        if len(content) != size:
            raise ValueError("the certificate is truncated")
        yield tag, content
        position += size
