"""The sessions as CSV, GeoJSON and KML: everything is there, and names stay names."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from heimdall_evaluation.report.files import session_files
from heimdall_export.serving.metadata import Receiver
from heimdall_features.names import is_printable, shown
from heimdall_features.testing import hostile_names
from hypothesis import example, given
from hypothesis import strategies as st

KML = "{http://www.opengis.net/kml/2.2}"
SIGNS = "=+-@" + "".join(chr(ord(sign) + 0xFEE0) for sign in "=+-@")  # and full-width
FORMULAS = st.sampled_from(SIGNS).flatmap(lambda sign: st.text().map(lambda rest: sign + rest))


def rows_of(text):
    """The rows of a CSV file by the names of their columns."""
    return [*csv.DictReader(io.StringIO(text, newline=""))]


def test_the_csv_has_every_session_to_the_digit(contents):
    """Whoever works out other figures than ours starts from it."""
    e = contents.evaluation
    rows = rows_of(session_files(contents)["csv"])
    assert [row["session"] for row in rows] == [*e.session_ids]
    for names, values in {
        ("truth_latitude_deg", "truth_longitude_deg"): e.truth_deg,
        ("latitude_deg", "longitude_deg"): e.position_deg,
        ("sigma_east_m", "sigma_north_m"): e.sigma_m,
        ("error_m",): e.error_m[:, None],
        ("nll",): e.scores().nll[:, None],
    }.items():
        assert [[float(row[name]) for name in names] for row in rows] == values.tolist()
    for level in ("68", "95"):
        share = np.mean([row[f"inside_{level}"] == "True" for row in rows])
        assert share == e.metrics()[f"coverage_{level}"]
    assert {row["trained_on"] for row in rows} == {""}


def test_an_ellipse_without_tilt_has_the_axes_of_its_sigmas(contents):
    """Worked by hand: 95 % are within 2.4477 sigmas along each axis."""
    for row in rows_of(session_files(contents)["csv"]):
        axes = sorted(2.447747 * float(row[f"sigma_{axis}_m"]) for axis in ("east", "north"))
        assert [float(row[f"semi_{axis}_95_m"]) for axis in ("minor", "major")] == pytest.approx(
            axes, rel=1e-6
        )


def named(few, name):
    """Three sessions and a receiver, all of that name."""
    evaluation = replace(few.evaluation, session_ids=(name,) * 3, source_names=(name,) * 3)
    return replace(few, evaluation=evaluation, receivers=(Receiver(name, 45.0, 8.0),), title=name)


@given(name=hostile_names() | st.text() | FORMULAS)
@example(name='=HYPERLINK("http://x","y")')
@example(name=" \t=1+1")
@example(name="\N{FULLWIDTH EQUALS SIGN}1+1")
@example(name="</Placemark><script>")
def test_a_name_is_a_name_in_every_file(few, name):
    """Names are typed in by anyone; a spreadsheet would run `=…`, and markup would end a file."""
    files = session_files(named(few, name))
    assert all(map(is_printable, "".join(files.values()).replace("\r\n", "\n").split("\n")))
    for row in rows_of(files["csv"]):
        for cell in (row["session"], row["transmitter"]):
            assert not cell.strip().startswith(tuple(SIGNS))
            assert cell in (shown(name), f"'{shown(name)}")
    features = json.loads(files["geojson"])["features"]
    assert {feature["properties"]["name"] for feature in features} == {shown(name)}
    document = ElementTree.fromstring(files["kml"]).find(f"{KML}Document")
    assert (document.findtext(f"{KML}name") or "") == shown(name)
    marks = document.findall(f".//{KML}Placemark")
    assert {mark.findtext(f"{KML}name") or "" for mark in marks} == {shown(name), "95 %"}


def test_a_map_has_truth_estimate_and_ellipse_of_every_session(few):
    """Each can be shown or hidden by its kind."""
    features = json.loads(session_files(few)["geojson"])["features"]
    kinds = [feature["properties"]["kind"] for feature in features]
    assert kinds == ["truth", "estimate", "ellipse"] * 3 + ["receiver"] * 3
    for feature, truth_deg in zip(features[::3], few.evaluation.truth_deg, strict=False):
        assert feature["geometry"]["coordinates"] == truth_deg[::-1].tolist()


def test_an_ellipse_across_the_antimeridian_is_cut_there(few):
    """Uncut, a map draws it around the whole Earth."""
    beyond = np.array([[0.0, 179.999]] * 3)
    evaluation = replace(few.evaluation, position_deg=beyond, truth_deg=beyond)
    files = session_files(replace(few, evaluation=evaluation))
    geometry = json.loads(files["geojson"])["features"][2]["geometry"]
    assert geometry["type"] == "MultiPolygon"
    rings = [np.array(part[0]) for part in geometry["coordinates"]]
    assert [np.ptp(ring[:, 0]) < 1 for ring in rings] == [True, True]
    assert len(ElementTree.fromstring(files["kml"]).findall(f".//{KML}Polygon")) == 6
