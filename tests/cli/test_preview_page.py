"""The page of `rapidsmtp send --preview`: its content, and what a browser shows and loads."""

import base64
import email
import email.policy
import re
import socket
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pytest

from browser import Browser, browser
from commandline import EML, Command, one_line
from rapidsmtp.cli.send import preview_page

MAILS = Path(__file__).parents[1] / "mails"
FILES = ("--template", "message.eml", "--to", "list.csv")
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HTML_ONLY = (
    "From: n@example.com\nTo: {{ email }}\nSubject: s\nMIME-Version: 1.0\n"
    "Content-Type: text/html; charset=utf-8\n\n<p>Dear {{ name }}"
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


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with browser() as browser_of_module:
        yield browser_of_module


@pytest.fixture
def chromium(started: Browser) -> Browser:
    started.resize(1400)
    started.requests.clear()
    return started


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


def test_the_page_shows_invalid_rows(command: Command) -> None:
    command.write("list.csv", "id,name,email\n1,Anna,anna@example.com\n2,Bo,<b>\n3,Cy,\n")
    result = command("send", *FILES, "--preview", "3")
    assert result.returncode == 1
    page = Path("preview/index.html").read_text("utf-8")
    assert "<h1>Preview of 1 message</h1>" in page
    assert "<strong>2 invalid rows give no message</strong>" in page
    assert "<li>line 3: header To: &#x27;&lt;b&gt;&#x27; is not an address</li>" in page
    assert "<li>line 4: header To: the field &#x27;email&#x27; is empty" in page


def test_a_preview_without_valid_rows_has_a_page(command: Command) -> None:
    """The page of an earlier preview does not stay."""
    page_of(command)
    command.write("list.csv", "id,name,email\n1,Anna,anna\n")
    result = command("send", *FILES, "--preview", "3", "--overwrite")
    assert result.returncode == 1 and "preview/index.html" in result.stdout
    page = Path("preview/index.html").read_text("utf-8")
    assert "<h1>Preview of 0 messages</h1>" in page and "Hello Anna" not in page
    assert "<strong>1 invalid row gives no message</strong>" in page


def test_the_page_has_a_maximum_size(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page with the inline images of many messages could be too large for a browser."""
    monkeypatch.setattr(preview_page, "_MAX_SIZE", 100)
    page = page_of(command)
    assert page.count("<article") == 1 and "2 more messages are in .eml files only" in page
    assert "<h1>Preview of 3 messages</h1>" in page and Path("preview/3.eml").exists()


def test_remote_files_are_named(plain_command: Command) -> None:
    html = (
        '<link href="https://a.example/1.css"><style>p{background:url(https://a.example/2.png)}'
        '</style><p style="background:url(\'//a.example/3.png\')"><img src="HTTPS://a.example/4"'
        ' srcset="https://a.example/5 1x, https://a.example/6 2x"><img src="data:,x">'
        '<table background=" http://a.example/7">url(https://a.example/8)'
    )
    plain_command.write("message.eml", HTML_ONLY + html)
    page = page_of(plain_command)
    assert "<h3>HTML (7 remote files are not loaded)</h3>" in page
    listed = page.split("<summary>Remote files (7)</summary>")[1].split("</details>")[0]
    found = re.findall("<li>(.*?)</li>", listed)
    numbers = [re.sub(".*example/", "", each) for each in found]
    assert numbers == ["1.css", "2.png", "3.png", "4", "5", "6", "7"]


def test_a_message_without_a_text(plain_command: Command) -> None:
    plain_command.write(
        "message.eml",
        "From: n@example.com\nTo: {{ email }}\nSubject: s\nMIME-Version: 1.0\n"
        "Content-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\n\nYQ==\n",
    )
    page = page_of(plain_command)
    assert page.count("The message has no text.") == 3 and "a.pdf: application/pdf" in page
    assert "<iframe" not in page and 'name="width"' not in page


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


@pytest.mark.parametrize("mail", ["mjml-minified", "outlook-related", "gmail-alternative"])
def test_a_browser_shows_the_text_of_the_html(
    command: Command, chromium: Browser, mail: str
) -> None:
    """The frame of a message has the text of the original HTML, with the fields filled."""
    data = (MAILS / f"{mail}.eml").read_bytes()
    command.write("message.eml", data)
    command.write("list.csv", "name,email,token,city\nAnna & <Bo>,anna@example.com,t1,Ulm\n")
    page_of(command)
    chromium.open(Path("preview/index.html"))
    shown, frame = chromium.documents()
    assert "1.eml" in shown

    body = email.message_from_bytes(data, policy=email.policy.default).get_body(("html",))
    assert body is not None
    content, label = body.get_payload(decode=True), body.get_content_charset()
    assert isinstance(content, bytes)
    # Browsers read iso-8859-1 as windows-1252.
    original = content.decode("utf-8" if label == "utf-8" else "windows-1252")
    original = re.sub(r"\{% if city.*?%\}(.*?)\{% else %\}.*?\{% endif %\}", r"\1", original)
    row = {"name": "Anna &amp; &lt;Bo&gt;", "token": "t1", "token|urlencode": "t1", "city": "Ulm"}
    original = re.sub(r"\{\{ ([\w|]+) \}\}", lambda match: row[match[1]], original)
    Path("original.html").write_text(original, "utf-8-sig")
    chromium.open(Path("original.html"))
    [expected] = chromium.documents()
    assert "Anna & <Bo>" in expected and "{" not in expected
    assert frame == expected


def test_the_newsletter_of_the_demo(command: Command, chromium: Browser) -> None:
    bench = Path(command.environment["PYTHONPATH"], "rapidsmtp/cli/bench")
    command.write("message.eml", (bench / "newsletter.eml").read_bytes())
    command.write("list.csv", (bench / "subscribers.csv").read_bytes())
    page = page_of(command)
    chromium.open(Path("preview/index.html"))
    shown, *frames = chromium.documents()
    assert len(frames) == page.count("<iframe") == 3
    assert all(len(frame.split()) > 100 for frame in frames)
    assert all(f"{number}.eml" in shown for number in (1, 2, 3))
    # No text is wider than a phone.
    chromium.resize(375)
    assert chromium.evaluate("document.documentElement.scrollWidth <= innerWidth") is True


def test_the_html_in_the_width_of_a_phone(command: Command, chromium: Browser) -> None:
    command.write("message.eml", HTML_ONLY)
    page_of(command)
    chromium.open(Path("preview/index.html"))
    width = "document.querySelector('iframe').clientWidth"
    assert chromium.evaluate(width) > 800
    chromium.evaluate("document.querySelector('#phone').click()")
    assert chromium.evaluate(width) == 375


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
    listener.setblocking(True)
    listener.settimeout(60)
    chromium.navigate(page)
    connection, _ = listener.accept()
    connection.close()
    chromium.wait()
