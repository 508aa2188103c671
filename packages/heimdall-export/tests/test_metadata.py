"""Metadata of model files: formats of every age open, newer ones say which version opens them."""

import itertools
import json
import lzma
import unicodedata
from pathlib import Path

import numpy as np
import onnx
import pytest
from heimdall_export import ExportError, Predictor
from heimdall_export.contract import METADATA_KEYS
from heimdall_export.model_files import require_small_metadata
from heimdall_export.serving.metadata import (
    FORMAT,
    FORMAT_KEY,
    Receiver,
    migrated,
    receivers_of,
    region_of,
    require_metadata,
)
from heimdall_export.session import open_session
from heimdall_features import (
    ArrivalConfig,
    ArrivalExtractor,
    FeatureConfig,
    FeatureError,
    FeatureExtractor,
)
from heimdall_features.names import composed
from heimdall_locate import Calibration, LocateError
from hypothesis import assume, given
from hypothesis import strategies as st

GOLDEN = sorted((Path(__file__).parent / "golden").glob("v*/*.onnx.xz"))
OTHER_TIMES = [path for path in GOLDEN if "timing" in path.name and path.parent.name == "v1"]
"""Trained on times of arrival of algorithm version 1, whose sigmas were of noise alone."""
STEPS = [
    lambda entries, n=n: entries | {"seen": entries.get("seen", "") + f"{n} "} for n in range(5)
]
degrees = st.floats(-180, 180)


def features(n_receivers):
    """The input that `expected.json` describes."""
    count = 3 * n_receivers * 128 * 32
    x = -90 + 20 * np.sin(12.9898 * np.arange(count)).reshape(3, n_receivers, 128, 32)
    x[1, 0] = -140.0
    return x.astype(np.float32)


@pytest.mark.parametrize("path", OTHER_TIMES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_model_of_other_arrival_times_names_the_version_to_install(path):
    """Its network would read sigmas of another kind, and answer with the wrong certainty."""
    with pytest.raises(ExportError, match=r"arrivals .* version 2 .* heimdall-features 0\.1\.0"):
        Predictor(lzma.decompress(path.read_bytes()))


@pytest.mark.parametrize(
    "path",
    [path for path in GOLDEN if path not in OTHER_TIMES],
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_an_old_model_file_answers_as_it_did(path):
    """Models are in service for years; `apps/trainer/benchmarks/make_old_files.py` made these."""
    expected = json.loads((path.parent / "expected.json").read_text())
    expected = expected[path.name.partition(".")[0]]
    predictor = Predictor(lzma.decompress(path.read_bytes()))
    times = np.float32(expected["arrival_times"]) if "arrival_times" in expected else None
    found = predictor.predict_features(features(predictor.input_shape[0]), times)
    positions = [(one.latitude_deg, one.longitude_deg) for one in found]
    sigmas = [(one.sigma_east_m, one.sigma_north_m) for one in found]
    assert np.array(positions) == pytest.approx(np.array(expected["positions"]), abs=2e-5)
    assert np.array(sigmas) == pytest.approx(np.array(expected["uncertainties"]), rel=2e-3)
    for name in ("correlation", "unexplained"):
        if f"{name}s" in expected or name in expected:
            wanted = expected.get(f"{name}s", expected.get(name))
            assert [getattr(one, name) for one in found] == pytest.approx(wanted, abs=2e-3)


def test_there_are_old_files():
    """The test above tests nothing without them."""
    assert {path.name for path in GOLDEN} >= {"mel.onnx.xz", "mel+timing.onnx.xz"}


@given(number=st.integers(1, 6), written=st.booleans())
def test_each_step_from_a_files_format_on_is_taken_once_in_order(number, written):
    """A step that is left out, or taken twice, makes another model of the file."""
    assume(written or number == 1)
    entries = {FORMAT_KEY: str(number)} if written else {}
    found = migrated(entries, STEPS).get("seen", "")
    assert found.split() == [str(n) for n in range(number - 1, 5)]


@given(ahead=st.integers(1, 10**6), writer=st.sampled_from(["", ", heimdall-export 9.1.0"]))
def test_a_newer_file_is_refused_with_what_opens_it(ahead, writer):
    """Whoever has the file must learn what to install."""
    with pytest.raises(ExportError, match=f"format {FORMAT + ahead}, .*up to {FORMAT}") as refused:
        migrated({FORMAT_KEY: f"{FORMAT + ahead}{writer}"})
    assert (writer.removeprefix(", ") or "a newer heimdall-export") in str(refused.value)


@given(st.text())
def test_a_format_that_is_no_number_is_refused(text):
    """A damaged file must not pass for one of today."""
    number = text.partition(", ")[0]
    assume(not (number.isascii() and number.isdecimal()) or int(number) == 0)
    with pytest.raises(ExportError, match=FORMAT_KEY):
        migrated({FORMAT_KEY: text})


def test_a_request_may_spell_a_models_receiver_otherwise(onnx_path, recordings_of, tmp_path):
    """A model of names from a Mac's files is asked with names from a keyboard, and reverse."""
    model = onnx.load(onnx_path)
    spellings = [unicodedata.normalize(form, "Zürich") for form in ("NFD", "NFC")]
    recordings = recordings_of(1)
    expected = Predictor(onnx_path).predict(recordings)
    for own, other in itertools.permutations(spellings):
        names = ("Torino", own, "Milano-Baggio")
        config = FeatureConfig(receivers=names, sample_rate_hz=12_500.0)
        receivers = [{"name": name, "latitude": 45.0, "longitude": 8.0} for name in names]
        entries = {each.key: each.value for each in model.metadata_props} | {
            **FeatureExtractor(config).metadata(),
            "heimdall.receivers": json.dumps(receivers),
        }
        onnx.helper.set_model_props(model, entries)
        onnx.save(model, tmp_path / "model.onnx")
        asked = {other if name == "Genova" else name: r for name, r in recordings.items()}
        found = Predictor(tmp_path / "model.onnx").predict(asked)
        assert found.latitude_deg == expected.latitude_deg
        assert [each.name for each in found.receivers] == ["Torino", spellings[1], "Milano-Baggio"]


@given(st.dictionaries(st.text(), st.text()))
def test_a_file_of_todays_format_is_left_as_it_is(entries):
    """Its features' fingerprint is computed of what it says."""
    assume(FORMAT_KEY not in entries)
    assert migrated(entries) == entries


@given(
    st.lists(st.builds(Receiver, st.text().map(composed), degrees, degrees, st.floats(-400, 9000)))
)
def test_receivers_come_back_as_they_were_written(receivers):
    """Channels are by order, maps by position."""
    entries = [
        {
            "name": one.name,
            "latitude": one.latitude_deg,
            "longitude": one.longitude_deg,
            "altitude": one.altitude_m,
        }
        for one in receivers
    ]
    assert receivers_of({"heimdall.receivers": json.dumps(entries)}) == tuple(receivers)


@given(
    st.recursive(st.none() | st.integers() | st.text(), st.lists)
    | st.dictionaries(st.text(), st.integers())
)
def test_a_region_is_an_object_or_refused(value):
    """Whoever reads it takes it for one."""
    metadata = {"heimdall.region": json.dumps(value)}
    if isinstance(value, dict):
        assert region_of(metadata) == value
        return
    with pytest.raises(ExportError, match=r"heimdall\.region"):
        region_of(metadata)


@given(st.sets(st.sampled_from(METADATA_KEYS)))
def test_every_key_that_is_missing_is_named(present):
    """One message instead of seven attempts."""
    assume(present != set(METADATA_KEYS))
    with pytest.raises(ExportError) as refused:
        require_metadata(dict.fromkeys(present, ""))
    for key in METADATA_KEYS:
        assert (key in str(refused.value)) is (key not in present)


DEEP = "[" * 10**5 + "]" * 10**5
SOUND = {
    **FeatureConfig(receivers=("A", "B"), sample_rate_hz=12_500.0).metadata(),
    **ArrivalConfig(receivers=("A", "B"), baseline_m=1e6, sample_rate_hz=12_500.0).metadata(),
    "heimdall.receivers": json.dumps([{"name": "A", "latitude": 45.0, "longitude": 8.0}]),
    "heimdall.region": json.dumps({"latitude_deg": 45.0, "longitude_deg": 8.0, "scale_m": 8e4}),
    "heimdall.calibration": json.dumps({
        "format": "heimdall-calibration", "version": 1, "n_sessions": 3,
        "receivers": [{"name": "A", "delay_s": 1e-6, "delay_sigma_s": 1e-7, "spread_s": 1e-7,
                       "n_sessions": 3, "position_fault": None}],
    }),
    FORMAT_KEY: "1",
}  # fmt: skip
odd_values = st.sampled_from([
    None, True, 0, -1, 10**30, 10**400, 1e308, float("nan"), float("inf"), "", "x", [], {}, [[]],
    [True], {"": {}}, ["A", "A"], "9" * 5000,
])  # fmt: skip
odd_texts = st.sampled_from([DEEP, '{"a":' * 10**5, "9" * 5000, "[1e999]", "NaN", "{", "", "[[]]"])


@st.composite
def damaged(draw):
    """Metadata of a sound model with one value of one entry, or a whole entry, replaced."""
    key = draw(st.sampled_from(sorted(SOUND)))
    try:
        box = [json.loads(SOUND[key])]
    except ValueError:
        box = []
    if not box or draw(st.booleans()):
        return SOUND | {key: draw(odd_texts)}
    holder, place = box, 0
    while isinstance(holder[place], dict | list) and holder[place] and draw(st.integers(0, 9)):
        holder = holder[place]
        keys = [*holder] if isinstance(holder, dict) else range(len(holder))
        place = draw(st.sampled_from(keys))
    holder[place] = draw(odd_values)
    return SOUND | {key: json.dumps(box[0])}


@given(damaged())
def test_damaged_metadata_are_read_or_an_error_of_ours(metadata):
    """A service that is given a hostile file must name it, and go on with the others."""
    refused = (ExportError, FeatureError, LocateError)
    for read in (
        lambda: migrated(metadata),
        lambda: receivers_of(metadata),
        lambda: region_of(metadata),
        lambda: FeatureExtractor.from_metadata(metadata),
        lambda: ArrivalExtractor.from_metadata(metadata),
        lambda: Calibration.from_metadata(metadata),
    ):
        try:
            said = str(read())
        except refused as error:
            said = str(error)
        assert said


def entry(key, value):
    """An entry of a model file's metadata, as it is in the file."""
    fields = b"".join(
        b"%c%s%s" % (tag, length(text), text) for tag, text in ((10, key), (18, value))
    )
    return b"\x72" + length(fields) + fields


def length(content):
    """The number of bytes as protobuf writes it, in five bytes."""
    return bytes(
        len(content) >> shift & 127 | (128 if shift < 28 else 0) for shift in range(0, 35, 7)
    )


@pytest.mark.parametrize("as_file", [True, False])
def test_metadata_of_many_megabytes_are_not_opened(onnx_path, tmp_path, as_file):
    """Opening 300 MB of them took 1.8 GB."""
    contents = onnx_path.read_bytes() + 20 * entry(b"key", bytes(2**20))
    model = tmp_path / "large.onnx" if as_file else contents
    if as_file:
        model.write_bytes(contents)
    with pytest.raises(ExportError, match="bytes of metadata"):
        open_session(model)
    assert open_session(onnx_path.read_bytes() + entry(b"key", bytes(2**20)))


def test_weights_are_not_counted_as_metadata(tmp_path):
    """A model may have gigabytes of them."""
    graph = b"\x3a" + length(bytes(2**25)) + bytes(2**25)
    require_small_metadata(graph + entry(b"key", b"value"))
    with pytest.raises(ExportError, match="more than"):
        require_small_metadata(graph + 100_001 * b"\x08\x01")


@given(st.binary(max_size=100))
def test_any_bytes_have_small_metadata(contents):
    """What is no model at all is refused by ONNX Runtime, with its own reason."""
    require_small_metadata(contents)


@pytest.mark.parametrize("bad", [entry(b"a", b"\xff"), entry(b"\xff", b"a")])
def test_metadata_that_are_not_text_are_refused(onnx_path, bad):
    """ONNX Runtime gives them as they are, and Python's decoding raised."""
    with pytest.raises(ExportError, match="not text"):
        Predictor(onnx_path.read_bytes() + bad)
