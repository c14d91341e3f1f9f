"""The URL of a relay: its permitted parts, and a one-line error for each fault."""

import string
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from rapidsmtp import Sender, _backend
from rapidsmtp._models.proxy_url import parse_proxy
from rapidsmtp._models.relay_url import Password, Relay, parse_relay
from rapidsmtp._models.settings import Proxy, authority


def relay_of(url: str, password: Password | None = None) -> Relay:
    return parse_relay(url, password, mechanisms=_backend.sasl_mechanisms())


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAPIDSMTP_PASSWORD", raising=False)
    monkeypatch.delenv("RAPIDSMTP_PROXY_PASSWORD", raising=False)


@pytest.mark.parametrize(
    ("url", "relay"),
    [
        ("smtp://mx.example", Relay("smtp", "mx.example", 25)),
        ("smtp://mx.example:587", Relay("smtp", "mx.example", 587, starttls="required")),
        ("smtp://mx.example:2525", Relay("smtp", "mx.example", 2525)),
        ("smtp://[::1]:2525", Relay("smtp", "::1", 2525)),
        ("smtp://[fe80::1%25eth0]", Relay("smtp", "fe80::1%eth0", 25)),
        ("SMTP://m\u00fcnchen.Example:", Relay("smtp", "xn--mnchen-3ya.example", 25)),
        ("smtp://mx.example:465?starttls=off", Relay("smtp", "mx.example", 465)),
        (
            "smtps://ann@b:c:d@mx.example",
            Relay("smtps", "mx.example", 465, "", "off", "ann@b", "c:d"),
        ),
        (
            "smtps://:token@mx.example?auth=oauthbearer",
            Relay("smtps", "mx.example", 465, "", "off", "", "token", "oauthbearer"),
        ),
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
        ("lmtp:ann:geheim@mx.example", "must begin with"),
        ("lmtp:/run/socket", "must begin with"),
        ("lmtp:///ann:geheim@mx.example", "%40"),
        ("lmtp://ann:geheim@/run/socket", "user for a unix socket"),
        ("lmtp://:24/run/socket", "has no host"),
        ("smtp://:geheim@mx.example", "no user for the password"),
        ("smtp://:geheim@mx.example?auth=external", "no user for the password"),
        ("smtp://@mx.example", "empty user"),
        ("smtp://a\r\nb", "invisible character"),
        ("smtp://mx.example\n", "invisible character"),
        ("smtp://mx.exa\u202emple", "invisible character"),
        ("smtp://mx example", "space"),
        ("smtp://a%0d%0ab", "host name"),
        ("smtp://mx.example\\inbox", "host name"),
        ("smtp://a\u2100b", "host name"),
        ("lmtp:///a%00b", "percent-encoded invisible character"),
        ("smtp://ann%0A:geheim@mx.example", "percent-encoded invisible character"),
        ("smtp://ann%E2%80%AE:geheim@mx.example", "percent-encoded invisible character"),
        ("smtp://ann%00:geheim@mx.example", "percent-encoded invisible character"),
        *(
            (f"smtp://ann:geheim{character}@mx.example", "the password contains a control char")
            for character in ("%00", "%01x", "%09", "%0A", "%0D", "%1b", "%7F", "%C2%80", "%C2%9f")
        ),
        ("smtp://ann:geheim%FF@mx.example", "UTF-8"),
        ("smtp://ann:geheim", "port"),
        ("smtp://mx.example:\u0662\u0665", "port"),
        ("smtp://::1", "port"),
        ("smtp://[mx.example]", "not an IPv6 address"),
        ("smtp://x[::1]", "not an IPv6 address"),
        ("smtp://[::1]x", "brackets"),
        ("smtp://mx.example?starttls=off&starttls=required", "twice"),
        ("smtp://mx.example:465", "smtps://"),
        ("smtp://ann:geheim@mx.example:465?starttls=required", "smtps://"),
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


def test_a_password_without_a_user_is_refused() -> None:
    for password in ("geheim", lambda: "geheim"):
        with pytest.raises(ValueError, match="no user for the password"):
            Sender("smtp://mx.example", password=password)


_PARTS = some.sampled_from(
    [
        *("smtp:", "lmtp:", "smtps:", "//", "/", ":", "@", "?", "#", "&", "[", "]", "%", " ", "\0"),
        *("%00", "%0A", "%FF", "%40", "\r\n", "::1", "mx.example", "587", "starttls=", "auth="),
    ]
)


@given(some.lists(_PARTS | some.text(max_size=3), max_size=12), some.lists(_PARTS, max_size=6))
@settings(deadline=None, max_examples=500)
def test_any_url_is_parsed_or_refused_without_its_password(
    parts: list[str], after: list[str]
) -> None:
    secret = "Geheim-7f3a"
    for url in (
        "".join(parts),
        f"smtp://ann:{''.join(parts)}",
        f"smtp://ann:{secret}{''.join(parts)}@mx.example{''.join(after)}",
        f"lmtp:{''.join(after)}:{secret}@{''.join(parts)}",
    ):
        try:
            relay = relay_of(url)
        except ValueError as error:
            text = str(error)
            assert error.__context__ is None or error.__suppress_context__
        else:
            text = f"{relay!r} {relay.name}"
            visible = relay.host + relay.path + relay.user
            assert visible.replace(" ", "").isprintable()
            assert bool(relay.host) != bool(relay.path) and 0 < relay.port < 65536
        assert secret.lower() not in text.lower() and "\n" not in text


# A URL that is written from the parts of a parsed URL must have the same parts.

SECRET = "Geheim-7f3a"
NAMES = some.text(string.ascii_lowercase + string.digits, min_size=1, max_size=5)
HOSTS = (
    some.lists(NAMES, min_size=1, max_size=3).map(".".join)
    | some.ip_addresses(v=6).map(str)
    | some.ip_addresses(v=4).map(str)
)
# The characters that a percent-encoded part of a URL may stand for.
TEXTS = some.text("aZ9@:/?#[]&=%+ -\u00fc\u20ac\U0001f600", max_size=8)
random_urls = settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def userinfo(user: str, password: Password) -> str:
    assert isinstance(password, str)
    text = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    return f"{text}@" if text else ""


def url_of(relay: Relay) -> str:
    host = "" if relay.path else authority(relay.host, relay.port).replace("%", "%25")
    auth = f"&auth={relay.mechanism}" if relay.mechanism else ""
    return (
        f"{relay.scheme}://{userinfo(relay.user, relay.password)}{host}"
        f"{quote(relay.path)}?starttls={relay.starttls}{auth}"
    )


def url_of_proxy(proxy: Proxy) -> str:
    return f"{proxy.scheme}://{userinfo(proxy.user, proxy.password)}{proxy.name}"


@some.composite
def relays(draw: some.DrawFn) -> Relay:
    """A relay that a URL can state, except for the mechanism."""
    scheme = draw(some.sampled_from(["smtp", "smtps", "lmtp"]))
    starttls = draw(some.sampled_from(["required", "opportunistic", "off"]))
    if scheme == "lmtp" and draw(some.booleans()):
        return Relay(scheme, "", 24, f"/{draw(TEXTS)}x")
    user = draw(TEXTS)
    password = draw(TEXTS.filter(bool)) if user else ""
    # Port 465 needs smtps://, or no TLS.
    port = draw(some.integers(1, 65535).filter(lambda port: port != 465))
    starttls = "off" if scheme == "smtps" else starttls
    return Relay(scheme, draw(HOSTS), port, "", starttls, user, password)


@pytest.mark.usefixtures("backend")
@given(relays())
@random_urls
def test_a_written_url_is_parsed_to_the_same_relay(relay: Relay) -> None:
    assert relay_of(url_of(relay)) == relay


@pytest.mark.usefixtures("backend")
@given(
    some.sampled_from(["smtp://", "smtps://", "lmtp://", "lmtp:///", ""]),
    some.lists(_PARTS | some.text(max_size=3), max_size=6),
    some.sampled_from(["mx.example", "ann:x@mx.example", "[::1]", "[fe80::1%25a]", ""]),
    some.lists(_PARTS | some.sampled_from(["?", "auth=external", "off", ":25"]), max_size=4),
)
@random_urls
def test_a_parsed_url_is_written_and_parsed_to_the_same_relay(
    scheme: str, before: list[str], host: str, after: list[str]
) -> None:
    for start in ("", f"ann:{SECRET}"):
        url = f"{scheme}{start}{''.join(before)}{host}{''.join(after)}"
        try:
            relay = relay_of(url)
        except ValueError:
            continue
        if relay.scheme == "smtp" and relay.port == 465 and relay.starttls != "off":
            continue
        assert relay_of(url_of(relay)) == relay


@pytest.mark.usefixtures("backend")
@given(
    some.sampled_from(["socks5", "http"]),
    HOSTS,
    some.integers(1, 65535),
    TEXTS.map(lambda user: user.replace(":", "")),
    TEXTS,
)
@random_urls
def test_a_written_url_of_a_proxy_is_parsed_to_the_same_proxy(
    scheme: str, host: str, port: int, user: str, password: str
) -> None:
    proxy = Proxy(scheme, host, port, user, password if user else "")
    assert parse_proxy(url_of_proxy(proxy), Relay("smtp", "mx.example", 25)) == proxy


@pytest.mark.usefixtures("backend")
@given(
    some.sampled_from(["socks5://", "socks5h://", "http://", ""]),
    some.lists(_PARTS | some.text(max_size=3), max_size=8),
    some.lists(_PARTS | some.text(max_size=3), max_size=6),
)
@random_urls
def test_any_url_of_a_proxy_is_parsed_or_refused_without_its_password(
    scheme: str, before: list[str], after: list[str]
) -> None:
    relay = Relay("smtp", "mx.example", 25)
    for url in (
        f"{scheme}{''.join(before)}",
        f"{scheme}ann:{''.join(before)}{SECRET}{''.join(after)}",
        f"{scheme}ann:{SECRET}{''.join(before)}@proxy.example{''.join(after)}",
    ):
        try:
            proxy = parse_proxy(url, relay)
        except ValueError as error:
            shown = str(error)
            assert error.__context__ is None or error.__suppress_context__
        else:
            assert proxy is not None and 0 < proxy.port < 65536
            assert parse_proxy(url_of_proxy(proxy), relay) == proxy
            shown = f"{proxy!r} {proxy.name}"
            if SECRET.lower() in proxy.host:
                continue  # the random text has moved the password to the host
        assert SECRET.lower() not in shown.lower() and "\n" not in shown


def test_the_repr_contains_no_password() -> None:
    relay = relay_of("smtp://ann:geheim@mx.example")
    assert "geheim" not in repr(relay) and relay.name == "mx.example:25"
