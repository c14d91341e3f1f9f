"""Programs with the green threads of gevent or eventlet; `test_green.py` runs them as processes.

    python green_programs.py gevent sender [MODULE TO IMPORT FIRST …]
    python -m gunicorn --worker-class gevent green_programs:application

The relay is a green thread of the same process. Before each reply, it waits until another green
thread has run several times. The relay of `application` waits until another web request has been
answered. So a program ends only if nothing blocks the thread of the system.
"""

import importlib
import sys
from typing import Any

if __name__ == "__main__":
    HUB, SCENARIO, *EARLY = sys.argv[1:]
    for name in EARLY:
        importlib.import_module(name)
    if HUB == "gevent":
        from gevent import monkey

        monkey.patch_all()
    else:
        import eventlet

        eventlet.monkey_patch()

import atexit
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterable

SENDER = "sender@example.com"
RECIPIENT = "one@example.com"
MESSAGE = b"Subject: x\r\n\r\nbody\r\n"


class Relay:
    """A relay in a green thread, and a green thread that counts.

    Attributes:
        url: The relay's URL.
        address: The host and the port of the relay.
        accepted: The number of accepted messages.
        connections: The number of connections.
        waiting: The number of messages without a reply.
    """

    def __init__(self, wait: Any = None) -> None:
        self._ticks = 0
        self._wait = wait or self._wait_for_ticks
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.url = f"smtp://127.0.0.1:{self.address[1]}"
        self.accepted = self.waiting = self.connections = 0
        threading.Thread(target=self._count, daemon=True).start()
        threading.Thread(target=self._accept, daemon=True).start()

    def _count(self) -> None:
        while True:
            self._ticks += 1
            time.sleep(0.001)

    def _wait_for_ticks(self) -> None:
        end = self._ticks + 5
        while self._ticks < end:
            time.sleep(0.001)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
            connection.sendall(b"220 ready\r\n")
            for line in lines:
                if self._wait == self._wait_for_ticks:
                    self._wait()
                verb = line[:4].upper()
                if verb == b"EHLO":
                    connection.sendall(b"250-relay\r\n250-AUTH PLAIN\r\n250 PIPELINING\r\n")
                elif verb == b"DATA":
                    connection.sendall(b"354 go on\r\n")
                    while lines.readline() != b".\r\n":
                        pass
                    self.waiting += 1
                    self._wait()
                    self.waiting -= 1
                    self.accepted += 1
                    connection.sendall(b"250 queued\r\n")
                elif verb == b"AUTH":
                    connection.sendall(b"235 welcome\r\n")
                elif verb == b"QUIT":
                    connection.sendall(b"221 bye\r\n")
                    return
                else:
                    connection.sendall(b"250 ok\r\n")


def in_green_threads(count: int, function: Any) -> list[Any]:
    """Run a function in several green threads, and return the results."""
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(function())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count, results
    return results


def statuses(outcomes: Iterable[Any]) -> list[str]:
    return [str(each.status) for each in outcomes]


def drop_in(relay: Relay) -> None:
    import rapidsmtp

    def send() -> None:
        for pipelining in (True, False):
            client = rapidsmtp.SMTP(*relay.address, timeout=30, pipelining=pipelining)
            assert client.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}
            outcomes = client.sendmail_many([(SENDER, [RECIPIENT], MESSAGE)] * 2)
            assert statuses(outcomes) == ["accepted"] * 2
            client.quit()

    in_green_threads(3, send)
    rapidsmtp.install()
    import smtplib

    with smtplib.SMTP(*relay.address, timeout=30) as client:
        client.sendmail(SENDER, [RECIPIENT], MESSAGE)
    assert relay.accepted == 19


def kept_connections(relay: Relay) -> None:
    import rapidsmtp

    rapidsmtp.install(reuse=True)
    import smtplib

    def send() -> None:
        for _ in range(5):
            with smtplib.SMTP(*relay.address, timeout=30) as client:
                client.login("user", "secret")
                assert client.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}

    in_green_threads(3, send)
    assert relay.accepted == 15
    assert relay.connections <= 3, relay.connections
    stats = rapidsmtp.reuse_stats()
    assert stats.taken >= 12, stats


def sender(relay: Relay) -> None:
    from rapidsmtp import Sender

    lines: list[str] = []
    arrived: list[Any] = []
    url = relay.url.replace("//", "//user@") + "?starttls=off"
    with Sender(
        url,
        connections=3,
        password=lambda: time.sleep(0.001) or "secret",
        allow_plaintext_auth=True,
        trace=lines.append,
        queue_size=8,
    ) as sender:
        assert statuses(sender.send([(SENDER, [RECIPIENT], MESSAGE)] * 20)) == ["accepted"] * 20
        slow = (time.sleep(0.001) or (SENDER, [RECIPIENT], MESSAGE) for _ in range(20))
        assert sender.send_all(slow).accepted == 20

        def submit() -> None:
            future = sender.submit((SENDER, [RECIPIENT], MESSAGE))
            future.add_done_callback(arrived.append)
            assert statuses([future.result()]) == ["accepted"]

        in_green_threads(25, submit)
        # Messages that were read before the end of the iteration are sent until `close` returns.
        for _ in sender.send([(SENDER, [RECIPIENT], MESSAGE)] * 5):
            break
    assert relay.accepted == 70, relay.accepted
    assert len(arrived) == 25
    assert any("250 queued" in line for line in lines)


def unclosed_sender(relay: Relay) -> None:
    """The program ends while the message waits for its reply."""
    # Functions of `atexit` run in the reverse order, so this function runs after rapidsmtp's.
    atexit.register(lambda: print(f"{relay.accepted} accepted at the end"))
    from rapidsmtp import Sender

    main.sender = Sender(relay.url)
    main.sender.submit((SENDER, [RECIPIENT], MESSAGE))


def template(relay: Relay) -> None:
    from rapidsmtp import Sender, Template

    template = Template.compose(sender=SENDER, to="{{ email }}", subject="x", text="{{ n }}")
    rows = [{"email": f"r{n}@example.com", "n": n} for n in range(20)]
    with Sender(relay.url) as sender:
        assert statuses(sender.send(template.merge(rows))) == ["accepted"] * 20
    assert relay.accepted == 20


def django(relay: Relay) -> None:
    from django.conf import settings
    from django.core.mail import send_mail

    settings.configure(
        EMAIL_BACKEND="rapidsmtp.django.EmailBackend",
        EMAIL_HOST=relay.address[0],
        EMAIL_PORT=relay.address[1],
    )
    results = in_green_threads(5, lambda: send_mail("x", "body", SENDER, [RECIPIENT]))
    assert results == [1] * 5
    assert relay.accepted == 5


def logging_handler(relay: Relay) -> None:
    from rapidsmtp.logging import SMTPHandler

    handler = SMTPHandler(relay.url, SENDER, [RECIPIENT], "trouble", timeout=30, flush_timeout=30)
    log = logging.getLogger("program")
    log.addHandler(handler)
    log.error("first")
    log.error("second")
    handler.close()
    assert relay.accepted in (1, 2)


def telemetry(relay: Relay) -> None:
    import rapidsmtp.telemetry
    from rapidsmtp import SMTP, Sender

    rapidsmtp.telemetry.instrument()
    with Sender(relay.url) as sender:
        assert statuses([sender.submit((SENDER, [RECIPIENT], MESSAGE)).result()]) == ["accepted"]
        assert sender.send_all([(SENDER, [RECIPIENT], MESSAGE)]).accepted == 1
    with SMTP(*relay.address, timeout=30) as client:
        client.sendmail(SENDER, [RECIPIENT], MESSAGE)
    assert relay.accepted == 3


def killed(relay: Relay) -> None:
    """A green thread that is killed while it waits loses no message."""
    import gevent

    from rapidsmtp import Sender

    sender = Sender(relay.url)
    waiting = gevent.spawn(lambda: list(sender.send([(SENDER, [RECIPIENT], MESSAGE)] * 5)))
    while sender.stats().taken == 0:
        time.sleep(0.001)
    waiting.kill()
    with gevent.Timeout(0.001, False):
        list(sender.send([(SENDER, [RECIPIENT], MESSAGE)] * 5))
    report = sender.close()
    assert report.accepted == relay.accepted == 10, (report, relay.accepted)


SCENARIOS = {
    each.__name__: each
    for each in (
        drop_in,
        kept_connections,
        sender,
        unclosed_sender,
        template,
        django,
        logging_handler,
        telemetry,
        killed,
    )
}


class HeldRelay:
    """A relay that replies to messages only after a call of `release`, and the ways to send one."""

    def __init__(self) -> None:
        self._released = threading.Event()
        self._relay = Relay(lambda: self._released.wait(60))
        self._sender: Any = None
        self._lock = threading.Lock()

    def waiting(self) -> str:
        return str(self._relay.waiting)

    def release(self) -> str:
        self._released.set()
        return "released"

    def drop_in(self) -> str:
        import rapidsmtp

        with rapidsmtp.SMTP(*self._relay.address, timeout=60) as client:
            return str(client.sendmail(SENDER, [RECIPIENT], MESSAGE))

    def send(self) -> str:
        return ",".join(statuses(self._open_sender().send([(SENDER, [RECIPIENT], MESSAGE)])))

    def submit(self) -> str:
        future = self._open_sender().submit((SENDER, [RECIPIENT], MESSAGE))
        return str(future.result().status)

    def _open_sender(self) -> Any:
        from rapidsmtp import Sender

        with self._lock:
            if self._sender is None:
                self._sender = Sender(self._relay.url)
        return self._sender


held_relays: list[HeldRelay] = []
lock = threading.Lock()


def call(way: str) -> str:
    """Call a method of the held relay of this process."""
    with lock:
        if not held_relays:
            held_relays.append(HeldRelay())
    result: str = getattr(held_relays[0], way)()
    return result


def application(environment: dict[str, Any], start_response: Any) -> list[bytes]:
    """The application for gunicorn: the path is the name of a method of `HeldRelay`."""
    body = call(environment["PATH_INFO"].strip("/"))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body.encode()]


def main() -> None:
    SCENARIOS[SCENARIO](Relay())
    print("done")


if __name__ == "__main__":
    main()
