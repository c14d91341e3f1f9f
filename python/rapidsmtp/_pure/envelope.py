"""The envelope of one message in the engine: its paths, and the capabilities that it needs."""

from collections.abc import Callable, Sequence
from typing import Any

from rapidsmtp._pure.address import plain_path
from rapidsmtp._pure.capability import Capabilities
from rapidsmtp._pure.command import mail, rcpt
from rapidsmtp._pure.content import Content
from rapidsmtp._pure.transaction import Transaction

MAX_PATH = 256
"""The maximum length of a path, in bytes (RFC 5321 4.5.3.1.3)."""


class Envelope:
    """The envelope of a message.

    Attributes:
        recipients: The recipients' paths.
    """

    __slots__ = ("_mail_options", "_rcpt_options", "_sender", "_utf8", "recipients")

    def __init__(self, message: Any, path_of: Callable[[str], str]) -> None:
        """Render and check an envelope, so that no later step fails because of it.

        Args:
            message: An object with the attributes of `Message`.
            path_of: The function that returns the path for an address that is not plain.

        Raises:
            ValueError: The message has no recipient, or an address or an option contains a
                forbidden character.
            TypeError: The data of the message is not bytes.
        """
        if not isinstance(message.data, bytes):
            raise TypeError(f"data must be bytes, not {type(message.data).__name__}")
        if not message.recipients:
            raise ValueError("a message needs at least one recipient")
        self._sender = _path(message.sender, path_of)
        self.recipients = [_path(each, path_of) for each in message.recipients]
        if "<>" in self.recipients:
            raise ValueError("a recipient is empty")
        self._mail_options, self._rcpt_options = message.mail_options, message.rcpt_options
        # RFC 6531 3.4: MAIL needs the parameter SMTPUTF8 if an address is not ASCII.
        is_ascii = all(path.isascii() for path in (self._sender, *self.recipients))
        self._utf8 = not is_ascii or any(
            option.upper() == "SMTPUTF8" for option in self._mail_options
        )
        mail(self._sender, self._mail_options, utf8=self._utf8, lower_case=False)
        for place, path in enumerate(self.recipients):
            if place == 0 or not path.isascii() or not plain_path(path[1:-1]):
                rcpt(path, self._rcpt_options, utf8=self._utf8, lower_case=False)

    def missing(self, capabilities: Capabilities, content: Content) -> str:
        """Return the reason why the relay cannot take the message; empty if it can."""
        mail_options = [option.upper() for option in self._mail_options]
        options = mail_options + [option.upper() for option in self._rcpt_options]
        return capabilities.missing(
            smtputf8=self._utf8,
            eight_bit=content.eight_bit or "BODY=8BITMIME" in mail_options,
            binary="BODY=BINARYMIME" in mail_options,
            dsn=any(each.startswith(("RET=", "ENVID=", "NOTIFY=", "ORCPT=")) for each in options),
            size=content.size,
        )

    def transaction(
        self,
        capabilities: Capabilities,
        content: Content,
        recipients: Sequence[int],
        *,
        lmtp: bool,
        cautious: bool,
        sequential: bool,
    ) -> Transaction:
        """Return a transaction for some of the recipients.

        Args:
            capabilities: The relay's capabilities.
            content: The content of the message.
            recipients: The indices of the recipients.
            lmtp: Whether the relay uses LMTP.
            cautious: Whether to write MAIL alone and DATA alone.
            sequential: Whether to wait for the reply to each command.
        """
        given = {option.upper().partition("=")[0] for option in self._mail_options}
        parameters = list(self._mail_options)
        if "SIZE" in capabilities and "SIZE" not in given:
            # RFC 1870 section 6: the relay can refuse the message before the body is written.
            parameters.insert(0, f"size={content.size}")
        # RFC 6152 section 3: MAIL declares a body with bytes above 127.
        if content.eight_bit and "BODY" not in given:
            parameters.append("BODY=8BITMIME")
        if self._utf8 and "SMTPUTF8" not in given:
            parameters.append("SMTPUTF8")
        return Transaction(
            self._sender,
            [self.recipients[index] for index in recipients],
            content.body,
            parameters,
            self._rcpt_options,
            utf8=self._utf8,
            lmtp=lmtp,
            mail_alone=cautious,
            # RFC 2033 4.2: an LMTP server that has accepted no recipient does not reply to the
            # terminator. So DATA waits for the replies to RCPT.
            data_alone=cautious or lmtp,
            sequential=sequential,
        )


def _path(address: str, path_of: Callable[[str], str]) -> str:
    plain = plain_path(address)
    return plain if plain is not None and len(plain) <= MAX_PATH else path_of(address)
