"""From the catalogue to the three parts of a training run, and what was left out of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heimdall_data import Exclusion, HeimdallDataset, Split, Station
    from heimdall_data.dataset import UnusableRecording
    from heimdall_features import FeatureConfig, NormalizationStats

    from heimdall_models import Region

__all__ = ["TrainingData"]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a run trains, chooses and tests on, and how features and plane are defined."""

    receivers: tuple[Station, ...]
    """In channel order."""
    features: FeatureConfig
    region: Region
    stats: NormalizationStats
    """Of the training part alone."""
    train: HeimdallDataset
    validation: HeimdallDataset
    test: HeimdallDataset
    split: Split
    exclusions: tuple[Exclusion, ...]
    """Sessions that the catalogue approves of and that cannot be used."""
    unusable: tuple[UnusableRecording, ...]
    """Recordings left out of sessions that are used for the sake of their other receivers."""
    not_used: Mapping[str, int]
    """Sessions that the catalogue's own rules leave out, counted by reason."""
