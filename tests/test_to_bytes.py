"""`to_bytes` and `email.generator` give the same bytes, exceptions and message state.

Boundaries are random, so both functions run with the same seed. The generator changes the message,
mostly by storing boundaries. The tests compare these changes too.
"""

import email
import email.generator
import email.message
import email.policy
import importlib.util
import io
import itertools
import os
import random
import sys
from email import charset
from email.header import Header
from email.headerregistry import HeaderRegistry, UnstructuredHeader
from email.mime.application import MIMEApplication
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

import processes
from rapidsmtp import to_bytes
from rapidsmtp._compose import to_bytes as module
from rapidsmtp._compose.envelope import flatten

EXAMPLES = int(os.environ.get("TO_BYTES_EXAMPLES", "80"))
LONG = EXAMPLES > 1000

POLICIES = {
    "own": None,
    "compat32": email.policy.compat32,
    "compat32-40": email.policy.compat32.clone(max_line_length=40),
    "compat32-endless": email.policy.compat32.clone(max_line_length=0),
    "compat32-7bit": email.policy.compat32.clone(cte_type="7bit", mangle_from_=True),
    "default": email.policy.default,
    "strict": email.policy.strict,
    "SMTP": email.policy.SMTP,
    "SMTPUTF8": email.policy.SMTPUTF8,
    "HTTP": email.policy.HTTP,
    "7bit": email.policy.SMTP.clone(cte_type="7bit"),
    "mangle": email.policy.default.clone(mangle_from_=True),
    "40": email.policy.SMTP.clone(max_line_length=40),
    "20-utf8": email.policy.SMTPUTF8.clone(max_line_length=20),
    "refold": email.policy.SMTP.clone(refold_source="all"),
    "keep": email.policy.SMTP.clone(refold_source="none"),
}


def generated(message, policy=None):
    with io.BytesIO() as file:
        generator = email.generator.BytesGenerator(file, policy=policy)
        generator.flatten(message, linesep="\r\n")
        return file.getvalue()


def tried(write, message, policy):
    random.seed(20)
    try:
        return write(message, policy=policy)
    except Exception as error:
        return type(error), str(error)


def left(message):
    """Return the visible state of a message."""
    if not isinstance(message, email.message.Message):
        return message
    headers = [(name, str(value), type(value).__name__) for name, value in message._headers]
    payload = message._payload
    content = [left(part) for part in payload] if isinstance(payload, list) else payload
    return headers, content, message.preamble, message.epilogue, repr(message.policy)


def check(make, policy=None):
    """Compare both functions on new messages, and again after boundaries have been generated."""
    theirs, ours = make(), make()
    for _ in range(2):
        assert tried(to_bytes, ours, policy) == tried(generated, theirs, policy)
        assert left(ours) == left(theirs)
    assert tried(generated, ours, policy) == tried(generated, theirs, policy)


def walked(message, policy=None):
    return module._walked(message, policy) is not None


# Messages of CPython's tests


def data_files():
    found = importlib.util.find_spec("test")
    folders = [Path(place, "test_email", "data") for place in found.submodule_search_locations]
    return sorted(path for folder in folders for path in folder.glob("*.txt"))


def test_cpythons_messages_are_found():
    assert len(data_files()) > 40


@pytest.mark.parametrize("path", data_files(), ids=lambda path: path.stem)
def test_cpythons_messages_are_written_as_by_the_generator(backend, path):
    written = path.read_bytes()
    readings = (email.policy.compat32, email.policy.default)
    pairs = itertools.product(
        readings, POLICIES if LONG else ("own", "SMTP", "compat32-40", "7bit")
    )
    for reading, policy in pairs:
        check(lambda: email.message_from_bytes(written, policy=reading), POLICIES[policy])  # noqa: B023


# Messages of programs


def newsletter():
    message = email.message.EmailMessage()
    message["From"] = "Example News <news@example.com>"
    message["To"] = '"Lovelace, Ada" <ada@example.org>, b@example.org'
    message["Subject"] = "The autumn programme: twelve evenings, and how to get there, all of you"
    message["Date"] = "Mon, 02 Nov 2026 09:30:00 +0000"
    message["Message-ID"] = "<20261102093000.1.1234@example.com>"
    message["List-Unsubscribe"] = "<https://example.com/u/0123456789abcdef>"
    message.set_content("A line.\n.\n.dot\nFrom here to there\n\n From\n" * 20)
    message.add_alternative("<p>Programme für den Herbst\x00</p>\n" * 50, subtype="html")
    message.get_payload()[1].add_related(b"GIF89a" * 99, "image", "gif", cid="<logo@x>")
    message.add_attachment(
        b"\0\1\2" * 999,
        maintype="application",
        subtype="pdf",
        filename="a file that has a name.pdf",
    )
    return message


def compat32_newsletter():
    message = MIMEMultipart("mixed")
    message["Subject"] = Header("Größe", "utf-8")
    message["To"] = "Ada <ada@example.org>,\n Bob <bob@example.org>"
    message["X-Long"] = "a; b, c d\te " * 30 + "end"
    message["X-Endless"] = "x" * 200
    message.preamble = "This is a message\rin\nparts.\r\nFrom me"
    message.epilogue = "The end.\n"
    both = MIMEMultipart("alternative")
    both.attach(MIMEText("From plain\r\ntext\r"))
    both.attach(MIMEText("<p>für</p>", "html", "utf-8"))
    message.attach(both)
    message.attach(MIMEApplication(bytes(range(256)) * 20, Name="file.bin"))
    message.attach(MIMEMessage(newsletter()))
    return message


def signed():
    message = MIMEMultipart("signed", protocol="application/pgp-signature")
    inner = newsletter()
    inner["X-Long"] = "word " * 40 + "end"
    message.attach(inner)
    message["X-Long"] = "word " * 40 + "end"
    message.attach(MIMEText("signature"))
    return message


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("make", [newsletter, compat32_newsletter, signed])
def test_messages_of_programs_are_written_as_by_the_generator(backend, make, policy):
    check(make, policy)
    parsed = generated(make())
    check(lambda: email.message_from_bytes(parsed, policy=email.policy.default), policy)


@pytest.mark.parametrize("make", [newsletter, compat32_newsletter, signed])
def test_common_messages_take_the_fast_path(backend, make):
    """`to_bytes` writes common messages by its own code, without the generator.

    Otherwise the other tests would compare the generator with itself.
    """
    assert walked(make())
    assert walked(email.message_from_bytes(generated(make())), email.policy.compat32)
    assert walked(email.message_from_bytes(generated(make()), policy=email.policy.SMTP))


@pytest.mark.parametrize("reading", [None, email.policy.SMTP, email.policy.compat32])
def test_common_fields_take_the_fast_path(backend, reading):
    message = newsletter()
    if reading:
        message = email.message_from_bytes(generated(message), policy=reading)
    fields = module.Fields(message.policy.clone(linesep="\r\n"), module.source_of(message.policy))
    left = {name for name, value in message._headers if fields._folded(name, value) is None}
    if backend == "rust":
        # In the parsed message, the first line of Subject is empty. The compiled backend leaves
        # such a field to the generator.
        assert left == ({"Subject"} if reading else set())
    else:
        assert left <= {"Subject", "Content-Type"}


def test_the_message_policy_differs_from_a_given_policy(backend):
    message = email.message.EmailMessage()
    message.set_content("From here\n")
    assert b"\r\n>From here" in to_bytes(message)
    assert b"\r\nFrom here" in to_bytes(message, policy=message.policy)


def test_a_generated_boundary_stays_in_the_message(backend):
    message = newsletter()
    written = to_bytes(message)
    assert to_bytes(message) == written == generated(message)
    assert f'boundary="{message.get_boundary()}"'.encode() in written
    header = message["Content-Type"]
    again = type(message).policy if hasattr(type(message), "policy") else message.policy
    parsed = again.header_factory("Content-Type", str(header))
    assert repr(header._parse_tree) == repr(parsed._parse_tree)
    assert dict(header.params) == dict(parsed.params)


@pytest.mark.parametrize("kind", [compat32_newsletter, newsletter])
def test_a_boundary_that_occurs_in_a_part_is_not_used(backend, kind):
    random.seed(20)
    boundary = email.generator._make_boundary()

    def make():
        message = kind()
        # The text has no final line end, because the generator searches for the boundary with `$`,
        # which does not match before CRLF.
        part = MIMEText(f"--{boundary}\n--{boundary}")
        # The generator draws the boundary of the innermost multipart first, so the part with this
        # boundary must be in the innermost multipart.
        inner = message.get_payload(0)
        if kind is newsletter:
            inner = inner.get_payload(1)
        inner.attach(part)
        return message

    check(make)
    assert f'boundary="{boundary}.0"'.encode() in tried(to_bytes, make(), None)


# Cases that only the generator handles


class Shouting(email.message.EmailMessage):
    def get_payload(self, i=None, decode=False):
        payload = super().get_payload(i, decode)
        return payload.upper() if isinstance(payload, str) else payload


class OwnHeaders(email.message.Message):
    def _write_headers(self, generator):
        generator._fp.write(b"Mine: alone\r\n\r\n")


class Reversed(email.policy.EmailPolicy):
    def fold_binary(self, name, value):
        return super().fold_binary(name, value[::-1])


class Injecting(UnstructuredHeader):
    def fold(self, *, policy):
        return f"{self.name}: a\r\nBcc: b@example.com\r\n"


def with_policy(policy):
    def make():
        message = email.message.EmailMessage(policy=policy)
        message["Subject"] = "abc"
        message["X-Other"] = "def"
        message.set_content("text")
        return message

    return make


def of_class(kind):
    def make():
        message = kind()
        message["Subject"] = "abc"
        message.set_payload("text\nmore")
        return message

    return make


def with_payload(payload, content_type="text/plain"):
    def make():
        message = email.message.Message()
        message["Content-Type"] = content_type
        message._payload = payload
        return message

    return make


def endless():
    message = MIMEMultipart()
    message.attach(message)
    return message


def deep():
    message = MIMEText("x")
    for _ in range(60):
        outer = MIMEMultipart()
        outer.attach(message)
        message = outer
    return message


def overridden():
    message = of_class(email.message.Message)()
    message.get_content_maintype = lambda: "multipart"
    return message


def injected(name="X-A", value="a\r\nBcc: b@example.com"):
    def make():
        message = of_class(email.message.Message)()
        message._headers.append((name, value))
        return message

    return make


REGISTRY = HeaderRegistry()
REGISTRY.map_to_type("subject", Injecting)

UNUSUAL = {
    "subclass": of_class(Shouting),
    "own-headers": of_class(OwnHeaders),
    "policy-subclass": with_policy(Reversed()),
    "policy-clone": with_policy(
        email.policy.default.clone(fold_binary=lambda name, value: b"x: y\n")
    ),
    "header-class": with_policy(email.policy.default.clone(header_factory=REGISTRY)),
    "instance": overridden,
    "deep": deep,
    "no-payload": with_payload(None),
    "number": with_payload(5),
    "written": with_payload(b"written"),
    "list-of-text": with_payload(["a", "b"], "multipart/mixed"),
    "empty-multipart": with_payload([], "multipart/mixed"),
    "none-multipart": with_payload(None, "multipart/mixed"),
    "text-multipart": with_payload("a\nb", "multipart/mixed"),
    "part-alone": with_payload(MIMEText("x"), "multipart/mixed"),
    "list-in-text": with_payload([MIMEText("x")]),
    "no-message": with_payload([], "message/rfc822"),
    "text-message": with_payload("a\nb", "message/rfc822"),
    "status": with_payload([MIMEText("x"), MIMEText("y")], "message/delivery-status"),
    "not-ascii": with_payload("für"),
    "surrogates": with_payload("f\udcfcr\nFrom here\r"),
    "half-surrogates": with_payload("f\udcfcr für"),
    "high-surrogate": with_payload("\ud800"),
    "surrogates-charset": with_payload("f\udcfcr", "text/plain; charset=latin-1"),
    "bad-type": with_payload("x", "textplain"),
    "unknown-type": with_payload("x", "x-unknown/x"),
    "boundary-rfc2231": with_payload(
        [MIMEText("x")], "multipart/mixed; boundary*=us-ascii'en'a%20b"
    ),
    "boundary-blank": with_payload([MIMEText("x")], 'multipart/mixed; boundary="  "'),
    "boundary-odd": with_payload([MIMEText("x")], 'multipart/mixed; boundary="a \\"b\\" "; x=y'),
    "boundary-not-ascii": with_payload([MIMEText("x")], 'multipart/mixed; boundary="ü"'),
    "boundary-encoded": with_payload([MIMEText("x")], 'multipart/mixed; boundary="=?utf-8?q?a?="'),
    "report": with_payload([MIMEText("x")], "multipart/report; report-type=delivery-status"),
    "injected": injected(),
    "no-name": injected("", "x"),
    "no-value": injected("X-A", ""),
    "number-header": injected("X-A", 5),
    "number-name": injected(5, "x"),
    "header-header": injected("X-A", Header("ä" * 99, "utf-8")),
    "type-header": injected("Content-Type", Header("multipart/mixed")),
    "encoding-header": injected("Content-Transfer-Encoding", "ä; (x"),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("make", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_messages_are_written_as_by_the_generator(backend, make, policy):
    check(make, policy)


def test_a_message_within_itself_raises(backend):
    assert tried(to_bytes, endless(), None)[0] is RecursionError


def test_other_objects_are_refused(backend):
    for thing in (None, "text", b"written", 5, []):
        assert tried(to_bytes, thing, None) == tried(generated, thing, None)
    for policy in (5, "x", object()):
        assert tried(to_bytes, newsletter(), policy) == tried(generated, newsletter(), policy)


@pytest.mark.parametrize(
    "name", ["_write_lines", "_handle_text", "_write_headers", "_make_boundary", "_handle_image"]
)
def test_a_changed_generator_is_used(backend, monkeypatch, name):
    def changed(*arguments):
        raise KeyError(name)

    monkeypatch.setattr(email.generator.BytesGenerator, name, changed, raising=False)
    assert not walked(newsletter())
    assert tried(to_bytes, newsletter(), None) == (KeyError, repr(name))


def test_a_changed_message_class_is_used(backend, monkeypatch):
    monkeypatch.setattr(email.message.Message, "get_content_maintype", lambda self: "x")
    assert not walked(newsletter())
    check(newsletter)


def test_a_generator_that_was_changed_before_the_import_is_used():
    program = (
        "import email.generator as g, email.message as m\n"
        "def changed(self, lines): self.write('changed')\n"
        "g.Generator._write_lines = changed\n"
        "from rapidsmtp import to_bytes\n"
        "message = m.EmailMessage(); message.set_content('text')\n"
        "assert to_bytes(message).endswith(b'changed')"
    )
    processes.run([sys.executable, "-P", "-c", program], check=True, timeout=60)


def test_a_changed_charset_is_used(backend):
    """`to_bytes` uses the body encoding of a changed charset.

    Django, for example, changes the charset UTF-8 from base64 to quoted-printable.
    """
    utf8 = charset.Charset("utf-8")
    utf8.body_encoding = charset.QP
    check(lambda: MIMEText("für\n.\n" * 200, "plain", utf8))


def test_flatten_does_not_change_the_message(backend):
    message = newsletter()
    message["Bcc"] = "hidden@example.com"
    random.seed(20)
    written = flatten(message)
    assert b"hidden" not in written
    assert message["Bcc"] == "hidden@example.com"
    assert message.get_boundary() is None


# Random messages

LETTERS = some.sampled_from(
    'aaabcXYZ 019.:;,<>@()"\\=?_-\t\n\r\0\x0b\x1c\x85äß漢🙂\u2028\udc80\udcff'
)
TEXTS = some.lists(
    some.one_of(
        some.text(LETTERS, max_size=40),
        some.sampled_from(
            ["\n", "\r\n", "\r", "\n\n", ".\n", "\n.", "From x", "\nFrom x", "--b\n"]
        ),
        some.builds("x".__mul__, some.integers(60, 120)),
        some.builds("word ".__mul__, some.integers(1, 40)),
    ),
    max_size=6,
).map("".join)
WORDS = some.sampled_from(
    [
        "a",
        "Ada",
        "word",
        "x" * 30,
        "y" * 77,
        "z" * 120,
        "für",
        "漢字",
        "<a@example.com>",
        "a@b.c,",
        '"Q, R" <q@r.s>,',
        "=?utf-8?q?=C3=BC?=",
        "text/plain",
        "multipart/mixed;",
        "charset=utf-8",
        'boundary="b"',
        "boundary=b;",
        'name="a b.pdf";',
        "(comment)",
        "group: a@b;",
        "1.0",
        "base64",
        ".",
        "\udcfc",
        "Mon, 02 Nov 2026 09:30:00 +0000",
    ]
)
GAPS = some.sampled_from([" ", " ", " ", "", "  ", "\t", "\n ", "\r\n ", "\n\t", "\r ", " \n  "])
VALUES = some.lists(some.tuples(WORDS, GAPS), min_size=0, max_size=14).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)
ADDRESSES = some.lists(
    some.sampled_from(
        [
            "a@b.c",
            "Ada <ada@example.org>",
            '"Q, R" <q@r.s>',
            "Für <f@x.y>",
            "A (c) B <a@b.c>",
            " x@y ",
        ]
    ),
    min_size=1,
    max_size=8,
).map(", ".join)
HEADERS = some.lists(
    some.one_of(
        some.tuples(
            some.sampled_from(
                [
                    "Subject",
                    "X-A",
                    "Date",
                    "Message-ID",
                    "MIME-Version",
                    "List-Unsubscribe",
                    "To",
                    "Content-Disposition",
                    "Content-Transfer-Encoding",
                    "References",
                    "CC",
                    "X" * 70,
                ]
            ),
            some.one_of(VALUES, some.text(LETTERS, max_size=120)),
        ),
        some.tuples(some.sampled_from(["To", "From", "Cc", "Reply-To", "Sender"]), ADDRESSES),
    ),
    max_size=5,
)
TYPES = some.one_of(
    some.none(),
    some.sampled_from(
        [
            "text/plain",
            "TEXT/HTML; charset=utf-8",
            "application/pdf; name=a",
            "image/png",
            "text",
            "text/plain; charset=nonsense",
            "text/plain; charset=latin-1",
            "x/y",
            "message/rfc822",
        ]
    ),
    VALUES,
)
MULTIPARTS = some.sampled_from(
    [
        "multipart/mixed",
        "multipart/alternative",
        'Multipart/Related; boundary="bo_un/dary"',
        "multipart/signed; micalg=x",
        "multipart/mixed; boundary=b; a=b",
        "multipart/digest",
        'multipart/report; report-type=x; boundary="b"',
        "multipart/mixed; boundary=",
        "message/rfc822",
        "message/delivery-status",
        'multipart/mixed; boundary="a b "',
        "text/plain",
    ]
)
LEAVES = some.tuples(some.just("leaf"), HEADERS, TYPES, TEXTS)
TREES = some.recursive(
    LEAVES,
    lambda parts: some.tuples(
        some.just("parts"),
        HEADERS,
        MULTIPARTS,
        some.lists(parts, max_size=3),
        some.one_of(some.none(), TEXTS),
        some.one_of(some.none(), TEXTS),
    ),
    max_leaves=6,
)
PROFILE = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def add(message, name, value):
    try:
        message[name] = value
    except Exception:
        # If the policy refuses the field, add the field to the message's list directly.
        message._headers.append((name, value))


def built(tree, policy):
    kind, headers, content_type, *content = tree
    modern = isinstance(policy, email.policy.EmailPolicy)
    message = (email.message.EmailMessage if modern else email.message.Message)(policy=policy)
    for name, value in headers:
        add(message, name, value)
    if content_type is not None:
        add(message, "Content-Type", content_type)
    if kind == "leaf":
        message._payload = content[0]
    else:
        parts, message.preamble, message.epilogue = content
        message._payload = [built(part, policy) for part in parts]
    return message


BUILDING = some.sampled_from([email.policy.compat32, email.policy.default, email.policy.SMTP])


@PROFILE
@given(tree=TREES, building=BUILDING, policy=some.sampled_from([*POLICIES.values()]))
def test_a_random_tree_is_written_as_by_the_generator(backend, tree, building, policy):
    check(lambda: built(tree, building), policy)


@PROFILE
@given(tree=TREES, building=BUILDING, policy=some.sampled_from([*POLICIES.values()]))
def test_a_parsed_random_tree_is_written_as_by_the_generator(backend, tree, building, policy):
    written = tried(generated, built(tree, email.policy.compat32), None)
    if isinstance(written, bytes):
        written = written.replace(b"\r\n", b"\n") if tree[0] == "leaf" else written
        check(lambda: email.message_from_bytes(written, policy=building), policy)


@PROFILE
@given(
    headers=HEADERS,
    text=some.text(some.characters(exclude_categories=["Cs"]), max_size=300),
    html=some.one_of(some.none(), TEXTS),
    written=some.one_of(some.none(), some.binary(max_size=300)),
    filename=VALUES,
    policy=some.sampled_from([*POLICIES.values()]),
)
def test_a_message_changed_by_any_method_is_written_as_by_the_generator(
    backend, headers, text, html, written, filename, policy
):
    def make():
        message = email.message.EmailMessage()
        for name, value in headers:
            add(message, name, value)
        message.set_content(text)
        if html is not None:
            message.add_alternative(html.encode(errors="replace").decode(), subtype="html")
        if written is not None:
            message.add_attachment(written, "application", "pdf", filename=filename or None)
        return message

    try:
        make()
    except Exception:
        return
    check(make, policy)


@PROFILE
@given(
    name=some.sampled_from(["Subject", "To", "Content-Type", "Content-Disposition", "A", "X" * 60]),
    value=some.one_of(VALUES, some.text(LETTERS, max_size=200)),
    policy=some.sampled_from([policy for policy in POLICIES.values() if policy]),
)
def test_a_random_field_is_folded_as_by_the_policy(backend, name, value, policy):
    policy = policy.clone(linesep="\r\n")
    fields = module.Fields(policy, module.source_of(policy))
    parsed = tried(lambda value, policy: policy.header_factory(name, value), value, policy)
    for each in [value, parsed] if isinstance(parsed, str) else [value]:
        folded = fields._folded(name, each)
        assert folded is None or folded == policy.fold_binary(name, each)
