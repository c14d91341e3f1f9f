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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape, unescape
from html.parser import HTMLParser
from typing import Any

from rapidsmtp._models.message import Message
from rapidsmtp.cli.header_text import header_text
from rapidsmtp.errors import printable

PAGE = "index.html"
# The maximum number of messages on the page. A browser needs a frame for each of them.
MAX_MESSAGES = 100
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
_STYLE = """
:root { color-scheme: light dark; --back: #f4f5f7; --card: #fff; --ink: #1c2430; --dim: #5d6878;
  --line: #d9dee5; --accent: #1a5fb4; --warn: #fff4d6; --warn-ink: #6b4a00; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --card: #1d232b; --ink: #e6eaf0;
  --dim: #9aa6b6; --line: #333c48; --accent: #8ab8f5; --warn: #3a3015; --warn-ink: #f3d990; } }
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
.warnings { margin: .75rem 0 0; padding: .6rem 1rem; border-radius: 8px;
  background: var(--warn); color: var(--warn-ink); }
.warnings ul { margin: .25rem 0 0; padding-left: 1.25rem; }
nav ol { margin: 1rem 0; padding: 0; list-style: none; }
nav a { display: block; padding: .45rem .7rem; border-radius: 8px; text-decoration: none; }
nav a:hover, nav a:focus { background: var(--card); }
nav .dim { display: block; font-size: .85rem; }
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
}
@media print { nav { display: none; } article { break-inside: avoid; } }
"""


@dataclass(frozen=True, slots=True)
class PreviewedMessage:
    """A message for the page.

    Attributes:
        row: The place of its row in the list, such as "line 3".
        file: The name of its file, in the folder of the page.
        message: The message.
    """

    row: str
    file: str
    message: Message


def preview_page(
    messages: Sequence[PreviewedMessage], total: int, warnings: Sequence[str]
) -> bytes:
    """Return the page.

    Args:
        messages: The messages on the page, in the order of the list.
        total: The number of messages in the folder.
        warnings: The warnings about the mailing.
    """
    shown = [_Shown(number, each) for number, each in enumerate(messages, 1)]
    count = f"{total} message{'s' if total != 1 else ''}"
    parts = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">{_HEAD}',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Preview of {count}</title><style>{_STYLE}</style></head><body>",
        f'<header><h1>Preview of {count}</h1><p class="dim">Nothing was sent. Scripts, remote '
        "images and links are disabled on this page.</p>",
        _warnings(warnings),
        '</header><nav aria-label="Messages"><ol>',
        *(each.entry() for each in shown),
        "</ol></nav><main>",
        *(each.article() for each in shown),
    ]
    if total > len(shown):
        parts.append(f"<p>The other {total - len(shown)} messages are in the .eml files.</p>")
    parts.append("</main></body></html>\n")
    return "".join(parts).encode("utf-8", "replace")


class _Shown:
    """One message on the page."""

    def __init__(self, number: int, previewed: PreviewedMessage) -> None:
        self._number, self._previewed = number, previewed
        # The time of the policy `default` grows with the square of a field's length.
        parsed = email.message_from_bytes(previewed.message.data, policy=email.policy.compat32)
        self._subject = header_text(parsed, "Subject") or "(no subject)"
        self._parsed = parsed
        self._parts = _Parts(parsed)

    def entry(self) -> str:
        """Return the line of the list of messages."""
        recipients = _line(", ".join(self._previewed.message.recipients))
        return (
            f'<li><a href="#message-{self._number}">{_line(self._subject)}'
            f'<span class="dim">{recipients}</span></a></li>'
        )

    def article(self) -> str:
        """Return the message."""
        message, parts = self._previewed.message, self._parts
        file = self._previewed.file
        facts = [
            ("From", _line(header_text(self._parsed, "From"))),
            ("To", _line(header_text(self._parsed, "To"))),
            ("Envelope sender", _line(message.sender or "<> (no bounces)")),
            ("Envelope recipients", _line(", ".join(message.recipients))),
            ("Size", escape(_size(len(message.data)))),
            ("Row", escape(self._previewed.row)),
            ("File", f'<a href="{escape(urllib.parse.quote(file))}">{_line(file)}</a>'),
        ]
        listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts if value)
        both = " both" if parts.html is not None and parts.text is not None else ""
        head, _, _ = message.data.partition(b"\r\n\r\n")
        return "".join(
            (
                f'<article id="message-{self._number}"><h2>{_line(self._subject)}</h2>',
                f"<dl>{listed}</dl>",
                f'<div class="bodies{both}">{self._html()}{self._text()}</div>',
                _details("Attachments and other parts", parts.others, is_open=True),
                _details("Links", parts.links),
                f"<details><summary>Header</summary><pre>{_lines(_utf8(head))}</pre></details>",
                "</article>",
            )
        )

    def _html(self) -> str:
        source = self._parts.html
        if source is None:
            return ""
        note = ""
        if self._parts.remote:
            count = len(self._parts.remote)
            images = "1 remote image is" if count == 1 else f"{count} remote images are"
            note = f" ({images} not loaded)"
        frame = escape(_FRAME_HEAD + _disabled(self._parts.with_images(source)))
        return (
            f'<section class="html"><h3>HTML{note}</h3><iframe sandbox title="HTML of message '
            f'{self._number}" srcdoc="{frame}"></iframe></section>'
        )

    def _text(self) -> str:
        if self._parts.text is None:
            return ""
        return (
            '<section class="text"><h3>Plain text</h3>'
            f"<pre>{_lines(self._parts.text)}</pre></section>"
        )


class _Parts:
    """The parts of a message.

    Attributes:
        html: The HTML text, or None.
        text: The plain text, or None.
        others: A line for each other part.
        links: The addresses of the links in the HTML text.
        remote: The addresses of the remote images in the HTML text.
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

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values: Mapping[str, str | None] = dict(attributes)
        if tag in ("a", "area") and values.get("href"):
            self.links[str(values["href"])] = None
        for name in ("src", "background"):
            if _REMOTE.match((values.get(name) or "").strip()):
                self.remote[str(values[name])] = None


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


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{_line(each)}</li>" for each in warnings)
    name = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    return f'<div class="warnings"><strong>{name}</strong><ul>{items}</ul></div>'


def _details(name: str, lines: Sequence[str], *, is_open: bool = False) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{_line(line)}</li>" for line in lines)
    opened = " open" if is_open else ""
    return f"<details{opened}><summary>{name} ({len(lines)})</summary><ul>{items}</ul></details>"


def _size(count: int) -> str:
    return f"{count} bytes" if count < 1024 else f"{count / 1024:.1f} KiB"
