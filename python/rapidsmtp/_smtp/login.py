"""AUTH (RFC 4954) with any auth object, and `login` with smtplib's order of mechanisms.

The functions `auth` and `login` are generators, like the functions in `commands`.
"""

import base64
import contextlib
import hmac
from collections.abc import Callable
from typing import Any

from rapidsmtp import _backend
from rapidsmtp._smtp.commands import Steps
from rapidsmtp._smtp.face import Face
from rapidsmtp._smtp.state import ReplyPair
from rapidsmtp.errors import SMTPAuthenticationError, SMTPException, SMTPNotSupportedError

_MAX_CHALLENGES = 5
"""The maximum number of challenges in one exchange, as in smtplib.

Without a limit, a server could continue the exchange forever.
"""


class AuthObjects:
    """The auth objects for CRAM-MD5, PLAIN and LOGIN. As in smtplib, they are methods of `SMTP`."""

    user: str
    password: str
    _auth_challenge_count = 0

    def auth_cram_md5(self, challenge: Any = None) -> Any:
        """Return the response of CRAM-MD5 (RFC 2195) for `self.user` and `self.password`."""
        if challenge is None:
            if not _has_md5():
                # Raised before the client sends AUTH, so no exchange is left open.
                raise SMTPException("CRAM-MD5 needs MD5, which this Python does not provide")
            return None
        digest = hmac.new(_ascii(self.password), challenge, "md5")
        return f"{self.user} {digest.hexdigest()}"

    def auth_plain(self, challenge: Any = None) -> str:
        """Return the response of PLAIN (RFC 4616) for `self.user` and `self.password`."""
        return f"\0{self.user}\0{self.password}"

    def auth_login(self, challenge: Any = None) -> str:
        """Return the response of LOGIN for `self.user` and `self.password`."""
        if challenge is None or self._auth_challenge_count < 2:
            return self.user
        return self.password

    def _answer(self, authobject: Callable[..., Any], challenge: bytes) -> Any:
        return authobject(challenge)


def auth(
    client: Face, mechanism: str, authobject: Callable[..., Any], initial_response_ok: bool
) -> Steps[ReplyPair]:
    """Authenticate with one SASL mechanism.

    Raises:
        SMTPAuthenticationError: The server refused the login or, with SCRAM, did not prove that it
            knows the password.
        SMTPException: The server sent too many challenges.
    """
    # An auth object may be used again. Its proof of the earlier server must not count.
    getattr(authobject, "_restart", lambda: None)()
    client._protocol.hides_input = True
    try:
        code, text = yield from _exchange(
            client, mechanism.upper(), authobject, initial_response_ok
        )
    finally:
        client._protocol.hides_input = False
    check_reply(code, text)
    if not _is_proven(authobject, code):
        client.close()
        raise SMTPAuthenticationError(code, b"the server did not prove that it knows the password")
    return code, text


def check_reply(code: int, text: bytes) -> ReplyPair:
    """Return the last reply of an exchange if the client is logged in.

    RFC 4954 section 4: 503 means that the client is logged in already.

    Raises:
        SMTPAuthenticationError: The server refused the login.
    """
    if code not in (235, 503):
        raise SMTPAuthenticationError(code, text)
    return code, text


def _is_proven(authobject: Callable[..., Any], code: int) -> bool:
    """Return whether a login is successful after the reply 235 or 503.

    An auth object without the attribute `complete` requires no proof of the server.
    """
    if getattr(authobject, "complete", True) is not False:
        return True
    # RFC 4954 section 4: a 503 to AUTH means that the client is already authenticated. The reply
    # proves nothing about the server.
    return code == 503 and not getattr(authobject, "proves_server", True)


def _exchange(
    client: Face, mechanism: str, authobject: Callable[..., Any], initial_response_ok: bool
) -> Steps[ReplyPair]:
    initial = (yield authobject()) if initial_response_ok else None
    if initial is None:
        code, text = yield client.docmd("AUTH", mechanism)
        client._auth_challenge_count = 0
    else:
        # RFC 4954 section 4: an empty initial response is sent as "=".
        code, text = yield client.docmd("AUTH", f"{mechanism} {encode_response(initial) or '='}")
        client._auth_challenge_count = 1
    while code == 334:
        client._auth_challenge_count += 1
        response = yield from _respond(client, mechanism, authobject, text)
        code, text = yield client.docmd(response)
        if client._auth_challenge_count > _MAX_CHALLENGES:
            raise SMTPException(
                f"Server AUTH mechanism infinite loop. Last response: {(code, text)!r}"
            )
    return code, text


def _respond(
    client: Face, mechanism: str, authobject: Callable[..., Any], text: bytes
) -> Steps[str]:
    """Return the encoded response to a challenge. If there is none, cancel the exchange."""
    try:
        challenge = _backend.decode_challenge(mechanism, text)
        return encode_response((yield client._answer(authobject, challenge)))
    except Exception as error:
        # RFC 4954 section 4: "*" cancels the exchange. On a connection with an open exchange, the
        # server would read the next command as a response.
        with contextlib.suppress(SMTPException):
            yield client.docmd("*")
        if isinstance(error, _backend.PeerError):
            raise SMTPAuthenticationError(334, str(error).encode()) from None
        raise
    except BaseException:
        client.close()
        raise


def login(
    client: Face, user: str, password: str, initial_response_ok: bool, *, as_smtplib: bool = True
) -> Steps[ReplyPair]:
    """Authenticate: try CRAM-MD5, PLAIN and LOGIN in this order until one succeeds.

    Args:
        client: The client.
        user: The user name.
        password: The password.
        initial_response_ok: Whether the initial response may be part of the AUTH command.
        as_smtplib: Whether to try the next mechanism even after a 535 (wrong credentials), and to
            know the names of mechanisms in upper case only.

    Raises:
        SMTPNotSupportedError: The server does not support AUTH.
        SMTPAuthenticationError: The server refused each mechanism that was tried.
        SMTPException: The server supports none of the three mechanisms.
    """
    yield client._begin_session()
    if not client.has_extn("auth"):
        raise SMTPNotSupportedError("SMTP AUTH extension not supported by server.")
    supported = client.esmtp_features["auth"].split()
    if not as_smtplib:
        # RFC 5321 section 2.4: argument values, such as names of mechanisms, are case-insensitive.
        supported = [name.upper() for name in supported]
    mechanisms = [name for name in ("CRAM-MD5", "PLAIN", "LOGIN") if name in supported]
    if "CRAM-MD5" in mechanisms and not _has_md5():
        mechanisms.remove("CRAM-MD5")
    if not mechanisms:
        raise SMTPException("No suitable authentication method found.")
    client.user, client.password = user, password
    for mechanism in mechanisms:
        authobject = getattr(client, "auth_" + mechanism.lower().replace("-", "_"))
        try:
            reply: ReplyPair = yield client.auth(
                mechanism, authobject, initial_response_ok=initial_response_ok
            )
            return reply
        except SMTPAuthenticationError as error:
            if error.smtp_code == 535 and not as_smtplib:
                raise
            refusal = error
    raise refusal


def _has_md5() -> bool:
    """Return whether this Python provides MD5. A system in FIPS mode may not provide it."""
    try:
        hmac.new(b"", b"", "md5")
    except ValueError:
        return False
    return True


def encode_response(response: Any) -> str:
    """Encode the response of an auth object in base64 (RFC 4954 section 4).

    Raises:
        UnicodeEncodeError: The response is not ASCII.
    """
    return base64.b64encode(_ascii(response)).decode("ascii")


def _ascii(secret: Any) -> bytes:
    """Return `secret.encode("ascii")`.

    Raises:
        UnicodeEncodeError: The secret is not ASCII. The exception may be logged, so it does not
            contain the secret.
    """
    try:
        encoded: bytes = secret.encode("ascii")
        return encoded
    except UnicodeEncodeError as error:
        masked = "?" * len(error.object)
        safe = UnicodeEncodeError("ascii", masked, error.start, error.end, error.reason)
    # The new exception is raised after the `except` block. Inside the block, Python would store the
    # original exception, which contains the secret, as its context.
    raise safe
