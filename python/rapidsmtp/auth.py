"""Auth objects for `SMTP.auth` of rapidsmtp and of smtplib.

    client.auth(authobject.mechanism, authobject)

Each class implements one SASL mechanism. The protocol core computes the responses. This module
provides the inputs that the core cannot create: random nonces, passwords and tokens from a
callable, and the channel binding of the TLS connection for the -PLUS mechanisms.

An auth object may be used for several connections, one after the other. A call without a challenge
starts a new exchange. With SCRAM, the server must prove that it knows the password. `complete` is
true after this proof. The clients of rapidsmtp check `complete`, but the clients of smtplib do not.
So after a SCRAM login with smtplib, check `complete` before you trust the server.
"""

import secrets
from collections.abc import Callable
from typing import NoReturn, Protocol, overload, runtime_checkable

from rapidsmtp import _backend

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

# Both backends raise the same class. So this alias stays valid if another backend is selected
# later.
PeerError = _backend.PeerError

Secret = str | Callable[[], str]


@runtime_checkable
class _TLSConnection(Protocol):
    """The methods of `ssl.SSLSocket` and `ssl.SSLObject` that channel binding needs."""

    def version(self) -> str | None: ...
    def getpeercert(self, binary_form: bool = ...) -> object: ...
    def get_channel_binding(self, cb_type: str = ...) -> bytes | None: ...


class Utf8Response(str):
    """A response with characters outside ASCII.

    smtplib calls `.encode("ascii")` on each response. The method `encode` of this class returns
    UTF-8 for every encoding, so that smtplib can send the response.
    """

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return super().encode("utf-8")


class _AuthObject:
    """The base class of all mechanisms.

    Attributes:
        mechanism: The SASL name of the mechanism. It is the first argument of `SMTP.auth`.
        proves_server: Whether the server must prove that it knows the password.
        takes_long: Whether a response may need seconds of computing time. If so, the asyncio client
            computes it in a thread.
    """

    mechanism: str
    proves_server = False
    takes_long = False

    def __init__(self) -> None:
        self._exchange: _backend.Exchange | None = None

    @overload
    def __call__(self, challenge: None = None) -> str | None: ...
    @overload
    def __call__(self, challenge: bytes) -> str: ...

    def __call__(self, challenge: bytes | None = None) -> str | None:
        """Return the response to a challenge of the server.

        Args:
            challenge: The decoded challenge. `None` starts a new exchange and requests the initial
                response.

        Returns:
            The response, before base64 encoding; `None` if the mechanism has no initial response.

        Raises:
            ValueError: An argument of the constructor is invalid for the mechanism.
            PeerError: The server's challenge violates the mechanism's rules. The caller must cancel
                the exchange.
        """
        if challenge is None or self._exchange is None:
            self._exchange = self._begin()
        response = self._exchange.respond(challenge)
        if challenge is None and not response:
            # RFC 4954 section 4: a client must send an empty initial response as "=". smtplib
            # cannot send "=". So this object returns no initial response. The server then requests
            # the response, and the client sends an empty line.
            self._exchange = self._begin()
            return None
        text = (response or b"").decode()
        return text if text.isascii() else Utf8Response(text)

    @property
    def complete(self) -> bool:
        """Whether the server has proved all that the mechanism requires.

        If `complete` is false after the reply 235 (login accepted), do not trust the server.
        """
        return self._exchange is not None and self._exchange.complete

    def _begin(self) -> _backend.Exchange:
        raise NotImplementedError

    def _restart(self) -> None:
        """Discard the exchange of an earlier connection."""
        self._exchange = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("an auth object cannot be pickled: it holds secrets")


class _Password(_AuthObject):
    """The base class of mechanisms with a user name and a password.

    Args:
        user: The user name.
        password: The password, or a callable that returns it at the start of each exchange.
    """

    def __init__(self, user: str, password: Secret) -> None:
        super().__init__()
        self._user = user
        self._password = password


class Plain(_Password):
    """PLAIN (RFC 4616): user name and password in one response, in clear text.

    Use this mechanism only with TLS.

    Args:
        user: The user name.
        password: The password, or a callable that returns it at the start of each exchange.
        authzid: The identity to act as. If empty, the client acts as `user`.
    """

    mechanism = "PLAIN"

    def __init__(self, user: str, password: Secret, authzid: str = "") -> None:
        super().__init__(user, password)
        self._authzid = authzid

    def _begin(self) -> _backend.Exchange:
        return _backend.Plain(self._user, _reveal(self._password), self._authzid)


class Login(_Password):
    """LOGIN (draft-murchison-sasl-login): user name and password in two responses, in clear text.

    Use this mechanism only with TLS.
    """

    mechanism = "LOGIN"

    def _begin(self) -> _backend.Exchange:
        return _backend.Login(self._user, _reveal(self._password))


class CramMD5(_Password):
    """CRAM-MD5 (RFC 2195): a keyed digest with the outdated hash MD5.

    The server does not prove its identity.
    """

    mechanism = "CRAM-MD5"

    def _begin(self) -> _backend.Exchange:
        return _backend.CramMd5(self._user, _reveal(self._password))


class XOAuth2(_AuthObject):
    """XOAUTH2, the bearer token mechanism of Google and Microsoft.

    Args:
        user: The address of the mailbox.
        token: The access token, or a callable that returns a token for each exchange.
    """

    mechanism = "XOAUTH2"

    def __init__(self, user: str, token: Secret) -> None:
        super().__init__()
        self._user = user
        self._token = token

    def _begin(self) -> _backend.Exchange:
        return _backend.XOAuth2(self._user, _reveal(self._token))


class OAuthBearer(_AuthObject):
    """OAUTHBEARER (RFC 7628): a bearer token.

    Args:
        user: The identity to act as; may be empty.
        token: The access token, or a callable that returns a token for each exchange.
        host: The name of the server, if the server requires it in the response; else empty.
        port: The port of the server, if the server requires it in the response; else 0.
    """

    mechanism = "OAUTHBEARER"

    def __init__(self, user: str, token: Secret, host: str = "", port: int = 0) -> None:
        super().__init__()
        self._user = user
        self._token = token
        self._server = host, port

    def _begin(self) -> _backend.Exchange:
        return _backend.OAuthBearer(self._user, _reveal(self._token), *self._server)


class External(_AuthObject):
    """EXTERNAL (RFC 4422 appendix A): the client's TLS certificate identifies the client.

    Args:
        authzid: The identity to act as; empty for the identity in the certificate.
    """

    mechanism = "EXTERNAL"
    # EXTERNAL requires no proof of the server, so `complete` is always true. The exchange's own
    # `complete` would stay false if the server accepted AUTH without a challenge.
    complete = True

    def __init__(self, authzid: str = "") -> None:
        super().__init__()
        self._authzid = authzid

    def _begin(self) -> _backend.Exchange:
        return _backend.External(self._authzid)


class _Scram(_Password):
    proves_server = True
    takes_long = True
    _algorithm: str

    def _begin(self) -> _backend.Exchange:
        # RFC 5802 section 5.1 requires a new random nonce for each exchange. 24 random bytes make a
        # repeated nonce improbable.
        nonce = secrets.token_urlsafe(24)
        password = _reveal(self._password)
        return _backend.Scram(self._user, password, self._algorithm, nonce, self._binding())

    def _binding(self) -> tuple[str, bytes] | None:
        return None


class ScramSHA1(_Scram):
    """SCRAM-SHA-1 (RFC 5802): a challenge-response mechanism with mutual authentication.

    Client and server prove to each other that they have the credentials. The password is not sent.
    """

    mechanism = "SCRAM-SHA-1"
    _algorithm = "sha1"


class ScramSHA256(_Scram):
    """SCRAM-SHA-256 (RFC 7677): a challenge-response mechanism with mutual authentication.

    Client and server prove to each other that they have the credentials. The password is not sent.
    """

    mechanism = "SCRAM-SHA-256"
    _algorithm = "sha256"


class _ScramPlus(_Scram):
    def __init__(self, user: str, password: Secret, connection: object) -> None:
        super().__init__(user, password)
        self._connection = connection

    def _binding(self) -> tuple[str, bytes]:
        return _channel_binding(getattr(self._connection, "sock", self._connection))


class ScramSHA1Plus(_ScramPlus):
    """SCRAM-SHA-1-PLUS (RFC 5802): SCRAM bound to one TLS connection.

    The channel binding is `tls-unique` up to TLS 1.2 and `tls-server-end-point` with TLS 1.3 (RFC
    5929). The binding for TLS 1.3 in RFC 9266, `tls-exporter`, is not used, because Python's ssl
    module does not support it.

    Args:
        user: The user name.
        password: The password, or a callable that returns it at the start of each exchange.
        connection: The client, or its TLS socket. The connection must use TLS when `auth` is
            called.
    """

    mechanism = "SCRAM-SHA-1-PLUS"
    _algorithm = "sha1"


class ScramSHA256Plus(_ScramPlus):
    """SCRAM-SHA-256-PLUS (RFC 7677): SCRAM bound to one TLS connection.

    The channel binding is `tls-unique` up to TLS 1.2 and `tls-server-end-point` with TLS 1.3 (RFC
    5929). The binding for TLS 1.3 in RFC 9266, `tls-exporter`, is not used, because Python's ssl
    module does not support it.

    Args:
        user: The user name.
        password: The password, or a callable that returns it at the start of each exchange.
        connection: The client, or its TLS socket. The connection must use TLS when `auth` is
            called.
    """

    mechanism = "SCRAM-SHA-256-PLUS"
    _algorithm = "sha256"


def _reveal(secret: Secret) -> str:
    return secret() if callable(secret) else secret


def _channel_binding(connection: object) -> tuple[str, bytes]:
    """Return the name and the data of the channel binding of a TLS connection (RFC 5929)."""
    version = connection.version() if isinstance(connection, _TLSConnection) else None
    if not isinstance(connection, _TLSConnection) or version is None:
        raise ValueError("channel binding needs a TLS connection: call starttls first")
    if version != "TLSv1.3":
        # RFC 9266 section 3: tls-unique is not defined for TLS 1.3. The version is checked here,
        # because OpenSSL may return data for a TLS 1.3 connection too.
        unique = _tls_unique(connection)
        if unique:
            return "tls-unique", unique
    certificate = connection.getpeercert(binary_form=True)
    digest = _backend.certificate_digest(certificate) if isinstance(certificate, bytes) else None
    if digest is None:
        raise ValueError("this connection has no channel binding: use SCRAM without -PLUS")
    return "tls-server-end-point", digest


def _tls_unique(connection: _TLSConnection) -> bytes | None:
    try:
        return connection.get_channel_binding("tls-unique")
    except ValueError:  # the TLS library does not support tls-unique
        return None
