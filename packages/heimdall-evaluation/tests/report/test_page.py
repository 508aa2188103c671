"""The page as a file: complete, alone, escaped, whole and the same every time."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from heimdall_evaluation.errors import ReportError
from heimdall_evaluation.report import render_report
from heimdall_evaluation.report.charts import distance_axis
from heimdall_evaluation.results import SessionSpectrograms
from heimdall_export.serving.metadata import Receiver
from heimdall_features.names import is_printable, shown
from heimdall_features.testing import hostile_names
from heimdall_models.training.curves import LearningCurve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

TAGS = re.compile(r"<(\w+)[\s>]")
HOSTILE = "<script>alert('x')</script>\"&$\\frac{1}{0}$\x1b[2J\r\x07\u202e\uffff\udc80"


class Loads(HTMLParser):
    """What a browser would fetch for the page, and which scripts it would run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        """Called by the parser for every opening tag."""
        self.scripts += tag == "script" or any(name.startswith("on") for name, _ in attrs)
        self.addresses += [
            value
            for name, value in attrs
            if name in ("src", "href", "srcset", "data", "action", "poster") and value
        ]


def text_of(page: str) -> str:
    """What a reader sees, with plain spaces."""
    unseen = r"<style>.*?</style>|<script.*?</script>|<svg.*?</svg>"
    body = re.sub(unseen, " ", page, flags=re.S)
    words = unescape(re.sub(r"<[^>]+>", " ", body)).replace("\N{NO-BREAK SPACE}", " ")
    return re.sub(r"\s+", " ", words)


@pytest.fixture(scope="module")
def whole(contents, tmp_path_factory):
    """The page of the whole run, which many tests look at."""
    path = tmp_path_factory.mktemp("whole") / "report.html"
    return render_report(contents, path).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plain_tags(few, tmp_path_factory):
    """What elements a page of three sessions has, where no name holds markup."""
    contents = replace(few, receivers=(Receiver("Torino", 45.0, 8.0),), command="x")
    path = tmp_path_factory.mktemp("plain") / "report.html"
    return TAGS.findall(render_report(contents, path).read_text(encoding="utf-8"))


@pytest.fixture
def page_of(tmp_path, request, whole):
    """Renders contents and gives the page's text."""
    known = request.getfixturevalue("contents")

    def render(contents) -> str:
        if contents is known:
            return whole
        return render_report(contents, tmp_path / "report.html").read_text(encoding="utf-8")

    return render


@given(name=st.text(st.characters(), min_size=1, max_size=30) | hostile_names())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_no_name_can_put_markup_on_the_page(name, contents_of, page_of, plain_tags):
    """Station and source names come from a database that anyone may have typed into."""
    page = page_of(contents_of(3, receivers=(Receiver(name, 45.0, 8.0),), command=name))
    assert TAGS.findall(page) == plain_tags
    assert all(map(is_printable, page.split("\n")))


def test_hostile_names_are_shown_and_not_run(contents_of, page_of):
    """A script in any of the texts would run in the browser of whoever opens the report."""
    contents = contents_of(6)
    n = len(contents.evaluation)
    page = page_of(
        replace(
            contents,
            title=HOSTILE,
            command=HOSTILE,
            versions={HOSTILE: HOSTILE},
            receivers=(Receiver(HOSTILE, 45.0, 8.0),),
            evaluation=replace(
                contents.evaluation, session_ids=(HOSTILE,) * n, source_names=(HOSTILE,) * n
            ),
            baselines=tuple(
                replace(b, name=HOSTILE, explanation=HOSTILE) for b in contents.baselines
            ),
            excluded=((HOSTILE, HOSTILE),),
            rejected_counts={HOSTILE: 1},
            split_report={HOSTILE: {HOSTILE: HOSTILE}},
            timings={HOSTILE: 1.0},
        )
    )
    # The page's own, its data, and three files.
    assert Loads(page).scripts == Loads(page_of(contents_of(6))).scripts == 5
    assert shown(HOSTILE) in text_of(page)
    assert all(map(is_printable, page.split("\n")))


def test_the_page_needs_nothing_but_itself(contents, page_of):
    """It is opened from a disk, from an artifact store and behind firewalls."""
    page = page_of(contents)
    outside = [a for a in Loads(page).addresses if not a.startswith(("#", "data:"))]
    assert outside == []
    assert not re.search(r"https?://|@import|url\((?!#)", page)


def test_the_probe_for_loads_can_find_one():
    """The test above can fail: an image from elsewhere is seen."""
    assert Loads("<img src=https://example.org/a.png>").addresses == ["https://example.org/a.png"]


@pytest.mark.parametrize("n", [0, 90])
def test_links_lead_somewhere_and_ids_are_unique(n, contents_of, page_of):
    """Two figures that share an id would clip and mark each other's lines."""
    page = page_of(contents_of(n))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert {a[1:] for a in Loads(page).addresses if a.startswith("#")} <= set(ids)
    assert len(ids) == len(set(ids))


def test_every_section_is_there(contents, page_of):
    """People look at the report instead of the logs, so nothing may be missing."""
    sections = " ".join(re.findall(r'<section id="section-(\w+)">', page_of(contents)))
    assert sections == (
        "baselines map errors calibration conditions worst training data provenance"
    )
    figures = " ".join(re.findall(r'<svg[^>]* id="([^"]+)" class="figure"', page_of(contents)))
    assert figures == (
        "map-wide map-narrow closeups-wide closeups-narrow errors coverage sigma pit snr distance "
        "receivers loss error-by-epoch"
    )


def test_the_one_script_that_may_run_is_the_pages_own(contents, page_of):
    """Should an escape be forgotten, the browser still runs nothing that came with the data."""
    page = page_of(contents)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in unescape(policy)
    assert f"script-src 'sha256-{digest}'" in unescape(policy)


def test_every_training_of_a_run_has_its_curves(contents_of, page_of):
    """Of an ensemble, one member may have gone astray while the others did not."""
    history = contents_of(3).history
    unmeasured = tuple(replace(e, val_error_m_median=np.nan) for e in history)
    curves = (
        LearningCurve(name="member 2, seed 9", history=history),
        LearningCurve(name="arrival times", history=unmeasured),
    )
    page = page_of(contents_of(3, more_curves=curves))
    ids = re.findall(r'id="((?:loss|error-by-epoch)[^"]*)"', page)
    assert ids == ["loss", "error-by-epoch", "loss-1", "error-by-epoch-1", "loss-2"]
    assert "member 2, seed 9" in text_of(page)


def test_the_worst_sessions_are_shown_as_the_network_saw_them(contents_of, page_of):
    """A receiver that heard nothing, or something else, is seen at once and in no table."""
    contents = contents_of(6)
    levels = np.full((2, 128, 32), -120, dtype=np.float32)
    levels[:, 60:68] = -60
    shown = SessionSpectrograms(
        session_id=contents.evaluation.session_ids[3],
        receivers=("Torino", HOSTILE),
        levels_db=levels,
        heard=(True, False),
    )
    page = page_of(replace(contents, spectrograms=(shown,)))
    assert "1 of 2 receivers" in text_of(page)
    (source,) = re.findall(r'<img src="data:image/png;base64,([^"]*)"', page)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
    assert pixels.shape == (128, 2 * 33, 4)
    bright, dark, unheard = pixels[64, 10], pixels[0, 10], pixels[64, 40]
    assert bright[:3].sum() > dark[:3].sum() + 200
    assert len(set(unheard[:3].tolist())) == 1


@pytest.mark.parametrize(
    ("n_least", "n_largest", "said"),
    [
        (0, 0, "None of 90 sessions has a sigma at either bound"),
        (9, 18, "9 of 90 sessions have a sigma at the least (10 %) and 18 at the largest (20 %)"),
    ],
)
def test_sigmas_at_their_bounds_are_counted(n_least, n_largest, said, contents_of, page_of):
    """Such a sigma is what the bounds allow, not what the network found."""
    contents = contents_of()
    sigma = contents.evaluation.sigma_m.copy()
    sigma[:n_least, 0], sigma[n_least : n_least + n_largest, 1] = 100.0, 999_000.0
    # Arrival times may put a sigma below the least bound.
    sigma[-1] = 20.0
    contents = replace(
        contents,
        evaluation=replace(contents.evaluation, sigma_m=sigma),
        model=replace(contents.model, sigma_bounds_m=(100.0, 1_000_000.0)),
    )
    assert said in text_of(page_of(contents))


def test_sessions_that_training_saw_are_not_called_held_out(contents_of, page_of):
    """Errors on training sessions are too small, and the page must say which they are."""
    contents = contents_of(6)
    evaluation = replace(contents.evaluation, part="train")
    text = text_of(page_of(replace(contents, evaluation=evaluation)))
    assert "Half of the 6 training sessions" in text
    assert "held-out" not in text
    assert "not trained on" not in text


def test_the_numbers_in_the_text_are_the_computed_ones(contents, page_of):
    """A reader must be able to believe the sentences without reading the figures."""
    text = text_of(page_of(contents))
    error_km = contents.evaluation.error_m / 1000
    sessions = "Half of the 90 held-out sessions of 30 transmitters are placed"
    assert f"{sessions} within {np.median(error_km):.1f} km of the truth" in text
    assert f"95 % are within {np.percentile(error_km, 95):.1f} km" in text
    for baseline in contents.baselines:
        ratio = np.median(error_km) / np.median(baseline.error_m / 1000)
        assert f"Its median error is {np.median(baseline.error_m) / 1000:.1f} km" in text
        assert f"the network's is {ratio:.2f} times that" in text
    worst = np.argsort(-contents.evaluation.error_m)[:10]
    places = [text.index(contents.evaluation.session_ids[k]) for k in worst]
    assert places == sorted(places)


def test_what_made_the_report_is_on_it(contents, page_of):
    """Someone else must be able to run it again."""
    text = text_of(page_of(contents))
    for words in ("heimdall demo --seed 42", "Seed 42", "torch 2.14.1", "Time: 3 min 36 s"):
        assert words in text
    for words in ("41 pending approval", "file ends 1024 bytes early", "sites.train 180"):
        assert words in text


def test_the_same_contents_give_the_same_bytes(contents, tmp_path):
    """A report can then be compared and cached by its hash."""
    first = render_report(contents, tmp_path / "first.html").read_bytes()
    assert render_report(contents, tmp_path / "second.html").read_bytes() == first


def test_a_network_that_is_not_better_is_called_so(contents_of, page_of):
    """The page is used to decide what goes into production."""
    text = text_of(page_of(contents_of(90, honesty=4.0)))
    assert "The network is worse than this baseline." in text
    assert "the network is surer than it should be" in text


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_few_sessions_make_a_page(n, contents_of, page_of):
    """Trying things out on three recordings is how people begin."""
    text = text_of(page_of(contents_of(n)))
    assert ("cannot tell" in text) == (n < 4)
    assert f"The worst {n} session" in text


def test_a_page_without_history_baselines_or_snr_says_so(contents_of, page_of):
    """An evaluation of someone else's model knows none of these."""
    contents = contents_of(9, history=(), baselines=(), metrics={}, timings={}, excluded=())
    text = text_of(page_of(replace(contents, evaluation=replace(contents.evaluation, snr_db=None))))
    assert "this model was not trained in this run" in text
    assert "No baseline was given" in text
    assert "The catalogue holds no signal-to-noise ratio" in text
    assert "No session was excluded" in text


def test_a_history_of_nan_makes_a_page(contents_of, page_of):
    """A diverged run is looked at, too."""
    history = tuple(
        replace(e, val_loss=np.nan, val_error_m_median=np.nan) for e in contents_of(3).history
    )
    assert "none has a finite validation loss" in text_of(page_of(contents_of(3, history=history)))


def test_an_estimate_on_the_other_side_of_the_earth_is_reported(contents_of, page_of):
    """One absurd answer must neither break the map nor shrink the rest to a dot."""
    contents = contents_of(30)
    position = contents.evaluation.position_deg.copy()
    position[0] = -45, -172
    error = contents.evaluation.error_m.copy()
    error[0] = 2e7
    evaluation = replace(contents.evaluation, position_deg=position, error_m=error)
    text = text_of(page_of(replace(contents, evaluation=evaluation)))
    assert "1 estimate fell outside the picture" in text
    assert "20,000 km" in text


@pytest.mark.parametrize("name", ["folder", "file/report.html"])
def test_a_place_that_cannot_be_written_is_named(name, contents_of, tmp_path):
    """The run is over by then: the error must name the path, and nothing may be left there."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=rf"cannot write .*{name}: "):
        render_report(contents_of(3), tmp_path / name)
    assert {path.name for path in tmp_path.rglob("*")} == {"folder", "file"}


def test_nothing_evaluated_still_says_why(contents_of, page_of):
    """The run that excluded everything needs its reasons most.

    Python hands over undecodable arguments as lone surrogates, which no file can hold.
    """
    text = text_of(page_of(contents_of(0, baselines=(), command="demo \udcff")))
    for words in ("No session was evaluated.", "file ends 1024 bytes early", r"demo \udcff"):
        assert words in text


def test_no_two_methods_look_alike(contents_of, page_of):
    """A model of times stands beside seven; two grey lines would be one method."""
    contents = contents_of(9)
    seven = tuple(replace(contents.baselines[0], name=f"method {k}") for k in range(7))
    page = page_of(replace(contents, baselines=seven))
    key = re.findall(r'stroke="var\(--(baseline-\d)\)"[^>]*stroke-dasharray="([^"]*)"', page)
    assert len({colour for colour, _ in key}) == len({dashes for _, dashes in key}) == 7
    for colour, _ in key:
        assert len(re.findall(rf"--{colour}: #", page)) == 2


def test_a_method_a_thousand_times_better_is_wholly_on_the_picture(contents_of):
    """Times place within metres what levels place within kilometres."""
    figure = Figure()
    axes = figure.add_subplot()
    errors = np.geomspace(6, 95_000, 50)
    distance_axis(axes, errors, "x")
    low, high = axes.get_xlim()
    assert low < errors.min() < errors.max() < high
