"""Relays that reject the session, and relays with limits: `Sender` with scripted servers."""

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme

from rapidsmtp import TLS, Message, Status, Timeouts
from senders import (
    CONTENT,
    commands,
    message,
    messages,
    send,
    send_and_stop,
    sender_to,
    wires,
)
from server import HANG_UP, TIMEOUT, Connection, Reply, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

OK = b"250 2.0.0 ok"
PIPELINING = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES")


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture
def trusting(authority: trustme.CA) -> TLS:
    return TLS(ca_file=authority.cert_pem.bytes())


def serve(replies: Mapping[str, Any] | None = None, *capabilities: str, **settings: Any) -> Server:
    socket_settings = {key: settings.pop(key) for key in ("path",) if key in settings}
    return Server(
        SMTPScript(capabilities or PIPELINING, replies or {}, **settings), **socket_settings
    )


# The relay rejects the session: the sender opens few connections, and one error follows the
# outcomes


def assert_stops(sender: Any, *words: str, code: int | None = None) -> None:
    outcomes, error = send_and_stop(sender, messages(30))
    assert outcomes, "the messages that were read have outcomes before the error"
    for outcome in outcomes:
        assert outcome.status is Status.NOT_ATTEMPTED
        assert [result.status for result in outcome.recipients.values()] == [outcome.status]
        assert outcome.reason
    said = str(error)
    assert len(said.splitlines()) == 1
    for word in words:
        assert word.lower() in said.lower(), said
    assert (error.reply and error.reply[0]) == code


def test_an_unreachable_relay_stops_the_sender() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    assert_stops(sender_to(port), str(port))


def test_a_name_that_does_not_resolve_stops_the_sender() -> None:
    from rapidsmtp import Sender
    from senders import LIMITS

    name = "no-such-relay.invalid"
    assert_stops(Sender(f"smtp://{name}", timeouts=LIMITS, local_hostname="client.example"), name)


def test_a_wrong_password_is_tried_once_by_all_connections() -> None:
    with serve({"auth": b"535 5.7.8 who?"}, *PIPELINING, "AUTH CRAM-MD5 PLAIN LOGIN") as server:
        sender = sender_to(server, login="user:wrong@", query="?starttls=off")
        sender.close()
        sender = sender_to(
            server, login="user:wrong@", query="?starttls=off&auth=plain", allow_plaintext_auth=True
        )
        assert_stops(sender, "535", code=535)
        assert commands(server, b"AUTH") == 1
        assert commands(server, b"MAIL") == 0
        assert len(server.connections) <= 4


def test_the_stop_after_a_wrong_password_is_permanent() -> None:
    with serve({"auth": b"535 5.7.8 who?"}, *PIPELINING, "AUTH PLAIN LOGIN") as server:
        sender = sender_to(
            server, login="user:wrong@", query="?starttls=off", allow_plaintext_auth=True
        )
        with sender:
            for _ in range(2):
                with pytest.raises(Exception, match="535"):
                    list(sender.send(messages(5)))
                # A temporary stop would end during this sleep. The stop after a 535 is permanent.
                time.sleep(1.1)
            with pytest.raises(Exception, match="535"):
                sender.submit(message()).result(TIMEOUT)
        assert commands(server, b"AUTH") == 1


def test_a_certificate_of_an_unknown_authority_stops_the_sender(server_tls: ssl.SSLContext) -> None:
    with Server(SMTPScript(PIPELINING), tls=server_tls) as server:
        assert_stops(sender_to(server, "smtps"), "certificate")
        assert wires(server).count(b"") == len(server.connections) <= 4


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_certificate_of_another_host_stops_the_sender(
    scheme: str, server_tls: ssl.SSLContext, authority: trustme.CA
) -> None:
    tls = TLS(ca_file=authority.cert_pem.bytes(), server_hostname="other.example")
    script = SMTPScript([*PIPELINING, "STARTTLS"], tls=server_tls)
    with Server(script, tls=server_tls if scheme == "smtps" else None) as server:
        query = "?starttls=required" if scheme == "smtp" else ""
        assert_stops(sender_to(server, scheme, tls=tls, query=query), "certificate")
        assert commands(server, b"MAIL") == 0


@pytest.mark.parametrize("pipelining", ["off", "transaction", "stream"])
def test_a_530_to_mail_stops_the_sender(pipelining: str) -> None:
    with serve({"mail": b"530 5.7.0 Authentication required"}) as server:
        assert_stops(sender_to(server, pipelining=pipelining), "530", code=530)
        assert commands(server, b"MAIL") <= len(server.connections) <= 4


def test_a_554_in_the_greeting_stops_the_sender() -> None:
    with serve({"greeting": b"554 5.7.1 not you"}) as server:
        assert_stops(sender_to(server), "554", code=554)
        assert len(server.connections) <= 4


@pytest.mark.usefixtures("fast_clock")
def test_a_421_in_the_greeting_is_retried_for_some_time() -> None:
    with serve({"greeting": b"421 4.3.2 too busy"}) as server:
        assert_stops(sender_to(server, max_attempts=3), "421", code=421)
        assert 3 < len(server.connections) < 40
    with serve({"greeting": b"421 4.3.2 too busy"}) as server:
        assert_stops(sender_to(server, max_attempts=1), "421", code=421)
        assert len(server.connections) == 1


def test_an_unsupported_starttls_stops_the_sender() -> None:
    with serve() as server:
        assert_stops(sender_to(server, query="?starttls=required"), "STARTTLS")
        assert commands(server, b"MAIL") == 0


def test_a_refused_starttls_stops_the_sender(server_tls: ssl.SSLContext, trusting: TLS) -> None:
    with serve({"starttls": b"502 5.5.1 no"}, *PIPELINING, "STARTTLS") as server:
        assert_stops(sender_to(server, query="?starttls=required", tls=trusting), "502", code=502)
        assert commands(server, b"MAIL") == 0


def test_a_login_in_clear_text_is_refused() -> None:
    with serve({}, *PIPELINING, "AUTH PLAIN LOGIN CRAM-MD5") as server:
        assert_stops(sender_to(server, login="user:secret@", query="?starttls=off"))
        assert commands(server, b"AUTH") == 0


def test_a_relay_without_a_known_mechanism_stops_the_sender() -> None:
    with serve({}, *PIPELINING, "AUTH GSSAPI") as server:
        options = {"login": "user:secret@", "query": "?starttls=off", "allow_plaintext_auth": True}
        assert_stops(sender_to(server, **options), "AUTH")
        assert commands(server, b"AUTH") == 0


def test_a_rejection_after_some_messages_stops_the_sender() -> None:
    answers = [OK] * 5 + [b"530 5.7.0 no more"]
    with serve({"mail": answers}) as server:
        outcomes, error = send_and_stop(sender_to(server, connections=1), messages(20))
        counts = Counter(outcome.status for outcome in outcomes)
        assert counts == {Status.ACCEPTED: 5, Status.NOT_ATTEMPTED: len(outcomes) - 5}
        assert error.reply is not None and error.reply[0] == 530


# The relay has limits: all messages are delivered


@pytest.mark.parametrize(
    "end",
    [b"421 4.4.2 Maximum message count per session reached", b"421 4.4.2 bye", HANG_UP],
    ids=["in words", "421", "without a word"],
)
@pytest.mark.parametrize("pipelining", ["off", "transaction", "stream"])
def test_a_number_of_messages_on_a_connection_is_learned(pipelining: str, end: bytes) -> None:
    # The relay accepts three messages on each connection.
    with serve({"mail": [OK, OK, OK, end]}) as server:
        sender = sender_to(server, connections=1, pipelining=pipelining)
        outcomes = send(sender, messages(24))
        assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}
        assert {outcome.attempts for outcome in outcomes} == {1}
        assert sender.stats().relay_limits.messages_per_connection == 3
        assert commands(server, b"MAIL") <= 24 + 3, "the limit is learned and stays in use"


def test_one_421_does_not_set_a_limit_of_messages() -> None:
    """One 421 does not make the sender limit the number of messages for each connection.

    The relay restarts after one message, and replies 421 to the second MAIL.
    """
    mails = iter([OK, b"421 4.3.0 restarting"])
    with serve({"mail": lambda _: next(mails, OK)}) as server:
        sender = sender_to(server, connections=1)
        outcomes = send(sender, messages(20))
        assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}
        assert len(server.connections) == 2
        assert sender.stats().relay_limits.messages_per_connection is None


@pytest.mark.usefixtures("fast_clock")
def test_a_limit_without_an_accepted_message_is_not_a_limit_of_the_connection() -> None:
    """The relay limits the whole account, so the sender must not open new connections."""
    with serve({"mail": lambda _: b"550 5.4.5 message limit exceeded"}) as server:
        outcomes = send(sender_to(server, connections=1), messages(20))
        assert {outcome.status for outcome in outcomes} == {Status.REFUSED}
        assert (len(server.connections), commands(server, b"MAIL")) == (1, 20)
    replies = iter([b"450 4.7.1 too many messages"])
    with serve({"mail": lambda _: next(replies, OK)}) as server:
        sender = sender_to(server, connections=1, max_attempts=2)
        outcomes = send(sender, messages(3))
        assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}
        assert len(server.connections) == 1
        assert sender.stats().relay_limits.rate is None, "one refusal is no rate"


def test_a_full_mailbox_sets_no_limit_of_messages_or_recipients() -> None:
    inbox = Inbox(
        lambda _, address: {
            "r0@example.com": b"450 4.2.2 too many messages in this mailbox",
            "r2@example.com": b"452 mailbox full",
        }.get(address, OK)
    )
    with serve(inbox.replies) as server:
        recipients = [f"r{number}@example.com" for number in range(5)]
        sender = sender_to(server, connections=1)
        outcomes = send(sender, [Message("s@example.com", recipients, CONTENT)] * 3)
        for outcome in outcomes:
            statuses = [result.status for result in outcome.recipients.values()]
            later, taken = Status.DEFERRED, Status.ACCEPTED
            assert statuses == [later, taken, later, taken, taken]
        relay_limits = sender.stats().relay_limits
        assert relay_limits.messages_per_connection is None
        assert relay_limits.recipients_per_message is None
        assert len(server.connections) == 1
    assert [len(each) for each in inbox.mails] == [3, 3, 3]


@pytest.mark.parametrize("pipelining", ["auto", "transaction"])
def test_pipelining_is_disabled_if_it_does_not_work(pipelining: str) -> None:
    """The sender stops using PIPELINING if the server loses pipelined commands.

    The server executes the first command of each read and drops the bytes that follow it.
    """

    def forgetful(connection: Connection) -> None:
        connection.send(b"220 ready\r\n")
        while line := connection.sock.recv(65536).partition(b"\r\n")[0].upper():
            if line == b"DATA":
                connection.send(b"354 go\r\n")
                connection.message()
            connection.send(
                b"250-here\r\n250 PIPELINING\r\n" if line[:4] == b"EHLO" else b"250 ok\r\n"
            )

    with Server(forgetful) as server:
        limits = Timeouts(mail=0.3, rcpt=0.3)
        sender = sender_to(server, connections=1, pipelining=pipelining, timeouts=limits)
        outcomes = send(sender, messages(20))
        assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}
        assert {outcome.attempts for outcome in outcomes} == {1}
        assert sender.stats().relay_limits.pipelining == "off"
        assert len(server.connections) == 3, "two connections to detect it, one without"


@pytest.mark.parametrize("pipelining", ["off", "transaction", "stream"])
def test_a_relay_that_never_sends_the_final_reply_stops_the_sender(pipelining: str) -> None:
    """The sender stops, so that only a few messages have an unknown outcome."""
    with serve({"message": HANG_UP}) as server:
        sender = sender_to(server, connections=1, pipelining=pipelining)
        outcomes, _ = send_and_stop(sender, messages(30))
        counts = Counter(outcome.status for outcome in outcomes)
        assert counts == {Status.UNKNOWN: 10, Status.NOT_ATTEMPTED: 20}
        assert len(server.connections) == 10


@pytest.mark.parametrize("pipelining", ["off", "transaction"])
def test_an_invalid_rcpt_reply_over_lmtp_ends_the_connection(pipelining: str) -> None:
    """The message is sent on a new connection after an invalid reply to RCPT.

    An LMTP server sends one reply to the message for each accepted recipient. After the invalid
    reply, the client does not know whether the server accepted the recipient, so it does not know
    the number of replies.
    """
    doubts = iter([OK, b"999 beyond", OK])
    finals = iter([b"250 2.0.0 for r0", b"250 2.0.0 for r1", b"250 2.0.0 for r2"])
    replies = {"rcpt": lambda _: next(doubts, OK), "message": lambda _: next(finals, OK)}
    with serve(replies, *PIPELINING, lmtp=True) as server:
        recipients = [f"r{number}@example.com" for number in range(3)]
        sender = sender_to(server, "lmtp", connections=1, pipelining=pipelining)
        [outcome] = send(sender, [Message("s@example.com", recipients, CONTENT)])
        texts = [result.text for result in outcome.recipients.values()]
        assert texts == ["2.0.0 for r0", "2.0.0 for r1", "2.0.0 for r2"]
        assert len(server.connections) == 2


@pytest.mark.usefixtures("fast_clock")
def test_throttling_lowers_the_rate_and_all_messages_are_delivered() -> None:
    throttled = iter([b"454 4.7.0 Throttling failure: Maximum sending rate exceeded."] * 2)
    with serve({"message": lambda _: next(throttled, OK)}) as server:
        sender = sender_to(server, connections=1, max_attempts=2)
        outcomes = send(sender, messages(4))
        assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}
        # `seconds` is measured on the engine's clock, which is faster than real time in this test.
        assert max(outcome.seconds for outcome in outcomes) >= 1, "a lower rate means a pause"
        assert sender.stats().relay_limits.rate is not None


@pytest.mark.parametrize("pipelining", ["off", "transaction", "stream"])
def test_recipients_after_a_452_are_sent_in_another_transaction(pipelining: str) -> None:
    most = 3
    inbox = Inbox(lambda taken, _: b"452 4.5.3 too many" if len(taken) >= most else OK)
    with serve(inbox.replies) as server:
        recipients = [f"r{number}@example.com" for number in range(8)]
        sender = sender_to(server, connections=1, pipelining=pipelining, max_attempts=1)
        [outcome] = send(sender, [Message("s@example.com", recipients, CONTENT)])
        assert outcome.status is Status.ACCEPTED, outcome
        assert list(outcome.recipients) == recipients
        assert sender.stats().relay_limits.recipients_per_message == most
    assert sorted(address for each in inbox.mails for address in each) == sorted(recipients)


def test_a_greylisted_recipient_is_retried() -> None:
    tried: Counter[str] = Counter()

    def choose_reply(_: list[str], address: str) -> bytes:
        tried[address] += 1
        return b"450 4.2.0 greylisted" if tried[address] == 1 and "grey" in address else OK

    inbox = Inbox(choose_reply)
    with serve(inbox.replies) as server:
        given = [Message("s@example.com", ["a@example.com", "grey@example.com"], CONTENT)]
        [outcome] = send(sender_to(server, connections=1), given)
    assert outcome.status is Status.ACCEPTED
    assert inbox.mails == [["a@example.com"], ["grey@example.com"]]
    assert outcome.attempts == 2


def test_a_message_is_deferred_after_the_last_attempt() -> None:
    with serve({"rcpt": b"450 4.2.0 later"}) as server:
        [outcome] = send(sender_to(server, connections=1, max_attempts=3), [message()])
        assert (outcome.status, outcome.attempts) == (Status.DEFERRED, 3)
        assert commands(server, b"RCPT") == 3


class Inbox:
    """The replies of an `SMTPScript` on one connection, and the recipients of each transaction.

    Args:
        choose_reply: A function that gets the earlier recipients and the next recipient, and
            returns the reply to the RCPT of the next recipient.
    """

    def __init__(self, choose_reply: Callable[[list[str], str], bytes]) -> None:
        self.mails: list[list[str]] = []
        self._choose_reply = choose_reply
        self._taken: list[str] = []
        self.replies: dict[str, Reply] = {
            "mail": self._mail,
            "rcpt": self._rcpt,
            "message": self._message,
        }

    def _mail(self, _: bytes) -> bytes:
        self._taken = []
        return OK

    def _rcpt(self, line: bytes) -> bytes:
        address = line.decode().partition("<")[2].partition(">")[0]
        reply = self._choose_reply(self._taken, address)
        if reply == OK:
            self._taken.append(address)
        return reply

    def _message(self, _: bytes) -> bytes:
        self.mails.append(self._taken)
        return OK


@pytest.mark.parametrize(
    ("capability", "options", "sizes"),
    [
        ("X-NOTHING", {"max_recipients": 2}, [1, 2, 2]),
        ("LIMITS RCPTMAX=2", {}, [1, 2, 2]),
        ("LIMITS MAILMAX=10 RCPTMAX=4", {"max_recipients": 3}, [2, 3]),
    ],
)
def test_recipients_are_split(capability: str, options: dict[str, int], sizes: list[int]) -> None:
    inbox = Inbox(lambda _taken, _address: OK)
    with serve(inbox.replies, *PIPELINING, capability) as server:
        recipients = [f"r{number}@example.com" for number in range(5)]
        given = [Message("s@example.com", recipients, CONTENT)]
        [outcome] = send(sender_to(server, connections=1, **options), given)
    assert outcome.status is Status.ACCEPTED
    assert sorted(len(each) for each in inbox.mails) == sizes
    assert sorted(address for each in inbox.mails for address in each) == recipients


def test_a_limit_of_domains_splits_the_recipients() -> None:
    inbox = Inbox(lambda _taken, _address: OK)
    with serve(inbox.replies, *PIPELINING, "LIMITS RCPTDOMAINMAX=1") as server:
        recipients = ["a@one.example", "b@two.example", "c@one.example"]
        [outcome] = send(
            sender_to(server, connections=1), [Message("s@example.com", recipients, CONTENT)]
        )
    assert outcome.status is Status.ACCEPTED
    assert all(len({each.partition("@")[2] for each in mail}) == 1 for mail in inbox.mails)
    assert sorted(address for each in inbox.mails for address in each) == sorted(recipients)


def test_an_advertised_limit_of_messages_is_used_from_the_start() -> None:
    with serve({}, *PIPELINING, "LIMITS MAILMAX=2") as server:
        outcomes = send(sender_to(server, connections=1), messages(6))
        assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}
        assert [wire.upper().count(b"\r\nMAIL FROM") for wire in wires(server)] == [2, 2, 2]


# Capabilities


def test_the_size_is_sent_and_limited() -> None:
    with serve({}, *PIPELINING, "SIZE 100") as server:
        given = [message(0), message(1, b"x" * 101 + b"\r\n"), message(2, b"a\nb\n.\n")]
        outcomes = {outcome.message: outcome for outcome in send(sender_to(server), given)}
        assert outcomes[given[1]].status is Status.INVALID
        assert outcomes[given[0]].status is outcomes[given[2]].status is Status.ACCEPTED
        wire = b"".join(wires(server)).lower()
        assert b"<s0@example.com> size=%d" % len(CONTENT) in wire
        assert b"<s2@example.com> size=9" in wire, "before dot-stuffing"
        assert b"<s1@example.com>" not in wire


EIGHT_BIT = b"Subject: x\r\n\r\n\xc3\xa4\r\n"
DSN: dict[str, Any] = {"mail_options": ("RET=HDRS", "ENVID=x"), "rcpt_options": ("NOTIFY=NEVER",)}


@pytest.mark.parametrize(
    ("capability", "given", "written"),
    [
        ("8BITMIME", message(0, EIGHT_BIT), b" BODY=8BITMIME\r\n"),
        ("SMTPUTF8", message(mail_options=("SMTPUTF8",)), b" SMTPUTF8\r\n"),
        ("DSN", message(**DSN), b"> NOTIFY=NEVER\r\n"),
        ("DSN", message(**DSN), b"> RET=HDRS ENVID=x\r\n"),
        (
            "SMTPUTF8",
            Message("s@example.com", ["ä@example.com"], CONTENT),
            "RCPT TO:<ä@example.com>".upper().encode(),
        ),
    ],
)
def test_a_message_is_invalid_without_the_capability_that_it_needs(
    capability: str, given: Message, written: bytes
) -> None:
    with serve({}, "PIPELINING", capability) as server:
        [outcome] = send(sender_to(server), [given])
        assert outcome.status is Status.ACCEPTED, outcome
        # The commands may differ in upper and lower case, so the test ignores case.
        wire = b"".join(wires(server)).decode().upper().encode()
        assert written.upper() in wire
    with serve({}, "PIPELINING") as server:
        [outcome] = send(sender_to(server), [given])
        assert outcome.status is Status.INVALID, outcome
        assert commands(server, b"DATA") == 0


# LMTP, and Unix sockets


def test_lmtp_has_a_reply_for_each_recipient() -> None:
    answers = [b"250 2.0.0 queued as A", b"552 5.2.2 full", b"250 2.0.0 queued as C"]
    with serve({"message": answers}, lmtp=True) as server:
        recipients = ["a@example.com", "b@example.com", "c@example.com"]
        given = [Message("s@example.com", recipients, CONTENT), message(1)]
        first, second = sorted(
            send(sender_to(server, "lmtp", connections=1), given),
            key=lambda outcome: len(outcome.recipients),
            reverse=True,
        )
        assert second.status is Status.ACCEPTED, "no reply remains for the next message"
    assert first.status is Status.PARTIAL
    results = [(result.status, result.code) for result in first.recipients.values()]
    assert results == [(Status.ACCEPTED, 250), (Status.REFUSED, 552), (Status.ACCEPTED, 250)]
    texts = [result.text for result in first.recipients.values()]
    assert ["queued as A" in texts[0], "full" in texts[1], "queued as C" in texts[2]] == [True] * 3


def test_lmtp_works_over_a_unix_socket(tmp_path: Path) -> None:
    from rapidsmtp import Sender

    path = str(tmp_path / "lmtp")
    with serve({}, lmtp=True, path=path) as server:
        outcomes = send(Sender(f"lmtp://{path}", local_hostname="client.example"), messages(5))
        assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}
        assert commands(server, b"LHLO") >= 1


# Rate, and idle connections


def test_all_connections_share_the_rate() -> None:
    rate, count = 40.0, 24
    times: list[float] = []
    lock = threading.Lock()

    def mail(_: bytes) -> bytes:
        with lock:
            times.append(time.monotonic())
        return OK

    with serve({"mail": mail}) as server:
        outcomes = send(sender_to(server, rate=rate, connections=4), messages(count))
        assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}
    assert len(times) == count
    times.sort()
    burst = rate / 10
    for first in range(count):
        for last in range(first + 1, count):
            allowed = rate * (times[last] - times[first] + 0.03) + burst + 1
            assert last - first + 1 <= allowed, f"{last - first + 1} where {allowed:.1f} may be"
    assert times[-1] - times[0] < 3 * count / rate, "the sender must use the permitted rate"


def first_connection(first: Callable[[Connection], object]) -> Callable[[Connection], object]:
    """Return a script that calls `first` on the first connection, and an `SMTPScript` on others."""
    lock = threading.Lock()
    seen: list[Connection] = []

    def script(connection: Connection) -> None:
        with lock:
            seen.append(connection)
            is_first = len(seen) == 1
        (first if is_first else SMTPScript(PIPELINING))(connection)

    return script


def one_mail(connection: Connection) -> None:
    """Accept one message as RFC 5321 specifies."""
    connection.send(b"220 ready\r\n")
    connection.line()
    connection.send(b"250-server.example\r\n250 PIPELINING\r\n")
    for reply in (OK, OK, b"354 go on"):
        connection.line()
        connection.send(reply + b"\r\n")
    connection.message()
    connection.send(b"250 2.0.0 queued\r\n")


@pytest.mark.parametrize("words", [b"", b"421 4.4.2 idle for too long\r\n", b"250 2.0.0 what?\r\n"])
def test_a_connection_that_was_lost_while_idle_is_replaced(words: bytes) -> None:
    ended = threading.Event()

    def script(connection: Connection) -> None:
        one_mail(connection)
        connection.send(words)
        if not words.startswith(b"250"):
            connection.sock.shutdown(socket.SHUT_WR)
        ended.set()
        connection.rest()

    with (
        Server(first_connection(script)) as server,
        sender_to(server, connections=1) as sender,
    ):
        assert sender.submit(message(1)).result(TIMEOUT).status is Status.ACCEPTED
        assert ended.wait(TIMEOUT)
        time.sleep(0.05)
        second = sender.submit(message(2)).result(TIMEOUT)
        assert (second.status, second.attempts) == (Status.ACCEPTED, 1)
        assert b"s2@" not in server.wire(0), "this connection had an unexpected reply"


# A relay that accepts the session and closes it at once


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_relay_that_closes_at_each_mail_soon_stops_the_sender(attempts: int) -> None:
    with Server(SMTPScript(("PIPELINING",), {"mail": HANG_UP})) as server:
        sender = sender_to(server, connections=2, max_attempts=attempts)
        outcomes, error = send_and_stop(sender, messages(50))
        assert {each.status for each in outcomes} == {Status.NOT_ATTEMPTED}
        assert "the relay closed the connection" in str(error)
        assert len(server.connections) <= 12


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_login_refused_temporarily_is_retried_a_few_times(attempts: int) -> None:
    auth = {"auth": b"454 4.7.0 later"}
    with Server(SMTPScript(("PIPELINING", "AUTH PLAIN"), auth)) as server:
        login = {"login": "u:p@", "query": "?starttls=off", "allow_plaintext_auth": True}
        outcomes, error = send_and_stop(
            sender_to(server, max_attempts=attempts, **login), messages(3)
        )
        assert {each.status for each in outcomes} == {Status.NOT_ATTEMPTED}
        assert error.reply == (454, b"4.7.0 later")
        assert len(server.connections) == commands(server, b"AUTH") == attempts


@pytest.mark.parametrize("pipelining", ["off", "transaction", "stream"])
def test_messages_after_a_refused_recipient_have_one_attempt(pipelining: str) -> None:
    """Each message is attempted once. The wait for another connection is not an attempt."""

    def rcpt(line: bytes) -> bytes:
        number = int(line.split(b"<r")[1].split(b"@")[0])
        return b"550 5.1.1 nobody" if number % 7 == 3 else OK

    with (
        serve({"rcpt": rcpt}) as server,
        sender_to(server, connections=2, pipelining=pipelining) as sender,
    ):
        outcomes = list(sender.send(messages(300)))
        assert sender.stats().retried == 0
    refused = {each.message.sender for each in outcomes if each.status is Status.REFUSED}
    assert refused == {f"s{number}@example.com" for number in range(3, 300, 7)}
    assert {each.attempts for each in outcomes} == {1}
    lines = b"".join(wires(server)).upper().split(b"\r\n")
    named = Counter(line for line in lines if line.startswith(b"RCPT"))
    assert len(named) == 300 and set(named.values()) == {1}


def test_the_transactions_of_one_message_count_as_no_more_than_the_allowed_attempts() -> None:
    data = iter([HANG_UP, b"354 go on"])
    script = SMTPScript(("LIMITS RCPTMAX=1",), {"data": lambda _: next(data)})
    given = Message("s@example.com", ["a@example.com", "b@example.com"], CONTENT)
    with Server(script) as server:
        [outcome] = send(sender_to(server, connections=1, max_attempts=1), [given])
    results = [each.status for each in outcome.recipients.values()]
    assert results == [Status.NOT_ATTEMPTED, Status.ACCEPTED]
    assert outcome.attempts == 1
