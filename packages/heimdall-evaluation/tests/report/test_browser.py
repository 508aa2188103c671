"""The page in a real browser: it must look right, not only parse."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest
from heimdall_evaluation.compare.page import render_comparison
from heimdall_evaluation.compare.pairs import paired
from heimdall_evaluation.compare.significance import outcome
from heimdall_evaluation.report import render_report
from heimdall_evaluation.report.files import session_files
from heimdall_evaluation.results import ModelResult
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=5000"),
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


ZOOM = """<script>
const frame = document.querySelector("#map .frame.wide"), map = frame.querySelector("svg.figure");
const box = () => map.getAttribute("viewBox").split(" ").map(Number);
const label = [...map.querySelectorAll("[data-at]")].find((l) => l.textContent.includes("Genova"));
const dot = () => map.querySelector("g > use").getBoundingClientRect().width;
const middle = () => { const r = label.getBoundingClientRect(); return [r.width, r.left, r.top]; };
const press = (key) => frame.querySelector(`[data-key="${key}"]`).click();
const seen = { whole: box(), dot: dot(), label: middle() };
press("+"); press("+");
seen.zoomed = box(); seen.dotZoomed = dot(); seen.labelZoomed = middle();
seen.bar = frame.querySelector(".bar-of-scale").textContent;
frame.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
seen.moved = box();
press("0");
seen.back = box();
const every = map.querySelector(".every");
seen.hidden = getComputedStyle(every).display;
document.getElementById("every-ellipse").click();
seen.shown = getComputedStyle(every).display;
seen.fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
document.body.dataset.seen = JSON.stringify(seen);
</script></body>"""
"""Measured in the page itself, by a script that its policy would not let run."""


DOWNLOAD = """<script>
const seen = {}, buttons = [...document.querySelectorAll("button[data-file]")];
const make = URL.createObjectURL, blobs = new Map();
URL.createObjectURL = (blob) => { const url = make(blob); blobs.set(url, blob); return url; };
HTMLAnchorElement.prototype.click = async function () {
  seen[this.download] = await blobs.get(this.href).text();
  if (Object.keys(seen).length === buttons.length)
    document.body.dataset.seen = JSON.stringify(seen);
};
for (const button of buttons) button.click();
</script></body>"""
"""Presses the buttons of files, and keeps what the browser would have saved."""


def with_script(page, script):
    """A copy of a page that lets a script of ours run at its end."""
    free = page.replace('http-equiv="Content-Security-Policy"', 'name="policy"')
    assert free != page
    return free.replace("</body>", script)


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Runs chromium on a file, and gives what it wrote to each stream."""
    folder = tmp_path_factory.mktemp("profile")

    def run(page, *flags, width=1200, height=4000):
        profile = f"--user-data-dir={folder}"
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


@pytest.fixture(scope="module")
def seen(page, browse):
    """What a script in a copy of the page measures at that width."""

    @functools.cache
    def measure(width):
        copy = page.with_name("probed.html")
        copy.write_text(with_script(page.read_text("utf-8"), PROBE), "utf-8")
        window = page.with_name("window.html")
        window.write_text(WINDOW.replace("{width}", str(width)), "utf-8")
        dom, _ = browse(window, "--dump-dom", width=1400)
        return json.loads(unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))

    return measure


def test_the_browser_finds_nothing_to_complain_about(page, browse):
    """An error on the console is a figure that someone will miss."""
    _, log = browse(page, "--dump-dom")
    assert "CONSOLE" not in log


def test_the_browser_finds_nothing_to_complain_about_in_a_comparison(page, contents, browse):
    """It is the page that decides what goes into production."""
    side = ModelResult(
        name="</style><script>throw 1</script>",
        evaluation=contents.evaluation,
        receivers=contents.receivers,
        region=contents.region,
    )
    both = paired(side, side)
    found = outcome(contents.evaluation, contents.evaluation)
    compared = render_comparison(
        both, found, None, page.with_name("compared.html"), command="x", versions={}
    )
    dom, log = browse(compared, "--dump-dom")
    assert "CONSOLE" not in log
    assert dom.count('<svg viewBox="0 0 3') >= 3
    assert "<script" not in dom


def test_a_complaint_would_be_seen(tmp_path, browse):
    """The tests above can fail: an error thrown by a page reaches the log."""
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
    """It is read beside the antenna: no sideways scrolling, and a map drawn for the width."""
    found = seen(400)
    assert found["page"] <= found["window"] == 400
    assert found["narrow"][0] > 300
    assert found["wide"] == [0, 0]


@pytest.fixture(scope="module")
def zoomed(page, browse):
    """What the map's buttons and keys did."""
    copy = page.with_name("zoomed.html")
    copy.write_text(with_script(page.read_text("utf-8"), ZOOM), "utf-8")
    dom, _ = browse(copy, "--dump-dom")
    return json.loads(unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))


def test_the_map_can_be_magnified_and_marks_keep_their_size(zoomed):
    """Where transmitters are close, their marks hide each other until the map is magnified."""
    x, y, width, height = zoomed["whole"]
    assert (x, y) == (0, 0)
    assert zoomed["zoomed"][2:] == pytest.approx([width / 1.6**2, height / 1.6**2])
    assert zoomed["dotZoomed"] == pytest.approx(zoomed["dot"], rel=0.02)
    assert zoomed["labelZoomed"][0] == pytest.approx(zoomed["label"][0], rel=0.05)
    assert zoomed["labelZoomed"][1:] != pytest.approx(zoomed["label"][1:], abs=5)
    assert re.fullmatch(r"\d+ k?m", zoomed["bar"])
    assert zoomed["moved"][0] > zoomed["zoomed"][0]
    assert zoomed["back"] == pytest.approx(zoomed["whole"])


def test_every_ellipse_is_seen_where_it_is_asked_for(zoomed):
    """A hundred ellipses at once hide each other, so they are drawn on request."""
    assert (zoomed["hidden"], zoomed["shown"]) == ("none", "inline")


def test_the_buttons_save_the_sessions_as_files(page, contents, browse):
    """Under the page's own policy, which lets it fetch nothing; and without a network."""
    copy = page.with_name("downloading.html")
    lets_ours_run = re.sub(
        r"script-src '[^']*'", "script-src 'unsafe-inline'", page.read_text("utf-8")
    )
    copy.write_text(lets_ours_run.replace("</body>", DOWNLOAD), "utf-8")
    dom, _ = browse(copy, "--dump-dom")
    saved = json.loads(unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
    files = session_files(contents)
    assert saved == {f"{contents.title}.{ending}": text for ending, text in files.items()}


def test_the_browser_fetches_nothing_for_the_page(zoomed):
    """It is opened behind firewalls, and nobody should learn that it was."""
    assert zoomed["fetched"] == []


def test_a_page_that_fetches_is_found_out(page, browse):
    """The test above can fail: an image from elsewhere is among what was fetched."""
    copy = page.with_name("fetching.html")
    text = page.read_text("utf-8").replace("<h1>", '<img src="http://127.0.0.1:9/a.png"><h1>')
    copy.write_text(with_script(text, ZOOM), "utf-8")
    dom, _ = browse(copy, "--dump-dom")
    assert "127.0.0.1:9/a.png" in re.search(r'data-seen="([^"]*)"', dom)[1]


def test_the_browser_runs_no_script_but_the_pages_own(page, browse):
    """Names come from a database that anyone may have typed into; escaping is the first wall."""
    copy = page.with_name("injected.html")
    copy.write_text(page.read_text("utf-8").replace("</body>", ZOOM), "utf-8")
    dom, log = browse(copy, "--dump-dom")
    assert "data-seen" not in dom.split("<script>")[0]
    assert "Content Security Policy" in log


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
