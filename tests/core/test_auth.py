"""The SASL mechanisms of the core: examples of the RFCs, hostile servers, secrets, lockstep."""

import base64
import copy
import importlib
import json
import pickle
import sys
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rapidsmtp import auth
from rapidsmtp._pure import auth as pure
from rapidsmtp.errors import PeerError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "auth.json").read_text())

SECRET = "correct horse"
MAKERS: dict[str, Callable[[Any], Any]] = {
    "PLAIN": lambda core: core.Plain("tim", SECRET),
    "LOGIN": lambda core: core.Login("tim", SECRET),
    "CRAM-MD5": lambda core: core.CramMd5("tim", SECRET),
    "XOAUTH2": lambda core: core.XOAuth2("tim", SECRET),
    "OAUTHBEARER": lambda core: core.OAuthBearer("tim", SECRET),
    "SCRAM-SHA-256": lambda core: core.Scram("tim", SECRET, "sha256", "nonce"),
    "EXTERNAL": lambda core: core.External("tim"),
}


def to_bytes(written: Any) -> bytes | None:
    """Return the bytes of a vector: a text, base64, or a text and a number of repetitions."""
    if written is None or isinstance(written, str):
        return None if written is None else written.encode()
    if "base64" in written:
        return base64.b64decode(written["base64"], validate=True)
    return str(written["repeat"]).encode() * int(written["times"])


def made(core: Any, vector: dict[str, Any]) -> Any:
    arguments = dict(vector["arguments"])
    if "channel_binding" in arguments:
        name, data = arguments["channel_binding"]
        arguments["channel_binding"] = (name, to_bytes(data))
    return getattr(core, vector["class"])(**arguments)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['class']}: {v['about']}")
def test_each_mechanism_gives_the_steps_of_its_vectors(
    core: ModuleType, vector: dict[str, Any]
) -> None:
    if "misuse" in vector:
        with pytest.raises(ValueError) as refusal:
            made(core, vector)
        assert (type(refusal.value), str(refusal.value)) == (ValueError, vector["misuse"])
        return
    exchange = made(core, vector)
    assert exchange.name == vector["name"]
    for step in vector["steps"]:
        error = ValueError if "misuse" in step else PeerError if "peer" in step else None
        if error is None:
            assert exchange.respond(to_bytes(step["challenge"])) == to_bytes(step["response"])
            continue
        with pytest.raises(error) as raised:
            exchange.respond(to_bytes(step["challenge"]))
        assert (type(raised.value), raised.value.args) == (
            error,
            (step.get("misuse") or step["peer"],),
        )
    assert exchange.complete is vector["complete"]


@pytest.mark.parametrize("mechanism", [row[0] for row in pure.sasl_mechanisms()] + ["X-NEW", ""])
@pytest.mark.parametrize(
    "text",
    [b"Username:", b"PDE+ more", b"PDE+\nPDE+", b"PDE", b"PDF=", b"PDE+=", b"=", b"\xff", b"P DE+"],
)
def test_a_challenge_that_is_not_base64(core: ModuleType, mechanism: str, text: bytes) -> None:
    if mechanism in ("PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER", "EXTERNAL"):
        assert core.decode_challenge(mechanism, text) == text
    else:
        with pytest.raises(PeerError, match="challenge is not base64"):
            core.decode_challenge(mechanism, text)


@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5", "SCRAM-SHA-256-PLUS", "X-NEW"])
def test_base64_is_decoded(core: ModuleType, mechanism: str) -> None:
    assert core.decode_challenge(mechanism, b"PDE+") == b"<1>"
    assert core.decode_challenge(mechanism, b"") == b""


def test_the_maximum_number_of_iterations_is_accepted() -> None:
    # This test runs only in pure Python, because a debug build of the compiled backend needs 30
    # seconds for these iterations.
    exchange = pure.Scram("user", "pencil", "sha1", "n")
    exchange.respond(None)
    response = exchange.respond(b"r=nx,s=QQ==,i=1000000")
    assert response is not None and response.startswith(b"c=biws,r=nx,p=")


def test_other_threads_run_while_the_password_is_salted(core: ModuleType) -> None:
    exchange = core.Scram("user", "pencil", "sha256", "n")
    exchange.respond(None)
    seen: list[str] = []
    gate = threading.Lock()
    gate.acquire()

    def run() -> None:
        gate.acquire()
        seen.append("ran")

    thread = threading.Thread(target=run)
    thread.start()
    interval = sys.getswitchinterval()
    # With such a long switch interval, another thread can run only if this thread releases the
    # interpreter's lock.
    sys.setswitchinterval(1000)
    try:
        gate.release()
        exchange.respond(b"r=nx,s=QQ==,i=50000")
        ran = list(seen)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert ran == ["ran"]


def test_peer_error_is_one_class(core: ModuleType) -> None:
    assert core.PeerError is PeerError


def test_the_table_names_the_classes(core: ModuleType) -> None:
    names = [name for name, *_ in core.sasl_mechanisms()]
    assert len(set(names)) == len(names)
    assert set(MAKERS) <= set(names)
    public = [getattr(auth, name) for name in auth.__all__]
    assert {each.mechanism for each in public if hasattr(each, "mechanism")} == set(names)


def test_the_ranks_of_the_table_are_an_order(core: ModuleType) -> None:
    for column in (1, 2):
        ranks = [row[column] for row in core.sasl_mechanisms() if row[column] is not None]
        assert sorted(ranks) == list(range(1, len(ranks) + 1))


@pytest.mark.parametrize("row", pure.MECHANISMS, ids=lambda row: row.name)
def test_a_row_starts_an_exchange_with_its_name(row: pure.MechanismRow) -> None:
    binding = ("tls-exporter", b"data") if row.needs_channel_binding else None
    exchange = row.begin("tim", pure.Secret(SECRET, "nonce", binding, "mx.example", 587))
    assert exchange.name == row.name


@pytest.mark.parametrize("mechanism", MAKERS)
def test_each_mechanism_is_an_exchange_with_its_name(core: ModuleType, mechanism: str) -> None:
    exchange = MAKERS[mechanism](core)
    assert isinstance(exchange, core.Exchange)
    assert exchange.name == mechanism
    assert exchange.complete is False


@pytest.mark.parametrize("mechanism", MAKERS)
def test_a_repr_contains_no_secret(core: ModuleType, mechanism: str) -> None:
    exchange = MAKERS[mechanism](core)
    exchange.respond(None)
    shown = f"{exchange!r} {exchange!s}"
    assert SECRET not in shown
    assert base64.b64encode(SECRET.encode()).decode().rstrip("=") not in shown


@pytest.mark.parametrize("mechanism", MAKERS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_exchange_cannot_be_pickled(core: ModuleType, mechanism: str, protocol: int) -> None:
    with pytest.raises(TypeError, match=r"^an authentication exchange cannot be pickled"):
        pickle.dumps(MAKERS[mechanism](core), protocol)
    with pytest.raises(TypeError, match=r"^an authentication exchange cannot be pickled"):
        copy.copy(MAKERS[mechanism](core))


@pytest.mark.parametrize("class_name", ["Plain", "Login", "CramMd5", "Scram", "XOAuth2"])
@pytest.mark.parametrize("secret", ["hunter2\0", "hunter2\udc80", b"hunter2", "hunter2\x07"])
def test_an_error_does_not_quote_the_secret(core: ModuleType, class_name: str, secret: Any) -> None:
    rest = ("sha1", "nonce") if class_name == "Scram" else ()
    try:
        getattr(core, class_name)("tim", secret, *rest)
    except (ValueError, TypeError) as error:
        shown = [repr(error), str(error), repr(vars(error))]
        # No exception is chained, because a chained exception would contain the secret.
        assert error.__context__ is None
        assert not any("hunter2" in text for text in shown)
    else:
        assert secret == "hunter2\x07" and class_name in ("Plain", "Login", "CramMd5")


def test_a_lone_surrogate_is_the_callers_fault(core: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^the password is not valid Unicode$") as refusal:
        core.Plain("tim", "\udc80")
    assert type(refusal.value) is ValueError


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda core: core.Plain("tim", 5), "the password must be a str, not int"),
        (lambda core: core.Plain("tim", "x", None), "the authzid must be a str, not NoneType"),
        (lambda core: core.Login(b"tim", "x"), "the user must be a str, not bytes"),
        (lambda core: core.XOAuth2("tim", None), "the token must be a str, not NoneType"),
        (lambda core: core.OAuthBearer("tim", "t", 1), "the host must be a str, not int"),
        (lambda core: core.OAuthBearer("tim", "t", "h", "1"), "the port must be an int, not str"),
        (lambda core: core.Scram("tim", "x", "sha1", b"n"), "the nonce must be a str, not bytes"),
        (lambda core: core.Scram("t", "x", "sha1", "n", ("a", "b")), "must be bytes, not str"),
        (lambda core: core.Plain("t", "x").respond("text"), "challenge must be bytes, not str"),
    ],
)
def test_a_wrong_type_raises_a_type_error(
    core: ModuleType, make: Callable[[Any], Any], text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        make(core)


def test_a_port_beyond_64_bits_is_refused(core: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^the port is not between 0 and 65535$"):
        core.OAuthBearer("tim", "t", port=1 << 70)


# Both backends in lockstep.


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "gives", call()
    except (ValueError, PeerError) as error:
        return type(error).__name__, str(error)


def native() -> ModuleType:
    return importlib.import_module("rapidsmtp._native")


_texts = st.one_of(st.text(max_size=8), st.text("ab,=\0\1 é\u00ad\u05d0", max_size=6))
# Random combinations of valid fragments reach more states than random bytes.
_fragments = st.sampled_from(
    [
        *[
            b"r=nonce",
            b"r=nonce2",
            b"s=",
            b"s=QSXC",
            b"i=4096",
            b"i=4097",
            b"v=",
            b"v=AAAA",
            b"e=x",
        ],
        *[
            b",",
            b"m=1",
            b"x=y",
            b"=",
            b"\0",
            b"\xff",
            b"\xc3\xa9",
            b"i=1",
            b"i=10000000",
            b"QQ==",
            b"1",
        ],
    ]
)
_challenges = st.one_of(
    st.none(),
    st.just(b""),
    st.binary(max_size=12),
    st.lists(_fragments, max_size=7).map(b",".join),
    st.lists(_fragments, max_size=7).map(b"".join),
    st.just(b"r=nonce2,s=QSXC,i=4096"),
)


@pytest.mark.rust
@given(
    st.sampled_from(["Plain", "Login", "CramMd5", "XOAuth2", "OAuthBearer", "External", "Scram"]),
    st.tuples(_texts, _texts, _texts, st.integers(-1, 70000)),
    st.sampled_from([None, ("tls-unique", b"data"), ("x y", b"data"), ("tls-unique", b"")]),
    st.lists(_challenges, max_size=5),
)
def test_both_backends_give_equal_exchanges(
    class_name: str,
    given_arguments: tuple[str, str, str, int],
    binding: tuple[str, bytes] | None,
    challenges: list[bytes | None],
) -> None:
    user, secret, third, port = given_arguments
    arguments: tuple[Any, ...] = {
        "Plain": (user, secret, third),
        "OAuthBearer": (user, secret, third, port),
        "External": (user,),
        "Scram": (user, secret, "sha1", third if port % 2 else "nonce", binding),
    }.get(class_name, (user, secret))
    first = outcome(lambda: getattr(native(), class_name)(*arguments))
    second = outcome(lambda: getattr(pure, class_name)(*arguments))
    if "gives" not in (first[0], second[0]):
        assert first == second
        return
    (_, rust), (_, python) = first, second
    for challenge in challenges:
        assert outcome(lambda: rust.respond(challenge)) == outcome(  # noqa: B023
            lambda: python.respond(challenge)  # noqa: B023
        )
        assert (rust.name, rust.complete) == (python.name, python.complete)


_unruly = "".join(
    c
    for c in map(chr, range(0x110000))
    if unicodedata.combining(c) or unicodedata.decomposition(c) or unicodedata.category(c) == "Cf"
)


@pytest.mark.rust
@given(st.one_of(st.text(max_size=6), st.text(_unruly, max_size=6)), st.booleans())
@example("\u05d0\u2800\u05d0", False)
@example("\U00011099\U000110ba", False)
def test_both_backends_prepare_strings_equally(text: str, is_password: bool) -> None:
    arguments = ("u", text) if is_password else (text, "p")
    assert outcome(lambda: native().Scram(*arguments, "sha1", "n").respond(None)) == outcome(
        lambda: pure.Scram(*arguments, "sha1", "n").respond(None)
    )
