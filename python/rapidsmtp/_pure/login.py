"""AUTH (RFC 4954): one mechanism, once.

After a refusal no other is tried: a weaker one would show the password to whoever refused.
"""

import base64
import binascii
import secrets
from collections.abc import Callable

from rapidsmtp._pure.auth import (
    CramMd5,
    Exchange,
    External,
    Login,
    OAuthBearer,
    Plain,
    Scram,
    XOAuth2,
)
from rapidsmtp._pure.certificate import certificate_digest
from rapidsmtp._pure.dialogue import Dialogue, Unavailable
from rapidsmtp._pure.error import PeerError
from rapidsmtp._pure.reply import Reply
from rapidsmtp._pure.settings import Settings
from rapidsmtp._pure.wire import Wire

MAX_ROUNDS = 5
"""Challenges that are answered before the server is taken to be out of its mind."""

OVER_TLS = ("PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5")
"""What is chosen where nobody names one: over TLS the server may see the password."""

IN_CLEAR = ("SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN")
"""In clear text those go first that do not show it."""


def log_in(dialogue: Dialogue, settings: Settings, ask_password: Callable[[], str]) -> None:
    """Authenticate.

    Args:
        dialogue: a connection after its last EHLO.
        settings: who we are.
        ask_password: gives the password or token.

    Raises:
        Unavailable: it was refused, or cannot be done.
        Lost, TimeoutError: the connection was lost.
    """
    relay = settings.relay
    secure = dialogue.wire.tls is not None or settings.path is not None
    if not secure and not settings.allow_plaintext_auth:
        raise Unavailable(f"no login in clear text to {relay}", stops=True)
    name = _choose(dialogue, settings, OVER_TLS if secure else IN_CLEAR)
    password = "" if name == "EXTERNAL" else ask_password()
    try:
        exchange = _exchange(name, settings, password, dialogue.wire)
    except ValueError as error:  # a character that no password may have, say
        raise Unavailable(f"no login to {relay}: {error}", for_good=True) from None
    reply = _run(dialogue, exchange, relay)
    if reply[0] not in (235, 503):  # the latter: logged in already
        raise dialogue.refusal("auth", reply)
    if not exchange.complete and name.startswith("SCRAM"):
        line = f"{relay} did not prove that it knows the password"
        raise Unavailable(line, reply, for_good=True)


def _choose(dialogue: Dialogue, settings: Settings, preferred: tuple[str, ...]) -> str:
    offered = dialogue.features.get("auth", "").upper().split()
    wanted = (settings.mechanism,) if settings.mechanism else preferred
    for name in wanted:
        if name in offered:
            return name
    way = f"AUTH {settings.mechanism}" if settings.mechanism else "AUTH by a password"
    shown = " ".join(offered) or "none"
    raise Unavailable(f"{settings.relay} does not offer {way}; it offers {shown}", stops=True)


def _exchange(name: str, settings: Settings, password: str, wire: Wire) -> Exchange:
    """One run of a mechanism.

    Raises:
        ValueError: the user or the password breaks its rules, or it is not known.
    """
    user = settings.user or ""
    hashed, plus, _ = name.partition("-PLUS")
    if hashed in ("SCRAM-SHA-1", "SCRAM-SHA-256"):
        algorithm = "sha1" if hashed == "SCRAM-SHA-1" else "sha256"
        binding = _channel_binding(wire) if plus else None
        # 24 octets: more than the 18 that RFC 7677's own example has.
        return Scram(user, password, algorithm, secrets.token_urlsafe(24), binding)
    if name == "OAUTHBEARER":
        return OAuthBearer(user, password, settings.host, settings.port)
    if name == "EXTERNAL":
        return External(user)
    simple: dict[str, Callable[[str, str], Exchange]]
    simple = {"PLAIN": Plain, "LOGIN": Login, "CRAM-MD5": CramMd5, "XOAUTH2": XOAuth2}
    if name not in simple:
        raise ValueError(f"the pure-Python half does not know {name}")
    return simple[name](user, password)


def _channel_binding(wire: Wire) -> tuple[str, bytes]:
    """What a -PLUS mechanism binds to.

    Python's ssl has no `tls-exporter` (RFC 9266), so it is the certificate's digest (RFC 5929) on
    each version of TLS.

    Raises:
        ValueError: there is no TLS, or a certificate without a digest.
    """
    certificate = None if wire.tls is None else wire.tls.getpeercert(binary_form=True)
    if certificate is None:
        raise ValueError("the -PLUS mechanisms need TLS to bind to")
    digest = certificate_digest(certificate)
    if digest is None:
        raise ValueError("the relay's certificate is none to bind to: use SCRAM without -PLUS")
    return "tls-server-end-point", digest


def _run(dialogue: Dialogue, exchange: Exchange, relay: str) -> Reply:
    """Answer until the server does not ask any more."""
    name = exchange.name
    initial = exchange.respond(None)
    if initial is None:
        reply = dialogue.command(f"AUTH {name}")
    else:
        # RFC 4954 section 4: an empty initial response is sent as "=".
        text = _base64(initial) or "="
        reply = dialogue.command(f"AUTH {name} {text}", shown=f"AUTH {name} ***")
    for _ in range(MAX_ROUNDS):
        if reply[0] != 334:
            return reply
        try:
            response = exchange.respond(base64.b64decode(reply[1], validate=True))
        except (binascii.Error, PeerError) as error:
            dialogue.command("*")  # cancels the exchange
            raise Unavailable(f"no login to {relay}: {error}", for_good=True) from None
        reply = dialogue.command(_base64(response or b""), shown="***")
    if reply[0] == 334:
        raise Unavailable(f"{relay} asks for more and more at the login", for_good=True)
    return reply


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")
