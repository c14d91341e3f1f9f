"""The drop-in compared with smtplib. Each client has one open connection to the sink."""

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
    with (
        smtplib.SMTP("127.0.0.1", sink) as smtplib_client,
        rapidsmtp.SMTP("127.0.0.1", sink) as rapidsmtp_client,
    ):
        yield smtplib_client, rapidsmtp_client


def sendmail_call(client, message, recipients):
    addresses = [f"recipient{number}@example.com" for number in range(recipients)]
    return lambda: client.sendmail("sender@example.com", addresses, message)


@pytest.mark.parametrize("recipients", [1, 50])
@pytest.mark.parametrize("message", [SMALL, LARGE], ids=["300-bytes", "38-kB"])
def test_sendmail(compare, backend, clients, message, recipients):
    smtplib_client, rapidsmtp_client = clients
    compare(
        sendmail_call(smtplib_client, message, recipients),
        sendmail_call(rapidsmtp_client, message, recipients),
        calls=200 if recipients == 1 else 20,
    )


def test_sendmail_without_pipelining(compare, backend, clients):
    smtplib_client, rapidsmtp_client = clients
    rapidsmtp_client.pipelining = False
    compare(
        sendmail_call(smtplib_client, SMALL, 1),
        sendmail_call(rapidsmtp_client, SMALL, 1),
        calls=200,
    )


def test_sendmail_50_recipients_20_ms_away(compare, backend, distant_sink):
    with (
        smtplib.SMTP("127.0.0.1", distant_sink) as smtplib_client,
        rapidsmtp.SMTP("127.0.0.1", distant_sink) as rapidsmtp_client,
    ):
        rapidsmtp_client.ehlo()
        smtplib_client.ehlo()
        compare(
            sendmail_call(smtplib_client, SMALL, 50),
            sendmail_call(rapidsmtp_client, SMALL, 50),
            calls=1,
        )


class NonParsingClient:
    """A client that parses no replies. It sends a message in two writes: commands, then message."""

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
    """Measure a client that makes only the socket calls: the upper limit of the drop-in's speed."""
    with smtplib.SMTP("127.0.0.1", sink) as smtplib_client:
        client = NonParsingClient(sink)
        compare(sendmail_call(smtplib_client, SMALL, 1), client.send, calls=200)
        client.sock.close()
