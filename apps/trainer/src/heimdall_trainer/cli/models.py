"""`heimdall models`: what is registered, and which version is in production.

`heimdall models benchmark`: what each precision of a model costs and gains, in one run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import UsageError

__all__ = ["app", "benchmark"]


DEFAULTS = TrainingConfig()
NOWHERE_models_benchmark = Connections()


def benchmark(
    model: str,
    /,
    *,
    seconds: float = 5.0,
    batch_sizes: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (
        1,
        8,
        32,
    ),
    output: Path | None = None,
    config: TrainingConfig = DEFAULTS,
    connections: Connections = NOWHERE_models_benchmark,
) -> None:
    """Measure a model file at every precision: speed, size, memory, and error in metres.

    With --checkpoint beside PyTorch, with --compile beside torch.compile too. The split is that of
    the training where --seed, --split_by and the fractions are the same.

    Parameters
    ----------
    model
        A file or checkpoint of `heimdall train`, s3://bucket/key, or models:/name@alias. What is
        measured of one in a store is added to its sidecar and its run.
    seconds
        How long to measure at each batch size and number of threads.
    batch_sizes
        Sessions in one call.
    output
        Where the figures go as JSON; beside the model, or in the state directory, when unset.
    """
    from heimdall_trainer.connections import check_connections

    check_connections(connections)
    from heimdall_trainer.benchmark import benchmark_file

    lines = benchmark_file(
        model, config, connections, seconds=seconds, batch_sizes=batch_sizes, output=output
    )
    for line in lines:
        print(line, flush=True)


app = cyclopts.App(
    name="models", help="List, show, promote, roll back and delete models.", help_formatter="plain"
)
app.command(benchmark)
NOWHERE = Connections()
MODEL_NAME = TrainingConfig().model_name


@app.command(name="list")
def list_versions(*, model_name: str = MODEL_NAME, connections: Connections = NOWHERE) -> None:
    """List the versions of a registered model, newest first.

    Parameters
    ----------
    model_name
        Name in the MLflow registry.
    """
    from heimdall_export.registry.registry import list_versions as registered

    for found in registered(connections.tracking_uri(), model_name):
        aliases = ", ".join(found.aliases) or ("being deleted" if found.is_being_deleted else "-")
        print(f"version {found.version:>4s}  {aliases:20s}  run {found.run_id}")


@app.command
def show(
    version: str, /, *, model_name: str = MODEL_NAME, connections: Connections = NOWHERE
) -> None:
    """Show what a version is worth, where it came from, and what was done to production.

    Parameters
    ----------
    version
        Number of the version, as `heimdall models list` shows it.
    model_name
        Name in the MLflow registry.
    """
    from heimdall_export.registry.registry import find_version, moves

    uri = connections.tracking_uri()
    found = find_version(uri, model_name, version)
    print(f"version {found.version} of {model_name} ({', '.join(found.aliases) or 'no alias'})")
    print(f"run {found.run_id}")
    for name, value in sorted(found.tags.items()):
        print(f"{name:20s}  {value}")
    for move in moves(uri, model_name):
        print(f"{move.at}  {move.by} {move.action}: version {move.version}  {move.why}")


@app.command
def promote(
    version: str,
    /,
    *,
    reason: str = "",
    force: Annotated[bool, Parameter(negative="")] = False,
    model_name: str = MODEL_NAME,
    connections: Connections = NOWHERE,
) -> None:
    """Make a version the one in production, unless it is worse than the present one.

    Parameters
    ----------
    version
        Number of the version, as `heimdall models list` shows it.
    reason
        Why, for the record.
    force
        Also a version without test metrics, worse ones, or ones of other sessions.
    model_name
        Name in the MLflow registry.
    """
    from heimdall_export.registry.registry import promote as move

    move(connections.tracking_uri(), model_name, version, reason=reason, force=force)
    print(f"version {version} of {model_name} is in production")


@app.command
def rollback(
    *, reason: str = "", model_name: str = MODEL_NAME, connections: Connections = NOWHERE
) -> None:
    """Put the version before the present one back into production.

    Parameters
    ----------
    reason
        Why, for the record.
    model_name
        Name in the MLflow registry.
    """
    from heimdall_export.registry.registry import rollback as back

    version = back(connections.tracking_uri(), model_name, reason=reason)
    print(f"version {version} of {model_name} is in production again")


@app.command
def delete(
    version: str,
    /,
    *,
    yes: Annotated[bool, Parameter(negative="")] = False,
    model_name: str = MODEL_NAME,
    connections: Connections = NOWHERE,
) -> None:
    """Delete a version, its file in the object store, and its run's artifacts.

    The run stays, with its parameters and metrics. Interrupted, the same command goes on.

    Parameters
    ----------
    version
        Number of the version, as `heimdall models list` shows it.
    yes
        Do not ask.
    model_name
        Name in the MLflow registry.
    """
    from heimdall_export.registry.deletion import delete_version, require_deletable

    uri = connections.tracking_uri()
    objects = connections.need_s3().client()
    require_deletable(uri, model_name, version)
    if not yes:
        _ask(f"delete version {version} of {model_name}, its file and its run's artifacts?")
    gone = delete_version(
        uri, model_name, version, objects=objects, artifact_store=connections.artifact_store()
    )
    print("\n".join(f"deleted {address}" for address in gone))


def _ask(question: str) -> None:
    """Go on if who is at the keyboard says so.

    Raises:
        UsageError: Nobody is there, or the answer is another one than yes.
    """
    import sys

    if not sys.stdin.isatty():
        raise UsageError(f"{question} nobody is there to ask; give --yes")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was deleted")
