"""`heimdall models`: what is registered, and which version is in production."""

from __future__ import annotations

import cyclopts

from heimdall_trainer.connections import Connections
from heimdall_trainer.training_config import TrainingConfig

__all__ = ["app"]

app = cyclopts.App(
    name="models", help="List, promote and roll back models.", help_formatter="plain"
)
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
    from heimdall_export.registry import list_versions as registered

    for found in registered(connections.tracking_uri(), model_name):
        aliases = ", ".join(found.aliases) or "-"
        print(f"version {found.version:>4s}  {aliases:20s}  run {found.run_id}")


@app.command
def promote(
    version: str, /, *, model_name: str = MODEL_NAME, connections: Connections = NOWHERE
) -> None:
    """Make a version the one in production.

    Parameters
    ----------
    version
        Number of the version, as `heimdall models list` shows it.
    model_name
        Name in the MLflow registry.
    """
    from heimdall_export.registry import promote as move

    move(connections.tracking_uri(), model_name, version)
    print(f"version {version} of {model_name} is in production")


@app.command
def rollback(*, model_name: str = MODEL_NAME, connections: Connections = NOWHERE) -> None:
    """Put the version before the present one back into production.

    Parameters
    ----------
    model_name
        Name in the MLflow registry.
    """
    from heimdall_export.registry import rollback as back

    version = back(connections.tracking_uri(), model_name)
    print(f"version {version} of {model_name} is in production again")
