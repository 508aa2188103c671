"""Positions from IQ with nothing but ONNX Runtime, NumPy and heimdall-features.

A `Predictor` needs the model file alone, whose metadata describe its receivers, features and
region. Recordings are cut to the time that they share by the function that training uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from heimdall_features import ArrivalExtractor, ClockedRecording, FeatureError, FeatureExtractor

from heimdall_export.errors import ExportError
from heimdall_export.serving.metadata import (
    migrated,
    receivers_of,
    region_of,
    require_metadata,
)
from heimdall_export.serving.source import local_model
from heimdall_export.session import Sample, known_outputs, open_session, run_in_batches

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from heimdall_export.object_store.store import ModelStores
    from heimdall_export.registry.published import PublishedModel

    Pair = tuple[NDArray[np.inexact[Any]], float]
    Recordings = Mapping[str, Pair | ClockedRecording | None]
    Recording = tuple[NDArray[np.complexfloating[Any, Any]], float] | ClockedRecording

_NO_ANSWER = (
    "the features contain NaN, infinity or impossible levels, or are far outside the training data"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Position of a transmitter (WGS84), and one standard deviation of it along each axis."""

    latitude_deg: float
    longitude_deg: float
    sigma_east_m: float
    sigma_north_m: float
    correlation: float = 0.0
    """Correlation of the errors east and north; 0 from a model of spectrograms alone."""
    unexplained: float | None = None
    """Part of the arrival times that geometry does not explain, over the model's limit. Above 1
    they are unlike everything that it was trained on, and the ellipse is wider by that factor; 0
    without times. None from a model that takes none."""


class Predictor:
    """A loaded model file; safe to share among threads.

    Attributes:
        published: The version in the registry, where one was asked for; else None.
        receivers: The model's channels, in order.
        region: The area that it was trained for, as in its metadata.
        run_id: The MLflow run that made it.
        created_at: Time of the export, ISO 8601.
        input_shape: Receivers, mel bands and frames of a feature tensor.
        arrivals_shape: Receivers and columns of the arrival times; None if the model takes none.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | PublishedModel,
        *,
        n_threads: int | None = None,
        warm_up: bool = True,
        stores: ModelStores | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: A path; the file's contents; `s3://bucket/key`, verified by its sidecar;
                `models:/name@alias` or `models:/name/version`, verified by the version's tags;
                or the result of `find_published`.
            n_threads: Threads of one call; None leaves it to ONNX Runtime.
            warm_up: Run it once, so that the first answer does not wait for memory.
            stores: Stores behind `s3://` and `models:/`; the environment's when None.
            cache_dir: Folder for downloads, under their hash; None keeps none.

        Raises:
            ExportError: It is not a model of ours, its features are not those that this version
                of heimdall-features computes, or it cannot be fetched or verified.
        """
        with local_model(model, stores, cache_dir) as (file, self.published):
            self._session = open_session(file, n_threads=n_threads)
        metadata = migrated(self._session.get_modelmeta().custom_metadata_map)
        require_metadata(metadata)
        try:
            self._extract = FeatureExtractor.from_metadata(metadata)
            self._arrivals = ArrivalExtractor.from_metadata(metadata)
        except FeatureError as error:
            raise ExportError(f"the model's features do not match: {error}") from error
        self.receivers = receivers_of(metadata)
        self.region = region_of(metadata)
        self.run_id = metadata["heimdall.run_id"]
        self.created_at = metadata["heimdall.created_at"]
        self.input_shape = self._extract.config.shape
        self.arrivals_shape = self._arrivals.shape if self._arrivals else None
        described = [shape for shape in (self.input_shape, self.arrivals_shape) if shape]
        shapes = [tuple(end.shape[1:]) for end in self._session.get_inputs()]
        if shapes != described:
            raise ExportError(
                f"the model takes inputs of shapes {shapes}, its metadata describe {described}"
            )
        names = tuple(receiver.name for receiver in self.receivers)
        for what, extract in (("features", self._extract), ("arrival times", self._arrivals)):
            if extract is not None and names != extract.config.receivers:
                raise ExportError(
                    f"the model's receivers are {names}, its {what} are of "
                    f"{extract.config.receivers}"
                )
        if warm_up:
            self._rows(Sample(*(np.zeros((1, *shape), np.float32) for shape in shapes)))

    def predict(self, recordings: Mapping[str, Recording]) -> Estimate:
        """Position of the transmitter of one session.

        Args:
            recordings: By receiver, its IQ `(n_samples,)`, full scale 1, and its true sample
                rate in hertz. A receiver may be missing. A `ClockedRecording` also has its start:
                those with a locked clock are cut to the time that they share, whatever the
                model; the others count from their own start. A model that takes times of arrival
                measures them only from recordings with a clock, and answers by levels where
                fewer than two have one.

        Raises:
            ExportError: No receiver, one that the model does not know, or a recording that cannot
                be used; the receiver is named.
        """
        return self.predict_many([recordings])[0]

    def predict_many(self, sessions: Sequence[Mapping[str, Recording]]) -> tuple[Estimate, ...]:
        """Positions of the transmitters of several sessions, in one call of the network.

        Each session is as `predict` takes it.

        Raises:
            ExportError: As for `predict`, with the session's number.
        """
        estimates = []
        for number, answer in enumerate(self.predict_each(sessions)):
            if isinstance(answer, ExportError):
                raise ExportError(f"session {number}: {answer}") from answer
            estimates.append(answer)
        return tuple(estimates)

    def predict_each(
        self, sessions: Sequence[Mapping[str, Recording]]
    ) -> tuple[Estimate | ExportError, ...]:
        """Like `predict_many`, but with an `ExportError` in place of an answer that is impossible.

        For a service that answers several callers at once: one caller's mistake does not affect
        the answers of the others.
        """
        prepared = [self._inputs(recordings) for recordings in sessions]
        usable = [inputs for inputs in prepared if not isinstance(inputs, ExportError)]
        columns = [np.stack(column) for column in zip(*usable, strict=True)]
        rows = iter(self._rows(Sample(*columns)) if usable else ())
        return tuple(
            inputs
            if isinstance(inputs, ExportError)
            else _estimate(next(rows)) or ExportError(f"the model has no answer: {_NO_ANSWER}")
            for inputs in prepared
        )

    def _inputs(
        self, recordings: Mapping[str, Recording]
    ) -> tuple[NDArray[np.float32], ...] | ExportError:
        """One session's inputs, or the reason why there are none."""
        try:
            return inputs_of(self._extract, self._arrivals, recordings)
        except (ExportError, FeatureError) as error:
            refused = ExportError(str(error))
            refused.__cause__ = error
            return refused

    def predict_features(
        self, features: NDArray[np.float32], arrivals: NDArray[np.float32] | None = None
    ) -> tuple[Estimate, ...]:
        """Positions from features that were computed before.

        Args:
            features: float32 `(n, receivers, n_mels, n_frames)` in dB, as `FeatureExtractor`
                returns them.
            arrivals: float32 `(n, receivers, 5)`, as `ArrivalExtractor` returns them, for a
                model that takes them; None for any other.

        Raises:
            ExportError: Another shape, arrival times that are missing or not wanted, or values
                for which the model has no answer.
        """
        if features.ndim != 4 or features.shape[1:] != self.input_shape:
            raise ExportError(
                f"the features are {features.shape}, the model takes (n, *{self.input_shape})"
            )
        wanted = None if self.arrivals_shape is None else (len(features), *self.arrivals_shape)
        given = None if arrivals is None else arrivals.shape
        if given != wanted:
            raise ExportError(
                f"the arrival times are {given}, the model takes {wanted}: as ArrivalExtractor "
                "returns them, all zero where there are none"
            )
        if len(features) == 0:
            return ()
        estimates = []
        for number, row in enumerate(self._rows(Sample(features, arrivals))):
            estimate = _estimate(row)
            if estimate is None:
                raise ExportError(f"the model has no answer for session {number}: {_NO_ANSWER}")
            estimates.append(estimate)
        return tuple(estimates)

    def _rows(self, sample: Sample) -> list[list[float]]:
        """The network's outputs, one row a sample."""
        n = len(sample.features)
        outputs = known_outputs(self._session)
        found = run_in_batches(self._session, sample.inputs, batch_size=n, outputs=outputs)
        columns = [column.reshape(n, -1) for column in found.values()]
        rows: list[list[float]] = np.concatenate(columns, axis=1, dtype=np.float64).tolist()
        return rows


def _estimate(row: Sequence[float]) -> Estimate | None:
    """A row of the network's outputs; None if one of them is not finite."""
    if not all(map(math.isfinite, row)):
        return None
    names = (field.name for field in fields(Estimate))
    return Estimate(**dict(zip(names, row, strict=False)))


def inputs_of(
    features: FeatureExtractor, arrivals: ArrivalExtractor | None, recordings: Recordings
) -> tuple[NDArray[np.float32], ...]:
    """Spectrograms of a session, and arrival times if the model takes them, as in training.

    Recordings are cut to the time that they share. Arrival times are zero without a clock.

    Raises:
        ExportError: The recordings are not a mapping.
        FeatureError: A recording cannot be used, or the recordings share too little time.
    """
    if not isinstance(recordings, Mapping):
        raise ExportError(f"give recordings by receiver, not {type(recordings).__name__}")
    cut, refused = features.cut(recordings)
    mel, unusable = features.each({n: (one.iq, one.sample_rate_hz) for n, one in cut.items()})
    for error in (*refused.values(), *unusable.values()):
        raise error
    return (mel,) if arrivals is None else (mel, arrivals(cut))
