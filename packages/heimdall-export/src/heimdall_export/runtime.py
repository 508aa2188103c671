"""The other side: positions from IQ with nothing but ONNX Runtime, NumPy and our features.

A model file says which receivers it hears, which features it takes and which region it knows;
a `Predictor` believes the file and nothing else.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from heimdall_features import ArrivalExtractor, FeatureError, FeatureExtractor

from heimdall_export.contract import (
    ARRIVALS,
    INPUT,
    METADATA_KEYS,
    OUTPUTS,
    RECEIVERS_KEY,
    REGION_KEY,
    TIMED_OUTPUTS,
)
from heimdall_export.errors import ExportError
from heimdall_export.onnx_session import open_session
from heimdall_export.session_inputs import arrivals_of, mel_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from heimdall_features import ClockedRecording
    from numpy.typing import NDArray

    Recording = tuple[NDArray[np.complexfloating[Any, Any]], float] | ClockedRecording

__all__ = ["Estimate", "Predictor", "Receiver"]


@dataclass(frozen=True, slots=True)
class Receiver:
    """A channel of the model: a station at a known place."""

    name: str
    latitude_deg: float
    longitude_deg: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Where a transmitter is (WGS84), and one standard deviation of that along each axis."""

    latitude_deg: float
    longitude_deg: float
    sigma_east_m: float
    sigma_north_m: float
    correlation: float = 0.0
    """Of the errors east and north; 0 from a model of spectrograms alone."""
    unexplained: float | None = None
    """What geometry leaves unexplained of the times of arrival, over the model's limit: above 1
    they are of no kind that it was trained on, and the ellipse is wider by that; 0 without times.
    None from a model that takes none."""


class Predictor:
    """A model file, ready to answer; safe to share among threads.

    Attributes:
        receivers: What the model hears, in channel order.
        region: The area that it was trained for, as its metadata have it.
        run_id: The MLflow run that made it.
        created_at: When it was exported, ISO 8601.
        input_shape: Receivers, mel bands and frames of a feature tensor.
        arrivals_shape: Receivers and columns of the arrival times; None if the model takes none.
    """

    def __init__(
        self, model: str | os.PathLike[str] | bytes, *, n_threads: int | None = None
    ) -> None:
        """Load a model.

        Args:
            model: A path, or the file's contents.
            n_threads: Of one call; None leaves it to ONNX Runtime.

        Raises:
            ExportError: It is no model of ours, or its features are not those that this version
                of heimdall-features computes.
        """
        self._session = open_session(model, n_threads=n_threads)
        metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        _require_metadata(metadata)
        try:
            self._extract = FeatureExtractor.from_metadata(metadata)
            self._arrivals = ArrivalExtractor.from_metadata(metadata)
        except FeatureError as error:
            raise ExportError(f"the model's features do not match: {error}") from error
        self.receivers = _receivers(metadata[RECEIVERS_KEY])
        self.region: dict[str, Any] = _json(REGION_KEY, metadata[REGION_KEY])
        self.run_id = metadata["heimdall.run_id"]
        self.created_at = metadata["heimdall.created_at"]
        self.input_shape = self._extract.config.shape
        self.arrivals_shape = self._arrivals.shape if self._arrivals else None
        self._require_agreement()

    def _require_agreement(self) -> None:
        """One file, one truth: its graph, its features and its receivers say the same."""
        shapes = [tuple(end.shape[1:]) for end in self._session.get_inputs()]
        if shapes[0] != self.input_shape:
            raise ExportError(
                f"the model takes features {shapes[0]}, its metadata describe {self.input_shape}"
            )
        wanted = [] if self.arrivals_shape is None else [self.arrivals_shape]
        if shapes[1:] != wanted:
            raise ExportError(
                f"the model takes arrival times {shapes[1:]}, its metadata describe {wanted}"
            )
        self._require_receivers()

    def _require_receivers(self) -> None:
        names = tuple(receiver.name for receiver in self.receivers)
        for what, extract in (("features", self._extract), ("arrival times", self._arrivals)):
            if extract is not None and names != extract.config.receivers:
                raise ExportError(
                    f"the model's receivers are {names}, its {what} are of "
                    f"{extract.config.receivers}"
                )

    def predict(self, recordings: Mapping[str, Recording]) -> Estimate:
        """Where the transmitter of one moment is.

        Args:
            recordings: By receiver, its IQ `(n_samples,)`, full scale 1, and its true sample
                rate in hertz; the recordings start together. A receiver may be missing. A
                `ClockedRecording` says besides when it starts: a model that takes times of
                arrival has them of these alone, and answers by levels where fewer than two
                have a clock; any other model ignores it.

        Raises:
            ExportError: No receiver, one the model does not know, or a recording that cannot be
                used; the receiver is named.
        """
        return self.predict_many([recordings])[0]

    def predict_many(self, sessions: Sequence[Mapping[str, Recording]]) -> tuple[Estimate, ...]:
        """Where the transmitters of several moments are, in one call of the network.

        Args:
            sessions: Each as `predict` takes it.

        Raises:
            ExportError: As for `predict`, with the session's number.
        """
        features = np.empty((len(sessions), *self.input_shape), np.float32)
        arrivals = None
        if self.arrivals_shape is not None:
            arrivals = np.empty((len(sessions), *self.arrivals_shape), np.float32)
        for number, recordings in enumerate(sessions):
            try:
                features[number] = mel_of(
                    self._extract, recordings, by_clock=self._arrivals is not None
                )
                if self._arrivals is not None and arrivals is not None:
                    arrivals[number] = arrivals_of(self._arrivals, recordings)
            except (FeatureError, ExportError) as error:
                raise ExportError(f"session {number}: {error}") from error
        return self.predict_features(features, arrivals)

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
        self._require_arrivals(len(features), arrivals)
        if len(features) == 0:
            return ()
        feed = {INPUT: np.ascontiguousarray(features, np.float32)}
        wanted = [*OUTPUTS]
        if arrivals is not None:
            feed[ARRIVALS] = np.ascontiguousarray(arrivals, np.float32)
            wanted += TIMED_OUTPUTS
        columns = [column.reshape(len(features), -1) for column in self._session.run(wanted, feed)]
        rows = np.concatenate(columns, axis=1, dtype=np.float64)
        return tuple(_estimate(number, row) for number, row in enumerate(rows.tolist()))

    def _require_arrivals(self, n: int, arrivals: NDArray[np.float32] | None) -> None:
        if self.arrivals_shape is None:
            if arrivals is not None:
                raise ExportError("the model takes no arrival times; give features alone")
            return
        wanted = (n, *self.arrivals_shape)
        if arrivals is None:
            raise ExportError(
                f"the model takes arrival times {wanted} beside the features; give them as "
                "ArrivalExtractor returns them, all zero where there are none"
            )
        if arrivals.shape != wanted:
            raise ExportError(f"the arrival times are {arrivals.shape}, the model takes {wanted}")


def _estimate(number: int, row: Sequence[float]) -> Estimate:
    if not all(map(math.isfinite, row)):
        raise ExportError(
            f"the model has no answer for session {number}: its features hold NaN or infinity, "
            "or are far from all that it was trained on"
        )
    return Estimate(
        latitude_deg=row[0],
        longitude_deg=row[1],
        sigma_east_m=row[2],
        sigma_north_m=row[3],
        correlation=row[4] if len(row) > 4 else 0.0,
        unexplained=row[5] if len(row) > 4 else None,
    )


def _require_metadata(metadata: Mapping[str, str]) -> None:
    if missing := [key for key in METADATA_KEYS if key not in metadata]:
        raise ExportError(
            f"the model's metadata lack {', '.join(missing)}; export it with export_onnx"
        )


def _json(key: str, text: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(text)
    except ValueError as error:
        raise ExportError(f"the model's {key} is not JSON: {text:.100}") from error


def _receivers(text: str) -> tuple[Receiver, ...]:
    entries = _json(RECEIVERS_KEY, text)
    try:
        return tuple(
            Receiver(str(entry["name"]), float(entry["latitude"]), float(entry["longitude"]))
            for entry in entries
        )
    except (TypeError, KeyError, ValueError) as error:
        raise ExportError(
            f"the model's {RECEIVERS_KEY} is {text:.100}; it must list name, latitude and longitude"
        ) from error
