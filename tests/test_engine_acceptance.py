"""The pure-Python engine against a relay in memory: random replies, partial writes and losses.

The replies of the relay determine the permitted outcomes of each recipient, without the engine's
own state. The compiled engine has the same test as a fuzz target, `fuzz/fuzz_targets/session.rs`.
"""

import itertools
import os
import re
import ssl
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine_relay import EnginePlan, EngineRelay, EngineWire, Transaction, succeeds
from rapidsmtp import Backoff, Message, Timeouts
from rapidsmtp._compose.address import smtp_path
from rapidsmtp._models.settings import EngineSettings
from rapidsmtp._pure import Engine, connection
from rapidsmtp._pure.clock import Clock
from relay_model import COMMANDS

EXAMPLES = int(os.environ.get("ENGINE_EXAMPLES", "200"))
"""The number of random runs."""

PATIENCE = 60.0
"""Seconds after which an engine without progress fails the test. The relay replies at once."""

CODES = (
    *(199, 200, 220, 221, 235, 250, 251, 252, 299, 300, 334, 354, 355, 421, 450, 451),
    *(452, 500, 501, 502, 503, 504, 530, 535, 550, 552, 600),
)
SURPLUS = (b"220 ready", b"250 ok", b"252 perhaps", b"354 go on", b"450 later", b"550 no", b"what?")
CONTENTS = (b"x\r\n", b"", b".\r\nQUIT\r\n", b"a\n.\r\n\r.b", b"RSET\r\n.\r\n", b"y" * 300)
CAPABILITIES = (
    *("STARTTLS", "AUTH PLAIN LOGIN CRAM-MD5", "AUTH EXTERNAL SCRAM-SHA-256"),
    *("LIMITS MAILMAX=2", "LIMITS RCPTMAX=2", "SIZE 9000", "8BITMIME"),
)
POINTS = ("greeting", "ehlo", "helo", "starttls", "auth", *COMMANDS, "quit")
MODES = ("off", "transaction", "stream", "window", "auto")


class PoolTime:
    """A clock for the pool that advances when the pool waits. So no test depends on real time."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        self._now += 0.001
        return self._now

    def real(self, seconds: float) -> float:
        self._now += min(max(0.0, seconds), 3600.0)
        return 0.0


def wrap_socket(context: ssl.SSLContext, wire: EngineWire, **options: Any) -> EngineWire:
    return wire


DEFAULTS: dict[str, Any] = {
    "scheme": "smtp",
    "host": "relay.example",
    "port": 25,
    "path": None,
    "local_hostname": "client.example",
    "source_address": None,
    "proxy": None,
    "genuine_sockets": False,
    "starttls": "off",
    "verify": False,
    "ca": None,
    "certificate": None,
    "key": None,
    "server_hostname": None,
    "minimum_version": "1.2",
    "user": None,
    "mechanism": None,
    "password": "secret",
    "ask_password": False,
    "allow_plaintext_auth": False,
    "connections": 1,
    "pipelining": "transaction",
    "window": 8,
    "window_bytes": 1 << 22,
    "rate": None,
    "max_messages_per_connection": None,
    "max_recipients": 100,
    "max_attempts": 3,
    "backoff": Backoff(),
    "resend_unknown": False,
    "timeouts": Timeouts(**dict.fromkeys(Timeouts().by_name(), PATIENCE)),
    "queue_size": 1000,
    "queue_bytes": 1 << 26,
    "trace": False,
    "clock_speed": 1.0,
}


class Run:
    """One run of the engine.

    Attributes:
        relays: The relay's sides of the connections, in order.
        outcomes: The outcome of each message, by number.
    """

    def __init__(
        self,
        plans: Sequence[EnginePlan],
        counts: Sequence[int],
        contents: Sequence[bytes],
        **options: Any,
    ) -> None:
        self.relays: list[EngineRelay] = []
        self.outcomes: dict[int, Any] = {}
        self.messages = [
            Message(
                f"s{number}@example.com",
                [f"m{number}r{place}@example.com" for place in range(count)],
                contents[number % len(contents)],
                tag=number,
            )
            for number, count in enumerate(counts)
        ]
        self._plans = plans
        self._send(EngineSettings(**DEFAULTS | options))

    def _send(self, given: EngineSettings) -> None:
        def connect(_: EngineSettings) -> EngineWire:
            # After the last plan, the relay sends the usual replies.
            number = len(self.relays)
            last = self._plans[-1]
            usual = EnginePlan(
                pipelining=last.pipelining, lmtp=last.lmtp, capabilities=last.capabilities
            )
            plan = self._plans[number] if number < len(self._plans) else usual
            self.relays.append(EngineRelay(plan, given))
            return EngineWire(self.relays[-1])

        clock, before = PoolTime(), set(threading.enumerate())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connection, "connect", connect)
            patch.setattr(ssl.SSLContext, "wrap_socket", wrap_socket)
            patch.setattr(Clock, "now", lambda _: clock.now())
            patch.setattr(Clock, "real", lambda _, seconds: clock.real(seconds))
            engine = Engine(given, smtp_path)
            outbox = engine.open_outbox()
            assert engine.submit(outbox, list(self.messages), PATIENCE) == len(self.messages)
            finished: list[tuple[Any, Any]] = []
            while engine.pending(outbox):
                assert engine.take(outbox, finished, 100, PATIENCE), "the engine does not continue"
            engine.close(PATIENCE)
            # The threads use the clock until their end.
            for thread in set(threading.enumerate()) - before:
                thread.join(PATIENCE)
                assert not thread.is_alive(), "a thread of the engine does not end"
        for message, outcome in finished:
            assert message.tag not in self.outcomes, "a second outcome"
            self.outcomes[message.tag] = outcome
        assert len(self.outcomes) == len(self.messages)

    # The oracle

    def check(self) -> None:
        """Compare the outcomes with the replies of the relay."""
        for relay in self.relays:
            assert relay.faults == [], relay.plan
        # With surplus replies, a reply may belong to another command.
        is_exact = not any(relay.plan.surplus or relay.plan.early for relay in self.relays)
        accepted = Counter(address for relay in self.relays for address in relay.accepted)
        assert not accepted or max(accepted.values()) == 1, "a second copy"
        attempts = self.attempts()
        for number, message in enumerate(self.messages):
            _, results, *_ = self.outcomes[number].details()
            assert len(results) == len(message.recipients)
            for address, (status, code, _, text) in zip(message.recipients, results, strict=True):
                about = f"{address}: {status} {code} {text!r}, {attempts[address]}"
                assert "internal error" not in text and "no reply in" not in text, about
                if status == "ACCEPTED":
                    assert address in accepted, about
                elif address in accepted:
                    assert status == "UNKNOWN", about
                if status == "UNKNOWN":
                    assert any(each.is_handed_over for each in attempts[address]), about
                if is_exact:
                    lmtp = self._plans[0].lmtp
                    check_recipient(status, code, attempts[address], about, lmtp=lmtp)

    def attempts(self) -> "defaultdict[str, list[Attempt]]":
        """Return the attempts to send to each recipient, in order."""
        attempts: defaultdict[str, list[Attempt]] = defaultdict(list)
        for relay in self.relays:
            written = re.split(rb"(?im)^MAIL FROM:", bytes(relay.handed))[1:]
            transactions: list[Transaction | None] = [*relay.transactions]
            transactions += [None] * (len(written) - len(transactions))
            for text, transaction in zip(written, transactions, strict=True):
                found = re.match(rb"<s(\d+)@", text)
                if found is None:
                    continue  # an incomplete command
                message = self.messages[int(found[1])]
                content = re.escape(stuffed(message.data))
                is_handed_over = re.search(rb"(?im)^DATA\r\n" + content, text) is not None
                listed = re.findall(rb"(?im)^RCPT TO:<([^>]*)>\r\n", text)
                is_refused = transaction is None or not succeeds(transaction.mail)
                for name in message.recipients:
                    # After a refused MAIL, the engine writes no RCPT for the other recipients.
                    is_open = is_refused and not any(each.is_final for each in attempts[name])
                    if name.encode() in listed or is_open:
                        attempts[name].append(Attempt(name, is_handed_over, transaction))
        return attempts


class Attempt:
    """A transaction with one recipient.

    Attributes:
        is_handed_over: Whether the engine handed the whole message to the network.
        may_count: Whether the relay may accept the message, or has accepted it.
        final: The code of the relay's reply to the message; None if the engine cannot know it.
        codes: The codes that the relay sent for the recipient.
    """

    def __init__(self, name: str, is_handed_over: bool, transaction: Transaction | None) -> None:
        self.is_handed_over = is_handed_over
        self.final: int | None = None
        self.codes: set[int | None] = set()
        is_refused = False
        if transaction is not None:
            rcpt = transaction.rcpt.get(name)
            self.final = transaction.final.get(name)
            self.codes = {transaction.mail, rcpt, transaction.data, self.final}
            is_refused = not succeeds(transaction.mail) or (rcpt is not None and not succeeds(rcpt))
        self.may_count = is_handed_over and not is_refused

    @property
    def is_final(self) -> bool:
        """Whether no other attempt may follow."""
        # After the terminator, only a temporary refusal permits another attempt.
        return self.may_count and (self.final or 0) // 100 != 4

    def __repr__(self) -> str:
        return f"<{self.codes}, final {self.final}, handed over: {self.is_handed_over}>"


def check_recipient(
    status: str, code: int | None, attempts: list[Attempt], about: str, *, lmtp: bool
) -> None:
    """Check an outcome if each reply belongs to the oldest command without a reply."""
    *earlier, last = attempts or [Attempt("", False, None)]
    assert not any(each.is_final for each in earlier), about
    if status in ("REFUSED", "DEFERRED"):
        sent = {code for each in attempts for code in each.codes}
        # RFC 5321 3.8: a 421 also applies to the recipients without a reply.
        assert code in sent or code == 421, about
        assert code is not None and status == {4: "DEFERRED", 5: "REFUSED"}[code // 100], about
    expected = {
        2: ["ACCEPTED"],
        # The engine stops after some refusals. It reports the message as not attempted then.
        4: ["DEFERRED", "NOT_ATTEMPTED"],
        5: ["REFUSED", "NOT_ATTEMPTED"],
    }.get((last.final or 0) // 100, ["UNKNOWN"])
    if not last.may_count:
        assert status in ("REFUSED", "DEFERRED", "NOT_ATTEMPTED"), about
    elif not lmtp:
        assert status in expected, about
    else:
        # After an invalid reply to one recipient of LMTP, the engine reads no further reply.
        assert status in [*expected, "UNKNOWN"], about


def stuffed(content: bytes) -> bytes:
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    lines += b"" if lines.endswith(b"\r\n") else b"\r\n"
    return (b"\n" + lines).replace(b"\n.", b"\n..")[1:] + b".\r\n"


# The runs


@pytest.mark.parametrize("pipelining", MODES)
@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("starttls", ["off", "opportunistic", "required"])
@pytest.mark.parametrize("mechanism", [None, "PLAIN", "LOGIN", "CRAM-MD5", "EXTERNAL"])
def test_messages_are_accepted(
    pipelining: str, lmtp: bool, starttls: str, mechanism: str | None
) -> None:
    plan = EnginePlan(lmtp=lmtp, capabilities=CAPABILITIES, write=7, chunk=5)
    run = Run(
        [plan],
        [1, 2, 12],
        CONTENTS,
        scheme="lmtp" if lmtp else "smtp",
        starttls=starttls,
        user="user" if mechanism else None,
        mechanism=mechanism,
        allow_plaintext_auth=starttls == "off",
        pipelining=pipelining,
    )
    run.check()
    assert {outcome.details()[0] for outcome in run.outcomes.values()} == {"ACCEPTED"}


def test_a_success_code_without_the_signature_of_scram_is_no_login() -> None:
    plan = EnginePlan(capabilities=CAPABILITIES)
    run = Run([plan], [1], CONTENTS, user="user", mechanism="SCRAM-SHA-256", starttls="required")
    run.check()
    assert run.outcomes[0].details()[0] == "NOT_ATTEMPTED"


@pytest.mark.parametrize("command", POINTS)
@pytest.mark.parametrize("pipelining", [False, True], ids=["sequential", "pipelined"])
def test_each_command_has_its_own_success_codes(command: str, pipelining: bool) -> None:
    uses = range(2) if command in COMMANDS else range(1)
    lmtps = (False, True) if command == "body" else (False,)
    for code, use, lmtp in itertools.product(CODES, uses, lmtps):
        replies = {command: [b""] * use + [b"%d planned" % code]}
        if command == "rset":
            replies["rcpt"] = [b"550 no"] * 2
        plan = EnginePlan(replies, None, pipelining, lmtp, capabilities=CAPABILITIES[:2])
        scheme, user = ("lmtp" if lmtp else "smtp"), None if use else "user"
        Run([plan], [1, 2], CONTENTS, scheme=scheme, starttls="opportunistic", user=user).check()


@pytest.mark.parametrize("command", POINTS)
@pytest.mark.parametrize("body", [b"250 queued", b"550 spam"])
@pytest.mark.parametrize("pipelining", [False, True], ids=["sequential", "pipelined"])
def test_a_surplus_reply_accepts_no_message(command: str, body: bytes, pipelining: bool) -> None:
    for surplus, use, capabilities in itertools.product(SURPLUS, range(2), [(), CAPABILITIES[:2]]):
        replies = {"body": [body] * 4, "rcpt": [b"550 no"] if command == "rset" else []}
        plan = EnginePlan(replies, (command, use, surplus), pipelining, capabilities=capabilities)
        user = "user" if capabilities else None
        Run([plan], [1, 2, 1], CONTENTS, starttls="opportunistic", user=user).check()


@pytest.mark.parametrize("body", [b"250 queued", b"550 spam", b"what?"])
@pytest.mark.parametrize("write", [1, 5, 20])
def test_a_reply_before_the_terminator_accepts_no_message(body: bytes, write: int) -> None:
    for early in SURPLUS:
        plan = EnginePlan({"body": [body]}, write=write, early=early)
        run = Run([plan] * 4, [1, 1], CONTENTS[-1:])
        run.check()
        assert not any(relay.accepted for relay in run.relays[:1])


replies = st.sampled_from([b"%d planned" % code for code in CODES] + [b"what?", b"250-a\r\n250 b"])
mostly_usual = st.just(b"") | st.just(b"") | st.just(b"") | replies
losses = st.none() | st.none() | st.integers(0, 900)
sizes = st.just(65536) | st.integers(1, 40)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """The arguments of a `Run`."""
    lmtp, pipelining = draw(st.booleans()), draw(st.booleans())
    capabilities = draw(st.lists(st.sampled_from(CAPABILITIES), unique=True, max_size=4))
    has_user = draw(st.booleans()) and draw(st.booleans())
    mechanisms = st.sampled_from([None, None, "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "EXTERNAL"])
    session = st.sampled_from([point for point in POINTS if point not in COMMANDS])
    surplus = st.tuples(st.sampled_from(POINTS), st.integers(0, 3), st.sampled_from(SURPLUS))
    plans = [
        EnginePlan(
            replies={command: draw(st.lists(mostly_usual, max_size=6)) for command in COMMANDS}
            | draw(st.dictionaries(session, st.lists(mostly_usual, max_size=3), max_size=1)),
            surplus=draw(st.none() | st.none() | surplus),
            pipelining=pipelining,
            lmtp=lmtp,
            output=draw(losses),
            input=draw(losses),
            chunk=draw(sizes),
            capabilities=tuple(capabilities),
            write=draw(sizes),
            early=draw(st.none() | st.none() | st.none() | st.sampled_from(SURPLUS)),
            handshake=draw(st.integers(0, 15)) != 15,
            reset=draw(st.booleans()),
        )
        for _ in range(draw(st.integers(1, 4)))
    ]
    return {
        "plans": plans,
        "counts": draw(st.lists(st.integers(1, 4) | st.just(12), min_size=1, max_size=4)),
        "contents": draw(st.lists(st.sampled_from(CONTENTS), min_size=1, max_size=3)),
        "scheme": "lmtp" if lmtp else "smtp",
        "starttls": draw(st.sampled_from(["off", "off", "opportunistic", "required"])),
        "user": "user" if has_user else None,
        "mechanism": draw(mechanisms) if has_user else None,
        "allow_plaintext_auth": draw(st.booleans()),
        "pipelining": draw(st.sampled_from(MODES)),
        "max_messages_per_connection": draw(st.none() | st.integers(1, 3)),
        "max_recipients": draw(st.sampled_from([100, 2])),
        "max_attempts": draw(st.integers(1, 3)),
    }


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(arguments=runs())
def test_each_outcome_agrees_with_the_replies(arguments: dict[str, Any]) -> None:
    Run(**arguments).check()
