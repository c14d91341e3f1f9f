"""DKIM signatures (RFC 6376), by which a domain takes responsibility for a message.

The key is stored only in the compiled backend. So no Python attribute, repr or pickle contains the
key.
"""

import base64
import binascii
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from rapidsmtp import _backend

__all__ = ["DKIM"]

_SEED = 32
"""The length of the shortest key, an Ed25519 seed, in bytes."""


@dataclass(frozen=True, eq=False)
class DKIM:
    """A signer of messages for a domain.

    An RSA key signs with RSA-SHA256, and an Ed25519 key signs with Ed25519-SHA256.

    The signature lists the names of the signed header fields: From, and each name in `headers` that
    the message contains. It lists each name once more than the message contains the field. So if an
    attacker adds another field with this name, the signature is invalid. Subject, To, Cc and
    Reply-To are listed even if they are absent, so that an attacker cannot add them. A `DKIM`
    object is safe to use from many threads at once.

    Args:
        domain: The signing domain (the tag `d`): the domain of the From address, or a parent
            domain.
        selector: The selector (the tag `s`). The public key is in the DNS, at
            `selector._domainkey.domain`.
        private_key: The private key: PEM as `str` or `bytes` (PKCS#8, or PKCS#1 for RSA), or an
            Ed25519 seed in base64. A `pathlib.Path` is the path of a file that contains one of
            these forms. An RSA key must have 2048 to 4096 bits.
        canonicalization: The canonicalizations of the header and of the body, separated by a slash,
            as in `relaxed/simple`. Each of the two is `relaxed` or `simple`.
        headers: The names of the header fields to sign. They must include From. `None` means From,
            Subject, To, Cc, Reply-To, Date, Message-ID, In-Reply-To, References, MIME-Version,
            Content-Type, Content-Transfer-Encoding, List-Id, List-Unsubscribe,
            List-Unsubscribe-Post (RFC 8058 requires the signature of these two) and Feedback-ID.
        identity: The identity on whose behalf the domain signs (the tag `i`): `@news.example.com`
            or `user@example.com`, in the signing domain or in a subdomain.
        expires: The time for which a signature is valid (the tag `x`), in seconds; `None` for no
            limit.

    Attributes:
        algorithm: `rsa-sha256` or `ed25519-sha256`.

    Raises:
        ValueError: The key cannot be used, or an argument is wrong.
        OSError: The key's file cannot be read.
        ImportError: The compiled backend of rapidsmtp is not installed.
    """

    domain: str
    selector: str
    private_key: InitVar[str | bytes | os.PathLike[str]]
    canonicalization: str = field(default="relaxed/relaxed", kw_only=True)
    headers: Sequence[str] | None = field(default=None, kw_only=True)
    identity: str | None = field(default=None, kw_only=True)
    expires: int | timedelta | None = field(default=None, kw_only=True)
    algorithm: str = field(init=False)
    _signer: "_backend.Signer" = field(init=False, repr=False)

    def __post_init__(self, private_key: str | bytes | os.PathLike[str]) -> None:
        native: type[_backend.Signer] | None = _backend.native("Signer")
        if native is None:
            raise ImportError(
                "DKIM needs the compiled backend of rapidsmtp; only the pure-Python one is "
                "installed"
            )
        if isinstance(self.headers, str):
            raise ValueError("headers is a str: pass a list of names")
        headers = None if self.headers is None else tuple(self.headers)
        signer = native(
            self.domain,
            self.selector,
            _key(private_key),
            canonicalization=self.canonicalization,
            headers=headers,
            identity=self.identity,
            expires=_seconds(self.expires),
        )
        ((domain, selector, algorithm),) = signer.signatures
        self._set(domain=domain, selector=selector, headers=headers)
        self._set(algorithm=algorithm, _signer=signer)

    def _set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def sign(self, data: bytes) -> bytes:
        """Sign a message.

        Args:
            data: The message. All line ends are converted to CRLF before signing, because the
                message is sent with CRLF.

        Returns:
            The message with a `DKIM-Signature` field before its header.

        Raises:
            ValueError: The message has no From, or its header is malformed.
        """
        return sign(data, self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a DKIM cannot be pickled: it holds a private key")


DKIM.__module__ = "rapidsmtp"


def join(dkims: DKIM | Iterable[DKIM]) -> "_backend.Signer":
    """Return one signer that creates all signatures and hashes the body only once.

    Raises:
        ValueError: `dkims` is empty.
    """
    signers = [each._signer for each in ([dkims] if isinstance(dkims, DKIM) else dkims)]
    if not signers:
        raise ValueError("there is no DKIM to sign with")
    if len(signers) == 1:
        return signers[0]
    joined: _backend.Signer = _backend.native("Signer").join(signers)
    return joined


def sign(data: bytes, dkims: DKIM | Iterable[DKIM]) -> bytes:
    """Return the message with one signature field for each `DKIM`, in order, before its header."""
    data = _backend.repair(data)
    return join(dkims).sign(data, int(time.time())) + data


def _key(key: str | bytes | os.PathLike[str]) -> bytes:
    if isinstance(key, os.PathLike):
        return Path(key).read_bytes()
    if isinstance(key, str):
        if not (key.lstrip().startswith("-----BEGIN ") or _is_base64(key)):
            raise ValueError(
                "private_key is neither PEM nor a key in base64; pass a file as pathlib.Path"
            )
        return key.encode()
    return bytes(key)


def _is_base64(text: str) -> bool:
    try:
        return len(base64.b64decode("".join(text.split()), validate=True)) >= _SEED
    except (binascii.Error, ValueError):  # ValueError: non-ASCII text
        return False


def _seconds(expires: int | timedelta | None) -> int | None:
    seconds = int(expires.total_seconds()) if isinstance(expires, timedelta) else expires
    if seconds is not None and seconds <= 0:
        raise ValueError(f"expires is {expires}: it must be above 0")
    return seconds
