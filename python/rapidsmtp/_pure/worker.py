"""A worker: one thread that opens a connection, makes errands over it, and ends it."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence

from rapidsmtp._pure import judgement
from rapidsmtp._pure.capability import exceeds_size
from rapidsmtp._pure.connect import connect, connect_path
from rapidsmtp._pure.crew import Crew
from rapidsmtp._pure.dialogue import Delivery, Dialogue, Unavailable, literal_of
from rapidsmtp._pure.job import Errand, Job
from rapidsmtp._pure.judgement import Judgement, judge
from rapidsmtp._pure.login import log_in
from rapidsmtp._pure.reply import Reply
from rapidsmtp._pure.settings import Settings
from rapidsmtp._pure.stuffing import LARGE, stuff, stuffed_pieces
from rapidsmtp._pure.transaction import ACCEPTED, DATA_REFUSED, SENDER_REFUSED, Transaction
from rapidsmtp._pure.wire import Lost, Wire

NAME_SECONDS = 2.0
"""The longest that this host may take to say its name."""

IDLE = 1.0
"""Seconds of rest after which a closed connection says nothing about how many messages it takes."""

_own_name: list[str] = []
"""This host's name, once it is known: asking for it can stall, so that is done once a process."""


class Board:
    """What the workers of one engine have in common, beside the crew.

    Attributes:
        settings: the engine's.
        context: the settings of TLS.
        session: of the last TLS connection, to be resumed.
        wires: the open connections.
        descriptors: those of their sockets; read without a lock, after a fork.
        written: octets that the kernel took.
        pipelining: the mode in force; None before the first EHLO.
        tell: takes a line of the trace; None where nobody wants it.
        ask_password: gives the password, or raises `Unavailable`.
    """

    def __init__(
        self,
        settings: Settings,
        tell: Callable[[str], None] | None,
        ask_password: Callable[[], str],
    ) -> None:
        self.settings = settings
        self.context = settings.tls_context()
        self.session: ssl.SSLSession | None = None
        self.wires: set[Wire] = set()
        self.descriptors: set[int] = set()
        self.written = 0
        self._numbers = 0
        self.pipelining: str | None = None
        self.tell = tell
        self.ask_password = ask_password
        self._lock = threading.Lock()

    def count(self, octets: int) -> None:
        """The kernel took so many octets."""
        with self._lock:
            self.written += octets

    def number(self) -> int:
        """A number for a new connection, from 1 on."""
        with self._lock:
            self._numbers += 1
            return self._numbers


class Worker:
    """A thread of the engine and its connection.

    Args:
        crew: where it learns what to do.
        board: what it shares with the others.
    """

    def __init__(self, crew: Crew, board: Board) -> None:
        self.wire: Wire | None = None
        self._crew = crew
        self._board = board
        self._settings = board.settings
        self._descriptor = -1
        self._number = 0
        self._rested = 0.0
        self._pipelines = False
        self._used = False

    def start(self) -> None:
        """Begin. The thread must not hold up the interpreter's exit: faces close their engines."""
        threading.Thread(target=self.run, name="rapidsmtp", daemon=True).start()

    def run(self) -> None:
        """Send until there is nothing left to do, in the calling thread."""
        try:
            first = True
            while self._crew.wants(self, first=first):
                first = False
                self._connect_and_serve()
        except Exception as error:  # a fault of ours must not leave a message without an outcome
            self._close("internal fault")
            self._crew.fail(self, error)
            self._crew.dismiss(self)

    def _connect_and_serve(self) -> None:
        try:
            dialogue = self._open()
        except _NotNeeded:
            self._crew.unneeded()
            return
        except Unavailable as fault:
            self._close(fault.line)
            self._crew.unavailable(fault)
            return
        self._crew.connected()
        self._rested = time.monotonic()
        self._used = False
        end = _End("the sender ended it")
        try:
            end = self._serve(dialogue)
        finally:
            self._close(end.reason)
            messages = dialogue.messages - end.unfinished
            self._crew.disconnected(
                messages,
                end.reason,
                by_relay=end.by_relay,
                full=end.full,
                stalled=end.stalled,
                pipelined=self._pipelines,
            )

    # Opening

    def _open(self) -> Dialogue:
        """A connection that is ready to send.

        Raises:
            Unavailable: there is none to be had.
            _NotNeeded: there is nothing to be sent any more.
        """
        settings = self._settings
        try:
            sock = self._connect()
            if self._crew.is_done():
                sock.close()
                raise _NotNeeded
            dialogue = Dialogue(self._attach(sock), settings, self._tell())
            self._introduce(dialogue, sock)
        except TimeoutError:
            raise Unavailable(
                f"no answer from {settings.relay} in time", unreachable=True
            ) from None
        except (socket.gaierror, UnicodeError):  # no such name, or none that could be
            line = f"the host name {settings.host!r} does not resolve"
            raise Unavailable(line, unreachable=True) from None
        except Lost as error:
            raise Unavailable(f"no connection to {settings.relay}: {error}") from None
        except OSError as error:
            line = f"no connection to {settings.relay}: {error.strerror or error}"
            raise Unavailable(line, unreachable=True) from None
        return dialogue

    def _connect(self) -> socket.socket:
        settings = self._settings
        seconds = settings.timeouts["connect"]
        if settings.path is not None:
            return connect_path(settings.path, seconds)
        return connect(settings.host, settings.port, settings.source_address, seconds)

    def _attach(self, sock: socket.socket) -> Wire:
        board = self._board
        self._number = board.number()
        self._descriptor = sock.fileno()
        board.descriptors.add(self._descriptor)
        self.wire = Wire(sock, board.count)
        board.wires.add(self.wire)
        if board.tell is not None:
            board.tell(f"[{self._number}] connected to {self._settings.relay}")
        return self.wire

    def _introduce(self, dialogue: Dialogue, sock: socket.socket) -> None:
        """Greeting, EHLO, TLS and AUTH, in the order of the scheme."""
        settings, name = self._settings, self._name(sock)
        if settings.scheme == "smtps":
            self._secure(dialogue)
        dialogue.greet()
        dialogue.hello(name)
        if settings.starttls != "off" and settings.scheme != "smtps":
            if "starttls" in dialogue.features:
                dialogue.start_tls()
                self._secure(dialogue)
                dialogue.hello(name)
            elif settings.starttls == "required":
                line = f"{settings.relay} offers no STARTTLS, which is required"
                raise Unavailable(line, stops=True)
        if settings.user or settings.mechanism:
            log_in(dialogue, settings, self._board.ask_password)
        wanted = settings.pipelining != "off" and not self._crew.sequential
        self._pipelines = wanted and "pipelining" in dialogue.features
        self._board.pipelining = "transaction" if self._pipelines else "off"

    def _secure(self, dialogue: Dialogue) -> None:
        board = self._board
        deadline = time.monotonic() + self._settings.timeouts["tls"]
        dialogue.secure(board.context, board.session, deadline)

    def _name(self, sock: socket.socket) -> str:
        name = self._settings.local_hostname
        return name or name_of_this_host() or literal_of(sock)

    def _tell(self) -> Callable[[str], None] | None:
        tell = self._board.tell
        if tell is None:
            return None
        number = self._number
        return lambda line: tell(f"[{number}] {line}")

    # Serving

    def _serve(self, dialogue: Dialogue) -> "_End":
        """Make errands until the connection has ended, or is to be."""
        while not self._is_worn(dialogue):
            timeouts = self._settings.timeouts
            rests_until = min(self._rested + timeouts["idle"], dialogue.opened + timeouts["age"])
            errand = self._crew.next(self, rests_until)
            if errand is None:
                break
            lost = dialogue.look()
            if lost:
                rested = time.monotonic() - self._rested > IDLE
                self._crew.put_back(self, lost, used=rested or dialogue.messages > 0)
                return _End(lost, by_relay=not rested)
            end = self._deliver(dialogue, errand)
            if end is not None:
                return end
            self._rested = time.monotonic()
        if not dialogue.look():
            dialogue.quit()
            known = self._crew.governor.messages_per_connection
            if known is not None and dialogue.messages >= known:
                self._crew.filled()
        return _End("the sender ended it")

    def _is_worn(self, dialogue: Dialogue) -> bool:
        """Whether the connection has carried what it may."""
        limits = _limits(dialogue.features)
        most = [
            each
            for each in (self._crew.governor.messages_per_connection, limits.get("mailmax"))
            if each is not None
        ]
        age = time.monotonic() - dialogue.opened
        return age > self._settings.timeouts["age"] or any(dialogue.messages >= n for n in most)

    def _deliver(self, dialogue: Dialogue, errand: Errand) -> "_End | None":
        """Make one errand; how the connection ended by it, or None."""
        job = errand.job
        limits = _limits(dialogue.features)
        known = (self._crew.governor.recipients_per_message, limits.get("rcptmax"))
        most = min(self._settings.max_recipients, *(n for n in known if n is not None), 1 << 30)
        rest = errand.split(most, limits.get("rcptdomainmax"))
        if rest is not None:
            self._crew.leave(rest)
        body = job.message.data
        is_large = len(body) >= LARGE
        if is_large:
            size = sum(size for _, size in stuffed_pieces(body))
        else:
            body, size = stuff(body)
        fault = _not_offered(dialogue.features, job, size)
        if fault:
            self._crew.refuse(self, fault)
            return None
        count = len(errand.indices)
        transaction = self._transaction(dialogue, errand, body, size)
        delivery = dialogue.deliver(transaction, count, body if is_large else None)
        judgements = judge(delivery, count)
        if not self._used:
            judgements = judgement.on_unused(judgements)
        self._used = self._used or not judgement.says_full(judgements)
        transaction = delivery.transaction
        begun = delivery.refused_before_body is not None
        final = transaction.reply if begun and _is_final(transaction) else None
        self._crew.settle(self, judgements, final)
        return self._end_of(dialogue, delivery, judgements)

    def _transaction(
        self, dialogue: Dialogue, errand: Errand, body: bytes, size: int
    ) -> Transaction:
        job = errand.job
        return _Transaction(
            job.sender,
            [job.recipients[index] for index in errand.indices],
            body,
            _mail_parameters(dialogue.features, job, size),
            job.message.rcpt_options,
            utf8=job.utf8,
            lmtp=self._settings.lmtp,
            mail_alone=dialogue.wary,
            # LMTP's data mode for nobody can only be left by dropping the connection, so DATA
            # waits there until there is somebody: mostly that is a round trip on one machine.
            data_alone=dialogue.wary or self._settings.lmtp,
            sequential=not self._pipelines,
        )

    def _end_of(
        self, dialogue: Dialogue, delivery: Delivery, judgements: list[Judgement]
    ) -> "_End | None":
        transaction = delivery.transaction
        actions = {each.action for each in judgements}
        reason = delivery.lost or transaction.fault or "the relay ended it"
        if transaction.close:
            # A stall and "slower" say nothing about how many messages a connection carries, and
            # a doubtful reply to RCPT is no goodbye.
            gone = delivery.lost or judgement.BACK in actions
            ended = bool(gone) and not delivery.timed_out and judgement.SLOWER not in actions
            return _End(reason, by_relay=ended, stalled=delivery.timed_out, unfinished=1)
        if judgement.IN_DOUBT in actions:
            return _End("the relay gave no valid reply", unfinished=1)
        if judgement.BACK in actions:
            dialogue.quit()
            if judgement.says_full(judgements):
                return _End("the relay wants another connection", full=True, unfinished=1)
            return _End("the relay gave an answer that is none", by_relay=True, unfinished=1)
        # After a refused MAIL the server has nothing open, and Exim counts each RSET.
        if transaction.verdict not in (ACCEPTED, SENDER_REFUSED) and not dialogue.reset():
            return _End("the relay took no RSET", by_relay=True)
        return None

    def _close(self, reason: str) -> None:
        wire, self.wire = self.wire, None
        if wire is None:
            return
        if wire.tls is not None:
            with contextlib.suppress(ValueError):
                self._board.session = wire.tls.session
        self._board.wires.discard(wire)
        self._board.descriptors.discard(self._descriptor)
        wire.close()
        if self._board.tell is not None:
            self._board.tell(f"[{self._number}] closed: {reason}")


class _Transaction(Transaction):
    """A transaction in which any 2yz to MAIL or RCPT is a yes (RFC 5321 4.2.1)."""

    __slots__ = ()

    def _receive_reply(self, reply: Reply) -> None:
        is_envelope = self._mail_reply is None or self._rcpt_replies < self._rcpt_sent
        if is_envelope and reply[0] // 100 == 2:
            reply = (250, reply[1])
        super()._receive_reply(reply)


class _NotNeeded(Exception):
    """While a connection was made all the work was done."""


class _End:
    """How a connection ended.

    Attributes:
        reason: in words, for the trace.
        by_relay: whether the relay ended it.
        full: whether it said that it had carried too many messages.
        stalled: whether it was ended for want of a reply.
        unfinished: transactions that were not carried out on it.
    """

    def __init__(
        self,
        reason: str,
        *,
        by_relay: bool = False,
        full: bool = False,
        stalled: bool = False,
        unfinished: int = 0,
    ) -> None:
        self.reason = reason
        self.by_relay = by_relay
        self.full = full
        self.stalled = stalled
        self.unfinished = unfinished


def _is_final(transaction: Transaction) -> bool:
    return transaction.verdict in (ACCEPTED, DATA_REFUSED)


def _limits(features: dict[str, str]) -> dict[str, int]:
    """What LIMITS says (RFC 9422): numbers by name in lower case."""
    limits = {}
    for part in features.get("limits", "").lower().split():
        name, _, value = part.partition("=")
        if value.isascii() and value.isdigit() and 0 < len(value) < 7 and int(value) > 0:
            limits[name] = int(value)
    return limits


def _mail_parameters(features: dict[str, str], job: Job, size: int) -> list[str]:
    """The parameters of MAIL: ours that the message does not give itself, then its own."""
    given = [option.upper() for option in job.message.mail_options]
    parameters = []
    if "size" in features and not _has(given, "SIZE="):
        parameters.append(f"size={size}")
    parameters += job.message.mail_options
    if not job.message.data.isascii() and not _has(given, "BODY="):
        parameters.append("BODY=8BITMIME")
    if job.utf8 and "SMTPUTF8" not in given:
        parameters.append("SMTPUTF8")
    return parameters


def _not_offered(features: dict[str, str], job: Job, size: int) -> str:
    """What a message needs and the relay does not offer, in words; empty where it has all."""
    mail_options = [option.upper() for option in job.message.mail_options]
    rcpt_options = [option.upper() for option in job.message.rcpt_options]
    if exceeds_size(features.get("size", ""), size):
        return f"the message has {size} octets, and the relay takes {features['size']}"
    needs = {
        "SMTPUTF8": job.utf8,
        "8BITMIME": "BODY=8BITMIME" in mail_options or not job.message.data.isascii(),
        "BINARYMIME": "BODY=BINARYMIME" in mail_options,
        "DSN": _has(mail_options, "RET=", "ENVID=") or _has(rcpt_options, "NOTIFY=", "ORCPT="),
    }
    for name, needed in needs.items():
        # BINARYMIME needs CHUNKING too, which this half does not know.
        if needed and (name == "BINARYMIME" or name.lower() not in features):
            return f"the relay does not offer {name}, which the message needs"
    return ""


def _has(options: Sequence[str], *names: str) -> bool:
    return any(option.startswith(names) for option in options)


def name_of_this_host() -> str:
    """This host's domain; empty where it has none, or does not say so in time."""
    if not _own_name:
        asked = threading.Thread(target=_ask_name, daemon=True)
        # From 3.12 on no thread can be started any more when the interpreter ends.
        with contextlib.suppress(RuntimeError):
            asked.start()
            asked.join(NAME_SECONDS)
    return _own_name[0] if _own_name else ""


def _ask_name() -> None:
    name = socket.getfqdn()
    if "." in name and name.isascii() and name.isprintable() and " " not in name:
        _own_name.append(name)
