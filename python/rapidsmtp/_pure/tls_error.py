"""The causes of TLS failures in words, with the cure, for the codes and reasons of OpenSSL.

`src/engine/tls/error.rs` has the same texts for the errors of rustls. It adds details in
parentheses that OpenSSL does not report.
"""

# The texts for certificates, by OpenSSL's X509_V_ERR codes. (X509_V_ERR_INVALID_CA is 24 in OpenSSL
# 1.1.1, and 79 in OpenSSL 3.)
_UNTRUSTED = {
    (2, 19, 20, 21): "its issuer is unknown; give the certificate of its CA in ca_file=, and let "
    "the relay send all intermediate certificates",
    (7, 66, 67, 68, 76): "a signature in its chain is invalid or weak (RSA below 2048 bits, "
    "SHA-1); check ca_file=, or replace the relay's certificate",
    (9,): "it, or a certificate of its chain, is not valid yet; check the clock of this host",
    (10,): "it, or a certificate of its chain, has expired; renew the certificate at the relay",
    (18,): "it is self-signed; give it in ca_file= to trust it",
    (22, 25): "its chain is longer than its CA permits; replace the relay's certificate",
    (24, 32, 37, 79): "a certificate of its chain is not that of a CA; check ca_file=, or replace "
    "the relay's certificate",
    (26,): "it, or a certificate of its chain, does not permit TLS servers; replace the relay's "
    "certificate",
    (34,): "it, or a certificate of its chain, has an unknown critical extension; replace the "
    "relay's certificate",
    (47, 48): "its CA is not permitted to certify this name; replace the relay's certificate",
}
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH

# The texts for handshakes and sessions, by parts of OpenSSL's reasons. The first part that occurs
# in the reason counts.
_FAILED = {
    (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
    ): "the reply of the server is not TLS; check the scheme and the port in the relay's URL",
    (
        "ALERT_PROTOCOL_VERSION",
        "UNSUPPORTED_PROTOCOL",
        "WRONG_SSL_VERSION",
    ): "the server supports no version of TLS that is allowed here; enable TLS 1.2 or 1.3 at the "
    "relay",
    (
        "ALERT_HANDSHAKE_FAILURE",
        "ALERT_INSUFFICIENT_SECURITY",
        "WRONG_CURVE",
        "WRONG_CIPHER_RETURNED",
        "DH_KEY_TOO_SMALL",
    ): "the server found no common parameters; enable ECDHE with AES-GCM or ChaCha20-Poly1305 at "
    "the relay, or give a client certificate in certificate= if the relay requires one",
    (
        "ALERT_CERTIFICATE_REQUIRED",
        "ALERT_NO_CERTIFICATE",
    ): "the server requires a client certificate; give one in certificate=",
    (
        "ALERT_BAD_CERTIFICATE",
        "ALERT_CERTIFICATE_",
        "ALERT_UNKNOWN_CA",
        "ALERT_UNSUPPORTED_CERTIFICATE",
    ): "the server refused the client certificate; check certificate=",
    ("UNRECOGNIZED_NAME",): "the server does not recognize this host name; check the host in the "
    "relay's URL, or server_hostname=",
}
CLOSED = "the server closed the connection in the handshake; check the log of the relay"


def untrusted_text(code: int, message: str, name: str) -> str:
    """Return the reason why a certificate is not trusted, and the cure.

    Args:
        code: OpenSSL's X509_V_ERR code.
        message: OpenSSL's text for this code.
        name: The name that the certificate must contain.
    """
    if code in _OTHER_NAME:
        return (
            f"host name mismatch: it is not valid for {name}; write a name of the certificate in "
            "the relay's URL, or in server_hostname="
        )
    for codes, text in _UNTRUSTED.items():
        if code in codes:
            return text
    return f"{message}; replace the relay's certificate"


def failed_text(reason: str) -> str:
    """Return the text for the reason that OpenSSL states for a failed handshake or session."""
    for parts, text in _FAILED.items():
        if any(part in reason for part in parts):
            return text
    _, is_alert, alert = reason.partition("ALERT_")
    if is_alert:
        return f"the server sent the TLS alert {alert.lower()}; check the log of the relay"
    return "the server broke the rules of TLS; check the log of the relay"
