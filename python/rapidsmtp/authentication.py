"""AUTH (RFC 4954) of the drop-in: `auth` with any authobject, `login` in smtplib's order."""

import base64
import binascii
import hmac
from collections.abc import Callable
from typing import Any

from rapidsmtp import _core
from rapidsmtp.connection import Connection
from rapidsmtp.errors import SMTPAuthenticationError, SMTPException, SMTPNotSupportedError

_MAX_CHALLENGES = 5
"""Challenges that are answered before the server is taken to be out of its mind."""


class Authentication(Connection):
    """The methods of `SMTP` that authenticate."""

    def auth(
        self,
        mechanism: str,
        authobject: Callable[..., Any],
        *,
        initial_response_ok: bool = True,
    ) -> tuple[int, bytes]:
        """Authenticate by a SASL mechanism (RFC 4954).

        Args:
            mechanism: its name, such as `"PLAIN"`.
            authobject: called with each challenge (bytes), gives the response (str); called
                without one for the initial response, gives None if there is none. The classes
                of `rapidsmtp.auth` are ready-made.
            initial_response_ok: whether the response may travel with the command.

        Raises:
            SMTPAuthenticationError: the server said no, or what it said cannot be trusted.
            SMTPException: the server keeps asking.
        """
        self._redacting = True
        try:
            code, text = self._exchange(mechanism.upper(), authobject, initial_response_ok)
        finally:
            self._redacting = False
        if code not in (235, 503):
            raise SMTPAuthenticationError(code, text)
        if code == 235 and getattr(authobject, "complete", True) is False:
            self.close()
            raise SMTPAuthenticationError(
                code, b"the server did not prove that it knows the password"
            )
        return code, text

    def _exchange(
        self, mechanism: str, authobject: Callable[..., Any], initial_response_ok: bool
    ) -> tuple[int, bytes]:
        initial = authobject() if initial_response_ok else None
        if initial is None:
            code, text = self.docmd("AUTH", mechanism)
            self._auth_challenge_count = 0
        else:
            # RFC 4954 section 4: an empty initial response is sent as "=".
            code, text = self.docmd("AUTH", f"{mechanism} {_base64(initial) or '='}")
            self._auth_challenge_count = 1
        while code == 334:
            self._auth_challenge_count += 1
            response = self._respond(authobject, text)
            code, text = self.docmd(response)
            if self._auth_challenge_count > _MAX_CHALLENGES:
                raise SMTPException(
                    f"Server AUTH mechanism infinite loop. Last response: {(code, text)!r}"
                )
        return code, text

    def _respond(self, authobject: Callable[..., Any], challenge: bytes) -> str:
        try:
            return _base64(authobject(base64.b64decode(challenge, validate=True)))
        except (binascii.Error, _core.PeerError) as error:
            self.docmd("*")  # RFC 4954 section 4: cancels the exchange
            raise SMTPAuthenticationError(334, str(error).encode()) from None

    def auth_cram_md5(self, challenge: bytes | None = None) -> str | None:  # type: ignore[override]
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

    def login(
        self, user: str, password: str, *, initial_response_ok: bool = True
    ) -> tuple[int, bytes]:
        """Authenticate by CRAM-MD5, PLAIN or LOGIN: the first that works, in this order.

        Raises:
            SMTPHeloError: the server took neither EHLO nor HELO.
            SMTPNotSupportedError: it offers no AUTH.
            SMTPAuthenticationError: it took none of them.
            SMTPException: it offers none of them.
        """
        self.ehlo_or_helo_if_needed()
        if not self.has_extn("auth"):
            raise SMTPNotSupportedError("SMTP AUTH extension not supported by server.")
        offered = self.esmtp_features["auth"].split()
        mechanisms = [name for name in ("CRAM-MD5", "PLAIN", "LOGIN") if name in offered]
        if not mechanisms:
            raise SMTPException("No suitable authentication method found.")
        self.user, self.password = user, password
        for mechanism in mechanisms:
            authobject = getattr(self, "auth_" + mechanism.lower().replace("-", "_"))
            try:
                return self.auth(mechanism, authobject, initial_response_ok=initial_response_ok)
            except SMTPAuthenticationError as error:
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
