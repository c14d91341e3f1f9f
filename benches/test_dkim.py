"""DKIM signatures of a newsletter, compared with dkimpy (in the column `smtplib`).

Only the compiled backend signs.
"""

import itertools
from base64 import b64encode

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from rapidsmtp import DKIM, _backend
from rapidsmtp._compose.dkim import join

HEADER = (
    b"From: News <news@example.com>\r\nTo: you@example.net\r\nSubject: The newsletter\r\n"
    b"Date: Tue, 24 Nov 2026 02:17:48 +0000\r\nMessage-ID: <1@example.com>\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n"
    b"List-Unsubscribe: <https://example.com/u/1>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\n"
)
LINE = b"A line of the newsletter, as long as the lines of newsletters are: seventy-six.\r\n"
INDENTED = b"        <td>A cell of the newsletter, indented as HTML is</td>\r\n" * 590
BODIES = {"38-kB": LINE * 470, "38-kB-indented": INDENTED, "1-MB": LINE * 12500}
TIME = 1_790_000_000

SEED = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
KEYS = {
    "rsa": RSA.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
    "ed25519": SEED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
}


def by_dkimpy(key, message):
    """Return a function that signs with dkimpy. An Ed25519 key is passed as its seed."""
    options = {"canonicalize": (b"relaxed", b"relaxed")}
    if key == "ed25519":
        seed = SEED.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        options |= {"signature_algorithm": b"ed25519-sha256"}
        return lambda: dkimpy.sign(message, b"s", b"example.com", b64encode(seed), **options)
    return lambda: dkimpy.sign(message, b"s", b"example.com", KEYS["rsa"], **options)


def by_rapidsmtp(signer, body):
    """Return a function that signs another body in each call, so that no cached hash is used."""
    messages = itertools.cycle([HEADER + b"%05d" % number + body for number in range(40)])
    return lambda: signer.sign(next(messages), TIME)


@pytest.fixture(autouse=True)
def backend():
    """Select the compiled backend, because only this backend signs."""
    _backend.use("rust")


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("key", KEYS)
def test_dkim(compare, key, body):
    signer = join([DKIM("example.com", "s", KEYS[key])])
    body = BODIES[body]
    compare(by_dkimpy(key, HEADER + body), by_rapidsmtp(signer, body), calls=5)


def test_dkim_both_38_kB(compare):
    body = BODIES["38-kB"]
    both = [by_dkimpy(key, HEADER + body) for key in KEYS]
    signer = join([DKIM("example.com", "s", key) for key in KEYS.values()])
    compare(lambda: [each() for each in both], by_rapidsmtp(signer, body), calls=5)


@pytest.mark.parametrize("body", ["38-kB", "1-MB"])
def test_dkim_ed25519_of_a_body_that_is_repeated(compare, body):
    signer = join([DKIM("example.com", "s", KEYS["ed25519"])])
    message = HEADER + BODIES[body]
    compare(by_dkimpy("ed25519", message), lambda: signer.sign(message, TIME), calls=5)
