"""AUTH with unusual servers: the drop-in and the asyncio client, on both backends."""

import asyncio
import base64
import hashlib
import hmac
import smtplib
import threading
from collections.abc import Callable
from typing import Any

import pytest

import blocking
import rapidsmtp
from rapidsmtp import aio, auth
from server import TIMEOUT, Reply, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

USER, PASSWORD = "user", "pencil"


@pytest.fixture(params=[rapidsmtp, blocking], ids=["drop-in", "aio"])
def module(request: pytest.FixtureRequest) -> Any:
    """The module of the clients: the drop-in, or the asyncio clients as blocking clients."""
    return request.param


def connect(module: Any, server: Server) -> Any:
    client = module.SMTP(server.host, server.port, local_hostname="client.example", timeout=TIMEOUT)
    client.ehlo()
    return client


def encoded(text: str) -> bytes:
    return base64.b64encode(text.encode())


# A challenge that the mechanism does not use

PROMPTS = {
    "empty": b"334",
    "empty, with a space": b"334 ",
    "prompt in clear text": b"334 Username:",
    "words after the base64": b"334 VXNlcm5hbWU6 Please enter your name",
    "base64 without padding": b"334 VXNlcm5hbWU",
    "wrong trailing bits": b"334 VXNlcm5hbWV=",
    "no base64": b"334 !?*",
    "only padding": b"334 =",
    "not ASCII": b"334 Benutzername f\xfcr Sie",
    "several lines": b"334-VXNlcm5hbWU6\r\n334 go on",
    "several lines of base64": b"334-VXNlcm5h\r\n334 bWU6",
    "JSON": b'334 {"status":"401","schemes":"Bearer"}',
    "lower case": b"334 dXNlcm5hbWU6",
    "upper case": b"334 VVNFUk5BTUU6",
}
RESPONSES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "PLAIN": (lambda: auth.Plain(USER, PASSWORD), [f"\0{USER}\0{PASSWORD}"]),
    "LOGIN": (lambda: auth.Login(USER, PASSWORD), [USER, PASSWORD]),
    "XOAUTH2": (
        lambda: auth.XOAuth2(USER, "t0ken"), [f"user={USER}\1auth=Bearer t0ken\1\1"],
    ),
    "OAUTHBEARER": (
        lambda: auth.OAuthBearer(USER, "t0ken"), [f"n,a={USER},\1auth=Bearer t0ken\1\1"],
    ),
    "EXTERNAL": (lambda: auth.External(USER), [USER]),
}  # fmt: skip


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("mechanism", [*RESPONSES, "login", "Plain"])
@pytest.mark.parametrize("initial", [True, False])
def test_a_mechanism_ignores_a_challenge_that_it_does_not_use(
    module: Any, mechanism: str, prompt: str, initial: bool
) -> None:
    make, responses = RESPONSES[mechanism.upper()]
    sent: list[bytes] = []
    left = responses[1:] if initial else responses

    def respond(line: bytes) -> bytes:
        sent.append(line)
        return PROMPTS[prompt] if len(sent) < len(left) else b"235 2.7.0 welcome"

    first = PROMPTS[prompt] if left else b"235 2.7.0 welcome"
    script = SMTPScript([f"AUTH {mechanism}"], {"auth": first, "response": respond})
    with Server(script) as server:
        client = connect(module, server)
        assert client.auth(mechanism, make(), initial_response_ok=initial)[0] == 235
        client.close()
    assert sent == [encoded(each) for each in left]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN", "X-NEW LOGIN PLAIN"])
@pytest.mark.parametrize("initial", [True, False])
def test_a_login_ignores_the_prompts(
    module: Any, mechanisms: str, prompt: str, initial: bool
) -> None:
    last = encoded(PASSWORD), encoded(f"\0{USER}\0{PASSWORD}")

    def reply(line: bytes) -> bytes:
        return b"235 2.7.0 welcome" if line.endswith(last) else PROMPTS[prompt]

    script = SMTPScript([f"AUTH {mechanisms}"], {"auth": reply, "response": reply})
    with Server(script) as server:
        client = connect(module, server)
        assert client.login(USER, PASSWORD, initial_response_ok=initial)[0] == 235
        client.close()


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize(
    "error",
    [
        b'334 {"status":"400","schemes":"Bearer","scope":"https://mail.example/"}',
        b'334-{"status":"400",\r\n334 "schemes":"Bearer"}',
        b"334 eyJzdGF0dXMiOiI0MDAifQ==",
        b"334 eyJzdGF0dXMiOiI0MDAifQ== invalid token",
        b"334",
    ],
)
@pytest.mark.parametrize("is_object", [True, False])
def test_an_error_in_a_challenge_does_not_hide_the_refusal(
    module: Any, mechanism: str, error: bytes, is_object: bool
) -> None:
    acknowledgement = b"AQ==" if mechanism == "OAUTHBEARER" else b""
    script = SMTPScript(
        [f"AUTH {mechanism}"], {"auth": error, "response": b"535 5.7.8 the token has expired"}
    )

    def function(challenge: bytes | None = None) -> str:
        return "token" if challenge is None else base64.b64decode(acknowledgement).decode()

    with Server(script) as server:
        client = connect(module, server)
        authobject = RESPONSES[mechanism][0]() if is_object else function
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            client.auth(mechanism, authobject)
        assert caught.value.args == (535, b"5.7.8 the token has expired")
        assert client.noop()[0] == 250
        client.close()
    assert b"\r\n" + acknowledgement + b"\r\nnoop\r\n" in server.wire()


SCRAM: dict[str, Callable[[], Any]] = {
    "SCRAM-SHA-1": lambda: auth.ScramSHA1(USER, PASSWORD),
    "SCRAM-SHA-256": lambda: auth.ScramSHA256(USER, PASSWORD),
    "SCRAM-SHA-1-PLUS": lambda: auth.ScramSHA1Plus(USER, PASSWORD, TLSConnection()),
    "SCRAM-SHA-256-PLUS": lambda: auth.ScramSHA256Plus(USER, PASSWORD, TLSConnection()),
}


class TLSConnection:
    """A TLS connection with the channel binding `tls-unique`."""

    def version(self) -> str:
        return "TLSv1.2"

    def getpeercert(self, binary_form: bool = False) -> object:
        return b""

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes:
        return b"binding"


@pytest.mark.parametrize(
    "prompt",
    [
        "prompt in clear text",
        "words after the base64",
        "base64 without padding",
        "wrong trailing bits",
        "only padding",
        "several lines of base64",
    ],
)
@pytest.mark.parametrize("mechanism", ["CRAM-MD5", *SCRAM, "X-NEW"])
def test_other_mechanisms_need_base64(module: Any, mechanism: str, prompt: str) -> None:
    authobject = {
        **SCRAM,
        "CRAM-MD5": lambda: auth.CramMD5(USER, PASSWORD),
        "X-NEW": lambda: lambda challenge=None: "response",
    }[mechanism]()
    replies = {"auth": PROMPTS[prompt], "response": b"501 5.5.2 cancelled"}
    with Server(SMTPScript([f"AUTH {mechanism}"], replies)) as server:
        client = connect(module, server)
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            client.auth(mechanism, authobject)
        assert caught.value.args == (334, b"the server's challenge is not base64")
        assert client.noop()[0] == 250
        client.close()
    assert server.wire().endswith(b"\r\n*\r\nnoop\r\n")


# The proof of the server in SCRAM


class ScramServer:
    """The server's side of SCRAM (RFC 5802), without a check of the client's proof."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._messages: list[bytes] = []

    def first(self, line: bytes) -> bytes:
        """Return the reply to the line with the client's first message."""
        message = base64.b64decode(line.split()[-1])
        bare = message.split(b",", 2)[2]
        self._messages = [bare, bare.partition(b"r=")[2].join([b"r=", b"server,s=c2FsdA==,i=4096"])]
        return b"334 " + base64.b64encode(self._messages[1])

    def signature(self, line: bytes) -> bytes:
        """Return the reply to the line with the client's proof."""
        unproven = base64.b64decode(line).rpartition(b",p=")[0]
        salted = hashlib.pbkdf2_hmac(self._algorithm, PASSWORD.encode(), b"salt", 4096)
        key = hmac.digest(salted, b"Server Key", self._algorithm)
        signature = hmac.digest(key, b",".join([*self._messages, unproven]), self._algorithm)
        return b"334 " + encoded("v=" + base64.b64encode(signature).decode())


def scram_server(mechanism: str) -> ScramServer:
    return ScramServer("sha1" if mechanism.startswith("SCRAM-SHA-1") else "sha256")


@pytest.mark.parametrize("code", [235, 250, 252, 354, 503])
@pytest.mark.parametrize("after", ["AUTH", "the first message", "the proof"])
@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("mechanism", SCRAM)
def test_scram_needs_the_signature_of_the_server(
    module: Any, mechanism: str, initial: bool, after: str, code: int
) -> None:
    final = b"%d 2.7.0 welcome" % code
    replies: list[Reply] = [] if initial or after == "AUTH" else [b"334 "]
    if after == "the proof":
        replies.append(scram_server(mechanism).first)
    auth_reply, *responses = [*replies, final]
    script = SMTPScript([f"AUTH {mechanism}"], {"auth": auth_reply, "response": responses})
    authobject = SCRAM[mechanism]()
    with Server(script) as server:
        client = connect(module, server)
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            client.auth(mechanism, authobject, initial_response_ok=initial)
        is_success = code in (235, 503)
        no_proof = b"the server did not prove that it knows the password"
        assert caught.value.args == (code, no_proof if is_success else b"2.7.0 welcome")
        assert not authobject.complete
        if is_success:
            assert not client.sock
        client.close()


@pytest.mark.parametrize("code", [235, 503])
@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("mechanism", SCRAM)
def test_the_proof_of_an_earlier_server_does_not_count(
    module: Any, mechanism: str, initial: bool, code: int
) -> None:
    authobject = SCRAM[mechanism]()
    proving = scram_server(mechanism)
    exchange = [proving.first, proving.signature, b"235 2.7.0 welcome"]
    auth_reply, *responses = exchange if initial else [b"334 ", *exchange]
    script = SMTPScript([f"AUTH {mechanism}"], {"auth": auth_reply, "response": responses})
    for _ in range(2):
        with Server(script) as server:
            client = connect(module, server)
            assert client.auth(mechanism, authobject, initial_response_ok=initial)[0] == 235
            assert authobject.complete
            client.close()
    with Server(SMTPScript([f"AUTH {mechanism}"], {"auth": b"%d welcome" % code})) as server:
        client = connect(module, server)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.auth(mechanism, authobject, initial_response_ok=initial)
        client.close()


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", *RESPONSES])
@pytest.mark.parametrize("initial", [True, False])
def test_503_is_a_success_of_the_other_mechanisms(
    module: Any, mechanism: str, initial: bool
) -> None:
    """RFC 4954 section 4: a 503 to AUTH means that the client is already authenticated."""
    makers = {name: make for name, (make, _) in RESPONSES.items()}
    makers["CRAM-MD5"] = lambda: auth.CramMD5(USER, PASSWORD)
    script = SMTPScript([f"AUTH {mechanism}"], {"auth": b"503 5.5.1 already authenticated"})
    with Server(script) as server:
        client = connect(module, server)
        for authobject in (makers[mechanism](), lambda challenge=None: "response"):
            reply = client.auth(mechanism, authobject, initial_response_ok=initial)
            assert reply == (503, b"5.5.1 already authenticated")
        client.close()


class Foreign:
    """A SCRAM object of another library: its attribute `complete` becomes true at the proof."""

    complete = False

    def __call__(self, challenge: bytes | None = None) -> str:
        return "first"


@pytest.mark.parametrize("code", [235, 503])
def test_an_incomplete_object_of_another_library_is_no_success(module: Any, code: int) -> None:
    with Server(SMTPScript(["AUTH SCRAM-SHA-256"], {"auth": b"%d ok" % code})) as server:
        client = connect(module, server)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.auth("SCRAM-SHA-256", Foreign())
        client.close()


# An auth object that fails in the exchange


@pytest.mark.parametrize("error", [ValueError("no MD5"), OSError("no keyring"), KeyError("user")])
def test_an_error_of_an_auth_object_cancels_the_exchange(module: Any, error: Exception) -> None:
    def authobject(challenge: bytes | None = None) -> None:
        if challenge is not None:
            raise error

    replies = {"auth": b"334 ", "response": b"501 5.7.0 cancelled"}
    with Server(SMTPScript(["AUTH PLAIN"], replies)) as server:
        client = connect(module, server)
        with pytest.raises(type(error)) as caught:
            client.auth("PLAIN", authobject)
        assert caught.value is error
        assert client.noop()[0] == 250
        client.close()
    assert server.wire().endswith(b"AUTH PLAIN\r\n*\r\nnoop\r\n")


def test_an_interrupt_of_an_auth_object_closes_the_connection(module: Any) -> None:
    def authobject(challenge: bytes | None = None) -> None:
        if challenge is not None:
            raise KeyboardInterrupt

    with Server(SMTPScript(["AUTH PLAIN"], {"auth": b"334 "})) as server:
        client = connect(module, server)
        with pytest.raises(KeyboardInterrupt):
            client.auth("PLAIN", authobject)
        assert not client.sock


# A Python without MD5, such as in FIPS mode


@pytest.fixture
def without_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    original = hmac.new

    def new(key: bytes, msg: Any = None, digestmod: Any = "") -> Any:
        if digestmod == "md5":
            raise ValueError("[digital envelope routines] unsupported")
        return original(key, msg, digestmod)

    monkeypatch.setattr(hmac, "new", new)


@pytest.mark.usefixtures("without_md5")
def test_a_login_without_md5_uses_the_next_mechanism(module: Any) -> None:
    with Server(SMTPScript(["AUTH CRAM-MD5 PLAIN"])) as server:
        client = connect(module, server)
        assert client.login(USER, PASSWORD)[0] == 235
        client.close()
    assert b"CRAM-MD5" not in server.wire() and b"AUTH PLAIN " in server.wire()
    with Server(SMTPScript(["AUTH CRAM-MD5"])) as server:
        client = connect(module, server)
        with pytest.raises(smtplib.SMTPException, match="No suitable authentication method"):
            client.login(USER, PASSWORD)
        client.close()
    assert b"AUTH" not in server.wire()


@pytest.mark.usefixtures("without_md5")
@pytest.mark.parametrize("initial", [True, False])
def test_cram_md5_without_md5_leaves_no_exchange_open(module: Any, initial: bool) -> None:
    replies = {"auth": b"334 PDE+", "response": b"501 5.7.0 cancelled"}
    with Server(SMTPScript(["AUTH CRAM-MD5"], replies)) as server:
        client = connect(module, server)
        client.user, client.password = USER, PASSWORD
        error = smtplib.SMTPException if initial else ValueError
        with pytest.raises(error, match="MD5" if initial else "unsupported"):
            client.auth("CRAM-MD5", client.auth_cram_md5, initial_response_ok=initial)
        assert client.noop()[0] == 250
        client.close()
    assert (b"AUTH" in server.wire()) is not initial


# The asyncio client


@pytest.mark.parametrize("mechanisms", ["plain", "Login", "cram-md5 LOGIN"])
def test_a_mechanism_in_lower_case_is_known(mechanisms: str) -> None:
    async def log_in(server: Server) -> int:
        client = aio.SMTP(server.host, server.port, start_tls=False, allow_plaintext_auth=True)
        async with client:
            return (await client.login(USER, PASSWORD))[0]

    with Server(SMTPScript([f"AUTH {mechanisms}"])) as server:
        assert asyncio.run(log_in(server)) == 235
    assert b"AUTH " + mechanisms.split()[0].upper().encode() in server.wire()


class Waiting(auth.ScramSHA256):
    """An auth object that returns its responses only after the event loop has run a callback."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(USER, PASSWORD)
        self._loop = loop

    def __call__(self, challenge: bytes | None = None) -> Any:
        if challenge is not None:
            ran = threading.Event()
            self._loop.call_soon_threadsafe(ran.set)
            assert ran.wait(TIMEOUT), "the event loop is blocked"
        return super().__call__(challenge)


def test_scram_does_not_block_the_event_loop() -> None:
    proving = ScramServer("sha256")
    responses = [proving.signature, b"235 2.7.0 welcome"]
    script = SMTPScript(["AUTH SCRAM-SHA-256"], {"auth": proving.first, "response": responses})

    async def log_in(server: Server) -> int:
        client = aio.SMTP(server.host, server.port, start_tls=False, allow_plaintext_auth=True)
        async with client:
            authobject = Waiting(asyncio.get_running_loop())
            return (await client.auth("SCRAM-SHA-256", authobject))[0]

    with Server(script) as server:
        assert asyncio.run(log_in(server)) == 235


def test_a_cancelled_computation_closes_the_connection() -> None:
    started, may_end = threading.Event(), threading.Event()

    class Slow(auth.ScramSHA256):
        def __call__(self, challenge: bytes | None = None) -> Any:
            if challenge is not None:
                started.set()
                may_end.wait(TIMEOUT)
            return super().__call__(challenge)

    async def cancel(server: Server) -> None:
        client = aio.SMTP(server.host, server.port, start_tls=False, allow_plaintext_auth=True)
        await client.connect()
        task = asyncio.create_task(client.auth("SCRAM-SHA-256", Slow(USER, PASSWORD)))
        await asyncio.to_thread(started.wait, TIMEOUT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not client.is_connected
        may_end.set()

    with Server(
        SMTPScript(["AUTH SCRAM-SHA-256"], {"auth": ScramServer("sha256").first})
    ) as server:
        asyncio.run(cancel(server))
    assert server.wire().count(b"\r\n") == 2, "EHLO, AUTH"
