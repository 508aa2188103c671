"""Feature settings, validated on creation, and the form in which a model file stores them."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Final, Literal, Self, SupportsFloat, get_args

from heimdall_features.errors import FeatureError
from heimdall_features.names import composed
from heimdall_features.outside_json import parsed_json

SPEED_OF_LIGHT_M_S: Final = 299_792_458.0
ALGORITHM_VERSION: Final = 1
"""Increased whenever the values of a feature change by more than rounding."""
VERSION_KEY: Final = "heimdall.features.version"

Spectrum = Literal["two-sided", "one-sided", "envelope"]
MelScale = Literal["radio", "htk", "slaney"]
MelNorm = Literal["peak", "slaney"]


@dataclass(frozen=True, slots=True)
class StoredSettings:
    """Base of settings that a model file stores as JSON, with a fingerprint.

    The JSON is canonical: sorted keys, no spaces, one spelling per number.
    """

    KIND: ClassVar[str]
    """Part of the metadata keys `heimdall.<kind>.config` and `heimdall.<kind>.fingerprint`."""
    ALGORITHM: ClassVar[int]
    """Increased whenever the computed values change by more than rounding."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the JSON and the algorithm version, 64 hexadecimal digits.

        The package version is not part of it: most releases change no value. A setting of None
        and the value that it stands for have different fingerprints.
        """
        text = f"heimdall-{self.KIND}:{self.ALGORITHM}:{self.to_json()}"
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """Return the settings as canonical JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the settings that `to_json` wrote.

        Raises:
            FeatureError: The text is not that JSON, or settings are unknown, missing or invalid.
        """
        try:
            values = parsed_json(text)
        except (TypeError, ValueError) as error:
            raise FeatureError(f"{text!r:.200} is not the JSON of a {cls.__name__}") from error
        if not isinstance(values, dict):
            raise FeatureError(f"{text!r:.200} is not the JSON of a {cls.__name__}")
        known = {field.name for field in dataclasses.fields(cls)}
        if known ^ set(values):
            raise FeatureError(
                f"settings of a {cls.__name__}: unknown {sorted(set(values) - known)}, missing "
                f"{sorted(known - set(values))}; install the heimdall-features that wrote them"
            )
        try:
            return cls(**values)
        except TypeError as error:  # a value of another type
            raise FeatureError(f"{text!r:.200} has an invalid value: {error}") from error

    def metadata(self) -> dict[str, str]:
        """Return the entries of a model file that `from_metadata` reads."""
        return {
            f"heimdall.{self.KIND}.config": self.to_json(),
            f"heimdall.{self.KIND}.fingerprint": self.fingerprint,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Return the settings that a model was trained with; further entries are ignored.

        Raises:
            FeatureError: This version cannot compute the input that the model was trained on.
        """
        keys = f"heimdall.{cls.KIND}.config", f"heimdall.{cls.KIND}.fingerprint"
        if missing := [key for key in keys if key not in metadata]:
            raise FeatureError(f"the model's metadata lack {missing}; export the model again")
        text, fingerprint = (metadata[key] for key in keys)
        writer = f"heimdall-features {metadata.get(VERSION_KEY, 'of an unknown version')}"
        try:
            settings = cls.from_json(text)
        except FeatureError as error:
            raise FeatureError(f"{error}; the model was made with {writer}") from error
        if settings.fingerprint != fingerprint:
            raise FeatureError(
                f"the model's {cls.KIND} have fingerprint {fingerprint!s:.16}, but algorithm "
                f"version {cls.ALGORITHM} gives {settings.fingerprint:.16}; install {writer}"
            )
        return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumConfig:
    """Mel bands over time, in decibels. An invalid setting raises a `FeatureError`."""

    sample_rate_hz: float = 48_000.0
    """Rate that recordings are brought to."""
    n_mels: int = 128
    """Mel bands."""
    n_fft: int = 2048
    """Samples per frame."""
    hop_length: int = 512
    """Samples from frame to frame."""
    spectrum: Spectrum = "two-sided"
    """Both sides of the carrier (complex IQ), one side (real signal), or one side of `|iq|`."""
    mel_scale: MelScale = "radio"
    """`radio` is HTK's formula, with a higher corner where a band would contain no FFT bin."""
    mel_norm: MelNorm = "peak"
    """Each triangle has peak 1 (a band's level is its power) or area 1 (Slaney)."""
    f_min_hz: float = 0.0
    """Inner edge of the bands, on either side of the carrier."""
    f_max_hz: float | None = None
    """Outer edge of the bands, on either side of the carrier; None: half the sample rate."""
    floor_db: float = -140.0
    """Lowest level; -140 dB is below the rounding noise of 16-bit receivers."""

    def __post_init__(self) -> None:
        for name in ("n_mels", "n_fft", "hop_length"):
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        for name in ("sample_rate_hz", "f_min_hz", "floor_db"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        if self.f_max_hz is not None:
            object.__setattr__(self, "f_max_hz", _number("f_max_hz", self.f_max_hz))
        for name, choices in (
            ("spectrum", Spectrum),
            ("mel_scale", MelScale),
            ("mel_norm", MelNorm),
        ):
            if getattr(self, name) not in get_args(choices):
                raise FeatureError(
                    f"{name} is {getattr(self, name)!r}; choose one of "
                    f"{', '.join(get_args(choices))}"
                )
        if self.n_fft < 4 or self.n_fft % 2:
            raise FeatureError(f"n_fft is {self.n_fft}; it must be even and at least 4")
        if self.hop_length > self.n_fft:
            raise FeatureError(
                f"hop_length {self.hop_length} exceeds n_fft and would skip samples between "
                f"frames; use at most {self.n_fft}"
            )
        _require_level("floor_db", self.floor_db)
        if self.sample_rate_hz <= 0.0:
            raise FeatureError(f"sample_rate_hz is {self.sample_rate_hz}; it must be positive")
        if self.spectrum == "two-sided" and self.f_min_hz != 0.0:
            raise FeatureError(
                f"f_min_hz is {self.f_min_hz}, but two-sided bands start at the carrier; "
                "leave it 0 or use spectrum='one-sided'"
            )
        if not 0.0 <= self.f_min_hz < self.band_edge_hz <= self.sample_rate_hz / 2:
            raise FeatureError(
                f"f_min_hz={self.f_min_hz} and f_max_hz={self.band_edge_hz} must be in rising "
                f"order between 0 and half the sample rate, {self.sample_rate_hz / 2} Hz"
            )

    @property
    def band_edge_hz(self) -> float:
        """Outer edge of the bands, in Hz from the carrier."""
        return self.sample_rate_hz / 2 if self.f_max_hz is None else self.f_max_hz


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureConfig(SpectrumConfig, StoredSettings):
    """Model input: receivers and the features of each. An invalid setting raises `FeatureError`."""

    KIND = "features"
    ALGORITHM = ALGORITHM_VERSION

    receivers: tuple[str, ...]
    """Channels of the tensor, in order."""
    n_frames: int = 32
    """Columns of time; they cover the recording, whatever its length."""
    missing_db: float | None = None
    """Level that fills the channel of a missing receiver; None: the floor."""

    def __post_init__(self) -> None:
        SpectrumConfig.__post_init__(self)
        object.__setattr__(self, "n_frames", _count("n_frames", self.n_frames))
        if self.missing_db is not None:
            object.__setattr__(self, "missing_db", _number("missing_db", self.missing_db))
            _require_level("missing_db", self.missing_db)
        object.__setattr__(self, "receivers", receiver_names(self.receivers))

    @property
    def fill_db(self) -> float:
        """Level that fills the channel of a missing receiver, in dB."""
        return self.floor_db if self.missing_db is None else self.missing_db

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the tensor: receivers, mel bands, frames."""
        return len(self.receivers), self.n_mels, self.n_frames


def receiver_names(receivers: object) -> tuple[str, ...]:
    """Return the names as a tuple; raise a `FeatureError` unless they are non-empty and unique."""
    if isinstance(receivers, str) or not isinstance(receivers, Iterable):
        raise FeatureError(f"receivers is {receivers!r}; give a tuple of names")
    names: tuple[Any, ...] = tuple(receivers)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise FeatureError(f"receivers is {names}; give at least one name, all non-empty strings")
    if len(set(map(composed, names))) < len(names):
        raise FeatureError(f"receivers {names} contain a name twice")
    return names


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise FeatureError(f"{name} is {value!r}; it must be a whole number of at least 1")
    return int(value)


def _number(name: str, value: SupportsFloat) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:  # an integer may be larger than any float
        number = math.inf
    if not math.isfinite(number):
        raise FeatureError(f"{name} is {value!r:.50}; it must be a finite number")
    return number + 0.0  # -0.0 and 0.0 are the same setting


def _require_level(name: str, level_db: float) -> None:
    if not -1000.0 < level_db < 1000.0:
        raise FeatureError(f"{name} is {level_db}; use a level such as -140 dB")
