"""Recordings of several receivers to the model's tensor, in training and in service alike."""

import importlib.metadata
from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from heimdall_features.config import ALGORITHM_VERSION, FeatureConfig
from heimdall_features.errors import FeatureError
from heimdall_features.resample import rate_ratio, resampled
from heimdall_features.signal import Blocks, Samples, require_rate
from heimdall_features.spectrogram import mel_spectrogram

__all__ = ["FeatureExtractor"]

CONFIG_KEY = "heimdall.features.config"
FINGERPRINT_KEY = "heimdall.features.fingerprint"
VERSION_KEY = "heimdall.features.version"


class FeatureExtractor:
    """Turns `{receiver: (iq, sample_rate_hz)}` into the model's input."""

    def __init__(self, config: FeatureConfig) -> None:
        """Extract as `config` says."""
        self.config = config

    def __repr__(self) -> str:
        """Which features these are."""
        return f"FeatureExtractor({self.config!r})"

    def __call__(
        self, recordings: Mapping[str, tuple[Samples | Blocks, float] | None]
    ) -> NDArray[np.float32]:
        """The features of one moment at several receivers.

        Args:
            recordings: for each receiver its IQ `(n_samples,)`, full scale 1, and its true
                sample rate in Hz. One that is missing, or None, is filled.

        Returns:
            float32 `(receivers, n_mels, n_frames)`, dB relative to full scale.

        Raises:
            FeatureError: names the receiver and says what is wrong with its recording.
        """
        if unknown := sorted(set(recordings) - set(self.config.receivers)):
            raise FeatureError(f"unknown receivers {unknown}; known: {self.config.receivers}")
        present = {name: found for name, found in recordings.items() if found is not None}
        if not present:
            raise FeatureError(f"no recording at all; give one of {self.config.receivers}")
        features = np.full(self.config.shape, self.config.fill_db, np.float32)
        for channel, name in enumerate(self.config.receivers):
            if name in present:
                features[channel] = self._channel(name, *present[name])
        return features

    def _channel(self, name: str, iq: Samples | Blocks, rate_hz: float) -> NDArray[np.float32]:
        try:
            ratio = rate_ratio(require_rate(rate_hz), self.config.sample_rate_hz)
            samples = resampled(iq, ratio)
            return mel_spectrogram(samples, self.config, self.config.n_frames)
        except FeatureError as error:
            raise FeatureError(f"receiver {name!r}: {error}") from error

    def metadata(self) -> dict[str, str]:
        """What a model file carries so that its features can be made again."""
        return {
            CONFIG_KEY: self.config.to_json(),
            FINGERPRINT_KEY: self.config.fingerprint,
            VERSION_KEY: importlib.metadata.version("heimdall-features"),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """The extractor of a model file.

        Args:
            metadata: what `metadata()` returned when the model was made; more keys may stand
                beside.

        Raises:
            FeatureError: when this version cannot make the features the model was trained on.
        """
        if missing := [key for key in (CONFIG_KEY, FINGERPRINT_KEY) if key not in metadata]:
            raise FeatureError(f"the model's metadata lack {missing}; it is no Heimdall model")
        wanted = metadata[FINGERPRINT_KEY]
        written_by = metadata.get(VERSION_KEY, "of unknown version")
        config = FeatureConfig.from_json(metadata[CONFIG_KEY])
        if config.fingerprint != wanted:
            raise FeatureError(
                f"the model's features have fingerprint {wanted:.16}, this version's algorithm "
                f"{ALGORITHM_VERSION} gives {config.fingerprint:.16}; "
                f"install heimdall-features {written_by}, which made them"
            )
        return cls(config)
