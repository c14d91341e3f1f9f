"""The senders behind the backend: kept from request to request, and let go of in the end."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import warnings

import pytest
from django.core import mail
from django.test import override_settings

from django_letters import letter
from postman import Postman
from rapidsmtp import TLS, Timeouts, process
from rapidsmtp.django import EmailBackend, senders
from senders import wait_for
from server import Dialogue, Server

OFFERS = ["PIPELINING", "8BITMIME"]
PATIENCE = 60.0
"""Seconds that a worker process may take, on a machine with other work."""


def send(**more):
    return mail.get_connection(**more).send_messages([letter()])


def test_requests_share_a_connection(mail_to):
    with Server(Dialogue(OFFERS)) as server, mail_to(server.port):
        for _ in range(5):
            assert send() == 1
        with mail.get_connection() as opened:
            assert opened.send_messages([letter()]) == 1
        assert send() == 1
        assert len(server.connections) == 1


def test_threads_share_the_sender(mail_to):
    with Server(Dialogue(OFFERS)) as server, mail_to(server.port):
        backend = mail.get_connection()
        sent = []

        def work(own):
            with backend if own else mail.get_connection() as opened:
                sent.extend(opened.send_messages([letter(), letter()]) for _ in range(10))

        threads = [threading.Thread(target=work, args=(place % 2,)) for place in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sent == [2] * 80
        assert 1 <= len(server.connections) <= 4
        assert len(senders._kept) == 1


@pytest.mark.parametrize("goodbye", [b"", b"421 4.4.2 you were idle\r\n"], ids=["EOF", "421"])
def test_a_connection_that_the_server_has_closed(mail_to, goodbye):
    with Server(Dialogue(OFFERS)) as server, mail_to(server.port):
        assert send() == 1
        for _ in range(3):
            for each in server.connections.copy():
                # Closed already: the sender may have learned to leave first.
                with contextlib.suppress(OSError):
                    each.sock.sendall(goodbye)
                    each.sock.shutdown(socket.SHUT_RDWR)
                assert each.over.wait(5)
            assert send() == 1
        assert (
            b"".join(bytes(each.received) for each in server.connections).count(b"mail FROM") == 4
        )


def test_a_server_that_was_away_is_found_again(mail_to):
    with Postman(["PIPELINING"]) as postman:
        port = postman.port
    with mail_to(port, EMAIL_TIMEOUT=None), pytest.raises(OSError):
        send()
    with Server(Dialogue(OFFERS)) as server, mail_to(server.port):
        assert send() == 1


def open_senders():
    return {id(each) for each in process._open}


def test_other_credentials_have_another_sender(mail_to):
    offers = [*OFFERS, "AUTH PLAIN"]
    with Server(Dialogue(offers)) as server, mail_to(server.port):
        for password in ("old", "new"):
            # As when they are rotated while the process runs: no signal tells of it.
            assert send(username="user", password=password) == 1
        wires = [bytes(each.received) for each in server.connections]
        assert [b"AUTH PLAIN" in wire for wire in wires] == [True, True]
        assert wires[0].split(b"AUTH PLAIN")[1][:20] != wires[1].split(b"AUTH PLAIN")[1][:20]


def test_overridden_settings_leave_nothing_behind(mail_to):
    before = open_senders()
    with Server(Dialogue(OFFERS)) as server:
        with mail_to(server.port):
            assert send() == 1
            assert len(senders._kept) == 1
        assert not senders._kept
        wait_for(lambda: open_senders() <= before)
        assert b"QUIT" in server.wire()


def test_no_more_senders_are_kept_than_a_few(mail_to):
    before = open_senders()
    with Server(Dialogue(OFFERS)) as server, mail_to(server.port):
        for number in range(senders.MOST + 5):
            assert send(local_hostname=f"client{number}.example") == 1
        assert len(senders._kept) == senders.MOST
        wait_for(lambda: len(open_senders() - before) == senders.MOST)


def test_a_sender_in_use_is_not_closed(mail_to):
    """Its settings are overridden in one thread while another one sends."""
    held, go_on = threading.Event(), threading.Event()

    def wait(line):
        held.set()
        assert go_on.wait(5)
        return b"250 2.0.0 queued"

    results = []
    with Server(Dialogue(OFFERS, {"message": wait})) as server, mail_to(server.port):
        backend = mail.get_connection()
        thread = threading.Thread(
            target=lambda: results.append(backend.send_messages([letter()])), daemon=True
        )
        thread.start()
        assert held.wait(5)
        senders.close_all()
        go_on.set()
        thread.join(5)
    assert results == [1]


def test_a_certificate_that_was_replaced_is_read_again(mail_to, tmp_path, authority):
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.cert_pem.bytes())
    with Server(Dialogue(OFFERS)) as server, mail_to(server.port):
        for _ in range(2):
            assert send(tls=TLS(ca_file=str(file))) == 1
        assert len(senders._kept) == 1
        os.utime(file, ns=(1, 1))
        assert send(tls=TLS(ca_file=str(file))) == 1
        assert len(senders._kept) == 2


def test_the_timeout_is_for_everything(mail_to):
    silent = Server(lambda connection: connection.rest())
    with silent as server, mail_to(server.port, EMAIL_TIMEOUT=0.2):
        begun = time.monotonic()
        with pytest.raises(OSError):
            send()
        assert time.monotonic() - begun < 5
    limits = EmailBackend(host="localhost", timeout=7)._sender_settings()["timeouts"]
    assert limits == Timeouts(
        connect=7, tls=7, greeting=7, command=7, mail=7, rcpt=7, data=7, block=7, body=7
    )
    with override_settings(EMAIL_TIMEOUT=None):
        assert "timeouts" not in EmailBackend(host="localhost")._sender_settings()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork(mail_to):
    with Server(Dialogue(OFFERS)) as server, mail_to(server.port):
        assert send() == 1
        children = []
        for _ in range(3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of fork with threads
                child = os.fork()
            if not child:
                status = 1
                try:
                    status = 0 if send() == send() == 1 else 2
                finally:
                    os._exit(status)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        assert send() == 1
        # The parent's own is as it was, and each child has one.
        assert len(server.connections) == 4
        wires = [bytes(each.received) for each in server.connections]
        assert sorted(wire.count(b"mail FROM") for wire in wires) == [2, 2, 2, 2]


def test_fork_while_the_lock_is_held(mail_to):
    with Server(Dialogue(OFFERS)) as server, mail_to(server.port):
        with senders._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
            if not child:
                status = 1
                try:
                    status = 0 if send() == 1 else 2
                finally:
                    os._exit(status)
        assert os.waitpid(child, 0)[1] == 0


SITE = """
import os
from django.conf import settings
settings.configure(
    EMAIL_BACKEND="rapidsmtp.django.EmailBackend", EMAIL_HOST="127.0.0.1",
    EMAIL_PORT=int(os.environ["PORT"]), EMAIL_TIMEOUT=10, SECRET_KEY="x",
    ALLOWED_HOSTS=["*"], ROOT_URLCONF="site_under_test", DEFAULT_FROM_EMAIL="site@example.com",
)
import django
django.setup()
from django.core.mail import send_mail
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

def index(request):
    sent = send_mail("Hello", "Body", None, ["a@example.org"])
    return HttpResponse(f"{sent} {os.getpid()}")

urlpatterns = [path("", index)]
# With --preload this is in the parent, before the fork.
send_mail("Starting", "Body", None, ["admin@example.org"])
application = get_wsgi_application()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")
def test_gunicorn(half, tmp_path):
    """Workers that were forked from a parent which has sent: each has connections of its own."""
    (tmp_path / "site_under_test.py").write_text(SITE)
    with Server(Dialogue(OFFERS)) as server:
        answers = _answers_of_gunicorn(half, tmp_path, server.port)
        assert {sent for sent, _ in answers} == {"1"}
        wires = [bytes(each.received) for each in server.connections]
    assert sum(wire.count(b"Subject: Hello") for wire in wires) == len(answers)
    assert sum(wire.count(b"Subject: Starting") for wire in wires) == 1
    # One for the parent, at which no worker has written; one at least for each that answered.
    assert b"Subject: Starting" in wires[0] and b"Subject: Hello" not in wires[0]
    assert len(wires) >= 1 + len({worker for _, worker in answers})


def _answers_of_gunicorn(half, folder, port):
    listener = folder / "http"
    environment = {
        **os.environ,
        "PORT": str(port),
        "RAPIDSMTP_CORE": half,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))),
    }
    log = folder / "log"
    with log.open("wb") as output:
        gunicorn = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--no-control-socket",
             "--bind", f"unix:{listener}", "site_under_test:application"],
            cwd=folder, env=environment, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        answers = []
        deadline = time.monotonic() + PATIENCE
        while len(answers) < 12:
            assert gunicorn.poll() is None and time.monotonic() < deadline, log.read_text()
            connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(PATIENCE)
            try:
                connection.sock.connect(str(listener))
            except OSError:
                time.sleep(0.05)
                continue
            connection.request("GET", "/")
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, body + log.read_text()
            answers.append(tuple(body.split()))
            connection.close()
        return answers
    finally:
        gunicorn.terminate()
        gunicorn.wait(PATIENCE)


def test_a_process_that_ends_sends_first(half, tmp_path):
    """A management command: nothing is left to threads that die with it, and nobody hangs."""
    program = SITE.split("from django.core.wsgi")[0] + (
        'print(send_mail("Hello", "Body", None, ["a@example.org"]))\n'
    )
    with Server(Dialogue(OFFERS)) as server:
        environment = {**os.environ, "PORT": str(server.port), "RAPIDSMTP_CORE": half}
        done = subprocess.run(
            [sys.executable, "-W", "error::ResourceWarning", "-c", program],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
        assert "Traceback" not in done.stderr and "rapidsmtp:" not in done.stderr
        assert server.wire().endswith(b"QUIT\r\n")
