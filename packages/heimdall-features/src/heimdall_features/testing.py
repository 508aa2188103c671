"""Signals with known answers, and Hypothesis strategies; needs Hypothesis."""

from typing import get_args
from urllib.parse import quote

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from numpy.typing import NDArray

from heimdall_features.config import FeatureConfig, Spectrum
from heimdall_features.mel import filter_bank
from heimdall_features.signal import Samples

Complex128 = NDArray[np.complex128]


def tone(frequency_hz: float, rate_hz: float, n_samples: int) -> Complex128:
    """Return a full-scale carrier, `(n_samples,)`."""
    turns = frequency_hz / rate_hz * np.arange(n_samples)
    return np.asarray(np.exp(2j * np.pi * turns), dtype=np.complex128)


def noise(rng: np.random.Generator, n_samples: int, bandwidth: float = 1.0) -> Complex128:
    """Return Gaussian noise of power 1, `(n_samples,)`, in the middle of the spectrum."""
    white = rng.normal(size=n_samples) + 1j * rng.normal(size=n_samples)
    spectrum = np.fft.fft(white)
    spectrum[np.abs(np.fft.fftfreq(n_samples)) > bandwidth / 2] = 0.0
    shaped: Complex128 = np.fft.ifft(spectrum)
    return np.asarray(shaped / np.sqrt(np.mean(np.square(np.abs(shaped)))), dtype=np.complex128)


def keyed(time_s: NDArray[np.float64]) -> Complex128:
    """Return a carrier at these times, keyed once a second and phase-modulated as DCF77's is.

    Unlike noise, it fits itself somewhat at any lag.
    """
    chips = np.random.default_rng(0).choice([-1, 1], 512)
    phase = 0.27 * chips[np.floor(time_s * 645.8).astype(np.intp) % 512] * (time_s % 1 > 0.2)
    signal: Complex128 = np.where(time_s % 1 < 0.1, 0.15, 1.0) * np.exp(1j * phase)
    return signal


def delayed(signal: Complex128, delay_s: float, rate_hz: float) -> Complex128:
    """Return the periodic signal with any fractional delay, exact by the Fourier shift theorem."""
    frequencies_hz = np.fft.fftfreq(signal.size, 1 / rate_hz)
    later: Complex128 = np.fft.ifft(
        np.fft.fft(signal) * np.exp(-2j * np.pi * frequencies_hz * delay_s)
    )
    return later


@st.composite
def feature_configs(draw: DrawFn, spectrum: Spectrum | None = None) -> FeatureConfig:
    """Draw valid configurations that are quick to compute."""
    spectra: list[Spectrum] = [spectrum] if spectrum else list(get_args(Spectrum))
    n_fft = draw(st.sampled_from([64, 96, 128, 256, 512, 1000, 1024]))
    config = FeatureConfig(
        receivers=("A", "B", "C")[: draw(st.integers(1, 3))],
        sample_rate_hz=draw(st.sampled_from([8e3, 12e3, 12_001.145, 48e3, 192e3, 2.4e6])),
        n_mels=draw(st.integers(1, n_fft // 8)),
        n_frames=draw(st.integers(1, 40)),
        n_fft=n_fft,
        hop_length=draw(st.integers(max(1, n_fft // 8), n_fft)),
        spectrum=draw(st.sampled_from(spectra)),
        mel_norm=draw(st.sampled_from(["peak", "slaney"])),
        floor_db=draw(st.sampled_from([-140.0, -120.0, -100.0])),
    )
    filter_bank(config)  # raises if a band is silent
    return config


@st.composite
def recordings(draw: DrawFn, config: FeatureConfig) -> dict[str, tuple[Samples, float]]:
    """Draw noise with a tone at some receivers of a configuration, of any length."""
    names = draw(st.lists(st.sampled_from(config.receivers), min_size=1, unique=True))
    n_samples = draw(st.integers(config.n_fft, 8 * config.n_fft))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found: dict[str, tuple[Samples, float]] = {}
    for name in names:
        level = 10 ** (draw(st.floats(-1.5, -0.5)))
        iq = level * (noise(rng, n_samples) + draw(st.floats(0, 10)) * tone(0.1, 1.0, n_samples))
        kept = iq.real.astype(np.float32) if config.spectrum == "one-sided" else iq
        found[name] = (kept, config.sample_rate_hz)
    return found


HOSTILE = (
    "\0\x07\x08\t\n\r\x1b\x1f\x7f\x80\x85\x9b\xad\u061c\u200b\u200d\u200e\u2028\u2029"
    "\u202a\u202e\u2060\u2066\u2069\ufeff\ufdd0\ufffe\uffff\udc80\ud800\U000e0001\U0010ffff"
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180f\u200c\u2800\u3164\ufe00\ufe0f\uffa0\ufff0\U000e01ef"
)
"""Characters that no name may have: one or more of each kind."""


def hostile_names(characters: str = HOSTILE) -> st.SearchStrategy[str]:
    """Strategy: short names with one of the characters somewhere among ordinary ones.

    One of these (U+F900) is another character in normal form C, so a law compares `composed` names.
    """
    ordinary = st.text("aZ7 -<&>\"'{%\\é東\uf900", max_size=4)
    return st.tuples(ordinary, st.sampled_from(characters), ordinary).map("".join)


AWKWARD = "@/\"' ?#%:&=\n\t\\;,|[]{}<>+é漢\u202e"
"""Characters of a password on which libraries disagree, or that end a line or a quotation."""
_FORMS = (
    "{scheme}://{user}:{password}@{host}{rest}",
    "{scheme}://:{password}@{host}{rest}",
    "https://{password}@{host}{rest}",
    "{user}:{password}@{host}{rest}",
    "{scheme}:/{user}:{password}@{host}{rest}",
    "{scheme}://{host}/db?password={password}",
    "{scheme}://{host}?user={user}&password={password}&sslmode=require",
    "{scheme}://{user}@{host}/db?sslpassword={password}",
    "{scheme}://{host}/db&password={password}",
    "{scheme}://{host}/?X-Amz-Signature={password}",
    "host=h user={user} password={password} dbname=db",
    "host=h password='{password}'",
    "sqlite:///x.db?password={password}",
    "sqlite+pysqlcipher://:{password}@/x.db",
)
_SCHEMES = ("postgresql", "postgresql+psycopg", "http", "https", "redis", "amqp", "mysql", "s3")


@st.composite
def addresses(draw: DrawFn) -> tuple[str, str]:
    """Draw an address with a password, and that password as it is typed there."""
    password = f"Gehe{draw(st.text(st.sampled_from('ab1-' + AWKWARD), max_size=6))}im7"
    typed = draw(st.sampled_from([password, quote(password, safe="")]))
    address = draw(st.sampled_from(_FORMS)).format(
        scheme=draw(st.sampled_from(_SCHEMES)),
        user=draw(st.sampled_from(["", "mlf", "user@corp", "a b"])),
        password=typed,
        host=draw(st.sampled_from(["h", "127.0.0.1:1", "[::1]:5432", "h1:1,h2:2"])),
        rest=draw(st.sampled_from(["", "/", "/db", "/db?sslmode=require", "//", "/a/b#c"])),
    )
    return address, typed


def has_password(text: str) -> bool:
    """Return True if a text has the begin or the end of a password of `addresses`."""
    return "Gehe" in text or "im7" in text
