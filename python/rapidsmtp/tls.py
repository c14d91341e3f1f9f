"""The TLS settings of the drop-in where the caller gave none, or gave files."""

import ssl
import warnings

from rapidsmtp import replaceable

verify_by_default = False
"""Whether settings that nobody gave verify certificates; set by `install(verify=True)`."""


def default_context() -> ssl.SSLContext:
    """The settings where the caller gave none: smtplib's, which verify nothing, unless asked."""
    if verify_by_default:
        return replaceable.ssl().create_default_context()  # type: ignore[no-any-return]
    return replaceable.ssl()._create_stdlib_context()  # type: ignore[no-any-return]


def context_of_files(
    context: ssl.SSLContext | None,
    keyfile: str | None,
    certfile: str | None,
    *,
    stacklevel: int = 3,
) -> ssl.SSLContext:
    """The settings from the arguments that smtplib has up to Python 3.11.

    Args:
        context: ready-made settings, instead of files.
        keyfile: the client's key, as PEM.
        certfile: the client's certificate, as PEM.
        stacklevel: frames from here to the program's own call, which the warning is about.

    Raises:
        ValueError: both ways are used at once.
    """
    for name, value in (("keyfile", keyfile), ("certfile", certfile)):
        if context is not None and value is not None:
            raise ValueError(f"context and {name} arguments are mutually exclusive")
    if certfile is None and keyfile is None:
        return context or default_context()
    warnings.warn(
        "keyfile and certfile are deprecated, use a custom context instead",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
    if certfile is None:
        raise ValueError("certfile must be specified")
    made = default_context()
    made.load_cert_chain(certfile, keyfile)
    return made
