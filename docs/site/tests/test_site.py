"""The built site in a real browser, and what its building refuses.

`nox -s docs` builds it and names it in the variable SITE.
"""

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import griffe
import pytest
from stage import table_faults, undescribed

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
SITE = Path(os.environ.get("SITE", "no site")).resolve()
in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=1400,1000", "--dump-dom"),
)
SEARCH = """<script>
const soon = (act) => new Promise((done) => setTimeout(() => done(act()), 1000));
addEventListener("load", () => soon(() => document.querySelector(".md-search__button").click())
  .then(() => soon(() => {
    const roots = [...document.querySelectorAll("*")].map((one) => one.shadowRoot).filter(Boolean);
    return roots.find((root) => root.querySelector("input[role=combobox]"));
  }))
  .then((root) => {
    const input = root.querySelector("input[role=combobox]");
    input.value = "kriging";
    input.dispatchEvent(new Event("input", { bubbles: true }));
    return soon(() => [...root.querySelectorAll("[role=option]")].map((one) => one.href));
  })
  .then((found) => { document.body.dataset.seen = JSON.stringify(found); }));
</script></body>"""
WIDTHS = """<body><script>
const pages = PAGES, seen = {};
const look = async () => {
  const frame = document.createElement("iframe");
  document.body.append(frame);
  for (const page of pages) {
    const loaded = new Promise((done) => { frame.onload = done; });
    frame.src = page;
    await loaded;
    for (const width of [400, 1300]) {
      frame.style = `border:0;height:900px;width:${width}px`;
      const needed = frame.contentDocument.documentElement.scrollWidth;
      if (needed > width) seen[`${page} at ${width}`] = needed;
    }
  }
  document.body.dataset.seen = JSON.stringify({ seen, n: pages.length });
};
look();
</script></body>"""


@pytest.fixture
def browse(tmp_path):
    """Open a page and return what its script has seen."""

    def run(page, *flags, budget_ms):
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, *QUIET, profile, f"--virtual-time-budget={budget_ms}", *flags]
        done = subprocess.run(
            [*command, page.as_uri()], capture_output=True, text=True, timeout=300, check=True
        )
        return json.loads(unescape(re.search(r'data-seen="([^"]*)"', done.stdout)[1]))

    return run


@pytest.fixture(scope="module")
def pages():
    """The built pages."""
    found = sorted(SITE.rglob("*.html"))
    if not found:
        pytest.skip("no site; nox -s docs builds one and names it in SITE")
    return found


@in_browser
def test_the_search_finds_a_page_that_is_opened_as_a_file(pages, browse):
    """Nobody who has built the site has a server running."""
    probe = SITE / "search-probe.html"
    probe.write_text(pages[0].with_name("index.html").read_text("utf-8").replace("</body>", SEARCH))
    try:
        found = browse(probe, budget_ms=10_000)
    finally:
        probe.unlink()
    assert any(address.endswith("docs/glossary.html#kriging") for address in found), found


@in_browser
def test_no_page_scrolls_sideways_on_a_desk_or_a_phone(pages, browse, tmp_path):
    """A table or a diagram that is too wide pushes the text out of sight."""
    wide = tmp_path / "wide.html"
    wide.write_text("<!doctype html><p style='width:2000px'>wide")
    outer = tmp_path / "outer.html"
    addresses = [page.as_uri() for page in [*pages, wide]]
    outer.write_text(WIDTHS.replace("PAGES", json.dumps(addresses)))
    seen = browse(outer, "--allow-file-access-from-files", budget_ms=600_000)
    assert seen["n"] > 20
    assert {name for name in seen["seen"] if "wide.html" not in name} == set()
    assert len(seen["seen"]) == 2, "a page that is too wide is seen"


def test_pages_load_nothing_from_elsewhere(pages):
    """The site must work without a network, and tell nobody who reads it."""
    tag = re.compile(r'<(?:script|img|link rel="stylesheet")[^>]+(?:src|href)="?(https?:[^"> ]+)')
    assert {found for page in pages for found in tag.findall(page.read_text("utf-8"))} == set()


@pytest.mark.parametrize(
    "text",
    [
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n| 3 | 4 |\n",
        "| a | b |\n|---|---|\n| 1 |\n",
        "Text\n| a | b |\n|---|---|\n",
        "| a | b |\n|---|---|\nText\n",
    ],
)
def test_a_broken_table_is_found(text):
    """A blank line within a table ends it, and the rest is shown as text with bars."""
    assert len(list(table_faults(text))) == 1


def test_a_whole_table_is_none_of_the_broken_ones():
    """A check that complains of everything is turned off."""
    text = "Text | bar\n\n| a | b |\n|:--|--:|\n| 1 | `x \\| y` |\n\n```text\n| a diagram |\n```\n"
    assert list(table_faults(text)) == []


def test_a_field_without_a_description_is_found():
    """Its name alone does not tell its unit, nor what it does."""
    code = (
        "class Told:\n"
        '    """Things.\n\n    Attributes:\n        listed: Told of above.\n    """\n\n'
        '    told: float\n    """Told of."""\n    listed: float\n    bare: float\n'
        "    _private: float\n"
    )
    module = griffe.visit("module", Path("module.py"), code)
    assert list(undescribed(module["Told"])) == ["module.Told.bare"]
