"""`heimdall doctor`: what killed processes left behind, listed or mended."""

from __future__ import annotations

from json import dumps
from typing import Annotated

from cyclopts import Parameter

from heimdall_trainer.cli.models import MODEL_NAME, ModelName
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import one_line
from heimdall_trainer.flags import Switch

NOWHERE = Connections()
EXPERIMENT = TrainingConfig().experiment_name


def doctor(
    *,
    fix: Switch = False,
    json: Switch = False,
    experiment_name: Annotated[str, Parameter(help="Experiment of the runs.")] = EXPERIMENT,
    model_name: ModelName = MODEL_NAME,
    connections: Connections = NOWHERE,
) -> None:
    """List what killed runs left: in MLflow, among the model files, and in temporary folders.

    A run counts as killed only if its process was started with this state directory and is gone.

    Parameters
    ----------
    fix
        Also mend what nobody can be using.
    json
        Print a list of JSON objects.
    """
    from heimdall_export.registry.leftovers import find_leftovers
    from heimdall_export.temporary import abandoned_folders, remove_abandoned

    s3 = connections.need_s3() if connections.s3_endpoint_url else None
    found: list[tuple[str, str, str, str]] = []
    for leftover in find_leftovers(
        connections.tracking_uri(),
        connections.outbox(),
        objects=None if s3 is None else s3.client(),
        bucket="" if s3 is None else s3.models_bucket,
        artifact_store=None if s3 is None else connections.artifact_store(),
        experiment_name=experiment_name,
        model_name=model_name,
    ):
        state = "told"
        if leftover.mend is not None:
            state = "mended" if fix else "mendable"
            if fix:
                leftover.mend()
        found.append((leftover.kind, leftover.name, state, leftover.text))
    for folder in remove_abandoned() if fix else abandoned_folders():
        state, text = "mended" if fix else "mendable", f"{folder} is of a process that was killed"
        found.append(("temporary folder", str(folder), state, text))
    if json:
        names = ("kind", "name", "state", "text")
        print(dumps([dict(zip(names, each, strict=True)) for each in found], indent=2))
        return
    for kind, _, state, text in found:
        note = {"mended": "mended: ", "mendable": "--fix mends: "}.get(state, "")
        print(f"{kind:16s}  {note}{one_line(text)}")
    if s3 is None:
        print("the model files were not looked at: no object store is configured")
    if not found:
        print("nothing was left behind")
