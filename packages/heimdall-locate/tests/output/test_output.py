"""A position as files of other programs."""

import dataclasses
import json
import os
import re
from datetime import UTC, datetime, timedelta, timezone
from xml.etree import ElementTree

import numpy as np
import pytest
from heimdall_features.names import composed, is_printable, shown
from heimdall_features.testing import hostile_names
from heimdall_locate import (
    Candidate,
    LocateError,
    ReceiverResult,
    Site,
    cot,
    from_gaussians,
    geojson,
    kml,
    sigmf,
    write_position,
)
from heimdall_locate.summary import summary
from hypothesis import given, settings
from hypothesis import strategies as st

KML = "{http://www.opengis.net/kml/2.2}"
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
NAMES = ("position.json", "position.geojson", "position.kml", "position.cot.xml", "map.html")


def named(name):
    """A position heard by one receiver of that name, and its site."""
    position = from_gaussians([Candidate(1.0, 1.0, 2.0, ((1e6, 0.0), (0.0, 1e6)))])
    result = ReceiverResult(name, used=True, reason=name)
    position = dataclasses.replace(position, receivers=(result,), termination=name)
    return position, [Site(name, 1.0, 2.1)]


@given(st.text(st.characters()) | hostile_names())
def test_any_name_survives_in_every_format(name):
    """Operators name receivers as they like: &, <, quotes, emoji; control characters are escaped.

    Raw, they would make the file unreadable as a whole, or its name in a map another one.
    """
    position, sites = named(name)
    features = json.loads(json.dumps(geojson(position, sites)))["features"]
    assert features[-1]["properties"]["name"] == shown(composed(name))
    marks = ElementTree.fromstring(kml(position, sites)).findall(f".//{KML}Placemark")
    assert (marks[-1].findtext(f"{KML}name") or "") == shown(composed(name))
    remarks = ElementTree.fromstring(cot(position, NOON)).findtext("detail/remarks")
    assert remarks.removesuffix(shown(name)).rstrip().endswith(".")


@settings(max_examples=25)
@given(name=hostile_names())
def test_no_file_and_no_line_has_a_raw_control_character(name, tmp_path_factory):
    """Files are opened in terminals, and text may run backwards; programs still get the name."""
    position, sites = named(name)
    folder = tmp_path_factory.mktemp("out")
    for path in write_position(position, sites, folder, time=NOON):
        text = path.read_text("utf-8")
        if path.suffix == ".html":  # the coasts are data, of any characters
            text = re.sub(r'id="world">.*?</script>', "", text, flags=re.DOTALL)
        assert all(map(is_printable, text.split("\n"))), path
    kept = json.loads((folder / "position.json").read_text("utf-8"))
    assert kept["receivers"][0]["name"] == name
    assert all(map(is_printable, summary(position).split("\n")))


@given(st.floats(-90, 90), st.floats(-180, 180), st.floats(1, 1e13))
def test_any_place_can_be_written(latitude, longitude, variance):
    """At the poles, on the antimeridian, and where nothing is known."""
    square = ((variance, 0.0), (0.0, 2 * variance))
    position = from_gaussians([Candidate(1.0, latitude, longitude, square)])
    first, *ellipses = geojson(position, [])["features"]
    assert first["geometry"]["coordinates"] == [longitude, latitude]
    assert [one["properties"]["probability"] for one in ellipses] == [0.68, 0.95]
    assert len(ElementTree.fromstring(kml(position, [])).findall(f".//{KML}LinearRing")) >= 2
    point = ElementTree.fromstring(cot(position, NOON)).find("point")
    assert float(point.get("lat")) == pytest.approx(latitude, abs=1e-6)


def test_geojson_tells_candidates_ellipses_and_receivers_apart(position, sites):
    """A map is styled by these properties."""
    found = [one["properties"] for one in geojson(position, sites)["features"]]
    kinds = [one["kind"] for one in found]
    assert kinds == ["candidate", "ellipse", "ellipse"] * 2 + ["receiver"] * 3
    assert found[0]["probability"] == pytest.approx(0.9)
    assert found[6] == {
        "kind": "receiver",
        "name": "DF0KL",
        "used": True,
        "reason": "",
        "residual_us": -1.0,
        "sigma_us": 2.0,
        "snr_db": 40.0,
    }


def test_kml_has_the_elements_that_readers_need(position, sites):
    """OGC 07-147r2: one Document; points and rings are longitude,latitude; styles exist."""
    root = ElementTree.fromstring(kml(position, sites))
    assert root.tag == f"{KML}kml"
    (document,) = root
    styles = {style.get("id") for style in document.findall(f"{KML}Style")}
    marks = document.findall(f".//{KML}Placemark")
    assert {mark.findtext(f"{KML}styleUrl").removeprefix("#") for mark in marks} <= styles
    longitude, latitude = marks[0].findtext(f"{KML}Point/{KML}coordinates").split(",")
    assert (float(latitude), float(longitude)) == pytest.approx((50.0152, 9.0112))
    for ring in document.findall(f".//{KML}outerBoundaryIs/{KML}LinearRing"):
        corners = ring.findtext(f"{KML}coordinates").split()
        assert corners[0] == corners[-1]
    assert marks[-1].findtext(f"{KML}name") == sites[-1].name


def test_cot_event_is_complete(position):
    """ATAK drops an event without any of these, and hides it once it is stale."""
    berlin = timezone(timedelta(hours=2))
    event = ElementTree.fromstring(cot(position, NOON.astimezone(berlin)))
    assert event.tag == "event"
    assert event.get("version") == "2.0"
    assert event.get("type") == "a-u-G"
    assert event.get("time") == event.get("start") == "2026-07-01T12:00:00.000Z"
    assert event.get("stale") == "2026-07-02T12:00:00.000Z"
    assert event.get("uid") == ElementTree.fromstring(cot(position, NOON)).get("uid")
    point = event.find("point")
    assert set(point.keys()) == {"lat", "lon", "hae", "ce", "le"}
    assert float(point.get("ce")) == pytest.approx(position.ellipse_95.semi_major_m, abs=0.1)
    assert "77.5" in event.find("detail/contact").get("callsign")
    assert "47.9" in event.findtext("detail/remarks"), "the second candidate"


PLAIN = {"global": {"core:datatype": "cf32_le"}, "captures": [], "annotations": []}
MINE = {"core:sample_start": 0, "core:label": "FM"}


def test_a_position_is_an_annotation_that_says_that_it_is_an_estimate(position):
    """Whoever labels recordings by their annotations must be able to leave it out."""
    theirs = {"core:sample_start": 9, "core:label": "FM"}
    extension = {"name": "spatial", "version": "1.1.0", "optional": False}
    given_meta = {
        "global": {"core:datatype": "cf32_le", "core:extensions": [extension]},
        "captures": [{"core:sample_start": 5}],
        "annotations": [theirs, {"core:sample_start": 5, "heimdall:estimate": {}}],
    }
    before = json.dumps(given_meta)
    found = sigmf(position, given_meta)
    assert json.dumps(given_meta) == before
    first, second, kept = found["annotations"]
    assert kept == theirs
    for one, candidate in zip((first, second), position.candidates, strict=True):
        place = [candidate.longitude_deg, candidate.latitude_deg]
        assert one["spatial:emitter_location"] == {"type": "Point", "coordinates": place}
        assert one["heimdall:estimate"]["probability"] == candidate.probability
        assert one["core:sample_start"] == 5
    names = [each["name"] for each in found["global"]["core:extensions"]]
    assert names == ["spatial", "heimdall"]
    assert sigmf(position, found) == found


def test_metadata_are_written_beside_and_never_over_other_files(position, sites, tmp_path):
    """A user's annotations exist once."""
    *_, path = write_position(position, sites, tmp_path, metadata={"A": PLAIN})
    assert path == tmp_path / "sigmf" / "A.sigmf-meta"
    assert write_position(position, sites, tmp_path, metadata={"A": PLAIN})[-1] == path
    path.write_text(json.dumps(PLAIN))
    with pytest.raises(LocateError, match=r"A\.sigmf-meta is there and holds no estimate"):
        write_position(position, sites, tmp_path, metadata={"A": PLAIN})
    assert json.loads(path.read_text()) == PLAIN


@pytest.mark.parametrize(
    ("annotations", "problem"),
    [
        ([{"core:comment": "see heimdall:estimate"}], "holds no estimate"),
        (["heimdall:estimate"], "holds no estimate"),
        (None, "is no SigMF metadata with an estimate"),
        ([MINE, {"heimdall:estimate": {}}], "has annotations that the recording lacks"),
    ],
)
def test_a_users_own_annotations_are_not_lost(position, sites, tmp_path, annotations, problem):
    """Text of theirs may name the key, and they may annotate an earlier answer further."""
    path = tmp_path / "sigmf" / "A.sigmf-meta"
    path.parent.mkdir()
    path.write_text(json.dumps({**PLAIN, "annotations": annotations}))
    before = path.read_bytes()
    with pytest.raises(LocateError, match=rf"A\.sigmf-meta is there and {problem}"):
        write_position(position, sites, tmp_path, metadata={"A": PLAIN})
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["sigmf"]


def test_a_pipe_in_the_place_of_metadata_is_not_waited_for(position, sites, tmp_path):
    """It may never end."""
    (tmp_path / "sigmf").mkdir()
    os.mkfifo(tmp_path / "sigmf" / "A.sigmf-meta")
    with pytest.raises(LocateError, match="is no SigMF metadata with an estimate"):
        write_position(position, sites, tmp_path, metadata={"A": PLAIN})


def test_a_name_as_long_as_a_system_allows_is_written(position, sites, tmp_path):
    """Temporary names beside it must not be longer."""
    name = "x" * (255 - len(".sigmf-meta"))
    *_, path = write_position(position, sites, tmp_path, metadata={name: PLAIN})
    assert path.is_file()


def test_an_earlier_answer_with_the_recordings_own_annotations_is_replaced(
    position, sites, tmp_path
):
    """Whatever the format makes of them: it has no number that is not finite."""
    theirs = [MINE, {**MINE, "core:label": "\ud800", "their:figure": float("nan")}]
    metadata = {"A": {**PLAIN, "annotations": theirs}}
    *_, path = write_position(position, sites, tmp_path, metadata=metadata)
    before = path.read_bytes()
    write_position(position, sites, tmp_path, metadata=metadata)
    assert path.read_bytes() == before


def nested(depth):
    """Lists in lists."""
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    "odd",
    [
        {"annotations": [["x"]]},
        {"annotations": ["x"]},
        {"annotations": 3},
        {"global": {"core:extensions": {"spatial": "1.0"}}},
        {"global": {"their:lists": nested(700)}},
        {"global": {"their:number": 10**5000}},
    ],
)
def test_odd_metadata_do_not_cost_the_answer(position, sites, tmp_path, odd):
    """Other programs write them, and the position is right nevertheless."""
    told = []
    metadata = {"A": {**PLAIN, **odd}, "B": {**PLAIN, "annotations": None}}
    paths = write_position(position, sites, tmp_path, metadata=metadata, warn=told.append)
    assert [path.name for path in paths] == [*NAMES, "B.sigmf-meta"]
    assert all(path.is_file() for path in paths)
    (sentence,) = told
    assert sentence.startswith("A: its SigMF metadata are not written with the position")


def test_a_path_that_no_system_can_have_is_an_error_of_ours(position, sites):
    """Callers catch `LocateError`."""
    with pytest.raises(LocateError, match=r"cannot write 'a\\x00b': embedded null"):
        write_position(position, sites, "a\0b")


def test_all_files_are_written_and_nothing_else(position, sites, tmp_path):
    """The contract names them."""
    paths = write_position(position, sites, tmp_path / "new" / "folder", time=NOON)
    assert tuple(path.name for path in paths) == NAMES
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(NAMES)
    assert json.loads(paths[0].read_text("utf-8")) == json.loads(json.dumps(position.to_dict()))


def test_unknown_figures_are_null_not_nan(position, sites, tmp_path):
    """NaN is not JSON: every other reader would refuse the whole file."""
    odd = dataclasses.replace(position.receivers[0], residual_us=float("nan"), snr_db=np.inf)
    position = dataclasses.replace(position, receivers=(odd, *position.receivers[1:]))
    for path in write_position(position, sites, tmp_path)[:2]:
        text = path.read_text("utf-8")
        json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_a_file_that_cannot_be_written_is_named(position, sites, tmp_path):
    """The user must learn which, and no rest of it may lie about."""
    (tmp_path / "position.kml").mkdir()
    with pytest.raises(LocateError, match=r"position\.kml"):
        write_position(position, sites, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_folder_that_cannot_be_made_is_named(position, sites, tmp_path):
    """Such as a file of that name."""
    (tmp_path / "taken").write_text("x")
    with pytest.raises(LocateError, match="taken"):
        write_position(position, sites, tmp_path / "taken")
