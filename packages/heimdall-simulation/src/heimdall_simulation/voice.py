"""A modulating signal with the statistics of speech.

Only the spectrum, the level and the silences of speech are simulated, because a receiver and an
estimator of delay see nothing else. A source (pulses of the voice, or the noise of a consonant)
is shaped by the formants of a vowel, with an envelope of four syllables a second. Talk spurts and
pauses alternate with exponential lengths. The mean spurt of 1.004 s is that of ITU-T P.59; the
pause is shortened to the breath of a speaker who holds the key.

Sources: G. Fant, "Acoustic Theory of Speech Production" (1960); G. E. Peterson and H. L. Barney,
JASA 24 (1952), for mean formants; T. Houtgast and H. J. M. Steeneken, JASA 77 (1985), for the
syllables; TIA-603 for the audio band and the pre-emphasis.
"""

import numpy as np
from numpy.typing import NDArray

AUDIO_BAND_HZ = (300.0, 3000.0)
"""Audio band of a narrow-band FM transmitter (TIA-603)."""
_AUDIO_RATE_HZ = 8000.0
_MEAN_SPURT_S, _MEAN_PAUSE_S = 1.004, 0.4
_MEAN_SYLLABLE_S = 0.25
_BREATH_DB = -60.0
# Peterson and Barney, table II: F1, F2 and F3 of ten vowels, means of men.
_FORMANTS_HZ = np.array(
    [
        (270, 2290, 3010),
        (390, 1990, 2550),
        (530, 1840, 2480),
        (660, 1720, 2410),
        (730, 1090, 2440),
        (570, 840, 2410),
        (440, 1020, 2240),
        (300, 870, 2240),
        (640, 1190, 2390),
        (490, 1350, 1690),
    ],
    dtype=np.float64,
)
_FORMANT_WIDTHS_HZ = np.array([60.0, 90.0, 150.0])
_FORMANT_WEIGHTS = np.array([1.0, 0.5, 0.25])

Float64 = NDArray[np.float64]


def modulating_signal(rng: np.random.Generator, n_samples: int, sample_rate_hz: float) -> Float64:
    """Return the input of a transmitter's modulator: within ±1 and of mean zero, `(n_samples,)`.

    It is pre-emphasised, limited and filtered to `AUDIO_BAND_HZ`, as in a transmitter, and
    periodic, so that a delay in the frequency domain is exact.
    """
    duration_s = n_samples / sample_rate_hz
    n_audio = round(duration_s * _AUDIO_RATE_HZ)
    frequency_hz = np.arange(n_audio // 2 + 1) / duration_s
    low, high = AUDIO_BAND_HZ
    rise = np.clip((frequency_hz - low) / 100.0, 0, 1)
    fall = np.clip((high - frequency_hz) / 300.0, 0, 1)
    band_pass = np.sin(np.pi / 2 * rise) ** 2 * np.sin(np.pi / 2 * fall) ** 2
    # 6 dB per octave within the audio band.
    emphasis = 1j * frequency_hz / low * band_pass
    emphasised = np.fft.rfft(_speech(rng, n_audio)) * emphasis
    limited = np.tanh(_to_unit_rms(np.fft.irfft(emphasised, n_audio)))
    audio = np.fft.irfft(np.fft.rfft(limited) * band_pass, n_samples) * (n_samples / n_audio)
    return audio / max(1.0, float(np.abs(audio).max()))


def _speech(rng: np.random.Generator, n_audio: int) -> Float64:
    """Syllables, with only breath in the pauses, at the audio rate."""
    voiced = _voice_pulses(rng, n_audio)
    speech = np.zeros(n_audio)
    onset = -int(rng.uniform(0, _MEAN_SYLLABLE_S) * _AUDIO_RATE_HZ)
    while onset < n_audio:
        length = int(rng.gamma(8, _MEAN_SYLLABLE_S / 8) * _AUDIO_RATE_HZ) + 64
        _add_syllable(rng, speech, voiced, onset, length)
        onset += length
    breath = 10 ** (_BREATH_DB / 20) * rng.standard_normal(n_audio)
    return _to_unit_rms(speech) * _talking(rng, n_audio) + breath


def _voice_pulses(rng: np.random.Generator, n_audio: int) -> Float64:
    """Glottal pulses `exp(k (cos - 1))` at a varying pitch: smooth, so band-limited."""
    pitch_hz = rng.uniform(90, 230)
    bends = np.cumsum(rng.standard_normal(n_audio // 800 + 2)) * 0.03
    bend = np.interp(np.arange(n_audio) / 800, np.arange(len(bends)), bends)
    phase = 2 * np.pi * np.cumsum(pitch_hz * np.exp(bend)) / _AUDIO_RATE_HZ
    # The harmonics fall off as a Gaussian of standard deviation sqrt(k) harmonics: 1200 Hz.
    return np.exp((1200 / pitch_hz) ** 2 * (np.cos(phase) - 1))


def _add_syllable(
    rng: np.random.Generator, speech: Float64, voiced: Float64, onset: int, length: int
) -> None:
    """Add a consonant of noise and a vowel of pulses to `speech`, in place."""
    begin, end = max(onset, 0), min(onset + length, len(speech))
    vowel = _FORMANTS_HZ[rng.integers(len(_FORMANTS_HZ))] * rng.uniform(0.9, 1.2)
    consonant_share, consonant_level = rng.uniform(0.1, 0.4), rng.uniform(0.05, 0.4)
    noise = rng.standard_normal(length)
    if end - begin < 2:
        return
    place = (np.arange(begin, end) - onset) / length
    is_consonant = place < consonant_share
    rise = np.sin(np.pi * np.clip((place - consonant_share) / (1 - consonant_share), 0, 1)) ** 2
    hiss = np.diff(noise, prepend=0.0)[begin - onset : end - onset]
    envelope = np.sin(np.pi * place / consonant_share) ** 2
    # Three resonances in parallel (Fant 1960).
    frequency_hz = np.fft.rfftfreq(end - begin, 1 / _AUDIO_RATE_HZ)[:, None]
    detuning = (frequency_hz - vowel) / _FORMANT_WIDTHS_HZ
    response = (_FORMANT_WEIGHTS / (1 + 2j * detuning)).sum(axis=1)
    pulses = np.fft.rfft(voiced[begin:end] * rise)
    speech[begin:end] += _to_unit_rms(np.fft.irfft(pulses * response, end - begin))
    speech[begin:end] += np.where(is_consonant, consonant_level * envelope * hiss, 0.0)


def _talking(rng: np.random.Generator, n_audio: int) -> Float64:
    """1 during speech, 0 in pauses."""
    talks = bool(rng.random() < _MEAN_SPURT_S / (_MEAN_SPURT_S + _MEAN_PAUSE_S))
    gate, at = np.empty(n_audio), 0
    while at < n_audio:
        length_s = rng.exponential(_MEAN_SPURT_S if talks else _MEAN_PAUSE_S)
        until = at + 1 + int(length_s * _AUDIO_RATE_HZ)
        gate[at:until] = talks
        at, talks = until, not talks
    return gate


def _to_unit_rms(signal: Float64) -> Float64:
    rms = float(np.sqrt(np.mean(signal**2)))
    return signal / rms if rms > 0 else signal
