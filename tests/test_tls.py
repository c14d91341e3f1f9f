"""Both backends accept the same certificates and TLS parameters, and report the same errors.

`docs/pages/reference/tls.md` lists the exceptions. Each error text states the fact and the cure.
"""

import itertools
import re
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import ExtendedKeyUsageOID

from certificates import Identity, make
from rapidsmtp import TLS, Status
from senders import message, send, sender_to
from server import Connection, Script, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

_number = itertools.count()
HOSTS = ("127.0.0.1", "relay.test")
ROOT = make("root", ca=True)
INTERMEDIATE = make("intermediate", ca=True, issuer=ROOT)
LEAF = make(hosts=HOSTS, issuer=ROOT)

_REPLACE = "; replace the relay's certificate"
UNKNOWN = (
    "its issuer is unknown; give the certificate of its CA in ca_file=, and let the relay send all "
    "intermediate certificates"
)
SELF_SIGNED = "it is self-signed; give it in ca_file= to trust it"
IS_CA = "it is the certificate of a CA; give it in ca_file= to trust it"
NOT_CA = (
    "a certificate of its chain is not that of a CA; check ca_file=, or replace the relay's "
    "certificate"
)
PURPOSE = "it, or a certificate of its chain, does not permit TLS servers" + _REPLACE
EXPIRED = "it, or a certificate of its chain, has expired; renew the certificate at the relay"
EARLY = "it, or a certificate of its chain, is not valid yet; check the clock of this host"
EXTENSION = "it, or a certificate of its chain, has an unknown critical extension" + _REPLACE
TOO_LONG = "its chain is longer than its CA permits" + _REPLACE
FORBIDDEN = "its CA is not permitted to certify this name" + _REPLACE
WEAK = (
    "a signature in its chain is invalid or weak; check ca_file=, or replace the relay's "
    "certificate"
)


def other_name(name: str) -> str:
    return (
        f"host name mismatch: it is not valid for {name}; write a name of the certificate in the "
        "relay's URL, or in server_hostname="
    )


def usage(*names: str) -> tuple[x509.ExtensionType, bool]:
    """Return the extension keyUsage with some of its bits."""
    bits = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    return x509.KeyUsage(**bits | dict.fromkeys(names, True)), True


def purposes(*identifiers: Any) -> tuple[x509.ExtensionType, bool]:
    return x509.ExtendedKeyUsage(identifiers), False


def only(host: str) -> tuple[x509.ExtensionType, bool]:
    return x509.NameConstraints([x509.DNSName(host)], None), True


CLIENTS = purposes(ExtendedKeyUsageOID.CLIENT_AUTH)
UNKNOWN_EXTENSION = (
    x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
    True,
)


def relay(issuer: Identity | None = None, **options: Any) -> Identity:
    """Return the certificate of a relay."""
    given: dict[str, Any] = {"hosts": HOSTS, "issuer": issuer}
    return make(**given | options)


def authority(issuer: Identity | None = None, **options: Any) -> Identity:
    """Return the certificate of a CA. Each CA has another name."""
    given: dict[str, Any] = {"name": f"CA {next(_number)}", "ca": True, "issuer": issuer}
    return make(**given | options)


def below(ca: Identity, *between: Identity) -> tuple[Identity, Sequence[Identity], Identity]:
    """Return a relay's certificate, the intermediates that the relay sends, and the trusted CA."""
    return relay(between[0] if between else ca), between, ca


def itself(identity: Identity) -> tuple[Identity, Sequence[Identity], Identity]:
    """Return a relay's certificate that is also the only trusted certificate."""
    return identity, (), identity


# The relay's certificate, the intermediates that the relay sends, and the trusted certificate. The
# last element is the reason why the certificate is not trusted; "" if it is trusted.
CASES: dict[str, tuple[tuple[Identity, Sequence[Identity], Identity], str]] = {
    "a CA": (below(ROOT), ""),
    "an intermediate": (below(ROOT, INTERMEDIATE), ""),
    "a missing intermediate": ((relay(INTERMEDIATE), (), ROOT), UNKNOWN),
    "an intermediate alone is trusted": (below(INTERMEDIATE), ""),
    "an intermediate alone is trusted, and sent": (
        (relay(INTERMEDIATE), (INTERMEDIATE, ROOT), INTERMEDIATE), "",
    ),
    "an unknown CA": ((relay(authority()), (), ROOT), UNKNOWN),
    "an unknown CA that the relay sends": (((ca := authority()), (ca,), ROOT), SELF_SIGNED),
    # The relay's certificate in ca_file
    "the certificate of a CA itself": (itself(LEAF), ""),
    "self-signed": (itself(relay()), ""),
    "self-signed, no CA": (itself(relay(ca=False)), ""),
    "self-signed, a CA": (itself(relay(ca=True)), ""),
    "self-signed, not trusted": ((relay(), (), ROOT), SELF_SIGNED),
    "self-signed, a CA, not trusted": ((relay(ca=True), (), ROOT), SELF_SIGNED),
    "self-signed, another key": ((relay(name="a", ca=True), (), relay(name="a", ca=True)),
        SELF_SIGNED),
    "a CA certificate of a CA": ((relay(ROOT, ca=True), (), ROOT), IS_CA),
    "a CA certificate of a CA, trusted": (itself(relay(ROOT, ca=True)), ""),
    # Host names
    "only a common name": ((make("127.0.0.1", issuer=ROOT), (), ROOT), other_name("127.0.0.1")),
    "only a common name, trusted": (itself(make("127.0.0.1")), other_name("127.0.0.1")),
    "no name": ((make(issuer=ROOT), (), ROOT), other_name("127.0.0.1")),
    "another name": ((relay(ROOT, hosts=["a.test"]), (), ROOT), other_name("127.0.0.1")),
    "the address as a name": (
        (
            make(
                issuer=ROOT,
                extensions=[(x509.SubjectAlternativeName([x509.DNSName("127.0.0.1")]), False)],
            ),
            (),
            ROOT,
        ),
        other_name("127.0.0.1"),
    ),
    # X.509 version 1
    "version 1 as a CA": (below(make("v1", version_1=True)), ""),
    "version 1 as an intermediate": (
        below(ROOT, make("v1", version_1=True, issuer=ROOT)), NOT_CA,
    ),
    "version 1 as a trusted intermediate": (
        below(make("v1", version_1=True, issuer=ROOT)), NOT_CA,
    ),
    "version 1 at the relay": (
        (make("127.0.0.1", version_1=True, issuer=ROOT), (), ROOT), other_name("127.0.0.1"),
    ),
    "version 1, self-signed": (
        itself(make("127.0.0.1", version_1=True)), other_name("127.0.0.1"),
    ),
    # What a CA may issue
    "a CA without basicConstraints": (below(authority(ca=None)), NOT_CA),
    "no CA": (below(authority(ca=False)), NOT_CA),
    "an intermediate that is no CA": (below(ROOT, authority(ROOT, ca=False)), NOT_CA),
    "a trusted intermediate that is no CA": (below(authority(ROOT, ca=False)), NOT_CA),
    "a CA by keyUsage": (below(authority(ca=None, extensions=[usage("key_cert_sign")])), ""),
    "a CA that may not sign": (
        below(authority(extensions=[usage("digital_signature")])), NOT_CA,
    ),
    "an intermediate that may not sign": (
        below(ROOT, authority(ROOT, extensions=[usage("digital_signature")])), NOT_CA,
    ),
    "a CA for clients": (below(authority(extensions=[CLIENTS])), PURPOSE),
    "an intermediate for clients": (below(ROOT, authority(ROOT, extensions=[CLIENTS])), PURPOSE),
    "an unknown extension in the CA": (
        below(authority(extensions=[UNKNOWN_EXTENSION])), EXTENSION,
    ),
    "a chain that is too long": (
        below(ROOT, authority(inner := authority(ROOT, path_length=0)), inner), TOO_LONG,
    ),
    "a name that the CA may not certify": (
        below(authority(extensions=[only("other.test")])), FORBIDDEN,
    ),
    "a name that the intermediate may not certify": (
        below(ROOT, authority(ROOT, extensions=[only("other.test")])), FORBIDDEN,
    ),
    # Dates
    "expired": ((relay(ROOT, days=(-20, -1)), (), ROOT), EXPIRED),
    "expired, trusted": (itself(relay(days=(-20, -1))), EXPIRED),
    "not valid yet": ((relay(ROOT, days=(2, 20)), (), ROOT), EARLY),
    "an expired CA": (below(authority(days=(-20, -1))), EXPIRED),
    "a CA that is not valid yet": (below(authority(days=(2, 20))), EARLY),
    "an expired intermediate": (below(ROOT, authority(ROOT, days=(-20, -1))), EXPIRED),
    "a trusted intermediate that has expired": (below(authority(ROOT, days=(-20, -1))), EXPIRED),
    # The purpose of the relay's certificate
    "for clients": ((relay(ROOT, extensions=[CLIENTS]), (), ROOT), PURPOSE),
    "for clients, trusted": (itself(relay(extensions=[CLIENTS])), PURPOSE),
    "for clients and servers": (
        (
            relay(
                ROOT,
                extensions=[
                    purposes(ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
                ],
            ),
            (),
            ROOT,
        ),
        "",
    ),
    "for any purpose": (
        (
            relay(ROOT, extensions=[purposes(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)]),
            (),
            ROOT,
        ),
        PURPOSE,
    ),
    "for signing certificates": (
        (relay(ROOT, extensions=[usage("key_cert_sign")]), (), ROOT), PURPOSE,
    ),
    "for encryption": ((relay(ROOT, extensions=[usage("key_encipherment")]), (), ROOT), ""),
    "an unknown extension": (
        (relay(ROOT, extensions=[UNKNOWN_EXTENSION]), (), ROOT), EXTENSION,
    ),
    # Keys and signatures
    "RSA of 1024 bits": ((relay(ROOT, key=rsa.generate_private_key(65537, 1024)), (), ROOT), WEAK),
    "a CA with RSA of 1024 bits": (
        below(authority(key=rsa.generate_private_key(65537, 1024))), WEAK,
    ),
    "RSA of 2048 bits": ((relay(ROOT, key=rsa.generate_private_key(65537, 2048)), (), ROOT), ""),
    "P-521": (below(authority(key=ec.generate_private_key(ec.SECP521R1()))), ""),
    "Ed25519": ((relay(ROOT, key=ed25519.Ed25519PrivateKey.generate()), (), ROOT), ""),
    "SHA-384": ((relay(ROOT, hash_=SHA384()), (), ROOT), ""),
}  # fmt: skip


def error_of(
    script: Script, tls: TLS, server_tls: ssl.SSLContext | None = None, **more: Any
) -> str:
    """Send to a relay; return the error without the details in parentheses, or "" for success."""
    scheme = "smtp" if server_tls is None else "smtps"
    with Server(script, tls=server_tls) as server:
        query = "?starttls=required" if scheme == "smtp" else ""
        sender = sender_to(server, scheme, tls=tls, query=query, connections=1, max_attempts=1)
        with sender:
            report = sender.send_all([message()])
        if report.error is None:
            assert report.accepted == 1
            return ""
        assert [each.status for each in report.not_accepted] == [Status.NOT_ATTEMPTED]
        text = str(report.error).replace(f"relay 127.0.0.1:{server.port}: ", "")
    return re.sub(r" \([^)]*\)", "", text)


@pytest.mark.parametrize("name", CASES)
def test_certificates(name: str) -> None:
    (identity, chain, ca), reason = CASES[name]
    script = SMTPScript(["STARTTLS"], tls=identity.server(*chain))
    expected = f"the certificate of 127.0.0.1 is not trusted: {reason}" if reason else ""
    assert error_of(script, TLS(ca_file=ca.pem)) == expected


@pytest.mark.parametrize(
    ("pattern", "name", "is_valid"),
    [
        ("relay.test", "relay.test", True),
        ("relay.test", "relay.test.", True),
        ("relay.test", "RELAY.test", True),
        ("*.relay.test", "mx.relay.test", True),
        ("*.relay.test", "a.mx.relay.test", False),
        ("*.relay.test", "relay.test", False),
        ("m*.relay.test", "mx.relay.test", False),
        ("mx_1.relay.test", "mx_1.relay.test", True),
        ("*.test", "relay.test", False),
        ("::1", "::1", True),
        ("::1", "[::1]", True),
    ],
)
def test_host_names(pattern: str, name: str, is_valid: bool) -> None:
    script = SMTPScript(["STARTTLS"], tls=relay(ROOT, hosts=[pattern]).server())
    text = error_of(script, TLS(ca_file=ROOT.pem, server_hostname=name))
    assert (not text) == is_valid
    assert is_valid or text.endswith(other_name(name))


# TLS parameters

RSA = make(hosts=HOSTS, issuer=ROOT, key=rsa.generate_private_key(65537, 2048))
NO_PARAMETERS = (
    "the server found no common parameters; enable ECDHE with AES-GCM or ChaCha20-Poly1305 at the "
    "relay, or give a client certificate in certificate= if the relay requires one"
)
TLS_12 = ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("suite", "is_supported"),
    [
        ("ECDHE-RSA-AES128-GCM-SHA256", True),
        ("ECDHE-RSA-AES256-GCM-SHA384", True),
        ("ECDHE-RSA-CHACHA20-POLY1305", True),
        ("ECDHE-RSA-AES128-SHA256", False),
        ("ECDHE-RSA-AES256-SHA384", False),
        ("ECDHE-RSA-AES256-SHA", False),
        ("DHE-RSA-AES128-GCM-SHA256", False),
        ("AES128-GCM-SHA256", False),
        ("AES256-SHA", False),
    ],
)
def test_cipher_suites_of_tls_1_2(suite: str, is_supported: bool) -> None:
    context = RSA.server()
    context.set_ciphers(f"{suite}:@SECLEVEL=0")
    context.maximum_version = TLS_12
    text = error_of(SMTPScript(["STARTTLS"], tls=context), TLS(ca_file=ROOT.pem))
    assert text == ("" if is_supported else f"TLS with 127.0.0.1 failed: {NO_PARAMETERS}")


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_the_version_of_tls(scheme: str) -> None:
    context = RSA.server()
    context.maximum_version = TLS_12
    script = SMTPScript(["STARTTLS"], tls=context)
    tls = TLS(ca_file=ROOT.pem, minimum_version="1.3")
    text = error_of(script, tls, context if scheme == "smtps" else None)
    assert text == (
        "TLS with 127.0.0.1 failed: the server supports no version of TLS that is allowed here; "
        "enable TLS 1.2 or 1.3 at the relay"
    )


@pytest.mark.parametrize("version", [TLS_12, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_missing(version: ssl.TLSVersion) -> None:
    context = RSA.server()
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    text = error_of(SMTPScript(["STARTTLS"], tls=context), TLS(ca_file=ROOT.pem))
    needs = "the server requires a client certificate; give one in certificate="
    cause = NO_PARAMETERS if version == TLS_12 else needs
    assert text == f"TLS with 127.0.0.1 failed: {cause}"


def test_a_client_certificate_is_refused() -> None:
    context = RSA.server()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority().pem.decode())
    own = relay(authority())
    tls = TLS(ca_file=ROOT.pem, certificate=own.pem, key=own.key_pem)
    text = error_of(SMTPScript(["STARTTLS"], tls=context), tls)
    assert text == (
        "TLS with 127.0.0.1 failed: the server refused the client certificate; check certificate="
    )


# Answers that are not TLS, or that break its rules

NOT_TLS = "the reply of the server is not TLS; check the scheme and the port in the relay's URL"
BROKEN = "the server broke the rules of TLS; check the log of the relay"
CLOSED = "the server closed the connection in the handshake; check the log of the relay"


def alert(code: int, level: int = 2) -> bytes:
    return bytes([0x15, 3, 3, 0, 2, level, code])


ANSWERS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", CLOSED),
    "close_notify": (alert(0, 1), CLOSED),
    "SMTP": (b"220 relay.test ESMTP\r\n", NOT_TLS),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", NOT_TLS),
    "SSL 2": (b"\x80\x20\x04" + b"x" * 40, NOT_TLS),
    "a record that is too long": (b"\x16\x03\x03\xff\xff" + b"x" * 100, NOT_TLS),
    "another message": (b"\x16\x03\x03\x00\x04\x0b\x00\x00\x00", BROKEN),
    "a ServerHello without content": (b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", BROKEN),
    "a wrong ServerHello": (b"\x16\x03\x03\x00\x26\x02\x00\x00\x22\x03\x03" + b"x" * 34, BROKEN),
    "data": (b"\x17\x03\x03\x00\x02xx", BROKEN),
    "an unknown alert": (alert(77), BROKEN),
    "internal_error": (
        alert(80), "the server sent the TLS alert internal_error; check the log of the relay",
    ),
    "access_denied": (
        alert(49), "the server sent the TLS alert access_denied; check the log of the relay",
    ),
    "decode_error": (
        alert(50), "the server sent the TLS alert decode_error; check the log of the relay",
    ),
    "insufficient_security": (alert(71), NO_PARAMETERS),
    "unrecognized_name": (
        alert(112),
        "the server does not recognize this host name; check the host in the relay's URL, or "
        "server_hostname=",
    ),
    "unknown_ca": (alert(48), "the server refused the client certificate; check certificate="),
}  # fmt: skip


def answering(answer: bytes) -> Callable[[Connection], None]:
    def script(connection: Connection) -> None:
        connection.send(b"220 relay.test\r\n")
        connection.line()
        connection.send(b"250-relay.test\r\n250 STARTTLS\r\n")
        connection.line()
        connection.send(b"220 go on\r\n")
        connection.sock.recv(65536)
        connection.send(answer)

    return script


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_that_are_no_handshake(name: str) -> None:
    answer, cause = ANSWERS[name]
    assert error_of(answering(answer), TLS(verify=False)) == f"TLS with 127.0.0.1 failed: {cause}"


def test_a_weak_certificate_is_accepted_without_verification() -> None:
    weak = relay(key=rsa.generate_private_key(65537, 1024), days=(-20, -1))
    for context in (weak.server(), make("v1", version_1=True).server()):
        with Server(SMTPScript(["STARTTLS"], tls=context)) as server:
            sender = sender_to(server, query="?starttls=required", tls=TLS(verify=False))
            assert [each.status for each in send(sender, [message()])] == [Status.ACCEPTED]
