"""AUTH (RFC 4954): any authobject, and `login` in smtplib's order; steps as in `dialogue`."""

import base64
import binascii
import hmac
from collections.abc import Callable
from typing import Any

from rapidsmtp import _core
from rapidsmtp.dialogue import Reply, Steps
from rapidsmtp.errors import SMTPAuthenticationError, SMTPException, SMTPNotSupportedError

_MAX_CHALLENGES = 5
"""Challenges that are answered before the server is taken to be out of its mind."""


class AuthObjects:
    """The authobjects that smtplib has as methods of its class."""

    user: str
    password: str
    _auth_challenge_count = 0

    def auth_cram_md5(self, challenge: Any = None) -> Any:
        """The authobject of CRAM-MD5 (RFC 2195), for `user` and `password` of this object."""
        if challenge is None:
            return None
        digest = hmac.new(_ascii(self.password), challenge, "md5")
        return f"{self.user} {digest.hexdigest()}"

    def auth_plain(self, challenge: Any = None) -> str:
        """The authobject of PLAIN (RFC 4616), for `user` and `password` of this object."""
        return f"\0{self.user}\0{self.password}"

    def auth_login(self, challenge: Any = None) -> str:
        """The authobject of LOGIN, for `user` and `password` of this object."""
        if challenge is None or self._auth_challenge_count < 2:
            return self.user
        return self.password


def auth(
    client: Any, mechanism: str, authobject: Callable[..., Any], initial_response_ok: bool
) -> Steps[Reply]:
    """Authenticate by a SASL mechanism.

    Raises:
        SMTPAuthenticationError: the server said no, or what it said cannot be trusted.
        SMTPException: the server keeps asking.
    """
    client._redacting = True
    try:
        code, text = yield from _exchange(
            client, mechanism.upper(), authobject, initial_response_ok
        )
    finally:
        client._redacting = False
    if code not in (235, 503):
        raise SMTPAuthenticationError(code, text)
    if code == 235 and getattr(authobject, "complete", True) is False:
        client.close()
        raise SMTPAuthenticationError(code, b"the server did not prove that it knows the password")
    return code, text


def _exchange(
    client: Any, mechanism: str, authobject: Callable[..., Any], initial_response_ok: bool
) -> Steps[Reply]:
    initial = (yield authobject()) if initial_response_ok else None
    if initial is None:
        code, text = yield client.docmd("AUTH", mechanism)
        client._auth_challenge_count = 0
    else:
        # RFC 4954 section 4: an empty initial response is sent as "=".
        code, text = yield client.docmd("AUTH", f"{mechanism} {_base64(initial) or '='}")
        client._auth_challenge_count = 1
    while code == 334:
        client._auth_challenge_count += 1
        response = yield from _respond(client, authobject, text)
        code, text = yield client.docmd(response)
        if client._auth_challenge_count > _MAX_CHALLENGES:
            raise SMTPException(
                f"Server AUTH mechanism infinite loop. Last response: {(code, text)!r}"
            )
    return code, text


def _respond(client: Any, authobject: Callable[..., Any], challenge: bytes) -> Steps[str]:
    try:
        return _base64((yield authobject(base64.b64decode(challenge, validate=True))))
    except (binascii.Error, _core.PeerError) as error:
        fault = str(error).encode()
    yield client.docmd("*")  # RFC 4954 section 4: cancels the exchange
    raise SMTPAuthenticationError(334, fault)


def login(
    client: Any, user: str, password: str, initial_response_ok: bool, *, persistent: bool = True
) -> Steps[Reply]:
    """Authenticate by CRAM-MD5, PLAIN or LOGIN: the first that works, in this order.

    Args:
        client: the client.
        user: as for `SMTP.login`.
        password: as for `SMTP.login`.
        initial_response_ok: as for `SMTP.login`.
        persistent: whether to go on when the server says that the password is wrong (535).

    Raises:
        SMTPNotSupportedError: the server offers no AUTH.
        SMTPAuthenticationError: it took none of them.
        SMTPException: it offers none of them.
    """
    yield client._greet()
    if not client.has_extn("auth"):
        raise SMTPNotSupportedError("SMTP AUTH extension not supported by server.")
    offered = client.esmtp_features["auth"].split()
    mechanisms = [name for name in ("CRAM-MD5", "PLAIN", "LOGIN") if name in offered]
    if not mechanisms:
        raise SMTPException("No suitable authentication method found.")
    client.user, client.password = user, password
    for mechanism in mechanisms:
        authobject = getattr(client, "auth_" + mechanism.lower().replace("-", "_"))
        try:
            reply: Reply = yield client.auth(
                mechanism, authobject, initial_response_ok=initial_response_ok
            )
            return reply
        except SMTPAuthenticationError as error:
            if error.smtp_code == 535 and not persistent:
                raise
            refusal = error
    raise refusal


def _base64(response: Any) -> str:
    return base64.b64encode(_ascii(response)).decode("ascii")


def _ascii(secret: Any) -> bytes:
    """What `.encode("ascii")` gives; its error, which lands in logs, does not hold the text."""
    try:
        octets: bytes = secret.encode("ascii")
        return octets
    except UnicodeEncodeError as error:
        masked = "?" * len(error.object)
        told = UnicodeEncodeError("ascii", masked, error.start, error.end, error.reason)
    raise told  # out here, so that the first one is not its context
