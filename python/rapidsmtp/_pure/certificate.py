"""The digest of a certificate that SCRAM's -PLUS mechanisms bind to: `tls-server-end-point`.

RFC 5929 section 4.1. Its hash is the one of the certificate's own signature, so that much of DER
(X.690) is read here, and nothing of it is believed.
"""

import hashlib
from collections.abc import Iterator

# The hash of each signature algorithm (RFC 3279, 4055, 5758), by its OID's DER content. MD5 and
# SHA-1 are replaced by SHA-256 (RFC 5929 section 4.1). Ed25519 and Ed448 have no such hash.
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
# The hashes that RSASSA-PSS may name in its parameters; SHA-1, its default, counts as SHA-256.
_HASHES = {
    bytes.fromhex("608648016503040204"): "sha224",
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
}


def certificate_digest(certificate: bytes) -> bytes | None:
    """The digest of a certificate in DER; None where its signature has no hash."""
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


def _pss_hash(parameters: list[tuple[int, bytes]]) -> str | None:
    """RFC 4055 section 3.1: the hash stands in the parameters, under the tag [0]."""
    explicit = dict(_elements(parameters[0][1])).get(0xA0)
    if explicit is None:
        return "sha256"
    _, algorithm = next(_elements(explicit))
    _, identifier = next(_elements(algorithm))
    return "sha256" if identifier == bytes.fromhex("2b0e03021a") else _HASHES.get(identifier)


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The DER elements that follow one another in `der`, as tag and content (X.690)."""
    position = 0
    while position < len(der):
        tag, size = der[position], der[position + 1]
        position += 2
        if size > 0x80:
            count = size - 0x80
            octets = der[position : position + count]
            if len(octets) != count:
                raise ValueError("the certificate is cut off")
            size = int.from_bytes(octets, "big")
            position += count
        content = der[position : position + size]
        if len(content) != size:
            raise ValueError("the certificate is cut off")
        yield tag, content
        position += size
