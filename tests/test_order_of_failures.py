"""Pipelining must not change the result of a message: equal replies give equal results.

A plan lists the server's reply to each command. Each plan runs in each of `WAYS`. All runs must
give the same result, the same state of the client and the same messages at the server.
"""

import io
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rapidsmtp
from rapidsmtp._smtp.sockets import EmptiedFile

WAYS = (
    "methods",  # `mail`, `rcpt` and `data`, as smtplib calls them
    "sequential",  # the core, one command at a time
    "pipelined",  # the core, in flights
    "in core",  # the core, in flights, which it writes and reads itself
)
EOF = b""
GARBAGE = b"what is this?\r\n"
DISAGREEING = b"250-ok\r\n550 or not\r\n"
SHORT_CODE = b"25\r\n"
ENDLESS = b"250 " + b"x" * 9000 + b"\r\n"
LONG = b"250-" + b"x" * 4000 + b"\r\n"
REPLIES = (
    b"250 2.1.0 ok\r\n",
    b"251 will forward\r\n",
    b"252 cannot verify\r\n",
    b"354 go on\r\n",
    b"450-4.2.0 later\r\n450 4.2.0 perhaps\r\n",
    b"452 4.5.3 too many\r\n",
    b"550 5.1.1 no\r\n",
    b"421 4.3.2 going\r\n",
    b"250 end without a line end",
    GARBAGE,
    DISAGREEING,
    SHORT_CODE,
    ENDLESS,
    LONG * 20 + b"250 ok\r\n",
    EOF,
)
OK, FORWARD, _, GO_ON, LATER, _, NO, GOING = REPLIES[:8]


@dataclass
class Plan:
    mail: bytes
    rcpt: tuple[bytes, ...]
    data: bytes
    body: tuple[bytes, ...]
    """The replies to the message; on LMTP one for each recipient, by index."""
    empty: bytes = NO
    """The reply to an empty message without recipients."""
    rset: bytes = OK
    chunks: tuple[int, ...] = (65536,)
    """The maximum numbers of bytes that the client's reads return, repeated cyclically."""
    lmtp: bool = False


@dataclass
class Server(io.RawIOBase):
    """A scripted server that is also the client's socket and the raw file of this socket.

    It replies while the client writes.
    """

    plan: Plan
    output: bytearray = field(default_factory=bytearray)
    ended: bool = False
    accepted: list[int] = field(default_factory=list)
    delivered: list[tuple[list[int], bytes]] = field(default_factory=list)
    lone_terminators: int = 0
    positive: bool = False
    """Whether any RCPT got a 2yz. If so, a terminator alone could send an empty message."""
    mail_accepted: bool = False
    recipients: int = 0
    _input: bytearray = field(default_factory=bytearray)
    _in_data: bool = False

    def __post_init__(self) -> None:
        self._chunks = itertools.cycle(self.plan.chunks)

    # The socket

    def sendall(self, data: bytes) -> None:
        self._input += data
        while self._take_one():
            pass

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def gettimeout(self) -> None:
        return None

    def settimeout(self, timeout: float | None) -> None:
        pass

    def recv(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(buffer)])

    def recv_into(self, buffer: bytearray) -> int:
        return Server.readinto(self, buffer)

    # The raw file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        if not self.output and not self.ended:
            raise AssertionError("the client waits for a reply that no command asked for")
        size = min(len(buffer), next(self._chunks), len(self.output))
        buffer[:size] = self.output[:size]
        del self.output[:size]
        return size

    # The server

    def _take_one(self) -> bool:
        if self._in_data:
            end = self._input.find(b"\r\n.\r\n")
            if end < 0 and not self._input.startswith(b".\r\n"):
                return False
            self._end_data(bytes(self._input[: max(end, 0)]))
            del self._input[: end + 5 if end >= 0 else 3]
            return True
        end = self._input.find(b"\r\n")
        if end < 0:
            return False
        command = bytes(self._input[:end])
        del self._input[: end + 2]
        self._execute(command)
        return True

    def _execute(self, command: bytes) -> None:
        verb = command[:4].lower()
        if verb == b"mail":
            self.mail_accepted = self.plan.mail.startswith(b"250")
            self._reply(self.plan.mail)
        elif verb == b"rcpt":
            reply = self.plan.rcpt[self.recipients]
            if reply[:3] in (b"250", b"251") and reply in REPLIES[:2] + REPLIES[8:9]:
                self.accepted.append(self.recipients)
            self.positive = self.positive or reply[:1] == b"2"
            self.recipients += 1
            self._reply(reply)
        elif verb == b"data":
            self._in_data = self.plan.data == GO_ON and not self.ended
            self._reply(self.plan.data)
        elif verb == b"rset":
            self._reply(self.plan.rset)
        else:
            raise AssertionError(f"unexpected command {command!r}")

    def _end_data(self, body: bytes) -> None:
        self._in_data = False
        if not body and not (self.accepted and self.mail_accepted):
            self.lone_terminators += 1
            self._reply(self.plan.empty)
            return
        replies = [self.plan.body[each] for each in self.accepted]
        if not self.plan.lmtp:
            replies = replies[:1]
        getters = self.accepted if not self.plan.lmtp else []
        for place, reply in zip(self.accepted, replies, strict=False):
            if self.plan.lmtp and reply[:1] == b"2":
                getters.append(place)
            self._reply(reply)
        self.delivered.append((getters, body))

    def _reply(self, reply: bytes) -> None:
        if self.ended:
            return
        self.output += reply
        # The server sends no more replies after the end of the stream, a 421, or a line without a
        # line end.
        self.ended = reply == EOF or reply.startswith(b"421") or not reply.endswith(b"\n")


def run(plan: Plan, way: str = "pipelined") -> tuple[object, ...]:
    """Run a plan. Return its result, the state of the client and the record of the server."""
    server = Server(plan)
    pipelining = way in ("pipelined", "in core")
    client = (rapidsmtp.LMTP if plan.lmtp else rapidsmtp.SMTP)(
        pipelining=pipelining, local_hostname="client.example"
    )
    if way == "methods":
        client.docmd = client.docmd  # type: ignore[method-assign]  # a replaced method
    client.sock = client._protocol.greeted_on = server
    client.ehlo_resp = b"server.example\nPIPELINING"
    client.does_esmtp = True
    client.esmtp_features = {"pipelining": ""}
    if way == "in core":
        client.file = server.makefile("rb")
        client._protocol.emptied = emptied = EmptiedFile(server, client.file)
        emptied.receive = server.recv
    recipients = [f"rcpt{place}@example.com" for place in range(len(plan.rcpt))]
    try:
        refused = client.sendmail("sender@example.com", recipients, b"Subject: x\r\n\r\nbody\r\n")
        result: tuple[object, ...] = (dict(refused), refused.reply, refused.accepted)
    except rapidsmtp.SMTPException as error:
        result = (type(error), error.args, vars(error))
    # No run may send an empty message. Only a pipelined run may send a terminator without a
    # message, and only if no RCPT got a 2yz reply.
    assert all(body for _, body in server.delivered)
    assert server.lone_terminators == 0 or (pipelining and not server.positive)
    if client.sock is not None:
        assert not client.file or not server.output, "replies were left unread"
        assert not server._in_data, "the server still waits for a message"
    return *result, client.sock is None, server.delivered


def assert_equal(plan: Plan) -> None:
    *expected, first_closed, first_delivered = run(plan, WAYS[0])
    for way in WAYS[1:]:
        *result, closed, delivered = run(plan, way)
        assert result == expected, way
        assert delivered == first_delivered, way
        # A pipelined run may close the connection because of replies to commands that the other
        # runs do not send.
        assert closed or not first_closed, way


@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("mail", REPLIES)
def test_pipelining_changes_no_result_with_one_recipient(
    backend: str, mail: bytes, lmtp: bool
) -> None:
    for rcpt, data, body in itertools.product(REPLIES, repeat=3):
        if body == OK or (mail == OK and rcpt == OK and data == GO_ON):
            assert_equal(Plan(mail, (rcpt,), data, (body,), lmtp=lmtp))


@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("data", REPLIES)
def test_pipelining_changes_no_result_with_two_recipients(
    backend: str, data: bytes, lmtp: bool
) -> None:
    for first, second in itertools.product(REPLIES, repeat=2):
        for bodies in itertools.product((OK, NO, GOING, EOF, GARBAGE), repeat=2):
            if lmtp or bodies[1] == OK:
                assert_equal(Plan(OK, (first, second), data, bodies, lmtp=lmtp))


@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("place", [*range(12), 107, 108, 109])
def test_pipelining_changes_no_result_with_one_bad_reply_of_many(
    backend: str, reply: bytes, place: int
) -> None:
    count = 12 if place < 12 else 110
    rcpt = [OK] * count
    rcpt[place] = reply
    assert_equal(Plan(OK, tuple(rcpt), GO_ON, (OK,) * count))
    assert_equal(
        Plan(OK, tuple([NO] * place + [reply] + [NO] * (count - place - 1)), GO_ON, (OK,) * count)
    )


@pytest.mark.parametrize("empty", REPLIES)
@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_terminator_alone_ends_data_when_no_recipient_is_left(
    backend: str, empty: bytes, count: int
) -> None:
    plan = Plan(OK, (NO,) * count, GO_ON, (OK,) * count, empty=empty)
    refusal, _, _, closed, delivered = run(plan)
    assert refusal is rapidsmtp.SMTPRecipientsRefused
    assert delivered == []
    malformed = not empty[:3].isdigit() or empty in (DISAGREEING, ENDLESS) or empty.startswith(LONG)
    assert closed == (malformed or empty in (GOING, EOF) or not empty.endswith(b"\n"))


def test_a_recipient_accepted_after_a_refused_sender_gets_no_empty_message(backend: str) -> None:
    plan = Plan(NO, (OK,), GO_ON, (OK,))
    refusal, _, _, closed, delivered = run(plan)
    assert refusal is rapidsmtp.SMTPSenderRefused
    assert closed
    assert delivered == []


replies = st.sampled_from(REPLIES)
mostly_ok = st.sampled_from([OK, OK, OK, FORWARD, NO, LATER]) | replies


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, 14) | st.just(111))
    rcpt = draw(st.lists(mostly_ok, min_size=count, max_size=count))
    body = draw(st.lists(mostly_ok, min_size=count, max_size=count))
    chunks = draw(st.lists(st.integers(1, 40) | st.just(65536), min_size=1, max_size=6))
    data = draw(st.just(GO_ON) | replies)
    rset = draw(st.just(OK) | replies.filter(lambda reply: not len(reply) > 1000))
    return Plan(
        draw(mostly_ok), tuple(rcpt), data, tuple(body), draw(replies), rset, tuple(chunks),
        draw(st.booleans()),
    )  # fmt: skip


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plan=plans())
def test_pipelining_changes_no_result_of_a_random_plan(backend: str, plan: Plan) -> None:
    assert_equal(plan)
