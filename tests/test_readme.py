"""Run the code blocks of the README and of docs/pages/, and check the delivered messages.

Each block runs in its own process. The test replaces only the address `relay.example` by the
address of a sink. Port 587 requires TLS and a password, as in the examples, and
`smtp://relay.example` accepts mail without a login. `EXAMPLES` lists the requirements of each block
and the recipients that must receive mail. The tests fail for a block without an entry in
`EXAMPLES`, and for an entry without a block. A block that cannot run has a comment above it with
the reason. The scripts in examples/ run too, and the blocks of the other pages are compiled.
"""

import ast
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import processes
from rapidsmtp.testing import Sink

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "examples"
GUIDES = ROOT / "docs" / "pages"
PAGES = [ROOT / "README.md", *sorted(GUIDES.rglob("*.md"))]
ALL_PAGES = sorted({*PAGES, *ROOT.glob("*.md")})
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n)?^```(\w*)\n(.*?)^```$", re.M | re.S)

# These tests need the sink, which is part of the compiled backend. The examples themselves run on
# both backends.
pytestmark = pytest.mark.rust

SUBSCRIBERS = ["ada@example.com", "bob@example.org", "eve@example.net"]
USERS = {"user": "secret", "user@example.com": "a fresh token"}
DJANGO = """
from django.conf import settings

settings.configure(**{name: value for name, value in globals().items() if name.isupper()})
import django

django.setup()
"""
SEND_BY_DJANGO = """
from django.core.mail import send_mail

assert send_mail("Hello", "Hello!", "me@example.com", ["you@example.org"]) == 1
"""


INVITATION = """\
BEGIN:VCALENDAR
METHOD:REQUEST
BEGIN:VEVENT
UID:{{ id }}@example.com
SUMMARY:A talk for {{ name }}
END:VEVENT
END:VCALENDAR
"""

SOME = -1


@dataclass(frozen=True)
class Example:
    """The requirements and the expected effects of a block.

    Attributes:
        recipients: The addresses that must receive mail, in any order. An address may occur more
            than once.
        prints: A text that the output must contain.
        logins: The number of connections that must log in. A `Sender` chooses its number of
            connections, so the value for a block with a `Sender` is `SOME`.
        blocks_before: The names of the blocks of the same language that run earlier in the same
            process.
        code_before: The code of the surrounding program before the block.
        code_after: The code of the surrounding program after the block.
        by_pytest: Whether the block is a test file.
    """

    recipients: tuple[str, ...] = ()
    prints: str = ""
    logins: int = 0
    blocks_before: tuple[str, ...] = ()
    code_before: str = ""
    code_after: str = ""
    by_pytest: bool = False


THREE = ("a@example.org", "b@example.org", "c@example.org")
EXAMPLES = {
    "README 1": Example(("you@example.org",), logins=1),
    "README 2": Example(tuple(SUBSCRIBERS), logins=SOME),
    "README 3": Example(tuple(SUBSCRIBERS), "accepted", logins=SOME),
    "how-to/asyncio 1": Example(("you@example.org",) * 2, "queued", logins=2),
    "how-to/asyncio 2": Example((*THREE, "you@example.org"), logins=SOME),
    "how-to/campaigns 1": Example(tuple(SUBSCRIBERS), "accepted", logins=SOME),
    "how-to/campaigns 4": Example(tuple(SUBSCRIBERS), "accepted"),
    "how-to/command-line 1": Example(tuple(SUBSCRIBERS), "accepted", logins=SOME),
    "how-to/command-line 2": Example(tuple(SUBSCRIBERS), "accepted", logins=SOME),
    "how-to/django 1": Example(("you@example.org",), logins=1, code_after=DJANGO + SEND_BY_DJANGO),
    "how-to/django 3": Example(
        ("you@example.org",),
        "you@example.org accepted 2",
        logins=1,
        blocks_before=("how-to/django 1",),
        code_before=DJANGO,
        code_after=SEND_BY_DJANGO,
    ),
    "how-to/keep-connections 1": Example(
        ("ada@example.com", "bob@example.org"),
        "{'kept': 2, 'taken': 1, 'refused': {}}",
        logins=1,
    ),
    "how-to/log-in 1": Example(logins=2),
    "how-to/log-in 2": Example(),
    "how-to/logging 1": Example(prints="['app: trouble', 'app: trouble (3 records)']"),
    "how-to/many-messages 1": Example(THREE, logins=SOME),
    "how-to/many-messages 2": Example(("you@example.org",), "True"),
    "how-to/migrate 1": Example(),
    "how-to/migrate 2": Example(),
    "how-to/newsletter 1": Example(tuple(SUBSCRIBERS)),
    "how-to/newsletter 2": Example(prints="[FIRST_NAME] looks like a field"),
    "how-to/newsletter 3": Example(),
    "how-to/personal-messages 1": Example(tuple(SUBSCRIBERS), "2 accepted"),
    "how-to/personal-messages 2": Example(prints="envelope sender: bounces+{{ id }}@example.com"),
    "how-to/personal-messages 3": Example(),
    "how-to/personal-messages 4": Example(),
    "how-to/preview-and-test 2": Example(prints="preview/index.html"),
    "how-to/preview-and-test 3": Example(
        ("me@example.org",), "Nobody on the list got a message", logins=SOME
    ),
    "how-to/recipients-list 1": Example(prints="nothing was sent"),
    "how-to/recipients-list 2": Example(prints="1 duplicates and 1 excluded rows are not sent"),
    "how-to/replace-smtplib 1": Example(("you@example.org",), "['you@example.org']", logins=1),
    "how-to/telemetry 1": Example(),
    "how-to/testing 1": Example(prints="1 passed", by_pytest=True),
    "how-to/testing 2": Example(prints="1 passed", by_pytest=True),
    "how-to/testing 3": Example(prints="Later 1"),
    "tutorial 2": Example(("you@example.org",), "{} 250 ['you@example.org']"),
    "tutorial 3": Example(THREE, "a@example.org accepted"),
    "tutorial 4": Example(),
    "tutorial 5": Example(
        ("ada@example.com", "bob@example.org"), "accepted", blocks_before=("tutorial 4",)
    ),
}


@dataclass(frozen=True)
class Block:
    name: str
    language: str
    text: str
    reason: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page, named by page and number.

    Skip `text` blocks, because they contain output.
    """
    name = page.relative_to(GUIDES if GUIDES in page.parents else ROOT).with_suffix("").as_posix()
    number = 0
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if match[2] != "text":
            number += 1
            yield Block(f"{name} {number}", match[2], match[3], match[1] or "")


ALL = {each.name: each for page in PAGES for each in blocks(page)}
RUN = [each for each in ALL.values() if not each.reason]
NOT_RUN = [
    "README 4",
    "README 5",
    "how-to/campaigns 2",
    "how-to/campaigns 3",
    "how-to/django 2",
    "how-to/measure 1",
    "how-to/migrate 3",
    "how-to/migrate 4",
    "how-to/preview-and-test 1",
    "how-to/preview-and-test 4",
    "how-to/preview-and-test 5",
    "how-to/preview-and-test 6",
    "how-to/proxy 1",
    "tutorial 1",
]


def test_every_block_runs_or_has_a_reason_not_to_run() -> None:
    assert [each.name for each in RUN] == list(EXAMPLES)
    assert [each.name for each in ALL.values() if each.reason] == NOT_RUN
    assert {each.language for each in ALL.values()} == {"python", "sh"}


@dataclass(frozen=True)
class Place:
    """A folder with the files of the examples, and the relays of the examples."""

    folder: Path
    backend: str
    submission: Sink
    open_relay: Sink

    def adapted(self, text: str) -> str:
        """Return the text of an example, with the addresses of this object's relays."""
        port = self.submission.port
        host, open_port = self.open_relay.host, self.open_relay.port
        for theirs, ours in (
            ('"relay.example", 587', f'"127.0.0.1", {port}'),
            ('"relay.example", port=587', f'"127.0.0.1", port={port}'),
            ('"relay.example", 587, True', f'"127.0.0.1", {port}, True'),
            ("@relay.example:587", f"@127.0.0.1:{port}"),
            ('"smtp://relay.example"', f'"{self.open_relay.url}"'),
            ("smtp://localhost:2525", self.open_relay.url),
            ('"localhost", 2525', f'"{host}", {open_port}'),
        ):
            text = text.replace(theirs, ours)
        # The port of a sink may contain these digits, as 42525 does.
        assert "relay.example" not in text and not re.search(r"\b2525\b", text)
        return text

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        folder = Path(sys.executable).parent
        environment = os.environ | {
            "RAPIDSMTP_CORE": self.backend,
            "RAPIDSMTP_PASSWORD": "secret",
            "SSL_CERT_FILE": str(self.folder / "authority.pem"),
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONWARNINGS": "error::ResourceWarning",
        }
        return processes.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120
        )

    def delivered(self) -> list[str]:
        messages = [*self.submission.messages, *self.open_relay.messages]
        return sorted(address for each in messages for address in each.recipients)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Path:
    """Create the files that the examples name."""
    folder = tmp_path_factory.mktemp("readme")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    shutil.copy(SCRIPTS / "newsletter.eml", folder)
    rows = [f"{n},Name {n},{each},Ulm,no,t{n}" for n, each in enumerate(SUBSCRIBERS)]
    lines = ["id,name,email,city,member,token", *rows, ""]
    (folder / "subscribers.csv").write_text("\n".join(lines))
    rows = [
        f"{n};Name {n};{each};Ulm;no;t{n}" for n, each in enumerate([*SUBSCRIBERS, SUBSCRIBERS[1]])
    ]
    lines = ["Customer ID;Given name;E-mail address;City;Member;Token", *rows, ""]
    (folder / "customers.csv").write_text("\n".join(lines))
    (folder / "unsubscribed.txt").write_text(f"{SUBSCRIBERS[0].upper()}\n")
    (folder / "news.txt").write_text("Dear {{ name }},\n\nthis is the news.\n")
    (folder / "news.html").write_text('<p>Dear {{ name }},</p><img src="cid:logo">\n')
    (folder / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "agenda.pdf").write_bytes(b"%PDF-1.4\n")
    (folder / "invite.ics").write_text(INVITATION)
    (folder / "tickets").mkdir()
    for number in range(len(SUBSCRIBERS)):
        (folder / "tickets" / f"{number}.pdf").write_bytes(b"%PDF-1.4\n")
    keys = {"rsa": rsa.generate_private_key(65537, 2048)}
    for name, key in {**keys, "ed25519": ed25519.Ed25519PrivateKey.generate()}.items():
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.pem").write_bytes(pem)
    return folder


@pytest.fixture
def place(
    files: Path, backend: str, authority: trustme.CA, server_tls: ssl.SSLContext, tmp_path: Path
) -> Iterator[Place]:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    server = authority.issue_cert("127.0.0.1")
    with (
        Sink(
            tls="starttls",
            certificate=b"".join(each.bytes() for each in server.cert_chain_pems),
            key=server.private_key_pem.bytes(),
            credentials=USERS,
        ) as submission,
        Sink() as open_relay,
    ):
        yield Place(tmp_path, backend, submission, open_relay)


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.name)
def test_the_examples_send_the_expected_messages(block: Block, place: Place) -> None:
    example = EXAMPLES[block.name]
    before = [ALL[name].text for name in example.blocks_before]
    text = "\n".join([*before, example.code_before, block.text, example.code_after])
    file = place.folder / f"test_it.{'py' if block.language == 'python' else 'sh'}"
    file.write_text(place.adapted(text), encoding="utf-8")
    if example.by_pytest:
        done = place.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", file)
    elif block.language == "python":
        done = place.run(sys.executable, "-P", file)
    else:
        done = place.run("sh", "-e", file)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert example.prints in output
    assert place.delivered() == sorted(example.recipients)
    logins = place.submission.counts["authentications"]
    assert logins == example.logins or (example.logins == SOME and logins > 0)


@pytest.mark.parametrize("name", ["drop_in.py", "invitations.py", "preview.py"])
def test_the_scripts_of_the_examples_run(name: str, place: Place) -> None:
    where = [place.open_relay.host, str(place.open_relay.port)] if name != "preview.py" else []
    done = place.run(sys.executable, "-P", SCRIPTS / name, *where)
    assert done.returncode == 0, done.stderr
    expected = {
        "drop_in.py": ["her@example.net", "you@example.org"],
        "invitations.py": ["zoe@example.com"],
        "preview.py": [],
    }
    assert place.delivered() == expected[name]
    assert done.stdout


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_all_pages_can_be_compiled(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, block.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
