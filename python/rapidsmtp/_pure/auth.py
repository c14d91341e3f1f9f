"""The client's side of SASL for AUTH (RFC 4954): challenges in, responses out.

Each class is one exchange of one mechanism. What goes in and comes out is decoded: base64, the
code 334 and the `*` that cancels belong to the caller. There is no clock and no randomness here,
so that both halves answer the same and the RFCs' own examples are the tests: the nonce is an
argument.

Who is to blame decides the error: an argument that breaks a mechanism's grammar is `ValueError`
before anything is sent, a challenge that breaks it is `PeerError`, after which the exchange is
dead. No text quotes a user, password or token.
"""

import base64
import hashlib
import hmac
import re
import stringprep
import unicodedata
from typing import NoReturn

from rapidsmtp._pure.error import PeerError

# RFC 4954 section 4 sets 12288 octets as the longest line of an exchange.
MAX_CHALLENGE = 12 * 1024
# RFC 5802 section 5.1: at least 4096. The upper bound keeps a hostile server from making its
# client work for minutes: a million rounds are about half a second.
MIN_ITERATIONS = 4096
MAX_ITERATIONS = 1_000_000
# What the server says in `e=` is shown to people: no more of it than this.
MAX_REASON = 100


class Exchange:
    """One run of a mechanism: `respond` is called once for the start and once per challenge.

    Attributes:
        name: The mechanism's name as EHLO lists it.
    """

    __slots__ = ("_begun", "_failed", "_taken", "name")

    # How many responses the mechanism can give, and after how many the client has seen all that
    # it must see. Between the two lie the responses that acknowledge a refusal.
    _turns = 1
    _needed = 1
    # The server speaks first, so there is no initial response.
    _server_first = False

    def __init__(self, name: str) -> None:
        self.name = name
        self._begun = False
        self._failed = False
        self._taken = 0

    @property
    def complete(self) -> bool:
        """Whether the client needs nothing more; success before that must not be believed."""
        return not self._failed and self._taken >= self._needed

    def respond(self, challenge: bytes | None) -> bytes | None:
        """Answer a challenge.

        Where the client speaks first and sends no initial response, the server asks for it by a
        challenge that is empty (RFC 4954 section 4); what such a one says is not looked at.

        Args:
            challenge: The decoded challenge; `None` asks for the initial response.

        Returns:
            The response, not yet encoded; `None` if there is no initial response.

        Raises:
            ValueError: `None` came after the exchange had begun.
            PeerError: The challenge breaks the rules, or there should have been none.
        """
        if challenge is None:
            if self._begun:
                raise ValueError("the exchange has already begun")
            self._begun = True
            return None if self._server_first else self._take_turn(b"")
        if not isinstance(challenge, bytes):
            raise TypeError(f"the challenge must be bytes, not {type(challenge).__name__}")
        self._begun = True
        return self._take_turn(challenge)

    def _take_turn(self, challenge: bytes) -> bytes:
        try:
            if self._failed or self._taken == self._turns:
                raise PeerError("the server sent a challenge when none was due")
            if len(challenge) > MAX_CHALLENGE:
                raise PeerError(f"the server's challenge is longer than {MAX_CHALLENGE} octets")
            response = self._turn(self._taken, challenge)
        except PeerError:
            self._failed = True
            raise
        self._taken += 1
        return response

    def _turn(self, index: int, challenge: bytes) -> bytes:
        raise NotImplementedError

    def __reduce__(self) -> NoReturn:
        raise TypeError("an authentication exchange cannot be pickled: it holds secrets")


class Plain(Exchange):
    """PLAIN (RFC 4616): everything in one response."""

    __slots__ = ("_response",)

    def __init__(self, user: str, password: str, authzid: str = "") -> None:
        super().__init__("PLAIN")
        octets = (_without_nul("user", user), _without_nul("password", password))
        _refuse_empty("user", user)
        self._response = b"\0".join((_without_nul("authzid", authzid), *octets))

    def _turn(self, index: int, challenge: bytes) -> bytes:
        return self._response


class Login(Exchange):
    """LOGIN (draft-murchison-sasl-login): the user, then the password, whatever is asked."""

    __slots__ = ("_responses",)
    _turns = 2
    _needed = 2

    def __init__(self, user: str, password: str) -> None:
        super().__init__("LOGIN")
        self._responses = (_without_nul("user", user), _without_nul("password", password))

    def _turn(self, index: int, challenge: bytes) -> bytes:
        return self._responses[index]


class CramMd5(Exchange):
    """CRAM-MD5 (RFC 2195): a keyed digest of the challenge."""

    __slots__ = ("_password", "_user")
    _server_first = True

    def __init__(self, user: str, password: str) -> None:
        super().__init__("CRAM-MD5")
        self._user = _without_nul("user", user)
        self._password = _without_nul("password", password)

    def _turn(self, index: int, challenge: bytes) -> bytes:
        digest = hmac.new(self._password, challenge, "md5").hexdigest()
        return self._user + b" " + digest.encode()


class XOAuth2(Exchange):
    """XOAUTH2, as Google documents it; a refusal comes as a challenge and wants an empty answer."""

    __slots__ = ("_response",)
    _turns = 2

    def __init__(self, user: str, token: str) -> None:
        super().__init__("XOAUTH2")
        octets = _without_control("user", user), _bearer(token)
        _refuse_empty("user", user)
        self._response = b"user=%b\1%b\1\1" % octets

    def _turn(self, index: int, challenge: bytes) -> bytes:
        return b"" if index else self._response


class OAuthBearer(Exchange):
    """OAUTHBEARER (RFC 7628); a refusal comes as a challenge and wants a lone 0x01."""

    __slots__ = ("_response",)
    _turns = 2

    def __init__(self, user: str, token: str, host: str = "", port: int = 0) -> None:
        super().__init__("OAUTHBEARER")
        name = _escape(_without_control("user", user))
        header = b"n,a=%b," % name if name else b"n,,"
        fields = [header, _bearer(token)]
        place = _octets("host", host)
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

    def _turn(self, index: int, challenge: bytes) -> bytes:
        return b"\1" if index else self._response


class External(Exchange):
    """EXTERNAL (RFC 4422 appendix A): the server knows the client already, mostly by TLS."""

    __slots__ = ("_response",)

    def __init__(self, authzid: str = "") -> None:
        super().__init__("EXTERNAL")
        self._response = _without_nul("authzid", authzid)

    def _turn(self, index: int, challenge: bytes) -> bytes:
        return self._response


class Scram(Exchange):
    """SCRAM-SHA-1 (RFC 5802), SCRAM-SHA-256 (RFC 7677), and their -PLUS forms.

    The password never leaves; the server proves in the last message that it knows it too, and
    only then is the exchange complete. With a channel binding a man in the middle of the TLS
    connection cannot pass the exchange on.
    """

    __slots__ = ("_algorithm", "_bare", "_binding", "_nonce", "_password", "_signature")
    _turns = 3
    _needed = 3

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
        prepared = _saslprep("user", user, unassigned=True)
        _refuse_empty("user", prepared)
        self._password = _saslprep("password", password, unassigned=False).encode()
        if not (nonce and _is_printable(_octets("nonce", nonce))) or "," in nonce:
            raise ValueError("the nonce must be printable ASCII without spaces and commas")
        self._nonce = nonce
        self._bare = b"n=%b,r=%b" % (_escape(prepared.encode()), nonce.encode())
        self._binding = _gs2_header(channel_binding)
        self._signature = b""

    def _turn(self, index: int, challenge: bytes) -> bytes:
        if index == 0:
            return self._binding[0] + self._bare
        if index == 1:
            return self._prove(challenge)
        self._verify(challenge)
        return b""

    def _prove(self, challenge: bytes) -> bytes:
        """Answer the server's first message by the proof of RFC 5802 section 3."""
        attributes = _attributes(challenge)
        if list(attributes)[:3] != ["r", "s", "i"]:
            raise PeerError("the server's first SCRAM message does not begin with r=, s= and i=")
        nonce = attributes["r"]
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise PeerError("the server's nonce does not extend the client's")
        if not _is_printable(nonce.encode()):
            raise PeerError("the server's nonce is not printable ASCII")
        salt = _decode("salt", attributes["s"])
        iterations = _iterations(attributes["i"])

        unproven = b"c=%b,r=%b" % (base64.b64encode(b"".join(self._binding)), nonce.encode())
        message = b",".join((self._bare, challenge, unproven))
        salted = hashlib.pbkdf2_hmac(self._algorithm, self._password, salt, iterations)
        client_key = self._code(salted, b"Client Key")
        stored_key = hashlib.new(self._algorithm, client_key).digest()
        client_signature = self._code(stored_key, message)
        self._signature = self._code(self._code(salted, b"Server Key"), message)
        proof = bytes(a ^ b for a, b in zip(client_key, client_signature, strict=True))
        return b"%b,p=%b" % (unproven, base64.b64encode(proof))

    def _verify(self, challenge: bytes) -> None:
        """Believe the server's last message only if it knows the password too."""
        attributes = _attributes(challenge)
        if list(attributes)[:1] != ["v"]:
            raise PeerError("the server's last SCRAM message does not begin with v=")
        if not hmac.compare_digest(_decode("signature", attributes["v"]), self._signature):
            raise PeerError("the server's signature is wrong: it does not know the password")

    def _code(self, key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, self._algorithm)


def _gs2_header(channel_binding: tuple[str, bytes] | None) -> tuple[bytes, bytes]:
    """The header of RFC 5801 and, after it, the data that the connection is bound by."""
    if channel_binding is None:
        return b"n,,", b""
    name, data = channel_binding
    if not isinstance(data, bytes):
        raise TypeError(f"the channel binding must be bytes, not {type(data).__name__}")
    if not re.fullmatch(rb"[A-Za-z0-9.-]+", _octets("channel binding", name)):
        raise ValueError("the channel binding's name breaks RFC 5056")
    if not data:
        raise ValueError("the channel binding has no data")
    return f"p={name},,".encode(), data


def _attributes(message: bytes) -> dict[str, str]:
    """The attributes of a SCRAM message in their order (RFC 5802 section 5.1)."""
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
        if name == "m":
            raise PeerError("the server demands a SCRAM extension that is not known")
        if name == "e":
            raise PeerError(f"the server refused: {_reason(value)}")
        if name in attributes:
            raise PeerError("the server's SCRAM message repeats an attribute")
        attributes[name] = value
    return attributes


def _reason(value: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in value[:MAX_REASON])


def _decode(what: str, text: str) -> bytes:
    """Decode base64 that is canonical, as RFC 5802 section 4 wants it; nothing else."""
    try:
        octets = base64.b64decode(text, validate=True)
    except ValueError:
        octets = b""
    if base64.b64encode(octets).decode() != text:
        raise PeerError(f"the server's {what} is not base64")
    return octets


def _iterations(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise PeerError("the server's iteration count is not a number")
    if len(text) > len(str(MAX_ITERATIONS)) or not MIN_ITERATIONS <= int(text) <= MAX_ITERATIONS:
        bounds = f"{MIN_ITERATIONS} and {MAX_ITERATIONS}"
        raise PeerError(f"the server's iteration count is not between {bounds}")
    return int(text)


def _escape(name: bytes) -> bytes:
    """A `saslname` of RFC 5801: `,` and `=` would end it."""
    return name.replace(b"=", b"=3D").replace(b",", b"=2C")


def _octets(what: str, text: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"the {what} must be a str, not {type(text).__name__}")
    try:
        return str.encode(text)
    except UnicodeEncodeError:
        pass
    # Raised out here: that error carries the whole text with it, and this may be a password.
    raise ValueError(f"the {what} is not valid Unicode")


def _without_nul(what: str, text: str) -> bytes:
    octets = _octets(what, text)
    if b"\0" in octets:
        raise ValueError(f"the {what} holds a NUL character")
    return octets


def _without_control(what: str, text: str) -> bytes:
    """Refuse 0x01 above all: it would end the field and begin another."""
    octets = _without_nul(what, text)
    if any(octet < 0x20 or octet == 0x7F for octet in octets):
        raise ValueError(f"the {what} holds a control character")
    return octets


def _refuse_empty(what: str, text: str) -> None:
    if not text:
        raise ValueError(f"the {what} is empty")


def _bearer(token: str) -> bytes:
    octets = _without_control("token", token)
    _refuse_empty("token", token)
    return b"auth=Bearer " + octets


def _is_printable(octets: bytes) -> bool:
    return all(0x21 <= octet <= 0x7E for octet in octets)


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
    """Prepare a text by RFC 4013, so that two ways to type it are one.

    RFC 5802 prepares the user as a query, in which code points that Unicode 3.2 did not assign
    may stand, and the password as a stored string, in which they may not.
    """
    octets = _without_nul(what, text)
    if all(0x20 <= octet <= 0x7E for octet in octets):
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
    """NFKC of Unicode 3.2, which knows nothing of a code point that it did not assign.

    Such a one neither changes nor joins its neighbours, so it parts the text into runs.
    """
    done, run = "", ""
    for c in text:
        if stringprep.in_table_a1(c):
            done, run = done + unicodedata.ucd_3_2_0.normalize("NFKC", run) + c, ""
        else:
            run += c
    return done + unicodedata.ucd_3_2_0.normalize("NFKC", run)


def _is_one_way(text: str) -> bool:
    """RFC 3454 section 6: text from right to left is so throughout, and at both ends."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(map(stringprep.in_table_d2, text))
