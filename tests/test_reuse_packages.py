"""`rapidsmtp run --reuse` with unchanged programs that use other projects' mail libraries."""

import os
import sys
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
import trustme

import processes
from mail_programs import PASSWORD, PROGRAMS, TO, USER
from rapidsmtp.testing import Sink

pytestmark = pytest.mark.rust

COUNT = 5
PROGRAM = Path(__file__).with_name("mail_programs.py")
LIBRARIES = {name: name for name in PROGRAMS if name != "task"}


@pytest.fixture
def sink(authority: trustme.CA) -> Iterator[Sink]:
    certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    with Sink(tls="starttls", certificate=certificate, credentials={USER: PASSWORD}) as sink:
        yield sink


def texts(message: EmailMessage) -> list[object]:
    return [part.get_payload() for part in message.walk() if not part.is_multipart()]


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_unchanged_program_keeps_its_connection(
    name: str, backend: str, sink: Sink, authority: trustme.CA, tmp_path: Path
) -> None:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name])
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    environment = {"SSL_CERT_FILE": str(trusted), "RAPIDSMTP_CORE": backend}
    counts, messages = [], []
    for prefix in ([], ["-m", "rapidsmtp", "run", "--reuse"]):
        sink.reset()
        done = processes.run(
            [sys.executable, "-P", *prefix, str(PROGRAM), name, str(sink.port), str(COUNT)],
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        counts.append([sink.counts[each] for each in ("connections", "authentications")])
        found = [(each["Subject"], each["To"], texts(each)) for each in sink.messages]
        messages.append(found)
    assert counts == [[COUNT, COUNT], [1, 1]]
    assert len(messages[0]) == COUNT
    assert all(TO in to for _, to, _ in messages[0])
    assert messages[1] == messages[0]
