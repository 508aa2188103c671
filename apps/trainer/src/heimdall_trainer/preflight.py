"""What can be found wrong in a second, before libraries load for ten and data for minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heimdall_data import Catalogue, ObjectStore

if TYPE_CHECKING:
    from heimdall_trainer.connections import Connections

__all__ = ["check_connections"]


def check_connections(connections: Connections) -> None:
    """Reach everything that a run needs, and make the models' bucket where there is none.

    Raises:
        TrainerError: Something is not configured, or the state directory cannot be written.
        CatalogueError: The catalogue cannot be read.
        StoreError: The object store refuses, is out of reach, or lacks the recordings' bucket.
    """
    connections.state_directory()
    database_url, s3 = connections.need_database(), connections.need_s3()
    with Catalogue(database_url) as catalogue:
        catalogue.stations()
    ObjectStore(s3, s3.raw_iq_bucket).require_bucket()
    ObjectStore(s3, s3.models_bucket).ensure_bucket()
