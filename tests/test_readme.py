"""The examples of the README are run as they stand, and have to deliver what they say.

Each block runs in a process of its own. Its relay, `relay.example`, is a sink here: port 587 is one
that wants TLS and a password, as the relays of the examples do, and `smtp://relay.example` one that
takes mail from everybody. `EXAMPLES` says what else a block is given and who must have got mail
after it; a block that is not in it fails, and so does one that is not there any more. What is not
to be run stands behind a comment in the README with the reason. The scripts in examples/ are run
too, and the blocks of the other pages are compiled.
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

from rapidsmtp.testing import Sink

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
SCRIPTS = ROOT / "examples"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs" / "pages").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n)?^```(python|sh)\n(.*?)^```$", re.M | re.S)

# The sink is the compiled half's; the examples themselves run on both.
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


SOME = -1


@dataclass(frozen=True)
class Example:
    """What a block needs and what it must do.

    Attributes:
        recipients: Who must have got mail, in any order; a name may be there more than once.
        says: A part of what it prints.
        logins: How many connections must have logged in; a `Sender` opens as many as it likes.
        after: Blocks of the README, by name, that come before it in its process.
        before: What a program has beside it, in front.
        behind: The same, behind it.
        by_pytest: Whether it is a file of tests.
    """

    recipients: tuple[str, ...] = ()
    says: str = ""
    logins: int = 0
    after: tuple[str, ...] = ()
    before: str = ""
    behind: str = ""
    by_pytest: bool = False


EXAMPLES = {
    "Swap it in 1": Example(("you@example.org",), "['you@example.org']", logins=1),
    "Log in 1": Example(logins=2),
    "A newsletter 1": Example(tuple(SUBSCRIBERS)),
    "A newsletter 2": Example(),
    "Without a line of Python 1": Example(tuple(SUBSCRIBERS), "accepted", logins=SOME),
    "Without a line of Python 2": Example(tuple(SUBSCRIBERS), "accepted", logins=SOME),
    "Many messages 1": Example(("a@example.org", "b@example.org", "c@example.org"), logins=SOME),
    "asyncio 1": Example(("you@example.org",) * 2, "queued", logins=2),
    "asyncio 2": Example(
        ("a@example.org", "b@example.org", "c@example.org", "you@example.org"), logins=SOME
    ),
    "Django 1": Example(("you@example.org",), logins=1, behind=DJANGO + SEND_BY_DJANGO),
    "Django 3": Example(
        ("you@example.org",),
        "you@example.org accepted 2",
        logins=1,
        after=("Django 1",),
        before=DJANGO,
        behind=SEND_BY_DJANGO,
    ),
    "Logging 1": Example(says="['app: trouble', 'app: trouble (3 records)']"),
    "In your tests 1": Example(says="1 passed", by_pytest=True),
    "In your tests 2": Example(says="1 passed", by_pytest=True),
    "In your tests 3": Example(says="Later 1"),
    "Telemetry 1": Example(),
}


@dataclass(frozen=True)
class Block:
    name: str
    language: str
    text: str
    reason: str


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of code of a page, named by their heading and counted under it."""
    text = page.read_text(encoding="utf-8")
    heading, numbers = "", dict[str, int]()
    for match in BLOCK.finditer(text):
        (*_, heading) = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)
        numbers[heading] = numbers.get(heading, 0) + 1
        yield Block(f"{heading} {numbers[heading]}", match[2], match[3], match[1] or "")


ALL = {each.name: each for each in blocks(README)}
RUN = [each for each in ALL.values() if not each.reason]
NOT_RUN = ["Try it in a clone 1", "Django 2"]


def test_every_block_is_run_or_says_why_not() -> None:
    assert [each.name for each in RUN] == list(EXAMPLES)
    assert [each.name for each in ALL.values() if each.reason] == NOT_RUN


@dataclass(frozen=True)
class Place:
    """A folder with the files that the examples name, and the relay that they name."""

    folder: Path
    half: str
    submission: Sink
    open_relay: Sink

    def told(self, text: str) -> str:
        """An example with this relay in the place of its own."""
        port = self.submission.port
        for theirs, ours in (
            ('"relay.example", 587', f'"127.0.0.1", {port}'),
            ('"relay.example", port=587', f'"127.0.0.1", port={port}'),
            ('"relay.example", 587, True', f'"127.0.0.1", {port}, True'),
            ("@relay.example:587", f"@127.0.0.1:{port}"),
            ('"smtp://relay.example"', f'"{self.open_relay.url}"'),
        ):
            text = text.replace(theirs, ours)
        assert "relay.example" not in text
        return text

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        folder = Path(sys.executable).parent
        environment = os.environ | {
            "RAPIDSMTP_CORE": self.half,
            "RAPIDSMTP_PASSWORD": "secret",
            "SSL_CERT_FILE": str(self.folder / "authority.pem"),
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONWARNINGS": "error::ResourceWarning",
        }
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120
        )

    def delivered(self) -> list[str]:
        messages = [*self.submission.messages, *self.open_relay.messages]
        return sorted(address for each in messages for address in each.recipients)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Path:
    """The files that the examples name."""
    folder = tmp_path_factory.mktemp("readme")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    shutil.copy(SCRIPTS / "newsletter.eml", folder)
    rows = [f"{n},Name {n},{each},Ulm,no,t{n}" for n, each in enumerate(SUBSCRIBERS)]
    lines = ["id,name,email,city,member,token", *rows, ""]
    (folder / "subscribers.csv").write_text("\n".join(lines))
    (folder / "news.txt").write_text("Dear {{ name }},\n\nthis is the news.\n")
    (folder / "news.html").write_text('<p>Dear {{ name }},</p><img src="cid:logo">\n')
    (folder / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "agenda.pdf").write_bytes(b"%PDF-1.4\n")
    keys = {"rsa": rsa.generate_private_key(65537, 2048)}
    for name, key in {**keys, "ed25519": ed25519.Ed25519PrivateKey.generate()}.items():
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.pem").write_bytes(pem)
    return folder


@pytest.fixture
def place(
    files: Path, half: str, authority: trustme.CA, server_tls: ssl.SSLContext, tmp_path: Path
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
        yield Place(tmp_path, half, submission, open_relay)


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.name)
def test_the_examples_do_what_they_say(block: Block, place: Place) -> None:
    example = EXAMPLES[block.name]
    parts = [*(ALL[name].text for name in example.after), example.before, block.text]
    file = place.folder / f"test_it.{'py' if block.language == 'python' else 'sh'}"
    file.write_text(place.told("\n".join([*parts, example.behind])), encoding="utf-8")
    if example.by_pytest:
        done = place.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", file)
    elif block.language == "python":
        done = place.run(sys.executable, "-P", file)
    else:
        done = place.run("sh", "-e", file)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert example.says in said
    assert place.delivered() == sorted(example.recipients)
    logins = place.submission.counts["authentications"]
    assert logins == example.logins or (example.logins == SOME and logins > 0)


@pytest.mark.parametrize("name", ["drop_in.py", "invitations.py", "preview.py"])
def test_the_scripts_run(name: str, place: Place) -> None:
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_all_pages_can_be_compiled(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, block.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
