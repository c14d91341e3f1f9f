"""`Sender`: the accepted kinds of messages, the outcomes, and the calls that wait."""

import itertools
import logging
import pickle
import smtplib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from email.message import EmailMessage
from typing import Any

import pytest

from rapidsmtp import (
    Backoff,
    Message,
    Outcome,
    RelayError,
    Report,
    Sender,
    Stats,
    Status,
    Timeouts,
)
from senders import wait_for
from server import TIMEOUT, Connection, Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN", "SIZE 1000000")


def serve(**replies: Any) -> Server:
    return Server(SMTPScript(EXTENSIONS, replies=replies))


def url(server: Server) -> str:
    return f"smtp://{server.host}:{server.port}"


def numbered(count: int, start: int = 0) -> list[Message]:
    return [
        Message(f"s{number}@example.com", [f"r{number}@example.com"], b"x\r\n", tag=number)
        for number in range(start, start + count)
    ]


def received(server: Server) -> bytes:
    return b"".join(bytes(each.received) for each in server.connections)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


# Messages


def test_each_message_has_one_outcome(server: Server) -> None:
    messages = numbered(500)
    with Sender(url(server)) as sender:
        outcomes = list(sender.send(messages))
    assert sorted(outcome.tag for outcome in outcomes) == list(range(500))
    for outcome in outcomes:
        assert outcome.status is Status.ACCEPTED and outcome.message is messages[outcome.tag]
        assert outcome.reply == (250, b"2.0.0 queued as 1234")
        assert (outcome.phase, outcome.attempts, outcome.reason) == ("body", 1, "")
        assert list(outcome.recipients) == [f"r{outcome.tag}@example.com"]
    wire = received(server)
    for number in range(500):
        assert wire.count(b"<r%d@example.com>" % number) == 1


def test_arguments_of_smtplib_are_accepted(server: Server) -> None:
    plain = EmailMessage()
    plain["From"], plain["To"] = "Ann <ann@example.com>", "bo@example.com"
    plain["Bcc"] = "hidden@example.com"
    plain.set_content("Good day")
    with Sender(url(server), connections=1) as sender:
        outcomes = list(
            sender.send(
                [
                    ("a@example.com", "b@example.com", "one\ntwo"),
                    ("a@example.com", ["c@example.com"], b"x", ["RET=HDRS"], ["NOTIFY=NEVER"]),
                    ("a@example.com", ("d@example.com",), plain),
                    plain,
                ]
            )
        )
    assert [outcome.status for outcome in outcomes] == [Status.ACCEPTED] * 4
    assert set(outcomes[3].recipients) == {"bo@example.com", "hidden@example.com"}
    wire = received(server)
    assert b"\r\none\r\ntwo\r\n.\r\n" in wire
    assert b" RET=HDRS" in wire and b"<c@example.com> NOTIFY=NEVER" in wire
    assert wire.count(b"<hidden@example.com>") == 1 and b"Bcc" not in wire


def test_addresses_beyond_ascii_use_smtputf8(server: Server) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", "bö@example.com", "ö"
    message.set_content("x")
    with Sender(url(server)) as sender:
        (outcome,) = sender.send([message])
    assert outcome.status is Status.ACCEPTED, outcome
    assert outcome.message is not None and "SMTPUTF8" in outcome.message.mail_options
    assert "<bö@example.com>".encode() in received(server)


BAD = {
    "number": 7,
    "none": None,
    "short tuple": ("a@example.com", "b@example.com"),
    "no recipients": ("a@example.com", [], b"x"),
    "text beyond ASCII": ("a@example.com", "b@example.com", "ö"),
    "no message": ("a@example.com", "b@example.com", 7),
    "no addresses": EmailMessage(),
    "injection": Message("a@example.com>\r\nRSET", ["b@example.com"], b"x"),
    "no text": Message("a@example.com", [object()], b"x"),  # type: ignore[list-item]
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_element_is_invalid_and_the_others_are_sent(server: Server, bad: Any) -> None:
    with Sender(url(server)) as sender:
        outcomes = list(sender.send([*numbered(1), bad, *numbered(1, 1)]))
        stats = sender.stats()
    assert len(outcomes) == 3
    assert {0, 1} == {each.tag for each in outcomes if each.status is Status.ACCEPTED}
    (invalid,) = (outcome for outcome in outcomes if outcome.status is not Status.ACCEPTED)
    assert invalid.status is Status.INVALID and invalid.phase == "build" and invalid.reason
    assert (stats.taken, stats.accepted, stats.invalid) == (3, 2, 1)


def test_outcomes_pass_through(server: Server) -> None:
    broken = Outcome(
        "row 2", None, Status.INVALID, phase="build", reason="the field 'name' is missing"
    )
    with Sender(url(server)) as sender:
        outcomes = list(sender.send(iter([*numbered(1), broken])))
    assert len(outcomes) == 2 and broken in outcomes


def test_a_single_message_is_refused_as_an_iterable(server: Server) -> None:
    with Sender(url(server)) as sender:
        for single in (*numbered(1), EmailMessage(), "text", b"bytes"):
            with pytest.raises(TypeError, match="iterable"):
                sender.send(single)
            with pytest.raises(TypeError, match="iterable"):
                sender.send_all(single)


def test_without_messages_no_connection_is_opened(server: Server) -> None:
    with Sender(url(server)) as sender:
        assert list(sender.send([])) == []
        assert sender.send_all(iter(())).total == 0
    assert server.connections == []


# Outcomes


def test_recipients_may_have_different_results() -> None:
    def rcpt(line: bytes) -> bytes:
        if b"gone" in line:
            return b"550 5.1.1 no such user"
        return b"450 4.2.1 later" if b"full" in line else b"250 2.1.5 ok"

    with serve(rcpt=rcpt) as server:
        addresses = ["good@example.com", "gone@example.com", "full@example.com"]
        with Sender(url(server), max_attempts=1) as sender:
            (outcome,) = sender.send([("a@example.com", addresses, b"x")])
    assert outcome.status is Status.PARTIAL
    assert list(outcome.recipients) == addresses
    good, gone, full = outcome.recipients.values()
    assert good.status is Status.ACCEPTED
    assert gone == (Status.REFUSED, 550, "5.1.1", "5.1.1 no such user")
    assert full == (Status.DEFERRED, 450, "4.2.1", "4.2.1 later")
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        outcome.raise_for_status()
    assert set(caught.value.recipients) == {"gone@example.com", "full@example.com"}


def test_an_outcome_is_a_value(server: Server) -> None:
    with Sender(url(server)) as sender:
        (outcome,) = sender.send(numbered(1))
        copy = pickle.loads(pickle.dumps(outcome))
        assert copy == outcome and copy is not outcome
        assert repr(copy) == repr(outcome) and repr(outcome).startswith("Outcome(tag=0, message=")
        assert replace(outcome, tag=7).tag == 7
        with pytest.raises(AttributeError):
            outcome.tag = 8  # type: ignore[misc]
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            outcome.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_send_all_returns_a_report() -> None:
    def mail(line: bytes) -> bytes:
        return b"550 5.7.1 not you" if b"<s3@" in line else b"250 ok"

    with serve(mail=mail) as server, Sender(url(server)) as sender:
        report = sender.send_all(numbered(10))
    assert report.counts == {Status.ACCEPTED: 9, Status.REFUSED: 1}
    assert (report.total, report.accepted, report.error) == (10, 9, None)
    assert [outcome.tag for outcome in report.not_accepted] == [3]
    assert 0 < report.seconds < TIMEOUT
    with pytest.raises(smtplib.SMTPSenderRefused):
        report.raise_for_status()


def test_stats_count_messages_and_connections(server: Server) -> None:
    with Sender(url(server), connections=2, max_messages_per_connection=50) as sender:
        assert isinstance(sender.stats(), Stats) and sender.stats().taken == 0
        assert sender.stats().relay_limits.pipelining is None
        sender.send_all(numbered(20))
        stats = sender.stats()
    assert (stats.taken, stats.accepted, stats.queued, stats.in_flight) == (20, 20, 0, 0)
    assert 1 <= stats.connected <= 2 and stats.bytes > 20 * 60
    assert stats.relay_limits.connections == 2 and stats.relay_limits.messages_per_connection == 50
    assert stats.relay_limits.pipelining in ("transaction", "stream")


# The iterable


@pytest.mark.parametrize("place", [0, 1, 2, 37, 300])
def test_outcomes_are_yielded_before_the_iterables_exception(server: Server, place: int) -> None:
    class Broken(Exception):
        pass

    def messages() -> Iterator[Message]:
        yield from numbered(place)
        raise Broken("the cursor is gone")

    tags = []
    with Sender(url(server)) as sender, pytest.raises(Broken):
        for outcome in sender.send(messages()):
            assert outcome.status is Status.ACCEPTED
            tags.append(outcome.tag)
    assert sorted(tags) == list(range(place))
    with Sender(url(server)) as sender, pytest.raises(Broken) as caught:
        sender.send_all(messages())
    report = caught.value.report  # type: ignore[attr-defined]
    assert isinstance(report, Report) and report.accepted == place


@pytest.mark.parametrize("queue_size", [1, 2, 7, 100])
def test_messages_are_read_at_most_one_queue_ahead_of_the_outcomes(
    server: Server, queue_size: int
) -> None:
    taken = seen = ahead = 0
    threads = set()

    def messages() -> Iterator[Message]:
        nonlocal taken, ahead
        for message in numbered(1000):
            threads.add(threading.get_ident())
            taken += 1
            ahead = max(ahead, taken - seen)
            yield message

    with Sender(url(server), queue_size=queue_size) as sender:
        for _ in sender.send(messages()):
            seen += 1
    assert seen == 1000 and ahead <= queue_size
    assert threads == {threading.get_ident()}


def test_messages_that_were_read_do_not_wait_for_the_next_element(server: Server) -> None:
    """The sender sends the messages that it has read while the iterable waits.

    The iterable yields several messages and waits until the relay has received them.
    """
    burst = 37

    def messages() -> Iterator[Any]:
        yield from numbered(burst - 2)
        yield ("a@example.com", f"r{burst - 2}@example.com", b"x")
        yield 7
        wait_for(lambda: received(server).count(b"\r\n.\r\n") == burst - 1)
        yield from numbered(1, burst)

    with Sender(url(server)) as sender:
        outcomes = list(sender.send(messages()))
        assert sender.stats().taken == burst + 1
    assert len(outcomes) == burst + 1
    assert [outcome.status for outcome in outcomes].count(Status.INVALID) == 1


def test_outcomes_do_not_wait_for_a_slow_iterable(server: Server) -> None:
    taken = 0

    def messages() -> Iterator[Message]:
        nonlocal taken
        for message in numbered(8):
            time.sleep(0.05)
            taken += 1
            yield message

    with Sender(url(server)) as sender:
        late = [taken - outcome.tag for outcome in sender.send(messages())]
    # Each outcome is yielded before the sender has read four more messages.
    assert len(late) == 8 and max(late) <= 4


@pytest.mark.parametrize("consumed", [1, 5])
def test_a_break_loses_no_outcome(server: Server, consumed: int) -> None:
    taken = []

    def messages() -> Iterator[Message]:
        for message in numbered(10_000):
            taken.append(message.tag)
            yield message

    sender = Sender(url(server), queue_size=50)
    outcomes = sender.send(messages())
    first = list(itertools.islice(outcomes, consumed))
    outcomes.close()  # type: ignore[attr-defined]
    after = len(taken)
    assert after < 10_000
    report = sender.close()
    assert len(taken) == after
    assert len(first) + report.total == after == report.accepted + consumed
    assert sender.stats().accepted == after
    wire = received(server)
    for tag in taken:
        assert wire.count(b"<r%d@example.com>" % tag) == 1
    assert sender.close() is report


def test_a_sender_can_send_again_after_a_break(server: Server) -> None:
    with Sender(url(server)) as sender:
        for number in range(30):
            tag = next(iter(sender.send(numbered(3, 3 * number)))).tag
            assert tag in range(3 * number, 3 * number + 3)
        report = sender.close()
    assert report.accepted == 60 and sender.stats().accepted == 90


# Futures and threads


def test_submit_returns_a_future_for_each_message(server: Server) -> None:
    with Sender(url(server)) as sender:
        futures = [sender.submit(message) for message in numbered(100)]
        assert not futures[0].cancel()
        for number, future in enumerate(futures):
            outcome = future.result(TIMEOUT)
            assert (outcome.tag, outcome.status) == (number, Status.ACCEPTED)
            assert isinstance(outcome.message, Message)
        assert sender.submit(7).result(0).status is Status.INVALID
        assert sender.stats().taken == 101


def test_close_waits_for_futures(server: Server) -> None:
    done: list[Future[Outcome]] = []
    with Sender(url(server)) as sender:
        for message in numbered(50):
            sender.submit(message).add_done_callback(done.append)
    assert len(done) == 50
    assert {future.result(0).status for future in done} == {Status.ACCEPTED}


@pytest.mark.parametrize("queue_size", [1, 3, 100])
def test_submit_works_during_a_send(server: Server, queue_size: int) -> None:
    futures = []
    with Sender(url(server), queue_size=queue_size) as sender:
        for outcome in sender.send(iter(numbered(100))):
            (again,) = numbered(1, 1000 + outcome.tag)
            futures.append(sender.submit(again))
        assert {future.result(TIMEOUT).status for future in futures} == {Status.ACCEPTED}
    assert len(futures) == 100 and sender.stats().accepted == 200


def test_submit_works_in_a_callback(server: Server) -> None:
    second: list[Future[Outcome]] = []
    with Sender(url(server), queue_size=1) as sender:
        for message in numbered(5):
            sender.submit(message).add_done_callback(
                lambda future: second.append(sender.submit(numbered(1, 100)[0]))
            )
        wait_for(lambda: len(second) == 5)
        assert {future.result(TIMEOUT).status for future in second} == {Status.ACCEPTED}


def test_a_full_queue_makes_submit_wait() -> None:
    go_on = threading.Event()

    def message(body: bytes) -> bytes:
        go_on.wait(TIMEOUT)
        return b"250 ok"

    with serve(message=message) as server, Sender(url(server), queue_size=2) as sender:
        futures: list[Future[Outcome]] = []
        thread = threading.Thread(
            target=lambda: futures.extend(map(sender.submit, numbered(3))), daemon=True
        )
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and sender.stats().taken == 2
        go_on.set()
        thread.join(TIMEOUT)
        assert [future.result(TIMEOUT).tag for future in futures] == [0, 1, 2]


def test_many_threads_can_share_a_sender(server: Server) -> None:
    tags: dict[int, list[int]] = {}
    futures: list[Future[Outcome]] = []

    def work(number: int) -> None:
        start = 1000 * number
        tags[number] = [outcome.tag for outcome in sender.send(iter(numbered(200, start)))]
        futures.extend(sender.submit(message) for message in numbered(20, start + 500))

    with Sender(url(server), queue_size=64) as sender:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4 * TIMEOUT)
    for number in range(6):
        assert sorted(tags[number]) == list(range(1000 * number, 1000 * number + 200))
    assert len(futures) == 120 and all(future.result(0).tag % 1000 >= 500 for future in futures)
    assert sender.stats().accepted == 6 * 220


# Unreachable relays


def unused_url() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"smtp://127.0.0.1:{sock.getsockname()[1]}"


def impatient(relay: str, **settings: Any) -> Sender:
    return Sender(
        relay, backoff=Backoff(0.01, 1.0, 0.01), timeouts=Timeouts(connect=1.0), **settings
    )


def test_a_dead_relay_stops_sending_with_one_error() -> None:
    with impatient(unused_url()) as sender:
        outcomes = []
        with pytest.raises(RelayError) as caught:
            for outcome in sender.send(message for message in numbered(100_000)):
                outcomes.append(outcome)
        assert outcomes and {each.status for each in outcomes} == {Status.NOT_ATTEMPTED}
        assert outcomes[0].reason and outcomes[0].recipients["r0@example.com"].code is None
        assert caught.value.reply is None and "127.0.0.1" in str(caught.value)
        assert len(outcomes) == sender.stats().taken < 100_000
        # The sender pauses before it connects again. During the pause, calls raise the error.
        for again in (
            lambda: list(sender.send(numbered(1))),
            lambda: sender.submit(numbered(1)[0]),
        ):
            with pytest.raises(RelayError):
                again()
        report = sender.send_all(numbered(1))
        assert report.total == 0 and isinstance(report.error, RelayError)
        with pytest.raises(RelayError):
            report.raise_for_status()


def test_a_relay_that_recovers_is_used_again(server: Server) -> None:
    relay = unused_url()
    with impatient(relay) as sender:
        assert sender.submit(numbered(1)[0]).result(TIMEOUT).status is Status.NOT_ATTEMPTED
        listener = socket.create_server(("127.0.0.1", int(relay.rpartition(":")[2])))
        time.sleep(1.1)
        forwarding = threading.Thread(target=serve_one, args=(listener,), daemon=True)
        forwarding.start()
        assert sender.send_all(numbered(3)).accepted == 3
    listener.close()


def serve_one(listener: socket.socket) -> None:
    """Serve each connection with an `SMTPScript`."""
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        connection = Connection(sock)
        threading.Thread(target=quietly, args=(connection,), daemon=True).start()


def quietly(connection: Connection) -> None:
    try:
        SMTPScript(EXTENSIONS)(connection)
    except (EOFError, OSError):
        connection.sock.close()


def test_a_wrong_password_is_tried_once() -> None:
    script = SMTPScript(("AUTH PLAIN",), replies={"auth": b"535 5.7.8 wrong"})
    with Server(script) as server:
        relay = f"smtp://ann:geheim@127.0.0.1:{server.port}?starttls=off"
        with Sender(relay, allow_plaintext_auth=True) as sender:
            report = sender.send_all(numbered(3))
            assert report.counts == {Status.NOT_ATTEMPTED: 3}
            assert report.error is not None and report.error.reply is not None
            assert report.error.reply[0] == 535 and "geheim" not in str(report.error)
            time.sleep(1.1)
            with pytest.raises(RelayError):
                list(sender.send(numbered(1)))
        assert received(server).count(b"AUTH") == 1


# Passwords, traces, secrets


def test_a_function_may_supply_the_password() -> None:
    asked = []

    def token() -> str:
        asked.append(threading.current_thread().name)
        return "geheim"

    with Server(SMTPScript(("AUTH PLAIN",))) as server:
        relay = f"smtp://ann@127.0.0.1:{server.port}?starttls=off"
        lines: list[str] = []
        with Sender(relay, password=token, allow_plaintext_auth=True, trace=lines.append) as sender:
            assert sender.send_all(numbered(3)).accepted == 3
        assert asked and b"AUTH PLAIN AGFubgBnZWhlaW0=" in received(server)
    trace = "\n".join(lines)
    assert "C: AUTH PLAIN ***" in trace and "AGFub" not in trace and "geheim" not in trace
    assert "C: MAIL FROM:<S0@EXAMPLE.COM>" in trace.upper()
    assert "S: 250 2.0.0 queued as 1234" in trace


@pytest.mark.parametrize(
    "answer", [RuntimeError("the vault is locked"), SystemExit("the vault is locked"), 7]
)
def test_a_failed_password_function_stops_sending(answer: Any) -> None:
    def token() -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    with Server(SMTPScript(("AUTH PLAIN",))) as server:
        relay = f"smtp://ann@127.0.0.1:{server.port}?starttls=off"
        with Sender(relay, password=token, allow_plaintext_auth=True) as sender:
            report = sender.send_all(numbered(2))
    assert report.counts == {Status.NOT_ATTEMPTED: 2}
    assert "vault" in str(report.error) or "int" in str(report.error)


def test_a_password_function_that_fails_once_is_called_again() -> None:
    answers = iter([RuntimeError("the vault is locked"), "geheim"])

    def token() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with Server(SMTPScript(("AUTH PLAIN",))) as server:
        relay = f"smtp://ann@127.0.0.1:{server.port}?starttls=off"
        with Sender(relay, password=token, allow_plaintext_auth=True, connections=1) as sender:
            assert "vault" in str(sender.send_all(numbered(1)).error)
            # A failure of the password function stops the sender only temporarily. The stop ends
            # during this sleep.
            time.sleep(1.1)
            assert sender.send_all(numbered(1)).accepted == 1


def test_a_slow_password_function_stops_sending() -> None:
    given = threading.Event()

    def token() -> str:
        given.wait(TIMEOUT)
        return "geheim"

    with Server(SMTPScript(("AUTH PLAIN",))) as server:
        relay = f"smtp://ann@127.0.0.1:{server.port}?starttls=off"
        limits = Timeouts(command=0.2)
        with Sender(relay, password=token, allow_plaintext_auth=True, timeouts=limits) as sender:
            assert "no answer in time" in str(sender.send_all(numbered(1)).error)
            given.set()


def test_a_trace_can_be_a_logger(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mine")
    with Sender(url(server), trace=logging.getLogger("mine")) as sender:
        sender.send_all(numbered(1))
    assert any("C: QUIT" in record.message for record in caplog.records)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_a_trace_function_that_fails_does_not_stop_sending(server: Server, caplog: Any) -> None:
    def trace(line: str) -> None:
        raise ValueError("the disk is full")

    with Sender(url(server), trace=trace) as sender:
        assert sender.send_all(numbered(3)).accepted == 3
    assert "the disk is full" in caplog.text


def test_no_secret_is_shown_or_pickled() -> None:
    sender = Sender("smtp://ann:geheim@relay.example?auth=plain", password="anders")
    assert repr(sender) == "<Sender smtp://relay.example:25>" and sender.relay == "relay.example:25"
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(sender)
    sender.close()


# Closing


def test_a_closed_sender_refuses_messages(server: Server) -> None:
    with Sender(url(server)) as sender:
        sender.send_all(numbered(1))
    for attempt in (
        lambda: sender.send(numbered(1)),
        lambda: sender.submit(numbered(1)[0]),
        lambda: sender.send_all(numbered(1)),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            attempt()
    assert sender.stats().accepted == 1


def test_close_during_a_send_raises_in_the_send(server: Server) -> None:
    taken = []

    def messages() -> Iterator[Message]:
        for message in numbered(100_000):
            taken.append(message.tag)
            yield message

    tags = []
    with Sender(url(server), queue_size=100) as sender, pytest.raises(RuntimeError, match="closed"):
        for outcome in sender.send(messages()):
            tags.append(outcome.tag)
            if len(tags) == 500:
                sender.close()
    assert sorted(tags) == taken and len(taken) < 100_000


def test_close_returns_after_its_time_limit() -> None:
    """`close` returns after its time limit although the relay has stopped replying.

    Messages whose body was sent are UNKNOWN. All other messages are NOT_ATTEMPTED.
    """
    release = threading.Event()
    with serve(message=lambda body: release.wait(2 * TIMEOUT) and b"250 ok") as server:
        sender = Sender(url(server), connections=2)
        futures = [sender.submit(message) for message in numbered(20)]
        wait_for(lambda: received(server).count(b"\r\n.\r\n") == 2)
        start = time.monotonic()
        sender.close(0.3)
        assert time.monotonic() - start < TIMEOUT
        statuses = [future.result(0).status for future in futures]
        release.set()
    assert statuses.count(Status.UNKNOWN) == 2
    assert statuses.count(Status.NOT_ATTEMPTED) == 18


def test_an_exception_in_the_block_closes_the_sender_soon() -> None:
    release = threading.Event()
    with serve(message=lambda body: release.wait(2 * TIMEOUT) and b"250 ok") as server:
        start = time.monotonic()
        with pytest.raises(KeyError), Sender(url(server)) as sender:
            future = sender.submit(numbered(1)[0])
            wait_for(lambda: b"\r\n.\r\n" in received(server))
            raise KeyError("of the program")
        assert time.monotonic() - start < TIMEOUT
        assert future.result(0).status is Status.UNKNOWN
        release.set()
