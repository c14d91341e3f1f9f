"""The page `index.html` of `send --preview`: the messages as a mail reader shows them.

The page is one file without scripts. It loads nothing, whatever a message contains:

- Everything from a message is escaped, except its HTML. The HTML is in a frame with `sandbox`, so
  it can neither run scripts, send forms nor open windows.
- The Content-Security-Policy of the page allows only inline styles and `data:` images and fonts.
  The frames inherit it. It also forbids that a frame shows another address.
- The policy does not cover early connections, which browsers open for `<link rel=preconnect>` and
  for frames. So elements that concern the whole document are disabled, and nested frames are empty.
"""

import base64
import email
import email.message
import email.policy
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape, unescape
from html.parser import HTMLParser
from typing import Any

from rapidsmtp._models.message import Message
from rapidsmtp.cli.header_text import header_text
from rapidsmtp.errors import printable

PAGE = "index.html"
# The maximum number of messages on the page. A browser needs a frame for each of them.
_MAX_MESSAGES = 100
# The maximum size of the messages on the page, in characters of HTML: every message contains its
# inline images. The first message may be larger.
_MAX_SIZE = 32 << 20
# The maximum number of invalid rows on the page.
_MAX_INVALID = 100
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "base-uri 'none'; form-action 'none'"
)
_HEAD = (
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    '<meta http-equiv="x-dns-prefetch-control" content="off">'
    '<meta name="referrer" content="no-referrer">'
)
# A link in a frame could only show an error, so it cannot be clicked.
_FRAME_HEAD = f"{_HEAD}<style>a,area{{pointer-events:none!important}}</style>"
# Elements of the message that concern the whole document. `basefont` has no effect in browsers, and
# it may be in the head and has no end tag, as these elements.
_DOCUMENT_ELEMENT = re.compile(r"<(?:link|base|meta)(?=[\s/>])", re.IGNORECASE)
# Elements that show another document. Of two attributes with the same name, browsers use the first.
_NESTED = re.compile(r"<(iframe|frame|object|embed)(?=[\s/>])", re.IGNORECASE)
_NOTHING = r'<\1 src="about:blank" srcdoc="" data=""'
# A reference to an inline image in an attribute or in CSS (RFC 2392).
_CID = re.compile(r"(?<=[\"'(=\s])cid:([^\s\"'<>()]+)", re.IGNORECASE)
_IMAGE_TYPE = re.compile(r"image/[a-z0-9.+-]+")
# Browsers read these labels as windows-1252 (WHATWG Encoding standard).
_WINDOWS_1252 = {"iso-8859-1", "latin-1", "latin1", "us-ascii", "ascii"}
_REMOTE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_STYLE_URL = re.compile(r"""url\(\s*["']?([^"'()\s]{1,2000})""", re.IGNORECASE)
_FRAME = "<iframe sandbox"
# The two widths of the HTML. 375 pixels is the width of a phone.
_WIDTHS = (
    '<fieldset aria-label="Width of the HTML">Width of the HTML:'
    '<label><input type="radio" name="width" checked> page</label>'
    '<label><input type="radio" name="width" id="phone"> phone (375 px)</label></fieldset>'
)
_STYLE = """
:root { color-scheme: light dark; --back: #f4f5f7; --card: #fff; --ink: #1c2430; --dim: #5d6878;
  --line: #d9dee5; --accent: #1a5fb4; --warn: #fff4d6; --warn-ink: #6b4a00;
  --bad: #fde4e1; --bad-ink: #7d1d12; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --card: #1d232b; --ink: #e6eaf0;
  --dim: #9aa6b6; --line: #333c48; --accent: #8ab8f5; --warn: #3a3015; --warn-ink: #f3d990;
  --bad: #45201c; --bad-ink: #f6bcb4; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); overflow-wrap: anywhere;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header, main, nav { padding: 0 1.25rem; }
header { padding-top: 1.25rem; }
h1 { margin: 0; font-size: 1.4rem; }
h2 { margin: 0 0 .5rem; font-size: 1.15rem; }
p { margin: .25rem 0; }
a { color: var(--accent); }
.dim, dt { color: var(--dim); }
/* Each text has its own direction (RTL), independent of the page. */
h2, dd, li, pre, nav a > span { unicode-bidi: plaintext; }
.warnings, .invalid { margin: .75rem 0 0; padding: .6rem 1rem; border-radius: 8px; }
.warnings { background: var(--warn); color: var(--warn-ink); }
.invalid { background: var(--bad); color: var(--bad-ink); }
.warnings ul, .invalid ul { margin: .25rem 0 0; padding-left: 1.25rem; }
.invalid ul { max-height: 16rem; overflow: auto; }
fieldset { margin: .75rem 0 0; padding: 0; border: 0; color: var(--dim); }
fieldset label { margin-left: .75rem; color: var(--ink); }
body:has(#phone:checked) .html iframe { width: 377px; max-width: 100%; }
nav ol { margin: 1rem 0; padding: 0; list-style: none; }
nav a { display: block; padding: .45rem .7rem; border-radius: 8px; text-decoration: none; }
nav a:hover, nav a:focus { background: var(--card); }
nav a > span { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2;
  overflow: hidden; }
nav .dim { font-size: .85rem; }
article { margin: 1rem 0 1.5rem; padding: 1.1rem 1.25rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px; scroll-margin-top: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0 0 .9rem; }
dd { margin: 0; }
.bodies { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr); }
h3 { margin: 0 0 .35rem; font-size: .85rem; font-weight: 600; color: var(--dim); }
iframe { display: block; width: 100%; height: 34rem; min-height: 8rem; resize: vertical;
  overflow: auto; border: 1px solid var(--line); border-radius: 8px; background: #fff;
  color-scheme: light; }
pre { margin: 0; padding: .8rem; overflow: auto; white-space: pre-wrap; border-radius: 8px;
  border: 1px solid var(--line); background: var(--back);
  font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.text pre { max-height: 34rem; }
details { margin-top: .8rem; }
summary { cursor: pointer; color: var(--dim); }
details > :not(summary) { margin-top: .5rem; }
li { margin: .15rem 0; }
@media (min-width: 70rem) {
  body { display: grid; grid-template-columns: 19rem minmax(0, 1fr); max-width: 110rem; }
  header { grid-column: 1 / -1; }
  nav { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow: auto;
    padding-right: 0; }
  .both { grid-template-columns: minmax(0, 7fr) minmax(0, 5fr); }
}
@media (max-width: 34rem) {
  dl { display: block; }
  dt { font-size: .85rem; }
  dd { margin-bottom: .35rem; }
  article { padding: .9rem; }
  header, main, nav { padding-left: .75rem; padding-right: .75rem; }
  fieldset { display: none; }
}
@media print { nav { display: none; } article { break-inside: avoid; } }
"""


class PreviewPage:
    """The page. It keeps the HTML of its messages, and not the messages."""

    def __init__(self) -> None:
        self._entries: list[str] = []
        self._articles: list[str] = []
        self._size = self._messages = 0
        self._invalid: list[str] = []
        self._invalid_rows = 0

    def add(self, row: str, file: str, message: Message) -> None:
        """Add a message.

        Args:
            row: The place of its row in the list, such as "line 3".
            file: The name of its file, in the folder of the page.
            message: The message.
        """
        self._messages += 1
        if len(self._articles) == _MAX_MESSAGES or self._size >= _MAX_SIZE:
            return
        entry, article = _shown_message(len(self._articles) + 1, row, file, message)
        self._size += len(article)
        if self._size > _MAX_SIZE and self._articles:
            return
        self._entries.append(entry)
        self._articles.append(article)

    def add_invalid(self, row: str, reason: str) -> None:
        """Add a row that gives no message."""
        self._invalid_rows += 1
        if len(self._invalid) < _MAX_INVALID:
            self._invalid.append(f"{row}: {reason}")

    def content(self, warnings: Sequence[str]) -> bytes:
        """Return the page.

        Args:
            warnings: The warnings about the mailing.
        """
        title = f"Preview of {_count(self._messages, 'message')}"
        verb = "gives" if self._invalid_rows == 1 else "give"
        invalid = f"{_count(self._invalid_rows, 'invalid row')} {verb} no message"
        parts = [
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">{_HEAD}',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body>",
            f'<header><h1>{title}</h1><p class="dim">Nothing was sent. Scripts, remote '
            "images and links are disabled on this page.</p>",
            _box("invalid", invalid, self._invalid, self._invalid_rows),
            _box("warnings", _count(len(warnings), "warning"), warnings, len(warnings)),
            _WIDTHS if any(_FRAME in article for article in self._articles) else "",
            '</header><nav aria-label="Messages"><ol>',
            *self._entries,
            "</ol></nav><main>",
            *self._articles,
        ]
        others = self._messages - len(self._articles)
        if others:
            fact = "message is in its .eml file" if others == 1 else "messages are in .eml files"
            parts.append(f"<p>{others} more {fact} only.</p>")
        parts.append("</main></body></html>\n")
        return "".join(parts).encode("utf-8", "replace")


def _shown_message(number: int, row: str, file: str, message: Message) -> tuple[str, str]:
    """Return the line of the list of messages, and the message."""
    # The time of the policy `default` grows with the square of a field's length.
    parsed = email.message_from_bytes(message.data, policy=email.policy.compat32)
    parts = _Parts(parsed)
    subject = _line(header_text(parsed, "Subject") or "(no subject)")
    recipients = _line(", ".join(message.recipients))
    facts = [
        ("From", _line(header_text(parsed, "From"))),
        ("To", _line(header_text(parsed, "To"))),
        ("Envelope sender", _line(message.sender or "<> (no bounces)")),
        ("Envelope recipients", recipients),
        ("Size", escape(_size(len(message.data)))),
        ("Row", _line(row)),
        ("File", f'<a href="{escape(urllib.parse.quote(file))}">{_line(file)}</a>'),
    ]
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts if value)
    both = " both" if parts.html is not None and parts.text is not None else ""
    body = _html(number, parts) + _text(parts) or '<p class="dim">The message has no text.</p>'
    head, _, _ = message.data.partition(b"\r\n\r\n")
    entry = (
        f'<li><a href="#message-{number}"><span>{subject}</span>'
        f'<span class="dim">{recipients}</span></a></li>'
    )
    article = (
        f'<article id="message-{number}"><h2>{subject}</h2>'
        f'<dl>{listed}</dl><div class="bodies{both}">{body}</div>'
        f"{_details('Attachments and other parts', parts.others, is_open=True)}"
        f"{_details('Links', parts.links)}{_details('Remote files', parts.remote)}"
        f"<details><summary>Header</summary><pre>{_lines(_utf8(head))}</pre></details></article>"
    )
    return entry, article


def _html(number: int, parts: "_Parts") -> str:
    if parts.html is None:
        return ""
    note = ""
    if parts.remote:
        verb = "is" if len(parts.remote) == 1 else "are"
        note = f" ({_count(len(parts.remote), 'remote file')} {verb} not loaded)"
    frame = escape(_FRAME_HEAD + _disabled(parts.with_images(parts.html)))
    return (
        f'<section class="html"><h3>HTML{note}</h3>{_FRAME} title="HTML of message {number}" '
        f'srcdoc="{frame}"></iframe></section>'
    )


def _text(parts: "_Parts") -> str:
    if parts.text is None:
        return ""
    return f'<section class="text"><h3>Plain text</h3><pre>{_lines(parts.text)}</pre></section>'


class _Parts:
    """The parts of a message.

    Attributes:
        html: The HTML text, or None.
        text: The plain text, or None.
        others: A line for each other part.
        links: The addresses of the links in the HTML text.
        remote: The addresses of the images and other files that the HTML text loads.
    """

    def __init__(self, message: email.message.Message) -> None:
        self.html: str | None = None
        self.text: str | None = None
        self.others: list[str] = []
        self._images: dict[str, str] = {}
        for part in _leaves(message):
            self._add(part)
        found = _Addresses()
        if self.html is not None:
            found.feed(self.html)
            found.close()
        self.links, self.remote = list(found.links), list(found.remote)

    def _add(self, part: email.message.Message) -> None:
        kind, is_attachment = (
            part.get_content_type(),
            part.get_content_disposition() == "attachment",
        )
        content = _content(part)
        if not is_attachment and kind == "text/html" and self.html is None:
            self.html = _decoded(part, content)
            return
        if not is_attachment and kind == "text/plain" and self.text is None:
            self.text = _decoded(part, content)
            return
        content_id = str(part.get("Content-ID", "")).strip().strip("<>")
        if content_id and _IMAGE_TYPE.fullmatch(kind):
            encoded = base64.b64encode(content).decode("ascii")
            self._images[content_id] = f"data:{kind};base64,{encoded}"
        name = part.get_filename() or content_id or "without a name"
        self.others.append(f"{name}: {kind}, {_size(len(content))}")

    def with_images(self, html: str) -> str:
        """Return the HTML text with its inline images as `data:` URIs."""

        def image(match: re.Match[str]) -> str:
            content_id = urllib.parse.unquote(unescape(match[1]))
            return self._images.get(content_id, match[0])

        return _CID.sub(image, html)


class _Addresses(HTMLParser):
    """The addresses in an HTML text, each once and in order."""

    def __init__(self) -> None:
        super().__init__()
        self.links: dict[str, None] = {}
        self.remote: dict[str, None] = {}
        self._in_style = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values: Mapping[str, str | None] = dict(attributes)
        if tag in ("a", "area") and values.get("href"):
            self.links[str(values["href"])] = None
        self._in_style = tag == "style"
        for name in ("src", "background", "poster"):
            self._add_remote([values.get(name) or ""])
        if tag == "link":
            self._add_remote([values.get("href") or ""])
        # srcset: addresses and widths, with commas between images.
        self._add_remote(re.split(r"\s+", values.get("srcset") or ""))
        self._add_remote(_STYLE_URL.findall(values.get("style") or ""))

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self._add_remote(_STYLE_URL.findall(data))

    def _add_remote(self, addresses: Iterable[str]) -> None:
        for address in map(str.strip, addresses):
            if _REMOTE.match(address):
                self.remote[address] = None


def _leaves(part: email.message.Message) -> Iterator[email.message.Message]:
    """Yield the parts of a message that contain no parts. An attached message is one part."""
    if part.get_content_maintype() == "multipart" and part.is_multipart():
        parts: Any = part.get_payload()
        for each in parts:
            yield from _leaves(each)
    else:
        yield part


def _content(part: email.message.Message) -> bytes:
    if part.is_multipart():  # an attached message
        inner: Any = part.get_payload()
        return b"".join(each.as_bytes() for each in inner)
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _decoded(part: email.message.Message, content: bytes) -> str:
    label = (part.get_content_charset() or "utf-8").lower()
    try:
        return content.decode("cp1252" if label in _WINDOWS_1252 else label, "replace")
    except LookupError:
        return content.decode("utf-8", "replace")


def _disabled(html: str) -> str:
    """Return the HTML text of a message without elements for which browsers open connections."""
    return _NESTED.sub(_NOTHING, _DOCUMENT_ELEMENT.sub("<basefont", html))


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _line(text: str) -> str:
    """Return a text of one line for HTML."""
    return escape(printable(text))


def _lines(text: str) -> str:
    """Return a text of several lines for HTML."""
    return "\n".join(_line(line.expandtabs()) for line in text.splitlines())


def _box(kind: str, title: str, lines: Sequence[str], total: int) -> str:
    """Return a list with a title. `total` counts also the lines that are not in `lines`."""
    if not lines:
        return ""
    items = "".join(f"<li>{_line(each)}</li>" for each in lines)
    if total > len(lines):
        items += f"<li>and {total - len(lines)} more</li>"
    return f'<div class="{kind}"><strong>{title}</strong><ul>{items}</ul></div>'


def _details(name: str, lines: Sequence[str], *, is_open: bool = False) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{_line(line)}</li>" for line in lines)
    opened = " open" if is_open else ""
    return f"<details{opened}><summary>{name} ({len(lines)})</summary><ul>{items}</ul></details>"


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _size(count: int) -> str:
    return f"{count} bytes" if count < 1024 else f"{count / 1024:.1f} KiB"
