"""Positions from IQ with nothing but ONNX Runtime, heimdall-features and heimdall-locate.

A `Predictor` needs the model file alone, whose metadata describe its receivers, features and
region. Recordings are cut to the time that they share by the function that training uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from heimdall_features import ArrivalExtractor, ClockedRecording, FeatureError, FeatureExtractor
from heimdall_features.names import composed
from heimdall_locate import Candidate, LocateError, Position, ReceiverResult, from_gaussians
from heimdall_locate.position import DOMINANT

from heimdall_export.contract import CORRELATIONS, MIXTURE_OUTPUTS, OUTPUTS, UNEXPLAINED
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
    from heimdall_export.serving.metadata import Receiver

    Pair = tuple[NDArray[np.inexact[Any]], float]
    Recordings = Mapping[str, Pair | ClockedRecording | None]
    Recording = tuple[NDArray[np.complexfloating[Any, Any]], float] | ClockedRecording

_NO_ANSWER = (
    "the features contain NaN, infinity or impossible levels, or are far outside the training data"
)


_NEGLIGIBLE = 1e-3
"""Weight below which a component of a mixture is no candidate."""
MOST_SAMPLES = 2**23
"""Most samples of a session, of all receivers together and at the model's rate: a minute from each
of three at 48 kHz."""
_LARGEST_CORRELATION = 1 - 2**-24
"""Correlations are float32, in which a long ellipse may have exactly 1."""


class Inputs(NamedTuple):
    """A model's inputs for one session."""

    features: NDArray[np.float32]
    arrivals: NDArray[np.float32] | None
    """None for a model that takes none."""
    no_arrivals: str = ""
    """Reason if all arrivals are zero."""
    impossible: Mapping[str, str] = MappingProxyType({})
    """Reason by receiver whose arrival is zero because its time contradicts those of others."""


class Predictor:
    """A loaded model file; safe to share among threads.

    Attributes:
        published: The version in the registry, where one was asked for; else None.
        receivers: The model's channels, in order.
        region: The area that it was trained for, as in its metadata.
        metadata: All entries of the file, in today's format.
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
        most_samples: int = MOST_SAMPLES,
    ) -> None:
        """Load a model.

        Args:
            model: A path; the file's contents; `s3://bucket/key`, verified by its sidecar;
                `models:/name@alias` or `models:/name/version`, verified by the version's tags;
                or the result of `find_published`.
            n_threads: Threads of one call; None leaves it to ONNX Runtime.
            warm_up: Compute features of noise and run the network once, so that the first answer
                does not wait for imports and memory.
            stores: Stores behind `s3://` and `models:/`; the environment's when None.
            cache_dir: Folder for downloads, under their hash; None keeps none.
            most_samples: Most samples of one session, of all receivers together, at the model's
                rate; more are refused before any work.

        Raises:
            ExportError: It is not a model of ours, its features are not those that this version
                of heimdall-features computes, or it cannot be fetched or verified.
        """
        with local_model(model, stores, cache_dir) as (file, self.published):
            self._session = open_session(file, n_threads=n_threads)
        try:
            metadata = migrated(self._session.get_modelmeta().custom_metadata_map)
        except UnicodeDecodeError as error:
            raise ExportError(f"the model's metadata are not text ({error})") from error
        require_metadata(metadata)
        self.metadata: Mapping[str, str] = metadata
        self._outputs = known_outputs(self._session)
        self._most_samples = most_samples
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
            if extract is not None and names != (*map(composed, extract.config.receivers),):
                raise ExportError(
                    f"the model's receivers are {names}, its {what} are of "
                    f"{extract.config.receivers}"
                )
        if warm_up:
            config = self._extract.config
            n_samples = 2 * (config.n_fft + config.n_frames * config.hop_length)
            noise = np.random.default_rng(0).normal(scale=0.1, size=(n_samples, 2)) @ [1, 1j]
            # At another rate than the model's, as resampling is what imports most.
            recording = ClockedRecording(noise, 2 * config.sample_rate_hz)
            inputs_of(self._extract, self._arrivals, dict.fromkeys(config.receivers[:2], recording))
            self._positions(Sample(*(np.zeros((1, *shape), np.float32) for shape in shapes)))

    @property
    def version(self) -> str:
        """Version in the registry; `run_id` where none was asked."""
        return self.published.version if self.published else self.run_id

    def predict(self, recordings: Mapping[str, Recording], *, timing: bool = True) -> Position:
        """Position of the transmitter of one session.

        Args:
            recordings: By receiver, its IQ `(n_samples,)`, full scale 1, and its true sample
                rate in hertz. A receiver may be missing. A `ClockedRecording` also has its start:
                those with a locked clock are cut to the time that they share, whatever the
                model; the others count from their own start. A model that takes times of arrival
                measures them only from recordings with a clock, and answers by levels where
                fewer than two have one, or they share too little time.
            timing: False: answer by levels, whatever the model.

        Raises:
            ExportError: No receiver, one that the model does not know, or a recording that cannot
                be used, such as one that is not scaled to full scale 1; the receiver is named. Or
                all recordings are silent, or have more than `most_samples` in all.
        """
        return self.predict_many([recordings], timing=timing)[0]

    def predict_many(
        self, sessions: Sequence[Mapping[str, Recording]], *, timing: bool = True
    ) -> tuple[Position, ...]:
        """Positions of the transmitters of several sessions, in one call of the network.

        Each session is as `predict` takes it.

        Raises:
            ExportError: As for `predict`, with the session's number.
        """
        positions = []
        for number, answer in enumerate(self.predict_each(sessions, timing=timing)):
            if isinstance(answer, ExportError):
                raise ExportError(f"session {number}: {answer}") from answer
            positions.append(answer)
        return tuple(positions)

    def predict_each(
        self, sessions: Sequence[Mapping[str, Recording]], *, timing: bool = True
    ) -> tuple[Position | ExportError, ...]:
        """Like `predict_many`, but with an `ExportError` in place of an answer that is impossible.

        For a service that answers several callers at once: one caller's mistake does not affect
        the answers of the others.
        """
        prepared: list[Inputs | ExportError] = []
        for recordings in sessions:
            try:
                prepared.append(self.prepare(recordings, timing=timing))
            except ExportError as error:
                prepared.append(error)
        found = iter(self.answer_each([one for one in prepared if isinstance(one, Inputs)]))
        return tuple(next(found) if isinstance(inputs, Inputs) else inputs for inputs in prepared)

    def prepare(self, recordings: Mapping[str, Recording], *, timing: bool = True) -> Inputs:
        """The model's inputs for one session, which is as `predict` takes it.

        This takes most of the time of an answer. A service computes the inputs of several callers
        in a pool of threads, and answers those that are ready by `answer_each`.

        Raises:
            ExportError: As for `predict`.
        """
        extract = self._arrivals if timing else None
        try:
            inputs = inputs_of(self._extract, extract, recordings, self._most_samples)
        except FeatureError as error:
            raise ExportError(str(error)) from error
        if timing or self.arrivals_shape is None:
            return inputs
        nothing = np.zeros(self.arrivals_shape, np.float32)
        return Inputs(inputs.features, nothing, "arrival times were not asked for")

    def answer_each(self, prepared: Sequence[Inputs]) -> tuple[Position | ExportError, ...]:
        """Answers to sessions that this predictor has prepared, in one call of the network.

        An answer that is impossible is an `ExportError`.
        """
        if not prepared:
            return ()
        features, arrivals, *reasons = zip(*prepared, strict=True)
        times = None if self._arrivals is None else np.stack(arrivals)
        return tuple(
            position or ExportError(f"the model has no answer: {_NO_ANSWER}")
            for position in self._positions(Sample(np.stack(features), times), *reasons)
        )

    def predict_features(
        self, features: NDArray[np.float32], arrivals: NDArray[np.float32] | None = None
    ) -> tuple[Position, ...]:
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
        found = self._positions(Sample(features, arrivals))
        positions = [position for position in found if position is not None]
        if len(positions) < len(found):
            number = found.index(None)
            raise ExportError(f"the model has no answer for session {number}: {_NO_ANSWER}")
        return tuple(positions)

    def _positions(
        self,
        sample: Sample,
        no_arrivals: Sequence[str] | None = None,
        impossible: Sequence[Mapping[str, str]] | None = None,
    ) -> list[Position | None]:
        """The network's answers; None if a figure is not finite or an ellipse has no area.

        `no_arrivals` are the reasons of sessions whose arrivals are all zero, and `impossible`
        those of receivers whose arrival is.
        """
        n = len(sample.features)
        outputs = run_in_batches(self._session, sample.inputs, batch_size=n, outputs=self._outputs)
        finite = [np.isfinite(values).reshape(n, -1).all(axis=1) for values in outputs.values()]
        present = (sample.features != self._extract.config.fill_db).any(axis=(2, 3))
        rows = zip(
            np.all(finite, axis=0).tolist(),
            _components(outputs).tolist(),
            present.tolist(),
            [None] * n if sample.arrivals is None else sample.arrivals.tolist(),
            outputs[UNEXPLAINED].tolist() if UNEXPLAINED in outputs else [None] * n,
            no_arrivals or [""] * n,
            impossible or [{}] * n,
            strict=True,
        )
        found: list[Position | None] = []
        for is_finite, components, used, arrivals, unexplained, reason, wrong in rows:
            try:
                # Weights that are no share are left to be refused.
                counted = [each for each in components if not 0 <= each[0] < _NEGLIGIBLE]
                position = from_gaussians([_candidate(*each) for each in counted])
            except LocateError:
                is_finite = False
            if not is_finite:
                found.append(None)
                continue
            receivers = _receivers(self.receivers, used, arrivals, wrong)
            position = replace(position, receivers=receivers, unexplained=unexplained)
            found.append(replace(position, termination=_termination(position, reason)))
        return found


def _components(outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """Parts of the posteriors, `(n, K, 6)`.

    Each is a weight, latitude and longitude, and a covariance in square metres: east, north, both.
    """
    positions, sigmas = (outputs[name].astype(np.float64)[:, None] for name in OUTPUTS)
    if {*MIXTURE_OUTPUTS} <= outputs.keys():
        weights, positions, covariances = (
            outputs[name].astype(np.float64) for name in MIXTURE_OUTPUTS
        )
        variances, both = covariances[..., :2], covariances[..., 2]
    else:
        weights, variances = np.ones((len(sigmas), 1)), sigmas**2
        both = sigmas.prod(axis=-1) * outputs.get(CORRELATIONS, np.zeros(1))[:, None]
    with np.errstate(invalid="ignore"):  # refused by `from_gaussians`
        limit = _LARGEST_CORRELATION * np.sqrt(variances.prod(axis=-1))
    columns = (weights[..., None], positions, variances, np.clip(both, -limit, limit)[..., None])
    return np.concatenate(columns, axis=-1)


def _candidate(
    weight: float, latitude_deg: float, longitude_deg: float, east: float, north: float, both: float
) -> Candidate:
    return Candidate(weight, latitude_deg, longitude_deg, ((east, both), (both, north)))


def _receivers(
    receivers: Sequence[Receiver],
    used: Sequence[bool],
    arrivals: Sequence[Sequence[float]] | None,
    impossible: Mapping[str, str],
) -> tuple[ReceiverResult, ...]:
    """Each receiver's part in an answer, from its channel of the inputs."""
    found = []
    for n, (receiver, is_used) in enumerate(zip(receivers, used, strict=True)):
        heard, _, sigma_us, snr_db, _ = arrivals[n] if arrivals else (0.0,) * 5
        reason = ""
        if not is_used:
            reason = "no recording, or a silent one"
        elif arrivals and not heard:
            why = impossible.get(receiver.name)
            reason = f"its level alone, {f'as {why}' if why else 'without an arrival time'}"
        figures = {"sigma_us": sigma_us, "snr_db": snr_db} if heard else {}
        found.append(ReceiverResult(name=receiver.name, used=is_used, reason=reason, **figures))
    return tuple(found)


def _termination(position: Position, no_arrivals: str) -> str:
    """The kind of answer, in a sentence."""
    sentence = "a model's answer from levels"
    unexplained = position.unexplained
    if any(receiver.sigma_us is not None for receiver in position.receivers):
        sentence += " and arrival times"
    elif unexplained is not None:
        sentence += f" alone: {no_arrivals or 'no arrival times are given'}"
    if unexplained is not None and unexplained > 1:
        sentence += (
            ", which are unlike those of its training: what geometry does not explain is "
            f"{unexplained:.1f} times the limit"
        )
    if position.candidates[0].probability < DOMINANT:
        sentence += "; no candidate dominates, and the ellipses are of the first alone"
    return sentence


def inputs_of(
    features: FeatureExtractor,
    arrivals: ArrivalExtractor | None,
    recordings: Recordings,
    most_samples: float = math.inf,
) -> Inputs:
    """A session's inputs, as in training.

    Recordings are cut to the time that they share. Arrival times are zero if fewer than two
    receivers have a clock, or the recordings are too short to compare.

    Raises:
        ExportError: The recordings are not a mapping, or have more than `most_samples`.
        FeatureError: A recording cannot be used, all are silent, or they share too little time.
    """
    if not isinstance(recordings, Mapping):
        raise ExportError(f"give recordings by receiver, not {type(recordings).__name__}")
    cut, refused = features.cut(recordings)
    rate_hz = features.config.sample_rate_hz
    n_samples = sum(
        round(one.iq.size * max(1, rate_hz / one.sample_rate_hz)) for one in cut.values()
    )
    if n_samples > most_samples:
        raise ExportError(
            f"the recordings have {n_samples} samples at {rate_hz:g} Hz, and the most are "
            f"{most_samples}; shorten them, or give the Predictor most_samples"
        )
    mel, unusable = features.each({n: (one.iq, one.sample_rate_hz) for n, one in cut.items()})
    for error in (*refused.values(), *unusable.values()):
        raise error
    if arrivals is None:
        return Inputs(mel, None)
    n_clocks = sum(one.clock_locked for one in cut.values())
    if n_clocks < 2:
        reason = f"{n_clocks} of {len(cut)} recordings have a locked clock, and a time takes two"
        return Inputs(mel, np.zeros(arrivals.shape, np.float32), reason)
    try:
        rows, _, _, impossible = arrivals.measure(cut)
    except FeatureError as error:
        return Inputs(mel, np.zeros(arrivals.shape, np.float32), str(error))
    reason = "" if rows.any() else "no two receivers hear one transmission"
    return Inputs(mel, rows, reason, impossible)
