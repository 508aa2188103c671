"""Sessions to evaluate a model on.

`Dataset` is a protocol: `heimdall_data.HeimdallDataset` satisfies it, and so does
`RecordedSessions`, which computes features from recordings in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NotRequired, Protocol, TypedDict

import numpy as np
from heimdall_export.serving.predictor import inputs_of
from heimdall_features import ArrivalExtractor, FeatureExtractor
from heimdall_features.names import composed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from heimdall_features import ClockedRecording
    from numpy.typing import NDArray

    Recordings = Mapping[str, tuple[NDArray[Any], float] | ClockedRecording]
    """By receiver: IQ samples and their true rate in hertz, or these with a clock."""


class Sample(TypedDict):
    """One session as a model sees it."""

    features: NDArray[np.float32]
    """`(receivers, n_mels, n_frames)`, dB relative to full scale, before normalisation."""
    position_deg: NDArray[np.float64]
    """`(2,)`: latitude and longitude of the transmitter."""
    present: NDArray[np.bool_]
    """`(receivers,)`: false where the channel holds no recording."""
    arrivals: NotRequired[NDArray[np.float32]]
    """`(receivers, 5)`: times of arrival, where the dataset measures them."""


class Measurement(Protocol):
    """Station and signal-to-noise ratio of one recording."""

    @property
    def station(self) -> str:
        """Name of the receiver."""

    @property
    def snr_db(self) -> float | None:
        """Signal-to-noise ratio, if it is known."""


class Session(Protocol):
    """One transmission from a known place."""

    @property
    def id(self) -> str:
        """Unique id."""

    @property
    def source_name(self) -> str:
        """Name of the transmitter; sessions of one transmitter are not independent."""

    @property
    def position_deg(self) -> tuple[float, float]:
        """Latitude and longitude of the transmitter."""

    @property
    def measurements(self) -> Sequence[Measurement]:
        """Its recordings; may be empty where no signal-to-noise ratio is known."""


class Dataset(Protocol):
    """Sessions with their features."""

    @property
    def sessions(self) -> Sequence[Session]:
        """The sessions, in the order of the samples."""

    @property
    def arrivals(self) -> object | None:
        """None if the samples have no times of arrival."""

    def __len__(self) -> int:
        """Number of sessions."""

    def __getitem__(self, index: int) -> Sample:
        """The sample of a session."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedSession:
    """A session with its recordings in memory."""

    id: str
    """Identifier, unique in the dataset."""
    source_name: str
    """Name of the transmitter; sessions of one are judged as one group."""
    position_deg: tuple[float, float]
    """True latitude and longitude."""
    recordings: Recordings
    """Samples and rate by receiver."""
    measurements: tuple[Measurement, ...] = ()
    """Signal to noise as the backend measured it, by receiver."""


class RecordedSessions:
    """A `Dataset` of recordings in memory, with the features that a model file asks for.

    Args:
        sessions: Recordings whose receivers are the model's, or some of them.
        metadata: The model file's, such as `read_model(path).metadata`.

    Raises:
        FeatureError: This version cannot compute the model's features.
    """

    def __init__(self, sessions: Sequence[RecordedSession], metadata: Mapping[str, str]) -> None:
        self.sessions = tuple(sessions)
        self._extract = FeatureExtractor.from_metadata(metadata)
        self.arrivals = ArrivalExtractor.from_metadata(metadata)

    def __len__(self) -> int:
        return len(self.sessions)

    def __getitem__(self, index: int) -> Sample:
        """The sample; raises ExportError or FeatureError if a recording cannot be used."""
        session = self.sessions[index]
        inputs = inputs_of(self._extract, self.arrivals, session.recordings)
        names = [*map(composed, session.recordings)]
        sample = Sample(
            features=inputs.features,
            position_deg=np.array(session.position_deg, np.float64),
            present=np.array([composed(n) in names for n in self._extract.config.receivers]),
        )
        if inputs.arrivals is not None:
            sample["arrivals"] = inputs.arrivals
        return sample

    def recordings(self) -> Iterator[tuple[str, Recordings]]:
        """Session ids with recordings, as `evaluate_model` takes them: cut to their common time.

        Raises:
            FeatureError: A recording cannot be used, or the recordings have no time in common.
        """
        for session in self.sessions:
            cut, refused = self._extract.cut(session.recordings)
            for error in refused.values():
                raise error
            yield session.id, cut
