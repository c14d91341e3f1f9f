"""Ready-made auth objects for `SMTP.auth`, smtplib's own included.

    client.auth(authobject.mechanism, authobject)

Each class is one mechanism; the protocol is in the core, and here is what the core does not
touch: random nonces, passwords and tokens that are asked for when they are needed, and the TLS
connection that the -PLUS mechanisms bind to.

An object may be used for one connection after another: the call without a challenge starts it
anew. It is not for two connections at once. `complete` says whether the server has shown all that
it owes: rapidsmtp's own classes look at it, but smtplib's do not, so after SCRAM through them look
at it before anything is believed.
"""

import secrets
from collections.abc import Callable
from typing import NoReturn, Protocol, overload, runtime_checkable

from rapidsmtp import _core

__all__ = [
    "CramMD5",
    "External",
    "Login",
    "OAuthBearer",
    "PeerError",
    "Plain",
    "ScramSHA1",
    "ScramSHA1Plus",
    "ScramSHA256",
    "ScramSHA256Plus",
    "XOAuth2",
]

# One class for both halves, so it may be bound before a half is chosen.
PeerError = _core.PeerError

Secret = str | Callable[[], str]


@runtime_checkable
class _TLSConnection(Protocol):
    """What `ssl.SSLSocket` and `ssl.SSLObject` have in common that is needed here."""

    def version(self) -> str | None: ...
    def getpeercert(self, binary_form: bool = ...) -> object: ...
    def get_channel_binding(self, cb_type: str = ...) -> bytes | None: ...


class _Octets(str):
    """A response beyond ASCII: smtplib calls `.encode("ascii")` on it, and gets UTF-8."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return super().encode("utf-8")


class _AuthObject:
    """What all mechanisms share.

    Attributes:
        mechanism: The SASL name, the first argument of `SMTP.auth`.
    """

    mechanism: str

    def __init__(self) -> None:
        self._exchange: _core.Exchange | None = None

    @overload
    def __call__(self, challenge: None = None) -> str | None: ...
    @overload
    def __call__(self, challenge: bytes) -> str: ...

    def __call__(self, challenge: bytes | None = None) -> str | None:
        """Answer the server.

        Args:
            challenge: The decoded challenge; `None` starts anew and asks for the initial response.

        Returns:
            The response, not yet base64; `None` if there is no initial response.

        Raises:
            ValueError: What the object was made of breaks the mechanism's rules.
            PeerError: The server broke them; cancel the exchange and trust nothing.
        """
        if challenge is None or self._exchange is None:
            self._exchange = self._begin()
        response = self._exchange.respond(challenge)
        if challenge is None and not response:
            # An initial response of no octets is written "=" (RFC 4954 section 4), which smtplib
            # cannot say: without one, the server asks for it, and gets the empty line.
            self._exchange = self._begin()
            return None
        text = (response or b"").decode()
        return text if text.isascii() else _Octets(text)

    @property
    def complete(self) -> bool:
        """Whether the server has shown all that it owes; a 235 before that is not to be trusted."""
        return self._exchange is not None and self._exchange.complete

    def _begin(self) -> _core.Exchange:
        raise NotImplementedError

    def __reduce__(self) -> NoReturn:
        raise TypeError("an auth object cannot be pickled: it holds secrets")


class _Password(_AuthObject):
    """A mechanism of a user and a password.

    Args:
        user: The name to log in with.
        password: The password, or a callable that gives it at the start of each exchange.
    """

    def __init__(self, user: str, password: Secret) -> None:
        super().__init__()
        self._user = user
        self._password = password


class Plain(_Password):
    """PLAIN (RFC 4616): user and password in one response, in clear; for TLS only.

    Args:
        user: The name to log in with.
        password: The password, or a callable that gives it at the start of each exchange.
        authzid: The name to act as, where that is another.
    """

    mechanism = "PLAIN"

    def __init__(self, user: str, password: Secret, authzid: str = "") -> None:
        super().__init__(user, password)
        self._authzid = authzid

    def _begin(self) -> _core.Exchange:
        return _core.Plain(self._user, _reveal(self._password), self._authzid)


class Login(_Password):
    """LOGIN (draft-murchison-sasl-login): user and password in two responses; for TLS only."""

    mechanism = "LOGIN"

    def _begin(self) -> _core.Exchange:
        return _core.Login(self._user, _reveal(self._password))


class CramMD5(_Password):
    """CRAM-MD5 (RFC 2195): a keyed digest, by an old hash, and the server proves nothing."""

    mechanism = "CRAM-MD5"

    def _begin(self) -> _core.Exchange:
        return _core.CramMd5(self._user, _reveal(self._password))


class XOAuth2(_AuthObject):
    """XOAUTH2, as Google and Microsoft use it: a bearer token.

    Args:
        user: The mailbox's address.
        token: The access token, or a callable that gives a fresh one for each exchange.
    """

    mechanism = "XOAUTH2"

    def __init__(self, user: str, token: Secret) -> None:
        super().__init__()
        self._user = user
        self._token = token

    def _begin(self) -> _core.Exchange:
        return _core.XOAuth2(self._user, _reveal(self._token))


class OAuthBearer(_AuthObject):
    """OAUTHBEARER (RFC 7628): a bearer token.

    Args:
        user: The name to act as; may be empty.
        token: The access token, or a callable that gives a fresh one for each exchange.
        host: The server's name as the client knows it, where the server wants to hear it.
        port: The server's port, likewise.
    """

    mechanism = "OAUTHBEARER"

    def __init__(self, user: str, token: Secret, host: str = "", port: int = 0) -> None:
        super().__init__()
        self._user = user
        self._token = token
        self._place = host, port

    def _begin(self) -> _core.Exchange:
        return _core.OAuthBearer(self._user, _reveal(self._token), *self._place)


class External(_AuthObject):
    """EXTERNAL (RFC 4422 appendix A): the server knows the client by its TLS certificate.

    Args:
        authzid: The name to act as, where that is another.
    """

    mechanism = "EXTERNAL"
    complete = True  # the server has nothing to prove, and may ask for nothing at all

    def __init__(self, authzid: str = "") -> None:
        super().__init__()
        self._authzid = authzid

    def _begin(self) -> _core.Exchange:
        return _core.External(self._authzid)


class _Scram(_Password):
    _algorithm: str

    def _begin(self) -> _core.Exchange:
        # 24 octets: more than the 18 that RFC 7677's own example has.
        nonce = secrets.token_urlsafe(24)
        password = _reveal(self._password)
        return _core.Scram(self._user, password, self._algorithm, nonce, self._binding())

    def _binding(self) -> tuple[str, bytes] | None:
        return None


class ScramSHA1(_Scram):
    """SCRAM-SHA-1 (RFC 5802): neither side shows the password, and both prove that they know it."""

    mechanism = "SCRAM-SHA-1"
    _algorithm = "sha1"


class ScramSHA256(_Scram):
    """SCRAM-SHA-256 (RFC 7677): neither side shows the password, both prove that they know it."""

    mechanism = "SCRAM-SHA-256"
    _algorithm = "sha256"


class _ScramPlus(_Scram):
    def __init__(self, user: str, password: Secret, connection: object) -> None:
        super().__init__(user, password)
        self._connection = connection

    def _binding(self) -> tuple[str, bytes]:
        return _channel_binding(getattr(self._connection, "sock", self._connection))


class ScramSHA1Plus(_ScramPlus):
    """SCRAM-SHA-1-PLUS (RFC 5802): SCRAM that holds on this one TLS connection only.

    It is bound by `tls-unique` up to TLS 1.2, and by `tls-server-end-point` (RFC 5929) on TLS 1.3,
    for which Python's ssl offers no binding of its own.

    Args:
        user: The name to log in with.
        password: The password, or a callable that gives it at the start of each exchange.
        connection: The client, or its TLS socket; by the time of `auth` it must speak TLS.
    """

    mechanism = "SCRAM-SHA-1-PLUS"
    _algorithm = "sha1"


class ScramSHA256Plus(_ScramPlus):
    """SCRAM-SHA-256-PLUS (RFC 7677): SCRAM that holds on this one TLS connection only.

    It is bound by `tls-unique` up to TLS 1.2, and by `tls-server-end-point` (RFC 5929) on TLS 1.3,
    for which Python's ssl offers no binding of its own.

    Args:
        user: The name to log in with.
        password: The password, or a callable that gives it at the start of each exchange.
        connection: The client, or its TLS socket; by the time of `auth` it must speak TLS.
    """

    mechanism = "SCRAM-SHA-256-PLUS"
    _algorithm = "sha256"


def _reveal(secret: Secret) -> str:
    return secret() if callable(secret) else secret


def _channel_binding(connection: object) -> tuple[str, bytes]:
    """The name and the data that tell this TLS connection from any other (RFC 5929)."""
    version = connection.version() if isinstance(connection, _TLSConnection) else None
    if not isinstance(connection, _TLSConnection) or version is None:
        raise ValueError("channel binding needs a connection that speaks TLS: call starttls first")
    if version != "TLSv1.3":
        # Undefined for TLS 1.3 (RFC 9266 section 3), whatever OpenSSL may answer.
        unique = _tls_unique(connection)
        if unique:
            return "tls-unique", unique
    certificate = connection.getpeercert(binary_form=True)
    digest = _core.certificate_digest(certificate) if isinstance(certificate, bytes) else None
    if digest is None:
        raise ValueError("channel binding cannot be had from this connection: use plain SCRAM")
    return "tls-server-end-point", digest


def _tls_unique(connection: _TLSConnection) -> bytes | None:
    try:
        return connection.get_channel_binding("tls-unique")
    except ValueError:  # the TLS library was built without it
        return None
