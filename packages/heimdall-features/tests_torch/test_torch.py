"""The module on torchaudio gives what the package gives without torch."""

import numpy as np
import pytest
import torch
from heimdall_features import FeatureConfig, FeatureError, FeatureExtractor
from heimdall_features.testing import feature_configs, noise, recordings
from heimdall_features.torch import MelFeatures
from hypothesis import given, settings
from hypothesis import strategies as st

suite = settings(max_examples=100, deadline=None)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CONFIG = FeatureConfig(receivers=("A", "B"))


def batch(config, heard):
    """Recordings as a batch of one, and which of them are there."""
    n_samples = min(iq.size for iq, _ in heard.values())
    dtype = np.float32 if config.spectrum == "one-sided" else np.complex64
    iq = np.zeros((1, len(config.receivers), n_samples), dtype)
    for channel, name in enumerate(config.receivers):
        if name in heard:
            iq[0, channel] = heard[name][0][:n_samples]
    present = torch.tensor([[name in heard for name in config.receivers]])
    return torch.from_numpy(iq), present


@suite
@given(st.data())
def test_the_numbers_are_the_same_to_a_thousandth_of_a_db(data):
    """Features made on a GPU in training and on a CPU in service must be one thing.

    To 80 dB below the strongest band: further down, float32's own rounding is larger.
    """
    config = data.draw(feature_configs())
    heard = data.draw(recordings(config))
    expected = FeatureExtractor(config)(heard)
    iq, present = batch(config, heard)
    found = MelFeatures(config)(iq, present)[0].numpy()
    audible = expected > np.maximum(expected.max(axis=(1, 2), keepdims=True) - 80, config.floor_db)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[audible], expected[audible], atol=1e-3)
    np.testing.assert_array_equal(found[~present[0].numpy()], config.fill_db)


@suite
@given(st.integers(2048, 30_000))
def test_any_length_gives_the_same_columns(n_samples):
    """Frames and columns are laid out by the same plan."""
    iq = noise(np.random.default_rng(0), n_samples).astype(np.complex64)
    expected = FeatureExtractor(CONFIG)({"A": (iq, 48e3)})[0]
    found = MelFeatures(CONFIG)(torch.from_numpy(np.stack([iq, iq])[None]))[0, 0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_double_precision_stays_double():
    """Where float32 rounds too much, complex128 does not."""
    iq = torch.from_numpy(noise(np.random.default_rng(0), 4096)).expand(1, 2, -1)
    assert MelFeatures(CONFIG)(iq).dtype == torch.float64


def test_gradients_reach_every_sample_and_are_true():
    """The module is differentiable: against finite differences, in double precision."""
    config = FeatureConfig(receivers=("A",), n_fft=16, hop_length=8, n_mels=2, n_frames=3)
    iq = torch.from_numpy(noise(np.random.default_rng(0), 40))[None, None].requires_grad_()
    assert torch.autograd.gradcheck(MelFeatures(config), (iq,), eps=1e-6, atol=1e-4)


def test_a_batch_gives_what_its_samples_give():
    """Nothing leaks from one sample into another."""
    iq = torch.from_numpy(noise(np.random.default_rng(0), 6 * 5000).reshape(3, 2, 5000))
    together = MelFeatures(CONFIG)(iq)
    apart = torch.cat([MelFeatures(CONFIG)(one[None]) for one in iq])
    torch.testing.assert_close(together, apart)


def test_the_module_has_nothing_to_save():
    """A checkpoint that holds a filter bank could contradict its configuration."""
    assert not MelFeatures(CONFIG).state_dict()


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_of_this_machine_gives_the_same(device):
    """It is for the GPU that the module exists."""
    iq = noise(np.random.default_rng(0), 20_000).astype(np.complex64)
    both = torch.from_numpy(np.stack([iq, iq])[None]).to(device)
    found = MelFeatures(CONFIG).to(device)(both).cpu().numpy()
    expected = FeatureExtractor(CONFIG)({"A": (iq, 48e3), "B": (iq, 48e3)})
    np.testing.assert_allclose(found[0], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("iq", "says"),
    [
        (torch.zeros(2, 4096, dtype=torch.complex64), "shape (batch, 2, n_samples), not (2, 4096)"),
        (torch.zeros(1, 3, 4096, dtype=torch.complex64), "not (1, 3, 4096)"),
        (torch.zeros(1, 2, 4096), "a two-sided spectrum is of complex IQ, not torch.float32"),
        (torch.zeros(1, 2, 100, dtype=torch.complex64), "100 samples are less than one frame"),
        (torch.full((1, 2, 4096), torch.nan + 0j), "holds NaN or infinite samples"),
    ],
)
def test_what_is_no_batch_is_refused(iq, says):
    """The same laws as without torch."""
    with pytest.raises(FeatureError) as error:
        MelFeatures(CONFIG)(iq)
    assert says in str(error.value)
