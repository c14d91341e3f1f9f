"""AUTH (RFC 4954): log in with one mechanism, in one attempt.

After a refusal, the client tries no other mechanism. A weaker mechanism would show the password to
the server that refused the login, and providers lock accounts after repeated failures.
"""

import base64
import binascii
import secrets
from collections.abc import Callable

from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure.auth import MECHANISMS, Exchange, MechanismRow, Secret
from rapidsmtp._pure.certificate import certificate_digest
from rapidsmtp._pure.reply import Reply
from rapidsmtp._pure.session import ConnectionFailure, Session
from rapidsmtp._pure.transport import Transport
from rapidsmtp.errors import PeerError

MAX_CHALLENGES = 5
"""The maximum number of challenges in a login. No mechanism needs more. If the relay sends more,
the login fails."""


def log_in(session: Session, settings: EngineSettings, ask_password: Callable[[], str]) -> None:
    """Authenticate.

    Args:
        session: A connection after its last EHLO.
        settings: The engine's settings, with the user and the mechanism.
        ask_password: The function that returns the password or token.

    Raises:
        ConnectionFailure: The relay refused the login, or a login is not possible.
        ConnectionLost, TimeoutError: The connection was lost, or no reply arrived in time.
    """
    relay = f"relay {settings.relay}"
    encrypted = session.transport.tls is not None or settings.path is not None
    # RFC 4954 section 9: without TLS, an attacker can read or change the password or token. So the
    # caller must allow such a login explicitly.
    if not encrypted and not settings.allow_plaintext_auth:
        line = "login in clear text is disabled: use TLS or allow_plaintext_auth"
        raise ConnectionFailure(f"{relay}: {line}", stops=True)
    mechanism = _choose(session, settings, encrypted)
    password = ask_password() if mechanism.needs_password else ""
    try:
        exchange = _begin(mechanism, settings, password, session.transport)
    except ValueError as error:  # for example, the password contains a forbidden character
        raise ConnectionFailure(f"{relay}: login failed: {error}", permanent=True) from None
    reply = _run(session, exchange, relay)
    # RFC 4954 section 4: a 503 means that the client is already authenticated.
    if reply[0] not in (235, 503):
        raise session.refusal("auth", reply)
    # RFC 5802 section 3: with SCRAM, the server must prove that it knows the password. A 235
    # without this proof may come from an attacker.
    if not exchange.complete:
        line = "the relay did not prove that it knows the password"
        raise ConnectionFailure(f"{relay}: {line}", reply, permanent=True)


def _choose(session: Session, settings: EngineSettings, encrypted: bool) -> MechanismRow:
    """Choose the best of the mechanisms that the relay supports.

    Raises:
        ConnectionFailure: The relay supports no mechanism that the client can use.
    """
    supported = session.capabilities.get("auth", "").upper().split()
    ranked = []
    for row in MECHANISMS:
        rank = row.tls_rank if encrypted else row.clear_text_rank
        if settings.mechanism:
            rank = 1 if row.name == settings.mechanism else None
        if rank is not None and row.name in supported:
            ranked.append((rank, row))
    if ranked:
        return min(ranked, key=lambda pair: pair[0])[1]
    wanted = f"AUTH {settings.mechanism}" if settings.mechanism else "AUTH with a password"
    line = f"the relay does not support {wanted}; it supports {' '.join(supported) or 'none'}"
    raise ConnectionFailure(f"relay {settings.relay}: {line}", stops=True)


def _begin(
    mechanism: MechanismRow, settings: EngineSettings, password: str, transport: Transport
) -> Exchange:
    """Start an exchange.

    Raises:
        ValueError: The user or the password contains a character that the mechanism does not allow,
            or the connection has no channel binding.
    """
    secret = Secret(
        password=password,
        # The nonce has 24 random bytes, more than in the example of RFC 5802 (18 bytes).
        nonce=secrets.token_urlsafe(24),
        channel_binding=_channel_binding(transport) if mechanism.needs_channel_binding else None,
        host=settings.host,
        port=settings.port,
    )
    return mechanism.begin(settings.user or "", secret)


def _channel_binding(transport: Transport) -> tuple[str, bytes] | None:
    """Return the channel binding of the connection, or None without TLS.

    TLS 1.3 defines the channel binding `tls-exporter` (RFC 9266), but Python's ssl module does not
    support it. So with every version of TLS, the binding is the digest of the certificate (RFC
    5929).

    Raises:
        ValueError: The certificate has no digest.
    """
    certificate = None if transport.tls is None else transport.tls.getpeercert(binary_form=True)
    if certificate is None:
        return None
    digest = certificate_digest(certificate)
    if digest is None:
        raise ValueError(
            "the relay's certificate allows no channel binding: use a mechanism without -PLUS"
        )
    return "tls-server-end-point", digest


def _run(session: Session, exchange: Exchange, relay: str) -> Reply:
    """Respond to challenges (334). Return the first reply that is not a challenge."""
    name = exchange.name
    initial = exchange.respond(None)
    if initial is None:
        reply = session.command(f"AUTH {name}")
    else:
        # RFC 4954 section 4: an empty initial response is written as "=".
        text = _base64(initial) or "="
        reply = session.command(f"AUTH {name} {text}", shown=f"AUTH {name} ***")
    for _ in range(MAX_CHALLENGES):
        if reply[0] != 334:
            return reply
        try:
            response = exchange.respond(_challenge(reply))
        except PeerError as error:
            # RFC 4954 section 4: "*" cancels the exchange.
            session.command("*")
            line = f"{relay}: login failed: {error}"
            raise ConnectionFailure(line, reply, permanent=True) from None
        reply = session.command(_base64(response or b""), shown="***")
    if reply[0] == 334:
        line = f"the relay sent more than {MAX_CHALLENGES} challenges"
        raise ConnectionFailure(f"{relay}: {line}", reply, permanent=True)
    return reply


def _challenge(reply: Reply) -> bytes:
    try:
        return base64.b64decode(reply[1], validate=True)
    except binascii.Error:
        raise PeerError("the server's challenge is not base64") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
