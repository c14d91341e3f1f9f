"""The message of `rapidsmtp send`: a message file, or made of the options that say what is in it.

What is long is a file (the texts), what is short is on the command line (the header). The names
are those of curl, swaks and mutt, as far as they agree.
"""

import argparse
import email
import email.policy
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rapidsmtp.cli.usage import UsageError
from rapidsmtp.dkim import DKIM
from rapidsmtp.template import Template

_ADDRESS = "{{ email }}"
_HEADER = re.compile(r"([!-9;-~]+)[ \t]*:[ \t]*(.*)")
_DESTINATIONS = frozenset(("to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"))
# The options of the second way, and how argparse calls them.
_OPTIONS = {
    "--from": "sender",
    "--subject": "subject",
    "--text": "text",
    "--html": "html",
    "--address": "address",
    "--header": "header",
    "--attach": "attach",
    "--inline": "inline",
}


@dataclass(frozen=True, slots=True)
class Composition:
    """A message for many, and where its recipients come from.

    Attributes:
        template: The message.
        columns: The fields that its To, Cc and Bcc hold.
    """

    template: Template
    columns: frozenset[str]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the two ways to say what the message is."""
    parser.add_argument("--template", metavar="FILE.eml", help="the message, as a file")
    group = parser.add_argument_group(
        "in the place of --template",
        "All may hold fields in Jinja2's syntax, except names of files.",
    )
    group.add_argument(
        "--from", dest="sender", metavar="MAILBOX", help='such as "News <news@example.com>"'
    )
    group.add_argument("--subject", metavar="TEXT")
    group.add_argument("--text", metavar="FILE", help="the plain text: a file in UTF-8; - is stdin")
    group.add_argument("--html", metavar="FILE", help="the same in HTML; one of the two will do")
    group.add_argument(
        "--address",
        metavar="MAILBOX",
        help=f'the To field, such as "{{{{ name }}}} <{_ADDRESS}>" (default "{_ADDRESS}")',
    )
    group.add_argument(
        "--header",
        action="append",
        metavar="'NAME: VALUE'",
        help="another header field, Cc, Bcc and Reply-To too; may be repeated",
    )
    group.add_argument("--attach", action="append", metavar="FILE", help="may be repeated")
    group.add_argument(
        "--inline",
        action="append",
        metavar="NAME=FILE",
        help='an image that the HTML shows by <img src="cid:NAME">; may be repeated',
    )
    signing = parser.add_argument_group("to sign each message", "DKIM (RFC 6376), all three of:")
    signing.add_argument(
        "--dkim-domain", metavar="DOMAIN", help="who vouches: From's, or one above it"
    )
    signing.add_argument(
        "--dkim-selector",
        metavar="NAME",
        help="where the public key is in the DNS: NAME._domainkey.DOMAIN",
    )
    signing.add_argument(
        "--dkim-key", metavar="FILE", help="the private key: PEM, or an Ed25519 seed in base64"
    )


def composed(options: argparse.Namespace) -> Composition:
    """Make a template of the options.

    Raises:
        UsageError: They are both ways or neither, or something is wrong with one of them.
    """
    signers = _signers(options)
    given = [name for name, key in _OPTIONS.items() if getattr(options, key) is not None]
    if options.template is not None:
        if given:
            raise UsageError(f"{given[0]} does not go with --template, which is the whole message")
        return from_file(options.template, signers)
    _check_enough(options, given)
    return _from_parts(options, signers)


def from_file(path: str, signers: Sequence[DKIM] = ()) -> Composition:
    """Read a message file.

    Args:
        path: The file.
        signers: Who signs each message.

    Raises:
        UsageError: It cannot be read, or is no template.
    """
    try:
        data = Path(path).read_bytes()
        template = Template.from_eml(data, dkim=signers)
        return Composition(template, _columns(_destinations(data)))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ImportError as error:
        raise UsageError(str(error)) from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def _signers(options: argparse.Namespace) -> list[DKIM]:
    given = {
        f"--dkim-{name}": getattr(options, f"dkim_{name}") for name in ("domain", "selector", "key")
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return []
    if missing:
        raise UsageError(f"no {missing[0]}, which a DKIM signature needs")
    path = options.dkim_key
    try:
        return [DKIM(options.dkim_domain, options.dkim_selector, Path(path))]
    except OSError as error:
        raise UsageError(f"--dkim-key {path}: {error.strerror}") from None
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from None


def _check_enough(options: argparse.Namespace, given: list[str]) -> None:
    if not given:
        raise UsageError(
            "no message: give --template FILE.eml, or --from, --subject and --text or --html"
        )
    for name in ("--from", "--subject"):
        if name not in given:
            raise UsageError(f"no {name}, which a message without --template needs")
    if not getattr(options, _OPTIONS["--from"]).strip():
        raise UsageError("--from is empty")
    if options.text is None and options.html is None:
        raise UsageError("neither --text nor --html: a message without --template needs a text")
    if options.inline and options.html is None:
        raise UsageError("--inline needs --html, which shows the image")
    if [options.text, options.html, options.to].count("-") > 1:
        raise UsageError("the standard input can be one of --text, --html and --to, not more")


def _from_parts(options: argparse.Namespace, signers: Sequence[DKIM]) -> Composition:
    headers = _headers(options.header or [])
    address = _ADDRESS if options.address is None else options.address
    others = [value for name, value in headers.items() if name.lower() in _DESTINATIONS]
    text, html = _text(options.text, "--text"), _text(options.html, "--html")
    inline = _inline(options.inline or [])
    try:
        template = Template.compose(
            sender=options.sender,
            to=address,
            subject=options.subject,
            text=text,
            html=html,
            headers=headers,
            attachments=options.attach or [],
            inline=inline,
            dkim=signers,
        )
        columns = _columns(value.encode("utf-8", "replace") for value in [address, *others])
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UsageError(f"{where}{error.strerror or error}") from None
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from None
    return Composition(template, columns)


def _headers(fields: Iterable[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for field in fields:
        match = _HEADER.fullmatch(field)
        if match is None:
            raise UsageError(f"--header {field!r}: it must be one line like 'Name: value'")
        name, value = match.groups()
        if name.lower() in map(str.lower, headers):
            raise UsageError(f"--header {name}: given twice")
        headers[name] = value
    return headers


def _inline(images: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for image in images:
        name, _, path = image.partition("=")
        if not re.fullmatch(r"[\w.@+-]+", name, re.ASCII) or not path:
            raise UsageError(f"--inline {image!r}: it must be like logo=logo.png")
        if name in found:
            raise UsageError(f"--inline {name}: given twice")
        found[name] = path
    return found


def _text(path: str | None, option: str) -> str | None:
    """Read a text, whatever its line ends are."""
    if path is None:
        return None
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{option} {path}: not in UTF-8") from None
    if "\0" in text:
        raise UsageError(f"{option} {path}: a NUL byte")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _destinations(data: bytes) -> list[bytes]:
    message = email.message_from_bytes(data, policy=email.policy.compat32)
    return [
        str(value).encode("utf-8", "surrogateescape")
        for name, value in message.raw_items()
        if name.lower() in _DESTINATIONS
    ]


def _columns(values: Iterable[bytes]) -> frozenset[str]:
    """The fields of address headers, found as a template finds them."""
    found: frozenset[str] = frozenset()
    for value in values:
        if value.strip():
            bare = Template.from_eml(b"From: x@example.com\nTo: " + value + b"\n\n")
            found |= bare.required_fields
    return found
