"""Places of transmitters in annotations, which may become labels."""

import json

import pytest
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.sigmf_emitter import ESTIMATE_KEY, emitters_in, known_places
from hypothesis import given
from hypothesis import strategies as st

places = st.tuples(st.floats(-90, 90), st.floats(-180, 180))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=3,
)
keys = st.sampled_from(["signal:emitter", "spatial:emitter_location", "geolocation", "label"])


def point(latitude_deg, longitude_deg, kind="Point"):
    """A place as GeoJSON."""
    return {"type": kind, "coordinates": [longitude_deg, latitude_deg]}


def found(*annotations):
    """The transmitters of a recording `a` with these annotations."""
    meta = {"global": {}, "captures": [], "annotations": [*annotations]}
    return emitters_in(json.dumps(meta).encode(), "a")


@given(places, places, st.sampled_from(["Point", "point"]))
def test_the_emitter_itself_comes_before_a_location_of_the_emission(emitter, measured, kind):
    """The extension `spatial` allows results of direction finding there, which may be far off."""
    (one,) = found({
        "signal:emitter": {"label": "B", "geolocation": point(*emitter, kind)},
        "spatial:emitter_location": point(*measured),
    })  # fmt: skip
    assert (one.position_deg, one.label, one.where) == (
        emitter,
        "B",
        "a, annotation 1, signal:emitter",
    )
    other, here = found(
        {"core:geolocation": point(*emitter)},
        {"spatial:emitter_location": point(*measured)},
        {"signal:emitter": {"geolocation": point(*emitter)}},
    )
    assert other.where == "a, annotation 2, spatial:emitter_location"
    assert (other.position_deg, here.position_deg) == (measured, emitter)


def test_the_name_of_the_source_chooses_and_estimates_are_never_known():
    """A wide recording has several transmitters; a model must not learn from its own answers."""
    emitters = found(
        {"signal:emitter": {"label": "One", "geolocation": point(1, 1)}},
        {"signal:emitter": {"label": "Two", "geolocation": point(2, 2)}},
        {"spatial:emitter_location": point(3, 3), ESTIMATE_KEY: {}},
    )
    assert [one.position_deg for one in known_places(emitters, "two")] == [(2, 2)]
    assert [one.position_deg for one in known_places(emitters, "Beacon")] == [(1, 1), (2, 2)]
    assert known_places(emitters[2:], "Beacon") == []
    assert emitters_in(b'{"global": {}, "captures": []}', "a") == ()


@given(st.dictionaries(keys, json_values | st.dictionaries(keys, json_values)) | json_values)
def test_any_annotation_gives_a_place_or_an_error_with_its_number(annotation):
    """Other programs write them."""
    try:
        for one in found({}, annotation):
            assert one.where.startswith("a, annotation 2")
    except RecordingError as error:
        assert str(error).startswith("a, annotation 2: ")  # noqa: PT017


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ({"type": "Polygon"}, "signal:emitter is a 'Polygon'"),
        (point(8, 245), "signal:emitter is latitude 8.0, longitude 245.0"),
        ({"type": "Point"}, "no 'coordinates'"),
        *(
            (
                {"type": "Point", "coordinates": wrong},
                "signal:emitter has the coordinates .*, not lon",
            )
            for wrong in ("845", [True, False], ["8", "45"], [8], [8, 45, 0, 0], {"8": 0, "45": 0})
        ),
        (point(45, 10**400), "int too large"),
        ({"type": "Point", "coordinates": [8, 45, 10**400]}, "int too large"),
        (
            {"type": "Point", "coordinates": [8, 45, float("inf")]},
            "signal:emitter has the altitude",
        ),
    ],
)
def test_a_place_that_is_none_is_told_with_its_value(place, value):
    """It would be a wrong label, or be missing without a word."""
    with pytest.raises(RecordingError, match=f"a, annotation 1: {value}"):
        found({"signal:emitter": {"geolocation": place}})
