"""The other side: positions from IQ where neither torch nor MLflow is installed."""

import dataclasses
import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import onnx
import onnxruntime
import pytest
from heimdall_export import ExportError, Predictor
from heimdall_features import FeatureExtractor
from heimdall_locate import Position
from hypothesis import example, given, settings
from hypothesis import strategies as st

broken_levels = st.sampled_from([np.nan, np.inf, -np.inf]) | st.floats(1001, 2.0**126, width=32)


@pytest.fixture(scope="session")
def predictor(onnx_path):
    """The small network, ready to answer."""
    return Predictor(onnx_path)


@pytest.fixture
def changed(onnx_path, metadata, tmp_path):
    """Makes the model file with other metadata."""

    def change(**changes):
        model = onnx.load(onnx_path)
        texts = metadata | {f"heimdall.{k.replace('__', '.')}": v for k, v in changes.items()}
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, {k: v for k, v in texts.items() if v is not None})
        onnx.save(model, tmp_path / "changed.onnx")
        return tmp_path / "changed.onnx"

    return change


@pytest.mark.parametrize(
    ("opened", "reports"),
    [
        ("from heimdall_export.session import open_session as opened", False),
        # This test can fail: ONNX Runtime alone does.
        ("from onnxruntime import InferenceSession as opened", True),
    ],
)
def test_onnx_runtime_reports_on_nobody(onnx_path, tmp_path, opened, reports):
    """It gives the user an id that lasts, and sends what it runs to its makers."""
    # No other variables: it reports nothing from CI, and XDG_CACHE_HOME would move the id.
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    program = f"import sys; {opened}; opened(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, onnx_path], env=environment, check=True)
    assert bool(list(tmp_path.rglob("deviceid"))) == reports


def test_it_says_what_the_contracts_example_says(predictor, onnx_path, recordings_of):
    """Oracle: the few lines of the contract, which need nothing of this package."""
    session = onnxruntime.InferenceSession(onnx_path)
    extract = FeatureExtractor.from_metadata(session.get_modelmeta().custom_metadata_map)
    features = extract(recordings_of(7))
    positions, sigmas = session.run(None, {"mel_spectrogram": features[None]})
    here = predictor.predict(recordings_of(7))
    assert (here.latitude_deg, here.longitude_deg) == tuple(positions[0].tolist())
    assert (here.sigma_east_m, here.sigma_north_m) == pytest.approx(sigmas[0].tolist(), rel=1e-9)
    assert (here.correlation, here.unexplained) == (0.0, None)


@settings(max_examples=10)
@given(seeds=st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_many_moments_at_once_are_what_they_are_one_by_one(predictor, recordings_of, seeds):
    """A service batches requests; nobody's answer may depend on the neighbours'."""
    together = predictor.predict_many([recordings_of(seed) for seed in seeds])
    for position, seed in zip(together, seeds, strict=True):
        alone = predictor.predict(recordings_of(seed))
        assert position.receivers == alone.receivers
        one, other = (
            (p.latitude_deg, p.longitude_deg, p.sigma_east_m, p.sigma_north_m)
            for p in (position, alone)
        )
        assert one == pytest.approx(other, rel=1e-6)


def test_a_receiver_may_be_missing(predictor, recordings_of):
    """Stations are down in any given session, and the answer says which."""
    two = recordings_of(3, receivers=("Torino", "Milano-Baggio"))
    for here in (predictor.predict(two), predictor.predict(two | {"Genova": None})):
        assert isinstance(here, Position)
        assert [one.used for one in here.receivers] == [True, False, True]
        assert "no recording" in here.receivers[1].reason


def test_it_tells_what_it_hears(predictor, feature_config):
    """A service must know whom to ask for recordings."""
    assert tuple(r.name for r in predictor.receivers) == feature_config.receivers
    assert predictor.receivers[1].latitude_deg == 45.1
    assert predictor.region == {"latitude_deg": 45.0, "longitude_deg": 8.0}
    assert (predictor.run_id, predictor.created_at) == ("0123abcd", "2026-11-20T12:00:00+00:00")
    assert predictor.input_shape == (3, 128, 32)


def test_it_opens_contents_as_well_as_a_path(predictor, onnx_path, recordings_of):
    """Services read models from object stores, not from disks."""
    other = Predictor(onnx_path.read_bytes(), n_threads=1)
    assert other.predict(recordings_of(1)) == predictor.predict(recordings_of(1))


def test_no_moments_have_no_estimates(predictor):
    """An empty batch happens at the end of a queue."""
    assert predictor.predict_many([]) == ()


@given(place=st.tuples(*(st.integers(0, n - 1) for n in (4, 3, 128, 32))), value=broken_levels)
def test_features_without_an_answer_are_refused_by_their_number(predictor, features, place, value):
    """Never a confident position; the message says which of the batch it was."""
    batch = features[:4].copy()
    batch[place] = value
    with pytest.raises(ExportError, match=f"no answer for session {place[0]}: the features"):
        predictor.predict_features(batch)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: {**r, "Genova": (r["Genova"][0] * np.nan, 12_500.0)}, "session 0: .*'Genova'"),
        (lambda r: {"Genova": (r["Genova"][0][:0], 12_500.0)}, "session 0: receiver 'Genova': 0 s"),
        (lambda r: {**r, "Roma": r["Genova"]}, r"session 0: unknown receivers \['Roma'\]"),
        (lambda r: {}, "session 0: no recording at all"),
    ],
)
def test_a_recording_that_cannot_be_used_is_told_with_its_receiver(
    predictor, recordings_of, change, said
):
    """A bad request must be answered with its reason, in one kind of error."""
    with pytest.raises(ExportError, match=said):
        predictor.predict(change(recordings_of(0)))


def test_features_of_another_shape_are_refused(predictor, features):
    """The commonest mistake is to forget the batch."""
    with pytest.raises(ExportError, match=r"features are \(3, 128, 32\), the model takes \(n, "):
        predictor.predict_features(features[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"features__fingerprint": "0" * 64}, "features do not match: .* fingerprint 0000"),
        ({"features__config": '{"n_mels": 3}'}, "features do not match: .* missing"),
        ({"region": None}, r"lack heimdall\.region"),
        ({"region": "around Torino"}, r"heimdall\.region is around Torino"),
        ({"receivers": '[{"name": "Torino"}]'}, r"heimdall\.receivers is .*Torino"),
        (
            {"receivers": json.dumps([{"name": "Roma", "latitude": 41.9, "longitude": 12.5}])},
            r"receivers are \('Roma',\), its features are of \('Torino'",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(changed, changes, said):
    """Positions from the wrong features look like positions."""
    with pytest.raises(ExportError, match=said):
        Predictor(changed(**changes))


def test_a_graph_for_other_features_than_the_metadata_say_is_refused(changed, feature_config):
    """Four frames fewer, and every position is quietly wrong."""
    other = FeatureExtractor(dataclasses.replace(feature_config, n_frames=28)).metadata()
    path = changed(**{k.removeprefix("heimdall.").replace(".", "__"): v for k, v in other.items()})
    with pytest.raises(ExportError, match=r"\(3, 128, 32\).*\(3, 128, 28\)"):
        Predictor(path)


@settings(max_examples=30)
@given(contents=st.binary(max_size=50))
@example(contents=b"\x08\x0a" * 50)
def test_what_is_not_onnx_is_refused(contents):
    """A download that broke off, or an error page under a model's name."""
    with pytest.raises(ExportError, match=r"ONNX Runtime .* cannot load"):
        Predictor(contents)


def test_another_systems_model_is_refused_by_its_ends(tmp_path):
    """It is ONNX, and still not one of ours."""
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:]
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "m")
    with pytest.raises(ExportError, match=r"\['x'\].*\['y'\]"):
        Predictor(tmp_path / "m")


def repeated(value, n_samples):
    """A recording that takes no memory."""
    return np.broadcast_to(np.complex64(value), n_samples)


@pytest.mark.parametrize(
    ("rate_hz", "counted"), [(1_500, 1_200_000), (12_500, 1_200_000), (200_000, 19_200_000)]
)
def test_a_session_of_too_many_samples_is_refused_before_any_work(onnx_path, rate_hz, counted):
    """A small request that is resampled to hours kept a service busy for a minute.

    By hand: three times 32 s at the model's 12.5 kHz, or at the recordings' higher rate.
    """
    predictor = Predictor(onnx_path, most_samples=1_000_000)
    half_minute = (repeated(0.1, 32 * rate_hz), rate_hz)
    longer = (repeated(0.1, 64 * rate_hz), rate_hz)
    session = {"Torino": half_minute, "Genova": longer, "Milano-Baggio": half_minute}
    tracemalloc.start()
    with pytest.raises(ExportError, match=f"have {counted} samples at .* the most are 1000000"):
        predictor.predict(session)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000
