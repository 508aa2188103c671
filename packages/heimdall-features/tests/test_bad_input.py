"""Bad input gives a clear error or a documented finite result, never a wrong one."""

import numpy as np
import pytest
from heimdall_features import Blocks, FeatureConfig, FeatureError, FeatureExtractor
from heimdall_features.resample import rate_ratio, resampled
from heimdall_features.signal import LARGEST_SAMPLE, open_source, require_full_scale
from heimdall_features.testing import noise
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

SMALL = {"n_fft": 64, "hop_length": 16, "n_mels": 8, "n_frames": 4}
EXTRACT = FeatureExtractor(FeatureConfig(receivers=("A", "B"), **SMALL))
IQ = noise(np.random.default_rng(0), 1000).astype(np.complex64)

any_dtype = st.one_of(
    hnp.complex_number_dtypes(), hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.boolean_dtypes()
)
any_array = any_dtype.flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=300)
    )
)
any_rate = st.one_of(st.floats(), st.integers(-(10**12), 10**12), st.none(), st.booleans())


def extracted_or_rejected(extract, recordings):
    """Valid features, or None if the input was rejected with an error."""
    try:
        features = extract(recordings)
    except FeatureError:
        return None
    assert features.shape == extract.config.shape
    assert np.isfinite(features).all()
    assert features.min() >= extract.config.floor_db
    return features


@given(any_array, st.one_of(st.just(48e3), st.just(12e3), any_rate))
def test_any_array_at_any_rate_gives_finite_features_or_an_error(iq, rate_hz):
    """A service does not always get what was agreed."""
    extracted_or_rejected(EXTRACT, {"A": (iq, rate_hz)})


@given(
    st.sampled_from(["two-sided", "one-sided", "envelope"]),
    hnp.arrays(np.complex64, st.integers(64, 300), elements=st.complex_numbers(width=64)),
)
def test_any_values_give_finite_features_or_an_error(spectrum, iq):
    """NaN, infinities, denormals and 1e38 are among them."""
    config = FeatureConfig(receivers=("A",), spectrum=spectrum, **SMALL)
    signal = iq.real if spectrum == "one-sided" else iq
    features = extracted_or_rejected(FeatureExtractor(config), {"A": (signal, 48e3)})
    assert np.isfinite(signal).all() or features is None


@given(st.dictionaries(st.text(max_size=2), st.none() | st.just((IQ, 48e3)), max_size=4))
def test_any_names_give_features_or_an_error(recordings):
    """A misspelt receiver must not count as a missing one."""
    features = extracted_or_rejected(EXTRACT, recordings)
    known = {name for name, found in recordings.items() if found} & {"A", "B"}
    assert (features is not None) == (bool(known) and set(recordings) <= {"A", "B"})


@given(
    st.integers(0, 999),
    st.sampled_from([np.nan, np.inf, -np.inf, complex(0, np.nan)]),
    st.sampled_from([12e3, 48e3, 192e3]),
)
def test_one_bad_sample_anywhere_is_found(where, value, rate_hz):
    """Also before resampling, which would spread it over a piece."""
    iq = IQ.copy()
    iq[where] = value
    with pytest.raises(FeatureError, match="'A': the recording holds NaN, infinite or overflowing"):
        EXTRACT({"A": (iq, rate_hz)})


@pytest.mark.parametrize(
    ("iq", "message"),
    [
        (np.zeros(0, complex), "0 samples are less than one frame of n_fft=64"),
        (IQ[:63], "63 samples are less than one frame"),
        (np.zeros(1000, np.int16), "samples are int16; scale integers"),
        (np.zeros(1000), "two-sided spectrum takes complex IQ, not float64"),
        (np.zeros((2, 1000), complex), r"not \(2, 1000\)"),
        ([1j] * 1000, "not list"),
        (np.full(1000, "a"), "not <U1"),
        (IQ * np.float32(1e30), "samples reach .*e\\+30, and full scale is 1"),
        (np.round(IQ * 300), "samples reach .*, and full scale is 1"),
    ],
)
def test_an_unfit_recording_is_rejected(iq, message):
    """The error names the receiver and what is wrong."""
    with pytest.raises(FeatureError, match=f"^receiver 'A': .*{message}"):
        EXTRACT({"A": (iq, 48e3)})


@pytest.mark.parametrize("rate_hz", [0, -48e3, np.nan, np.inf, None, "48000", True])
def test_invalid_rates_are_rejected(rate_hz):
    """Zero would divide, and a string was not parsed."""
    with pytest.raises(FeatureError, match=rf"'A': the sample rate is .*{rate_hz}"):
        EXTRACT({"A": (IQ, rate_hz)})


@pytest.mark.parametrize(
    ("recordings", "message"),
    [
        ({"A": IQ}, r"'A': give \(iq, sample_rate_hz\), not ndarray"),
        ({"A": None}, "no recording at all; give one of A, B"),
    ],
)
def test_a_missing_rate_or_recording_is_rejected(recordings, message):
    """The rate is easily forgotten, and a session without recordings is a mistake."""
    with pytest.raises(FeatureError, match=message):
        EXTRACT(recordings)


@given(st.sampled_from(["<i2", "i1"]), st.floats(0.01, 1), st.booleans())
def test_integers_written_as_floats_are_rejected(dtype, level, streamed):
    """They would be up to 90 dB too strong, and an answer would be more certain."""
    counts = level * np.iinfo(dtype).max * IQ / np.abs(IQ).max()
    assume(np.abs(counts).max() > 2 * LARGEST_SAMPLE)
    counts = np.round(counts)
    recording = Blocks([counts[:300], counts[300:]], 1000) if streamed else counts
    with pytest.raises(FeatureError, match=r"^receiver 'A': samples reach .*full scale is 1"):
        EXTRACT({"A": (recording, 48e3)})


@given(st.sampled_from([(192e3, 48e3), (12.5e3, 12e3), (12e3, 48e3)]), st.integers(0, 2**32 - 1))
def test_a_clipped_recording_is_accepted_at_any_rate(rates_hz, seed):
    """A receiver that is overdriven is heard all the same, also after other filters than ours."""
    rate_hz, wanted_hz = rates_hz
    corners = np.random.default_rng(seed).choice([-1.0, 1.0], (2, 20_000))
    clipped = (corners[0] + 1j * corners[1]) * np.exp(2j * np.pi * 0.01 * np.arange(20_000))
    source = resampled(open_source(clipped, "two-sided"), rate_ratio(rate_hz, wanted_hz))
    filtered = source.read(0, source.n_samples)
    assert np.abs(filtered.view(np.float32)).max() < LARGEST_SAMPLE / 2
    require_full_scale(filtered)


def test_noise_of_variance_one_is_accepted():
    """Many files on the web are scaled so; their level is that of full scale."""
    noises = np.random.default_rng(0).normal(size=2_000_000).view(complex)
    assert np.isfinite(EXTRACT({"A": (noises, 48e3)})).all()


SILENT = np.zeros(1000, np.complex64)


@given(st.floats(0, 1e-10))
def test_silence_at_all_receivers_is_rejected(level):
    """A model would answer with a position, though nobody heard anything."""
    quiet = {"A": (SILENT + np.complex64(level), 48e3), "B": (SILENT, 48e3)}
    with pytest.raises(FeatureError, match="only silence from 'A', 'B'"):
        EXTRACT(quiet)
    features, refused = EXTRACT.each(quiet)
    assert (features == EXTRACT.config.fill_db).all()
    assert set(refused) == {"A", "B"}


def test_one_silent_receiver_is_at_the_floor():
    """It heard nothing, which says something about where the transmitter is."""
    recordings = {"A": (SILENT, 48e3), "B": (IQ, 48e3)}
    features, refused = EXTRACT.each(recordings)
    assert (features[0] == -140).all()
    assert not refused
    np.testing.assert_array_equal(EXTRACT(recordings), features)


def test_an_error_names_only_the_first_of_many_unknown_receivers():
    """The answer to a request of a megabyte must not be as large."""
    many = {f"{n:03}" + 100 * "x": (IQ, 48e3) for n in range(300)}
    with pytest.raises(FeatureError, match=r"'000xxx.*'004xxx.* and 295 more; known") as raised:
        EXTRACT(many)
    assert len(str(raised.value)) < 400


def test_a_constant_is_a_carrier():
    """A converter's offset is power on the carrier, and nowhere else."""
    levels = EXTRACT({"A": (np.full(1000, 0.1 + 0j), 48e3)})[0]
    np.testing.assert_array_equal(levels[3:5].max(axis=0), levels.max(axis=0))


def test_a_recording_larger_than_memory_is_read():
    """10^8 samples, 800 MB if they were stored: one value, repeated by a view."""
    endless = np.broadcast_to(np.complex64(0.5), 10**8)
    config = FeatureConfig(receivers=("A",), n_fft=4096, hop_length=4096, n_frames=2)
    features = FeatureExtractor(config)({"A": (endless, 48e3)})
    np.testing.assert_allclose(10 * np.log10((10 ** (features[0] / 10)).sum(0)), -6.02, atol=0.01)
