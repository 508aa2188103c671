"""The page in a real browser: it must look right, not only parse."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest
from heimdall_trainer.report import render_report
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=5000",
)
LIGHT_BLUE, DARK_BLUE = (0x24, 0x57, 0xD6), (0x7A, 0xA5, 0xFF)
PROBE = """<script>
const box = (id) => { const r = document.getElementById(id).getBoundingClientRect();
  return [r.width, r.height]; };
parent.postMessage(JSON.stringify({
  wide: box("map-wide"), narrow: box("map-narrow"), page: document.body.scrollWidth,
  window: innerWidth, lines: document.querySelectorAll("#map-wide .noted").length,
  cut: [...document.querySelectorAll("svg.figure text")].filter((text) => {
    const t = text.getBoundingClientRect(), s = text.ownerSVGElement.getBoundingClientRect();
    return t.width && (t.left < s.left - 1 || t.right > s.right + 1 || t.top < s.top - 1
      || t.bottom > s.bottom + 1); }).map((text) => text.textContent)}), "*");
</script></body>"""
WINDOW = """<body style="margin:0"><script>
addEventListener("message", (event) => { document.body.dataset.seen = event.data; });
</script><iframe src="probed.html" style="border:0;width:{width}px;height:3000px"></iframe>"""
"""A frame may be as narrow as a phone; a window of the browser may not."""


@pytest.fixture
def browse(tmp_path):
    """Runs chromium on a file, and gives what it wrote to each stream."""

    def run(page, *flags, width=1200, height=4000):
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        size = f"--window-size={width},{height}"
        done = subprocess.run(
            [CHROMIUM, *QUIET, profile, size, *flags, page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout, done.stderr

    return run


@pytest.fixture(scope="module")
def page(contents, tmp_path_factory):
    """The report of a plausible run."""
    return render_report(contents, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def seen(page, browse):
    """What a script in a copy of the page measures at that width."""

    def measure(width):
        copy = page.with_name("probed.html")
        copy.write_text(page.read_text("utf-8").replace("</body>", PROBE), "utf-8")
        window = page.with_name("window.html")
        window.write_text(WINDOW.replace("{width}", str(width)), "utf-8")
        dom, _ = browse(window, "--dump-dom", width=1400)
        return json.loads(unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))

    return measure


def test_the_browser_finds_nothing_to_complain_about(page, browse):
    """An error on the console is a figure that someone will miss."""
    _, log = browse(page, "--dump-dom")
    assert "CONSOLE" not in log


def test_a_complaint_would_be_seen(tmp_path, browse):
    """The test above can fail: an error thrown by a page reaches the log."""
    broken = tmp_path / "broken.html"
    broken.write_text("<script>throw new Error('seen')</script>")
    _, log = browse(broken, "--dump-dom")
    assert "CONSOLE" in log


def test_the_map_is_seen_on_a_desk(seen, contents):
    """It is what the report is opened for."""
    found = seen(1200)
    assert min(found["wide"]) > 400
    assert found["narrow"] == [0, 0]
    assert found["lines"] == len(contents.evaluation)


def test_the_page_fits_a_phone(seen):
    """It is read standing beside the antenna: no sideways scrolling, the map drawn for it."""
    found = seen(400)
    assert found["page"] <= found["window"] == 400
    assert found["narrow"][0] > 300
    assert found["wide"] == [0, 0]


@pytest.mark.parametrize("width", [400, 1200])
def test_no_label_is_cut_off(seen, width):
    """Half a station's name is another name."""
    assert seen(width)["cut"] == []


@pytest.mark.parametrize(
    ("scheme", "paper", "blue"), [(1, (255,) * 3, LIGHT_BLUE), (0, (0x12, 0x15, 0x1B), DARK_BLUE)]
)
def test_the_picture_has_the_colours_of_the_scheme(page, browse, scheme, paper, blue):
    """In the dark, black lines on a dark page would be an empty map."""
    picture = page.with_suffix(".png")
    browse(page, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    assert tuple(pixels[0]) == paper
    assert (pixels == blue).all(axis=1).sum() > 1000
