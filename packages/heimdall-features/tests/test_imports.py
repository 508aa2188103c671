"""The package is light, and says so truly."""

import subprocess
import sys

import heimdall_features


def loads(module: str, *names: str, after: str = "") -> list[str]:
    """Which of the names a fresh interpreter holds once it has imported the module."""
    code = f"import sys, {module}\n{after}\nprint(*({set(names)!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_importing_the_package_loads_neither_torch_nor_scipy():
    """Inference services import this package where torch is not installed."""
    assert not loads(
        "heimdall_features", "torch", "torchaudio", "scipy", "hypothesis", "numpy.random"
    )


def test_the_probe_can_say_yes():
    """The test above can fail: NumPy, which is loaded, is seen."""
    assert loads("heimdall_features", "numpy") == ["numpy"]


def test_a_resampler_is_loaded_only_where_rates_differ():
    """scipy.signal takes a second and a half to import."""
    extract = (
        "import numpy as np\n"
        "f = heimdall_features\n"
        "x = f.FeatureExtractor(f.FeatureConfig(receivers=('A',)))\n"
        "x({{'A': (np.ones(20_000, np.complex64), {rate_hz})}})"
    )
    same, other = extract.format(rate_hz=48_000), extract.format(rate_hz=192_000)
    assert not loads("heimdall_features", "scipy.signal", after=same)
    assert loads("heimdall_features", "scipy.signal", after=other)


def test_the_public_names_are_the_contracts_and_few():
    """Other packages import these; one that vanishes breaks them."""
    assert set(heimdall_features.__all__) == {
        "ARRIVAL_COLUMNS",
        "ArrivalConfig",
        "ArrivalExtractor",
        "Augmentation",
        "Blocks",
        "ClockedRecording",
        "CorrelationConfig",
        "FeatureConfig",
        "FeatureError",
        "FeatureExtractor",
        "NormalizationStats",
        "augment_features",
        "compute_mfcc",
        "cross_correlation_features",
        "iq_to_mel_spectrogram",
        "normalize_features",
    }
    assert all(hasattr(heimdall_features, name) for name in heimdall_features.__all__)
