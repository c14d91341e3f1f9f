"""The drop-in beside smtplib, over one open connection each, against the sink."""

import smtplib
import socket

import pytest

import rapidsmtp

SMALL = b"Subject: small\r\n\r\n" + b"A line of a small message.\r\n" * 10
LARGE = b"Subject: newsletter\r\n\r\n" + (
    b"A line of the newsletter, as long as the lines of newsletters are: seventy-six.\r\n" * 470
)


@pytest.fixture
def clients(sink):
    with smtplib.SMTP("127.0.0.1", sink) as theirs, rapidsmtp.SMTP("127.0.0.1", sink) as ours:
        yield theirs, ours


def mails(client, message, recipients):
    addresses = [f"recipient{number}@example.com" for number in range(recipients)]
    return lambda: client.sendmail("sender@example.com", addresses, message)


@pytest.mark.parametrize("recipients", [1, 50])
@pytest.mark.parametrize("message", [SMALL, LARGE], ids=["300-bytes", "38-kB"])
def test_sendmail(compare, half, clients, message, recipients):
    theirs, ours = clients
    compare(
        mails(theirs, message, recipients),
        mails(ours, message, recipients),
        calls=200 if recipients == 1 else 20,
    )


def test_sendmail_without_pipelining(compare, half, clients):
    theirs, ours = clients
    ours.pipelining = False
    compare(mails(theirs, SMALL, 1), mails(ours, SMALL, 1), calls=200)


def test_sendmail_50_recipients_20_ms_away(compare, half, distant_sink):
    with (
        smtplib.SMTP("127.0.0.1", distant_sink) as theirs,
        rapidsmtp.SMTP("127.0.0.1", distant_sink) as ours,
    ):
        ours.ehlo()
        theirs.ehlo()
        compare(mails(theirs, SMALL, 50), mails(ours, SMALL, 50), calls=1)


class Mute:
    """A client that parses nothing: two writes, and reads until enough has come."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.recv(4096)
        self.sock.sendall(b"ehlo client.example\r\n")
        self.sock.recv(4096)

    def send(self):
        self.sock.sendall(
            b"mail from:<sender@example.com>\r\nrcpt to:<recipient0@example.com>\r\ndata\r\n"
        )
        while b"354" not in self.sock.recv(4096):
            pass
        self.sock.sendall(SMALL + b".\r\n")
        self.sock.recv(4096)


def test_a_client_that_parses_nothing_300_bytes(compare, sink):
    """The most that can be reached: what the socket calls alone take."""
    with smtplib.SMTP("127.0.0.1", sink) as theirs:
        mute = Mute(sink)
        compare(mails(theirs, SMALL, 1), mute.send, calls=200)
        mute.sock.close()
