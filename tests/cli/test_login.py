"""Login and TLS: the lines that the relay receives, and the errors that stop the sending."""

import base64
import hashlib
import hmac
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from commandline import Command, Relays, Script, ScriptedRelay, accept, one_line
from rapidsmtp.testing import Sink
from server import Connection, Server, SMTPScript

MECHANISMS = ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", "EXTERNAL"]
MECHANISMS += ["SCRAM-SHA-1", "SCRAM-SHA-256"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> ssl.SSLContext:
    """Return the TLS settings of a server, and write the authority's certificate to ca.pem."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return context


def as_user(url: str, query: str, user: str = "user@") -> str:
    return url.replace("://", f"://{user}") + f"?{query}"


# Every mechanism


@pytest.mark.rust
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_mechanisms_with_the_sink(
    command: Command, authority: trustme.CA, tls: ssl.SSLContext, mechanism: str
) -> None:
    pem = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    command.environment["RAPIDSMTP_PASSWORD"] = "geheim"
    with Sink(credentials={"user": "geheim"}, tls="implicit", certificate=pem) as sink:
        url = as_user(sink.url, f"auth={mechanism.lower()}")
        result = command.send(url, "--ca-file", "ca.pem")
        assert result.returncode == 0, result.stderr
        assert [message.user for message in sink.messages] == ["user"] * 3
        assert sink.counts["authentications"] == sink.counts["connections"] == 1
        if mechanism == "EXTERNAL":
            return
        command.environment["RAPIDSMTP_PASSWORD"] = "falsch"
        one_line(command.send(url, "--ca-file", "ca.pem"), "refused the login: 535")
        assert len(sink.messages) == 3


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def replying(*steps: str) -> Script:
    """Return a script that replies to each line of an AUTH exchange with the next of `steps`."""
    replies = list(steps)

    def script(relay: ScriptedRelay, line: str) -> str | None:
        in_exchange = line.startswith("AUTH") or 0 < len(replies) < len(steps)
        return replies.pop(0) if in_exchange else accept(relay, line)

    return script


CRAM = hmac.new(b"geheim", b"<1@relay>", "md5").hexdigest()
BEARER = "n,a=user,\x01host=127.0.0.1\x01port={port}\x01auth=Bearer geheim\x01\x01"


@pytest.mark.parametrize(
    ("mechanism", "replies", "lines"),
    [
        ("plain", ["235 ok"], ["AUTH PLAIN \0user\0geheim"]),
        ("login", ["334 VXNlcg==", "235 ok"], ["AUTH LOGIN user", "geheim"]),
        ("cram-md5", ["334 PDFAcmVsYXk+", "235 ok"], ["AUTH CRAM-MD5", f"user {CRAM}"]),
        ("xoauth2", ["235 ok"], ["AUTH XOAUTH2 user=user\x01auth=Bearer geheim\x01\x01"]),
        ("oauthbearer", ["235 ok"], [f"AUTH OAUTHBEARER {BEARER}"]),
        ("external", ["235 ok"], ["AUTH EXTERNAL user"]),
    ],
)
def test_mechanisms_on_the_wire(
    command: Command,
    relays: Relays,
    mechanism: str,
    replies: list[str],
    lines: list[str],
) -> None:
    relay = relays(replying(*replies), f"AUTH {mechanism.upper()}")
    command.environment["RAPIDSMTP_PASSWORD"] = "geheim"
    url = as_user(relay.url, f"starttls=off&auth={mechanism.upper()}")
    result = command.send(url, "--allow-plaintext-auth")
    assert result.returncode == 0, result.stderr
    port = relay.host.partition(":")[2]
    expected = []
    for line in lines:
        *command_words, response = line.replace("{port}", port).split(" ", 2)
        if command_words[:1] != ["AUTH"]:
            command_words, response = [], line
        elif len(line.split(" ", 2)) == 2:
            command_words, response = line.split(" "), ""
        expected.append(" ".join([*command_words, encoded(response)]).strip())
    assert relay.lines[1 : 1 + len(expected)] == expected


def scram_server(digest: str, binding: Callable[[ScriptedRelay], bytes]) -> Script:
    """Return the script of a SCRAM server (RFC 5802 section 3) for the password "geheim"."""
    state: dict[str, Any] = {}

    def keyed(key: bytes, text: str) -> bytes:
        return hmac.new(key, text.encode(), digest).digest()

    def last(relay: ScriptedRelay, message: str) -> str:
        bare, _, proof = message.rpartition(",p=")
        bound_to = base64.b64decode(bare.split(",")[0][2:])
        # Python's ssl cannot export the expected value of `tls-exporter` (RFC 9266), so only the
        # length of the client's value is checked.
        newest = getattr(relay.connection, "version", str)() == "TLSv1.3"
        exported = bound_to.startswith(b"p=tls-exporter,,") and binding is bound and newest
        assert bound_to == binding(relay) or (exported and len(bound_to) == 48)
        salted = hashlib.pbkdf2_hmac(digest, b"geheim", b"salt", 4096)
        client_key = keyed(salted, "Client Key")
        signed = f"{state['first']},{state['challenge']},{bare}"
        signature = keyed(hashlib.new(digest, client_key).digest(), signed)
        right = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        if base64.b64decode(proof) != right:
            return "535 5.7.8 no"
        server = base64.b64encode(keyed(keyed(salted, "Server Key"), signed)).decode()
        return "334 " + encoded(f"v={server}")

    def script(relay: ScriptedRelay, line: str) -> str | None:
        if line.startswith("AUTH"):
            first = base64.b64decode(line.split()[2]).decode()
            state["first"] = first.split(",", 2)[2]
            nonce = state["first"].rpartition("r=")[2]
            state["challenge"] = f"r={nonce}more,s={encoded('salt')},i=4096"
            return "334 " + encoded(state["challenge"])
        if state.pop("proven", False):
            return "235 2.7.0 ok"
        if len(relay.lines) == 3 and state:
            reply = last(relay, base64.b64decode(line).decode())
            state["proven"] = reply.startswith("334")
            return reply
        return accept(relay, line)

    return script


def bound(relay: ScriptedRelay) -> bytes:
    """Return the expected channel binding: a hash of the server's certificate (RFC 5929)."""
    connection = relay.connection
    assert isinstance(connection, ssl.SSLSocket)
    certificate = relay.certificate
    assert certificate is not None
    return b"p=tls-server-end-point,," + hashlib.sha256(certificate).digest()


@pytest.mark.parametrize(
    ("mechanism", "digest", "binding", "version"),
    [
        ("scram-sha-1", "sha1", lambda relay: b"n,,", "TLSv1_3"),
        ("scram-sha-256", "sha256", lambda relay: b"n,,", "TLSv1_3"),
        ("scram-sha-1-plus", "sha1", bound, "TLSv1_3"),
        ("scram-sha-256-plus", "sha256", bound, "TLSv1_3"),
        ("scram-sha-256-plus", "sha256", bound, "TLSv1_2"),
    ],
)
def test_scram_on_the_wire(
    command: Command,
    relays: Relays,
    tls: ssl.SSLContext,
    authority: trustme.CA,
    mechanism: str,
    digest: str,
    binding: Callable[[ScriptedRelay], bytes],
    version: str,
) -> None:
    tls.maximum_version = ssl.TLSVersion[version]
    certificate = authority.issue_cert("127.0.0.1")
    certificate.configure_cert(tls)
    relay = relays(scram_server(digest, binding), f"AUTH {mechanism.upper()}", tls)
    relay.certificate = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    url = as_user(relay.url, f"auth={mechanism}")
    command.environment["RAPIDSMTP_PASSWORD"] = "geheim"
    result = command.send(url, "--ca-file", "ca.pem")
    assert result.returncode == 0, result.stderr
    assert len(relay.bodies) == 3
    command.environment["RAPIDSMTP_PASSWORD"] = "falsch"
    relay.lines.clear()
    one_line(command.send(url, "--ca-file", "ca.pem"), "refused the login: 535 5.7.8 no")
    assert len(relay.bodies) == 3


def test_channel_binding_needs_tls(command: Command, relays: Relays) -> None:
    relay = relays(accept, "AUTH SCRAM-SHA-256-PLUS")
    command.environment["RAPIDSMTP_PASSWORD"] = "geheim"
    url = as_user(relay.url, "starttls=off&auth=scram-sha-256-plus")
    one_line(command.send(url, "--allow-plaintext-auth"), "login failed")


@pytest.mark.parametrize(
    ("user", "query", "expected"),
    [
        (
            "user:geheim@",
            "auth=kerberos",
            "auth=kerberos in the relay's URL is unknown; use one of plain, ",
        ),
        ("user:geheim@", "auth=", "auth= in the relay's URL is unknown; use one of plain, "),
        ("", "auth=xoauth2", "needs a user"),
        ("user@", "auth=xoauth2", "RAPIDSMTP_PASSWORD"),
        (
            "user:geheim@",
            "starttls=off&auth=xoauth2",
            "does not support AUTH XOAUTH2; it supports PL",
        ),
    ],
)
def test_logins_that_are_not_possible(
    command: Command, relays: Relays, user: str, query: str, expected: str
) -> None:
    relay = relays(accept, "AUTH PLAIN")
    result = command.send(as_user(relay.url, query, user), "--allow-plaintext-auth")
    one_line(result, expected)
    assert "geheim" not in result.stderr and not any("AUTH" in line for line in relay.lines)


def test_external_uses_the_client_certificate(
    command: Command,
    relays: Relays,
    authority: trustme.CA,
    tls: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED
    pem = authority.issue_cert("sender@example.com").private_key_and_cert_chain_pem
    pem.write_to_path(str(tmp_path / "own.pem"))
    relay = relays(replying("235 ok"), "AUTH EXTERNAL", tls)
    url = f"{relay.url}?auth=external"
    result = command.send(url, "--ca-file", "ca.pem", "--certificate", "own.pem")
    assert result.returncode == 0, result.stderr
    # RFC 4954 section 4: "=" is an empty initial response.
    assert relay.lines[1] == "AUTH EXTERNAL ="
    one_line(command.send(url, "--ca-file", "ca.pem"), "give one in --certificate")


# Errors that stop the sending


def test_no_login_without_tls(command: Command, relays: Relays) -> None:
    relay = relays(accept, "AUTH PLAIN")
    host = relay.host
    one_line(command.send(f"smtp://user:geheim@{host}"), "does not support STARTTLS")
    one_line(command.send(f"smtp://user:geheim@{host}?starttls=off"), "--allow-plaintext-auth")
    one_line(command.send(f"smtp://user:geheim@{host}?starttls=opportunistic"), "clear text")
    assert not any(line.startswith("AUTH") for line in relay.lines)


@pytest.mark.parametrize("reply", ["535 5.7.8 no", "534 5.7.9 too weak", "454 4.7.0 later"])
def test_a_refused_login_stops_the_sending(command: Command, relays: Relays, reply: str) -> None:
    def script(relay: ScriptedRelay, line: str) -> str | None:
        return reply if line.startswith("AUTH") else accept(relay, line)

    relay = relays(script, "AUTH LOGIN PLAIN")
    command.environment["RAPIDSMTP_PASSWORD"] = "geheim"
    result = command.send(as_user(relay.url, "starttls=off"), "--allow-plaintext-auth")
    one_line(result, f"refused the login: {reply}")
    assert "geheim" not in result.stderr and not relay.bodies
    tried = [line[:10] for line in relay.lines if line.startswith("AUTH")]
    # `ONCE` allows one attempt. Another mechanism is tried only if the reply concerns the mechanism
    # and not the credentials (RFC 4954 section 6).
    concerns_mechanism = reply.startswith("534")
    assert tried == (["AUTH PLAIN", "AUTH LOGIN"] if concerns_mechanism else ["AUTH PLAIN"])


def test_an_untrusted_certificate_stops_the_sending(
    command: Command, relays: Relays, tls: ssl.SSLContext
) -> None:
    relay = relays(accept, "", tls)
    one_line(command.send(relay.url), "give the certificate of its CA in --ca-file")
    assert relay.lines == []
    # The same certificate is accepted if `--ca-file` names the authority that signed it.
    assert command.send(relay.url, "--ca-file", "ca.pem").returncode == 0


def test_a_certificate_of_another_host_stops_the_sending(
    command: Command, relays: Relays, tls: ssl.SSLContext
) -> None:
    relay = relays(accept, "", tls)
    url = relay.url.replace("127.0.0.1", "localhost")
    wanted = "is not trusted: host name mismatch: it is not valid for localhost"
    result = command.send(url, "--ca-file", "ca.pem")
    one_line(result, wanted)
    assert result.stderr.endswith("write a name of the certificate in the relay's URL\n")
    assert relay.lines == []


def test_the_reasons_of_rows_name_options(
    command: Command, tls: ssl.SSLContext, tmp_path: Path
) -> None:
    replies = {"mail": [b"250 ok", b"421 4.4.2 restarting"]}
    scripts = [SMTPScript(("STARTTLS", "AUTH PLAIN"), replies, tls=tls)]

    def script(connection: Connection) -> None:
        # From the second connection on, the relay does not support TLS.
        (scripts.pop() if scripts else SMTPScript(("AUTH PLAIN",)))(connection)

    with Server(script) as server:
        url = f"smtp://user:geheim@127.0.0.1:{server.port}?starttls=opportunistic"
        options = ("--ca-file", "ca.pem", "--not-accepted", "failed.csv")
        result = command.send(url, *options, "--json")
    assert result.returncode == 1, result.stderr
    written = (tmp_path / "failed.csv").read_text("utf-8")
    for text in (result.stdout, written):
        assert text.count("--allow-plaintext-auth") >= 2 and "allow_plaintext_auth" not in text
