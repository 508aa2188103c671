"""The map in a real browser: it must look right and follow hands, not only parse."""

import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest
from heimdall_locate import map_html
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=3000"),
)
PROBE = """<script>
const seen = {}, target = document.querySelector("canvas");
target.setPointerCapture = () => {};
const inside = (v) => {
  const [x, y] = at(v);
  return x > 0 && y > 0 && x < view.width && y < view.height;
};
const press = (key) => document.querySelector(`.tools [data-key="${key}"]`).click();
const send = (kind, type, x, y, more) => {
  const box = target.getBoundingClientRect();
  const place = { clientX: box.left + x, clientY: box.top + y };
  target.dispatchEvent(new kind(type, { ...place, pointerId: 1, cancelable: true, ...more }));
};
const moved = (before, now) => now.map((one, k) => one - before[k]);
seen.whole = [...receivers.map((one) => one.at),
  ...candidates.flatMap((one) => one.outlines[1])].every(inside);
seen.scale = view.scale;
press("+"); press("+");
seen.zoomed = view.scale;
const before = view.centre;
frame.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
seen.moved = view.centre[1] - before[1];
const [x, y] = [view.width / 3, view.height / 3], fixed = degrees(under(x, y));
send(WheelEvent, "wheel", x, y, { deltaY: -100 });
seen.fixed = moved([x, y], at(vector(fixed)));
const held = degrees(under(x, y));
send(PointerEvent, "pointerdown", x, y);
send(PointerEvent, "pointermove", x + 60, y - 30);
send(PointerEvent, "pointerup", x + 60, y - 30);
seen.dragged = moved(held, degrees(under(x + 60, y - 30)));
press("c"); paint();
send(PointerEvent, "pointermove", ...at(candidates[0].at));
seen.pointer = pointer.textContent;
seen.note = note.textContent;
seen.bar = bar.textContent;
byId("all-pairs").click();
// How near each hyperbola passes to the candidate, and the worst error of its time difference.
const first = candidates[0].at;
const difference = (v, a, b) => angleBetween(v, a.at) - angleBetween(v, b.at);
seen.pairs = pairs.map(({ a, b, line, shown }) => {
  const wanted = difference(first, a, b)
    + (a.residual_us - b.residual_us) * LIGHT_M_PER_US / EARTH_M;
  return [shown, EARTH_M * Math.min(...line.map((v) => angleBetween(v, first))),
    EARTH_M * Math.max(...line.map((v) => Math.abs(difference(v, a, b) - wanted)))];
});
zoomBy(1e-9); paint();
seen.world = view.scale * 2 * Math.PI <= Math.min(view.width, view.height);
moveTo([89.99, 0], 1e4); paint(); moveTo([0, 180], 1e9); paint(); press("0"); paint();
seen.title = document.title;
seen.scripts = document.scripts.length;
seen.page = document.documentElement.scrollWidth;
seen.window = innerWidth;
seen.small = [...document.querySelectorAll("button")]
  .filter((one) => one.offsetHeight && one.offsetHeight < 24).length;
seen.fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
if (parent === window) document.body.dataset.seen = JSON.stringify(seen);
else parent.postMessage(JSON.stringify(seen), "*");
</script></body>"""
WINDOW = """<body style="margin:0"><script>
addEventListener("message", (event) => { document.body.dataset.seen = event.data; });
</script><iframe src="probed.html" style="border:0;width:400px;height:3000px"></iframe>"""
"""A frame may be as narrow as a phone; a window of the browser may not."""


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Runs chromium on a file, and gives what it wrote to each stream."""
    profile = tmp_path_factory.mktemp("profile")

    def run(page, *flags):
        done = subprocess.run(
            [
                *(CHROMIUM, *QUIET, f"--user-data-dir={profile}", "--window-size=1280,1000"),
                *(*flags, page.as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout, done.stderr

    return run


@pytest.fixture(scope="module")
def page(position, sites, tmp_path_factory):
    """The page of a position."""
    path = tmp_path_factory.mktemp("page") / "map.html"
    path.write_text(map_html(position, sites), "utf-8")
    return path


@pytest.fixture(scope="module")
def seen(page, browse):
    """What a script in a copy of the page measures, on a desk and on a phone."""
    copy = page.with_name("probed.html")
    # The page's policy would not let the script run.
    free = page.read_text("utf-8").replace('http-equiv="Content-Security-Policy"', 'name="policy"')
    copy.write_text(free.replace("</body>", PROBE), "utf-8")
    window = page.with_name("window.html")
    window.write_text(WINDOW, "utf-8")
    found = {}
    for place, opened in (("desk", copy), ("phone", window)):
        dom, log = browse(opened, "--dump-dom")
        assert "CONSOLE" not in log, log
        found[place] = json.loads(unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
    return found


def test_the_map_follows_buttons_keys_wheel_and_pointer(seen):
    """Each of them is somebody's only way."""
    seen = seen["desk"]
    assert seen["whole"], "receivers and the 95 % region are in the first view"
    assert seen["zoomed"] == pytest.approx(1.6**2 * seen["scale"])
    assert seen["moved"] > 0
    # A wheel turns at a whole pixel of the window.
    assert seen["fixed"] == pytest.approx([0, 0], abs=1)
    assert seen["dragged"] == pytest.approx([0, 0], abs=0.05)
    assert seen["pointer"].startswith("50.01")
    assert "Candidate 1" in seen["note"]
    assert re.fullmatch(r"\d+ k?m", seen["bar"])
    assert seen["world"]
    assert seen["fetched"] == []


def test_hyperbolas_have_the_measured_time_difference(seen):
    """Residuals shift them off the candidate by 300 m a microsecond or so, and no more."""
    seen = seen["desk"]
    assert len(seen["pairs"]) == 3
    for shown, away_m, error_m in seen["pairs"]:
        assert shown
        assert 50 < away_m < 2_000
        assert error_m < 1


def test_a_hostile_name_does_nothing(seen):
    """A receiver may be called `</script><script>…`."""
    seen = seen["desk"]
    assert seen["title"] == "Transmitter on 77.5\N{NO-BREAK SPACE}kHz"
    assert seen["scripts"] == 4, "three of the page, one of this test"


def test_the_page_fits_a_phone(seen):
    """It is read beside the antenna: no sideways scrolling, and buttons for fingers."""
    seen = seen["phone"]
    assert seen["page"] <= seen["window"] == 400
    assert seen["small"] == 0
    assert seen["whole"]


def test_the_browser_runs_no_script_but_the_pages_own(page, browse):
    """Escaping is the first wall, the page's policy the second."""
    copy = page.with_name("injected.html")
    copy.write_text(page.read_text("utf-8").replace("</body>", PROBE), "utf-8")
    dom, log = browse(copy, "--dump-dom")
    assert "data-seen" not in dom.split("<script>")[0]
    assert "Content Security Policy" in log


@pytest.mark.parametrize(
    ("scheme", "paper", "answer", "land"),
    [
        (1, (255,) * 3, (0x24, 0x57, 0xD6), (0xFB, 0xFA, 0xF7)),
        (0, (0x12, 0x15, 0x1B), (0x7A, 0xA5, 0xFF), (0x22, 0x28, 0x31)),
    ],
)
def test_the_picture_has_the_colours_of_the_scheme(page, browse, scheme, paper, answer, land):
    """An empty canvas would pass every other test."""
    picture = page.with_suffix(".png")
    browse(page, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    assert tuple(pixels[0]) == paper
    assert (pixels == answer).all(axis=1).sum() > 100
    assert (pixels == land).all(axis=1).sum() > 100_000
