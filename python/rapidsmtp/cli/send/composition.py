"""The message of `rapidsmtp send`: a message file, or a message built from options.

For a message that is built from options, the options name the text files and give the values of the
header fields. Where curl, swaks and mutt agree on the name of an option, `send` uses this name too.
"""

import argparse
import codecs
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rapidsmtp._compose.charset import decode_charset, stated_charset
from rapidsmtp._compose.dkim import DKIM
from rapidsmtp._compose.template import Template
from rapidsmtp.cli.options import DEFAULT_TO
from rapidsmtp.cli.send.local_images import with_inline_images
from rapidsmtp.cli.usage import UsageError, name_options

# RFC 5322 section 2.2: the name of a header field consists of printable ASCII characters except the
# colon.
_HEADER_NAME = re.compile(r"[!-9;-~]+")
# The options that describe a message without --template. The dict maps each option to the name of
# the attribute that holds the option's value.
_OPTIONS = {
    "--from": "sender",
    "--subject": "subject",
    "--text": "text",
    "--html": "html",
    "--address": "address",
    "--header": "header",
    "--inline": "inline",
    "--inline-images": "inline_images",
}
_AUTO = "auto"
_HTML = re.compile(rb"\s*<(?:!--|(?:!doctype|html|head|body|table|div|style)\b)", re.IGNORECASE)


def compose_from_options(options: argparse.Namespace) -> Template:
    """Build the message template that the options of `send` describe.

    Raises:
        UsageError: The options describe an incomplete message or two messages, or an option is
            wrong.
    """
    signers = signers_from_options(options)
    given = [name for name, key in _OPTIONS.items() if getattr(options, key) not in (None, False)]
    if options.template is not None:
        if options.text == _AUTO:
            given.remove("--text")
        if given:
            raise UsageError(
                f"{given[0]} cannot be combined with --template; the template is the whole message"
            )
        return compose_from_file(
            options.template,
            signers,
            options.keep_headers,
            text=options.text,
            **_additions(options),
        )
    if options.keep_headers:
        raise UsageError("--keep-headers needs --template")
    _check_complete(options, given)
    return _compose_from_parts(options, signers)


def compose_from_file(
    path: str, signers: Sequence[DKIM] = (), keep_headers: bool = False, **additions: Any
) -> Template:
    """Read a message file, and convert it to a message template.

    Args:
        path: The path of the file.
        signers: The DKIM signatures to add to each message.
        keep_headers: Whether to keep the header fields of an earlier message.
        additions: Further arguments of `Template.from_eml`.

    Raises:
        UsageError: The file cannot be read, or its content is not a valid template.
    """
    try:
        return Template.from_eml(path, dkim=signers, keep_headers=keep_headers, **additions)
    except OSError as error:
        raise UsageError(f"{error.filename or path}: {error.strerror}") from None
    except ImportError as error:
        raise UsageError(name_options(str(error))) from None
    except ValueError as error:
        raise UsageError(f"{path}: {name_options(str(error))}{_hint(path)}") from None


def _hint(path: str) -> str:
    """Return the cure for an HTML file in place of a message file."""
    try:
        with Path(path).open("rb") as file:
            is_html = _HTML.match(file.read(1000).removeprefix(b"\xef\xbb\xbf"))
    except OSError:
        return ""
    return "; for an HTML file, use --html with --from and --subject" if is_html else ""


def signers_from_options(options: argparse.Namespace) -> list[DKIM]:
    """Return the DKIM signatures that the options of `send` describe.

    Raises:
        UsageError: An option is missing, or the key cannot be used.
    """
    given = {
        f"--dkim-{name}": getattr(options, f"dkim_{name}") for name in ("domain", "selector", "key")
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return []
    if missing:
        raise UsageError(f"{missing[0]} is missing; a DKIM signature needs {', '.join(given)}")
    path = options.dkim_key
    try:
        return [DKIM(options.dkim_domain, options.dkim_selector, Path(path))]
    except OSError as error:
        raise UsageError(f"--dkim-key {path}: {error.strerror}") from None
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from None


def _check_complete(options: argparse.Namespace, given: list[str]) -> None:
    if not given:
        raise UsageError(
            "no message given; use --template FILE.eml, or --from, --subject and --text or --html"
        )
    for name in ("--from", "--subject"):
        if name not in given:
            raise UsageError(f"{name} is missing; a message without --template needs it")
    if not getattr(options, _OPTIONS["--from"]).strip():
        raise UsageError("--from is empty")
    if options.text is None and options.html is None:
        raise UsageError(
            "--text and --html are missing; a message without --template needs one of them"
        )
    for name in ("--inline", "--inline-images"):
        if getattr(options, _OPTIONS[name]) and options.html is None:
            raise UsageError(f"{name} needs --html; only HTML can show an image")
    if options.text == _AUTO and options.html is None:
        raise UsageError("--text auto needs --html")
    if [options.text, options.html, options.to].count("-") > 1:
        raise UsageError("only one of --text, --html and --to can read standard input (-)")


def _compose_from_parts(options: argparse.Namespace, signers: Sequence[DKIM]) -> Template:
    headers = _headers(options.header or [])
    to = DEFAULT_TO if options.address is None else options.address
    text, html = options.text, _text(options.html, "--html")
    if text != _AUTO:
        text = _text(text, "--text")
    inline = _inline(options.inline or [])
    if options.inline_images and html is not None:
        folder = Path() if options.html == "-" else Path(options.html).parent
        html, images = with_inline_images(html, folder, inline)
        inline = images | inline
    try:
        return Template.compose(
            sender=options.sender,
            to=to,
            subject=options.subject,
            text=text,
            html=html,
            headers=headers,
            inline=inline,
            dkim=signers,
            **_additions(options),
        )
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UsageError(f"{where}{error.strerror or error}") from None
    except (ValueError, ImportError) as error:
        raise UsageError(name_options(str(error))) from None


def _additions(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that all constructors of `Template` have."""
    return {
        "attachments": options.attach or [],
        "attachment_root": options.attachment_root,
        "calendar": None if options.calendar is None else Path(options.calendar),
        "envelope_sender": options.return_path,
    }


def _headers(fields: Iterable[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for field in fields:
        name, colon, value = field.partition(":")
        name, value = name.rstrip(" \t"), value.lstrip(" \t")
        if not colon or not _HEADER_NAME.fullmatch(name) or "\n" in value:
            raise UsageError(f"--header {field!r} is not one line of the form 'Name: value'")
        if name.lower() in map(str.lower, headers):
            raise UsageError(f"--header {name} is given twice")
        headers[name] = value
    return headers


def _inline(images: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for image in images:
        name, _, path = image.partition("=")
        if not re.fullmatch(r"[\w.@+-]+", name, re.ASCII) or not path:
            raise UsageError(f"--inline {image!r} is not of the form NAME=FILE")
        if name in found:
            raise UsageError(f"--inline {name} is given twice")
        found[name] = path
    return found


def _text(path: str | None, option: str) -> str | None:
    """Read a text file, and convert its line ends to LF."""
    if path is None:
        return None
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        text = _decode(data, html=option == "--html")
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{option} {path}: {error}") from None
    if "\0" in text:
        raise UsageError(f"{option} {path}: the text contains a NUL byte")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode(data: bytes, html: bool) -> str:
    """Decode a text file.

    Raises:
        ValueError: The charset of the file is not known, or the text is not valid in it.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return decode_charset("utf-16", data)
    try:
        # Valid UTF-8 that is not ASCII is UTF-8, even if a `meta` from an earlier file differs.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        charset = stated_charset(data) if html else None
    if charset is None:
        place = ", and it has no <meta charset>" if html else ""
        raise ValueError(f"the text is not UTF-8{place}; save it as UTF-8")
    return decode_charset(charset, data)
