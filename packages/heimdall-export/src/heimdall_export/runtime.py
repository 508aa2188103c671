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
from heimdall_features import FeatureError, FeatureExtractor

from heimdall_export.contract import INPUT, METADATA_KEYS, OUTPUTS, RECEIVERS_KEY, REGION_KEY
from heimdall_export.errors import ExportError
from heimdall_export.onnx_session import open_session

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

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


class Predictor:
    """A model file, ready to answer; safe to share among threads.

    Attributes:
        receivers: What the model hears, in channel order.
        region: The area that it was trained for, as its metadata have it.
        run_id: The MLflow run that made it.
        created_at: When it was exported, ISO 8601.
        input_shape: Receivers, mel bands and frames of a feature tensor.
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
        except FeatureError as error:
            raise ExportError(f"the model's features do not match: {error}") from error
        self.receivers = _receivers(metadata[RECEIVERS_KEY])
        self.region: dict[str, Any] = _json(REGION_KEY, metadata[REGION_KEY])
        self.run_id = metadata["heimdall.run_id"]
        self.created_at = metadata["heimdall.created_at"]
        self.input_shape = self._extract.config.shape
        self._require_agreement()

    def _require_agreement(self) -> None:
        """One file, one truth: its graph, its features and its receivers say the same."""
        shape = tuple(self._session.get_inputs()[0].shape[1:])
        if shape != self.input_shape:
            raise ExportError(
                f"the model takes features {shape}, its metadata describe {self.input_shape}"
            )
        names = tuple(receiver.name for receiver in self.receivers)
        if names != self._extract.config.receivers:
            raise ExportError(
                f"the model's receivers are {names}, its features are of "
                f"{self._extract.config.receivers}"
            )

    def predict(
        self, recordings: Mapping[str, tuple[NDArray[np.complexfloating[Any, Any]], float]]
    ) -> Estimate:
        """Where the transmitter of one moment is.

        Args:
            recordings: By receiver, its IQ `(n_samples,)`, full scale 1, and its true sample
                rate in hertz; the recordings start together. A receiver may be missing.

        Raises:
            ExportError: No receiver, one the model does not know, or a recording that cannot be
                used; the receiver is named.
        """
        return self.predict_many([recordings])[0]

    def predict_many(
        self,
        sessions: Sequence[Mapping[str, tuple[NDArray[np.complexfloating[Any, Any]], float]]],
    ) -> tuple[Estimate, ...]:
        """Where the transmitters of several moments are, in one call of the network.

        Args:
            sessions: Each as `predict` takes it.

        Raises:
            ExportError: As for `predict`, with the session's number.
        """
        features = np.empty((len(sessions), *self.input_shape), np.float32)
        for number, recordings in enumerate(sessions):
            try:
                features[number] = self._extract(recordings)
            except FeatureError as error:
                raise ExportError(f"session {number}: {error}") from error
        return self.predict_features(features)

    def predict_features(self, features: NDArray[np.float32]) -> tuple[Estimate, ...]:
        """Positions from features that were computed before.

        Args:
            features: float32 `(n, receivers, n_mels, n_frames)` in dB, as `FeatureExtractor`
                returns them.

        Raises:
            ExportError: Another shape, or values for which the model has no answer.
        """
        if features.ndim != 4 or features.shape[1:] != self.input_shape:
            raise ExportError(
                f"the features are {features.shape}, the model takes (n, *{self.input_shape})"
            )
        if len(features) == 0:
            return ()
        contiguous = np.ascontiguousarray(features, np.float32)
        positions, sigmas = self._session.run(list(OUTPUTS), {INPUT: contiguous})
        rows = np.concatenate([positions, sigmas], axis=1, dtype=np.float64)
        return tuple(_estimate(number, row) for number, row in enumerate(rows.tolist()))


def _estimate(number: int, row: Sequence[float]) -> Estimate:
    if not all(map(math.isfinite, row)):
        raise ExportError(
            f"the model has no answer for session {number}: its features hold NaN or infinity, "
            "or are far from all that it was trained on"
        )
    return Estimate(
        latitude_deg=row[0], longitude_deg=row[1], sigma_east_m=row[2], sigma_north_m=row[3]
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
