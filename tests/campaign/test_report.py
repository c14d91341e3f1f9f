"""The report of a campaign: one page without scripts and without requests."""

import re
import sys
from pathlib import Path

import pytest

from browser import browser
from rapidsmtp import Campaign, Template
from rapidsmtp.campaign.figures import figures_of
from rapidsmtp.testing import Fault, Sink

pytestmark = pytest.mark.rust
TEMPLATE = b"From: n@example.com\r\nTo: {{ email }}\r\nSubject: Hi\r\n\r\nHello\r\n"
HOSTILE = "550 5.1.1 <script>alert(1)</script>\x1b[31m<img src=http://example.com/x>"


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """Return a campaign with refused, deferred, invalid and suppressed rows."""
    faults = [
        Fault("rcpt", address="bad@a.example", reply=HOSTILE),
        Fault("rcpt", address="later@b.example", reply="451 4.7.1 greylisted"),
    ]
    names = [f"r{row}@d{row % 30}.example" for row in range(200)]
    names += ["bad@a.example", "later@b.example", "nothing", "r1@d1.example", "x@$d$_{x}.example"]
    with Sink(faults=faults) as sink:
        made = Campaign.create(
            tmp_path / "j",
            Template.from_eml(TEMPLATE),
            [{"email": name} for name in names],
            relays=sink.url,
            name="May <b>& June</b>",
            sender={"max_attempts": 1},
        )
        for _ in made.run(wait=False):
            pass
    return made


def test_the_figures_are_those_of_the_status(campaign: Campaign) -> None:
    figures, status = figures_of(campaign._opened), campaign.status()
    counts = {name: sum(each[name] for each in figures.domains.values()) for name in (
        "accepted", "refused", "deferred", "invalid", "suppressed")}  # fmt: skip
    assert counts == {name: getattr(status, name) for name in counts}
    assert figures.per_minute.total() == figures.times.total() == status.accepted
    assert (figures.codes[550], figures.codes[451]) == (1, 1)
    assert figures.domains["d1.example"].total() == 8
    assert len(figures.top_domains()) == 21
    assert {(each.code, each.enhanced) for each in figures.top_reasons()} >= {
        (550, "5.1.1"),
        (451, "4.7.1"),
    }


def test_the_page_has_no_script_and_escapes_everything(campaign: Campaign, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    campaign.report(path)
    text = path.read_text("utf-8")
    assert "<script" not in text and "<img" not in text and "\x1b" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "May &lt;b&gt;&amp; June" in text
    assert len(text) < 300_000
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert text.count("<svg") == 4 and ids
    assert path.stat().st_mode & 0o777 == 0o600
    # A second report replaces the first one.
    campaign.report(path)
    assert [each.name for each in tmp_path.glob("*.part")] == []


def test_a_browser_shows_the_page_without_requests(campaign: Campaign, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    campaign.report(path)
    with browser() as page:
        page.open(path)
        requests = set(page.requests.values())
    assert requests == {path.as_uri()}


def test_an_empty_campaign_has_a_report(tmp_path: Path) -> None:
    rows = [{"email": "a@example.com"}]
    made = Campaign.create(tmp_path / "j", Template.from_eml(TEMPLATE), rows, relays="smtp://a")
    made.report(tmp_path / "report.html")
    assert "No outcomes yet." in (tmp_path / "report.html").read_text("utf-8")


def test_a_missing_package_is_named(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "rapidsmtp.campaign.charts", raising=False)
    monkeypatch.delattr("rapidsmtp.campaign.charts", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'rapidsmtp\[report\]'"):
        campaign.report(tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
