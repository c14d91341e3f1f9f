"""AUTH (RFC 4954): the choice of the mechanism, and the exchange.

If the relay refuses the mechanism itself, for example with 504, the client tries the next
mechanism. After a refusal of the credentials (535), it tries no other mechanism: a weaker mechanism
could send the password itself, and providers lock accounts after repeated failures.
"""

import base64
import contextlib
import secrets
from collections import deque
from collections.abc import Callable

from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure.auth import (
    Exchange,
    MechanismRow,
    Secret,
    decode_challenge,
    usable_mechanisms,
)
from rapidsmtp._pure.certificate import certificate_digest
from rapidsmtp._pure.diagnosis import concerns_mechanism
from rapidsmtp._pure.failure import ConnectionFailure, ConnectionLost
from rapidsmtp._pure.reply import Reply, enhanced_status, reply_line
from rapidsmtp._pure.session import Session
from rapidsmtp._pure.transport import Transport
from rapidsmtp.errors import PeerError

MAX_CHALLENGES = 5
"""The maximum number of challenges in a login. No mechanism needs more. If the relay sends more,
the login fails."""


def log_in(session: Session, settings: EngineSettings, ask_password: Callable[[], str]) -> None:
    """Authenticate after the last EHLO, with the password or token that `ask_password` returns.

    Raises:
        ConnectionFailure: The relay refused the login, or a login is not possible.
        ConnectionLost: The connection was lost, or no reply arrived in time.
    """
    # RFC 4954 section 9: without TLS, an attacker can read or change the password or token. So the
    # caller must allow such a login explicitly.
    if not session.secured and not settings.allow_plaintext_auth:
        raise session.unusable("login in clear text is disabled: use TLS or allow_plaintext_auth")
    mechanisms = _choose(session, settings)
    password = ask_password() if any(row.needs_password for row in mechanisms) else ""
    attempts = deque((row, True) for row in mechanisms)
    refused = ""
    while attempts:
        row, sends_initial = attempts.popleft()
        try:
            exchange = _begin(row, settings, password, session.transport)
        except ValueError as error:  # for example, the password contains a forbidden character
            raise session.unusable(f"login failed: {error}") from None
        try:
            reply, rounds = _run(session, exchange, sends_initial)
        except ConnectionLost as error:
            if error.reply is not None:
                raise
            # The earlier refusal is often the reason why the relay closes the connection.
            raise ConnectionLost(f"{error}{refused}") from None
        if exchange.succeeds_with(reply[0]):
            return
        # RFC 5802 section 3: with SCRAM, the server must prove that it knows the password. A 235
        # without this proof may come from an attacker.
        if reply[0] in (235, 503):
            raise session.unusable("the relay did not prove that it knows the password", reply)
        if not concerns_mechanism(reply[0], enhanced_status(*reply)):
            break
        if row.name == "LOGIN" and reply[0] == 501 and sends_initial and rounds == 0:
            # LOGIN has no standard, and some servers know no initial response for it.
            attempts.appendleft((row, False))
        refused = f", after AUTH {row.name} was refused: {reply_line(reply)}"
    raise session.refusal("auth", reply)


def _choose(session: Session, settings: EngineSettings) -> list[MechanismRow]:
    """Return the usable mechanisms that the relay supports; the best is the first."""
    supported = session.capabilities.mechanisms
    rows = usable_mechanisms(supported, settings.mechanism, private=session.secured)
    if rows:
        return rows
    wanted = f"AUTH {settings.mechanism}" if settings.mechanism else "AUTH with a password"
    raise session.unusable(
        f"the relay does not support {wanted}; it supports {' '.join(supported) or 'none'}"
    )


def _begin(
    mechanism: MechanismRow, settings: EngineSettings, password: str, transport: Transport
) -> Exchange:
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
    # TLS 1.3 defines the channel binding `tls-exporter` (RFC 9266), which Python's ssl module does
    # not support. So the binding is the digest of the certificate (RFC 5929) in each version.
    certificate = None if transport.tls is None else transport.tls.getpeercert(binary_form=True)
    if certificate is None:
        return None
    digest = certificate_digest(certificate)
    if digest is None:
        raise ValueError(
            "the relay's certificate allows no channel binding: use a mechanism without -PLUS"
        )
    return "tls-server-end-point", digest


def _run(session: Session, exchange: Exchange, sends_initial: bool) -> tuple[Reply, int]:
    """Send AUTH and respond to challenges (334).

    Returns:
        The first reply that is not a challenge, and the number of challenges.
    """
    name = exchange.name
    initial = exchange.respond(None) if sends_initial else None
    if initial is None:
        reply = session.command(f"AUTH {name}")
    else:
        # RFC 4954 section 4: an empty initial response is written as "=".
        text = _base64(initial) or "="
        reply = session.command(f"AUTH {name} {text}", shown=f"AUTH {name} ***")
    for rounds in range(MAX_CHALLENGES):
        if reply[0] != 334:
            return reply, rounds
        try:
            response = exchange.respond(decode_challenge(name, reply[1]))
        except PeerError as error:
            # RFC 4954 section 4: "*" cancels the exchange.
            with contextlib.suppress(ConnectionFailure, ConnectionLost):
                session.command("*")
            raise session.unusable(f"login failed: {error}", reply) from None
        reply = session.command(_base64(response or b""), shown="***")
    if reply[0] == 334:
        raise session.unusable(f"the relay sent more than {MAX_CHALLENGES} challenges", reply)
    return reply, MAX_CHALLENGES


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
