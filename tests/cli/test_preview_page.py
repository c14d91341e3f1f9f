"""The page of `rapidsmtp send --preview`: its content, and what a browser shows and loads."""

import base64
import re
import socket
from collections.abc import Iterator
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from browser import Browser, browser
from commandline import EML, Command, one_line

FILES = ("--template", "message.eml", "--to", "list.csv")
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
# Texts of a message that would run a script, load an address or leave the frame. `ADDRESS` is a
# server that counts connections.
HOSTILE = """<!DOCTYPE html><html><head>
<meta http-equiv="refresh" content="0;url=http://ADDRESS/refresh">
<META/http-equiv=refresh content="0;url=http://ADDRESS/refresh2">
<base href="http://ADDRESS/"><link rel="stylesheet" href="http://ADDRESS/style.css">
<link rel=preconnect href="http://ADDRESS"><LINK
rel=dns-prefetch href="http://ADDRESS"><link/rel=prefetch href="http://ADDRESS/prefetch">
<style>@import url(http://ADDRESS/import.css); body{background:url(http://ADDRESS/back.png)}
@font-face{font-family:f;src:url(http://ADDRESS/font)} p{font-family:f}</style>
<script>document.title='ran';top.document.title='ran'</script>
<script src="http://ADDRESS/script.js"></script></head>
<body background="http://ADDRESS/b.png" onload="top.document.title='ran'">
<p>Dear {{ name }}, visible text</p></iframe></section></main><h1>outside of the frame</h1>
<img src="http://ADDRESS/image.png" srcset="//ADDRESS/a.png 2x" onerror="top.document.title='ran'">
<img src=x onerror="document.title='ran'"><video autoplay src="http://ADDRESS/v"></video>
<svg onload="top.document.title='ran'"><script>top.document.title='ran'</script>
<image href="http://ADDRESS/svg.png"/><use href="http://ADDRESS/use.svg#a"/></svg>
<object data="http://ADDRESS/object"></object><embed src="http://ADDRESS/embed">
<iframe src="http://ADDRESS/frame"></iframe><iframe src="javascript:top.document.title='ran'">
</iframe><iframe
 srcdoc="&lt;link rel=preconnect href=http://ADDRESS&gt;&lt;script&gt;alert(1)&lt;/script&gt;">
</iframe><form action="http://ADDRESS/form"><input autofocus onfocus="top.document.title='ran'">
<button>send</button></form><a href="javascript:top.document.title='ran'">link</a>
<a href="http://ADDRESS/page" target="_top" ping="http://ADDRESS/ping">page</a>
<img src="cid:image"></body></html>"""


@pytest.fixture
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Yield a server at which no connection must arrive."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def page_of(command: Command, *options: str) -> str:
    result = command("send", *FILES, "--preview", "3", *options)
    assert result.returncode == 0, result.stderr
    assert "preview/index.html" in result.stdout
    return Path("preview/index.html").read_text("utf-8")


def test_the_page_lists_messages(command: Command) -> None:
    page = page_of(command, "--tag", "id")
    assert re.search(
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'', page
    )
    for name in ("Anna", "Bo", "Cy"):
        assert f"<h2>Hello {name}</h2>" in page and f"<pre>Dear {name}</pre>" in page
        assert f"<dd>{name.lower()}@example.com, hidden@example.com</dd>" in page
    assert '<a href="1-1.eml">' in page and "line 2 (1)" in page
    assert "List-Unsubscribe: &lt;https://example.com/u&gt;" in page
    assert Path("preview/index.html").stat().st_mode & 0o077 == 0


def test_the_page_shows_warnings(command: Command) -> None:
    command.write("message.eml", EML.replace("List-Unsubscribe:", "X-Other:"))
    assert "<li>List-Unsubscribe is missing" in page_of(command)


def test_everything_of_a_message_is_escaped(command: Command) -> None:
    hostile = "<script>alert(1)</script>\u202e\"'"
    command.write("message.eml", EML.replace("Dear {{ name }}", f"{hostile}</pre>"))
    command.write("list.csv", f"id,name,email\n1,{hostile},anna@example.com\n")
    page = page_of(command)
    assert "<script" not in page and "</pre></pre>" not in page and "\u202e" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e&quot;&#x27;" in page


def test_the_page_is_not_overwritten(command: Command) -> None:
    Path("preview").mkdir()
    Path("preview/index.html").write_text("mine")
    wrong = command("send", *FILES, "--preview", "1")
    one_line(wrong, "preview/index.html exists already; use --overwrite")
    assert Path("preview/index.html").read_text() == "mine"


def test_inline_images_and_links(command: Command) -> None:
    command.write("news.html", '<a href="https://example.com/{{ id }}">x</a><img src="cid:logo">')
    command.write("news.txt", "Dear {{ name }}")
    command.write("logo.png", PNG)
    result = command(
        "send", "--from", "n@example.com", "--subject", "Hi", "--html", "news.html",
        "--text", "news.txt", "--inline", "logo=logo.png", "--attach", "news.txt",
        "--to", "list.csv", "--preview", "1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    page = Path("preview/index.html").read_text("utf-8")
    assert f"data:image/png;base64,{base64.b64encode(PNG).decode()}" in page
    assert "<li>https://example.com/1</li>" in page and "news.txt: text/plain" in page


class Text(HTMLParser):
    """The text of an HTML document that a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        hides = "display:none" in (dict(attributes).get("style") or "").replace(" ", "")
        if self._hidden or hides or tag in ("style", "title"):
            self._hidden += 1

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= bool(self._hidden)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words += data.split()


def test_a_browser_shows_the_text_of_the_html(command: Command, chromium: Browser) -> None:
    bench = Path(command.environment["PYTHONPATH"], "rapidsmtp/cli/bench")
    command.write("message.eml", (bench / "newsletter.eml").read_bytes())
    command.write("list.csv", (bench / "subscribers.csv").read_bytes())
    page = page_of(command)
    chromium.open(Path("preview/index.html"))
    shown, *frames = chromium.documents()
    sources = re.findall(r'srcdoc="([^"]*)"', page)
    assert len(frames) == len(sources) == 3
    for frame, source in zip(frames, sources, strict=True):
        expected = Text()
        expected.feed(unescape(source))
        assert len(expected.words) > 100
        # CSS shows some headings in capital letters.
        assert frame.casefold().split() == " ".join(expected.words).casefold().split()
    for number in (1, 2, 3):
        assert f"{number}.eml" in shown
    images = "[...document.querySelectorAll('iframe')].length"
    assert chromium.evaluate(images) == 3


def test_a_hostile_message_runs_and_loads_nothing(
    command: Command, chromium: Browser, listener: socket.socket
) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    subject = "Hello </title><script>document.title='ran'</script>"
    command.write(
        "message.eml",
        "From: n@example.com\nTo: {{ email }}\nSubject: " + subject + "\nMIME-Version: 1.0\n"
        "Content-Type: text/html; charset=utf-8\n\n" + HOSTILE.replace("ADDRESS", address),
    )
    page_of(command)
    path = Path("preview/index.html")
    chromium.requests.clear()
    chromium.open(path)
    shown, *frames = chromium.documents()
    assert list(chromium.requests.values()) == [path.resolve().as_uri()]
    assert chromium.evaluate("document.title") == "Preview of 3 messages"
    assert chromium.evaluate("location.href") == path.resolve().as_uri()
    # No element of a message is outside of its frame.
    assert chromium.evaluate("document.querySelectorAll('script, form, object').length") == 0
    assert chromium.evaluate("document.querySelectorAll('h1').length") == 1
    assert escape(subject) in path.read_text("utf-8") and subject in shown
    visible = [frame for frame in frames if "visible text" in frame]
    assert len(visible) == 3 and "Dear Anna" in visible[0]
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_page_without_the_policy_would_load(
    tmp_path: Path, chromium: Browser, listener: socket.socket
) -> None:
    """The tests notice a request: this page has the same content without protection."""
    page = tmp_path / "open.html"
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    page.write_text(f'<img src="http://{address}/image.png">', "utf-8")
    chromium.requests.clear()
    listener.setblocking(True)
    listener.settimeout(60)
    chromium.navigate(page)
    connection, _ = listener.accept()
    connection.close()
