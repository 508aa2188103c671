"""What MLflow is told of the data of a run: each side of the split, and where it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heimdall_trainer.provenance import dataset_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from heimdall_data import Session
    from heimdall_export.tracked_dataset import TrackedDataset

    from heimdall_trainer.connections import Connections
    from heimdall_trainer.training_data import TrainingData

__all__ = ["run_datasets"]

CONTEXTS: dict[str, Literal["training", "validation", "testing"]] = {
    "train": "training",
    "validation": "validation",
    "test": "testing",
}


def run_datasets(data: TrainingData, connections: Connections) -> Iterator[TrackedDataset]:
    """The sessions of each side, by their ids, so that a run can be repeated on the same."""
    from heimdall_export.tracked_dataset import TrackedDataset

    for side, context in CONTEXTS.items():
        sessions: tuple[Session, ...] = getattr(data, side).sessions
        yield TrackedDataset(
            name=f"heimdall-sessions-{side}",
            digest=dataset_fingerprint({side: sessions}),
            context=context,
            shape=data.features.shape,
            source={
                "recordings": f"s3://{connections.raw_iq_bucket}",
                "features.fingerprint": data.features.fingerprint,
            },
            profile={
                "n_sessions": len(sessions),
                "n_sources": len({session.source_id for session in sessions}),
                "sessions": sorted(session.id for session in sessions),
            },
        )
