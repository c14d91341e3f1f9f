"""The backend with real servers: the servers deliver each message that is reported as sent."""

import smtplib
import time

import pytest
from django.core import mail

from django_messages import make_message
from rapidsmtp import TLS, Status

DELIVERY_SECONDS = 30.0
"""The time limit for the delivery of all messages, in seconds."""


@pytest.mark.parametrize("encrypted", [False, True], ids=["TCP", "STARTTLS"])
def test_sent_messages_are_delivered(real_server, mail_to, signalled, encrypted):
    real_server.require("SMTP")
    if encrypted:
        real_server.require("starttls")
    before, log_before = real_server.deliveries(), len(real_server.settled_log())
    given, wanted = [], set()
    for number in range(60):
        to = [f"to{number}@example.com", f"copy{number}@example.com"]
        if number % 6 == 1:
            to = [f"refused{number}@example.com"]
        elif number % 6 == 2:
            to[0] = f"refused{number}@example.com"
        given.append(make_message(str(number), to, from_email=f"from{number}@example.com"))
        wanted |= {(given[-1].from_email, each) for each in to if not each.startswith("refused")}
    options = {"tls": TLS(ca_file=real_server.authority)}
    refused = pytest.raises(smtplib.SMTPRecipientsRefused)
    settings = mail_to(real_server.ports["plain"], EMAIL_USE_TLS=encrypted, RAPIDSMTP=options)
    with settings, refused as caught:
        mail.get_connection().send_messages(given)
    assert caught.value.sent == 50
    statuses = {subject: outcome.status for subject, outcome in signalled}
    assert len(signalled) == len(statuses) == 60
    for number in range(60):
        expected = {1: Status.REFUSED, 2: Status.PARTIAL}.get(number % 6, Status.ACCEPTED)
        assert statuses[str(number)] is expected
    deadline = time.monotonic() + DELIVERY_SECONDS
    delivered = []
    while len(delivered) < len(wanted) and time.monotonic() < deadline:
        time.sleep(0.1)
        delivered = real_server.deliveries()
        for each in before:
            delivered.remove(each)
    pairs = [(sender, to) for sender, to, _ in delivered]
    assert sorted(pairs) == sorted(wanted)
    log = real_server.settled_log()[log_before:].splitlines()
    assert [line for line in log if real_server.complaint.search(line)] == []
