"""The TLS settings that the drop-in uses if the caller gives no `ssl.SSLContext`."""

import ssl
import warnings

from rapidsmtp._smtp import overrides

verify_by_default = False
"""Whether default TLS settings verify certificates; set by `install(verify=True)`."""


def default_context() -> ssl.SSLContext:
    """Return the default TLS settings.

    As in smtplib, these settings do not verify certificates, unless `verify_by_default` is true.
    """
    if verify_by_default:
        return overrides.ssl().create_default_context()  # type: ignore[no-any-return]
    return overrides.ssl()._create_stdlib_context()  # type: ignore[no-any-return]


def context_of_files(
    context: ssl.SSLContext | None,
    keyfile: str | None,
    certfile: str | None,
    *,
    stacklevel: int = 3,
) -> ssl.SSLContext:
    """Return the TLS settings for the arguments that smtplib accepts up to Python 3.11.

    Args:
        context: The TLS settings; not allowed together with `keyfile` or `certfile`.
        keyfile: A PEM file with the client's key.
        certfile: A PEM file with the client's certificate.
        stacklevel: The argument of `warnings.warn` that makes the deprecation warning show the line
            of the program that called rapidsmtp.

    Raises:
        ValueError: A context is given together with a file, or `keyfile` is given without
            `certfile`.
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
    created = default_context()
    created.load_cert_chain(certfile, keyfile)
    return created
