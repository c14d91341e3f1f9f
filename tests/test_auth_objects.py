"""The auth objects of `rapidsmtp.auth`, used with the standard library's smtplib.

smtplib is independent of rapidsmtp, so an object that works here works in other programs too. The
server's side of SCRAM follows RFC 5802 section 3, uses only the standard library, and shares no
code with the core.
"""

import base64
import copy
import hashlib
import hmac
import pickle
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from rapidsmtp import auth

USER, PASSWORD = "José=,", "pässword"

pytestmark = pytest.mark.usefixtures("backend")

# The server's side of a mechanism. The generator yields challenges, receives responses and returns
# whether the login succeeded.
Script = Generator[bytes, bytes, bool]
Mechanism = Callable[[socket.socket], Script]


class Server:
    """A server for one connection at a time, with EHLO, STARTTLS, and AUTH by one mechanism."""

    def __init__(self, mechanism: Mechanism, tls: ssl.SSLContext | None = None) -> None:
        self.mechanism = mechanism
        self.tls = tls
        self.lines: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(10)
            self.converse(connection)

    def converse(self, connection: socket.socket) -> None:
        connection.sendall(b"220 here\r\n")
        file = connection.makefile("rb")
        while line := file.readline():
            self.lines.append(line)
            verb, *words = line.split()
            if verb.upper() == b"AUTH":
                self.authenticate(connection, file, words[1:])
            elif verb.upper() == b"STARTTLS":
                assert self.tls is not None
                connection.sendall(b"220 go\r\n")
                connection = self.tls.wrap_socket(connection, server_side=True)
                file = connection.makefile("rb")
            elif verb.upper() == b"QUIT":
                connection.sendall(b"221 bye\r\n")
                break
            else:
                connection.sendall(b"250-here\r\n250-STARTTLS\r\n250 AUTH ANY\r\n")
        file.close()
        connection.close()

    def authenticate(self, connection: socket.socket, file: Any, initial: list[bytes]) -> None:
        script = self.mechanism(connection)
        challenge = next(script)
        try:
            if initial:
                challenge = script.send(base64.b64decode(initial[0], validate=True))
            while True:
                connection.sendall(b"334 " + base64.b64encode(challenge) + b"\r\n")
                line = file.readline()
                self.lines.append(line)
                if line == b"*\r\n":
                    connection.sendall(b"501 cancelled\r\n")
                    return
                challenge = script.send(base64.b64decode(line.strip(), validate=True))
        except StopIteration as end:
            connection.sendall(b"235 welcome\r\n" if end.value else b"535 no\r\n")


@contextmanager
def connected(mechanism: Mechanism, tls: ssl.SSLContext | None = None) -> Iterator[smtplib.SMTP]:
    server = Server(mechanism, tls)
    try:
        with smtplib.SMTP("127.0.0.1", server.port, "me", timeout=10) as client:
            client.rapidsmtp_server = server  # type: ignore[attr-defined]
            client.ehlo()
            yield client
    finally:
        server.close()


def one_response(wanted: bytes) -> Mechanism:
    def script(_: socket.socket) -> Script:
        return (yield b"") == wanted

    return script


def login(_: socket.socket) -> Script:
    return ((yield b"Username:"), (yield b"Password:")) == (USER.encode(), PASSWORD.encode())


def cram_md5(_: socket.socket) -> Script:
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    digest = hmac.new(PASSWORD.encode(), challenge, "md5").hexdigest()
    return (yield challenge) == USER.encode() + b" " + digest.encode()


def refusal(initial: bytes, acknowledgement: bytes) -> Mechanism:
    def script(_: socket.socket) -> Script:
        assert (yield b"") == initial
        assert (yield b'{"status":"401"}') == acknowledgement
        return False

    return script


def scram(
    algorithm: str, binding: Callable[[Any], tuple[str, bytes]] | None = None, lie: bytes = b""
) -> Mechanism:
    """Return the server's side of SCRAM (RFC 5802).

    If `lie` is not empty, the server's signature is wrong: `lie` precedes the correct bytes.
    """

    def code(key: bytes, message: bytes) -> bytes:
        return hmac.new(key, message, algorithm).digest()

    def script(connection: socket.socket) -> Script:
        first = yield b""
        name, data = binding(connection) if binding else ("", b"")
        header = f"p={name},,".encode() if binding else b"n,,"
        assert first.startswith(header + b"n=Jos\xc3\xa9=3D=2C,r="), first
        bare = first.removeprefix(header)
        nonce = bare.partition(b",r=")[2]
        assert len(nonce) >= 24
        salt, rounds = b"sixteen octets!!", 4096
        challenge = b"r=%bserver,s=%b,i=%d" % (nonce, base64.b64encode(salt), rounds)
        final = yield challenge
        unproven, _, proof = final.rpartition(b",p=")
        assert unproven == b"c=%b,r=%bserver" % (base64.b64encode(header + data), nonce), unproven
        message = b",".join((bare, challenge, unproven))
        salted = hashlib.pbkdf2_hmac(algorithm, PASSWORD.encode(), salt, rounds)
        stored = hashlib.new(algorithm, code(salted, b"Client Key")).digest()
        pairs = zip(base64.b64decode(proof), code(stored, message), strict=True)
        if hashlib.new(algorithm, bytes(a ^ b for a, b in pairs)).digest() != stored:
            return False
        signature = lie + code(code(salted, b"Server Key"), message)
        return (yield b"v=" + base64.b64encode(signature)) == b""

    return script


BEARER = b"\1auth=Bearer t0ken\1\1"
CASES: list[tuple[Callable[[], Any], Mechanism]] = [
    (
        lambda: auth.Plain(USER, PASSWORD),
        one_response(f"\0{USER}\0{PASSWORD}".encode()),
    ),
    (
        lambda: auth.Plain(USER, PASSWORD, "other"),
        one_response(f"other\0{USER}\0{PASSWORD}".encode()),
    ),
    (lambda: auth.Login(USER, PASSWORD), login),
    (lambda: auth.CramMD5(USER, PASSWORD), cram_md5),
    (
        lambda: auth.XOAuth2(USER, "t0ken"),
        one_response(b"user=" + USER.encode() + BEARER),
    ),
    (
        lambda: auth.OAuthBearer(USER, "t0ken", "relay.example", 587),
        one_response(
            b"n,a=Jos\xc3\xa9=3D=2C,\1host=relay.example\1port=587" + BEARER,
        ),
    ),
    (lambda: auth.ScramSHA1(USER, PASSWORD), scram("sha1")),
    (lambda: auth.ScramSHA256(USER, PASSWORD), scram("sha256")),
    (lambda: auth.External(), one_response(b"")),
    (lambda: auth.External("other"), one_response(b"other")),
]


@pytest.mark.parametrize(("make", "mechanism"), CASES)
@pytest.mark.parametrize("initial", [True, False])
def test_each_mechanism_logs_in(
    make: Callable[[], Any], mechanism: Mechanism, initial: bool
) -> None:
    authobject = make()
    assert not authobject.complete or authobject.mechanism == "EXTERNAL"
    with connected(mechanism) as client:
        code, _ = client.auth(authobject.mechanism, authobject, initial_response_ok=initial)
    assert code == 235
    assert authobject.complete is True


@pytest.mark.parametrize(("make", "mechanism"), CASES)
def test_an_auth_object_can_be_used_on_several_connections(
    make: Callable[[], Any], mechanism: Mechanism
) -> None:
    authobject = make()
    for _ in range(2):
        with connected(mechanism) as client:
            client.auth(authobject.mechanism, authobject)
        assert authobject.complete is True


def test_complete_is_false_at_the_start_of_the_next_exchange() -> None:
    authobject = auth.ScramSHA256(USER, PASSWORD)
    with connected(scram("sha256")) as client:
        client.auth(authobject.mechanism, authobject)
    first = authobject()
    assert authobject.complete is False
    assert authobject() != first, "a nonce was used twice"


def test_a_response_in_ascii_is_a_plain_str() -> None:
    assert type(auth.Plain("tim", "secret")()) is str
    assert auth.Plain("tim", "secret")() == "\0tim\0secret"
    assert auth.CramMD5("tim", "secret")() is None


@pytest.mark.parametrize(
    ("authobject", "initial", "acknowledgement", "line"),
    [
        (auth.XOAuth2("tim", "t0ken"), b"user=tim" + BEARER, b"", b"\r\n"),
        (auth.OAuthBearer("tim", "t0ken"), b"n,a=tim," + BEARER, b"\1", b"AQ==\r\n"),
    ],
)
def test_a_refused_token_is_acknowledged(
    authobject: Any, initial: bytes, acknowledgement: bytes, line: bytes
) -> None:
    with connected(refusal(initial, acknowledgement)) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.auth(authobject.mechanism, authobject)
        assert client.rapidsmtp_server.lines[-1] == line  # type: ignore[attr-defined]
    assert refused.value.smtp_code == 535


def test_the_token_callable_is_called_for_each_exchange() -> None:
    tokens = iter(["first", "second"])
    authobject = auth.XOAuth2("tim", lambda: next(tokens))
    assert authobject() == "user=tim\1auth=Bearer first\1\1"
    assert authobject() == "user=tim\1auth=Bearer second\1\1"


@pytest.mark.parametrize("make", [auth.Plain, auth.Login, auth.ScramSHA256])
def test_a_password_may_be_a_callable(make: Callable[..., Any]) -> None:
    asked: list[int] = []

    def password() -> str:
        asked.append(1)
        return PASSWORD

    mechanism = {
        "PLAIN": one_response(f"\0{USER}\0{PASSWORD}".encode()),
        "LOGIN": login,
        "SCRAM-SHA-256": scram("sha256"),
    }
    authobject = make(USER, password)
    assert not asked
    for rounds in (1, 2):
        with connected(mechanism[authobject.mechanism]) as client:
            client.auth(authobject.mechanism, authobject)
        assert len(asked) == rounds


def test_the_wrong_password_is_refused_by_the_server() -> None:
    authobject = auth.ScramSHA256(USER, "wrong")
    with connected(scram("sha256")) as client, pytest.raises(smtplib.SMTPAuthenticationError):
        client.auth(authobject.mechanism, authobject)
    assert authobject.complete is False


def test_a_server_that_does_not_know_the_password_is_rejected() -> None:
    authobject = auth.ScramSHA256(USER, PASSWORD)
    with connected(scram("sha256", lie=b"x")) as client:
        with pytest.raises(auth.PeerError, match=r"^the server's signature is wrong"):
            client.auth(authobject.mechanism, authobject)
        assert client.docmd("*")[0] == 501
    assert authobject.complete is False


def test_the_exchange_is_incomplete_without_the_servers_signature() -> None:
    def without_signature(connection: socket.socket) -> Script:
        script = scram("sha256")(connection)
        next(script)
        yield (script.send((yield b"")))
        return True

    authobject = auth.ScramSHA256(USER, PASSWORD)
    with connected(without_signature) as client:
        assert client.auth(authobject.mechanism, authobject)[0] == 235
    assert authobject.complete is False


def test_wrong_arguments_raise_before_anything_is_sent() -> None:
    authobject = auth.Plain("", PASSWORD)
    with connected(login) as client:
        with pytest.raises(ValueError, match=r"^the user is empty$"):
            client.auth(authobject.mechanism, authobject)
        assert not any(
            line.startswith(b"AUTH")
            for line in client.rapidsmtp_server.lines  # type: ignore[attr-defined]
        )


# A server of another project: aiosmtpd


@pytest.mark.parametrize("make", [auth.Plain, auth.Login])
@pytest.mark.parametrize("initial", [True, False])
def test_aiosmtpd_accepts_each_mechanism(make: Callable[..., Any], initial: bool) -> None:
    seen: list[Any] = []

    def authenticator(*arguments: Any) -> AuthResult:
        seen.append(arguments[-1])
        return AuthResult(success=True)

    controller = Controller(
        object(),
        hostname="127.0.0.1",
        port=free_port(),
        authenticator=authenticator,
        auth_require_tls=False,
    )
    controller.start()
    try:
        with smtplib.SMTP("127.0.0.1", controller.port, "me", timeout=10) as client:
            client.ehlo()
            authobject = make(USER, PASSWORD)
            code, _ = client.auth(authobject.mechanism, authobject, initial_response_ok=initial)
    finally:
        controller.stop()
    assert code == 235
    assert seen == [LoginPassword(USER.encode(), PASSWORD.encode())]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# Secrets

EVERY = [
    auth.Plain("tim", "hunter2"),
    auth.Login("tim", "hunter2"),
    auth.CramMD5("tim", "hunter2"),
    auth.XOAuth2("tim", "hunter2"),
    auth.OAuthBearer("tim", "hunter2"),
    auth.ScramSHA1("tim", "hunter2"),
    auth.ScramSHA256("tim", "hunter2"),
    auth.ScramSHA1Plus("tim", "hunter2", None),
    auth.ScramSHA256Plus("tim", "hunter2", None),
    auth.External("hunter2"),
]


@pytest.mark.parametrize("authobject", EVERY, ids=lambda o: o.mechanism)
def test_a_repr_or_a_pickle_contains_no_secret(authobject: Any) -> None:
    assert "hunter2" not in repr(authobject) + str(authobject)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match=r"^an auth object cannot be pickled"):
            pickle.dumps(authobject, protocol)
    with pytest.raises(TypeError, match=r"^an auth object cannot be pickled"):
        copy.deepcopy(authobject)


def test_every_class_is_public_and_tested() -> None:
    assert {type(authobject).__name__ for authobject in EVERY} == set(auth.__all__) - {"PeerError"}


# Channel binding


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("127.0.0.1")


@pytest.mark.parametrize("plus", [auth.ScramSHA1Plus, auth.ScramSHA256Plus])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("pass_socket", [True, False])
def test_scram_plus_is_bound_to_the_connection(
    authority: trustme.CA,
    certificate: trustme.LeafCert,
    plus: Callable[..., Any],
    version: ssl.TLSVersion,
    verify: bool,
    pass_socket: bool,
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(tls)
    tls.minimum_version = tls.maximum_version = version
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())

    def binding(connection: ssl.SSLSocket) -> tuple[str, bytes]:
        if version == ssl.TLSVersion.TLSv1_2:
            return "tls-unique", connection.get_channel_binding("tls-unique") or b""
        return "tls-server-end-point", hashlib.sha256(der).digest()

    algorithm = "sha1" if plus is auth.ScramSHA1Plus else "sha256"
    with connected(scram(algorithm, binding), tls) as client:
        authobject = None if pass_socket else plus(USER, PASSWORD, client)
        client.starttls(context=context)
        client.ehlo()
        if authobject is None:
            authobject = plus(USER, PASSWORD, client.sock)
        assert client.auth(authobject.mechanism, authobject)[0] == 235
        assert authobject.complete is True


@pytest.mark.parametrize("make", [auth.ScramSHA1Plus, auth.ScramSHA256Plus])
def test_scram_plus_without_tls_raises_a_clear_error(make: Callable[..., Any]) -> None:
    with connected(login) as client:
        for connection in (client, client.sock, smtplib.SMTP(), None):
            with pytest.raises(ValueError, match=r"^channel binding needs a TLS connection"):
                make(USER, PASSWORD, connection)()


class Connection:
    """A minimal TLS socket, for certificates that current TLS libraries refuse."""

    def __init__(self, certificate: bytes | None) -> None:
        self.certificate = certificate

    def version(self) -> str:
        return "TLSv1.2"

    def getpeercert(self, binary_form: bool = False) -> bytes | None:
        return self.certificate

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        raise ValueError(f"{cb_type} channel binding type not implemented")


def signed(key: Any, algorithm: Any, **options: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 60)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
    built = builder.not_valid_after(datetime(2040, 1, 1, tzinfo=UTC)).sign(
        key, algorithm, **options
    )
    # Check that the library used the requested algorithm.
    assert type(built.signature_hash_algorithm) is type(algorithm)
    return built.public_bytes(Encoding.DER)


def bound_by(certificate: bytes | None) -> str:
    """Return the attribute `c=`, the channel binding, from the second message of a client."""
    authobject = auth.ScramSHA256Plus("tim", "secret", Connection(certificate))
    first = authobject()
    nonce = str(first).partition(",r=")[2]
    final = authobject(f"r={nonce}x,s=QQ==,i=4096".encode())
    return str(final).split(",")[0]


RSA = rsa.generate_private_key(65537, 2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize("key", [RSA, CURVE], ids=["rsa", "ecdsa"])
@pytest.mark.parametrize("size", [224, 256, 384, 512])
def test_the_end_point_hash_is_the_hash_of_the_certificates_signature(key: Any, size: int) -> None:
    certificate = signed(key, getattr(hashes, f"SHA{size}")())
    wanted = b"p=tls-server-end-point,," + hashlib.new(f"sha{size}", certificate).digest()
    assert bound_by(certificate) == "c=" + base64.b64encode(wanted).decode()


@pytest.mark.parametrize("size", [224, 256, 384, 512])
def test_the_end_point_hash_of_an_rsassa_pss_certificate_is_used(size: int) -> None:
    algorithm = getattr(hashes, f"SHA{size}")()
    scheme = padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH)
    certificate = signed(RSA, algorithm, rsa_padding=scheme)
    wanted = b"p=tls-server-end-point,," + hashlib.new(f"sha{size}", certificate).digest()
    assert bound_by(certificate) == "c=" + base64.b64encode(wanted).decode()


@pytest.mark.parametrize("oid", ["2a864886f70d010104", "2a864886f70d010105"], ids=["md5", "sha1"])
def test_md5_and_sha1_are_replaced_by_sha256(oid: str) -> None:
    # Current libraries do not sign with MD5 or SHA-1, so the test changes the algorithm's
    # identifier in a certificate that was signed with SHA-256.
    old = bytes.fromhex("2a864886f70d01010b")
    certificate = signed(RSA, hashes.SHA256()).replace(old, bytes.fromhex(oid))
    wanted = b"p=tls-server-end-point,," + hashlib.sha256(certificate).digest()
    assert bound_by(certificate) == "c=" + base64.b64encode(wanted).decode()


def unhashed() -> bytes:
    return signed(ed25519.Ed25519PrivateKey.generate(), None)


@pytest.mark.parametrize(
    "certificate",
    [None, b"", b"0", b"0\x82", b"0\x03\x02\x01\x01", b"garbage" * 9, unhashed()],
)
def test_a_certificate_without_a_hash_raises_a_clear_error(certificate: bytes | None) -> None:
    with pytest.raises(ValueError, match=r"^this connection has no channel binding"):
        bound_by(certificate)


def test_a_truncated_certificate_raises_a_clear_error() -> None:
    certificate = signed(RSA, hashes.SHA256())
    for length in range(0, len(certificate), 7):
        with pytest.raises(ValueError, match=r"^this connection has no channel binding"):
            bound_by(certificate[:length])
