"""Many messages over one connection, each with its fate.

A refused message is its own affair and the next one follows. A connection is the relay's affair:
lost once it is opened again; lost again before any verdict, the run stops. What was under way
when it was lost is sent again only if its body was not handed over whole; otherwise the relay may
have it, and it is UNKNOWN (RFC 5321 section 4.2.5, RFC 1047). Whom a reply concerns, and what it
makes of a recipient, the core says; here it is only done.
"""

import contextlib
import signal
import smtplib
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rapidsmtp import _core
from rapidsmtp.cli.relay import Relay, RelayError
from rapidsmtp.many import ACCEPTED, Replies, for_all, judged, not_offered, reason, words
from rapidsmtp.message import Message
from rapidsmtp.outcome import Outcome, RecipientResult, Status

# What is under way at Ctrl-C is given so long to be answered: an answer now is worth more than
# a message of which nobody knows whether it was delivered.
_GRACE_SECONDS = 0.8
# A relay that has taken every message has nothing left to say that is worth a long wait.
_FAREWELL_SECONDS = 5.0
_LOST = "the connection was lost before the final reply"
_INTERRUPTED = "interrupted before the final reply"


class _Lost(Exception):
    """The connection is gone or out of step, and the message was not executed."""


@dataclass(slots=True)
class _Attempt:
    """A message under way."""

    message: Message
    number: int = 1
    start: float = field(default_factory=time.monotonic)

    def outcome(
        self,
        phase: str,
        results: Mapping[str, RecipientResult],
        reply: tuple[int, bytes] | None = None,
    ) -> Outcome:
        status = Status[_core.message_status([each.status.name for each in results.values()])]
        seconds = time.monotonic() - self.start
        return Outcome(
            self.message.tag,
            self.message,
            status,
            results,
            reply,
            phase,
            self.number,
            seconds,
            reason(results),
        )

    def without_reply(self, status: Status, reason: str, phase: str) -> Outcome:
        result = RecipientResult(status, None, None, reason)
        return self.outcome(phase, dict.fromkeys(self.message.recipients, result))


class Delivery:
    """One run over one relay.

    Attributes:
        interrupted: Whether Ctrl-C ended it.
    """

    def __init__(self, relay: Relay) -> None:
        self.interrupted = False
        self._relay = relay
        self._client: smtplib.SMTP | None = None
        self._losses = 0

    def connect(self) -> None:
        """Open the connection, if there is none.

        Raises:
            RelayError: The relay cannot be reached, or will not have us.
        """
        if self._client is not None and self._client.sock is None:
            self._drop()  # the client closed it itself, after a 421 say
        if self._client is None:
            self._client = self._relay.open()

    def close(self) -> None:
        """End the session politely where there is one."""
        if self._client is not None and self._client.sock is not None:
            with contextlib.suppress(OSError):
                self._client.sock.settimeout(min(_FAREWELL_SECONDS, self._relay.timeout))
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
            yield item if isinstance(item, Outcome) else self._deliver(item)
            if self.interrupted:
                return

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within this, Ctrl-C ends `send` after the message under way.

        That one loses its connection where it is not answered soon, or at the second Ctrl-C.
        """
        ours = threading.current_thread() is threading.main_thread()
        # What was told to ignore Ctrl-C (nohup, a shell's background) goes on doing so.
        if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        before = signal.signal(signal.SIGINT, lambda *_: self._interrupt())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupt(self) -> None:
        again, self.interrupted = self.interrupted, True
        client = self._client
        if client is None:
            raise KeyboardInterrupt
        if again:
            _cut(client)
            return
        timer = threading.Timer(_GRACE_SECONDS, _cut, [client])
        timer.daemon = True
        timer.start()

    def _deliver(self, message: Message) -> Outcome:
        attempt = _Attempt(message)
        for attempt.number in (1, 2):
            try:
                return self._transaction(attempt)
            except _Lost as lost:
                self._lose()
                if self.interrupted:
                    break
                if self._losses > 1:
                    raise RelayError(
                        f"the connection to {self._relay.name} was lost again: {lost}"
                    ) from None
            except KeyboardInterrupt:
                # Raised by `_interrupt`, and only while there is no connection.
                break
        return attempt.without_reply(Status.NOT_ATTEMPTED, "interrupted", "connect")

    def _transaction(self, attempt: _Attempt) -> Outcome:
        if self._client is None and self._losses > 1:
            raise RelayError(f"{self._relay.name} has lost the connection again and again")
        self.connect()
        assert self._client is not None
        fault = not_offered(self._client, attempt.message)
        if fault:
            return attempt.without_reply(Status.INVALID, fault, "build")
        outcome = self._sendmail(self._client, attempt)
        if self._client is not None:
            self._losses = 0
        return outcome

    def _sendmail(self, client: smtplib.SMTP, attempt: _Attempt) -> Outcome:
        message = attempt.message
        try:
            refused = client.sendmail(
                message.sender,
                list(message.recipients),
                message.data,
                message.mail_options,
                message.rcpt_options,
            )
        except smtplib.SMTPRecipientsRefused as error:
            return self._refused(attempt, "rcpt", error.recipients)
        except smtplib.SMTPSenderRefused as error:
            return self._refused(attempt, "mail", for_all(message, error))
        except smtplib.SMTPDataError as error:
            single: Replies = getattr(error, "recipients", {})
            return self._refused(attempt, "data", {**for_all(message, error), **single})
        except (smtplib.SMTPNotSupportedError, ValueError) as error:
            return attempt.without_reply(Status.INVALID, str(error), "build")
        except OSError as error:
            return self._disconnected(attempt, error)
        results = dict.fromkeys(message.recipients, ACCEPTED)
        results |= judged(refused)
        return attempt.outcome("body", results, getattr(refused, "reply", None))

    def _refused(self, attempt: _Attempt, phase: str, refused: Replies) -> Outcome:
        """The outcome of a message that nobody got, unless its replies concern more than it."""
        results = judged(refused)
        unknown = any(result.status is Status.UNKNOWN for result in results.values())
        for code, text in refused.values():
            blame = _core.diagnose(phase, code, text, _core.enhanced_status(code, text))
            if phase == "data" and unknown:
                # A reply that is none, perhaps to the whole body: nothing is sent again.
                if blame in ("connection", "relay"):
                    self._lose()
            elif blame == "relay":
                raise RelayError(f"{self._relay.name} would not have us: {_line(code, text)}")
            elif blame == "connection" and not self._stands(attempt, code):
                raise _Lost(f"reply {_line(code, text)}")
        return attempt.outcome(phase, results)

    def _stands(self, attempt: _Attempt, code: int) -> bool:
        """Whether a refusal that blames the connection is the message's own after all.

        "Too many messages", said once more over a new connection, is about somebody's mailbox.
        """
        is_open = self._client is not None and self._client.sock is not None
        refusal = _core.recipient_status(code) in ("REFUSED", "DEFERRED")
        return attempt.number > 1 and is_open and refusal

    def _disconnected(self, attempt: _Attempt, error: OSError) -> Outcome:
        # A fault that does not say whether the body is gone may have come after it.
        if not getattr(error, "body_sent", True):
            raise _Lost(str(error))
        self._lose()
        reason = _INTERRUPTED if self.interrupted else f"{_LOST}: {error}"
        lost = RecipientResult(Status.UNKNOWN, None, None, reason)
        results = dict.fromkeys(attempt.message.recipients, lost)
        results |= judged(getattr(error, "recipients", {}))
        results |= dict.fromkeys(getattr(error, "accepted", ()), ACCEPTED)
        return attempt.outcome("body", results)

    def _lose(self) -> None:
        if self._client is not None:
            self._losses += 1
            self._drop()

    def _drop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _cut(client: smtplib.SMTP) -> None:
    """End the reading and writing of another thread; safe on a client that is closed."""
    if isinstance(client.sock, socket.socket):
        with contextlib.suppress(OSError):
            # Not the method of an SSLSocket, which would take the keys away from its reader.
            socket.socket.shutdown(client.sock, socket.SHUT_RDWR)


def _line(code: int, text: bytes) -> str:
    return f"{code} {words(text)}".rstrip()
