"""Recordings of several receivers to the model's tensor, in training and in service."""

import math
from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from heimdall_features.clock import ClockedRecording, Span, common_span
from heimdall_features.config import VERSION_KEY, FeatureConfig
from heimdall_features.errors import FeatureError, by_receiver, naming
from heimdall_features.frames import FramePlan
from heimdall_features.resample import rate_ratio, resampled
from heimdall_features.signal import Blocks, Samples, Source, open_source, require_rate
from heimdall_features.spectrum import decibels, mel_powers

Float32 = NDArray[np.float32]


class FeatureExtractor:
    """Computes the model's input from `{receiver: (iq, sample_rate_hz)}`.

    Args:
        config: Definition of the features.
        n_threads: Receivers computed at the same time; less than 1 raises a `FeatureError`.
    """

    def __init__(self, config: FeatureConfig, *, n_threads: int = 1) -> None:
        if n_threads < 1:
            raise FeatureError(f"n_threads is {n_threads}; use at least 1")
        self.config = config
        self.n_threads = n_threads

    def __repr__(self) -> str:
        return f"FeatureExtractor({self.config!r})"

    def __call__(self, recordings: Mapping[str, tuple[Samples | Blocks, float] | None]) -> Float32:
        """Return the features of one session's recordings.

        The recordings are assumed to start together. All are cut to the shortest, so that a
        column is the same time at every receiver.

        Args:
            recordings: For each receiver its IQ `(n_samples,)` with full scale 1, and its true
                sample rate in Hz. A receiver that is missing or None is filled.

        Returns:
            float32 `(receivers, n_mels, n_frames)`, dB relative to full scale.

        Raises:
            FeatureError: A receiver is unknown, or a recording is unfit; the error names it. Or
                all recordings are silent: nothing is above `floor_db`.
        """
        recordings = by_receiver(recordings, self.config.receivers)
        features = self._features(recordings)
        self._require_signal(features, [n for n, one in recordings.items() if one is not None])
        return features

    def _require_signal(self, features: Float32, heard: list[str]) -> None:
        channels = [self.config.receivers.index(name) for name in heard]
        if heard and (features[channels] <= np.float32(self.config.floor_db)).all():
            raise FeatureError(
                f"only silence from {', '.join(map(repr, heard))}: nothing is above "
                f"{self.config.floor_db:g} dB; check the antenna, and that full scale is 1"
            )

    def _features(self, recordings: Mapping[str, tuple[Samples | Blocks, float] | None]) -> Float32:
        sources = {
            name: self._source(name, recording)
            for name in self.config.receivers
            if (recording := recordings.get(name)) is not None
        }
        if not sources:
            raise FeatureError(
                f"no recording at all; give one of {', '.join(self.config.receivers)}"
            )
        shortest = min(sources, key=lambda name: sources[name].n_samples)
        n_samples = sources[shortest].n_samples
        with naming(shortest):
            self._require_a_frame(recordings[shortest], n_samples)
            FramePlan(n_samples, self.config.n_fft, self.config.hop_length, self.config.n_frames)

        def levels(name: str) -> Float32:
            with naming(name):
                powers = mel_powers(sources[name], self.config, self.config.n_frames, n_samples)
            return decibels(powers, self.config.floor_db)

        features = np.full(self.config.shape, self.config.fill_db, np.float32)
        channels = [self.config.receivers.index(name) for name in sources]
        if self.n_threads == 1 or len(sources) == 1:
            features[channels] = [levels(name) for name in sources]
        else:
            # Imported here, as below, to keep the import of the package light.
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(self.n_threads) as pool:
                features[channels] = list(pool.map(levels, sources))
        return features

    def _require_a_frame(
        self, recording: tuple[Samples | Blocks, float] | None, n_samples: int
    ) -> None:
        """Refuse a recording that is too short once resampled, and count its own samples."""
        n_fft, rate_hz = self.config.n_fft, self.config.sample_rate_hz
        if recording is None or recording[1] == rate_hz or n_samples >= n_fft:
            return
        samples, own_hz = recording
        n_own = samples.n_samples if isinstance(samples, Blocks) else len(samples)
        raise FeatureError(
            f"{n_own} samples at {own_hz:g} Hz are less than one frame of n_fft={n_fft} at "
            f"{rate_hz:g} Hz; record for longer or choose a smaller n_fft"
        )

    def each(
        self, recordings: Mapping[str, tuple[Samples | Blocks, float]]
    ) -> tuple[Float32, dict[str, FeatureError]]:
        """Return the features of recordings, each computed alone, and the errors of unusable ones.

        Recordings are as for a call, cut to the same time; lengths may differ by the rounding to
        whole samples. The channel of an unusable recording is filled. A silent recording is
        usable, unless all are silent.

        Raises:
            FeatureError: A receiver is unknown.
        """
        recordings = by_receiver(recordings, self.config.receivers)
        features = np.full(self.config.shape, self.config.fill_db, np.float32)
        refused = {}
        for name, recording in recordings.items():
            channel = self.config.receivers.index(name)
            try:
                features[channel] = self._features({name: recording})[channel]
            except FeatureError as error:
                refused[name] = error
        heard = [name for name in recordings if name not in refused]
        try:
            self._require_signal(features, heard)
        except FeatureError as error:
            refused |= dict.fromkeys(heard, error)
            features[:] = self.config.fill_db
        return features, refused

    def cut(
        self, recordings: Mapping[str, tuple[Samples, float] | ClockedRecording | None]
    ) -> tuple[dict[str, ClockedRecording], dict[str, FeatureError]]:
        """Cut recordings to the time they share (`clock.common_span`), as training does.

        Features are then computed by `each`, and arrival times by `ArrivalExtractor`. Recordings
        are arrays as for a call, or have a start, which counts if the clock is locked.

        Returns:
            The recordings, shortest first, and the errors of unusable ones, by receiver.

        Raises:
            FeatureError: There is no recording, a receiver is unknown, a start is not finite, or
                the recordings have no time in common.
        """
        recordings = by_receiver(recordings, self.config.receivers)
        spans: dict[str, Span] = {}
        clock_sigma_s: dict[str, float] = {}
        samples: dict[str, Samples] = {}
        refused: dict[str, FeatureError] = {}
        for name, recording in recordings.items():
            if recording is None:
                continue
            if isinstance(recording, ClockedRecording):
                start_s = recording.start_s if recording.clock_locked else None
                clock_sigma_s[name] = recording.clock_sigma_s
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
            raise FeatureError(
                f"no recording at all; give one of {', '.join(self.config.receivers)}"
            )
        cuts = common_span(spans)
        found = {}
        for name, span in sorted(spans.items(), key=lambda item: item[1].duration_s):
            start_s = (span.start_s or 0.0) + cuts[name].start / span.sample_rate_hz
            found[name] = ClockedRecording(
                samples[name][cuts[name]],
                span.sample_rate_hz,
                start_s,
                clock_sigma_s=clock_sigma_s.get(name, math.inf),
            )
        return found, refused

    def _source(self, name: str, recording: object) -> Source:
        with naming(name):
            if not isinstance(recording, tuple | list) or len(recording) != 2:
                raise FeatureError(f"give (iq, sample_rate_hz), not {type(recording).__name__}")
            iq, rate_hz = recording
            ratio = rate_ratio(require_rate(rate_hz), self.config.sample_rate_hz)
            return resampled(open_source(iq, self.config.spectrum), ratio)

    def metadata(self) -> dict[str, str]:
        """Return the entries of a model file that `from_metadata` reads."""
        from importlib.metadata import version

        return self.config.metadata() | {VERSION_KEY: version("heimdall-features")}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Return the extractor of a model file; further entries are ignored.

        Raises:
            FeatureError: This version cannot compute the features that the model was trained on.
        """
        return cls(FeatureConfig.from_metadata(metadata))
