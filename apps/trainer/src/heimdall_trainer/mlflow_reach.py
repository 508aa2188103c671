"""Whether MLflow would take a run, asked without telling it of one.

MLflow's own client makes tables where there are none, so a database is asked directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    from heimdall_trainer.connections import Connections

__all__ = ["Experiment", "find_experiment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What MLflow has of an experiment."""

    known: bool
    """False where the first run will make it."""
    artifact_root: str


def find_experiment(name: str, connections: Connections) -> Experiment:
    """The experiment that a run would join.

    Raises:
        TrainerError: It was deleted.
        ExportError: MLflow is out of reach, or refuses.
    """
    uri = connections.tracking_uri()
    found = _in_database(uri, name) if uri.startswith(("sqlite", "postgres")) else _asked(uri, name)
    if found is None:
        return Experiment(known=False, artifact_root=connections.artifact_root())
    stage, root = found
    if stage == "deleted":
        raise TrainerError(
            f"experiment {name!r} was deleted in MLflow: restore it, or choose another "
            "--experiment_name"
        )
    return Experiment(known=True, artifact_root=root)


def _asked(uri: str, name: str) -> tuple[str, str] | None:
    from heimdall_export.mlflow_client import open_client, told_plainly

    client = open_client(uri)
    with told_plainly(f"look for experiment {name!r}"):
        found = client.get_experiment_by_name(name)
    return None if found is None else (str(found.lifecycle_stage), str(found.artifact_location))


def _in_database(uri: str, name: str) -> tuple[str, str] | None:
    from heimdall_export.mlflow_client import told_plainly, with_driver
    from sqlalchemy import create_engine, inspect, make_url, text

    url = make_url(with_driver(uri))
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return None
    engine = create_engine(url)
    try:
        with told_plainly(f"look for experiment {name!r}"), engine.connect() as connection:
            if not inspect(connection).has_table("experiments"):
                return None
            asked = "SELECT lifecycle_stage, artifact_location FROM experiments WHERE name = :name"
            row = connection.execute(text(asked), {"name": name}).first()
    finally:
        engine.dispose()
    return None if row is None else (str(row[0]), str(row[1]))
