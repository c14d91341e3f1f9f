"""The TLS configuration that all connections of the pure-Python engine share, and its error texts.

The configuration accepts the same relays as the compiled engine, as far as OpenSSL permits.
"""

import ipaddress
import ssl
import tempfile
from pathlib import Path

from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure.certificate import is_ca
from rapidsmtp._pure.failure import ConnectionFailure, FailureKind

# The texts for certificates, by OpenSSL's X509_V_ERR codes. (X509_V_ERR_INVALID_CA is 24 in OpenSSL
# 1.1.1, and 79 in OpenSSL 3.) The compiled engine has the same texts,
# and adds details in parentheses that OpenSSL does not report.
_UNKNOWN_ISSUER = (
    "its issuer is unknown; give the certificate of its CA in ca_file=, and let the relay send all "
    "intermediate certificates"
)
_NOT_CA = (
    "a certificate of its chain is not that of a CA; check ca_file=, or replace the relay's "
    "certificate"
)
_PURPOSE = (
    "it, or a certificate of its chain, does not permit TLS servers; replace the relay's "
    "certificate"
)
_SIGNATURE = (
    "a signature in its chain is invalid or weak (RSA below 2048 bits, SHA-1); check ca_file=, or "
    "replace the relay's certificate"
)
_FORBIDDEN_NAME = "its CA is not permitted to certify this name; replace the relay's certificate"
_UNTRUSTED = {
    2: _UNKNOWN_ISSUER,
    7: _SIGNATURE,
    9: "it, or a certificate of its chain, is not valid yet; check the clock of this host",
    10: "it, or a certificate of its chain, has expired; renew the certificate at the relay",
    18: "it is self-signed; give it in ca_file= to trust it",
    19: _UNKNOWN_ISSUER,
    20: _UNKNOWN_ISSUER,
    21: _UNKNOWN_ISSUER,
    22: "its chain is longer than its CA permits; replace the relay's certificate",
    24: _NOT_CA,
    25: "its chain is longer than its CA permits; replace the relay's certificate",
    26: _PURPOSE,
    32: _NOT_CA,
    34: "it, or a certificate of its chain, has an unknown critical extension; replace the relay's "
    "certificate",
    37: _NOT_CA,
    47: _FORBIDDEN_NAME,
    48: _FORBIDDEN_NAME,
    66: _SIGNATURE,
    67: _SIGNATURE,
    68: _SIGNATURE,
    76: _SIGNATURE,
    79: _NOT_CA,
}
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
CA = "it is the certificate of a CA; give it in ca_file= to trust it"

# The texts for handshakes and sessions, by parts of OpenSSL's reasons. The first part that occurs
# in the reason counts. The compiled engine has the same texts.
_NOT_TLS = "the reply of the server is not TLS; check the scheme and the port in the relay's URL"
_NO_PARAMETERS = (
    "the server found no common parameters; enable ECDHE with AES-GCM or ChaCha20-Poly1305 at the "
    "relay, or give a client certificate in certificate= if the relay requires one"
)
_NO_VERSION = (
    "the server supports no version of TLS that is allowed here; enable TLS 1.2 or 1.3 at the relay"
)
_REFUSED_CERTIFICATE = "the server refused the client certificate; check certificate="
_FAILED = {
    "WRONG_VERSION_NUMBER": _NOT_TLS,
    "HTTP_REQUEST": _NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": _NOT_TLS,
    "RECORD_LAYER_FAILURE": _NOT_TLS,
    "ALERT_PROTOCOL_VERSION": _NO_VERSION,
    "UNSUPPORTED_PROTOCOL": _NO_VERSION,
    "WRONG_SSL_VERSION": _NO_VERSION,
    "ALERT_HANDSHAKE_FAILURE": _NO_PARAMETERS,
    "ALERT_INSUFFICIENT_SECURITY": _NO_PARAMETERS,
    "WRONG_CURVE": _NO_PARAMETERS,
    "WRONG_CIPHER_RETURNED": _NO_PARAMETERS,
    "DH_KEY_TOO_SMALL": _NO_PARAMETERS,
    "ALERT_CERTIFICATE_REQUIRED": "the server requires a client certificate; give one in "
    "certificate=",
    "ALERT_NO_CERTIFICATE": "the server requires a client certificate; give one in certificate=",
    "ALERT_BAD_CERTIFICATE": _REFUSED_CERTIFICATE,
    "ALERT_CERTIFICATE_": _REFUSED_CERTIFICATE,
    "ALERT_UNKNOWN_CA": _REFUSED_CERTIFICATE,
    "ALERT_UNSUPPORTED_CERTIFICATE": _REFUSED_CERTIFICATE,
    "UNRECOGNIZED_NAME": "the server does not recognize this host name; check the host in the "
    "relay's URL, or server_hostname=",
}
_MISBEHAVED = "the server broke the rules of TLS; check the log of the relay"
CLOSED_IN_HANDSHAKE = (
    "the server closed the connection in the handshake; check the log of the relay"
)


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


def certificate_name(settings: EngineSettings) -> str:
    """Return the name that the relay's certificate must contain, in the form of such a name.

    This form has no brackets, no zone and no final dot.
    """
    name = settings.server_hostname or settings.host
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    address = bare.partition("%")[0]
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return bare.removesuffix(".")


def untrusted_text(error: ssl.SSLCertVerificationError, name: str) -> str:
    """Return the reason why a certificate is not trusted, and the cure.

    Args:
        error: The error of the handshake.
        name: The name that the certificate must contain.
    """
    if error.verify_code in _OTHER_NAME:
        return (
            f"host name mismatch: it is not valid for {name}; write a name of the certificate in "
            "the relay's URL, or in server_hostname="
        )
    rare = f"{error.verify_message}; replace the relay's certificate"
    return _UNTRUSTED.get(error.verify_code, rare)


def failure_text(error: OSError) -> str:
    """Return the reason why a handshake or a session failed, and the cure."""
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    if isinstance(error, ssl.SSLZeroReturnError):
        return CLOSED_IN_HANDSHAKE
    reason = error.reason or ""
    for part, text in _FAILED.items():
        if part in reason:
            return text
    _, is_alert, alert = reason.partition("ALERT_")
    if is_alert:
        return f"the server sent the TLS alert {alert.lower()}; check the log of the relay"
    return _MISBEHAVED


def handshake_failure(settings: EngineSettings, error: OSError) -> ConnectionFailure:
    """Return the failure of a connection whose handshake raised `error`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return untrusted(settings, untrusted_text(error, certificate_name(settings)))
    host = settings.host
    if isinstance(error, TimeoutError):
        host, cause = settings.relay, f"timed out after {settings.timeouts.tls:g} s"
    elif isinstance(error, ssl.SSLEOFError):
        cause = CLOSED_IN_HANDSHAKE
    else:
        cause = failure_text(error)
    text = f"{_prefix(settings)}TLS with {host} failed: {cause}"
    return ConnectionFailure(text, FailureKind.TEMPORARY)


def untrusted(settings: EngineSettings, reason: str) -> ConnectionFailure:
    """Return the failure for a certificate that is not trusted.

    The failure is permanent, because another attempt would receive the same certificate.
    """
    text = f"the certificate of {settings.host} is not trusted: {reason}"
    return ConnectionFailure(_prefix(settings) + text, FailureKind.PERMANENT)


def _prefix(settings: EngineSettings) -> str:
    # With "smtps", TLS is a part of connecting, and no SMTP session exists yet.
    return "" if settings.scheme == "smtps" else f"relay {settings.relay}: "


def is_untrusted_ca(tls: ssl.SSLSocket, context: ssl.SSLContext) -> bool:
    """Return whether the server uses the certificate of a CA that is not itself trusted.

    OpenSSL accepts such a certificate, and webpki refuses it.
    """
    certificate = tls.getpeercert(binary_form=True)
    if certificate is None or context.verify_mode == ssl.CERT_NONE or not is_ca(certificate):
        return False
    return certificate not in context.get_ca_certs(binary_form=True)


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
