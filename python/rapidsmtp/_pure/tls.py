"""The TLS configuration that all connections of the pure-Python engine share, and its failures.

The configuration accepts the same relays as the compiled engine, as far as OpenSSL permits.
"""

import ipaddress
import ssl
import tempfile
from pathlib import Path

from rapidsmtp._models.pem import (
    AUTHORITIES_MALFORMED,
    CERTIFICATE_MALFORMED,
    KEY_MALFORMED,
    KEY_MISMATCH,
)
from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure.certificate import is_ca
from rapidsmtp._pure.failure import ConnectionFailure, FailureKind
from rapidsmtp._pure.tls_error import CLOSED, failed_text, untrusted_text


def tls_context(settings: EngineSettings) -> ssl.SSLContext:
    """Return the TLS context for an engine's settings.

    Raises:
        ValueError: The certificates or the key cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    versions = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
    context.minimum_version = versions[settings.minimum_version]
    # The cipher suites of the compiled backend. RFC 9325 section 4.2 recommends these suites.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2")
    # Each certificate in `ca` is trusted, also that of an intermediate CA or of the relay itself.
    # RFC 9525 section 2: the common name is no host name.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.ca is not None:
        # As in the compiled engine, one certificate that can be read is sufficient.
        readable = [_loads(context, each) for each in _certificates(settings.ca)]
        if not any(readable):
            raise ValueError(AUTHORITIES_MALFORMED)
    elif settings.verify:
        context.load_default_certs()
    if settings.certificate is not None:
        _load_certificate(context, settings.certificate, settings.key)
    return context


def certificate_name(settings: EngineSettings) -> str:
    """Return the name that the relay's certificate must contain.

    The name has no brackets, no zone and no final dot.
    """
    name = settings.server_hostname or settings.host
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    address = bare.partition("%")[0]
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return bare.removesuffix(".")


def check_certificate(
    settings: EngineSettings, tls: ssl.SSLSocket, context: ssl.SSLContext
) -> None:
    """Check that the server does not use the certificate of a CA that is not itself trusted.

    OpenSSL accepts such a certificate, and webpki refuses it.

    Raises:
        ConnectionFailure: The server uses such a certificate.
    """
    certificate = tls.getpeercert(binary_form=True)
    if certificate is None or context.verify_mode == ssl.CERT_NONE or not is_ca(certificate):
        return
    if certificate not in context.get_ca_certs(binary_form=True):
        reason = "it is the certificate of a CA; give it in ca_file= to trust it"
        raise _untrusted(settings, reason)


def handshake_failure(settings: EngineSettings, error: OSError) -> ConnectionFailure:
    """Return the failure of a connection whose handshake raised `error`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        name = certificate_name(settings)
        return _untrusted(settings, untrusted_text(error.verify_code, error.verify_message, name))
    host, cause = settings.host, failure_text(error)
    if isinstance(error, TimeoutError):
        host, cause = settings.relay, f"timed out after {settings.timeouts.tls:g} s"
    elif isinstance(error, ssl.SSLEOFError):
        cause = CLOSED
    text = f"{_prefix(settings)}TLS with {host} failed: {cause}"
    return ConnectionFailure(text, FailureKind.TEMPORARY)


def failure_text(error: OSError) -> str:
    """Return the reason why a handshake or a session failed, and the cure."""
    if isinstance(error, ssl.SSLZeroReturnError):
        return CLOSED
    if isinstance(error, ssl.SSLError):
        return failed_text(error.reason or "")
    return error.strerror or str(error)


def _untrusted(settings: EngineSettings, reason: str) -> ConnectionFailure:
    # The failure is permanent, because another attempt would receive the same certificate.
    text = f"the certificate of {settings.host} is not trusted: {reason}"
    return ConnectionFailure(_prefix(settings) + text, FailureKind.PERMANENT)


def _prefix(settings: EngineSettings) -> str:
    # With "smtps", TLS is a part of connecting, and no SMTP session exists yet.
    return "" if settings.scheme == "smtps" else f"relay {settings.relay}: "


_END = b"-----END CERTIFICATE-----\n"


def _certificates(text: bytes) -> list[str]:
    """Return the certificates of a text in PEM, each in PEM."""
    return [(each + _END).decode("ascii") for each in text.split(_END)[:-1]]


def _loads(context: ssl.SSLContext, certificate: str) -> bool:
    """Add a certificate to the trusted ones, and return whether it can be read."""
    try:
        context.load_verify_locations(cadata=certificate)
    except ssl.SSLError:
        return False
    return True


def _load_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes | None) -> None:
    """Load a certificate and its key through a temporary file that only this user can read.

    Python's ssl module can read keys only from files.

    Raises:
        ValueError: The certificate or the key cannot be read, or they do not belong together.
    """
    if not _loads(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), _certificates(certificate)[0]):
        raise ValueError(CERTIFICATE_MALFORMED)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "certificate.pem")
        file.touch(mode=0o600)
        file.write_bytes(certificate + b"\n" + (key or b""))
        # Without the argument `password`, OpenSSL would ask for the pass phrase of an encrypted key
        # on the terminal.
        try:
            context.load_cert_chain(file, password="")
        except ssl.SSLError as error:
            # OpenSSL reports NO_CERTIFICATE_ASSIGNED if the key is for another algorithm.
            other = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
            text = KEY_MISMATCH if error.reason in other else KEY_MALFORMED
            raise ValueError(text) from None
