"""Models that take times of arrival beside the spectrograms: a real one, from network to map."""

import copy
import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from heimdall_export import ExportError, Predictor, check_parity, export_onnx
from heimdall_export.registry.registry import save_mlflow_model
from heimdall_export.session import open_session
from heimdall_features import (
    ArrivalConfig,
    ArrivalExtractor,
    ClockedRecording,
    FeatureConfig,
    FeatureExtractor,
)
from heimdall_features.clock import Span, common_span
from heimdall_features.testing import keyed
from heimdall_models import LocalizationNet, Region, ServingNet, Standardize
from heimdall_models.serving import TimedServingNet
from heimdall_models.timing.network import TimingNet
from heimdall_models.timing.receivers import ReceiverSite
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

REGION = Region(44.95, 8.2, 92_000.0)
SITES = (
    ReceiverSite("Giaveno", 45.02, 7.29, 600.0),
    ReceiverSite("Giovi", 44.561, 8.956, 480.0),
    ReceiverSite("Milano", 45.478, 9.123, 120.0),
    ReceiverSite("Cuneo", 44.39, 7.55, 560.0),
)
NAMES = tuple(site.name for site in SITES)
MEL = FeatureExtractor(FeatureConfig(receivers=NAMES, sample_rate_hz=48_000.0))
TIMES = ArrivalExtractor(ArrivalConfig(receivers=NAMES, baseline_m=200_000.0))
METADATA = {
    **MEL.metadata(),
    **TIMES.metadata(),
    "heimdall.receivers": json.dumps(
        [{"name": s.name, "latitude": s.latitude_deg, "longitude": s.longitude_deg} for s in SITES]
    ),
    "heimdall.region": json.dumps({"latitude_deg": 44.95, "longitude_deg": 8.2}),
    "heimdall.run_id": "0123abcd",
    "heimdall.created_at": "2026-11-21T12:00:00+00:00",
}
TRUTH_DEG = (44.8, 8.1)
RATE_HZ = 48_000.0
SPEED_IN_AIR_M_S = 299_792_458.0 / 1.0003
EARTH_CENTRED = Transformer.from_crs("EPSG:4979", "EPSG:4978")


def delays_s(position_deg):
    """How long light takes to each receiver, by PROJ and not by our planes: `(receivers,)`."""
    here = np.array(EARTH_CENTRED.transform(*position_deg, 0.0))
    there = [EARTH_CENTRED.transform(s.latitude_deg, s.longitude_deg, s.altitude_m) for s in SITES]
    return np.linalg.norm(np.array(there) - here, axis=1) / SPEED_IN_AIR_M_S


def recordings(starts_s=(0.0, 0.05, 0.12, 0.2), n_samples=70_000):
    """One transmission from `TRUTH_DEG` as each receiver hears it from its own start on."""
    rng = np.random.default_rng(5)
    n, margin = 2**17, 2**14
    frequency_hz = np.fft.fftfreq(n, 1 / RATE_HZ)
    sent = np.fft.fft(rng.normal(size=n) + 1j * rng.normal(size=n))
    sent *= np.abs(frequency_hz) < 0.4 * RATE_HZ
    heard = {}
    for name, delay_s, start_s in zip(NAMES, delays_s(TRUTH_DEG), starts_s, strict=True):
        turned = np.fft.ifft(sent * np.exp(-2j * np.pi * frequency_hz * (delay_s - start_s)))
        noise = 0.05 * (rng.normal(size=n) + 1j * rng.normal(size=n))
        iq = 0.03 * (turned + noise)[margin : margin + n_samples]
        heard[name] = ClockedRecording(iq.astype(np.complex64), RATE_HZ, start_s)
    return heard


@pytest.fixture(scope="module")
def timed_network():
    """A small network of levels and a calibrated one of times; nothing in it is trained."""
    torch.manual_seed(0)
    mean = np.full((len(SITES), 128, 1), -60.0)
    backbone = LocalizationNet(len(SITES), "test_convnext")
    levels = ServingNet(Standardize(mean, np.full_like(mean, 20.0)), backbone, REGION)
    timing = TimingNet(REGION, SITES)
    timing.unexplained_limit.fill_(4.0)
    return TimedServingNet(levels, timing).eval()


@pytest.fixture(scope="module")
def timed_path(timed_network, tmp_path_factory):
    """Its file; one export for all tests, because it takes long."""
    return export_onnx(
        timed_network,
        tmp_path_factory.mktemp("timed") / "timed.onnx",
        input_shape=MEL.config.shape,
        arrivals_shape=TIMES.shape,
        metadata=METADATA,
    )


@pytest.fixture(scope="module")
def predictor(timed_path):
    """The file, ready to answer."""
    return Predictor(timed_path)


@pytest.fixture(scope="module")
def mel():
    """70 feature tensors at the levels of recordings."""
    values = np.random.default_rng(1).normal(-60, 20, (70, *MEL.config.shape))
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def rows():
    """Their arrival times: clean, on detours, some receivers missing, and none at all."""
    rng = np.random.default_rng(2)
    places = REGION.to_degrees(rng.uniform(-0.8, 0.8, (70, 2)))
    times_us = 1e6 * np.array([delays_s(place) for place in places])
    times_us += 0.1 * rng.standard_normal(times_us.shape)
    times_us[::3, 1] += 2.0
    found = np.zeros((70, *TIMES.shape), np.float32)
    found[..., 0], found[..., 2], found[..., 3] = 1.0, 0.1, 20.0
    found[..., 1] = times_us - times_us.mean(axis=1, keepdims=True)
    found[1::5, 3] = 0
    found[2::5] = 0
    found[3::7, 2:] = 0
    return found


def ends(entries):
    """Names, types and shapes, as ONNX Runtime tells them."""
    return [(end.name, end.type, end.shape) for end in entries]


def test_the_file_has_a_second_input_and_two_further_outputs(timed_path):
    """What follows the contract's ends; both inputs share the batch."""
    session = open_session(timed_path)
    assert ends(session.get_inputs()) == [
        ("mel_spectrogram", "tensor(float)", ["batch", 4, 128, 32]),
        ("arrival_times", "tensor(float)", ["batch", 4, 5]),
    ]
    assert ends(session.get_outputs()) == [
        ("positions", "tensor(float)", ["batch", 2]),
        ("uncertainties", "tensor(float)", ["batch", 2]),
        ("correlations", "tensor(float)", ["batch"]),
        ("unexplained", "tensor(float)", ["batch"]),
    ]
    assert session.get_modelmeta().custom_metadata_map == METADATA


@pytest.mark.slow
def test_the_file_agrees_with_its_network(timed_path, timed_network, mel, rows):
    """A unit is 92 km here: 1e-5 of it is a metre, which is what times are good for.

    The worst is a session of two receivers, whose ellipse is of 23 km: a hundredth of that, since
    rounding depends on the processor.
    """
    report = check_parity(timed_path, timed_network, mel, arrivals=rows, scale_m=REGION.scale_m)
    assert report.batch_sizes == (1, 4, 8, 16, 32, 64)
    assert 0 < report.mean_difference < 1e-5
    assert report.worst_m < 230
    assert 0 < report.mean_correlation_difference < 1e-4
    assert report.max_correlation_difference < 1e-2


@pytest.mark.slow
def test_a_timed_mixture_is_the_network_s(timed_network, timed_path, mel, rows, tmp_path):
    """Mirror images, components of levels and repeats are told apart in the graph too."""
    network = copy.deepcopy(timed_network)
    network.levels.net.n_components = network.levels.net.heads.n_components = 3
    path = export_onnx(
        network,
        tmp_path / "mixed.onnx",
        input_shape=MEL.config.shape,
        arrivals_shape=TIMES.shape,
        metadata=METADATA,
    )
    report = check_parity(
        path, network, mel, arrivals=rows, scale_m=REGION.scale_m, batch_sizes=(1, 64)
    )
    assert report.mean_mixture_difference < 1e-3
    session = open_session(path)
    names = [end.name for end in session.get_outputs()]
    assert names[-3:] == ["weights", "means", "covariances"]
    (alone,), (mixed,) = (
        Predictor(file, n_threads=1).predict_many([recordings()]) for file in (timed_path, path)
    )
    assert mixed.candidates[0].probability > 0.99
    away_m = Geod(ellps="WGS84").inv(
        alone.longitude_deg, alone.latitude_deg, mixed.longitude_deg, mixed.latitude_deg
    )[2]
    assert away_m < 1


def test_times_make_the_difference(timed_path, mel, rows):
    """The test above can fail: the answers do follow the second input."""
    feed = {"mel_spectrogram": mel, "arrival_times": rows}
    _, with_times, *_ = open_session(timed_path).run(None, feed)
    _, without, *_ = open_session(timed_path).run(None, feed | {"arrival_times": 0 * rows})
    clean = [n for n in range(70) if n % 5 not in (1, 2) and n % 7 != 3]
    assert (with_times[clean] < 0.1 * without[clean]).all()
    assert np.allclose(with_times[2::5], without[2::5], rtol=1e-4)


class Shifted(torch.nn.Module):
    """A network whose correlations are off."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, mel_spectrogram, arrival_times):
        """The same, but for an ellipse that tilts a little differently."""
        positions, sigmas, correlations, unexplained = self.network(mel_spectrogram, arrival_times)
        return positions, sigmas, correlations + 0.002, unexplained


def test_ellipses_that_tilt_differently_do_not_pass(timed_path, timed_network, mel, rows):
    """Positions and sigmas may agree while the search area lies across the right one."""
    with pytest.raises(ExportError, match=r"by 0\.002 in the mean of correlations, on 8 feature"):
        check_parity(
            timed_path,
            Shifted(timed_network),
            mel[:8],
            arrivals=rows[:8],
            scale_m=REGION.scale_m,
            batch_sizes=(8,),
        )


def test_parity_asks_for_arrival_times_where_the_model_takes_them(
    timed_path, onnx_path, timed_network, mel, rows, features
):
    """And for none where it does not."""
    scale = {"scale_m": REGION.scale_m}
    with pytest.raises(ExportError, match=r"takes .*'arrival_times': 'float32 \(70, 4, 5\)'"):
        check_parity(timed_path, timed_network, mel, **scale)
    with pytest.raises(ExportError, match=r"'arrival_times': 'float32 \(9, 4, 5\)'"):
        check_parity(timed_path, timed_network, mel, arrivals=rows[:9], **scale)
    with pytest.raises(ExportError, match=r"'arrival_times': 'float32 \(70, 3, 5\)'"):
        check_parity(onnx_path, timed_network, features, arrivals=rows[:, :3], **scale)


not_finite = st.sampled_from([np.nan, np.inf, -np.inf])
broken_places = st.one_of(
    st.tuples(
        st.tuples(st.just("mel_spectrogram"), *(st.integers(0, n - 1) for n in (4, 128, 32))),
        not_finite | st.floats(1001, 2.0**126, width=32),
    ),
    st.tuples(
        st.tuples(st.just("arrival_times"), st.integers(0, 3), st.integers(0, 4)),
        not_finite | st.floats(1.1e6, 1e38),  # seconds since 1970, say
    ),
    st.tuples(
        st.tuples(st.just("arrival_times"), st.integers(0, 3), st.just(0)),
        st.floats(0.01, 0.99) | st.floats(1.01, 1e3),  # a flag that is a number
    ),
    st.tuples(
        st.tuples(st.just("arrival_times"), st.integers(0, 3), st.just(2)),
        st.floats(-1e3, 0),  # a sigma that is none
    ),
)


@pytest.mark.slow
@given(broken=broken_places)
def test_an_input_that_nobody_measures_has_no_confident_answer(timed_path, mel, rows, broken):
    """Whichever of the two it is in; the neighbours in the batch keep their answers."""
    (name, *where), value = broken
    feed = {"mel_spectrogram": mel[:3].copy(), "arrival_times": rows[:3].copy()}
    feed["arrival_times"][1, :, 0] = 1.0
    feed[name][(1, *where)] = value
    for output in open_session(timed_path).run(None, feed):
        assert np.isnan(output[1]).all()
        assert np.isfinite(output[[0, 2]]).all()


class Deaf(torch.nn.Module):
    """A network that turns what it does not understand into zeros."""

    def forward(self, mel_spectrogram, arrival_times):
        """An answer, whatever the inputs."""
        level = mel_spectrogram.nan_to_num(0.0, 0.0, 0.0).mean(dim=(1, 2, 3))
        time = arrival_times.nan_to_num(0.0, 0.0, 0.0).mean(dim=(1, 2))
        positions = torch.stack([level, time], dim=1)
        return positions, positions.abs() + 1, time.tanh(), level.abs()


def test_not_even_a_network_that_hides_a_nan_answers_one(tmp_path):
    """The guard of the file is what answers NaN, for both inputs."""
    path = export_onnx(
        Deaf(),
        tmp_path / "m.onnx",
        input_shape=(1, 4, 2),
        arrivals_shape=(1, 5),
        metadata=METADATA,
    )
    session = open_session(path)
    fit = {
        "mel_spectrogram": np.ones((1, 1, 4, 2), np.float32),
        "arrival_times": np.ones((1, 1, 5), np.float32),
    }
    assert all(np.isfinite(output).all() for output in session.run(None, fit))
    for name in fit:
        bad = fit | {name: np.full_like(fit[name], np.nan)}
        assert all(np.isnan(output).all() for output in session.run(None, bad))


def test_from_iq_with_clocks_to_the_place(predictor):
    """Everything together: the untrained network locates by geometry, and says how well."""
    found = predictor.predict(recordings())
    error_m = Geod(ellps="WGS84").inv(
        found.longitude_deg, found.latitude_deg, TRUTH_DEG[1], TRUTH_DEG[0]
    )[2]
    assert error_m < 300
    assert max(found.sigma_east_m, found.sigma_north_m) < 1_000
    assert -1 < found.correlation < 1
    assert found.correlation != 0
    assert 0 <= found.unexplained < 1


def test_without_clocks_the_answer_is_that_of_the_levels(predictor, timed_network):
    """Pairs of IQ and rate have no clock; nothing may be read into their order."""
    heard = recordings()
    pairs = {name: (r.iq, r.sample_rate_hz) for name, r in heard.items()}
    unlocked = {name: dataclasses.replace(r, clock_sigma_s=math.inf) for name, r in heard.items()}
    found = predictor.predict(pairs)
    with torch.no_grad():
        position, sigma = timed_network.levels(torch.from_numpy(MEL(pairs))[None])
    assert (found.latitude_deg, found.longitude_deg) == pytest.approx(position[0].tolist())
    assert (found.sigma_east_m, found.sigma_north_m) == pytest.approx(sigma[0].tolist(), rel=1e-3)
    assert found.unexplained == 0.0
    assert predictor.predict(unlocked) == found


def test_levels_alone_are_to_be_had_from_a_model_of_times(predictor, onnx_path, recordings_of):
    """`heimdall locate --model` has times of its own and wants to know what levels say."""
    heard = recordings()
    by_levels = predictor.predict(heard, timing=False)
    mel = MEL.each({n: (r.iq, r.sample_rate_hz) for n, r in MEL.cut(heard)[0].items()})[0]
    (wanted,) = predictor.predict_features(mel[None], np.zeros((1, *TIMES.shape), np.float32))
    assert by_levels.candidates == wanted.candidates
    assert by_levels.candidates != predictor.predict(heard).candidates
    assert "levels alone" in by_levels.termination
    assert predictor.predict_many([heard], timing=False) == (by_levels,)
    mel_only = Predictor(onnx_path)
    assert mel_only.predict(recordings_of(1), timing=False) == mel_only.predict(recordings_of(1))


def test_recordings_too_short_for_times_are_answered_by_levels(predictor):
    """Training gave them zeros for times; and the caller must learn why there are none."""
    short = {
        name: dataclasses.replace(one, iq=one.iq[:2_500], start_s=0.0)
        for name, one in recordings().items()
    }
    found = predictor.predict(short)
    assert found.candidates == predictor.predict(short, timing=False).candidates
    assert "2500 samples" in found.termination


def test_each_receivers_part_is_told(predictor):
    """An operator must see whose clock is out of lock, and who was not heard at all."""
    heard = recordings()
    heard["Giovi"] = dataclasses.replace(heard["Giovi"], clock_sigma_s=math.inf)
    del heard["Cuneo"]
    giaveno, giovi, milano, cuneo = predictor.predict(heard).receivers
    assert [one.name for one in (giaveno, giovi, milano, cuneo)] == [*NAMES]
    times = TIMES(MEL.cut(heard)[0])
    for one, row in ((giaveno, times[0]), (milano, times[2])):
        assert (one.used, one.reason) == (True, "")
        assert (one.sigma_us, one.snr_db) == pytest.approx((row[2], row[3]), rel=1e-6)
    assert giovi.used
    assert "without an arrival time" in giovi.reason
    assert giovi.sigma_us is None
    assert not cuneo.used
    assert "no recording" in cuneo.reason


def test_a_clock_that_contradicts_the_others_is_told(predictor):
    """Twenty milliseconds are six thousand kilometres: its level is used, and its time is not."""
    rng, heard = np.random.default_rng(6), {}
    for name, delay_s in zip(NAMES, delays_s(TRUTH_DEG), strict=True):
        iq = 0.03 * keyed(np.arange(70_000) / RATE_HZ - delay_s)
        iq += 1e-4 * (rng.normal(size=iq.size) + 1j * rng.normal(size=iq.size))
        late_s = 0.02 if name == "Giovi" else 0.0
        heard[name] = ClockedRecording(iq.astype(np.complex64), RATE_HZ, late_s)
    _, giovi, *others = found = predictor.predict(heard).receivers
    assert giovi.used
    assert giovi.sigma_us is None
    assert "its time contradicts the others" in giovi.reason
    assert all(one.sigma_us and not one.reason for one in (found[0], *others))


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 200))
def test_strange_times_are_told_in_the_answer(predictor, mel, rows, seed, off_us):
    """Nobody looks at a number called unexplained; everybody reads the sentence."""
    strange = rows[:1].copy()
    strange[0, :, 1] += np.random.default_rng(seed).normal(0, off_us, 4)
    (found,) = predictor.predict_features(mel[:1], strange)
    assert ("unlike those of its training" in found.termination) == (found.unexplained > 1)


def test_recordings_are_cut_to_when_the_last_one_starts(predictor):
    """A column of the spectrograms is one moment at every receiver, as in training."""
    heard = recordings()
    late_s = {name: 0.2 - r.start_s for name, r in heard.items()}
    pairs = {
        name: (r.iq[round(late_s[name] * RATE_HZ) :], r.sample_rate_hz) for name, r in heard.items()
    }
    (wanted,) = predictor.predict_features(MEL(pairs)[None], TIMES(heard)[None])
    assert predictor.predict(heard) == wanted


def test_a_recording_without_a_clock_counts_from_its_own_start(predictor):
    """It cannot be placed in time; the others are."""
    heard = recordings()
    heard["Giovi"] = dataclasses.replace(heard["Giovi"], start_s=99.0, clock_sigma_s=math.inf)
    as_pair = heard | {"Giovi": (heard["Giovi"].iq, RATE_HZ)}
    assert predictor.predict(heard) == predictor.predict(as_pair)
    assert predictor.predict(heard) != predictor.predict(recordings())


def test_clocks_count_for_a_model_of_spectrograms_alone(onnx_path, recordings_of):
    """Training cut what it learnt from by clock, whatever the model takes beside it."""
    pairs = recordings_of(4)
    heard = {
        name: ClockedRecording(iq, rate_hz, start_s=0.1 * n)
        for n, (name, (iq, rate_hz)) in enumerate(pairs.items())
    }
    cuts = common_span(
        {name: Span(r.start_s, len(r.iq), r.sample_rate_hz) for name, r in heard.items()}
    )
    mel_only = Predictor(onnx_path)
    assert mel_only.arrivals_shape is None
    wanted = mel_only.predict({name: (iq[cuts[name]], rate) for name, (iq, rate) in pairs.items()})
    assert mel_only.predict(heard) == wanted != mel_only.predict(pairs)
    assert (wanted.correlation, wanted.unexplained) == (0.0, None)


def changed(name, **changes):
    """What makes one of the recordings another."""
    return lambda heard: heard | {name: dataclasses.replace(heard[name], **changes)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("Giovi", start_s=float("nan")), "session 0: receiver 'Giovi': start_s is nan"),
        (
            changed("Giovi", start_s=60.0),
            r"'Giaveno' \S+ s from 0\.000 s, 'Giovi' \S+ s from 60\.000 s",
        ),
        (changed("Giovi", sample_rate_hz=np.nan), "receiver 'Giovi': the sample rate is nan"),
        (lambda heard: heard | {"Roma": heard["Giovi"]}, r"session 0: unknown receivers \['Roma'"),
    ],
)
def test_a_recording_that_cannot_be_used_is_named(predictor, change, said):
    """A bad request must be answered with its reason, in one kind of error."""
    with pytest.raises(ExportError, match=said):
        predictor.predict(change(recordings()))


def test_features_without_arrival_times_are_refused(predictor, onnx_path, mel, rows, features):
    """Zeros in their place would be levels only, and nobody would know why."""
    with pytest.raises(ExportError, match=r"None, the model takes \(3, 4, 5\)"):
        predictor.predict_features(mel[:3])
    with pytest.raises(ExportError, match=r"times are \(2, 4, 5\), the model takes \(3, 4, 5\)"):
        predictor.predict_features(mel[:3], rows[:2])
    with pytest.raises(ExportError, match="the model takes None"):
        Predictor(onnx_path).predict_features(features[:3], rows[:3])
    assert len(predictor.predict_features(mel[:3], rows[:3])) == 3


SERVICE = """
import sys

import numpy as np
from heimdall_export import Predictor
from heimdall_features import ClockedRecording

with np.load(sys.argv[2]) as stored:
    heard = {
        name: ClockedRecording(stored[name], 48_000.0, float(start_s))
        for name, start_s in zip(stored["names"], stored["starts_s"])
    }
print(repr(Predictor(sys.argv[1]).predict(heard)))
"""


FIRST_ANSWER = """
import sys

import numpy as np
from heimdall_export import Predictor
from heimdall_features import ClockedRecording

predictor = Predictor(sys.argv[1])
ready = set(sys.modules)
noise = np.random.default_rng(1).normal(scale=0.1, size=(70_000, 2)) @ [1, 1j]
recording = ClockedRecording(noise, 44_100.0)
predictor.predict({receiver.name: recording for receiver in predictor.receivers})
print(*sorted(set(sys.modules) - ready))
"""


def test_the_first_answer_imports_nothing(timed_path):
    """A service that is ready took a second to import what resamples, inside a caller's request."""
    command = [sys.executable, "-c", FIRST_ANSWER, str(timed_path)]
    assert subprocess.check_output(command, text=True).split() == []


@pytest.mark.slow
def test_a_service_without_torch_says_the_same(timed_path, predictor, without_extras, tmp_path):
    """Where models serve there is ONNX Runtime, NumPy and the features, and that is enough."""
    heard = recordings()
    np.savez(
        tmp_path / "heard.npz",
        names=list(heard),
        starts_s=[r.start_s for r in heard.values()],
        **{name: r.iq for name, r in heard.items()},
    )
    said = subprocess.check_output(
        [
            sys.executable,
            "-c",
            without_extras + SERVICE,
            str(timed_path),
            str(tmp_path / "heard.npz"),
        ],
        text=True,
    )
    assert said.strip() == repr(predictor.predict(heard))


def test_metadata_and_the_second_input_go_together(timed_network, tmp_path):
    """A file whose metadata promise another model than its graph helps nobody."""
    short = {name: text for name, text in METADATA.items() if "arrivals.config" not in name}
    shapes = {"input_shape": MEL.config.shape}
    with pytest.raises(ExportError, match=r"metadata lack heimdall\.arrivals\.config"):
        export_onnx(
            timed_network, tmp_path / "m.onnx", **shapes, arrivals_shape=TIMES.shape, metadata=short
        )
    with pytest.raises(ExportError, match=r"heimdall\.arrivals\.fingerprint"):
        export_onnx(timed_network.levels, tmp_path / "m.onnx", **shapes, metadata=METADATA)


def test_a_network_with_other_ends_is_refused_with_the_shapes(timed_network, tmp_path):
    """One of spectrograms alone, one of two outputs, and one of another number of receivers."""

    class Short(Shifted):
        def forward(self, mel_spectrogram, arrival_times):
            return super().forward(mel_spectrogram, arrival_times)[:2]

    arguments = {"input_shape": MEL.config.shape, "metadata": METADATA}
    with pytest.raises(ExportError, match=r"correlations torch\.float32 \(2,\)"):
        export_onnx(
            Short(timed_network), tmp_path / "m.onnx", arrivals_shape=TIMES.shape, **arguments
        )
    with pytest.raises(ExportError, match=r"shape \(2, 4, 128, 32\) and \(2, 3, 5\): .*times"):
        export_onnx(timed_network, tmp_path / "m.onnx", arrivals_shape=(3, 5), **arguments)
    with pytest.raises(ExportError, match=r"shape \(2, 4, 128, 32\) and \(2, 4, 5\): .*argument"):
        export_onnx(
            timed_network.levels, tmp_path / "m.onnx", arrivals_shape=TIMES.shape, **arguments
        )
    assert not list(tmp_path.iterdir())


def test_a_file_that_contradicts_itself_is_refused(timed_path, tmp_path):
    """Arrival times of other receivers, or none, or without the further outputs."""
    others = ArrivalExtractor(dataclasses.replace(TIMES.config, receivers=NAMES[::-1]))
    mel_only = {name: text for name, text in METADATA.items() if "arrivals" not in name}
    for texts, said in (
        (METADATA | others.metadata(), "its arrival times are of .'Cuneo'"),
        (mel_only, r"\(4, 5\)\], its metadata describe \[\(4, 128, 32\)\]"),
        (METADATA | {"heimdall.arrivals.fingerprint": "0" * 64}, "do not match: .* 0000"),
    ):
        model = onnx.load(timed_path)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, texts)
        with pytest.raises(ExportError, match=said):
            Predictor(model.SerializeToString())
    model = onnx.load(timed_path)
    del model.graph.output[2:]
    with pytest.raises(ExportError, match="'arrival_times'"):
        open_session(model.SerializeToString())


def test_mlflow_knows_both_inputs(timed_path, tmp_path):
    """`mlflow models serve` refuses what its signature does not name."""
    save_mlflow_model(timed_path, tmp_path / "model")
    from mlflow.models import Model

    signature = Model.load(tmp_path / "model").signature
    assert signature.inputs.input_names() == ["mel_spectrogram", "arrival_times"]
    assert signature.outputs.input_names() == [
        "positions",
        "uncertainties",
        "correlations",
        "unexplained",
    ]
    example = json.loads((tmp_path / "model" / "serving_input_example.json").read_text())
    assert np.shape(example["inputs"]["arrival_times"]) == (1, 4, 5)
