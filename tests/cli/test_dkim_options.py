"""`rapidsmtp send --dkim-domain, --dkim-selector, --dkim-key`."""

import base64
import re
from pathlib import Path

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from commandline import ONCE, Command, Relays, one_line
from rapidsmtp import _backend

FILES = ("--template", "message.eml", "--to", "list.csv")
KEY = Ed25519PrivateKey.generate()
SEED = base64.b64encode(KEY.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC = base64.b64encode(KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
SIGN = ("--dkim-domain", "example.com", "--dkim-selector", "s1", "--dkim-key", "key.pem")
PARTS = ("--from", "n@example.com", "--subject", "x", "--text", "news.txt", "--to", "list.csv")


def verified(data: bytes) -> bool:
    def record(name: bytes, timeout: int = 5) -> bytes | None:
        return b"v=DKIM1; k=ed25519; p=" + PUBLIC if name.startswith(b"s1._domainkey.") else None

    return bool(dkimpy.verify(data, dnsfunc=record))


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(PEM)
    (tmp_path / "seed.txt").write_bytes(SEED + b"\n")
    (tmp_path / "news.txt").write_text("Dear {{ name }}\n")


@pytest.mark.rust
@pytest.mark.parametrize("key", ["key.pem", "seed.txt"])
@pytest.mark.parametrize("way", [FILES, PARTS])
def test_every_message_is_signed(command: Command, key: str, way: tuple[str, ...]) -> None:
    result = command("send", *way, *SIGN, "--dkim-key", key, "--preview", "3", "--no-warnings")
    assert (result.returncode, result.stderr) == (0, "")
    for number in (1, 2, 3):
        data = Path(f"preview/{number}.eml").read_bytes()
        assert verified(data) and not verified(data.replace(b"Dear", b"Deer"))
    assert re.search(rb"DKIM-Signature:[^:]*\bd=example\.com;", data)


@pytest.mark.rust
def test_delivered_messages_are_signed(command: Command, relays: Relays) -> None:
    relay = relays()
    result = command("send", "--relay", relay.url, *FILES, *SIGN, *ONCE)
    assert (result.returncode, result.stderr, len(relay.bodies)) == (0, "", 3)
    for body in relay.bodies:
        assert verified(f"{body}\n".replace("\n", "\r\n").encode())


@pytest.mark.rust
def test_alignment(command: Command) -> None:
    other = ("--dkim-domain", "example.net", "--dry-run")
    result = command("send", *FILES, *SIGN, *other)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 0
    assert "From is example.com, but the DKIM signature is for example.net: not aligned" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            SIGN[:4],
            "--dkim-key is missing; a DKIM signature needs --dkim-domain, --dkim-selector, ",
        ),
        (SIGN[:2] + SIGN[4:], "--dkim-selector is missing; a DKIM signature needs "),
        (SIGN[2:], "--dkim-domain is missing; a DKIM signature needs "),
    ],
)
def test_a_signature_needs_all_three_options(
    command: Command, arguments: tuple[str, ...], expected: str
) -> None:
    one_line(command("send", *FILES, "--dry-run", *arguments), expected)


@pytest.mark.rust
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--dkim-key", "absent.pem"), "--dkim-key absent.pem: No such file"),
        (("--dkim-key", "."), "--dkim-key .: Is a directory"),
        (("--dkim-key", "news.txt"), "key"),
        (("--dkim-domain", "not a domain"), "domain"),
        (("--dkim-selector", ""), "selector"),
    ],
)
def test_bad_options(command: Command, arguments: tuple[str, ...], expected: str) -> None:
    one_line(command("send", *FILES, "--dry-run", *SIGN, *arguments), expected)


def test_without_the_compiled_backend(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "native", lambda name: None)
    one_line(command("send", *FILES, *SIGN, "--dry-run"), "DKIM needs the compiled backend")
