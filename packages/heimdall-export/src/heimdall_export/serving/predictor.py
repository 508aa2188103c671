"""The other side: positions from IQ with nothing but ONNX Runtime, NumPy and our features.

A model file says which receivers it hears, which features it takes and which region it knows;
a `Predictor` believes the file and nothing else.

From one moment's recordings to what a model takes: spectrograms, and times of arrival. Recordings
are cut to the time that they share by the function that training uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from heimdall_features import ArrivalExtractor, ClockedRecording, FeatureError, FeatureExtractor

from heimdall_export.contract import ARRIVALS, INPUT, OUTPUTS, TIMED_OUTPUTS
from heimdall_export.errors import ExportError
from heimdall_export.serving.estimate import NO_ANSWER, Estimate, estimate_of
from heimdall_export.serving.metadata import Receiver, receivers_of, region_of, require_metadata
from heimdall_export.serving.source import local_model
from heimdall_export.session import open_session

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from heimdall_export.object_store.settings import ModelStores
    from heimdall_export.registry.published import PublishedModel

__all__ = ["Estimate", "Predictor", "Receiver", "arrivals_of", "mel_of"]


if TYPE_CHECKING:
    Pair = tuple[NDArray[np.inexact[Any]], float]
    Recordings = Mapping[str, Pair | ClockedRecording | None]


def mel_of(extract: FeatureExtractor, recordings: Recordings) -> NDArray[np.float32]:
    """Spectrograms of a session, cut to shared time and computed as in training.

    Raises:
        ExportError: There is no mapping.
        FeatureError: A recording cannot be used, a start is not finite, or the recordings have no
            time in common.
    """
    if not isinstance(recordings, Mapping):
        raise ExportError(f"give recordings by receiver, not {type(recordings).__name__}")
    features, refused = extract.session_features(recordings)
    for error in refused.values():
        raise error
    return features


def arrivals_of(extract: ArrivalExtractor, recordings: Recordings) -> NDArray[np.float32]:
    """The times of arrival at the receivers with a clock; zero for the others.

    Raises:
        FeatureError: A recording cannot be used, or they share too little time.
    """
    return extract(
        {name: given for name, given in recordings.items() if isinstance(given, ClockedRecording)}
    )


if TYPE_CHECKING:
    Recording = tuple[NDArray[np.complexfloating[Any, Any]], float] | ClockedRecording
    Inputs = tuple[NDArray[np.float32], ...]


class Predictor:
    """A model file, ready to answer; safe to share among threads.

    Attributes:
        published: The version in the registry, where one was asked for; else None.
        receivers: What the model hears, in channel order.
        region: The area that it was trained for, as its metadata have it.
        run_id: The MLflow run that made it.
        created_at: When it was exported, ISO 8601.
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
            model: A path; the file's contents; `s3://bucket/key`, whose sidecar says what the
                file must be; `models:/name@alias` or `models:/name/version`, whose tags say it;
                or what `find_published` found.
            n_threads: Of one call; None leaves it to ONNX Runtime.
            warm_up: Ask it once, so that the first answer does not wait for memory.
            stores: Where `s3://` and `models:/` lead; the environment's when None.
            cache_dir: Where downloads are kept, under their hash; None keeps none.

        Raises:
            ExportError: It is no model of ours, its features are not those that this version
                of heimdall-features computes, or it cannot be fetched or is not what it must be.
        """
        with local_model(model, stores, cache_dir) as (file, self.published):
            self._session = open_session(file, n_threads=n_threads)
        metadata = dict(self._session.get_modelmeta().custom_metadata_map)
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
        self._require_agreement()
        if warm_up:
            self._rows(tuple(np.zeros((1, *shape), np.float32) for shape in self._shapes()))

    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of one moment's inputs."""
        if self.arrivals_shape is None:
            return (self.input_shape,)
        return (self.input_shape, self.arrivals_shape)

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
                rate in hertz. A receiver may be missing. A `ClockedRecording` says besides when
                it starts. Those with a locked clock are cut to the time that they share, whatever
                the model; the others count from their own start. A model that takes times of
                arrival measures them from recordings with a clock alone, and answers by levels
                where fewer than two have one.

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
        answers = self.predict_each(sessions)
        for number, answer in enumerate(answers):
            if isinstance(answer, ExportError):
                raise ExportError(f"session {number}: {answer}") from answer
        return tuple(answer for answer in answers if isinstance(answer, Estimate))

    def predict_each(
        self, sessions: Sequence[Mapping[str, Recording]]
    ) -> tuple[Estimate | ExportError, ...]:
        """As `predict_many`, with the error of a session that cannot be used in its place.

        For a service that answers several callers at once: nobody's mistake is another's.

        Args:
            sessions: Each as `predict` takes it.
        """
        prepared = [self._prepared(recordings) for recordings in sessions]
        usable = [inputs for inputs in prepared if not isinstance(inputs, ExportError)]
        batch = tuple(np.stack(column) for column in zip(*usable, strict=True))
        rows = iter(self._rows(batch) if usable else ())
        return tuple(
            inputs
            if isinstance(inputs, ExportError)
            else estimate_of(next(rows)) or ExportError(f"the model has no answer: {NO_ANSWER}")
            for inputs in prepared
        )

    def _prepared(self, recordings: Mapping[str, Recording]) -> Inputs | ExportError:
        """One moment's inputs, or why there are none."""
        try:
            mel = mel_of(self._extract, recordings)
            if self._arrivals is None:
                return (mel,)
            return mel, arrivals_of(self._arrivals, recordings)
        except ExportError as error:
            return error
        except FeatureError as error:
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
        self._require_arrivals(len(features), arrivals)
        if len(features) == 0:
            return ()
        batch = (features,) if arrivals is None else (features, arrivals)
        estimates = tuple(map(estimate_of, self._rows(batch)))
        for number, estimate in enumerate(estimates):
            if estimate is None:
                raise ExportError(f"the model has no answer for session {number}: {NO_ANSWER}")
        return tuple(estimate for estimate in estimates if estimate is not None)

    def _rows(self, batch: Inputs) -> list[list[float]]:
        """What the network says of a batch, one row a moment."""
        names = (INPUT, ARRIVALS)[: len(batch)]
        given = {end.name for end in self._session.get_outputs()}
        wanted = [name for name in (*OUTPUTS, *TIMED_OUTPUTS) if name in given]
        feed = {
            name: np.ascontiguousarray(values, np.float32)
            for name, values in zip(names, batch, strict=True)
        }
        n = len(batch[0])
        columns = [column.reshape(n, -1) for column in self._session.run(wanted, feed)]
        rows: list[list[float]] = np.concatenate(columns, axis=1, dtype=np.float64).tolist()
        return rows

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
