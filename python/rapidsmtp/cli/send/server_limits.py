"""The check of the message size against the relay's maximum in the EHLO reply (RFC 1870)."""

import contextlib
import smtplib
import ssl
import threading

from rapidsmtp import _backend
from rapidsmtp._models.message import Message
from rapidsmtp._models.relay_url import Relay
from rapidsmtp._models.settings import TLS
from rapidsmtp._smtp.client import LMTP, SMTP, SMTP_SSL

# The size up to which a message needs no check, in bytes. RFC 5321 section 4.5.3.1.7: every server
# accepts messages of 64K.
_ALWAYS_ACCEPTED = 64 * 1024
# The maximum time for the check, in seconds. The check only causes a warning, so sending does not
# wait longer for a slow relay.
_SECONDS = 10.0


def check_size(message: Message, relay: Relay, tls: TLS, seconds: float | None = None) -> list[str]:
    """Return a list, with a warning if a message is larger than the relay's SIZE.

    The function connects to the relay only if the message is larger than 64 KiB. Errors of this
    connection are ignored, because the sender later connects to the same relay and reports errors.

    Args:
        message: Any message of the mailing. All messages are built from the same template, so their
            sizes are similar.
        relay: The relay to connect to.
        tls: The TLS settings for smtps://.
        seconds: The time limit of `rapidsmtp send`, or None. The check takes no longer than this
            limit, and no longer than ten seconds.
    """
    size = len(message.data)
    if size <= _ALWAYS_ACCEPTED:
        return []
    limit = _size_limit_within(min(seconds or _SECONDS, _SECONDS), relay, tls)
    if not _backend.exceeds_size(limit, size):
        return []
    return [f"a message has {size} bytes, but relay {relay.name} accepts {limit} (SIZE)"]


def _size_limit_within(seconds: float, relay: Relay, tls: TLS) -> str:
    """Return the SIZE in the EHLO reply. Return "" after an error or `seconds` seconds."""
    limits = [""]

    def find() -> None:
        with contextlib.suppress(OSError, smtplib.SMTPException, ValueError):
            limits.append(_size_limit(relay, tls))

    # The client's own time limit starts again with each received byte. So the client runs in a
    # thread, and this function does not wait for the thread after the total time.
    thread = threading.Thread(target=find, daemon=True)
    thread.start()
    thread.join(seconds)
    return limits[-1]


def _size_limit(relay: Relay, tls: TLS) -> str:
    """Return the parameter of SIZE in the EHLO reply before the login; empty without SIZE."""
    with _connect(relay, tls) as client:
        client.ehlo_or_helo_if_needed()
        return client.esmtp_features.get("size", "")


def _connect(relay: Relay, tls: TLS) -> SMTP:
    if relay.scheme == "lmtp":
        return LMTP(relay.path or relay.host, relay.port, timeout=_SECONDS)
    if relay.scheme != "smtps":
        return SMTP(relay.host, relay.port, timeout=_SECONDS)
    context = ssl.create_default_context(cafile=tls.ca_file)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, password="")
    return SMTP_SSL(relay.host, relay.port, timeout=_SECONDS, context=context)
