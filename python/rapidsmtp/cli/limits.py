"""What a relay says before any mail: the size that it takes (RFC 1870)."""

import contextlib
import smtplib
import ssl

from rapidsmtp.client import LMTP, SMTP, SMTP_SSL
from rapidsmtp.message import Message
from rapidsmtp.relay import Relay
from rapidsmtp.settings import TLS

# RFC 5321 section 4.5.3.1.7: every server takes as much, and a connection is saved.
_ALWAYS_TAKEN = 64 * 1024
_SECONDS = 10.0


def of_size(message: Message, relay: Relay, tls: TLS) -> list[str]:
    """Compare a message with the size that a relay offers; connects where that may matter.

    Args:
        message: One out of many that are like it.
        relay: Where to ask. What goes wrong there is for the sender to say.
        tls: How to connect where TLS comes first.
    """
    octets = len(message.data)
    if octets <= _ALWAYS_TAKEN:
        return []
    limit = 0
    with contextlib.suppress(OSError, smtplib.SMTPException, ValueError):
        limit = _offered(relay, tls)
    if not 0 < limit < octets:
        return []
    return [f"a message has {octets} octets, and {relay.name} takes {limit} (SIZE)"]


def _offered(relay: Relay, tls: TLS) -> int:
    """The SIZE of the first EHLO; 0 where there is none. No login, so no secret is said."""
    with _connected(relay, tls) as client:
        client.ehlo_or_helo_if_needed()
        return int(client.esmtp_features.get("size") or 0)


def _connected(relay: Relay, tls: TLS) -> SMTP:
    if relay.scheme == "lmtp":
        return LMTP(relay.path or relay.host, relay.port, timeout=_SECONDS)
    if relay.scheme != "smtps":
        return SMTP(relay.host, relay.port, timeout=_SECONDS)
    context = ssl.create_default_context(cafile=tls.ca_file)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, password="")
    return SMTP_SSL(relay.host, relay.port, timeout=_SECONDS, context=context)
