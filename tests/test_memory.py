"""Sending a large attachment needs less than twice the message's size, in addition to the message.

`tracemalloc` does not count the memory of the compiled backend, so a separate process reports its
peak memory.
"""

import sys
from pathlib import Path

import pytest

import processes
import rapidsmtp
from rapidsmtp import testing
from rapidsmtp._smtp import results

pytestmark = pytest.mark.rust  # The sink needs the compiled backend.

PROGRAM = """
import sys
from email.message import EmailMessage
import rapidsmtp
from rapidsmtp import _backend

backend, work, port = sys.argv[1:]
_backend.use(backend)
message = EmailMessage()
message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com", "large"
message.set_content("text\\n.dot\\n" if work == "dots" else "text\\n")
message.add_attachment(b"", "application", "octet-stream", filename="large")
# Encoding a real attachment in set_content would need more memory than what is measured.
message.get_payload(1).set_payload(("A" * 76 + "\\n") * (32_000_000 // 77))

def memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024

client = None
if work != "to_bytes" and work != "Sender":
    client = rapidsmtp.SMTP("127.0.0.1", int(port))
    client.ehlo()
    client.pipelining = work not in ("sequential", "methods")
    if work == "methods":
        client.docmd = client.docmd  # a replaced method
sender = rapidsmtp.Sender(f"smtp://127.0.0.1:{port}") if work == "Sender" else None
before = memory("VmRSS")
if work == "to_bytes":
    rapidsmtp.to_bytes(message)
elif work == "Sender":
    with sender:
        (outcome,) = sender.send([message])
        assert outcome.status is rapidsmtp.Status.ACCEPTED, outcome
else:
    assert client.send_message(message) == {}
print((memory("VmHWM") - before) / 32_400_000)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc")
@pytest.mark.parametrize(
    "work", ["to_bytes", "pipelined", "dots", "sequential", "methods", "Sender"]
)
def test_the_peak_is_under_twice_the_message(backend, work):
    with testing.Sink(store=False) as sink:
        port = sink.url.rsplit(":", 1)[1]
        command = [sys.executable, "-P", "-c", PROGRAM, backend, work, port]
        done = processes.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.9


@pytest.mark.parametrize(
    "message",
    [
        b"." * (results.LARGE + 1),
        b"\n." * results.LARGE,
        b"x\r.\r" * results.LARGE,
        b"x" * results.LARGE + b"\r\n.\r\n" + b"y" * results.LARGE + b"\n\n..\r",
        b"." + b"z" * 2 * results.LARGE + b"\r\n",
    ],
    ids=["dots", "dotted-lines", "carriage-returns", "pieces", "one-line"],
)
def test_stuffed_pieces_equal_the_stuffed_message(core, backend, message):
    pieces = list(results.stuffed_parts(message))
    body, size = core.stuff(message)
    assert b"".join(piece for piece, _ in pieces) == body
    assert sum(size for _, size in pieces) == size


def test_a_large_message_arrives_unchanged(backend):
    lines = [b".", b"..x", b"", b"y" * 2_000_000, b"." * 5, b"end"]
    message = b"Subject: x\r\n\r\n" + b"\n".join(lines * 3)
    with testing.Sink() as sink:
        port = int(sink.url.rsplit(":", 1)[1])
        for pipelining in (True, False):
            with rapidsmtp.SMTP("127.0.0.1", port) as client:
                client.pipelining = pipelining
                client.sendmail("a@example.com", ["b@example.com"], message)
        with rapidsmtp.Sender(sink.url) as sender:
            (outcome,) = sender.send(
                [rapidsmtp.Message("a@example.com", ["b@example.com"], message)]
            )
            outcome.raise_for_status()
        received = [bytes(each.data) for each in sink.messages]
        declared = {each.mail_options[0].lower() for each in sink.messages}
    whole = message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert received == [whole + b"\r\n"] * 3
    assert f"size={len(whole)}" in declared


FIELDS = r"""
import sys
from rapidsmtp import Template, _backend

backend, count = sys.argv[1], int(sys.argv[2])
_backend.use(backend)
source = b"From: a@x.org\nTo: {{ email }}\n" + b"X-A: b\n" * count + b"Subject: s\n\ntext\n"

def memory(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024

Template.from_eml(source[:200]).render({"email": "b@x.org"})
before = memory("VmRSS")
message = Template.from_eml(source).render({"email": "b@x.org"})
assert message.data.count(b"X-A: b\r\n") == count
print((memory("VmHWM") - before) / count)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc")
def test_a_constant_header_field_needs_little_memory(backend):
    """The package `email` needs about 300 bytes for each field while it parses the message."""
    command = [sys.executable, "-P", "-c", FIELDS, backend, "100000"]
    done = processes.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 600
