"""Bad input gives a clear error or a documented finite result, never a wrong one."""

import numpy as np
import pytest
from heimdall_features import FeatureConfig, FeatureError, FeatureExtractor
from heimdall_features.testing import noise
from hypothesis import given
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
        (IQ * np.float32(1e30), "overflowing samples"),
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
        ({"A": None}, r"no recording at all; give one of \('A', 'B'\)"),
    ],
)
def test_a_missing_rate_or_recording_is_rejected(recordings, message):
    """The rate is easily forgotten, and a session without recordings is a mistake."""
    with pytest.raises(FeatureError, match=message):
        EXTRACT(recordings)


def test_zeros_give_the_floor():
    """A dead antenna gives zeros: a finite level without any signal."""
    assert (EXTRACT({"A": (np.zeros(1000, np.complex64), 48e3)})[0] == -140).all()


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
