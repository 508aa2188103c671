"""`heimdall models`: registered versions, and the one in production."""

from __future__ import annotations

import sys
from dataclasses import asdict
from json import dumps
from typing import Annotated

from cyclopts import Parameter

from heimdall_trainer.cli.benchmark import benchmark
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import UsageError, one_line
from heimdall_trainer.flags import Json, Switch, command_group

app = command_group("models")
app.command(benchmark)
NOWHERE = Connections()
MODEL_NAME = TrainingConfig().model_name
ModelName = Annotated[str, Parameter(help="Name in the MLflow registry.")]
Version = Annotated[
    str, Parameter(help="Number of the version, as `heimdall models list` shows it.")
]
Reason = Annotated[str, Parameter(help="Why, for the record.")]


@app.command(name="list")
def list_versions(
    *, model_name: ModelName = MODEL_NAME, json: Json = False, connections: Connections = NOWHERE
) -> None:
    """List the versions of a registered model, newest first."""
    from heimdall_export.registry import listing
    from heimdall_features.addresses import shown_address

    versions = listing.list_versions(connections.tracking_uri(), model_name)
    if json:
        print(dumps([asdict(each) for each in versions], indent=2))
        return
    where = shown_address(connections.tracking_uri())
    print(f"{model_name} {'in' if versions else 'has no version in'} {where}")
    for found in versions:
        aliases = ", ".join(found.aliases) or ("being deleted" if found.is_being_deleted else "-")
        print(f"version {found.version:>4s}  {aliases:20s}  run {found.run_id}")


@app.command
def show(
    version: Version,
    /,
    *,
    model_name: ModelName = MODEL_NAME,
    json: Json = False,
    connections: Connections = NOWHERE,
) -> None:
    """Show what a version is worth, where it came from, and what was done to production."""
    from heimdall_evaluation.quantities import metric_text
    from heimdall_export.errors import ExportError
    from heimdall_export.registry.listing import find_version
    from heimdall_export.registry.promotion import METRICS_TAG, metrics_of, moves

    uri = connections.tracking_uri()
    found = find_version(uri, model_name, version)
    if json:
        made = [asdict(move) for move in moves(uri, model_name)]
        print(dumps(asdict(found) | {"moves": made}, indent=2))
        return
    try:
        metrics = metrics_of(found)
    except ExportError:  # The tag is of another program, and shown as any other.
        metrics = {}
    print(f"version {found.version} of {model_name} ({', '.join(found.aliases) or 'no alias'})")
    print(f"run {found.run_id}")
    for name, value in sorted(found.tags.items()):
        if name != METRICS_TAG or not metrics:
            print(f"{one_line(name):22s}  {one_line(value)}")
    for name, figure in sorted(metrics.items()):
        text = metric_text(name, figure, f"{figure:,.3g}").replace("\N{NO-BREAK SPACE}", " ")
        print(f"{one_line(name):22s}  {text}")
    for move in moves(uri, model_name):
        who = one_line(f"{move.at}  {move.by} {move.action}: version {move.version}")
        print(f"{who}  {one_line(move.why)}")


@app.command
def promote(
    version: Version,
    /,
    *,
    reason: Reason = "",
    force: Switch = False,
    model_name: ModelName = MODEL_NAME,
    connections: Connections = NOWHERE,
) -> None:
    """Make a version the one in production, unless it is worse than the present one.

    Parameters
    ----------
    force
        Also a version without test metrics, worse ones, or ones of other sessions.
    """
    from heimdall_export.registry import promotion

    promotion.promote(connections.tracking_uri(), model_name, version, reason=reason, force=force)
    print(f"version {version} of {model_name} is in production")


@app.command
def rollback(
    *, reason: Reason = "", model_name: ModelName = MODEL_NAME, connections: Connections = NOWHERE
) -> None:
    """Put the version before the present one back into production."""
    from heimdall_export.registry import promotion

    version = promotion.rollback(connections.tracking_uri(), model_name, reason=reason)
    print(f"version {version} of {model_name} is in production again")


@app.command
def delete(
    version: Version,
    /,
    *,
    yes: Switch = False,
    model_name: ModelName = MODEL_NAME,
    connections: Connections = NOWHERE,
) -> None:
    """Delete a version, its file in the object store, and its run's artifacts.

    The run stays, with its parameters and metrics. Interrupted, the same command goes on.

    Parameters
    ----------
    yes
        Do not ask.
    """
    from heimdall_export.registry.deletion import delete_version, require_deletable

    uri = connections.tracking_uri()
    objects = connections.need_s3().client()
    require_deletable(uri, model_name, version)
    if not yes:
        question = f"delete version {version} of {model_name}, its file and its run's artifacts?"
        if not sys.stdin.isatty():
            raise UsageError(f"{question} nobody is there to ask; give --yes")
        if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
            raise UsageError("nothing was deleted")
    deleted = delete_version(
        uri, model_name, version, objects=objects, artifact_store=connections.artifact_store()
    )
    print("\n".join(f"deleted {address}" for address in deleted))
