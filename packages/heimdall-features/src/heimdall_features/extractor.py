"""Recordings of several receivers to the model's tensor, in training and in service alike."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from heimdall_features.config import ALGORITHM_VERSION, FeatureConfig
from heimdall_features.errors import FeatureError
from heimdall_features.frames import FramePlan
from heimdall_features.resample import rate_ratio, resampled
from heimdall_features.signal import Blocks, Samples, Source, open_source, require_rate
from heimdall_features.spectrum import column_powers, decibels

__all__ = ["FeatureExtractor"]

CONFIG_KEY = "heimdall.features.config"
FINGERPRINT_KEY = "heimdall.features.fingerprint"
VERSION_KEY = "heimdall.features.version"

Float32 = NDArray[np.float32]


class FeatureExtractor:
    """Turns `{receiver: (iq, sample_rate_hz)}` into the model's input."""

    def __init__(self, config: FeatureConfig, *, n_threads: int = 1) -> None:
        """Extract as `config` says, so many receivers at a time.

        Raises:
            FeatureError: when there is not one thread.
        """
        if n_threads < 1:
            raise FeatureError(f"n_threads is {n_threads}; it takes at least 1")
        self.config = config
        self.n_threads = n_threads

    def __repr__(self) -> str:
        """Which features these are."""
        return f"FeatureExtractor({self.config!r})"

    def __call__(self, recordings: Mapping[str, tuple[Samples | Blocks, float] | None]) -> Float32:
        """The features of one moment at several receivers.

        The recordings are taken to start together. Where one ends first, the others are cut
        there, so that a column is the same time at every receiver.

        Args:
            recordings: for each receiver its IQ `(n_samples,)`, full scale 1, and its true
                sample rate in Hz. One that is missing, or None, is filled.

        Returns:
            float32 `(receivers, n_mels, n_frames)`, dB relative to full scale.

        Raises:
            FeatureError: names the receiver and says what is wrong with its recording.
        """
        if unknown := sorted(map(str, set(recordings) - set(self.config.receivers))):
            raise FeatureError(f"unknown receivers {unknown}; known: {self.config.receivers}")
        sources = {
            channel: self._source(name, recording)
            for channel, name in enumerate(self.config.receivers)
            if (recording := recordings.get(name)) is not None
        }
        if not sources:
            raise FeatureError(f"no recording at all; give one of {self.config.receivers}")
        # Cut to the shortest, so that a column is one moment.
        shortest = min(sources, key=lambda channel: sources[channel].n_samples)
        n_samples = sources[shortest].n_samples
        with naming(self.config.receivers[shortest]):
            FramePlan(n_samples, self.config.n_fft, self.config.hop_length, self.config.n_frames)
        features = np.full(self.config.shape, self.config.fill_db, np.float32)
        for channel, levels in self._levels(sources, n_samples):
            features[channel] = levels
        return features

    def _source(self, name: str, recording: object) -> Source:
        with naming(name):
            iq, rate_hz = _pair(recording)
            ratio = rate_ratio(require_rate(rate_hz), self.config.sample_rate_hz)
            return resampled(open_source(iq, self.config.spectrum), ratio)

    def _levels(
        self, sources: Mapping[int, Source], n_samples: int
    ) -> Iterable[tuple[int, Float32]]:
        def one(item: tuple[int, Source]) -> tuple[int, Float32]:
            channel, source = item
            with naming(self.config.receivers[channel]):
                powers = column_powers(source, self.config, self.config.n_frames, n_samples)
            return channel, decibels(powers, self.config.floor_db)

        if self.n_threads == 1 or len(sources) == 1:
            return map(one, sources.items())
        # Imported here, as below, so that importing the package stays light.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.n_threads) as pool:
            return list(pool.map(one, sources.items()))

    def metadata(self) -> dict[str, str]:
        """What a model file carries so that its features can be made again."""
        from importlib.metadata import version

        return {
            CONFIG_KEY: self.config.to_json(),
            FINGERPRINT_KEY: self.config.fingerprint,
            VERSION_KEY: version("heimdall-features"),
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
            raise FeatureError(
                f"the model's metadata lack {missing}; export it with FeatureExtractor.metadata()"
            )
        writer = f"heimdall-features {metadata.get(VERSION_KEY, 'of an unknown version')}"
        try:
            config = FeatureConfig.from_json(metadata[CONFIG_KEY])
        except FeatureError as error:
            raise FeatureError(f"{error}; {writer} made this model's features") from error
        if config.fingerprint != metadata[FINGERPRINT_KEY]:
            raise FeatureError(
                f"the model's features have fingerprint {metadata[FINGERPRINT_KEY]!s:.16}, but "
                f"algorithm version {ALGORITHM_VERSION} gives {config.fingerprint:.16}; "
                f"install {writer}, which made them"
            )
        return cls(config)


def _pair(recording: object) -> tuple[Any, Any]:
    if not isinstance(recording, tuple | list) or len(recording) != 2:
        raise FeatureError(f"give (iq, sample_rate_hz), not {type(recording).__name__}")
    return recording[0], recording[1]


@contextmanager
def naming(receiver: str) -> Iterator[None]:
    """Errors inside say which receiver's recording they are about."""
    try:
        yield
    except FeatureError as error:
        raise FeatureError(f"receiver {receiver!r}: {error}") from error
