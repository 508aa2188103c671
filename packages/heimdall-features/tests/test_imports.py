"""The package is light to import."""

import subprocess
import sys

import heimdall_features


def loads(module: str, *names: str, after: str = "") -> list[str]:
    """Those of the names that a fresh interpreter has loaded after importing the module."""
    code = f"import sys, {module}\n{after}\nprint(*({set(names)!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_importing_the_package_loads_neither_torch_nor_scipy():
    """Inference services import this package where torch is not installed."""
    assert not loads(
        "heimdall_features", "torch", "torchaudio", "scipy", "hypothesis", "numpy.random"
    )


def test_a_loaded_module_would_be_noticed():
    """The test above can fail: NumPy is loaded, and found."""
    assert loads("heimdall_features", "numpy") == ["numpy"]


def test_a_resampler_is_loaded_only_where_rates_differ():
    """scipy.signal takes 1.5 s to import."""
    extract = (
        "import numpy as np\n"
        "f = heimdall_features\n"
        "x = f.FeatureExtractor(f.FeatureConfig(receivers=('A',)))\n"
        "x({{'A': (np.ones(20_000, np.complex64), {rate_hz})}})"
    )
    same, other = extract.format(rate_hz=48_000), extract.format(rate_hz=192_000)
    assert not loads("heimdall_features", "scipy.signal", after=same)
    assert loads("heimdall_features", "scipy.signal", after=other)


def test_the_names_of_the_contract_are_public():
    """Other packages import them; a missing one breaks these packages."""
    assert set(heimdall_features.__all__) >= {
        "FeatureConfig",
        "FeatureExtractor",
        "NormalizationStats",
        "augment_features",
        "compute_mfcc",
        "iq_to_mel_spectrogram",
        "normalize_features",
    }
    assert all(hasattr(heimdall_features, name) for name in heimdall_features.__all__)
