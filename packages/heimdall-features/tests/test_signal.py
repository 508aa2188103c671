"""Long recordings: memory maps and streams give what arrays give."""

import numpy as np
import pytest
from heimdall_features import Blocks, FeatureConfig, FeatureError, FeatureExtractor
from heimdall_features.signal import open_source
from heimdall_features.testing import noise
from hypothesis import given
from hypothesis import strategies as st

CONFIG = FeatureConfig(receivers=("A",), n_fft=256, hop_length=64, n_mels=16, n_frames=8)
EXTRACT = FeatureExtractor(CONFIG)
IQ = noise(np.random.default_rng(0), 200_000).astype(np.complex64)


def pieces(iq, sizes):
    """The array cut into blocks of these sizes, over and over."""
    at = 0
    while at < iq.size:
        for size in sizes:
            yield iq[at : at + size]
            at += size


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=5).filter(any),
    st.integers(256, 60_000),
    st.sampled_from([48_000.0, 12_000.0, 200_000.0]),
)
def test_a_stream_of_any_blocks_gives_what_the_array_gives(sizes, n_samples, rate_hz):
    """How a recording arrives must not reach the features."""
    iq = IQ[: n_samples * 5]
    streamed = EXTRACT({"A": (Blocks(pieces(iq, sizes), iq.size), rate_hz)})
    np.testing.assert_allclose(streamed, EXTRACT({"A": (iq, rate_hz)}), atol=1e-4)


def test_a_memory_map_gives_what_the_array_gives(tmp_path):
    """A recording larger than memory is read in place."""
    np.save(tmp_path / "iq.npy", IQ)
    mapped = np.load(tmp_path / "iq.npy", mmap_mode="r")
    np.testing.assert_array_equal(EXTRACT({"A": (mapped, 48e3)}), EXTRACT({"A": (IQ, 48e3)}))


def test_a_stream_is_forgotten_as_it_is_read():
    """Bounded memory: what is held back is one read and no more."""
    source = open_source(Blocks(pieces(IQ, [1000]), IQ.size), "two-sided")
    longest = 0
    for start in range(0, IQ.size - 256, 64):
        source.read(start, start + 256)
        longest = max(longest, len(source._held))
    assert longest <= 256 + 1000


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.dtype(">c8")])
def test_precision_and_byte_order_do_not_matter(dtype):
    """Recordings are written by many machines."""
    np.testing.assert_allclose(
        EXTRACT({"A": (IQ.astype(dtype), 48e3)}), EXTRACT({"A": (IQ, 48e3)}), atol=1e-4
    )


def test_strides_do_not_matter():
    """A channel cut out of an interleaved array is a recording too."""
    two = np.stack([IQ, IQ], axis=1)
    np.testing.assert_array_equal(EXTRACT({"A": (two[:, 1], 48e3)}), EXTRACT({"A": (IQ, 48e3)}))
    np.testing.assert_array_equal(
        EXTRACT({"A": (IQ[::-1][::-1], 48e3)}), EXTRACT({"A": (IQ, 48e3)})
    )


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        (200_001, "the blocks end after 200000 samples; n_samples=200001 declared"),
        (199_999, "the blocks hold 200000 samples; n_samples=199999 declared"),
        (0, "0 samples are less than one frame of n_fft=256"),
        (2.5, "n_samples is 2.5; declare the blocks' total"),
    ],
)
def test_a_stream_that_is_not_as_long_as_declared_is_refused(declared, says):
    """Columns laid out over another length would be silently wrong."""
    with pytest.raises(FeatureError) as error:
        EXTRACT({"A": (Blocks(pieces(IQ, [777]), declared), 48e3)})
    assert says in str(error.value)


def test_a_block_of_another_kind_is_refused():
    """A stream that turns to integers half-way has changed its scale."""
    blocks = Blocks([IQ[:500], np.zeros(500, np.int16)], 1000)
    with pytest.raises(FeatureError, match="'A': samples are int16; scale integers"):
        EXTRACT({"A": (blocks, 48e3)})
