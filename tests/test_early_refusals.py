"""Refusals that arrive before the client has written everything, and before the connection ends."""

import socket
import struct
from collections.abc import Sequence

import pytest

from rapidsmtp import Status
from senders import CONTENT, message, send, sender_to
from server import Connection, Script, Server

pytestmark = pytest.mark.usefixtures("backend")

PIPELINING = ["off", "transaction", "stream", "window"]
GOING = b"421 4.3.2 going"
# Larger than the buffers of both sockets, so that the client cannot write all bytes.
LARGE = (b"x" * 70 + b"\r\n") * 150_000


def reset(connection: Connection) -> None:
    """Close the socket with a reset, as a system does if unread bytes have arrived."""
    linger = struct.pack("ii", 1, 0)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.sock.close()


def relay(replies: Sequence[bytes], *, with_reset: bool) -> Script:
    """Return a relay that sends one reply to each command, and then ends the connection.

    Args:
        replies: The replies. A reply after the one to DATA answers the first bytes of the message.
        with_reset: Whether the end is a reset.
    """

    def script(connection: Connection) -> None:
        # With Nagle's algorithm, the last reply could wait for an acknowledgement of the client,
        # and the reset would discard it.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.send(b"220 ready\r\n")
        connection.line()
        connection.send(b"250-relay.example\r\n250 PIPELINING\r\n")
        for number, reply in enumerate(replies):
            if number < 3:
                connection.line()
            else:
                connection.sock.recv(1000)
            connection.send(reply + b"\r\n")
        if with_reset:
            reset(connection)

    return script


OK, GO_ON = b"250 ok", b"354 go on"
REFUSED = b"552 5.3.4 too big"


@pytest.mark.parametrize("with_reset", [False, True])
@pytest.mark.parametrize("reply", [REFUSED, b"451 4.3.0 no", GOING])
@pytest.mark.parametrize("pipelining", PIPELINING)
def test_a_refusal_while_the_message_is_written_has_the_phase_body(
    pipelining: str, reply: bytes, with_reset: bool
) -> None:
    script = relay([OK, OK, GO_ON, reply], with_reset=with_reset)
    with Server(script) as server:
        sender = sender_to(server, connections=1, max_attempts=1, pipelining=pipelining)
        (outcome,) = send(sender, [message(content=LARGE)])
    assert (outcome.phase, outcome.reason) == ("body", reply.decode())
    expected = Status.REFUSED if reply is REFUSED else Status.DEFERRED
    assert outcome.status is expected


def test_a_refused_data_has_the_phase_data() -> None:
    with Server(relay([OK, OK, REFUSED], with_reset=False)) as server:
        (outcome,) = send(sender_to(server, max_attempts=1), [message()])
    assert (outcome.status, outcome.phase) == (Status.REFUSED, "data")


# The 421 follows the reply to an earlier command, or arrives in place of a reply.
ENDS = {
    "MAIL": [GOING],
    "before RCPT": [OK + b"\r\n" + GOING],
    "RCPT": [OK, GOING],
    "before DATA": [OK, OK + b"\r\n" + GOING],
    "DATA": [OK, OK, GOING],
    "before the message": [OK, OK, GO_ON + b"\r\n" + GOING],
}


@pytest.mark.parametrize("with_reset", [False, True])
@pytest.mark.parametrize("pipelining", ["off", "transaction", "stream"])
@pytest.mark.parametrize("point", ENDS)
def test_a_421_that_ends_the_connection_is_the_reason(
    point: str, pipelining: str, with_reset: bool
) -> None:
    with Server(relay(ENDS[point], with_reset=with_reset)) as server:
        sender = sender_to(server, connections=1, max_attempts=1, pipelining=pipelining)
        (outcome,) = send(sender, [message(content=CONTENT)])
    assert (outcome.status, outcome.reason) == (Status.DEFERRED, GOING.decode())
