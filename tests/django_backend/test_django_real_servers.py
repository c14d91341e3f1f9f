"""The backend before Postfix and Exim: what it says was sent is what they have delivered."""

import smtplib
import time

import pytest
from django.core import mail

from django_letters import letter
from rapidsmtp import TLS, Status
from real_servers import COMPLAINT

PATIENCE = 30.0
"""Seconds that a server may take to deliver."""


@pytest.mark.parametrize("encrypted", [False, True], ids=["TCP", "STARTTLS"])
def test_what_was_sent_is_delivered(real_server, mail_to, told, encrypted):
    before, log_before = real_server.deliveries(), len(real_server.settled_log())
    given, wanted = [], set()
    for number in range(60):
        to = [f"to{number}@example.com", f"copy{number}@example.com"]
        if number % 6 == 1:
            to = [f"refused{number}@example.com"]
        elif number % 6 == 2:
            to[0] = f"refused{number}@example.com"
        given.append(letter(str(number), to, from_email=f"from{number}@example.com"))
        wanted |= {(given[-1].from_email, each) for each in to if not each.startswith("refused")}
    options = {"tls": TLS(ca_file=real_server.authority)}
    refused = pytest.raises(smtplib.SMTPRecipientsRefused)
    settings = mail_to(real_server.ports["plain"], EMAIL_USE_TLS=encrypted, RAPIDSMTP=options)
    with settings, refused as caught:
        mail.get_connection().send_messages(given)
    assert caught.value.sent == 50
    fates = {subject: outcome.status for subject, outcome in told}
    assert len(told) == len(fates) == 60
    for number in range(60):
        fate = {1: Status.REFUSED, 2: Status.PARTIAL}.get(number % 6, Status.ACCEPTED)
        assert fates[str(number)] is fate
    deadline = time.monotonic() + PATIENCE
    delivered = []
    while len(delivered) < len(wanted) and time.monotonic() < deadline:
        time.sleep(0.1)
        delivered = real_server.deliveries()
        for each in before:
            delivered.remove(each)
    pairs = [(sender, to) for sender, to, _ in delivered]
    assert sorted(pairs) == sorted(wanted)
    log = real_server.settled_log()[log_before:].splitlines()
    assert [line for line in log if COMPLAINT.search(line)] == []
