"""A relay's URL: what it may say, and what is wrong with it in one clear line."""

import pytest

from rapidsmtp import Sender
from rapidsmtp.relay import Relay, parse_relay


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
def test_what_it_says(url: str, relay: Relay) -> None:
    assert parse_relay(url) == relay


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "must begin with"),
        ("mx.example", "must begin with"),
        ("http://mx.example", "must begin with"),
        ("smtp://", "names no host"),
        ("smtp:///run/socket", "names no host"),
        ("lmtp:///", "names no host"),
        ("smtp://mx.example:0", "no port 0"),
        ("smtp://mx.example:99999", "wrong"),
        ("smtp://mx.example/inbox", "behind the host"),
        ("smtp://mx.example#top", "behind the host"),
        ("smtp://mx.example?tls=1", "unknown option 'tls'"),
        ("smtp://mx.example?starttls=maybe", "starttls=maybe"),
        ("smtps://mx.example?starttls=required", "no meaning"),
        ("smtp://ann:geheim@mx.example?auth=kerberos", "auth=kerberos"),
        ("smtp://ann:geheim#x@mx.example", "%23"),
        ("smtp://ann:x/geheim@mx.example", "%2F"),
        ("smtp://ann:7?geheim@mx.example", "%3F"),
        ("smtp://ann:7?starttls=geheim@mx.example", "%3F"),
        ("smtp://ann:geheim[@mx.example", "%5B"),
        ("smtp://mx.example?auth=plain", "no user"),
        ("smtp://ann@mx.example", "RAPIDSMTP_PASSWORD"),
    ],
)
def test_what_is_wrong(url: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        parse_relay(url)
    assert "geheim" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=fault):
        Sender(url)


def test_where_the_password_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def token() -> str:
        return "token"

    monkeypatch.setenv("RAPIDSMTP_PASSWORD", "environment")
    assert parse_relay("smtp://ann@mx.example").password == "environment"
    assert parse_relay("smtp://ann:url@mx.example").password == "url"
    assert parse_relay("smtp://ann:url@mx.example", "argument").password == "argument"
    asked = parse_relay("smtp://ann@mx.example", token).for_engine()
    assert (asked["password"], asked["ask_password"]) == (None, True)
    given = parse_relay("smtp://ann@mx.example", "argument").for_engine()
    assert (given["password"], given["ask_password"], given["user"]) == ("argument", False, "ann")
    # Nobody logs in: no password goes where it has no business.
    assert parse_relay("smtp://mx.example").for_engine()["password"] is None


def test_no_password_is_shown() -> None:
    relay = parse_relay("smtp://ann:geheim@mx.example")
    assert "geheim" not in repr(relay) and relay.name == "mx.example:25"
