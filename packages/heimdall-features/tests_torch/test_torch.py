"""The torchaudio module gives the same as the package without torch."""

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
    """Recordings as a batch of one, and a mask of those present."""
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
def test_the_values_are_the_same_to_a_thousandth_of_a_db(data):
    """Training on a GPU and service on a CPU must agree, down to 80 dB below the strongest band.

    Further down, float32 itself rounds more.
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
    """Both use the same plan of frames and columns."""
    iq = noise(np.random.default_rng(0), n_samples).astype(np.complex64)
    expected = FeatureExtractor(CONFIG)({"A": (iq, 48e3)})[0]
    found = MelFeatures(CONFIG)(torch.from_numpy(np.stack([iq, iq])[None]))[0, 0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_double_precision_stays_double():
    """complex128 helps where float32 rounds too much."""
    iq = torch.from_numpy(noise(np.random.default_rng(0), 4096)).expand(1, 2, -1)
    assert MelFeatures(CONFIG)(iq).dtype == torch.float64


def test_gradients_agree_with_finite_differences():
    """The module is differentiable with respect to every sample."""
    config = FeatureConfig(receivers=("A",), n_fft=16, hop_length=8, n_mels=2, n_frames=3)
    iq = torch.from_numpy(noise(np.random.default_rng(0), 40))[None, None].requires_grad_()
    assert torch.autograd.gradcheck(MelFeatures(config), (iq,), eps=1e-6, atol=1e-4)


def test_a_batch_gives_the_same_as_its_samples():
    """No sample affects another."""
    iq = torch.from_numpy(noise(np.random.default_rng(0), 6 * 5000).reshape(3, 2, 5000))
    together = MelFeatures(CONFIG)(iq)
    apart = torch.cat([MelFeatures(CONFIG)(one[None]) for one in iq])
    torch.testing.assert_close(together, apart)


def test_the_module_saves_nothing():
    """A filter bank in a checkpoint could contradict its configuration."""
    assert not MelFeatures(CONFIG).state_dict()


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_of_this_machine_gives_the_same(device):
    """The module is made for GPUs."""
    iq = noise(np.random.default_rng(0), 20_000).astype(np.complex64)
    both = torch.from_numpy(np.stack([iq, iq])[None]).to(device)
    found = MelFeatures(CONFIG).to(device)(both).cpu().numpy()
    expected = FeatureExtractor(CONFIG)({"A": (iq, 48e3), "B": (iq, 48e3)})
    np.testing.assert_allclose(found[0], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("iq", "message"),
    [
        (torch.zeros(2, 4096, dtype=torch.complex64), r"not \(2, 4096\)"),
        (torch.zeros(1, 3, 4096, dtype=torch.complex64), r"not \(1, 3, 4096\)"),
        (torch.zeros(1, 2, 4096), "takes complex IQ, not torch.float32"),
        (torch.zeros(1, 2, 100, dtype=torch.complex64), "100 samples are less than one frame"),
        (torch.full((1, 2, 4096), torch.nan + 0j), "holds NaN or infinite samples"),
        (torch.full((1, 2, 4096), 9 + 0j), "samples above 8, and full scale is 1"),
    ],
)
def test_an_invalid_batch_is_rejected(iq, message):
    """The same errors as without torch."""
    with pytest.raises(FeatureError, match=message):
        MelFeatures(CONFIG)(iq)
