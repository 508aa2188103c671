"""Settings of the features, valid once made, and their fingerprint.

The fingerprint is the SHA-256 of the settings in canonical JSON (RFC 8785 in spirit: sorted
keys, no spaces, one spelling per number) together with `ALGORITHM_VERSION`, which rises
whenever the numbers of any feature change by more than rounding.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Final, Literal, Self, get_args

from heimdall_features.errors import FeatureError

__all__ = [
    "ALGORITHM_VERSION",
    "SPEED_OF_LIGHT_M_S",
    "FeatureConfig",
    "MelNorm",
    "MelScale",
    "Spectrum",
    "SpectrumConfig",
]


SPEED_OF_LIGHT_M_S: Final = 299_792_458.0


ALGORITHM_VERSION: Final = 1
"""Rises whenever the numbers of any feature change by more than rounding."""

Spectrum = Literal["two-sided", "one-sided", "envelope"]
MelScale = Literal["radio", "htk", "slaney"]
MelNorm = Literal["peak", "slaney"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumConfig:
    """Settings of mel bands over time, in decibels."""

    sample_rate_hz: float = 48_000.0
    n_mels: int = 128
    n_fft: int = 2048
    hop_length: int = 512
    spectrum: Spectrum = "two-sided"
    """Both sides of the carrier of complex IQ; or one side of a real signal; or of `|iq|`."""
    mel_scale: MelScale = "radio"
    """`radio` is HTK's formula, its corner raised where a band would hold no FFT bin."""
    mel_norm: MelNorm = "peak"
    """Each triangle's peak is 1 (a band's level is its power), or its area is 1 (Slaney)."""
    f_min_hz: float = 0.0
    f_max_hz: float | None = None
    """The outermost edge, on either side of the carrier; None is half the sample rate."""
    floor_db: float = -140.0
    """No level is below this; -140 dB lies under the rounding noise of 16-bit receivers."""

    def __post_init__(self) -> None:
        """Refuse what cannot be computed.

        Raises:
            FeatureError: says which setting is wrong and what to do.
        """
        for name in ("n_mels", "n_fft", "hop_length"):
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        for name in ("sample_rate_hz", "f_min_hz", "floor_db"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        if self.f_max_hz is not None:
            object.__setattr__(self, "f_max_hz", _number("f_max_hz", self.f_max_hz))
        _require_choice("spectrum", self.spectrum, get_args(Spectrum))
        _require_choice("mel_scale", self.mel_scale, get_args(MelScale))
        _require_choice("mel_norm", self.mel_norm, get_args(MelNorm))
        self._require_frames()
        self._require_band()

    def _require_frames(self) -> None:
        if self.n_fft < 4 or self.n_fft % 2:
            raise FeatureError(f"n_fft is {self.n_fft}; it must be even and at least 4")
        if self.hop_length > self.n_fft:
            raise FeatureError(
                f"hop_length {self.hop_length} exceeds n_fft {self.n_fft}, so that samples "
                f"between frames would be lost; use at most {self.n_fft}"
            )
        _require_level("floor_db", self.floor_db)

    def _require_band(self) -> None:
        if self.sample_rate_hz <= 0.0:
            raise FeatureError(f"sample_rate_hz is {self.sample_rate_hz}; a rate is positive")
        if self.spectrum == "two-sided" and self.f_min_hz != 0.0:
            raise FeatureError(
                f"f_min_hz is {self.f_min_hz}, but two-sided bands start at the carrier; "
                "leave it 0 or use spectrum='one-sided'"
            )
        if not 0.0 <= self.f_min_hz < self.band_edge_hz <= self.sample_rate_hz / 2:
            raise FeatureError(
                f"bands from f_min_hz={self.f_min_hz} to f_max_hz={self.band_edge_hz} do not lie "
                f"in order between 0 and half the sample rate, {self.sample_rate_hz / 2} Hz"
            )

    @property
    def band_edge_hz(self) -> float:
        """The outermost edge of the bands, in Hz from the carrier."""
        return self.sample_rate_hz / 2 if self.f_max_hz is None else self.f_max_hz


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureConfig(SpectrumConfig):
    """Settings of the model's input: its receivers, and the features of each."""

    receivers: tuple[str, ...]
    """The channels of the tensor, in order."""
    n_frames: int = 32
    """Columns in time; they cover the recording, however long it is."""
    missing_db: float | None = None
    """The level that fills the channel of a missing receiver; None is the floor."""

    def __post_init__(self) -> None:
        """Refuse what cannot be computed.

        Raises:
            FeatureError: says which setting is wrong and what to do.
        """
        SpectrumConfig.__post_init__(self)
        object.__setattr__(self, "n_frames", _count("n_frames", self.n_frames))
        if self.missing_db is not None:
            object.__setattr__(self, "missing_db", _number("missing_db", self.missing_db))
            _require_level("missing_db", self.missing_db)
        object.__setattr__(self, "receivers", _names(self.receivers))

    @property
    def fill_db(self) -> float:
        """The level that fills the channel of a missing receiver, in dB."""
        return self.floor_db if self.missing_db is None else self.missing_db

    @property
    def shape(self) -> tuple[int, int, int]:
        """The tensor's shape: receivers, mel bands, frames."""
        return len(self.receivers), self.n_mels, self.n_frames

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits, the same on every machine for the same settings.

        A setting that is None and the value it stands for are two settings.
        """
        # The version of the algorithm, not of the package: most releases change no number.
        text = f"heimdall-features:{ALGORITHM_VERSION}:{self.to_json()}"
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """These settings in canonical JSON: one text for one meaning."""
        return json.dumps(
            dataclasses.asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The settings that `to_json` wrote.

        Raises:
            FeatureError: when the text is no such JSON, or names a setting we do not know.
        """
        try:
            fields = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise FeatureError(f"a feature configuration is JSON, not {text!r:.200}") from error
        if not isinstance(fields, dict):
            raise FeatureError(f"a feature configuration is a JSON object, not {text!r:.200}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise FeatureError(
                f"the feature configuration has settings this version does not know: {unknown}; "
                "install the version of heimdall-features that wrote it"
            )
        if missing := sorted(known - set(fields)):
            raise FeatureError(f"the feature configuration lacks {missing}")
        if not isinstance(fields["receivers"], list):
            raise FeatureError(f"receivers is {fields['receivers']!r}; it must be a JSON list")
        return cls(**fields)


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise FeatureError(f"{name} is {value!r}; it must be a whole number of at least 1")
    return int(value)


def _number(name: str, value: object) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    number = _nearest_float(value) if is_number else math.nan
    if not math.isfinite(number):
        raise FeatureError(f"{name} is {value!r:.50}; it must be a finite number")
    return number + 0.0  # so that -0.0 and 0.0 are one setting


def _nearest_float(value: Any) -> float:  # noqa: ANN401 - any real number
    try:
        return float(value)
    except OverflowError:  # an integer may be larger than any float
        return math.inf


def _require_level(name: str, level_db: float) -> None:
    if not -1000.0 < level_db < 1000.0:
        raise FeatureError(f"{name} is {level_db}; use a level such as -140 dB")


def _names(receivers: object) -> tuple[str, ...]:
    if isinstance(receivers, str) or not isinstance(receivers, Iterable):
        raise FeatureError(f"receivers is {receivers!r}; give a tuple of names")
    names = tuple(receivers)
    if not names:
        raise FeatureError("receivers is (); name at least one")
    for name in names:
        if not isinstance(name, str) or not name:
            raise FeatureError(f"receiver {name!r} is no name; use a non-empty string")
    if len(set(names)) < len(names):
        raise FeatureError(f"receivers {names} names one twice")
    return names


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise FeatureError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
