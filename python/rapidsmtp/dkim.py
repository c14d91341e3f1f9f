"""DKIM (RFC 6376): a signature in front of a message, by which a domain vouches for it.

The key stays in the compiled half: no attribute, repr or pickle of Python has it.
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

from rapidsmtp import _core

__all__ = ["DKIM"]

_SEED = 32
"""Octets of the smallest key: an Ed25519 seed."""


@dataclass(frozen=True, eq=False)
class DKIM:
    """Signs messages for a domain, by RSA-SHA256 or, where the key is one, Ed25519-SHA256.

    From is always signed, once more than it occurs, and so is each of `headers` that occurs: none
    can be added. Subject, To, Cc and Reply-To are signed where they are absent, too. Safe to use
    from many threads at once.

    Args:
        domain: Who vouches: the domain of the From address, or one above it (the tag `d`).
        selector: Where the public key is: `selector._domainkey.domain` in the DNS (the tag `s`).
        private_key: PEM as `str` or `bytes` (PKCS#8, or PKCS#1 for RSA), the base64 of an Ed25519
            seed, or the path of a file that holds one of these, as `pathlib.Path`. RSA keys have
            2048 to 4096 bits.
        canonicalization: `relaxed` or `simple` for the header, a slash, and the same for the body.
        headers: The names of the header fields to sign; From must be among them. `None` is From,
            Subject, To, Cc, Reply-To, Date, Message-ID, In-Reply-To, References, MIME-Version,
            Content-Type, Content-Transfer-Encoding, List-Id, List-Unsubscribe,
            List-Unsubscribe-Post (RFC 8058 wants them signed) and Feedback-ID.
        identity: For whom the domain signs: `@news.example.com` or `user@example.com`, in the
            domain or below it (the tag `i`).
        expires: Seconds that a signature is good for (the tag `x`); `None` for ever.

    Attributes:
        algorithm: `rsa-sha256` or `ed25519-sha256`.

    Raises:
        ValueError: The key cannot be used, or an argument is not what it should be.
        OSError: The key's file cannot be read.
        ImportError: The compiled half of rapidsmtp is not installed.
    """

    domain: str
    selector: str
    private_key: InitVar[str | bytes | os.PathLike[str]]
    canonicalization: str = field(default="relaxed/relaxed", kw_only=True)
    headers: Sequence[str] | None = field(default=None, kw_only=True)
    identity: str | None = field(default=None, kw_only=True)
    expires: int | timedelta | None = field(default=None, kw_only=True)
    algorithm: str = field(init=False)
    _signer: "_core.Signer" = field(init=False, repr=False)

    def __post_init__(self, private_key: str | bytes | os.PathLike[str]) -> None:
        native: type[_core.Signer] | None = _core.native("Signer")
        if native is None:
            raise ImportError(
                "DKIM needs the compiled half of rapidsmtp, and only the pure half is installed"
            )
        if isinstance(self.headers, str):
            raise ValueError("headers is one text: give a list of names")
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
            data: The message. Line ends that are not CRLF become CRLF, as they would on the wire.

        Returns:
            The message with its `DKIM-Signature` field in front.

        Raises:
            ValueError: It has no From, or its header is none.
        """
        return sign(data, self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a DKIM cannot be pickled: it holds a private key")


def join(dkims: DKIM | Iterable[DKIM]) -> "_core.Signer":
    """One signer that makes a signature for each, hashing the body once.

    Raises:
        ValueError: There is none.
    """
    signers = [each._signer for each in ([dkims] if isinstance(dkims, DKIM) else dkims)]
    if not signers:
        raise ValueError("there is no DKIM to sign with")
    if len(signers) == 1:
        return signers[0]
    joined: _core.Signer = _core.native("Signer").join(signers)
    return joined


def sign(data: bytes, dkims: DKIM | Iterable[DKIM]) -> bytes:
    """The message with a signature for each in front, in their order."""
    data = _core.repair(data)
    return join(dkims).sign(data, int(time.time())) + data


def _key(key: str | bytes | os.PathLike[str]) -> bytes:
    if isinstance(key, os.PathLike):
        return Path(key).read_bytes()
    if isinstance(key, str):
        if not (key.lstrip().startswith("-----BEGIN ") or _is_base64(key)):
            raise ValueError(
                "private_key is neither PEM nor base64 of a key: give a file as pathlib.Path"
            )
        return key.encode()
    return bytes(key)


def _is_base64(text: str) -> bool:
    try:
        return len(base64.b64decode("".join(text.split()), validate=True)) >= _SEED
    except (binascii.Error, ValueError):  # the latter: not ASCII
        return False


def _seconds(expires: int | timedelta | None) -> int | None:
    seconds = int(expires.total_seconds()) if isinstance(expires, timedelta) else expires
    if seconds is not None and seconds <= 0:
        raise ValueError(f"expires is {expires}: a signature must be good for some time")
    return seconds
