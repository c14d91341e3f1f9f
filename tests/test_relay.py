"""The URL of a relay: its permitted parts, and a one-line error for each fault."""

import pytest

from rapidsmtp import Sender, _backend
from rapidsmtp._models.relay_url import Password, Relay, parse_relay


def relay_of(url: str, password: Password | None = None) -> Relay:
    return parse_relay(url, password, mechanisms=_backend.sasl_mechanisms())


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAPIDSMTP_PASSWORD", raising=False)


@pytest.mark.parametrize(
    ("url", "relay"),
    [
        ("smtp://mx.example", Relay("smtp", "mx.example", 25)),
        ("smtp://mx.example:587", Relay("smtp", "mx.example", 587, starttls="required")),
        ("smtp://mx.example:2525", Relay("smtp", "mx.example", 2525)),
        ("smtp://[::1]:2525", Relay("smtp", "::1", 2525)),
        ("smtps://mx.example/", Relay("smtps", "mx.example", 465)),
        ("lmtp://mx.example", Relay("lmtp", "mx.example", 24)),
        ("lmtp:///run/mail%20box", Relay("lmtp", "", 24, "/run/mail box")),
        (
            "smtp://mx.example?starttls=opportunistic",
            Relay("smtp", "mx.example", 25, starttls="opportunistic"),
        ),
        ("smtp://mx.example:587?starttls=off", Relay("smtp", "mx.example", 587)),
        (
            "smtp://a%40b:c%3Ad@mx.example",
            Relay("smtp", "mx.example", 25, "", "required", "a@b", "c:d"),
        ),
        (
            "smtps://ann:geheim@mx.example?auth=XOAuth2",
            Relay("smtps", "mx.example", 465, "", "off", "ann", "geheim", "xoauth2"),
        ),
        (
            "smtps://mx.example?auth=external",
            Relay("smtps", "mx.example", 465, mechanism="external"),
        ),
    ],
)
def test_a_url_is_parsed(url: str, relay: Relay) -> None:
    assert relay_of(url) == relay


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "must begin with"),
        ("mx.example", "must begin with"),
        ("http://mx.example", "must begin with"),
        ("smtp://", "has no host"),
        ("smtp:///run/socket", "has no host"),
        ("lmtp:///", "has no host"),
        ("smtp://mx.example:0", "has port 0"),
        ("smtp://mx.example:99999", "wrong"),
        ("smtp://mx.example/inbox", "must end after the host"),
        ("smtp://mx.example#top", "must end after the host"),
        ("smtp://mx.example?tls=1", "unknown option 'tls'"),
        ("smtp://mx.example?starttls=maybe", "starttls=maybe"),
        ("smtps://mx.example?starttls=required", "not possible over smtps://"),
        ("smtp://ann:geheim@mx.example?auth=kerberos", "auth=kerberos"),
        ("smtp://ann:geheim#x@mx.example", "%23"),
        ("smtp://ann:x/geheim@mx.example", "%2F"),
        ("smtp://ann:7?geheim@mx.example", "%3F"),
        ("smtp://ann:7?starttls=geheim@mx.example", "%3F"),
        ("smtp://ann:geheim[@mx.example", "%5B"),
        ("smtp://mx.example?auth=plain", "needs a user"),
        ("smtp://mx.example?auth=oauthbearer", "RAPIDSMTP_PASSWORD"),
        ("smtp://ann@mx.example", "RAPIDSMTP_PASSWORD"),
    ],
)
def test_a_wrong_url_is_refused(url: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        relay_of(url)
    assert "geheim" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=fault):
        Sender(url)


def test_every_mechanism_may_be_named() -> None:
    for name, *_ in _backend.sasl_mechanisms():
        assert relay_of(f"smtps://ann:geheim@mx.example?auth={name}").mechanism == name.lower()


def test_the_password_comes_from_the_argument_the_url_or_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def token() -> str:
        return "token"

    monkeypatch.setenv("RAPIDSMTP_PASSWORD", "environment")
    assert relay_of("smtp://ann@mx.example").password == "environment"
    assert relay_of("smtp://ann:url@mx.example").password == "url"
    assert relay_of("smtp://ann:url@mx.example", "argument").password == "argument"
    asked = relay_of("smtp://ann@mx.example", token).for_engine()
    assert (asked["password"], asked["ask_password"]) == (None, True)
    given = relay_of("smtp://ann@mx.example", "argument").for_engine()
    assert (given["password"], given["ask_password"], given["user"]) == ("argument", False, "ann")
    # If the URL contains no user name, the engine gets no password.
    assert relay_of("smtp://mx.example").for_engine()["password"] is None


def test_the_repr_contains_no_password() -> None:
    relay = relay_of("smtp://ann:geheim@mx.example")
    assert "geheim" not in repr(relay) and relay.name == "mx.example:25"
