"""The TLS configuration that all connections of the pure-Python engine share."""

import ssl
import tempfile
from pathlib import Path

from rapidsmtp._models.settings import EngineSettings


def tls_context(settings: EngineSettings) -> ssl.SSLContext:
    """Return the TLS context for an engine's settings.

    Raises:
        ValueError: The certificates or the key cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    versions = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
    context.minimum_version = versions[settings.minimum_version]
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if settings.ca is not None:
            context.load_verify_locations(cadata=settings.ca.decode("ascii"))
        elif settings.verify:
            context.load_default_certs()
        if settings.certificate is not None:
            _load_certificate(context, settings.certificate, settings.key)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        reason = getattr(error, "reason", None) or "no PEM"
        raise ValueError(f"the certificates or the key cannot be read: {reason}") from None
    return context


def _load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes | None) -> None:
    """Load a certificate and its key through a temporary file that only this user can read.

    Python's ssl module can read keys only from files.
    """
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "certificate.pem")
        file.touch(mode=0o600)
        file.write_bytes(certificate + b"\n" + (key or b""))
        # Without the argument `password`, OpenSSL would ask for the pass phrase of an encrypted key
        # on the terminal.
        context.load_cert_chain(file, password="")
