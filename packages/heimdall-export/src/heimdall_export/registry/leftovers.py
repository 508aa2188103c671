"""What killed processes left in MLflow and in the object store: found, told and mended.

Nothing is mended that may be in use. A run counts as killed if its newest claim says so
(`heimdall_export.tracking.claims`), a model file as forgotten if its run was killed or failed
before it registered the file and no version of any model names it, and so does a LoggedModel. What
cannot be known here is told alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from heimdall_features.outside_json import parsed_json

from heimdall_export.contract import EXPERIMENT, MODEL_FOLDER, REGISTERED_MODEL
from heimdall_export.object_store.store import chunks_of, store_errors
from heimdall_export.registry.deletion import delete_objects
from heimdall_export.registry.listing import list_versions
from heimdall_export.registry.logged_model import delete_logged_model, logged_models, uses
from heimdall_export.registry.production import Production
from heimdall_export.registry.registry import search_versions
from heimdall_export.tracking.claims import abandoned, is_claimed
from heimdall_export.tracking.client import mlflow_errors, open_client
from heimdall_export.tracking.run import CLAIM_TAG, end_killed_runs, is_killed

# The client comes first: it sets the environment before MLflow is imported.
from mlflow.entities import LoggedModelStatus  # isort: skip
from mlflow.exceptions import MlflowException  # isort: skip
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS  # isort: skip

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from minio import Minio
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from heimdall_export.object_store.store import ArtifactStore

_UNFINISHED = ("KILLED", "FAILED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that a killed process left."""

    kind: Literal["run", "production", "version", "logged model", "model file"]
    name: str
    text: str
    """What is wrong, and what to do where it is not mended."""
    mend: Callable[[], object] | None = None
    """Mends it; None where that is for a person to decide."""


def find_leftovers(
    tracking_uri: str,
    claims: str | os.PathLike[str],
    *,
    objects: Minio | None = None,
    bucket: str = "",
    artifact_store: ArtifactStore | None = None,
    experiment_name: str = EXPERIMENT,
    model_name: str = REGISTERED_MODEL,
) -> Iterator[Leftover]:
    """Yield what killed processes left; what is mended before the next is asked for, stays out.

    Args:
        tracking_uri: Address of the tracking server and registry.
        claims: Folder in which the runs of this machine claim to live, `outbox` of `MLflowTracker`.
        objects: Object store of the model files; they are not looked at when None.
        bucket: Their bucket.
        artifact_store: The S3 of `s3://` artifacts; None leaves that to MLflow's environment.
        experiment_name: Experiment whose runs and LoggedModels are looked at.
        model_name: Registered model whose versions and production are looked at.

    Raises:
        ExportError: MLflow or the object store refuses, or is out of reach.
    """
    client = open_client(tracking_uri)
    with mlflow_errors(f"look for experiment {experiment_name!r}"):
        experiment = client.get_experiment_by_name(experiment_name)
    experiments = [experiment.experiment_id] if experiment else []
    yield from _runs(client, claims, experiments)
    production = Production(client, model_name)
    seen = production.read()
    for text in production.disagreements(seen):
        yield Leftover(
            kind="production", name=model_name, text=text, mend=partial(production.mend, seen)
        )
    yield from _versions(client, model_name)
    if experiments:
        discard = partial(delete_logged_model, client, tracking_uri, store=artifact_store)
        yield from _logged_models(client, claims, experiments, discard)
    if objects is not None:
        yield from _files(client, claims, objects, bucket)


def _runs(
    client: MlflowClient, claims: str | os.PathLike[str], experiments: list[str]
) -> Iterator[Leftover]:
    with abandoned(claims) as found:
        pass  # Held no longer than to look, so that a run can be resumed meanwhile.
    runs = {run_id: _run(client, run_id) for run_id in found}
    killed = [run_id for run_id, run in runs.items() if run and is_killed(run, found[run_id])]
    mend = partial(end_killed_runs, client, claims)
    for run_id in killed:
        text = f"run {run_id} is RUNNING, but its process was killed"
        yield Leftover(kind="run", name=run_id, text=text, mend=mend)
    running: Iterable[Run] = ()
    if experiments:
        with mlflow_errors("list the runs"):
            running = client.search_runs(
                experiments, "attributes.status = 'RUNNING'", max_results=1000
            )
    for run in running:
        run_id = run.info.run_id
        if run_id in killed or is_claimed(claims, run_id):
            continue
        where = run.data.tags.get("heimdall.host", "another machine or by an earlier heimdall")
        text = (
            f"run {run_id} is RUNNING and was begun or resumed on {where}; only there, with its "
            "state directory, can be told whether it lives: run `heimdall doctor` there, or end "
            "the run in MLflow if you know that it died"
        )
        yield Leftover(kind="run", name=run_id, text=text)


def _versions(client: MlflowClient, model_name: str) -> Iterator[Leftover]:
    for found in list_versions(client, model_name):
        number, text = found.version, ""
        if found.is_being_deleted:
            text = f"`heimdall models delete {number}`, which was interrupted, must be repeated"
        elif found.tags.get("stage") == "Staging":
            run = _run(client, found.run_id)
            if run is not None and run.info.status in _UNFINISHED:
                text = (
                    f"its run {found.run_id} ended as {run.info.status} after it had registered it "
                    "and may have no report; evaluate it, or delete it"
                )
        if text:
            name = f"models:/{model_name}/{number}"
            yield Leftover(kind="version", name=name, text=f"version {number}: {text}")


def _logged_models(
    client: MlflowClient,
    claims: str | os.PathLike[str],
    experiments: list[str],
    discard: Callable[[str], object],
) -> Iterator[Leftover]:
    """LoggedModels of our runs that no version uses; looked at in the order of `_files`."""
    with mlflow_errors("list the LoggedModels"):
        found = logged_models(client, experiments)
    runs = {one.model_id: _run(client, one.source_run_id or "") for one in found}
    with mlflow_errors("list all versions"):
        versions = search_versions(client)
    for one in found:
        run = runs[one.model_id]
        if run is None or CLAIM_TAG not in run.data.tags:
            continue  # of another program
        if any(uses(version, one.model_id) for version in versions):
            continue
        is_unfinished = run.info.status in _UNFINISHED or _was_killed(claims, run)
        if run.info.status == "RUNNING" and not is_unfinished:
            continue
        text, mend = f"no version uses the LoggedModel {one.model_id}", None
        if MLFLOW_MODEL_VERSIONS in one.tags:
            text += ", and its version was deleted in MLflow; delete it there if nobody uses it"
        elif is_unfinished or one.status != LoggedModelStatus.READY:
            text += f", which its run {run.info.run_id} began and did not register"
            mend = partial(discard, one.model_id)
        else:
            text += f", and its run {run.info.run_id} ended; delete it in MLflow if nobody uses it"
        yield Leftover(kind="logged model", name=one.model_id, text=text, mend=mend)


def _files(
    client: MlflowClient, claims: str | os.PathLike[str], objects: Minio, bucket: str
) -> Iterator[Leftover]:
    """Model files that no version names.

    The runs are looked at after the files, and the versions after the runs: a file that a run was
    about to register is registered by then, or the run is still going on.
    """
    with store_errors(f"list the models in bucket {bucket!r}"):
        found = objects.list_objects(bucket, f"{MODEL_FOLDER}/", recursive=True)
        stems = {str(each.object_name).rpartition(".")[0] for each in found}
    addresses = {f"s3://{bucket}/{stem}.onnx": f"{stem}.json" for stem in stems}
    suspects = {}
    for uri in addresses.keys() - _named(client):
        run_id = _run_id_of(objects, bucket, addresses[uri])
        suspects[uri] = run_id, _run(client, run_id)
    for uri in sorted(suspects.keys() - _named(client)):
        run_id, run = suspects[uri]
        text, mend = f"no version names {uri}", None
        if run is None:
            text += f", and this MLflow does not know its run {run_id!r}; is it of another one?"
        elif run.info.status not in _UNFINISHED and not _was_killed(claims, run):
            if run.info.status == "RUNNING":
                continue
            text += (
                f", and its run {run_id} ended as {run.info.status}; delete it if nobody uses it"
            )
        elif run.data.tags.get("onnx_uri") == uri:
            text += f", but its run {run_id} registered it; delete it if nobody uses it"
        else:
            text += f", and its run {run_id} was killed or failed before it registered it"
            mend = partial(delete_objects, objects, uri)
        yield Leftover(kind="model file", name=uri, text=text, mend=mend)


def _named(client: MlflowClient) -> set[str]:
    """Addresses of the files of all versions of all models."""
    with mlflow_errors("list all versions"):
        return {one.tags.get("onnx_uri", "") for one in search_versions(client)}


def _run_id_of(objects: Minio, bucket: str, sidecar: str) -> str:
    """The run that a sidecar names; empty if there is none."""
    from minio.error import S3Error

    with store_errors(f"read {sidecar} in bucket {bucket!r}"):
        try:
            entries = parsed_json(b"".join(chunks_of(objects, bucket, sidecar)))
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise
            return ""
        except ValueError:
            return ""
    return str(entries.get("run_id", "")) if isinstance(entries, dict) else ""


def _run(client: MlflowClient, run_id: str) -> Run | None:
    if not run_id:
        return None
    with mlflow_errors(f"look for run {run_id}"):
        try:
            return client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise


def _was_killed(claims: str | os.PathLike[str], run: Run) -> bool:
    with abandoned(claims) as found:
        ended = found.get(run.info.run_id)
        return ended is not None and is_killed(run, ended)
