"""Protocols of what training takes: sessions with features, a split, and where metrics go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from heimdall_models.region import Region
    from heimdall_models.timing.receivers import Station


class TrainedSession(Protocol):
    """A recording session with a known transmitter."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def position_deg(self) -> tuple[float, float]:
        """Latitude and longitude of the transmitter."""


class SessionDataset(Protocol):
    """A map-style dataset of sessions."""

    @property
    def sessions(self) -> Sequence[TrainedSession]:
        """The sessions, in the order of the indices."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """Arrays of one session: `features`, `position_deg`, perhaps `arrivals`; `session_id`."""

    def subset(self, sessions: Any, /) -> Self:  # noqa: ANN401 - some of its own sessions
        """A dataset of some of the sessions, as they were recorded: without augmentation."""

    def set_epoch(self, epoch: int, /) -> None:
        """Choose the epoch that the variation of the features is a function of."""


class TrainingParts(Protocol):
    """The sessions to train on and to choose by, and how features and plane are defined."""

    @property
    def receivers(self) -> Sequence[Station]:
        """The receivers, in channel order."""

    @property
    def region(self) -> Region:
        """Region of the positions."""

    @property
    def stats(self) -> Any:  # noqa: ANN401 - such as heimdall_features.NormalizationStats
        """`mean` and `std` of the training part's features in dB, `(receivers, bands)`."""

    @property
    def train(self) -> SessionDataset:
        """The sessions to learn from."""

    @property
    def validation(self) -> SessionDataset:
        """The sessions that choose the checkpoint."""


class RunMetrics(Protocol):
    """Logger of a run's metrics."""

    @property
    def run_id(self) -> str:
        """MLflow's id of the run."""

    @property
    def run_name(self) -> str:
        """Its name."""

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Keep metrics of a step."""
