"""`send`: connect, send one message and send QUIT. The name of the module is aiosmtplib's."""

from collections.abc import Sequence
from email.message import Message
from typing import Unpack

from rapidsmtp._compose.envelope import envelope
from rapidsmtp._smtp.results import Refused
from rapidsmtp.aio.client import DEFAULT_TIMEOUT as DEFAULT_TIMEOUT
from rapidsmtp.aio.client import SMTP
from rapidsmtp.aio.connection_options import ConnectionKeywords
from rapidsmtp.errors import SMTPResponseException


async def send(
    message: Message | str | bytes,
    /,
    *,
    sender: str | None = None,
    recipients: str | Sequence[str] | None = None,
    mail_options: Sequence[str] = (),
    rcpt_options: Sequence[str] = (),
    port: int | None = None,
    local_hostname: str | None = None,
    source_address: tuple[str, int] | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    **keywords: Unpack[ConnectionKeywords],
) -> Refused:
    """Connect, send one message, and send QUIT.

    Args:
        message: An email.message object, bytes, or an ASCII str.
        sender: The sender of the envelope; None for the sender in the message header.
        recipients: The recipients of the envelope; None for the recipients in the message header.
        mail_options: ESMTP parameters of MAIL.
        rcpt_options: ESMTP parameters of every RCPT.
        port: The port; None for 465 with `use_tls`, 587 with `start_tls=True`, else 25.
        local_hostname: As for `SMTP`.
        source_address: As for `SMTP`.
        timeout: As for `SMTP`.
        **keywords: As for `SMTP`; `hostname` is "localhost" by default.

    Returns:
        The refused recipients, as for `SMTP.sendmail`.

    Raises:
        ValueError: The sender or the recipients are missing, or two keywords exclude each other.
        OSError: The server could not be reached.
        SMTPException: As for `SMTP.connect` and `SMTP.sendmail`.
    """
    if isinstance(message, Message):
        _check_envelope(message, sender, recipients)
    elif sender is None or not recipients:
        raise ValueError("sender and recipients are required with a message of bytes or str")
    client = SMTP("", port, local_hostname, timeout, source_address, **keywords)
    options = tuple(mail_options or ()), tuple(rcpt_options or ())
    await client.connect()
    refused: Refused | None = None
    try:
        async with client:
            if isinstance(message, Message):
                refused = await client.send_message(message, sender, recipients, *options)
            else:
                refused = await client.sendmail(sender or "", recipients or (), message, *options)
    except SMTPResponseException:
        if refused is None:
            raise
        # QUIT failed, but the message was accepted. The exception is ignored: if `send` raised it,
        # the caller might send the message again.
    return refused


def _check_envelope(
    message: Message, sender: str | None, recipients: str | Sequence[str] | None
) -> None:
    """Raise ValueError if the envelope has no sender or no recipient.

    Without this check, a missing sender would become the address "None", as in smtplib.
    """
    found_sender, found = envelope(message, sender, recipients)
    if found_sender == "None" and sender is None:
        raise ValueError("the message has no From field; give sender")
    if not found:
        raise ValueError("the message has no To, Cc or Bcc field; give recipients")
