"""The client's side of SASL for AUTH (RFC 4954): responses to challenges.

Each class implements one mechanism, and each object is one exchange. Challenges and responses are
bytes without base64. The caller handles base64, the code 334 and the `*` that cancels an exchange.
The nonce is an argument, because this module uses no clock and no randomness. So both backends give
the same responses, and the tests can use the examples of the RFCs.

`MECHANISMS` is the only table of mechanisms in Python. A new mechanism needs a class and a row in
this table. In the compiled backend, the mechanism needs a struct and a row in `src/auth.rs`.

An argument that breaks a mechanism's grammar raises `ValueError`, before any byte is sent. A
challenge that breaks the grammar raises `PeerError`, and the exchange has failed. No error text
quotes a user, password or token.
"""

import base64
import hashlib
import hmac
import re
import stringprep
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from rapidsmtp.errors import PeerError

MAX_CHALLENGE = 12 * 1024
"""The maximum length of a challenge in bytes: RFC 4954 section 4 limits a line to 12288 octets."""

MIN_ITERATIONS = 4096
"""The minimum iteration count (RFC 5802 section 5.1, RFC 7677 section 4)."""

MAX_ITERATIONS = 1_000_000
"""The maximum iteration count. Without it, a hostile server could keep the client busy for minutes.
A million iterations take half a second."""

MAX_REASON = 100
"""The maximum number of characters that an error text quotes from the server's attribute `e=`."""


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """The secret of a login, and other values that some mechanisms put into their responses.

    Attributes:
        password: The password or token.
        nonce: The nonce: random printable ASCII, used only once.
        channel_binding: The name (RFC 5929) and data of the channel binding, for the -PLUS
            mechanisms; None without one.
        host: The server's host name, for OAUTHBEARER.
        port: The server's port, for OAUTHBEARER.
    """

    password: str
    nonce: str
    channel_binding: tuple[str, bytes] | None
    host: str
    port: int


class Exchange:
    """One run of a mechanism. The caller calls `respond` once for the initial response and once for
    each challenge.

    Attributes:
        name: The mechanism's name as EHLO lists it.
    """

    __slots__ = ("_failed", "_responses", "_started", "name")

    # The maximum number of responses, and the number of responses after which all checks of the
    # client are complete. The further responses up to the maximum only acknowledge a refusal.
    _max_responses = 1
    _required_responses = 1
    # Whether the exchange begins with a challenge from the server. If so, the mechanism has no
    # initial response.
    _server_first = False
    # Whether the server must prove its identity before the login is successful.
    _proves_server = False

    def __init__(self, name: str) -> None:
        self.name = name
        self._started = False
        self._failed = False
        self._responses = 0

    @property
    def complete(self) -> bool:
        """Whether all checks of the client are complete.

        If the server reports success (235) while this property is false, the caller must treat the
        login as failed.
        """
        return not self._failed and self._responses >= self._required_responses

    def succeeds_with(self, code: int) -> bool:
        """Return whether the login is successful after a reply with this code."""
        if code == 503:
            # RFC 4954 section 4: a 503 to AUTH means that the client is already authenticated. The
            # reply proves nothing about the server.
            return self.complete or not self._proves_server
        return code == 235 and self.complete

    def respond(self, challenge: bytes | None) -> bytes | None:
        """Return the response to a challenge.

        The caller may send AUTH without the initial response of the mechanism. In that case the
        server requests this response with an empty challenge (RFC 4954 section 4). This method
        ignores the content of this challenge.

        Args:
            challenge: The decoded challenge; `None` asks for the initial response.

        Returns:
            The response, not yet encoded; `None` if there is no initial response.

        Raises:
            ValueError: The challenge is `None` although the exchange has started.
            PeerError: The challenge breaks the mechanism's rules or is unexpected.
        """
        if challenge is None:
            if self._started:
                raise ValueError("the exchange has already started")
            self._started = True
            return None if self._server_first else self._next_response(b"")
        if not isinstance(challenge, bytes):
            raise TypeError(f"the challenge must be bytes, not {type(challenge).__name__}")
        self._started = True
        return self._next_response(challenge)

    def _next_response(self, challenge: bytes) -> bytes:
        try:
            if self._failed or self._responses == self._max_responses:
                raise PeerError("the server sent an unexpected challenge")
            if len(challenge) > MAX_CHALLENGE:
                raise PeerError(f"the server's challenge is longer than {MAX_CHALLENGE} bytes")
            response = self._response_to(challenge, self._responses)
        except PeerError:
            self._failed = True
            raise
        self._responses += 1
        return response

    def _response_to(self, challenge: bytes, index: int) -> bytes:
        """Return the response to a challenge; `index` is the number of earlier responses."""
        raise NotImplementedError

    def __reduce__(self) -> NoReturn:
        raise TypeError("an authentication exchange cannot be pickled: it holds secrets")


class Plain(Exchange):
    """PLAIN (RFC 4616): user and password in one response."""

    __slots__ = ("_response",)

    def __init__(self, user: str, password: str, authzid: str = "") -> None:
        super().__init__("PLAIN")
        encoded = (_without_nul("user", user), _without_nul("password", password))
        _refuse_empty("user", user)
        self._response = b"\0".join((_without_nul("authzid", authzid), *encoded))

    def _response_to(self, challenge: bytes, index: int) -> bytes:
        return self._response


class Login(Exchange):
    """LOGIN (draft-murchison-sasl-login): the user, then the password. Challenges are ignored."""

    __slots__ = ("_credentials",)
    _max_responses = 2
    _required_responses = 2

    def __init__(self, user: str, password: str) -> None:
        super().__init__("LOGIN")
        self._credentials = (_without_nul("user", user), _without_nul("password", password))

    def _response_to(self, challenge: bytes, index: int) -> bytes:
        return self._credentials[index]


class CramMd5(Exchange):
    """CRAM-MD5 (RFC 2195): a keyed digest of the challenge. The server does not prove its
    identity."""

    __slots__ = ("_password", "_user")
    _server_first = True

    def __init__(self, user: str, password: str) -> None:
        super().__init__("CRAM-MD5")
        if not has_md5():
            raise ValueError("CRAM-MD5 needs MD5, which this Python does not provide")
        self._user = _without_nul("user", user)
        self._password = _without_nul("password", password)

    def _response_to(self, challenge: bytes, index: int) -> bytes:
        # RFC 2195 section 2: the digest is written in lower-case hexadecimal digits.
        digest = hmac.new(self._password, challenge, "md5").hexdigest()
        return self._user + b" " + digest.encode()


class XOAuth2(Exchange):
    """XOAUTH2, as Google documents it: a bearer token."""

    __slots__ = ("_response",)
    _max_responses = 2

    def __init__(self, user: str, token: str) -> None:
        super().__init__("XOAUTH2")
        encoded = _without_control("user", user), _bearer(token)
        _refuse_empty("user", user)
        self._response = b"user=%b\1%b\1\1" % encoded

    def _response_to(self, challenge: bytes, index: int) -> bytes:
        # The server sends a refusal as a challenge. An empty response acknowledges the refusal.
        return b"" if index else self._response


class OAuthBearer(Exchange):
    """OAUTHBEARER (RFC 7628): a bearer token."""

    __slots__ = ("_response",)
    _max_responses = 2

    def __init__(self, user: str, token: str, host: str = "", port: int = 0) -> None:
        super().__init__("OAUTHBEARER")
        # RFC 7628 section 3.1: the response is a GS2 header without channel binding, and then
        # fields. Each field ends with 0x01.
        name = _escape(_without_control("user", user))
        header = b"n,a=%b," % name if name else b"n,,"
        fields = [header, _bearer(token)]
        place = _utf8("host", host)
        if not _is_printable(place):
            raise ValueError("the host must be printable ASCII without spaces")
        if place:
            fields.insert(1, b"host=" + place)
        if not isinstance(port, int):
            raise TypeError(f"the port must be an int, not {type(port).__name__}")
        if not 0 <= port <= 65535:
            raise ValueError("the port is not between 0 and 65535")
        if port:
            fields.insert(-1, b"port=%d" % port)
        self._response = b"\1".join(fields) + b"\1\1"

    def _response_to(self, challenge: bytes, index: int) -> bytes:
        # RFC 7628 section 3.2.3: the server sends a refusal as a challenge. A lone 0x01
        # acknowledges the refusal.
        return b"\1" if index else self._response


class External(Exchange):
    """EXTERNAL (RFC 4422 appendix A): the server identifies the client, usually by certificate."""

    __slots__ = ("_response",)

    def __init__(self, authzid: str = "") -> None:
        super().__init__("EXTERNAL")
        self._response = _without_nul("authzid", authzid)

    def _response_to(self, challenge: bytes, index: int) -> bytes:
        return self._response


class Scram(Exchange):
    """SCRAM-SHA-1 (RFC 5802), SCRAM-SHA-256 (RFC 7677), and their -PLUS forms.

    The password is never sent. The server's last message proves that the server knows the password.
    Without this proof the exchange is not complete. With a channel binding, a man in the middle of
    the TLS connection cannot forward the exchange.
    """

    __slots__ = ("_algorithm", "_bare", "_binding", "_nonce", "_password", "_signature")
    _max_responses = 3
    _required_responses = 3
    _proves_server = True

    def __init__(
        self,
        user: str,
        password: str,
        algorithm: str,
        nonce: str,
        channel_binding: tuple[str, bytes] | None = None,
    ) -> None:
        if algorithm not in ("sha1", "sha256"):
            raise ValueError("the SCRAM algorithm must be sha1 or sha256")
        name = "SCRAM-SHA-1" if algorithm == "sha1" else "SCRAM-SHA-256"
        super().__init__(name if channel_binding is None else f"{name}-PLUS")
        self._algorithm = algorithm
        # RFC 5802 section 5.1: the user is prepared as a query, and the password as a stored
        # string. So only the user may contain unassigned code points.
        prepared = _saslprep("user", user, unassigned=True)
        _refuse_empty("user", prepared)
        self._password = _saslprep("password", password, unassigned=False).encode()
        # RFC 5802 section 7: a nonce is printable and has no comma, because a comma ends the
        # attribute.
        if not (nonce and _is_printable(_utf8("nonce", nonce))) or "," in nonce:
            raise ValueError("the nonce must be printable ASCII without spaces and commas")
        self._nonce = nonce
        self._bare = b"n=%b,r=%b" % (_escape(prepared.encode()), nonce.encode())
        self._binding = _gs2_header(channel_binding)
        self._signature = b""

    def _response_to(self, challenge: bytes, index: int) -> bytes:
        if index == 0:
            return self._binding[0] + self._bare
        if index == 1:
            return self._prove(challenge)
        self._verify(challenge)
        return b""

    def _prove(self, challenge: bytes) -> bytes:
        """Return the response to the server's first message: the proof of RFC 5802 section 3."""
        attributes = _attributes(challenge)
        # RFC 5802 section 5.1: the server's first message begins with these attributes, in this
        # order.
        if list(attributes)[:3] != ["r", "s", "i"]:
            raise PeerError("the server's first SCRAM message does not begin with r=, s= and i=")
        nonce = attributes["r"]
        # RFC 5802 section 5.1: the client checks that the server's nonce begins with the client's
        # nonce. The server must also add characters, because otherwise an attacker could replay the
        # exchange.
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise PeerError("the server's nonce does not extend the client's")
        if not _is_printable(nonce.encode()):
            raise PeerError("the server's nonce is not printable ASCII")
        salt = _decode("salt", attributes["s"].encode())
        iterations = _iterations(attributes["i"])

        # RFC 5802 section 5.1: `c=` is always required, also without a channel binding. It repeats
        # the GS2 header of the client's first message. So the server detects an attacker who
        # changed this header, for example to remove the channel binding.
        unproven = b"c=%b,r=%b" % (base64.b64encode(b"".join(self._binding)), nonce.encode())
        message = b",".join((self._bare, challenge, unproven))
        salted = hashlib.pbkdf2_hmac(self._algorithm, self._password, salt, iterations)
        client_key = self._mac(salted, b"Client Key")
        stored_key = hashlib.new(self._algorithm, client_key).digest()
        client_signature = self._mac(stored_key, message)
        self._signature = self._mac(self._mac(salted, b"Server Key"), message)
        # RFC 5802 section 3: ClientProof := ClientKey XOR ClientSignature.
        proof = bytes(a ^ b for a, b in zip(client_key, client_signature, strict=True))
        return b"%b,p=%b" % (unproven, base64.b64encode(proof))

    def _verify(self, challenge: bytes) -> None:
        """Check the server's signature. Only a server that knows the password can compute it."""
        attributes = _attributes(challenge)
        if list(attributes)[:1] != ["v"]:
            raise PeerError("the server's last SCRAM message does not begin with v=")
        if not hmac.compare_digest(_decode("signature", attributes["v"].encode()), self._signature):
            raise PeerError(
                "the server's signature is wrong: the server does not know the password"
            )

    def _mac(self, key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, self._algorithm)


class MechanismRow(NamedTuple):
    """One row of the table of mechanisms.

    Attributes:
        name: The name as EHLO lists it.
        tls_rank: The rank over an encrypted connection; 1 is the best. A mechanism with the rank
            None is used only if the caller names it.
        clear_text_rank: The rank over a connection in clear text; None as for `tls_rank`.
        needs_channel_binding: Whether the mechanism needs a channel binding, and therefore TLS.
        needs_user: Whether the mechanism needs a user.
        needs_password: Whether the mechanism needs a password or token.
        uses_challenge: Whether the response depends on the content of the challenge.
        begin: The function that creates an exchange from a user and a secret. It raises ValueError
            if the mechanism does not allow a character of the user or the secret.
    """

    name: str
    tls_rank: int | None
    clear_text_rank: int | None
    needs_channel_binding: bool
    needs_user: bool
    needs_password: bool
    uses_challenge: bool
    begin: Callable[[str, Secret], Exchange]


# Over TLS the password is protected, so PLAIN has the best rank, because it needs only one
# response. In clear text, the mechanisms that do not send the password have the best ranks.
# Mechanisms that need a token, a certificate or a channel binding have no rank. They are used only
# if the caller names them.
MECHANISMS = (
    # name, rank over TLS, rank in clear text, needs a channel binding, a user, a password; uses the
    # challenge
    MechanismRow("PLAIN", 1, 4, False, True, True, False,
        lambda user, secret: Plain(user, secret.password)),
    MechanismRow("LOGIN", 2, 5, False, True, True, False,
        lambda user, secret: Login(user, secret.password)),
    MechanismRow("CRAM-MD5", 5, 3, False, True, True, True,
        lambda user, secret: CramMd5(user, secret.password)),
    MechanismRow("SCRAM-SHA-1", 4, 2, False, True, True, True,
        lambda user, secret: Scram(user, secret.password, "sha1", secret.nonce)),
    MechanismRow("SCRAM-SHA-1-PLUS", None, None, True, True, True, True,
        lambda user, secret: _scram_plus(user, secret, "sha1")),
    MechanismRow("SCRAM-SHA-256", 3, 1, False, True, True, True,
        lambda user, secret: Scram(user, secret.password, "sha256", secret.nonce)),
    MechanismRow("SCRAM-SHA-256-PLUS", None, None, True, True, True, True,
        lambda user, secret: _scram_plus(user, secret, "sha256")),
    MechanismRow("XOAUTH2", None, None, False, True, True, False,
        lambda user, secret: XOAuth2(user, secret.password)),
    MechanismRow("OAUTHBEARER", None, None, False, False, True, False,
        lambda user, secret: OAuthBearer(user, secret.password, secret.host, secret.port)),
    MechanismRow("EXTERNAL", None, None, False, False, False, False,
        lambda user, secret: External(user)),
)  # fmt: skip


def usable_mechanisms(
    supported: Sequence[str], named: str | None, *, private: bool
) -> list[MechanismRow]:
    """Return the mechanisms for a login in the order of preference.

    Args:
        supported: The mechanisms that the server supports.
        named: The only mechanism to use; None for all mechanisms that have a rank.
        private: Whether the connection is encrypted.
    """
    if named:
        return [row for row in MECHANISMS if row.name == named and named in supported]
    ranks = {row: row.tls_rank if private else row.clear_text_rank for row in MECHANISMS}
    ranked = [(rank, row) for row, rank in ranks.items() if rank and row.name in supported]
    rows = [row for _, row in sorted(ranked, key=lambda pair: pair[0])]
    # Without MD5, CRAM-MD5 is only chosen for its error text.
    return [row for row in rows if row.name != "CRAM-MD5" or has_md5()] or rows


def has_md5() -> bool:
    """Return whether this Python provides MD5. A system in FIPS mode may not provide it."""
    try:
        hmac.new(b"", b"", "md5")
    except ValueError:
        return False
    return True


def decode_challenge(mechanism: str, text: bytes) -> bytes:
    """Decode the challenge in the text of a reply 334 (RFC 4954 section 4: base64 in one line).

    Some servers write prompts or errors in clear text, or text after the base64. If the mechanism
    does not use the challenge, such a text is returned unchanged.

    Args:
        mechanism: The name of the mechanism, in upper case.
        text: The text of the reply.

    Raises:
        PeerError: The text is not base64, and the mechanism uses the challenge or is unknown.
    """
    try:
        return _decode("challenge", text)
    except PeerError:
        if any(row.name == mechanism and not row.uses_challenge for row in MECHANISMS):
            return text
        raise


def sasl_mechanisms() -> list[tuple[str, int | None, int | None, bool, bool, bool]]:
    """Return the table of mechanisms: the first six fields of each `MechanismRow`."""
    return [row[:6] for row in MECHANISMS]


def _scram_plus(user: str, secret: Secret, algorithm: str) -> Scram:
    if secret.channel_binding is None:
        raise ValueError("the -PLUS mechanisms need a TLS connection")
    return Scram(user, secret.password, algorithm, secret.nonce, secret.channel_binding)


def _gs2_header(channel_binding: tuple[str, bytes] | None) -> tuple[bytes, bytes]:
    """Return the GS2 header (RFC 5801 section 4) and the data of the channel binding.

    The attribute `c=` of the client's final message contains both.
    """
    if channel_binding is None:
        return b"n,,", b""
    name, data = channel_binding
    if not isinstance(data, bytes):
        raise TypeError(f"the channel binding must be bytes, not {type(data).__name__}")
    if not re.fullmatch(rb"[A-Za-z0-9.-]+", _utf8("channel binding", name)):
        raise ValueError("the channel binding's name breaks RFC 5056")
    if not data:
        raise ValueError("the channel binding has no data")
    return f"p={name},,".encode(), data


def _attributes(message: bytes) -> dict[str, str]:
    """Parse the attributes of a SCRAM message, in order (RFC 5802 section 5.1)."""
    try:
        text = message.decode()
    except UnicodeDecodeError:
        raise PeerError("the server's SCRAM message is not UTF-8") from None
    attributes: dict[str, str] = {}
    for part in text.split(","):
        name, value = part[:1], part[2:]
        if part[1:2] != "=" or not (name.isascii() and name.isalpha()):
            raise PeerError("the server's SCRAM message is malformed")
        if not value or "\0" in value:
            raise PeerError("the server's SCRAM message is malformed")
        # RFC 5802 section 5.1: `m` announces a mandatory extension. This client supports no
        # extension, so it must end the exchange.
        if name == "m":
            raise PeerError("the server requires an unknown SCRAM extension")
        if name == "e":
            raise PeerError(f"the server reported an error: {_reason(value)}")
        if name in attributes:
            raise PeerError("the server's SCRAM message repeats an attribute")
        attributes[name] = value
    return attributes


def _reason(value: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in value[:MAX_REASON])


def _decode(what: str, text: bytes) -> bytes:
    """Decode base64, and refuse any form except the canonical one (RFC 5802 section 4)."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError:
        decoded = b""
    if base64.b64encode(decoded) != text:
        raise PeerError(f"the server's {what} is not base64")
    return decoded


def _iterations(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise PeerError("the server's iteration count is not a number")
    if len(text) > len(str(MAX_ITERATIONS)) or not MIN_ITERATIONS <= int(text) <= MAX_ITERATIONS:
        bounds = f"{MIN_ITERATIONS} and {MAX_ITERATIONS}"
        raise PeerError(f"the server's iteration count is not between {bounds}")
    return int(text)


def _escape(name: bytes) -> bytes:
    """Escape the delimiters `,` and `=` of a `saslname` (RFC 5801 section 4)."""
    return name.replace(b"=", b"=3D").replace(b",", b"=2C")


def _utf8(what: str, text: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"the {what} must be a str, not {type(text).__name__}")
    try:
        return str.encode(text)
    except UnicodeEncodeError:
        pass
    # Raise the ValueError outside the `except` block. Inside the block, Python would store the
    # UnicodeEncodeError as the context of the ValueError. The UnicodeEncodeError contains the text,
    # which may be a password.
    raise ValueError(f"the {what} is not valid Unicode")


def _without_nul(what: str, text: str) -> bytes:
    encoded = _utf8(what, text)
    if b"\0" in encoded:
        raise ValueError(f"the {what} holds a NUL character")
    return encoded


def _without_control(what: str, text: str) -> bytes:
    """Encode a text and refuse control characters.

    The control character 0x01 ends a field in the response of a bearer mechanism. A text with 0x01
    could therefore add a field.
    """
    encoded = _without_nul(what, text)
    if any(byte < 0x20 or byte == 0x7F for byte in encoded):
        raise ValueError(f"the {what} holds a control character")
    return encoded


def _refuse_empty(what: str, text: str) -> None:
    if not text:
        raise ValueError(f"the {what} is empty")


def _bearer(token: str) -> bytes:
    encoded = _without_control("token", token)
    _refuse_empty("token", token)
    return b"auth=Bearer " + encoded


def _is_printable(encoded: bytes) -> bool:
    return all(0x21 <= byte <= 0x7E for byte in encoded)


_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def _saslprep(what: str, text: str, *, unassigned: bool) -> str:
    """Prepare a text by RFC 4013, so that different encodings of the same text become equal.

    Args:
        what: The name of the text in an error message. The message never quotes the text.
        text: The text.
        unassigned: Whether code points that Unicode 3.2 does not assign are allowed. RFC 5802
            section 5.1 allows them in a query (the user), but not in a stored string (the
            password).
    """
    encoded = _without_nul(what, text)
    if all(0x20 <= byte <= 0x7E for byte in encoded):
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c
        for c in text
        if stringprep.in_table_c12(c) or not stringprep.in_table_b1(c)
    )
    prepared = _normalise(mapped)
    if (
        any(prohibits(c) for c in prepared for prohibits in _PROHIBITED)
        or (not unassigned and any(map(stringprep.in_table_a1, prepared)))
        or not _is_one_way(prepared)
    ):
        raise ValueError(f"the {what} holds characters that SASLprep (RFC 4013) forbids")
    return prepared


def _normalise(text: str) -> str:
    """Apply NFKC of Unicode 3.2 (RFC 4013 section 2.2).

    A code point that Unicode 3.2 does not assign stays unchanged. It does not combine with its
    neighbours, so the text before it and the text after it are normalised separately.
    """
    done, run = "", ""
    for c in text:
        if stringprep.in_table_a1(c):
            done, run = done + unicodedata.ucd_3_2_0.normalize("NFKC", run) + c, ""
        else:
            run += c
    return done + unicodedata.ucd_3_2_0.normalize("NFKC", run)


def _is_one_way(text: str) -> bool:
    """Return whether a text obeys RFC 3454 section 6 (bidirectional text).

    A text with right-to-left characters must contain no left-to-right character. It must begin and
    end with a right-to-left character.
    """
    if not any(map(stringprep.in_table_d1, text)):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(map(stringprep.in_table_d2, text))
