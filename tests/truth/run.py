"""One run of the truth test, with the relay, the settings and the messages drawn from a seed."""

import functools
import random
import ssl
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from sys import _current_frames
from typing import Any

import trustme

from rapidsmtp import (
    TLS,
    Backoff,
    Message,
    Outcome,
    RelayError,
    Sender,
    Status,
    Timeouts,
)
from truth.check import OutcomeChecker, cited
from truth.plan import LOSSES, REPLIES, Plan
from truth.server import FaultyServer

MODES = ("off", "transaction", "stream", "window", "auto")
TRANSPORTS = ("plain", "starttls", "smtps", "lmtp")
FLAVOURS = ("clean", "refusing", "refusing", "losing", "losing", "losing", "losing", "stopping")
"""The kinds of runs. The seed selects one: no faults (`clean`), only refusals (`refusing`), all
faults (`losing`), or all faults and a relay that sends 530 (`stopping`)."""

BODIES = (*("plain",) * 8, "dots", "bare", "open", "empty", "large", "smuggled")

LIMIT = 30.0
"""The time limit of a run, in seconds."""

LONG_TIMEOUT, SHORT_TIMEOUT = 8.0, 0.35
"""The sender's time limits for a reply, in seconds. Runs without stalls use `LONG_TIMEOUT`, which
is enough on a busy machine. Runs with stalls use `SHORT_TIMEOUT`."""

STOPPED = 530


@functools.cache
def certificates() -> tuple[ssl.SSLContext, bytes]:
    """Return the TLS settings of the servers, and the certificate authority in PEM."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context, authority.cert_pem.bytes()


@dataclass
class Run:
    """One run of the truth test.

    Attributes:
        seed: The seed from which all choices are drawn.
        mode: The `pipelining` setting of the sender.
        transport: One of `TRANSPORTS`.
        messages: The messages that the sender accepted.
        outcomes: The outcomes of these messages.
        error: The exception that stopped the sender.
        trace: The trace of the sender. Not every seed enables the trace.
    """

    seed: int
    mode: str
    transport: str
    messages: list[Message] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    error: BaseException | None = None
    trace: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.flavour = FLAVOURS[self.seed % len(FLAVOURS)]
        self.random = random.Random(f"{self.seed} {self.mode} {self.transport}")
        self.exact = self.flavour != "stopping" and self.random.random() < 0.7
        self.plan = self._plan()
        self.messages = [self._message(number) for number in range(self.random.randint(20, 80))]
        self.options = self._options()

    # Drawn from the seed

    def _plan(self) -> Plan:
        chance = self.random
        often = {"PIPELINING": 0.9, "CHUNKING": 0.8, "8BITMIME": 0.7, "ENHANCEDSTATUSCODES": 0.5}
        extensions = tuple(name for name, share in often.items() if chance.random() < share)
        clean, losing = self.flavour == "clean", self.flavour in ("losing", "stopping")
        stalls = chance.choice((0, 0, 1, 2)) if losing else 0
        return Plan(
            seed=self.seed,
            lmtp=self.transport == "lmtp",
            extensions=extensions,
            decoys=chance.choice(((), ("CHUNKING", "8BITMIME"), ("PIPELINING",))),
            size=chance.choice((None, None, 150_000, 10_000_000)),
            discards=chance.random() < 0.8,
            holds_replies=chance.random() < 0.5,
            lenient=chance.random() < 0.3,
            multiline=chance.random() < 0.3,
            drip=chance.random() < 0.1,
            most_recipients=chance.choice((None, None, 1, 2, 3)),
            most_messages=chance.choice((None, None, None, 4, 9)) if losing else None,
            probability=0.0 if clean else chance.choice((0.02, 0.05, 0.1)),
            losses=(5 if self.exact else 12) if losing else 0,
            stalls=stalls,
            faults=(*LOSSES, *REPLIES) if losing else () if clean else REPLIES,
            stop_after=chance.randint(0, 30) if self.flavour == "stopping" else None,
        )

    def _options(self) -> dict[str, Any]:
        chance = self.random
        seconds = SHORT_TIMEOUT if self.plan.stalls else LONG_TIMEOUT
        names = ("greeting", "command", "mail", "rcpt", "data", "block", "body")
        options: dict[str, Any] = {
            "connections": chance.randint(1, 4),
            "pipelining": self.mode,
            "window": chance.randint(2, 16),
            "max_recipients": chance.choice((1, 2, 100, 100)),
            "max_messages_per_connection": chance.choice((None, None, None, 1, 7)),
            "max_attempts": 8 if self.exact else 3,
            "backoff": Backoff(base=0.005, factor=2.0, maximum=0.04),
            "on_unknown": chance.choice(("report", "report", "report", "resend")),
            "timeouts": Timeouts(**dict.fromkeys(names, seconds), quit=0.3),
            "queue_size": chance.choice((10_000, 10_000, 10, 3)),
            "local_hostname": "client.example",
        }
        if self.transport in ("starttls", "smtps"):
            options["tls"] = TLS(ca_file=certificates()[1])
        if self.seed % 4:
            options["trace"] = self.trace.append
        return options

    def _message(self, number: int) -> Message:
        chance, plain = self.random, self.flavour == "clean"
        sender = "" if number == 3 and chance.random() < 0.3 else f"s{number}@truth.example"
        heading = b""
        if not plain and chance.random() < 0.15:
            sender = chance.choice(("banned", "slow")) + f"-{number}@truth.example"
        elif not plain and chance.random() < 0.1:
            heading = chance.choice((b"X-Refuse: yes\r\n", b"X-Defer: once\r\n"))
        kinds = ["ok"] * 6 + ["forward"]
        if not plain:
            kinds += ["never", "grey", "later", "full"]
        recipients = [
            f"{chance.choice(kinds)}-{number}-{place}@truth.example"
            for place in range(chance.choice((1, 1, 1, 2, 3, 5)))
        ]
        heading += b"X-Number: %d of %d\r\n\r\n" % (number, self.seed)
        tag = ("tag", number)
        return Message(sender, recipients, self._data(heading, number), tag=tag)

    def _data(self, heading: bytes, number: int) -> bytes:
        chance = self.random
        smuggled = (
            b".\r\nRSET\r\nMAIL FROM:<smuggled@evil.example>\r\nRCPT TO:<ok-s@evil.example>\r\n"
            b"DATA\r\nsmuggled\r\n.\r\n"
        )
        match chance.choice(BODIES):
            case "dots":
                return heading + b".\r\n..\r\n.x\r\n\r\n...\r\n." + b"\r\n" * chance.randint(0, 1)
            case "bare":
                return heading + b"a\nb\rc\n.\nd\r.\re\r\n" + b"\r" * chance.randint(0, 1)
            case "open":
                return heading + b"no line end"
            case "empty":
                return b""
            case "large":
                line = b"%064d\r\n" % number
                size = chance.choice((66_000, 66_000, 66_000, 70_000, 140_000, 300_000))
                return heading + line * (size // len(line))
            case "smuggled":
                return heading + smuggled
        lines = range(chance.randint(0, 40))
        body = b"".join(b"line %d of %d\r\n" % (each, number) for each in lines)
        return heading + body + (b"\xc3\xa4\r\n" if chance.random() < 0.1 else b"")

    # The run

    def go(self) -> list[str]:
        """Send the messages, and return the differences between their outcomes and the record."""
        tls = certificates()[0] if self.transport in ("starttls", "smtps") else None
        with FaultyServer(self.plan, tls=tls, implicit=self.transport == "smtps") as server:
            self.server = server
            thread = threading.Thread(target=self._send, daemon=True)
            thread.start()
            thread.join(LIMIT)
            if thread.is_alive():
                frames = _current_frames()
                stacks = [
                    "".join([f"-- {each.name}\n", *traceback.format_stack(frames[each.ident])])
                    for each in threading.enumerate()
                    if each.ident in frames
                ]
                self.trace += [*stacks, f"stats: {self.sender.stats()}"]
                return [f"the sender hangs: {len(self.outcomes)} of {len(self.messages)} outcomes"]
            server.settle()
            return self._check_outcomes()

    def _send(self) -> None:
        start = time.monotonic()
        try:
            self._send_by_one_of_the_ways()
        except Exception as error:
            self.error = error
        self.seconds = time.monotonic() - start

    def _send_by_one_of_the_ways(self) -> None:
        scheme = {"smtps": "smtps", "lmtp": "lmtp"}.get(self.transport, "smtp")
        login = "user:secret@" if self.transport in ("starttls", "smtps") and self.seed % 3 else ""
        query = "?starttls=required" if self.transport == "starttls" else ""
        url = f"{scheme}://{login}127.0.0.1:{self.server.port}/{query}".replace("/?", "?")
        with Sender(url.rstrip("/"), **self.options) as sender:
            self.sender = sender
            way = self.random.choice(("send", "send", "generator", "submit"))
            if way == "submit":
                futures = []
                for message in self.messages:
                    try:
                        futures.append(sender.submit(message))
                    except RelayError as error:
                        self.error = error
                        break
                self.messages = self.messages[: len(futures)]
                self.outcomes += (future.result(LIMIT) for future in futures)
                return
            taken: list[Message] = []
            source = iter(self.messages)
            given = (taken.append(each) or each for each in source)
            try:
                for outcome in sender.send(self.messages if way == "send" else given):
                    self.outcomes.append(outcome)
            finally:
                if self.flavour == "stopping":
                    # Remove the messages that the sender did not accept, because they have no
                    # outcome.
                    reported = {id(outcome.message) for outcome in self.outcomes}
                    listed = self.messages if way == "send" else taken
                    self.messages = [
                        each for each in listed if way != "send" or id(each) in reported
                    ]

    # The comparison

    def _check_outcomes(self) -> list[str]:
        record = self.server.record
        window = 1
        if self.mode == "window" and not self.plan.lmtp:
            window = self.options["window"]
        problems = OutcomeChecker(
            record,
            self.messages,
            self.outcomes,
            resend=self.options["on_unknown"] == "resend",
            window=window,
        ).problems_found()
        problems += self._errors()
        if self.flavour in ("clean", "refusing"):
            # Over LMTP, the client must close the connection after a 354 without an accepted
            # recipient, so this close is not a problem.
            dropping = self.plan.lmtp and self.plan.lenient
            problems += [
                f"connection {each.number} was closed without QUIT"
                for each in record.connections
                if each.abandoned and each.used and not dropping
            ]
            problems += [f"{o.message} is UNKNOWN" for o in self._with(Status.UNKNOWN)]
        for outcome in self.outcomes:
            problems += self._expected(outcome)
        return problems

    def _with(self, status: Status) -> list[Outcome]:
        return [each for each in self.outcomes if each.status is status]

    def _errors(self) -> list[str]:
        if self.error is None:
            stopped = self._with(Status.NOT_ATTEMPTED) if self.flavour == "stopping" else []
            return ["NOT_ATTEMPTED without a RelayError"] if stopped and self.exact else []
        if isinstance(self.error, RelayError) and self.flavour == "stopping":
            return []
        text = "".join(traceback.format_exception(self.error))
        return [f"the sender raised {text}"]

    def _expected(self, outcome: Outcome) -> list[str]:
        """Check the outcome of each recipient.

        The plan determines the outcome if the number of attempts is large enough.
        """
        message = outcome.message
        assert message is not None
        size, data = self.plan.size, message.data
        plain = data.isascii() or "8BITMIME" in self.plan.extensions
        fits = size is None or len(data) <= size - 100
        surely_invalid = not plain or (size is not None and len(data) > size)
        if surely_invalid and outcome.status is not Status.NOT_ATTEMPTED:
            if outcome.status is Status.INVALID:
                return []
            return [f"{message.sender} is {outcome.status}: the relay does not support it"]
        if outcome.status is Status.INVALID and fits:
            return [f"{message.sender} is INVALID: {outcome.reason}"]
        if not self.exact and self.flavour != "clean":
            return []
        return [
            f"{message.sender} to {recipient} is {result.status}, against the plan: {result.text}"
            for recipient, result in outcome.recipients.items()
            if not self._is_planned(recipient, result)
        ]

    def _is_planned(self, recipient: str, result: Any) -> bool:
        if result.status in (Status.ACCEPTED, Status.UNKNOWN):
            return True
        if result.status is Status.REFUSED:
            return cited(result.text, self.server.record) is not None and self.flavour != "clean"
        return result.status is Status.DEFERRED and recipient.startswith("later")

    def write(self, path: Path) -> None:
        """Write a file with the data for the analysis of a failure."""
        parts = [
            f"{self}"[:200],
            f"plan: {self.plan}",
            f"options: {self.options}",
            "== sender's trace",
            *self.trace,
            "== server's log",
            *self.server.record.log,
            "== outcomes",
            *map(str, self.outcomes),
        ]
        path.write_text("\n".join(parts), encoding="utf-8", errors="surrogateescape")
