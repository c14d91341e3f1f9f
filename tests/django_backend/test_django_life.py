"""The senders of the backend: requests share them, and the process closes them at its end."""

import contextlib
import http.client
import os
import socket
import sys
import threading
import time
import warnings

import pytest
from django.core import mail
from django.test import override_settings

import processes
from django_messages import make_message
from rapidsmtp import TLS, Timeouts
from rapidsmtp._bulk import lifecycle
from rapidsmtp.django import EmailBackend, senders
from recording_server import RecordingServer
from senders import wait_for
from server import Server, SMTPScript

CAPABILITIES = ["PIPELINING", "8BITMIME"]
PROCESS_SECONDS = 60.0
"""The time limit of a process that a test starts, in seconds, on a busy machine."""


def send(**more):
    return mail.get_connection(**more).send_messages([make_message()])


def test_requests_share_a_connection(mail_to):
    with Server(SMTPScript(CAPABILITIES)) as server, mail_to(server.port):
        for _ in range(5):
            assert send() == 1
        with mail.get_connection() as opened:
            assert opened.send_messages([make_message()]) == 1
        assert send() == 1
        assert len(server.connections) == 1


def test_threads_share_the_sender(mail_to):
    with Server(SMTPScript(CAPABILITIES)) as server, mail_to(server.port):
        backend = mail.get_connection()
        sent = []

        def work(own):
            with backend if own else mail.get_connection() as opened:
                sent.extend(
                    opened.send_messages([make_message(), make_message()]) for _ in range(10)
                )

        threads = [threading.Thread(target=work, args=(place % 2,)) for place in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sent == [2] * 80
        assert 1 <= len(server.connections) <= 4
        assert len(senders._senders) == 1


@pytest.mark.parametrize("last_reply", [b"", b"421 4.4.2 you were idle\r\n"], ids=["EOF", "421"])
def test_a_connection_that_the_server_has_closed_is_replaced(mail_to, last_reply):
    with Server(SMTPScript(CAPABILITIES)) as server, mail_to(server.port):
        assert send() == 1
        for _ in range(3):
            for each in server.connections.copy():
                # These calls raise OSError if the sender has already closed the connection.
                with contextlib.suppress(OSError):
                    each.sock.sendall(last_reply)
                    each.sock.shutdown(socket.SHUT_RDWR)
                assert each.over.wait(5)
            assert send() == 1
        assert (
            b"".join(bytes(each.received) for each in server.connections).count(b"mail FROM") == 4
        )


def test_a_server_that_was_down_is_used_again(mail_to):
    with RecordingServer(["PIPELINING"]) as recorder:
        port = recorder.port
    with mail_to(port, EMAIL_TIMEOUT=None), pytest.raises(OSError):
        send()
    with Server(SMTPScript(CAPABILITIES)) as server, mail_to(server.port):
        assert send() == 1


def open_senders():
    return {id(each) for each in lifecycle._open}


def test_other_credentials_have_another_sender(mail_to):
    capabilities = [*CAPABILITIES, "AUTH PLAIN"]
    with Server(SMTPScript(capabilities)) as server, mail_to(server.port):
        for password in ("old", "new"):
            # The password may change while the process runs, and Django sends no signal for this
            # change. So each call must use the password that is current at this call.
            assert send(username="user", password=password) == 1
        wires = [bytes(each.received) for each in server.connections]
        assert [b"AUTH PLAIN" in wire for wire in wires] == [True, True]
        assert wires[0].split(b"AUTH PLAIN")[1][:20] != wires[1].split(b"AUTH PLAIN")[1][:20]


def test_overridden_settings_leave_no_sender_open(mail_to):
    before = open_senders()
    with Server(SMTPScript(CAPABILITIES)) as server:
        with mail_to(server.port):
            assert send() == 1
            assert len(senders._senders) == 1
        assert not senders._senders
        wait_for(lambda: open_senders() <= before)
        assert b"QUIT" in server.wire()


def test_the_number_of_senders_is_limited(mail_to):
    before = open_senders()
    with Server(SMTPScript(CAPABILITIES)) as server, mail_to(server.port):
        for number in range(senders.MAX_SENDERS + 5):
            assert send(local_hostname=f"client{number}.example") == 1
        assert len(senders._senders) == senders.MAX_SENDERS
        wait_for(lambda: len(open_senders() - before) == senders.MAX_SENDERS)


def test_a_sender_in_use_is_not_closed(mail_to):
    """A sender that is in use stays open when settings are overridden.

    Overriding the settings closes all other senders.
    """
    held, go_on = threading.Event(), threading.Event()

    def wait(line):
        held.set()
        assert go_on.wait(5)
        return b"250 2.0.0 queued"

    results = []
    with Server(SMTPScript(CAPABILITIES, {"message": wait})) as server, mail_to(server.port):
        backend = mail.get_connection()
        thread = threading.Thread(
            target=lambda: results.append(backend.send_messages([make_message()])), daemon=True
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
    with Server(SMTPScript(CAPABILITIES)) as server, mail_to(server.port):
        for _ in range(2):
            assert send(tls=TLS(ca_file=str(file))) == 1
        assert len(senders._senders) == 1
        os.utime(file, ns=(1, 1))
        assert send(tls=TLS(ca_file=str(file))) == 1
        assert len(senders._senders) == 2


def test_the_timeout_applies_to_every_step(mail_to):
    silent = Server(lambda connection: connection.rest())
    with silent as server, mail_to(server.port, EMAIL_TIMEOUT=0.2):
        started = time.monotonic()
        with pytest.raises(OSError):
            send()
        assert time.monotonic() - started < 30
    limits = EmailBackend(host="localhost", timeout=7)._sender_settings()["timeouts"]
    assert limits == Timeouts(
        connect=7, tls=7, greeting=7, command=7, mail=7, rcpt=7, data=7, block=7, body=7
    )
    with override_settings(EMAIL_TIMEOUT=None):
        assert "timeouts" not in EmailBackend(host="localhost")._sender_settings()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_each_forked_child_has_its_own_connection(mail_to):
    with Server(SMTPScript(CAPABILITIES)) as server, mail_to(server.port):
        assert send() == 1
        children = []
        for _ in range(3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
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
        # The parent's connection is unchanged, and each child has its own connection.
        assert len(server.connections) == 4
        wires = [bytes(each.received) for each in server.connections]
        assert sorted(wire.count(b"mail FROM") for wire in wires) == [2, 2, 2, 2]


def test_a_fork_while_the_lock_is_held_does_not_block_the_child(mail_to):
    with Server(SMTPScript(CAPABILITIES)) as server, mail_to(server.port):
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
def test_gunicorn_workers_have_their_own_connections(backend, tmp_path):
    """Worker processes forked from a parent that has sent mail use their own connections."""
    (tmp_path / "site_under_test.py").write_text(SITE)
    with Server(SMTPScript(CAPABILITIES)) as server:
        answers = _answers_of_gunicorn(backend, tmp_path, server.port)
        assert {sent for sent, _ in answers} == {"1"}
        wires = [bytes(each.received) for each in server.connections]
    assert sum(wire.count(b"Subject: Hello") for wire in wires) == len(answers)
    assert sum(wire.count(b"Subject: Starting") for wire in wires) == 1
    # The parent has one connection, and each worker that responded has at least one.
    assert b"Subject: Starting" in wires[0] and b"Subject: Hello" not in wires[0]
    assert len(wires) >= 1 + len({worker for _, worker in answers})


def _answers_of_gunicorn(backend, folder, port):
    listener = folder / "http"
    environment = {
        **os.environ,
        "PORT": str(port),
        "RAPIDSMTP_CORE": backend,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))),
    }
    log = folder / "log"
    with log.open("wb") as output:
        gunicorn = processes.start(
            [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--no-control-socket",
             "--bind", f"unix:{listener}", "site_under_test:application"],
            cwd=folder, env=environment, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        answers = []
        deadline = time.monotonic() + PROCESS_SECONDS
        while len(answers) < 12:
            assert gunicorn.poll() is None and time.monotonic() < deadline, log.read_text()
            connection = http.client.HTTPConnection("localhost", timeout=PROCESS_SECONDS)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(PROCESS_SECONDS)
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
        gunicorn.wait(PROCESS_SECONDS)


def test_a_process_sends_its_messages_before_it_ends(backend, tmp_path):
    """A process, for example a management command, sends all its messages, then QUIT, and ends."""
    program = SITE.split("from django.core.wsgi")[0] + (
        'print(send_mail("Hello", "Body", None, ["a@example.org"]))\n'
    )
    with Server(SMTPScript(CAPABILITIES)) as server:
        environment = {**os.environ, "PORT": str(server.port), "RAPIDSMTP_CORE": backend}
        done = processes.run(
            [sys.executable, "-W", "error::ResourceWarning", "-c", program],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PROCESS_SECONDS,
        )  # fmt: skip
        assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
        assert "Traceback" not in done.stderr and "rapidsmtp:" not in done.stderr
        assert server.wire().endswith(b"QUIT\r\n")
