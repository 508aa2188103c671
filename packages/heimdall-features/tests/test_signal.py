"""Memory maps and streams give the same as arrays."""

import tracemalloc

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
    """Cut the array into blocks of these sizes, over and over."""
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
def test_a_stream_of_any_blocks_gives_the_same_as_the_array(sizes, n_samples, rate_hz):
    """The features must not depend on how a recording arrives."""
    iq = IQ[: n_samples * 5]
    streamed = EXTRACT({"A": (Blocks(pieces(iq, sizes), iq.size), rate_hz)})
    np.testing.assert_allclose(streamed, EXTRACT({"A": (iq, rate_hz)}), atol=1e-4)


def test_a_memory_map_gives_the_same_as_the_array(tmp_path):
    """A recording larger than memory is read in place."""
    np.save(tmp_path / "iq.npy", IQ)
    mapped = np.load(tmp_path / "iq.npy", mmap_mode="r")
    np.testing.assert_array_equal(EXTRACT({"A": (mapped, 48e3)}), EXTRACT({"A": (IQ, 48e3)}))


def test_a_stream_is_dropped_as_it_is_read():
    """Memory is limited: no more than one read and one block are kept."""
    n_samples = 10**6
    blocks = (np.ones(1000, np.complex64) for _ in range(n_samples // 1000))
    source = open_source(Blocks(blocks, n_samples), "two-sided")
    tracemalloc.start()
    for start in range(0, n_samples - 256, 64):
        source.read(start, start + 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.dtype(">c8")])
def test_precision_and_byte_order_do_not_matter(dtype):
    """Many kinds of machines write recordings."""
    np.testing.assert_allclose(
        EXTRACT({"A": (IQ.astype(dtype), 48e3)}), EXTRACT({"A": (IQ, 48e3)}), atol=1e-4
    )


@pytest.mark.parametrize("view", [np.stack([IQ, IQ], axis=1)[:, 1], IQ[::-1].copy()[::-1]])
def test_strides_do_not_matter(view):
    """A channel of an interleaved array is a recording too."""
    np.testing.assert_array_equal(EXTRACT({"A": (view, 48e3)}), EXTRACT({"A": (IQ, 48e3)}))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (200_001, "end after 200000 samples, not n_samples=200001"),
        (199_999, "hold 200000 samples, not n_samples=199999"),
        (0, "0 samples are less than one frame of n_fft=256"),
        (2.5, "n_samples is 2.5"),
    ],
)
def test_a_stream_of_another_length_than_declared_is_rejected(declared, message):
    """Columns computed from another length would be wrong unnoticed."""
    with pytest.raises(FeatureError, match=message):
        EXTRACT({"A": (Blocks(pieces(IQ, [777]), declared), 48e3)})


def test_a_block_of_another_type_is_rejected():
    """A stream that changes to integers has changed its scale."""
    blocks = Blocks([IQ[:500], np.zeros(500, np.int16)], 1000)
    with pytest.raises(FeatureError, match="'A': samples are int16; scale integers"):
        EXTRACT({"A": (blocks, 48e3)})
