"""Recordings of several receivers to the model's tensor, in training and in service alike."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

import numpy as np
from numpy.typing import NDArray

from heimdall_features.clock import ClockedRecording, Span, common_span
from heimdall_features.config import ALGORITHM_VERSION, FeatureConfig
from heimdall_features.errors import FeatureError, require_known
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
        """Extract as `config` says, with one receiver to a thread.

        Raises:
            FeatureError: when there is not one thread.
        """
        if n_threads < 1:
            raise FeatureError(f"n_threads is {n_threads}; it takes at least 1")
        self.config = config
        self.n_threads = n_threads

    def __repr__(self) -> str:
        return f"FeatureExtractor({self.config!r})"

    def __call__(self, recordings: Mapping[str, tuple[Samples | Blocks, float] | None]) -> Float32:
        """Return the features of one session's recordings.

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
        require_known(recordings, self.config.receivers)
        sources = {
            name: self._source(name, recording)
            for name in self.config.receivers
            if (recording := recordings.get(name)) is not None
        }
        if not sources:
            raise FeatureError(f"no recording at all; give one of {self.config.receivers}")
        shortest = min(sources, key=lambda name: sources[name].n_samples)
        n_samples = sources[shortest].n_samples
        with _naming(shortest):
            FramePlan(n_samples, self.config.n_fft, self.config.hop_length, self.config.n_frames)

        def levels(name: str) -> Float32:
            with _naming(name):
                powers = column_powers(sources[name], self.config, self.config.n_frames, n_samples)
            return decibels(powers, self.config.floor_db)

        features = np.full(self.config.shape, self.config.fill_db, np.float32)
        channels = [self.config.receivers.index(name) for name in sources]
        if self.n_threads == 1 or len(sources) == 1:
            for channel, name in zip(channels, sources, strict=True):
                features[channel] = levels(name)
        else:
            # Imported here, as below, so that importing the package stays light.
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(self.n_threads) as pool:
                features[channels] = list(pool.map(levels, sources))
        return features

    def each(
        self, recordings: Mapping[str, tuple[Samples | Blocks, float]]
    ) -> tuple[Float32, dict[str, FeatureError]]:
        """Return the features of recordings of one span of time, each extracted alone.

        Args:
            recordings: as for a call, cut to one span of time. Their lengths may differ by what
                rounding to whole samples leaves.

        Returns:
            float32 `(receivers, n_mels, n_frames)`, dB relative to full scale, and the error of
            each recording that cannot be used; its channel is filled.

        Raises:
            FeatureError: when a receiver is unknown.
        """
        require_known(recordings, self.config.receivers)
        features = np.full(self.config.shape, self.config.fill_db, np.float32)
        refused = {}
        for name, recording in recordings.items():
            channel = self.config.receivers.index(name)
            try:
                features[channel] = self({name: recording})[channel]
            except FeatureError as error:
                refused[name] = error
        return features, refused

    def session_features(
        self, recordings: Mapping[str, tuple[Samples, float] | ClockedRecording | None]
    ) -> tuple[Float32, dict[str, FeatureError]]:
        """Return a session's features from its recordings, as training computes them.

        The recordings are cut to the time that they share (`heimdall_features.clock.common_span`);
        then `each` extracts them. Training does the same in these two steps.

        Args:
            recordings: as for a call, in arrays; or with the start of each, which counts where
                the clock is locked.

        Returns:
            float32 `(receivers, n_mels, n_frames)`, dB relative to full scale, and the error of
            each recording that cannot be used; its channel is filled. Where one is too short for
            a frame, none can be used, and its own error comes first.

        Raises:
            FeatureError: when there is no recording, a receiver is unknown, a start is not
                finite, or the recordings have no time in common.
        """
        require_known(recordings, self.config.receivers)
        spans: dict[str, Span] = {}
        samples: dict[str, Samples] = {}
        refused: dict[str, FeatureError] = {}
        for name, recording in recordings.items():
            if recording is None:
                continue
            if isinstance(recording, ClockedRecording):
                start_s = recording.start_s if recording.clock_locked else None
                pair = (recording.iq, recording.sample_rate_hz)
            else:
                start_s, pair = None, recording
            try:
                self._source(name, pair)
            except FeatureError as error:
                refused[name] = error
                continue
            samples[name], rate_hz = pair
            if isinstance(samples[name], np.ndarray) and samples[name].size:
                spans[name] = Span(start_s, samples[name].size, rate_hz)
            else:
                refused[name] = FeatureError(
                    f"receiver {name!r}: 0 samples, or Blocks; give an array with samples"
                )
        if not spans and not refused:
            raise FeatureError(f"no recording at all; give one of {self.config.receivers}")
        cuts = common_span(spans)
        features, unusable = self.each(
            {
                name: (samples[name][cuts[name]], spans[name].sample_rate_hz)
                for name in sorted(spans, key=lambda name: spans[name].duration_s)
            }
        )
        return features, refused | unusable

    def _source(self, name: str, recording: object) -> Source:
        with _naming(name):
            if not isinstance(recording, tuple | list) or len(recording) != 2:
                raise FeatureError(f"give (iq, sample_rate_hz), not {type(recording).__name__}")
            iq, rate_hz = recording
            ratio = rate_ratio(require_rate(rate_hz), self.config.sample_rate_hz)
            return resampled(open_source(iq, self.config.spectrum), ratio)

    def metadata(self) -> dict[str, str]:
        """Return what a model file carries so that its features can be made again."""
        from importlib.metadata import version

        return {
            CONFIG_KEY: self.config.to_json(),
            FINGERPRINT_KEY: self.config.fingerprint,
            VERSION_KEY: version("heimdall-features"),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Return the extractor of a model file.

        Args:
            metadata: what `metadata()` returned when the model was made; further keys are
                ignored.

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


@contextmanager
def _naming(receiver: str) -> Iterator[None]:
    """Name the receiver in errors raised inside."""
    try:
        yield
    except FeatureError as error:
        raise FeatureError(f"receiver {receiver!r}: {error}") from error
