"""Which sessions a model was trained on, as its run in MLflow recorded them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from heimdall_export import ExportError

if TYPE_CHECKING:
    from heimdall_trainer.connections import Connections

__all__ = ["sessions_trained_on"]

_CONTEXT = "mlflow.data.context"


def sessions_trained_on(run_id: str, connections: Connections) -> frozenset[str] | None:
    """Ids of the sessions of a run's training part.

    None, with a warning, where that cannot be known: the model tells no run, its run is not in
    this MLflow, or it exported a checkpoint that another run had trained.
    """
    if not run_id:
        return None
    try:
        return _recorded(run_id, connections.tracking_uri())
    except ExportError as error:
        said = f"warning: nobody can say which sessions the model was trained on: {error}"
        print(said, file=sys.stderr, flush=True)
        return None


def _recorded(run_id: str, tracking_uri: str) -> frozenset[str] | None:
    from heimdall_export.mlflow_client import open_client, told_plainly

    with told_plainly(f"find run {run_id}"):
        run = open_client(tracking_uri).get_run(run_id)
    if run.inputs is None or run.data.params.get("export_only") == "True":
        return None
    for given in run.inputs.dataset_inputs:
        if any(tag.key == _CONTEXT and tag.value == "training" for tag in given.tags):
            return frozenset(json.loads(given.dataset.profile or "{}").get("sessions", ()))
    return None
