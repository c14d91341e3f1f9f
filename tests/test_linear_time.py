"""The time for a text of a peer or of a recipients list is proportional to the text's length.

The tests compare the processor time for a text with the time for a text of four times its length.
So the result does not depend on how busy or how fast the machine is.
"""

import contextlib
import time
from collections.abc import Callable
from functools import partial

import pytest

from rapidsmtp import Template
from rapidsmtp._compose.checks import check, inspect
from rapidsmtp._compose.encode import RowError, _fold, check_address
from rapidsmtp._compose.envelope import _addresses
from rapidsmtp._models.relay_url import parse_relay
from rapidsmtp._pure.capability import parse_ehlo
from rapidsmtp._pure.reply import enhanced_status
from rapidsmtp.cli.send.composition import _headers
from rapidsmtp.cli.usage import UsageError
from rapidsmtp.errors import printable_reply, spreadsheet_text


def checked(field: str) -> Callable[[str], object]:
    def checked_field(value: str) -> object:
        data = f"From: a@example.com\r\n{field}: {value}\r\n\r\nbody\r\n".encode()
        return check(inspect(data, frozenset()), message=data)

    return checked_field


def checked_html(text: str) -> object:
    source = f"Content-Type: text/html\r\n\r\n{text}".encode()
    return check(inspect(source, frozenset()))


def template_of(body: str) -> Callable[[str], object]:
    """Return a function that puts a text into a message file and compiles the file."""

    def compile_text(text: str) -> object:
        source = "From: a@example.com\nTo: b@example.com\n" + body.replace("%s", text)
        return Template.from_eml(source.encode(), keep_headers=True)

    return compile_text


def relay_of(url: str) -> object:
    return parse_relay(url, mechanisms=())


HAN = "".join(map(chr, range(0x4E00, 0x9FA6)))

# For each case: the function, the start of the text, the repeated part, and the end of the text.
CASES: dict[str, tuple[Callable[[str], object], str, str, str]] = {
    "URIs without an end": (checked("List-Unsubscribe"), "", "<a:", ""),
    "URIs on many lines": (checked("List-Unsubscribe"), "", "<a:\r\n ", ""),
    "words": (checked("List-Unsubscribe"), "", "<a: ", ">"),
    "encoded words": (checked("List-Unsubscribe-Post"), "", "=?a?q?a?= ", ""),
    "tags of a signature": (checked("DKIM-Signature"), "", "; d ", ""),
    "authors": (checked("X-Unused: x\r\nFrom"), "", "a@example.com, ", "b@example.com"),
    "comments": (checked("From"), "", "(", ")"),
    "parameters": (checked("Content-Type"), "text/html", "; a=b", ""),
    "tags": (checked_html, "", "<a ", ""),
    "links without an end": (checked_html, "", '<a href="', ""),
    "links with mixed quotes": (checked_html, "", "src='src=\"", ""),
    "attributes of one tag": (checked_html, "<a '", " src=a", ""),
    "places of braces": (checked_html, "", "{", ""),
    "split fields": (checked_html, "", "{<b>", ""),
    "encoded braces": (checked_html, "", "%7b", ""),
    "brackets": (checked_html, "", "[A_", ""),
    "comments of a template": (checked_html, "", "{#", ""),
    "style sheets": (checked_html, "", "<style", ""),
    "style sheets with an end": (checked_html, "", "<style></styl", ""),
    "links to style sheets": (checked_html, "", "<link ", ""),
    "scripts": (checked_html, "", "<script ", ""),
    "URLs in CSS": (checked_html, "", "url(", ""),
    "encoded tags": (checked_html, "", "&lt;%", ""),
    "tags of ERB": (checked_html, "", "<% ", ""),
    "percent signs": (checked_html, "", "%%a", ""),
    "asterisks": (checked_html, "", "*|A", ""),
    "braces": (checked_html, "", "{a.", ""),
    "number signs": (checked_html, "", "#name ", ""),
    "names in brackets": (checked_html, "", "[$name", ""),
    "underscores": (checked_html, "", "__a_", ""),
    "spaces between braces": (checked_html, "", "{ \u200b", ""),
    "HTML comments": (checked_html, "", "<!--", ""),
    "HTML comments with an end": (checked_html, "", "<!-- -->", ""),
    "a preamble": (
        template_of("Content-Type: multipart/mixed; boundary=b\n\n%s\n"),
        "",
        "--b ",
        "",
    ),
    "many parts": (
        template_of("Content-Type: multipart/mixed; boundary=b\n\n%s\n"),
        "",
        "--b\n\nx\n",
        "",
    ),
    "a Content-Type of comments": (template_of("Content-Type: %s\n\nx\n"), "text/plain ", "(a", ""),
    "comments before a type": (template_of("Content-Type: %s\n\nx\n"), "", "(a) ", "text/plain"),
    "parameters of a part": (template_of("Content-Type: %s\n\nx\n"), "a/b", ';a="', ""),
    "continued parameters": (template_of("Content-Type: %s\n\nx\n"), "a/b", "; a*1=b", ""),
    "unfilled fields": (template_of("Content-Type: a/b\n\n%s\n"), "", "{{ a ", ""),
    "unfilled statements": (template_of("Content-Type: a/b\n\n%s\n"), "", "{% if ", ""),
    "a meta tag": (template_of("Content-Type: text/html\n\n%s\n"), "", "<meta charset", ""),
    "a calendar": (
        template_of("Content-Type: text/calendar\n\nX:%s {{ 'a' }}\n"),
        "",
        "a\n b;",
        "",
    ),
    "blanks after a header field": (_fold, "Subject: " + "x" * 80, " ", ""),
    "blanks in a header option": (lambda text: _headers([text]), "A:", " ", "\n"),
    "a long domain": (
        partial(check_address, place="header To"),
        "a@\N{LATIN SMALL LETTER SHARP S}",
        HAN,
        "",
    ),
    "a long name": (lambda text: _addresses([text]), "", "a ", "<a@example.com"),
    "dots in an address": (lambda text: _addresses([text]), "", "a.", "@"),
    "blanks in a reply": (lambda text: printable_reply(text.encode()), "x", " ", "x\x1b"),
    "dots in a reply": (lambda text: enhanced_status(550, text.encode()), "5.", "1.", ""),
    "capabilities": (lambda text: parse_ehlo(text.encode()), "x\nAUTH", "=A", "\n"),
    "formulas": (spreadsheet_text, "", "; ", "x"),
    "blanks in a reason": (spreadsheet_text, ";", " ", "x"),
    "signs in a URL": (relay_of, "smtp://", "@", "x"),
    "brackets in a URL": (relay_of, "smtp://", "[", "]"),
    "options in a URL": (relay_of, "smtp://x?", "&starttls", ""),
}


def seconds(function: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    with contextlib.suppress(ValueError, RowError, UsageError):
        function(text)
    return time.process_time() - start


@pytest.mark.parametrize("case", CASES)
def test_the_time_is_proportional_to_the_length(case: str) -> None:
    function, start, part, end = CASES[case]

    def least(length: int) -> float:
        text = start + part * (length // len(part)) + end
        return min(seconds(function, text) for _ in range(3))

    # If the time grows with the square of the length, the second time is sixteen times the first.
    assert least(400_000) < 8 * least(100_000) + 0.1
