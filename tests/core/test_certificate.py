"""The digest of a certificate for `tls-server-end-point` (RFC 5929 section 4.1)."""

import hashlib
import ssl
from types import ModuleType

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from rapidsmtp import _pure


def der() -> bytes:
    pem = trustme.CA().issue_cert("relay.example").cert_chain_pems[0].bytes()
    return ssl.PEM_cert_to_DER_cert(pem.decode())


CERTIFICATE = der()


def test_the_digest_uses_the_hash_of_the_signature(core: ModuleType) -> None:
    assert core.certificate_digest(CERTIFICATE) == hashlib.sha256(CERTIFICATE).digest()


def test_a_truncated_certificate_has_no_digest(core: ModuleType) -> None:
    for end in range(0, len(CERTIFICATE), 7):
        assert core.certificate_digest(CERTIFICATE[:end]) is None
    assert core.certificate_digest(b"") is None


@pytest.mark.rust
@given(st.data())
def test_both_backends_agree_on_a_damaged_certificate(data: st.DataObject) -> None:
    from rapidsmtp import _native

    broken = bytearray(CERTIFICATE)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 40) | st.integers(0, len(broken) - 1))
        broken[place] = data.draw(st.integers(0, 255))
    assert _native.certificate_digest(bytes(broken)) == _pure.certificate_digest(bytes(broken))
