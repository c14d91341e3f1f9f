"""Many messages over one connection, each with its fate.

A refused message is its own affair and the next one follows. A connection is the relay's affair:
lost once it is opened again; lost again before any verdict, the run stops. What was under way
when it was lost is sent again only if its last byte had not been handed to the socket; otherwise
the relay may have it, and it is UNKNOWN (RFC 5321 section 4.2.5, RFC 1047).
"""

import contextlib
import re
import smtplib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rapidsmtp.cli.relay import Relay, RelayError
from rapidsmtp.message import Message
from rapidsmtp.outcome import Outcome, RecipientResult, Status

# RFC 4954 section 6: these say that nobody's mail is taken on this connection.
_RELAY_WANTS_MORE = (530, 538)
_SERVICE_CLOSES = 421
_ENHANCED_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?= |$)")


class _Lost(Exception):
    """The connection is gone or out of step."""


class _Watch:
    """Sees each write of a client through smtplib's audit event, which all of them fire."""

    def __init__(self) -> None:
        self.body_ended = False
        self._client: Any = None
        sys.addaudithook(self._hook)

    def begin(self, client: smtplib.SMTP) -> None:
        self._client, self.body_ended = client, False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "smtplib.send" and arguments[0] is self._client:
            data = arguments[1]
            end = "\r\n.\r\n" if isinstance(data, str) else b"\r\n.\r\n"
            self.body_ended = data[-5:] == end


class Delivery:
    """One run over one relay.

    Attributes:
        interrupted: Whether Ctrl-C ended it.
    """

    def __init__(self, relay: Relay) -> None:
        self.interrupted = False
        self._relay = relay
        self._client: smtplib.SMTP | None = None
        self._watch = _Watch()
        self._losses = 0

    def connect(self) -> None:
        """Open the connection, if there is none.

        Raises:
            RelayError: The relay cannot be reached, or will not have us.
        """
        if self._client is None:
            self._client = self._relay.open()

    def close(self) -> None:
        """End the session politely where there is one."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.quit()
        self._drop()

    def send(self, items: Iterable[Message | Outcome]) -> Iterator[Outcome]:
        """Send what `Template.merge` yields.

        Yields:
            One outcome for each item, in their order.

        Raises:
            RelayError: The relay is lost. The item that was under way has no outcome then: it
                was not sent.
        """
        for item in items:
            if isinstance(item, Outcome):
                yield item
                continue
            yield self._deliver(item)
            if self.interrupted:
                return

    def _deliver(self, message: Message) -> Outcome:
        start = time.monotonic()
        for attempt in (1, 2):
            try:
                return self._transaction(message, attempt, start)
            except _Lost as lost:
                self._drop()
                self._losses += 1
                if self._watch.body_ended:
                    reason = f"the connection was lost before the final reply: {lost}"
                    return self._outcome(message, Status.UNKNOWN, reason, attempt, start)
                if self._losses > 1:
                    raise RelayError(
                        f"the connection to {self._relay.name} was lost again: {lost}"
                    ) from None
            except KeyboardInterrupt:
                self.interrupted = True
                self._drop()
                status = Status.UNKNOWN if self._watch.body_ended else Status.NOT_ATTEMPTED
                return self._outcome(message, status, "interrupted", attempt, start)
        raise AssertionError("a second loss raises")

    def _transaction(self, message: Message, attempt: int, start: float) -> Outcome:
        if self._client is None and self._losses > 1:
            raise RelayError(f"{self._relay.name} has lost the connection again and again")
        self._watch.body_ended = False
        self.connect()
        assert self._client is not None
        client = self._client
        self._watch.begin(client)
        fault = _not_offered(client, message)
        if fault:
            return self._outcome(message, Status.INVALID, fault, attempt, start, "build")
        outcome = self._sendmail(client, message, attempt, start)
        self._losses = 0
        return outcome

    def _sendmail(
        self, client: smtplib.SMTP, message: Message, attempt: int, start: float
    ) -> Outcome:
        try:
            refused = client.sendmail(
                message.sender,
                list(message.recipients),
                message.data,
                message.mail_options,
                message.rcpt_options,
            )
        except smtplib.SMTPRecipientsRefused as error:
            self._raise_if_lost(code for code, _ in error.recipients.values())
            refused, phase, reply = error.recipients, "rcpt", None
        except smtplib.SMTPSenderRefused as error:
            self._raise_if_lost([error.smtp_code])
            if error.smtp_code in _RELAY_WANTS_MORE:
                raise RelayError(f"{self._relay.name} would not have us: {_line(error)}") from None
            refused, phase, reply = _for_all(message, error), "mail", None
        except smtplib.SMTPDataError as error:
            phase = "body" if self._watch.body_ended else "data"
            if phase == "body" and 200 <= error.smtp_code < 300:
                refused = {}
            else:
                refused = _for_all(message, error)
            reply = (error.smtp_code, _bytes(error.smtp_error)) if phase == "body" else None
            self._raise_if_lost([error.smtp_code])
        except smtplib.SMTPNotSupportedError as error:
            return self._outcome(message, Status.INVALID, str(error), attempt, start, "build")
        except OSError as error:
            raise _Lost(str(error) or type(error).__name__) from None
        except ValueError as error:
            return self._outcome(message, Status.INVALID, str(error), attempt, start, "build")
        else:
            phase, reply = "body", getattr(refused, "reply", None)
        results = _results(message, refused)
        status = _overall(results)
        reason = _reason(results)
        seconds = time.monotonic() - start
        return Outcome(
            message.tag, message, status, results, reply, phase, attempt, seconds, reason
        )

    def _raise_if_lost(self, codes: Iterable[int]) -> None:
        """A 421, and anything that is no refusal, means the connection and not the message."""
        for code in codes:
            if code == _SERVICE_CLOSES:
                # Read where the message's own reply was due: it was not taken.
                self._watch.body_ended = False
            if code == _SERVICE_CLOSES or not (200 <= code < 300 or 400 <= code < 600):
                raise _Lost(f"reply {code}")

    def _outcome(
        self,
        message: Message,
        status: Status,
        reason: str,
        attempt: int,
        start: float,
        phase: str = "body",
    ) -> Outcome:
        results = {
            address: RecipientResult(status, None, None, reason) for address in message.recipients
        }
        seconds = time.monotonic() - start
        return Outcome(message.tag, message, status, results, None, phase, attempt, seconds, reason)

    def _drop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _not_offered(client: smtplib.SMTP, message: Message) -> str:
    client.ehlo_or_helo_if_needed()
    wanted = {"SMTPUTF8": "smtputf8", "BODY=8BITMIME": "8bitmime"}
    for option in message.mail_options:
        if option in wanted and not client.has_extn(wanted[option]):
            return f"the relay does not offer {wanted[option].upper()}, which the message needs"
    return ""


def _for_all(
    message: Message, error: smtplib.SMTPResponseException
) -> dict[str, tuple[int, bytes]]:
    reply = (error.smtp_code, _bytes(error.smtp_error))
    return dict.fromkeys(message.recipients, reply)


def _results(
    message: Message, refused: Mapping[str, tuple[int, bytes]]
) -> dict[str, RecipientResult]:
    results = {}
    for address in message.recipients:
        if address not in refused:
            results[address] = RecipientResult(Status.ACCEPTED, None, None, "")
            continue
        code, text = refused[address]
        words = " ".join(_bytes(text).decode("utf-8", "replace").split())
        enhanced = _ENHANCED_STATUS.match(words)
        status = Status.DEFERRED if 400 <= code < 500 else Status.REFUSED
        results[address] = RecipientResult(status, code, enhanced and enhanced[0], words)
    return results


def _overall(results: Mapping[str, RecipientResult]) -> Status:
    statuses = {result.status for result in results.values()}
    return statuses.pop() if len(statuses) == 1 else Status.PARTIAL


def _reason(results: Mapping[str, RecipientResult]) -> str:
    """The first refusal; without the address, so that a report can count equal ones."""
    for address, result in results.items():
        if result.status is not Status.ACCEPTED:
            return f"{result.code} {result.text}".replace(address, "\N{HORIZONTAL ELLIPSIS}")
    return ""


def _bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def _line(error: smtplib.SMTPResponseException) -> str:
    text = _bytes(error.smtp_error).decode("utf-8", "replace")
    return " ".join(f"{error.smtp_code} {text}".split())
